"""The RealNVP flow: change of variables, invertibility, couplings, ActNorm, and likelihoods in data space."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import manykin as mk
from manykin.contract import Batch, Decodes, Encodes
from manykin.errors import InvalidInput, Unsupported
from manykin.models.flows.realnvp import RealNVP, RealNVPConfig
from manykin.nn import ActNorm
from manykin.spaces import Image, Labels, Vector


def flow(size: int, *, layers: int = 6, condition=None, seed: int = 0, activation: str = "tanh", scale: float = 0.12) -> RealNVP:
    """A float64 flow whose every parameter is away from its start."""
    torch.manual_seed(seed)
    model = RealNVP(RealNVPConfig(layers=layers, hidden=(16, 16), activation=activation), Vector(size), condition).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def jacobian(function, z: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(lambda row: function(row[None])[0], z)


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_log_determinant_equals_autograd_in_both_directions(size):
    model = flow(size)
    for z in torch.randn(4, size, dtype=torch.float64):
        h, ldj = model._flow(z[None], None)
        forward = torch.linalg.slogdet(jacobian(lambda row: model._flow(row, None)[0], z)).logabsdet
        backward = torch.linalg.slogdet(jacobian(lambda row: model._unflow(row, None), h[0].detach())).logabsdet
        assert torch.isclose(ldj[0], forward, atol=1e-9)
        assert torch.isclose(-ldj[0], backward, atol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_every_output_depends_on_every_input(size):
    model = flow(size, layers=4)
    z = torch.randn(8, size, dtype=torch.float64)
    total = sum(jacobian(lambda row: model._flow(row, None)[0], row).abs() for row in z)
    assert (total > 1e-8).all()


@pytest.mark.parametrize("size", [2, 5])
def test_couplings_move_every_entry(size):
    model = flow(size, layers=2)
    z = torch.randn(size, dtype=torch.float64)
    matrix = jacobian(lambda row: model._flow(row, None)[0], z)
    # One pair of couplings moves both halves: no output is a plain rescaling of one input.
    assert ((matrix.abs() > 1e-8).sum(dim=1) > 1).all()


@pytest.mark.parametrize("size", [2, 5, 64])
def test_inverse_at_ten_sigma(size):
    model = flow(size, scale=0.05)
    for z in (10 * torch.randn(256, size, dtype=torch.float64), torch.full((1, size), -10.0, dtype=torch.float64)):
        with torch.no_grad():
            assert (model._unflow(model._flow(z, None)[0], None) - z).abs().max() < 1e-10
            assert (model._flow(model._unflow(z, None), None)[0] - z).abs().max() < 1e-10
    single, z = model.float(), 10 * torch.randn(256, size)
    with torch.no_grad():
        assert (single._unflow(single._flow(z, None)[0], None) - z).abs().max() < 1e-4
        assert (single._flow(single._unflow(z, None), None)[0] - z).abs().max() < 1e-4


def test_scale_is_bounded_whatever_the_network_says():
    model = flow(2, activation="relu", scale=3.0)
    z = torch.tensor([[1e6, -1e6], [1e3, 1e3]], dtype=torch.float64)
    for coupling in model.flow.steps:
        log_scale, _ = coupling._affine(z[:, : coupling.kept], None)
        assert (log_scale.abs() <= coupling.factor.abs() + 1e-12).all()
    assert torch.isfinite(model._flow(z, None)[0]).all()


def test_density_integrates_to_one():
    model = flow(2)
    with torch.no_grad():
        samples = model.sample(20_000, seed=0)
        low, high = samples.min(dim=0).values - 2, samples.max(dim=0).values + 2
        axes = [torch.linspace(float(a), float(b), 500, dtype=torch.float64) for a, b in zip(low, high)]
        grid = torch.cartesian_prod(*axes)
        cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
        mass = float(model.log_prob(grid).exp().sum() * cell)
    assert abs(mass - 1) < 5e-3


def test_samples_follow_the_density():
    model = flow(2)
    n = 40_000
    with torch.no_grad():
        x = model.sample(n, seed=1)
        # E_p[q / p] = 1 for every density q inside the support of p; with q = N(mean, cov / 4) the weights are light-tailed.
        q = torch.distributions.MultivariateNormal(x.mean(dim=0), torch.cov(x.T) / 4)
        ratio = (q.log_prob(x) - model.log_prob(x)).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(n)


@pytest.mark.parametrize("condition", [None, Labels(3), Vector(2)])
def test_encode_decode_round_trip(condition):
    model = flow(4, condition=condition)
    x = torch.randn(50, 4, dtype=torch.float64)
    c = None if condition is None else torch.randint(3, (50,)) if isinstance(condition, Labels) else torch.randn(50, 2)
    assert isinstance(model, Encodes)
    assert isinstance(model, Decodes)
    posterior = model.encode(x, c)
    assert posterior.batch_shape == (50,)
    assert (model.decode(posterior.mean, c) - x).abs().max() < 1e-10
    h = model.latents(50, seed=0)
    assert (model.encode(model.decode(h, c), c).mean - h).abs().max() < 1e-10
    assert posterior.log_prob(posterior.mean).tolist() == [0.0] * 50
    assert posterior.log_prob(posterior.mean + 1).isinf().all()


def test_decode_is_differentiable_where_asked():
    model = flow(3)
    h = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    model.decode(h).sum().backward()
    assert h.grad is not None
    assert (h.grad != 0).any()
    assert not model.decode(h.detach()).requires_grad


def test_condition_changes_the_density_and_integrates_for_each_label():
    model = flow(2, layers=4, condition=Labels(3))
    axis = torch.linspace(-24, 24, 385, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    cell = float(axis[1] - axis[0]) ** 2
    with torch.no_grad():
        values = [model.log_prob(grid, torch.tensor([label])) for label in range(3)]
    for value in values:
        assert abs(float(value.exp().sum() * cell) - 1) < 5e-3
    assert (values[0] - values[1]).abs().max() > 1e-2


def test_actnorm_starts_once():
    torch.manual_seed(0)
    layer = ActNorm(3).double()
    x = 5 + 2 * torch.randn(1000, 3, dtype=torch.float64)
    layer.start(x)
    h, ldj = layer(x)
    assert h.mean(dim=0).abs().max() < 1e-9
    assert (h.std(dim=0, correction=0) - 1).abs().max() < 1e-9
    assert torch.isclose(ldj, -x.std(dim=0, correction=0).log().sum())
    assert torch.allclose(layer.inverse(h), x)
    before = layer.shift.clone()
    layer.start(x * 100)
    assert torch.equal(layer.shift, before)
    resumed = ActNorm(3).double()
    resumed.load_state_dict(layer.state_dict())
    resumed.start(x * 100)
    assert torch.equal(resumed.shift, before)


def test_start_normalises_every_layer_and_start_again_changes_nothing():
    torch.manual_seed(0)
    x = torch.randn(500, 4) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 7
    model = RealNVP(None, Vector(4))
    model.start(lambda: [Batch(x)], Batch(x), seed=0)
    z, _ = model.to_model_space(x)
    seen = []
    hooks = [norm.register_forward_hook(lambda norm, given, result: seen.append(result[0])) for norm in model.flow.norms]
    with torch.no_grad():
        model._flow(z, None)
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(model.flow.norms)
    for h in seen:
        assert h.mean(dim=0).abs().max() < 1e-4
        assert (h.std(dim=0) - 1).abs().max() < 1e-2
    with torch.no_grad():
        model.flow.norms[0].shift.add_(1.0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialise(Batch(x * 2))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_affine_equivariance_of_the_data_density():
    """Fitting c * x + b and asking there gives log p(x) - d log c."""
    torch.manual_seed(0)
    x, c, b = torch.randn(800, 2).double().exp(), 1000.0, -3.0
    densities = []
    for data in (x, c * x + b):
        torch.manual_seed(1)
        model = RealNVP(RealNVPConfig(layers=4, hidden=(8,)), Vector(2)).double()
        model.start(lambda data=data: [Batch(data)], Batch(data), seed=0)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            model.loss(Batch(data)).mean().backward()
            optimizer.step()
        densities.append(model.log_prob(data).detach())
    assert (densities[0] - densities[1] - 2 * math.log(c)).abs().max() < 1e-6


def test_training_lowers_the_loss_to_the_entropy_of_a_bent_gaussian():
    """x2 = N(x1^2, 0.3^2) is a single affine coupling away from a Gaussian, so the flow can fit it exactly."""
    torch.manual_seed(0)

    def bent(n):
        first = torch.randn(n, 1)
        return torch.cat([first, first**2 + 0.3 * torch.randn(n, 1)], dim=1)

    x, test = bent(4000), bent(4000)
    entropy = 1 + math.log(2 * math.pi) + math.log(0.3)
    model = RealNVP(RealNVPConfig(layers=4, hidden=(32,)), Vector(2))
    model.start(lambda: [Batch(x)], Batch(x), seed=0)
    before = -float(model.log_prob(test).detach().mean())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 300)
        optimizer.zero_grad()
        model.loss(Batch(x[torch.randint(len(x), (256,))])).mean().backward()
        optimizer.step()
    after = -float(model.log_prob(test).detach().mean())
    # The gaussian start sits 0.5 nats above; 4 standard errors of the test mean (sd of log p is 1) are 0.063.
    assert before > entropy + 0.3
    assert after < entropy + 0.15


def test_one_entry_is_refused_with_one_list_of_alternatives():
    with pytest.raises(Unsupported, match="has a single one; it needs at least two. Models that can: .*nsf") as caught:
        mk.fit("realnvp", torch.randn(40, 1).numpy(), preset="tiny")
    assert str(caught.value).count("nsf") == 1


def test_pictures_are_a_noisy_bound_in_bits_of_the_levels():
    torch.manual_seed(0)
    x = torch.randint(0, 17, (64, 1, 4, 4), dtype=torch.uint8)
    model = RealNVP(RealNVPConfig(layers=4, hidden=(16,)), Image((1, 4, 4), 17))
    model.start(lambda: [Batch(x)], Batch(x), seed=0)
    assert str(model.density) == "bound"
    assert model.sample(5, seed=0).dtype == torch.uint8
    assert torch.isfinite(model.log_prob(x)).all()
    assert not torch.equal(model.log_prob(x, seed=0), model.log_prob(x, seed=1))


# Pictures at several scales.


def pictures(size, *, levels: int = 5, scale: float = 0.1, condition=None) -> tuple[RealNVP, Tensor]:
    """A started float64 flow of pictures, away from its start, and pictures in its model space."""
    torch.manual_seed(0)
    x, c = torch.randint(0, levels, (64, *size), dtype=torch.uint8), None if condition is None else torch.arange(64) % condition.classes
    model = RealNVP(RealNVPConfig(pictures="multiscale", channels=8, blocks=1), Image(size, levels), condition)
    model.start(lambda: [Batch(x, c)], Batch(x, c), seed=0)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model, model.to_model_space(x)[0].double()


@pytest.mark.parametrize("size", [(1, 4, 4), (1, 5, 7), (2, 6, 4), (3, 4, 4), (1, 8, 8)])
def test_pictures_invert_and_their_whole_jacobian_adds_up(size):
    model, z = pictures(size, scale=0.03)
    with torch.no_grad():
        h, ldj = model._flow(z, None)
        assert h.shape == (64, math.prod(size))
        assert (model._unflow(h, None) - z).abs().max() < 1e-8
    matrix = torch.autograd.functional.jacobian(lambda row: model._flow(row[None], None)[0][0], z[0]).reshape(h.shape[1], -1)
    assert torch.isclose(ldj[0], torch.linalg.slogdet(matrix).logabsdet, atol=1e-8)


def test_every_pixel_is_moved_by_others():
    model, z = pictures((1, 8, 8))
    matrix = torch.autograd.functional.jacobian(lambda row: model._flow(row[None], None)[0][0], z[0]).reshape(64, 64)
    assert ((matrix.abs() > 1e-9).sum(dim=1) > 1).all()
    assert ((matrix.abs() > 1e-9).sum(dim=0) > 1).all()


def test_masks_of_a_scale_alternate():
    model, _ = pictures((1, 8, 8))
    for scale in model.flow.scales:
        masks = [step.mask for step in scale.steps]
        for before, after in pairwise(masks):
            assert torch.equal(before + after, torch.ones_like(before))


def test_couplings_of_pictures_keep_what_their_mask_keeps():
    model, z = pictures((1, 4, 4))
    step = model.flow.scales[0].steps[0]
    h, _ = step(z, None)
    kept = step.mask.bool().expand_as(z)
    assert torch.equal(h[kept], z[kept])
    assert (h[~kept] != z[~kept]).all()


def test_pictures_at_scales_have_classes_samples_and_a_start_that_happens_once():
    model, _ = pictures((1, 6, 6), condition=Labels(2), scale=0.02)
    x = torch.randint(0, 5, (9, 1, 6, 6), dtype=torch.uint8)
    c = torch.arange(9) % 2
    assert str(model.density) == "bound"
    assert model.sample(3, c[:3], seed=0).dtype == torch.uint8
    assert not torch.equal(model.log_prob(x, c), model.log_prob(x, 1 - c))
    assert (model.decode(model.encode(x, c).mean, c) == x).all()
    before = {name: value.clone() for name, value in model.flow.state_dict().items()}
    model.initialise(Batch(x, c))
    assert all(torch.equal(value, before[name]) for name, value in model.flow.state_dict().items())


def test_scales_are_refused_for_rows_and_small_pictures():
    for space in (Vector(4), Image((1, 3, 4), 5)):
        with pytest.raises(InvalidInput, match="expected pictures of at least 4 x 4: choose rows") as caught:
            RealNVP(RealNVPConfig(pictures="multiscale"), space)
        assert not isinstance(caught.value, Unsupported)
