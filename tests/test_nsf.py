"""Neural spline flows: couplings, autoregressive layers, and pictures lattice after lattice."""

import math

import pytest
import torch
from torch import Tensor

import manykin as mk
from manykin.contract import Batch, Decodes, Encodes
from manykin.errors import InvalidInput, Unsupported
from manykin.models import get
from manykin.models.flows.lattices import Equalise, Lattices, grouped
from manykin.models.flows.nsf import NSF, NSFConfig
from manykin.nn import GridNet
from manykin.spaces import Image, Labels, Vector

DOUBLE = torch.float64


def away(model, scale: float = 0.2):
    """The model in float64 with every parameter away from its start."""
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def rows(size: int, conditioner: str = "coupling", scale: float = 0.2) -> NSF:
    torch.manual_seed(0)
    return away(NSF(NSFConfig(layers=4, bins=6, hidden=(16,), conditioner=conditioner), Vector(size)), scale)


def pictures(size, levels, conditioner: str = "coupling", condition=None, scale: float = 0.2, histogram: int = 0) -> tuple[NSF, Tensor]:
    """A started flow of pictures and the pictures it was started from."""
    torch.manual_seed(0)
    x = torch.randint(0, levels, (64, *size), dtype=torch.uint8) if levels else torch.randn(64, *size, dtype=DOUBLE)
    config = NSFConfig(layers=3, bins=5, hidden=(16,), channels=8, blocks=1, conditioner=conditioner, histogram=histogram)
    model = NSF(config, Image(size, levels), condition)
    c = None if condition is None else torch.arange(64) % condition.classes
    model.start(lambda: [Batch(x, c)], Batch(x, c), seed=0)
    return away(model, scale), x


def jacobian(function, z: Tensor) -> Tensor:
    found = torch.autograd.functional.jacobian(lambda row: function(row[None])[0].flatten(), z)
    return found.reshape(z.numel(), z.numel())


@pytest.mark.parametrize("conditioner", ["coupling", "autoregressive"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_rows_invert_and_their_log_determinant_is_autograd_s(conditioner, size):
    model = rows(size, conditioner)
    z = 1.5 * torch.randn(40, size, dtype=DOUBLE)
    h, ldj = model._flow(z, None)
    assert (model._unflow(h, None) - z).abs().max() < 1e-6
    assert (model._flow(model._unflow(z, None), None)[0] - z).abs().max() < 1e-6
    for row in range(4):
        matrix = jacobian(lambda row: model._flow(row, None)[0], z[row])
        assert torch.isclose(ldj[row], torch.linalg.slogdet(matrix).logabsdet, atol=1e-9)


@pytest.mark.parametrize("conditioner", ["coupling", "autoregressive"])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_every_output_depends_on_every_input(conditioner, size):
    model = rows(size, conditioner)
    total = sum(jacobian(lambda row: model._flow(row, None)[0], z).abs() for z in torch.randn(8, size, dtype=DOUBLE))
    assert (total > 1e-8).all()


@pytest.mark.parametrize("conditioner", ["coupling", "autoregressive"])
def test_inverse_at_ten_sigma(conditioner):
    model = rows(5, conditioner, scale=0.05)
    z = torch.cat([10 * torch.randn(256, 5, dtype=DOUBLE), torch.full((1, 5), -10.0, dtype=DOUBLE)])
    with torch.no_grad():
        assert (model._unflow(model._flow(z, None)[0], None) - z).abs().max() < 1e-6
        single = model.float()
        h, ldj = single._flow(z.float(), None)
        assert torch.isfinite(h).all()
        assert torch.isfinite(ldj).all()


# Pictures.

SIZES = [(1, 4, 4), (1, 5, 7), (2, 8, 6), (3, 4, 4), (1, 9, 9), (1, 4, 17)]


@pytest.mark.parametrize("conditioner", ["coupling", "autoregressive"])
@pytest.mark.parametrize("levels", [5, None])
@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_any_size_invert(size, levels, conditioner):
    model, x = pictures(size, levels, conditioner)
    with torch.no_grad():
        z = model.to_model_space(x)[0].double()
        h, ldj = model._flow(z, None)
        assert h.shape == (64, math.prod(size))
        assert torch.isfinite(ldj).all()
        assert (model._unflow(h, None) - z).abs().max() < 1e-5
        assert (model._flow(model._unflow(h, None), None)[0] - h).abs().max() < 1e-5


@pytest.mark.parametrize("conditioner", ["coupling", "autoregressive"])
@pytest.mark.parametrize(
    ("size", "levels", "histogram"), [((1, 4, 4), 5, 0), ((1, 4, 4), 5, 3), ((1, 5, 4), None, 0), ((2, 4, 4), None, 0), ((1, 6, 5), 3, 9)]
)
def test_whole_jacobian_of_small_pictures(size, levels, histogram, conditioner):
    model, x = pictures(size, levels, conditioner, histogram=histogram)
    z = model.to_model_space(x[:3])[0].double()
    _, ldj = model._flow(z, None)
    for row in range(3):
        matrix = jacobian(lambda row: model._flow(row, None)[0], z[row])
        assert torch.isclose(ldj[row], torch.linalg.slogdet(matrix).logabsdet, atol=1e-8)


def test_every_pixel_is_transformed_and_seen():
    model, x = pictures((1, 6, 6), None)
    z = x[:4]
    matrices = [jacobian(lambda row: model._flow(row, None)[0], row) for row in z]
    changing = (matrices[0] - matrices[1]).abs() + (matrices[2] - matrices[3]).abs()
    # No output is a fixed multiple of one pixel, and every pixel but those of the last group reaches more outputs than its own.
    assert (changing.amax(dim=1) > 1e-9).all()
    assert ((changing > 1e-12).sum(dim=0) > 1).sum() >= 36 - 9


def test_equalising_is_a_bijection_with_flat_histogram_fitted_on_the_training_rows_alone():
    torch.manual_seed(0)
    x = (torch.rand(200, 2, 5, 5) ** 3 * 16).floor().to(torch.uint8)
    space = Image((2, 5, 5), 16)
    model = NSF(NSFConfig(bins=4, channels=4, blocks=1, hidden=(8,)), space)
    model.start(lambda: [Batch(x[:100])], Batch(x[:100]), seed=0)
    lattices = model.flow
    assert isinstance(lattices, Lattices)
    counts = torch.bincount(x[:100].flatten().long(), minlength=16).double() + 0.5
    assert torch.allclose(lattices.equalise.shares, counts / counts.sum())
    before = lattices.equalise.shares.clone()
    model.initialise(Batch(x[100:]))
    assert torch.equal(lattices.equalise.shares, before)
    z = model.transform(x[:100])[0].double()
    u, log_slope, _ = lattices.equalise(z)
    assert (lattices.equalise.inverse(u) - z).abs().max() < 1e-12
    assert abs(float(u.mean()) - 0.5) < 0.02
    assert abs(float(u.var()) - 1 / 12) < 0.01
    step = 1e-7
    inside = ((z + 1) * 8).frac() < 0.9
    slope = (lattices.equalise(z + step)[0] - u) / step
    assert torch.allclose(slope.log()[inside], log_slope[inside], atol=1e-5)


def test_equalise_gives_no_density_outside_the_range():
    layer = Equalise(4, 1).double()
    z = torch.tensor([-1.01, -1.0, 0.3, 1.0, 1.01], dtype=DOUBLE).view(5, 1, 1, 1)
    assert layer(z)[1].flatten().isinf().tolist() == [True, False, False, False, True]


def test_levels_that_training_never_saw_come_back_in_single_precision():
    torch.manual_seed(0)
    x = (torch.rand(3000, 1, 6, 6) ** 4 * 200).to(torch.uint8)
    model = NSF(NSFConfig(bins=6, channels=8, blocks=1, hidden=(16,), conditioner="autoregressive"), Image((1, 6, 6), 256))
    model.start(lambda: [Batch(x)], Batch(x), seed=0)
    assert model.dtype == torch.float32
    assert float(model.flow.equalise.shares.min()) > 0.99e-5
    for level in (0, 120, 201, 250, 255):
        pictures = torch.full((40, 1, 6, 6), level, dtype=torch.uint8)
        assert torch.equal(model.decode(model.encode(pictures).mean), pictures)
        # The fixed map alone keeps each level apart in single precision.
        z = ((torch.full((40, 1, 6, 6), float(level)) + torch.linspace(0.05, 0.95, 40).view(-1, 1, 1, 1)) * (2 / 256) - 1).float()
        back = model.flow.equalise.inverse(model.flow.equalise(z)[0])
        assert (((back + 1) * 128).floor() == level).all()


def test_groups_of_levels_are_nearly_equal_and_lie_between_levels():
    shares = torch.tensor([0.8, 0.02, 0.03, 0.06, 0.04, 0.05], dtype=DOUBLE)
    assert torch.allclose(grouped(shares, 4), torch.tensor([0.0, 0.8, 0.85, 0.91, 1.0], dtype=DOUBLE))
    assert torch.allclose(grouped(shares, 6), torch.cat([torch.zeros(1, dtype=DOUBLE), shares.cumsum(0)]))
    assert torch.allclose(grouped(shares, 1), torch.tensor([0.0, 1.0], dtype=DOUBLE))


@pytest.mark.parametrize("histogram", [0, 4])
def test_splines_of_pictures_invert_whatever_their_parameters(histogram):
    torch.manual_seed(0)
    spline = pictures((1, 4, 4), 5, histogram=histogram)[0].flow.spline
    raw, t = 100 * torch.randn(20_000, spline.width, dtype=DOUBLE), torch.rand(20_000, dtype=DOUBLE)
    assert (spline.inverse(spline.forward(t, raw)[0], raw) - t).abs().max() < 1e-3


def test_start_is_the_product_of_each_pixel_s_histogram():
    """Before any step the flow gives each pixel its own marginal: on independent pixels it is as good as the frequencies."""
    torch.manual_seed(0)
    chances = torch.rand(16, 4, dtype=DOUBLE) ** 2 + 0.05
    chances = chances / chances.sum(1, keepdim=True)
    x = torch.multinomial(chances, 4000, replacement=True).T.reshape(4000, 1, 4, 4).to(torch.uint8)
    for conditioner in ("coupling", "autoregressive"):
        model = NSF(NSFConfig(bins=16, layers=2, conditioner=conditioner), Image((1, 4, 4), 4))
        for net in model.flow.nets:
            net.leave.weight.data.zero_()
        model.start(lambda: [Batch(x)], Batch(x), seed=0)
        entropy = -float((chances * chances.log()).sum())
        with torch.no_grad():
            found = -float(model.log_prob(x[:1000]).mean())
        assert abs(found - entropy) < 0.05 * entropy


def test_uniform_noise_costs_the_logarithm_of_its_levels():
    torch.manual_seed(0)
    x = torch.randint(0, 256, (2000, 1, 4, 4), dtype=torch.uint8)
    model = NSF(NSFConfig(bins=4, conditioner="autoregressive"), Image((1, 4, 4), 256))
    lattices = model.flow
    assert isinstance(lattices, Lattices)
    for net in [*lattices.nets, lattices.first.steps[0].net]:
        for name, parameter in net.named_parameters():
            if name.startswith(("leave", "layers")):
                parameter.data.zero_()
    with torch.no_grad():
        bits = -model.log_prob(x) / (16 * math.log(2))
    assert (bits - 8).abs().max() < 1e-5


def test_pictures_are_a_noisy_bound_with_normal_latents_and_valid_samples():
    model, x = pictures((1, 6, 5), 5, condition=Labels(3))
    c = torch.arange(64) % 3
    model = model.float()
    assert str(model.density) == "bound"
    assert model.sample(5, c[:5], seed=0).dtype == torch.uint8
    assert isinstance(model, Encodes)
    assert isinstance(model, Decodes)
    code = model.encode(x, c).mean
    assert code.shape == (64, 30)
    assert torch.isfinite(code).all()
    assert (model.double().decode(model.encode(x, c).mean.double(), c) == x).all()
    assert not torch.equal(model.log_prob(x, c), model.log_prob(x, (c + 1) % 3))


def test_pictures_too_small_become_rows_and_lattices_are_refused_for_rows():
    assert model_shape(Image((1, 3, 5), 4)) == (15,)
    assert model_shape(Image((1, 4, 5), 4)) == (1, 4, 5)
    for space in (Vector(3), Image((1, 3, 5), 4)):
        with pytest.raises(InvalidInput, match="expected pictures of at least 4 x 4: choose rows or auto") as caught:
            NSF(NSFConfig(pictures="lattices"), space)
        assert not isinstance(caught.value, Unsupported)


@pytest.mark.parametrize("name", ["nsf", "realnvp"])
def test_codes_without_order_are_refused_as_such(name):
    codes = Image((1, 6, 5), 4, ordinal=False)
    with pytest.raises(Unsupported, match=r"^Image\(1x6x5, 4 codes\) does not fit this model: its levels are codes without order") as caught:
        get(name)(None, codes)
    assert "it works on Image" not in str(caught.value)


def test_of_few_or_large_pictures_the_preset_for_minutes_is_the_default():
    for space, n in ((Image((1, 28, 28), 256), 5000), (Image((3, 32, 32), 256), 50_000)):
        assert NSF.presets["cpu"](space, n) == NSF.presets["default"](space, n)
    assert NSF.presets["cpu"](Image((1, 28, 28), 256), 60_000).model["channels"] == 96


def model_shape(space) -> tuple:
    return NSF(None, space).model_space.shape


@pytest.mark.parametrize(("conditioner", "passes"), [("coupling", 12), ("autoregressive", 55)])
def test_pictures_of_28_x_28_are_sampled_in_the_passes_that_are_documented(conditioner, passes):
    model = NSF(NSFConfig(bins=4, channels=4, blocks=1, hidden=(8,), conditioner=conditioner), Image((1, 28, 28), 2))
    calls: list[int] = []
    for net in [*model.flow.nets, *(step.net for step in model.flow.first.steps)]:
        net.register_forward_hook(lambda *_: calls.append(1))
    model._sample(2, None, None)
    assert len(calls) == passes


@pytest.mark.parametrize(
    ("space", "options"),
    [(Vector(3), {}), (Image((1, 6, 6), None), {}), (Image((1, 6, 6), 5), {"pictures": "rows"})],
)
def test_a_histogram_without_levels_is_refused(space, options):
    with pytest.raises(InvalidInput, match=r"model.histogram = 4 does not fit .*: give 0"):
        NSF(NSFConfig(histogram=4, **options), space)


def test_grid_net_sees_its_context_and_place():
    torch.manual_seed(0)
    net = GridNet(2, (3, 4), 5, width=8, blocks=2, context=3).double().eval()
    x, c = torch.zeros(2, 2, 3, 4, dtype=DOUBLE), torch.randn(2, 3, dtype=DOUBLE)
    assert net(x, c).shape == (2, 5, 3, 4)
    assert not torch.allclose(net(x, c)[0], net(x, c)[1])
    with torch.no_grad():
        net.place.add_(torch.randn_like(net.place))
    assert net(x, c)[0].std(dim=(1, 2)).min() > 0


def test_training_reaches_the_entropy_of_eight_gaussians_roughly():
    fitted = mk.fit("nsf", "eight-gaussians", max_steps=150, options={"layers": 4, "bins": 8, "hidden": (32, 32)}, train={"patience": None}, seed=0)
    found = {each.name: each.value for each in mk.evaluate(fitted, metrics="likelihood", seed=0).metrics}
    assert found["kl_gap"] < 0.5
