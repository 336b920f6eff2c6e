"""Walks through latent spaces, for every model that encodes and decodes."""

import math

import numpy as np
import pytest
import torch

import manykin as mk
from manykin import latentspace
from manykin.errors import InvalidInput, Unsupported
from manykin.spaces import Labels, Vector
from manykin.testing.oracles import CodingOracle, GanOracle, GaussianOracle


class Turned(CodingOracle):
    """Codes are the data."""

    def __init__(self, config=None, space=None, condition=None):
        super().__init__(config, space or Vector(2), condition)
        self.latent = 2
        self.basis, self.variances = torch.eye(2).double(), torch.tensor([1.0, 4.0]).double()


def test_a_straight_walk_and_an_arc():
    model = Turned()
    a, b = torch.tensor([[2.0, 0.0], [1.0, 1.0]]).double(), torch.tensor([[0.0, 2.0], [3.0, 3.0]]).double()
    line = latentspace.interpolate(model, a, b, 3, None, "linear")
    torch.testing.assert_close(line, torch.tensor([[2, 0], [1, 1], [0, 2], [1, 1], [2, 2], [3, 3]]).double())
    arc = latentspace.interpolate(model, a, b, 3, None, "spherical")
    root = math.sqrt(2)
    # The second pair points the same way, so that its arc is the straight line.
    torch.testing.assert_close(arc, torch.tensor([[2, 0], [root, root], [0, 2], [1, 1], [2, 2], [3, 3]]).double())
    opposite = latentspace.interpolate(model, a[:1], -a[:1], 3, None, "spherical")
    assert torch.isfinite(opposite).all()


def test_one_entry_of_the_latent_moves_and_the_others_stay():
    model, x = Turned(), torch.tensor([[5.0, 7.0], [1.0, 2.0]]).double()
    walk = latentspace.traverse(model, x, 1, torch.tensor([-1.0, 0.0, 1.0]).double(), None).view(2, 3, 2)
    torch.testing.assert_close(walk[:, :, 0], x[:, :1].expand(2, 3))
    torch.testing.assert_close(walk[:, :, 1], torch.tensor([-1.0, 0.0, 1.0]).double().expand(2, 3))
    wide = latentspace.traverse(model, x[:1], 1, None, None)[:, 1]
    assert len(wide) == 7
    assert float(wide[-1] - wide[0]) == pytest.approx(6 * 2, rel=0.15)


@pytest.mark.parametrize("name", ["vae", "autoencoder", "realnvp"])
def test_models_walk_in_the_form_of_the_data(name):
    x = np.random.default_rng(0).normal(size=(200, 2)) * [1.0, 5.0] + 3
    model = mk.fit(name, x, preset="tiny", max_steps=20)
    walk = model.interpolate(x[:4], x[4:8], steps=5, path="spherical")
    assert isinstance(walk, np.ndarray)
    assert walk.shape == (20, 2)
    ends = model.decode(model.encode(x[:4]).mean)
    np.testing.assert_allclose(walk[::5], ends, rtol=1e-4, atol=1e-4)
    assert model.traverse(x[:3], 0, values=[-1, 0, 1]).shape == (9, 2)


def test_conditions_are_repeated_along_a_walk():
    model = mk.fit("vae", "digits", condition="label", preset="tiny", max_steps=10)
    pictures = model.sample(2, condition=[3, 8], seed=0)
    walk = model.interpolate(pictures, pictures[::-1], steps=3, condition=[3, 8])
    assert walk.shape == (6, 8, 8)
    assert model.traverse(pictures[:1], 2, values=[0.0, 1.0], condition=5).shape == (2, 8, 8)


def test_models_that_cannot_are_named():
    x = torch.zeros(3, 2).double()
    for model in (GanOracle(None, Vector(2)), GaussianOracle(None, Vector(2), Labels(2))):
        if not hasattr(model, "encode"):
            with pytest.raises(Unsupported, match="encodes and decodes"):
                latentspace.traverse(model, x, 0, None, None)
    with pytest.raises(Unsupported, match="gaussian-mixture|GaussianMixture"):
        mk.fit("gaussian-mixture", x.numpy() + np.random.default_rng(0).normal(size=(3, 2)), preset="tiny").interpolate(x.numpy(), x.numpy())


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m, x: latentspace.interpolate(m, x, x, 1, None, "linear"), "steps = 1"),
        (lambda m, x: latentspace.interpolate(m, x, x, 3, None, "cubic"), "path 'cubic'"),
        (lambda m, x: latentspace.interpolate(m, x, x[:1], 3, None, "linear"), "2 examples to start from and 1"),
        (lambda m, x: latentspace.traverse(m, x, 2, None, None), "unit = 2"),
        (lambda m, x: latentspace.traverse(m, x, 0, torch.tensor([float("nan")]), None), "NaN"),
    ],
)
def test_impossible_walks_are_refused(call, words):
    with pytest.raises(InvalidInput) as caught:
        call(Turned(), torch.zeros(2, 2).double())
    assert words in str(caught.value)
