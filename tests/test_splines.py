"""Rational-quadratic splines and masked networks: inverses, slopes, gradients by hand, masks, and zuko as an oracle."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from zuko.flows import NSF as ZukoNSF
from zuko.flows.coupling import NICE
from zuko.transforms import MonotonicRQSTransform

from manykin.models.flows.nsf import NSF, NSFConfig
from manykin.models.flows.splines import HistogramSpline, Spline
from manykin.nn import MaskedMLP
from manykin.spaces import Vector

DOUBLE = torch.float64


class Stepped(HistogramSpline):
    low, high = 0.0, 1.0

    def __str__(self) -> str:
        return f"histogram of {self.cells}, {self.smooth}"


EDGES = SimpleNamespace(edges=torch.tensor([0.0, 0.55, 0.6, 0.9, 1.0], dtype=DOUBLE))
SMOOTH = Spline(7, 0.0, 1.0, tails=False, slope=1e-6)
SPLINES = [Spline(8, -3.0, 3.0), Spline(5, -2.0, 4.0), SMOOTH, Stepped(Spline(7, 0.0, 1.0, tails=False, slope=1e-2), EDGES)]


@pytest.mark.parametrize("spline", SPLINES, ids=str)
@pytest.mark.parametrize("strength", [0.0, 1.0, 30.0])
def test_spline_inverts_and_knows_its_slope(spline, strength):
    torch.manual_seed(0)
    raw = strength * torch.randn(400, 3, spline.width, dtype=DOUBLE)
    x = torch.rand(400, 3, dtype=DOUBLE) * (spline.high - spline.low) + spline.low
    x.requires_grad_(True)
    y, log_slope = spline.forward(x, raw)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope.log() - log_slope).abs().max() < 1e-9
    rounding = 1e-12 if isinstance(spline, HistogramSpline) else 0.0
    assert ((y >= spline.low - rounding) & (y <= spline.high + rounding)).all()
    back = spline.inverse(y, raw)
    # In units of y: where the spline is flat, rounding of y alone moves x.
    assert (spline.forward(back, raw)[0] - y).abs().max() < 1e-10
    assert ((back - x).abs() * slope.clamp(max=1)).max() < 1e-10
    if strength == 0:
        assert (y - x).abs().max() < 1e-12


@pytest.mark.parametrize("spline", SPLINES, ids=str)
def test_gradients_by_hand_are_right(spline):
    torch.manual_seed(0)
    x = (torch.rand(12, dtype=DOUBLE) * (spline.high - spline.low) * 0.98 + spline.low + 0.01).requires_grad_(True)
    raw = torch.randn(12, spline.width, dtype=DOUBLE).requires_grad_(True)
    assert torch.autograd.gradcheck(spline.forward, (x, raw))
    assert torch.autograd.gradcheck(spline.inverse, (x, raw))


def test_spline_is_the_identity_outside_and_joins_it_smoothly():
    spline = SPLINES[0]
    raw = torch.randn(6, spline.width, dtype=DOUBLE)
    x = torch.tensor([-1e6, -30.0, -3.0001, 3.0001, 30.0, 1e6], dtype=DOUBLE)
    y, log_slope = spline.forward(x, raw)
    assert torch.equal(y, x)
    assert (log_slope == 0).all()
    assert torch.equal(spline.inverse(x, raw), x)
    y, log_slope = spline.forward(torch.tensor([-3 + 1e-9, 3 - 1e-9], dtype=DOUBLE), raw[:2])
    assert (y - torch.tensor([-3.0, 3.0])).abs().max() < 1e-8
    assert log_slope.abs().max() < 1e-6


def test_spline_in_single_precision_is_finite_whatever_the_parameters():
    for spline in SPLINES:
        raw = (1e4 * torch.randn(500, spline.width)).requires_grad_(True)
        x = torch.linspace(spline.low, spline.high, 500)
        y, log_slope = spline.forward(x, raw)
        (y.sum() + log_slope.sum()).backward()
        assert all(torch.isfinite(value).all() for value in (y, log_slope, raw.grad, spline.inverse(y.detach(), raw.detach())))


def test_spline_near_a_histogram_gives_each_bin_its_mass():
    spline = SPLINES[2]
    mass = torch.rand(4, 7, dtype=DOUBLE) ** 3 + 1e-3
    mass = mass / mass.sum(1, keepdim=True)
    ends = torch.arange(8, dtype=DOUBLE).expand(4, 8) / 7
    y, _ = spline.forward(ends, spline.near(mass)[:, None].expand(4, 8, -1))
    assert (y.diff() - mass).abs().max() < 1e-9


def test_a_histogram_gives_each_cell_its_mass_and_jumps_at_its_edges():
    spline, edges = Stepped(SMOOTH, EDGES), EDGES.edges
    mass = torch.rand(6, 4, dtype=DOUBLE) ** 3 + 1e-3
    mass = mass / mass.sum(1, keepdim=True)
    raw = spline.near(mass)
    for side in (-1e-9, 1e-9):
        x = (edges[1:-1] + side).expand(6, 3)
        _, log_slope = spline.forward(x, raw[:, None].expand(6, 3, -1))
        density = mass / edges.diff()
        assert (log_slope.exp() - (density[:, :-1] if side < 0 else density[:, 1:])).abs().max() < 1e-6
    assert torch.equal(spline.cell(edges[:-1]), torch.arange(4))


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("entries", [1, 2, 5])
def test_masks_let_nothing_through_but_earlier_entries(entries, context):
    torch.manual_seed(0)
    net = MaskedMLP(entries, (12, 12), 3, features=2, context=context, activation="tanh").double()
    x, c = torch.randn(entries * 2, dtype=DOUBLE), torch.randn(1, context, dtype=DOUBLE) if context else None
    matrix = torch.autograd.functional.jacobian(lambda row: net(row[None], c)[0], x).view(entries, 3, entries, 2)
    seen = matrix.abs().amax(dim=(1, 3)) > 0
    assert torch.equal(seen, torch.ones(entries, entries).tril(-1).bool())
    assert torch.allclose(net(x[None], c)[:, entries - 1], net(x[None], c, entries - 1))
    if c is not None:
        given = torch.autograd.functional.jacobian(lambda c: net(x[None], c)[0], c)
        assert (given.abs().amax(dim=(1, 2, 3)) > 0).all()


# zuko as an oracle.


def test_splines_equal_zuko_s_from_the_same_parameters():
    torch.manual_seed(0)
    spline = Spline(8, -5.0, 5.0)
    x, raw = torch.rand(300, 4, dtype=DOUBLE) * 14 - 7, 3 * torch.randn(300, 4, spline.width, dtype=DOUBLE)
    theirs = MonotonicRQSTransform(raw[..., :8], raw[..., 8:16], raw[..., 16:], bound=5.0, slope=1e-3)
    y, log_slope = spline.forward(x, raw)
    expected, ladj = theirs.call_and_ladj(x)
    assert (y - expected).abs().max() < 1e-5
    assert (log_slope - ladj).abs().max() < 1e-5
    assert (spline.inverse(x, raw) - theirs.inv(x)).abs().max() < 1e-5


def linears(module) -> list:
    return [layer for layer in module.modules() if "weight" in dict(layer.named_parameters(recurse=False))]


@torch.no_grad()
def fill(target, weight: Tensor, bias: Tensor) -> None:
    target.weight.copy_(weight)
    target.bias.copy_(bias)


def compare(model: NSF, theirs, c: Tensor | None = None) -> None:
    x = 2 * torch.randn(200, model.size, dtype=DOUBLE)
    their_flow = theirs(c) if c is not None else theirs()
    with torch.no_grad():
        assert (model._log_prob(x, c) - their_flow.log_prob(x)).abs().max() < 1e-5
        h, ladj = their_flow.transform.call_and_ladj(x)
        mine, ldj = model._flow(x, c)
        assert (mine.sort(1).values - h.sort(1).values).abs().max() < 1e-5
        assert (ldj - ladj).abs().max() < 1e-5


def test_coupling_flow_equals_zuko_s_with_its_weights():
    """Zuko's masks keep even entries and move odd ones, then the reverse; ours puts the kept half first and swaps."""
    torch.manual_seed(0)
    size, bins = 6, 8
    theirs = NICE(
        size, transforms=2, univariate=MonotonicRQSTransform, shapes=[(bins,), (bins,), (bins - 1,)], hidden_features=(16, 16)
    ).double()  # fmt: skip
    model = NSF(NSFConfig(layers=2, bins=bins, bound=5.0, hidden=(16, 16)), Vector(size)).double()
    for transform, step in zip(theirs.transform.transforms, model.flow.steps):
        for source, target in zip(linears(transform.hyper), step.net.layers, strict=True):
            fill(target, source.weight + 0.1 * torch.randn_like(source.weight), source.bias)
            fill(source, target.weight, target.bias)
    compare(model, theirs)


@pytest.mark.parametrize("context", [0, 2])
def test_autoregressive_flow_equals_zuko_s_with_its_weights(context):
    """Zuko's second layer goes through the entries backwards; ours turns them round, so its columns and blocks of rows are turned too."""
    torch.manual_seed(0)
    size, bins = 5, 8
    theirs = ZukoNSF(size, context, bins=bins, transforms=2, hidden_features=(17, 17)).double()
    condition = Vector(context) if context else None
    model = NSF(NSFConfig(layers=2, bins=bins, bound=5.0, hidden=(17, 17), conditioner="autoregressive"), Vector(size), condition).double()
    for number, (transform, step) in enumerate(zip(theirs.transform.transforms, model.flow.steps)):
        sources = linears(transform.hyper)
        for place, (source, target) in enumerate(zip(sources, step.net.layers, strict=True)):
            weight, bias = source.weight + 0.3 * torch.randn_like(source.weight), source.bias
            fill(source, weight, bias)
            weight, bias = weight * source.mask, bias
            if number == 1 and place == 0:
                weight = torch.cat([weight[:, :size].flip(1), weight[:, size:]], dim=1)
            if number == 1 and target is step.net.last:
                weight, bias = (part.unflatten(0, (size, -1)).flip(0).flatten(0, 1) for part in (weight, bias))
            fill(target, weight, bias)
    hidden = [set(map(tuple, (layer.weight * layer.mask != 0).tolist())) for layer in model.flow.steps[0].net.layers[:1]]
    assert len(hidden[0]) == size - (0 if context else 1)
    compare(model, theirs, torch.randn(200, context, dtype=DOUBLE) if context else None)
