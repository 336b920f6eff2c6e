"""The presets of the neural models: valid for every kind of data, the tiny one quick, and the same result from the package's own trainer."""

import pytest
import torch

from manykin.contract import GenerativeModel, Preset
from manykin.data.dataset import Dataset, Rows
from manykin.errors import Unsupported
from manykin.models.adversarial.gan import GAN
from manykin.models.diffusion.ddpm import DDPM
from manykin.models.diffusion.flow_matching import FlowMatching
from manykin.models.energy.ebm import EBM
from manykin.models.energy.rbm import RBM
from manykin.models.flows.nsf import NSF
from manykin.models.flows.realnvp import RealNVP
from manykin.models.latent.autoencoder import Autoencoder
from manykin.models.latent.vae import VAE
from manykin.spaces import Column, Image, Labels, Table, Vector
from manykin.training import TrainOptions, train

MODELS = (RealNVP, NSF, VAE, Autoencoder, DDPM, FlowMatching, GAN, EBM, RBM)
SPACES = (Vector(2), Vector(16), Vector(17), Image((1, 8, 8), 17), Image((1, 28, 28), 256), Table((Column("a"), Column("b", "integer", levels=3))))


def chosen(model: type[GenerativeModel], name: str, space, n: int) -> Preset:
    preset = model.presets[name]
    return preset if isinstance(preset, Preset) else preset(space, n)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_presets_are_valid_options(model, space):
    for name in model.presets:
        for n in (100, 100_000):
            preset = chosen(model, name, space, n)
            config = model.config_class.from_json(preset.model)
            options = TrainOptions.from_json(preset.train)
            assert options.max_steps is not None
            assert isinstance(model(config, space), model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("condition", [None, Labels(2), Vector(1)], ids=str)
def test_tiny_preset_trains_and_repeats(model, condition):
    if condition is not None and not isinstance(condition, model(None, Vector(2)).accepts.condition):
        with pytest.raises(Unsupported, match="cannot be conditioned on"):
            model(None, Vector(2), condition)
        return
    torch.manual_seed(0)
    x = torch.randn(300, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.4]]) + 5
    c = None if condition is None else torch.randint(2, (300,)) if isinstance(condition, Labels) else torch.randn(300, 1)
    preset = chosen(model, "tiny", Vector(2), len(x))
    data = Dataset("rows", Vector(2), Rows(x, c), condition=condition)
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        instance = model(model.config_class.from_json(preset.model), Vector(2), condition)
        train(instance, data, TrainOptions.from_json({**preset.train, "max_steps": 20}), seed=3)
        results.append(instance.state_dict())
        samples = instance.sample(5, None if c is None else c[:5], seed=0)
        assert torch.isfinite(samples).all()
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
