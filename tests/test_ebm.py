"""The energy-based model: what it learns, how its chains run, what its numbers are, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch

import manykin as mk
from manykin.cli.run import run
from manykin.contract import Batch
from manykin.errors import InvalidInput, ManykinWarning, TrainingFailed, Unsupported
from manykin.mcmc.ais import LogPartition
from manykin.mcmc.hmc import HMC
from manykin.mcmc.langevin import Langevin
from manykin.models.energy.ebm import EBM, EBMConfig
from manykin.models.energy.quadrature import log_normaliser
from manykin.random import seeded
from manykin.spaces import Image, Labels, Vector

SMALL = {"hidden": (48, 48), "steps": 5, "buffer": 1024, "sample_steps": 100}
FAST = {"batch_size": 256, "lr": 5e-3, "schedule": "cosine", "ema": 0.98, "warmup": 10}


def well(n=2000, seed=0):
    """Two narrow modes at -1 and 2 on a line, the right one twice as heavy."""
    g = np.random.default_rng(seed)
    right = g.random(n) < 2 / 3
    return (np.where(right, 2.0, -1.0) + 0.3 * g.normal(size=n))[:, None]


def blobs(n=900, seed=0):
    """Three classes of round points around the corners of a triangle."""
    g = np.random.default_rng(seed)
    y = g.integers(3, size=n)
    angle = 2 * np.pi * y / 3
    return 3 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.5 * g.normal(size=(n, 2)), y


def squares(n=256, height=5, width=7, seed=0):
    """Dark pictures with a bright square of 3 x 3 at one of the places, labelled by the half that it begins in."""
    g = np.random.default_rng(seed)
    x, left = np.zeros((n, height, width), dtype=np.uint8), g.integers(width - 2, size=n)
    for row, column in enumerate(left):
        top = g.integers(height - 2)
        x[row, top : top + 3, column : column + 3] = 255
    return x, (left > (width - 3) / 2).astype(int)


@pytest.fixture(scope="module")
def line():
    return mk.fit("ebm", well(), preset="tiny", options={**SMALL, "waves": 2}, train=FAST, max_steps=180, seed=0)


@pytest.fixture(scope="module")
def labelled():
    x, y = blobs()
    return mk.fit("ebm", x, condition=y, preset="tiny", options=SMALL, train=FAST, max_steps=100, seed=0)


@pytest.fixture(scope="module")
def wide():
    g = np.random.default_rng(0)
    x = g.normal(size=(800, 5)) @ g.normal(size=(5, 5)) + 3
    return mk.fit("ebm", x, preset="tiny", options={**SMALL, "sample_steps": 60}, train=FAST, max_steps=60, seed=0)


@pytest.fixture(scope="module")
def pictured():
    x, y = squares()
    options = {"network": "conv", "widths": (12, 16), "hidden": (32, 16), "steps": 5, "buffer": 256, "sample_steps": 100, "leap_every": 0}
    return mk.fit("ebm", x, condition=y, preset="tiny", options=options, train={**FAST, "batch_size": 64}, max_steps=80, seed=0)


def test_energy_is_least_at_the_modes(line):
    x = np.linspace(-3, 4, 701)[:, None]
    density = np.exp(line.log_prob(x))
    assert density.sum() * 0.01 == pytest.approx(1, abs=0.02)
    peaks = x[1:-1][(density[1:-1] > density[:-2]) & (density[1:-1] > density[2:]) & (density[1:-1] > 0.1)][:, 0]
    assert len(peaks) == 2
    assert abs(peaks[0] + 1) < 0.2
    assert abs(peaks[1] - 2) < 0.2
    between = density[(x[:, 0] > 0.2) & (x[:, 0] < 0.8)].max()
    assert between < 0.15 * density.max()


def test_density_is_near_the_truth_and_samples_follow_it(line):
    x = well(3000, seed=5)
    parts = np.stack([np.log(1 / 3) - 0.5 * ((x[:, 0] + 1) / 0.3) ** 2, np.log(2 / 3) - 0.5 * ((x[:, 0] - 2) / 0.3) ** 2])
    exact = np.logaddexp(*parts) - np.log(0.3 * np.sqrt(2 * np.pi))
    assert line.density.strength == "estimate"
    assert 0 < (exact - line.log_prob(x)).mean() < 0.12
    for sampler in (None, HMC(steps=20), Langevin(steps=60, chains="buffer")):
        drawn = line.sample(1000, seed=1, sampler=sampler)[:, 0]
        assert np.mean(drawn > 0.5) == pytest.approx(2 / 3, abs=0.08)


def test_annealed_importance_sampling_agrees_with_the_grid(line):
    found = line.model.log_partition(temperatures=400, chains=400, estimate=True)
    model = line.model
    exact = float(log_normaliser(lambda u: model.energy(model.reference.push(u)).detach(), model.chains))
    assert model.log_partition() == LogPartition.exactly(exact)
    assert found.ess > 100
    assert abs(found.value - exact) < 4 * found.stderr + 0.05


def test_quadrature_of_known_energies():
    for size in (1, 2):
        like = torch.zeros(1, size, dtype=torch.float64)
        assert float(log_normaliser(lambda u: 1.5 * u.square().sum(1), like)) == pytest.approx(-0.5 * size * math.log(4), abs=1e-9)
        assert float(log_normaliser(lambda u: -0.7 * u.sum(1) + 2, like)) == pytest.approx(0.245 * size - 2, abs=1e-9)


def test_labels_choose_the_mode_and_each_class_has_mass_one(labelled):
    for label in range(3):
        centre = 3 * np.array([np.cos(2 * np.pi * label / 3), np.sin(2 * np.pi * label / 3)])
        drawn = labelled.sample(300, condition=label, seed=2)
        assert np.mean(np.linalg.norm(drawn - centre, axis=1) < 2) > 0.9
    axis = np.linspace(-8, 8, 161)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    assert np.exp(labelled.log_prob(grid, np.ones(len(grid), dtype=int))).sum() * 0.01 == pytest.approx(1, abs=0.02)
    x, y = blobs(300, seed=1)
    assert (labelled.log_prob(x, y) > labelled.log_prob(x, (y + 1) % 3)).mean() > 0.9


def test_chains_have_the_labels_of_their_rows_and_rare_ones_have_a_chain():
    x, y = torch.randn(300, 2), torch.tensor([0] * 200 + [1] * 98 + [2] * 2)
    model = EBM(EBMConfig(**{**SMALL, "buffer": 30}, restart=0.0), Vector(2), Labels(4))
    model.start(lambda: [Batch(x, y)], Batch(x, y), 0)
    assert torch.bincount(model.chain_labels, minlength=4).tolist() == [19, 10, 1, 0]
    model.train()
    wanted = torch.tensor([2, 0, 2, 3, 1])
    before = model.chains.clone()
    _, labels = model.negatives(5, wanted)
    assert torch.equal(labels, wanted)
    moved = (model.chains != before).any(1)
    assert torch.bincount(model.chain_labels[moved], minlength=4).tolist() == [1, 1, 1, 0]
    assert torch.isfinite(model.loss(Batch(x[:5], wanted))).all()


def test_poor_estimates_of_the_constant_are_said_to_be(wide):
    model = EBM(EBMConfig(**SMALL), Vector(5))
    with seeded(0):
        model.start(lambda: [Batch(torch.randn(200, 5))], Batch(torch.randn(200, 5)), 0)
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.add_(torch.randn_like(parameter))
    with pytest.warns(ManykinWarning, match="log Z is unreliable: effective sample size .* give more temperatures than 2"):
        model.log_partition(temperatures=2, chains=50)


def test_loss_has_the_gradient_of_the_likelihood():
    """Row by row the loss is E(data) - E(chain): nothing flows through where the chain ends."""
    model = EBM(EBMConfig(**SMALL, regularise=0.0), Vector(1))
    x = torch.tensor(well(64))
    with seeded(0):
        model.start(lambda: [Batch(x)], Batch(x), 0)
        model.train()
        chains, step = model.chains.clone(), model.step_size.clone()
        with seeded(1):
            model.loss(Batch(x)).mean().backward()
        model.chains.copy_(chains)
        model.step_size.copy_(step)
        found = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        with seeded(1):
            z, _ = model.to_model_space(x)
            ends, _ = model.negatives(len(z))
    (model.energy(z).mean() - model.energy(ends).mean()).backward()
    for own, parameter in zip(found, model.parameters(), strict=True):
        assert torch.allclose(own, parameter.grad, atol=1e-6)


def test_step_size_follows_the_acceptance_unless_given():
    x = torch.tensor(well(64))
    for given, moves in ((None, True), (0.3, False)):
        model = EBM(EBMConfig(**SMALL, step_size=given), Vector(1))
        model.start(lambda: [Batch(x)], Batch(x), 0)
        before = float(model.step_size)
        model.train()
        model.negatives(32)
        assert (float(model.step_size) != before) is moves


def test_notes_watch_the_gap_of_energies(line):
    last = line.history[-1]
    assert {"note.data_energy", "note.chain_energy", "note.gap", "note.acceptance", "note.step_size"} <= set(line.history[-1])
    assert abs(last["note.gap"]) < 1
    assert 0.3 < last["note.acceptance"] < 0.85


def test_density_says_what_it_is(wide):
    assert wide.density.strength == "unnormalised"
    for options in ({"temperature": 0.1}, {"metropolis": False}):
        kind = EBM(EBMConfig(**options), Vector(5)).kind
        assert not kind.normalised
        assert kind.bias == "unknown"
    assert not [each for each in mk.evaluate(wide, wide.sample(50, seed=0), metrics="likelihood").metrics if each.name == "nll"]


def test_normaliser_of_a_near_gaussian_is_near_one(wide):
    found = wide.model.log_partition(temperatures=200, chains=200)
    assert found.ess > 100
    assert abs(found.value) < 3
    drawn = wide.sample(500, seed=0)
    assert wide.log_prob(drawn).mean() == pytest.approx(wide.log_prob(np.asarray(wide.sample(500, seed=1))).mean(), abs=0.6)


def test_score_is_the_slope_of_log_prob(wide):
    x = torch.tensor(wide.sample(3, seed=0), dtype=torch.float64)
    slope = wide.model.score(x)
    for column in range(5):
        step = torch.zeros(5, dtype=torch.float64)
        step[column] = 0.02
        expected = (wide.model.log_prob(x + step) - wide.model.log_prob(x - step)) / 0.04
        assert torch.allclose(slope[:, column], expected.detach(), atol=0.05, rtol=0.05)


def test_pictures_of_odd_sizes_by_label(pictured):
    x = pictured.sample(40, condition=1, seed=0)
    assert x.shape == (40, 5, 7)
    assert x.dtype == np.uint8
    right = x[:, :, 4:].mean() - x[:, :, :3].mean()
    other = pictured.sample(40, condition=0, seed=0)
    assert right > other[:, :, 4:].mean() - other[:, :, :3].mean()


def test_low_temperature_gives_likelier_samples(line):
    plain = line.log_prob(line.sample(400, seed=0)).mean()
    cold = line.log_prob(line.sample(400, seed=0, sampler=Langevin(temperature=0.2))).mean()
    assert cold > plain + 0.2


def test_wrong_options_are_refused(wide):
    with pytest.raises(InvalidInput, match=r"network = 'conv' needs pictures of at least 4 x 4.*--model.network mlp"):
        EBM(EBMConfig(network="conv"), Vector(3))
    with pytest.raises(InvalidInput, match="conv") as caught:
        EBM(EBMConfig(network="conv"), Image((1, 3, 9), 4))
    assert not isinstance(caught.value, Unsupported)  # another model is no remedy: the option is
    for options in ({"hidden": ()}, {"widths": ()}):
        with pytest.raises(InvalidInput, match="leave a part of conv empty"):
            EBM(EBMConfig(network="conv", **options), Image((1, 5, 9), 4))
    with pytest.raises(InvalidInput, match=r"buffer = 2 are fewer chains than the 3 classes.*--model.buffer"):
        EBM(EBMConfig(buffer=2), Vector(2), Labels(3))
    assert len(EBM(EBMConfig(buffer=0), Vector(2), Labels(3)).chains) == 0
    with pytest.raises(Unsupported, match="Vector"):
        EBM(None, Vector(2), Vector(1))
    for name, value in (("steps", 0), ("step_size", 0.0), ("temperature", 0.0), ("restart", 1.5), ("buffer", -1), ("clip", 0.0)):
        with pytest.raises(InvalidInput, match=f"model.{name} = {value!r}"):
            EBMConfig(**{name: value})
    with pytest.raises(InvalidInput, match="chains diverged with Langevin and step_size = 40"):
        wide.sample(4, seed=0, sampler=Langevin(metropolis=False, step_size=40.0))
    with pytest.raises(TrainingFailed, match="chains diverged with Langevin and step_size = 40; lower step_size, or leave metropolis on"):
        mk.fit("ebm", well(100), preset="tiny", options={"metropolis": False, "step_size": 40.0}, max_steps=20, seed=0)
    with pytest.raises(InvalidInput, match="temperatures"):
        wide.model.log_partition(temperatures=1)
    with pytest.raises(InvalidInput, match="condition"):
        wide.model.log_partition(0)


def test_chains_of_training_are_needed_for_the_buffer(labelled):
    x, _ = blobs(60)
    without = mk.fit("ebm", x, preset="tiny", options={"buffer": 0}, max_steps=3, seed=0)
    assert without.sample(3, seed=0).shape == (3, 2)
    with pytest.raises(InvalidInput, match="--model.buffer 0"):
        without.sample(3, seed=0, sampler=Langevin(chains="buffer"))
    drawn = labelled.sample(100, condition=2, seed=0, sampler=Langevin(steps=1, chains="buffer"))
    assert np.mean(drawn[:, 1] < 0) > 0.8
    model = EBM(EBMConfig(buffer=4), Vector(2), Labels(3))
    with pytest.raises(InvalidInput, match="no chain of label 2 among 4"):
        model.sample(1, torch.tensor([2]), seed=0, sampler=Langevin(chains="buffer"))


def test_command_line(tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert run(["fit", "ebm", "two-moons", "--preset", "tiny", "--max-steps", "20", "--model.steps", "3", "--out", folder, "--quiet"]) == 0
    assert run(["sample", folder, "-n", "5", "--sampler", "hmc", "--sampler.leapfrog", "3", "--out", str(tmp_path / "x.csv"), "--json"]) == 0
    json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert run(["sample", folder, "-n", "5", "--sampler", "langevin", "--sampler.step_size", "0"]) == 2
    assert "step_size" in capsys.readouterr().err
