"""The GAN: two phases that keep to their own parameters, the gradient penalty, samples without batch mates, coverage of modes."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from manykin.contract import Batch, Decodes, Encodes
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput, NoDensity
from manykin.models.adversarial.gan import GAN, GANConfig
from manykin.random import seeded
from manykin.spaces import Image, Labels, Vector
from manykin.training import TrainOptions
from manykin.training import train as train_model

SMALL = GANConfig(latent=3, generator=(16,), discriminator=(16,))


def only(model, phase):
    """Freeze everything but the phase's own parameters, as a trainer does."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(phase.params))
        parameter.grad = None


def train(model, x, steps, batch=128, c=None, **options):
    """The package's own trainer, over both phases; the model keeps the average of its weights."""
    data = Dataset("rows", model.space, Rows(x, c), condition=model.condition)
    train_model(model, data, TrainOptions(max_steps=steps, batch_size=batch, schedule="cosine", ema=0.99, **options), seed=0)
    return model.eval()


def started(space, x, config=SMALL, condition=None, c=None):
    torch.manual_seed(0)
    model = GAN(config, space, condition)
    model.start(lambda: [Batch(x, c)], Batch(x, c), seed=0)
    return model


def test_each_phase_moves_its_own_network_only():
    x = torch.randn(32, 2)
    model = started(Vector(2), x)
    first, second = model.phases()
    assert (first.name, second.name) == ("discriminator", "generator")
    for phase in (first, second):
        only(model, phase)
        loss = getattr(model, phase.loss)(Batch(x))
        assert loss.shape == (32,)
        loss.mean().backward()
        for name, parameter in model.named_parameters():
            if name.startswith(phase.params):
                assert torch.isfinite(parameter.grad).all()
            else:
                assert parameter.grad is None
        own = [parameter.grad.abs().sum() for name, parameter in model.named_parameters() if name.startswith(phase.params)]
        assert all(total > 0 for total in own)


def test_discriminator_loss_reaches_no_generator_even_without_freezing():
    x = torch.randn(32, 2)
    model = started(Vector(2), x)
    model.discriminator_loss(Batch(x)).mean().backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())


def test_generator_step_follows_the_discriminator():
    """A discriminator that prefers large first entries pulls the generator's mean up: the sign of the loss and its gradient."""
    x = torch.randn(256, 2)
    model = started(Vector(2), x, GANConfig(latent=3, generator=(16,), discriminator=()))
    with torch.no_grad():
        model.discriminator.net.last.weight.copy_(torch.tensor([[2.0, 0.0]]))
        model.discriminator.net.last.bias.zero_()
    only(model, model.phases()[1])
    optimizer = torch.optim.SGD(model.generator.parameters(), lr=0.1)
    before = float(model.sample(500, seed=0)[:, 0].mean())
    for _ in range(20):
        optimizer.zero_grad()
        model.generator_loss(Batch(x)).mean().backward()
        optimizer.step()
    assert float(model.sample(500, seed=0)[:, 0].mean()) > before + 0.3


def test_gradient_penalty_is_the_squared_slope_at_real_data():
    """A linear discriminator w has slope w everywhere; the penalty is |w|^2 / 2 and has a gradient of its own."""
    x = torch.randn(64, 3)
    losses = []
    for weight in (0.0, 0.8):
        model = started(Vector(3), x, GANConfig(latent=3, generator=(16,), discriminator=(), r1=weight))
        with seeded(0):
            losses.append(model.discriminator_loss(Batch(x)))
    slope = model.discriminator.net.last.weight.square().sum()
    assert torch.allclose(losses[1] - losses[0], (0.4 * slope).expand(64), atol=1e-5)
    model.discriminator.zero_grad()
    with seeded(0):
        difference = model.discriminator_loss(Batch(x)).mean()
    difference.backward()
    with torch.no_grad():
        assert torch.isfinite(model.discriminator_loss(Batch(x))).all()


def test_equal_distributions_leave_the_discriminator_undecided():
    """Real against real: at the optimum D = 0 the loss is 2 ln 2."""
    torch.manual_seed(0)
    x = torch.randn(4000, 2)
    model = started(Vector(2), x, GANConfig(latent=2, generator=(), discriminator=(16,)))
    with torch.no_grad():
        model.generator.net.last.weight.copy_(torch.eye(2))
        model.generator.net.last.bias.zero_()
    phase = model.phases()[0]
    only(model, phase)
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        model.discriminator_loss(Batch(x[torch.randint(4000, (512,))])).mean().backward()
        optimizer.step()
    loss = float(model.discriminator_loss(Batch(x)).mean().detach())
    assert abs(loss - 2 * math.log(2)) < 0.02


def test_two_points_are_learnt_in_their_shares():
    """Three quarters of the rows at one point, a quarter at another: the game converges there, where a wrong sign would run away."""
    torch.manual_seed(0)
    points = torch.tensor([[2.0, -1.0], [-8.0, -8.0]])
    x = points[(torch.arange(256) % 4 == 0).long()] + 1e-2 * torch.randn(256, 2)
    options = GANConfig(latent=3, generator=(32,), discriminator=(32,), r1=0.3, generator_lr=5e-3, discriminator_lr=5e-3)
    model = GAN(options, Vector(2))
    train(model, x, 400, batch=64)
    distance, nearest = torch.cdist(model.sample(1000, seed=0).float(), points).min(dim=1)
    # The points lie 12.2 apart; an untrained generator sits between them.
    assert float(distance.median()) < 1.0
    assert 0.15 < float(nearest.float().mean()) < 0.35


def test_samples_do_not_depend_on_batch_mates():
    x = torch.randn(64, 2)
    model = started(Vector(2), x)
    many = model.sample(600, seed=3)
    assert torch.equal(model.sample(1, seed=3), many[:1])
    assert torch.equal(model.sample(300, seed=3), many[:300])
    h = model.latents(64, seed=0)
    assert torch.allclose(model.decode(h)[:1], model.decode(h[:1]), atol=1e-6)
    model.train()
    model.sample(1, seed=0)
    assert model.training


def test_no_density_and_no_encoder():
    model = started(Vector(2), torch.randn(16, 2))
    assert model.density is None
    with pytest.raises(NoDensity):
        model.log_prob(torch.randn(3, 2))
    assert isinstance(model, Decodes)
    assert not isinstance(model, Encodes)


def test_bounded_data_stay_in_range():
    x = torch.tensor(load_digits().images[:200]).to(torch.uint8)[:, None]
    model = started(Image((1, 8, 8), 17), x)
    assert model.generator.bounded
    with torch.no_grad():
        model.generator.net.last.weight.mul_(100)
    samples = model.sample(50, seed=0)
    assert samples.dtype == torch.uint8
    assert int(samples.max()) <= 16
    z, _ = model.to_model_space(x)
    assert float(z.abs().max()) <= 1.0
    assert not started(Vector(2), torch.randn(16, 2)).generator.bounded


def test_latents_move_the_output_and_decode_passes_gradients():
    model = started(Vector(2), torch.randn(64, 2))
    h = model.latents(8, seed=0).requires_grad_()
    model.decode(h).sum().backward()
    assert (h.grad.abs().sum(dim=1) > 0).all()
    assert not model.decode(h.detach()).requires_grad


@pytest.mark.parametrize(
    "h, message",
    [
        (torch.zeros(2, 4), r"shape \(2, 4\); expected latents of shape \(n, 3\)"),
        (torch.zeros(0, 3), r"shape \(0, 3\)"),
        (torch.tensor([[0.0, float("nan"), 0.0]]), "nan in row 0, entry 1"),
        (torch.zeros(2, 3, dtype=torch.int64), "torch.int64; expected a floating tensor"),
    ],
)
def test_latents_that_cannot_be_decoded_are_refused(h, message):
    with pytest.raises(InvalidInput, match=message):
        started(Vector(2), torch.randn(16, 2)).decode(h)


def test_labels_condition_the_samples():
    torch.manual_seed(0)
    c = torch.randint(0, 2, (1000,))
    x = 0.3 * torch.randn(1000, 2) + 4.0 * c[:, None]
    model = started(Vector(2), x, GANConfig(latent=3, generator=(32,), discriminator=(32,)), Labels(2), c)
    train(model, x, 250, batch=64, c=c)
    low, high = (float(model.sample(200, torch.tensor([label]), seed=0).mean()) for label in (0, 1))
    assert abs(low) < 1.0
    assert abs(high - 4) < 1.0


def eight_gaussians(n):
    source = torch.Generator().manual_seed(0)
    angle = torch.randint(8, (n,), generator=source) * math.pi / 4
    return (4 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.5 * torch.randn(n, 2, generator=source)) / math.sqrt(2)


@pytest.mark.slow
def test_eight_gaussians_are_all_covered_by_the_default_preset():
    x = eight_gaussians(20_000)
    preset = GAN.presets["default"](Vector(2), len(x))
    model = started(Vector(2), x, GANConfig.from_json(preset.model))
    train_model(model, Dataset("rows", Vector(2), Rows(x)), TrainOptions(**preset.train), seed=0)
    samples = model.sample(4000, seed=0).float()
    angle = torch.arange(8) * math.pi / 4
    distance, nearest = torch.cdist(samples, 4 / math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], dim=1)).min(dim=1)
    within = distance < 3 * 0.5 / math.sqrt(2)
    shares = torch.bincount(nearest[within], minlength=8) / 4000
    assert (shares > 0.06).all()
    assert float(within.float().mean()) > 0.85
