"""The GAN: two phases that keep to their own parameters, objectives, penalties, pictures, samples without batch mates, coverage of modes."""

import math
import warnings

import pytest
import torch
from sklearn.datasets import load_digits

from manykin.contract import Batch, Decodes, Encodes
from manykin.data.dataset import Dataset, Rows
from manykin.data.toys import toy
from manykin.errors import InvalidInput, ManykinWarning, NoDensity, Unsupported
from manykin.models.adversarial.augment import AUGMENTATIONS, augmented, cutout, translation
from manykin.models.adversarial.gan import GAN, GANConfig
from manykin.models.adversarial.losses import discriminator_terms, generator_terms
from manykin.models.collapse import Spread
from manykin.random import seeded
from manykin.spaces import Image, Labels, Vector
from manykin.testing import check
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
    first, second, last = model.phases()
    assert (first.name, second.name, last.name) == ("discriminator", "generator", "spread")
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
        model.discriminator.verdict.plain.weight.copy_(torch.tensor([[2.0, 0.0]]))
        model.discriminator.verdict.plain.bias.zero_()
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
    slope = model.discriminator.verdict.plain.weight.square().sum()
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
    model = started(Image((1, 8, 8), 17), x, GANConfig(latent=3, generator=(8, 8), discriminator=(8, 8)))
    assert model.generator.bounded
    with torch.no_grad():
        model.generator.grow[-1].weight.mul_(100)
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


PICTURES = GANConfig(latent=4, generator=(8, 12), discriminator=(8, 12), objective="hinge", spectral_norm=True, augment=("translation", "cutout"))


def pictures(n=64, size=(1, 9, 11), levels=5):
    return torch.randint(levels, (n, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(1, 8, 8), (1, 9, 11), (3, 13, 8), (1, 28, 28), (2, 15, 17)])
def test_pictures_of_any_size_go_through_convolutions(size):
    x = pictures(32, size)
    model = started(Image(size, 5), x, PICTURES)
    assert model.sample(3, seed=0).shape == (3, *size)
    assert model.discriminator_loss(Batch(x)).shape == (32,)
    # Every pixel is judged, also the last row and column of odd sides.
    z = torch.zeros(1, *size, requires_grad=True)
    model.eval().discriminator(z, None).sum().backward()
    assert (z.grad != 0).all()
    made = model.generator(torch.randn(1, 4).requires_grad_(), None)
    assert made.shape == (1, *size)


@pytest.mark.parametrize(
    "space, condition, config",
    [
        (Image((1, 9, 8), 5), Labels(3), PICTURES),
        (Image((2, 8, 8), 3), None, GANConfig(latent=4, generator=(8,), discriminator=(8,), objective="wasserstein")),
        (Vector(2), Vector(1), GANConfig(latent=4, generator=(32,), discriminator=(32,), objective="wasserstein", updates=2)),
    ],
    ids=["hinge-pictures-by-label", "wasserstein-pictures", "wasserstein-by-vector"],
)
def test_other_networks_and_objectives_conform(space, condition, config):
    report = check(GAN(config, space, condition))
    assert report.passed, str(report)
    names = {row.name for row in report.rows}
    assert {"players-stay-apart", "both-sides-seen-alike", "penalty-looks-between", "penalty-makes-slopes-one", "decoding-ignores-mates"} <= names
    assert ("spectral-norms-near-one" in names) == config.spectral_norm
    assert ("collapse-is-told" in names) == (not isinstance(condition, Vector))


@pytest.mark.parametrize(
    "options, space, message",
    [
        ({"network": "conv"}, Vector(3), "'conv' needs pictures of at least 8 x 8"),
        ({"network": "conv"}, Image((1, 7, 9), 5), "'conv' needs pictures of at least 8 x 8, not Image"),
        ({"generator": (4, 4, 4, 4)}, Image((1, 8, 9), 5), "4 and 2 levels of convolutions .* do not fit .* 1 to 3 widths"),
        ({"discriminator": ()}, Image((1, 8, 9), 5), "2 and 0 levels"),
        ({"augment": ("cutout",)}, Vector(3), "cutout changes pictures"),
    ],
)
def test_networks_that_do_not_fit_are_refused(options, space, message):
    with pytest.raises(InvalidInput, match=message) as told:
        GAN(GANConfig(**options), space)
    # Another option is the remedy, not another model.
    assert not isinstance(told.value, Unsupported)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"augment": ("cutot",)}, "'cutot' is not known; .* Did you mean 'cutout'"),
        ({"augment": ("cutout", "cutout")}, "twice"),
        ({"objective": "wasserstein", "gradient_penalty": 0.0}, "gradient_penalty = 0 leaves a wasserstein critic without bounds"),
        ({"objective": "hing"}, "expected one of 'non-saturating', 'hinge', 'wasserstein'"),
    ],
)
def test_options_that_make_no_game_are_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        GANConfig(**options)


def test_r1_is_on_where_nothing_else_bounds_the_discriminator():
    assert GANConfig().penalty_at_data == 0.1
    assert GANConfig(spectral_norm=True).penalty_at_data == 0.0
    assert GANConfig(objective="wasserstein").penalty_at_data == 0.0
    assert GANConfig(objective="wasserstein", r1=2.0).penalty_at_data == 2.0


def test_objectives_have_their_values():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert torch.allclose(discriminator_terms("hinge", real, fake), torch.tensor([0.0, 2.5]))
    assert torch.allclose(discriminator_terms("wasserstein", real, fake), torch.tensor([-5.0, 0.5]))
    logistic = -torch.sigmoid(real).log() - (1 - torch.sigmoid(fake)).log()
    assert torch.allclose(discriminator_terms("non-saturating", real, fake), logistic)
    assert torch.allclose(generator_terms("non-saturating", fake), -torch.sigmoid(fake).log())
    assert torch.equal(generator_terms("hinge", fake), -fake)


def test_labels_are_judged_by_projection():
    """D(x, a) - D(x, b) is the inner product of the difference of the labels' vectors with the features."""
    x, labels = pictures(), torch.randint(0, 3, (64,))
    config = PICTURES.replace({"spectral_norm": False})
    model = started(Image((1, 9, 11), 5), x, config, Labels(3), labels).eval()
    z = torch.randn(5, 1, 9, 11)
    seen = []
    handle = model.discriminator.verdict.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    a, b = (model.discriminator(z, torch.full((5,), label)) for label in (0, 2))
    handle.remove()
    vectors = model.discriminator.verdict.by_label.weight
    assert torch.allclose(a - b, seen[0] @ (vectors[:, 0] - vectors[:, 2]), atol=1e-5)
    assert (a - b).abs().max() > 1e-4


def test_spectral_norm_divides_by_the_largest_singular_value_and_passes_its_gradient():
    model = started(Image((1, 9, 11), 5), pictures(), PICTURES)
    layer = model.discriminator.shrink[1].double()
    with torch.no_grad():
        layer.weight.normal_()
    for _ in range(200):
        layer.improve()
    exact = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    layer.eval()
    assert torch.allclose(layer.normalised(), layer.weight / exact, rtol=1e-4)
    probe = torch.randn_like(layer.weight)
    (found,) = torch.autograd.grad((layer.normalised() * probe).sum(), layer.weight)
    wanted = torch.autograd.grad((layer.weight / torch.linalg.matrix_norm(layer.weight.flatten(1), 2) * probe).sum(), layer.weight)[0]
    assert torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))


def test_augmentations_keep_shape_and_pass_gradients():
    x = torch.randn(50, 2, 9, 12).requires_grad_()
    for name in AUGMENTATIONS:
        out = augmented(x, (name,))
        assert out.shape == x.shape
        assert not torch.equal(out, x)
        (slope,) = torch.autograd.grad(out.sum(), x)
        assert torch.isfinite(slope).all()
        assert float(slope.abs().sum()) > 0
    assert torch.equal(augmented(x, ()), x)


def test_translation_moves_whole_pictures_by_an_eighth_at_most():
    x = torch.zeros(200, 1, 16, 16)
    x[:, :, 8, 8] = 1
    moved = translation(x)
    assert torch.equal(moved.flatten(1).sum(1), torch.ones(200))
    rows, columns = (moved[:, 0].sum(axis).argmax(1) - 8 for axis in (2, 1))
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == 25


def test_cutout_leaves_half_of_the_sides_out():
    gone = 1 - cutout(torch.ones(300, 1, 16, 16)).mean(dim=(1, 2, 3))
    assert float(gone.max()) == 0.25
    assert 0.05 < float(gone.min()) < 0.1
    assert len(set(gone.tolist())) > 10


def test_a_collapsed_generator_is_warned_of_and_a_sound_one_is_not():
    torch.manual_seed(0)
    x = torch.randn(400, 3) * torch.tensor([1.0, 50.0, 0.01])
    watch = Spread(Vector(3))
    watch.fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = watch.compare(torch.randn(400, 3) * torch.tensor([1.0, 50.0, 0.01]))
    assert abs(same["spread"] - 1) < 0.1
    assert abs(same["nearest"] - 1) < 0.2
    with pytest.warns(ManykinWarning, match="as far from each other and .* nearest neighbours .* collapsed"):
        watch.compare(x[:1] + 0.01 * x)
    with pytest.warns(ManykinWarning, match="nearest neighbours"):
        few = watch.compare(x[torch.arange(400) % 5])
    assert few["spread"] > 0.5
    watch.fit(x[:20])
    assert watch.rows == 0


def test_collapse_is_told_of_sorted_rows():
    """Two groups far apart, one after the other in the file: all examples in one of them are a collapse."""
    torch.manual_seed(0)
    x = torch.randn(4000, 2)
    x[2000:] += 100
    watch = Spread(Vector(2))
    watch.fit(x)
    assert 45 < float(watch.scale[0]) < 55
    with pytest.warns(ManykinWarning, match="collapsed"):
        assert watch.compare(torch.randn(512, 2))["spread"] < 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.compare(x[torch.randperm(4000)[:512]])


@pytest.mark.parametrize("offset, size", [(1e6, 1.0), (1e9, 1e-3), (0.0, 1.0)])
def test_distances_do_not_depend_on_where_the_data_lie(offset, size):
    torch.manual_seed(0)
    x = offset + size * torch.randn(600, 3, dtype=torch.float64)
    watch = Spread(Vector(3))
    watch.fit(x)
    assert 1.9 < float(watch.reference[1]) < 2.6
    assert 0.1 < float(watch.reference[2]) < 0.5
    found = watch.compare(offset + size * torch.randn(512, 3, dtype=torch.float64))
    assert 0.9 < found["spread"] < 1.1
    assert 0.8 < found["nearest"] < 1.2


def test_pictures_train_in_half_precision():
    x, labels = pictures(96), torch.arange(96) % 3
    model = started(Image((1, 9, 11), 5), x, PICTURES, Labels(3), labels)
    train(model, x, 6, batch=32, c=labels, precision="bf16")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name, near", [("eight-gaussians", 0.9), ("25-gaussians", 0.45)])
def test_modes_are_covered_by_the_default_preset(name, near):
    """``near``: the share of samples within three standard deviations of a mode; on the grid a single broad Gaussian has 0.02."""
    law = toy(name)
    torch.manual_seed(0)
    preset = GAN.presets["default"](Vector(2), 10_000)
    model = GAN(GANConfig.from_json(preset.model), Vector(2))
    train_model(model, Dataset("rows", Vector(2), Rows(law.sample(10_000, 0))), TrainOptions(**preset.train), seed=0)
    samples = model.sample(5000, seed=0).double()
    distance, nearest = torch.cdist(samples, law.means).min(dim=1)
    good = distance < 3 * law.sigmas[0]
    k = len(law.means)
    shares = torch.bincount(nearest[good], minlength=k) / len(samples)
    assert int((shares * k > 0.25).sum()) >= 0.9 * k
    assert float(good.double().mean()) > near
