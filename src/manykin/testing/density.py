"""Checks of log_prob: what it is said to be, it is."""

import math
from typing import cast

import torch
from scipy import stats
from torch import Tensor

from manykin.contract import GenerativeModel, Scores, Weighs
from manykin.spaces import Labels, Tokens, Value, columns_of, take
from manykin.testing.context import Context, worst
from manykin.testing.core import (
    Topic,
    both,
    has_density,
    implements,
    is_noisy,
    is_normalised,
    on_labels,
    one_tensor,
    real_space,
    require,
)
from manykin.testing.examples import dataset_of
from manykin.testing.statistics import (
    P_VALUE,
    Axis,
    Masses,
    as_columns,
    axes_of,
    continuous,
    edge_cells,
    enumerate_tokens,
    grid_points,
    integrable,
    integrate,
    z_threshold,
)
from manykin.transforms.continuous import restore

check = Topic("density")


def has_mass(model: GenerativeModel) -> bool:
    """The whole mass of log_prob can be added up."""
    return is_normalised(model) and one_tensor(model) and integrable(model.space)


def partition(ctx: Context) -> list[Axis]:
    """Cells that cover data and samples of the fitted model."""
    samples, _ = ctx.samples(1024)
    space = ctx.declared.space
    reference = torch.cat([as_columns(ctx.data.train.all().x, space), as_columns(samples, space)])
    plain = sum(axis is None for axis in (column.cardinality for column in columns_of(space)))
    return axes_of(space, reference, bins=8, per_cell=(1, 24, 3)[min(plain, 2)] * (2 if ctx.full else 1))


def cell_masses(ctx: Context, axes: list[Axis], condition: Value | None) -> Masses:
    """The mass of each cell for one condition, averaged over draws where log_prob is noisy."""
    noisy = is_noisy(ctx.model)
    draws = (4 if noisy else 1) * (4 if noisy and ctx.full else 1)
    finite = all(axis.values is not None for axis in axes)
    pairs = 1 if finite and not noisy else 4
    return integrate(lambda x, seed: ctx.log_prob(x, condition, seed=seed, draws=draws), ctx.declared.space, axes, pairs)


@check(when=has_mass)
def mass_is_one(ctx: Context) -> None:
    """exp(log_prob) adds up to one, missing values included: by enumeration or quadrature; at most one where it is a bound."""
    space = ctx.declared.space
    if isinstance(space, Tokens):
        x = enumerate_tokens(space)
        for condition in ctx.condition_values():
            total = float(ctx.log_prob(x, condition).exp().sum())
            require(abs(total - 1) <= 1e-3, f"the probabilities of all {len(x)} strings add up to {total:.5f}; expected 1")
        return
    axes = partition(ctx)
    for condition in ctx.condition_values():
        masses = cell_masses(ctx, axes, condition)
        error = masses.error if math.isfinite(masses.error) else 0.0
        slack = 6 * error + 3e-3
        # Each replicate is an unbiased estimate of a mass of one: by Markov's inequality all four exceed 10 with a chance of at most 1e-4.
        require(
            masses.total <= 1 + slack and masses.least <= 10,
            f"exp(log_prob) adds up to {masses.total:.5g} ± {error:.2g}; expected 1{_given(condition)}",
        )
        lost = _may_lose(ctx, axes)
        require(masses.total >= 1 - slack - lost, f"exp(log_prob) adds up to {masses.total:.5f} ± {error:.2g}; expected 1{_given(condition)}")


def _may_lose(ctx: Context, axes: list[Axis]) -> float:
    """Mass that a bound may miss: what clamping put at the ends of a range, and all of it where rare draws of an estimate may carry it."""
    density = ctx.model.density
    lost = 0.0
    if not ctx.model.transform.exact:
        samples, _ = ctx.samples(1024)
        columns = as_columns(samples, ctx.declared.space)
        places = torch.stack([axis.locate(columns[:, index]) for index, axis in enumerate(axes)], dim=1)
        ends = [(places[:, index] == 0) | (places[:, index] == axis.cells - 1) for index, axis in enumerate(axes) if axis.values is not None]
        lost += float(torch.stack(ends).any(dim=0).double().mean()) if ends else 0.0
    if ctx.model.kind is not None and ctx.model.kind.noisy and density is not None:
        lost += 1.0
    return lost


def _given(condition: Value | None) -> str:
    return "" if condition is None else f" given condition {condition.tolist() if isinstance(condition, Tensor) else condition}"


def interior(ctx: Context, axes: list[Axis]) -> Tensor:
    """Cells whose probability the samples must have; those where clamping piles up mass are left to the rest."""
    inside = torch.ones(math.prod(axis.cells for axis in axes), dtype=torch.bool)
    return inside if ctx.model.transform.exact else inside & ~edge_cells(axes)


@check(when=lambda model: is_normalised(model) and real_space(model) and one_tensor(model))
def affine_equivariance(ctx: Context) -> None:
    """Fitted with one seed to x and to 4 x + 8, log_prob differs by log 4 an entry: data units are accounted for."""
    factor, shift, steps = 4.0, 8.0, {"max_steps": 5, "ema": None}
    space, condition = ctx.declared.space, ctx.declared.condition
    changes = {key: value for key, value in steps.items() if value is not None}
    train = ctx.data.train.all()
    x = cast(Tensor, train.x)
    n = min(len(x), 256) * 2 // 3
    values = []
    for a, b in ((1.0, 0.0), (factor, shift)):
        rows = type(train)(a * x[:256].double() + b, None if train.condition is None else take(train.condition, slice(0, 256)))
        model = ctx.fit(ctx.fresh(), data=dataset_of(rows, space, condition, n), changes=changes)
        probe = a * ctx.x.double() + b
        with torch.no_grad():
            values.append(model.log_prob(probe, ctx.rows.condition, seed=0))
    entries = math.prod(space.shape)
    found = values[0] - values[1]
    gap = worst(torch.where(found.isnan(), entries * math.log(factor), found), torch.full_like(found, entries * math.log(factor)))
    require(
        gap <= 0.05 * entries,
        f"log_prob changes by up to {gap:.3g} nats more or less than {entries} log {factor:g} when the unit of the data changes",
    )


@check(when=has_density)
def log_prob_seeded(ctx: Context) -> None:
    """One seed gives one log_prob; without noise every seed does; with noise declared there is noise."""
    first, again, other = (ctx.model.log_prob(ctx.rows.x, ctx.rows.condition, seed=seed).detach() for seed in (0, 0, 1))
    require(worst(first, again) == 0, "log_prob with the same seed differs between two calls")
    noisy = ctx.model.density is not None and ctx.model.density.noisy
    gap = worst(first, other)
    require(noisy or gap == 0, f"density says that log_prob has no noise, but two seeds differ by {gap:.3g} nats")
    own_noise = ctx.model.kind is not None and ctx.model.kind.noisy
    require(not own_noise or gap > 0, "kind says that log_prob is noisy, but two seeds agree: declare noisy=False")


@check(when=lambda model: has_density(model) and real_space(model) and one_tensor(model))
def gradient_in_x(ctx: Context) -> None:
    """log_prob is differentiable in real x, and its gradient is that of finite differences."""
    model = ctx.copy().double()
    x = ctx.x.double()[:16].clone()
    c = None if ctx.rows.condition is None else take(ctx.rows.condition, slice(0, 16))
    x.requires_grad_(True)
    value = model.log_prob(x, c)
    slope = torch.zeros_like(x)
    if value.requires_grad:
        slope = torch.autograd.grad(value[value.isfinite()].sum(), x, allow_unused=True)[0]
        slope = torch.zeros_like(x) if slope is None else slope
    scale = ctx.columns(ctx.data.train.all().x).std(0).view(x.shape[1:])
    direction = scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gaps = []
    for step in (1e-4, 1e-6):
        with torch.no_grad():
            ahead, behind = (model.log_prob(x.detach() + side * step * direction, c) for side in (1, -1))
        expected = (ahead - behind) / (2 * step)
        found = (slope * direction).flatten(1).sum(1)
        usable = expected.isfinite()
        gaps.append(((found - expected).abs() / (1 + expected.abs()))[usable])
    gap = torch.minimum(*gaps) if gaps[0].shape == gaps[1].shape else gaps[1]
    share = float((gap > 1e-2).double().mean()) if len(gap) else 0.0
    require(
        share <= 0.1, f"the gradient of log_prob is not that of finite differences at {share:.0%} of the points (worst gap {float(gap.max()):.3g})"
    )


@check(when=lambda model: has_density(model) and real_space(model) and one_tensor(model))
def far_points(ctx: Context) -> None:
    """Points a thousand standard deviations away get a low number or minus infinity, never NaN."""
    reference = ctx.columns(ctx.data.train.all().x)
    x = ctx.x.double()
    centre, scale = reference.mean(0).view(x.shape[1:]), reference.std(0).view(x.shape[1:])
    near = ctx.log_prob(ctx.rows.x, ctx.rows.condition)
    for distance in (1e3, -1e3):
        far = ctx.model.log_prob((centre + distance * scale).expand_as(x).clone(), ctx.rows.condition).detach()
        require(not bool(far.isnan().any()), f"log_prob is NaN {distance:g} standard deviations from the data")
        require(not bool((far == math.inf).any()), f"log_prob is +inf {distance:g} standard deviations from the data")
        normal = is_normalised(ctx.model)
        require(not normal or float(far.max()) < float(near.max()), f"log_prob is higher {distance:g} standard deviations away than at the data")


@check(when=both(has_density, on_labels))
def marginal_is_log_sum(ctx: Context) -> None:
    """marginal_log_prob is the sum over classes with the training frequencies, and the frequencies are those of the training rows."""
    labels = cast(Labels, ctx.declared.condition)
    observed = torch.bincount(cast(Tensor, ctx.data.train.all().condition), minlength=labels.classes).double()
    stored = ctx.model.condition_frequencies.double()
    gap = worst(stored, observed / observed.sum())
    require(ctx.subject.fitted or gap < 1e-9, f"condition_frequencies {stored.tolist()} are not those of the training rows (gap {gap:.3g})")
    require(abs(float(stored.sum()) - 1) < 1e-9, f"condition_frequencies add up to {float(stored.sum()):.6g}; expected 1")
    terms = [ctx.model.log_prob(ctx.rows.x, torch.tensor([label])).detach() + stored[label].log() for label in range(labels.classes)]
    gap = worst(torch.logsumexp(torch.stack(terms), 0), ctx.model.marginal_log_prob(ctx.rows.x).detach())
    require(gap <= 1e-6, f"marginal_log_prob differs from the log of the sum over classes by {gap:.3g} nats")


@check(when=lambda model: has_density(model) and model.condition is not None)
def condition_used(ctx: Context) -> None:
    """log_prob depends on the condition."""
    other = take(cast(Value, ctx.rows.condition), torch.arange(47, -1, -1))
    if isinstance(ctx.declared.condition, Labels):
        other = (cast(Tensor, ctx.rows.condition) + 1) % ctx.declared.condition.classes
    gap = worst(ctx.model.log_prob(ctx.rows.x, ctx.rows.condition), ctx.model.log_prob(ctx.rows.x, other))
    require(gap > 0, "log_prob is the same under another condition: the condition is ignored")


@check(when=both(implements(Scores), has_density, real_space, lambda model: model.condition is None))
def score_is_gradient(ctx: Context) -> None:
    """score(x) is the gradient of log_prob."""
    model = ctx.copy().double()
    x = ctx.x.double().clone().requires_grad_(True)
    slope = torch.autograd.grad(model.log_prob(x, ctx.rows.condition).sum(), x)[0]
    gap = worst(cast(Scores, model).score(x.detach()), slope)
    require(gap <= 1e-4 * (1 + float(slope.abs().max())), f"score differs from the gradient of log_prob by {gap:.3g}")


@check(when=both(implements(Weighs), is_noisy))
def weights_have_the_bound_law(ctx: Context) -> None:
    """The k weights of log_weights are independent draws, each with the mean and spread of log_prob."""
    n, k = 16, 400
    x = take(ctx.rows.x, slice(0, n))
    c = None if ctx.rows.condition is None else take(ctx.rows.condition, slice(0, n))
    model, repeated = cast(Weighs, ctx.model), torch.arange(n).repeat_interleave(k)
    many = None if c is None else take(c, repeated)
    with torch.no_grad():
        weights = model.log_weights(x, k, c, seed=5)
        require(weights.shape == (n, k), f"log_weights(x, {k}) has shape {tuple(weights.shape)}; expected ({n}, {k})")
        require(worst(weights, model.log_weights(x, k, c, seed=5)) == 0, "log_weights with the same seed differs between two calls")
        bound = ctx.model.log_prob(take(x, repeated), many, seed=1).view(n, k)
        means = model.log_weights(take(x, repeated), 8, many, seed=2).mean(1).view(n, k)
    spread = weights.var(1) / k + bound.var(1) / k
    z = (weights.mean(1) - bound.mean(1)) / spread.clamp_min(1e-18).sqrt()
    p = float(stats.chi2.sf(float((z**2).sum()), n))
    gap = float((weights.mean(1) - bound.mean(1)).abs().max())
    require(p > P_VALUE or gap < 1e-3, f"the mean of log_weights differs from that of log_prob by up to {gap:.4g} nats a row (p = {p:.1g})")
    _same_spread(weights.var(1), bound.var(1), "log_weights and of draws of log_prob")
    _same_spread(8 * means.var(1), weights.var(1), "means of 8 weights, times 8, and of single weights")


def _same_spread(a: Tensor, b: Tensor, what: str) -> None:
    """Compare variances row by row: a t-test of the logarithm of their ratio, and a ratio beyond 1.25."""
    log_ratio = a.clamp_min(1e-18).log() - b.clamp_min(1e-18).log()
    t = float(log_ratio.mean() / (log_ratio.std() / math.sqrt(len(log_ratio))).clamp_min(1e-12))
    alike = abs(t) < float(stats.t.isf(P_VALUE / 2, len(log_ratio) - 1)) or abs(float(log_ratio.mean())) < math.log(1.25)
    require(alike, f"the variances of {what} have a ratio of {math.exp(float(log_ratio.mean())):.3g}; expected 1")


def _few_values(model: GenerativeModel) -> bool:
    own_noise = model.kind is not None and model.kind.noisy and model.transform.exact
    return own_noise and has_mass(model) and not isinstance(model.space, Tokens) and continuous(model.space) == 0


@check(when=both(implements(Weighs), _few_values))
def weights_add_up(ctx: Context) -> None:
    """In a small finite space the means of exp(log_weights) add up to one, neither less nor more.

    The error is that of the k weights of each datum. Nothing is claimed of weights so uneven that less than a quarter of the mass has an effective
    sample size of a tenth of k: their error would be underestimated.
    """
    axes, k, space = partition(ctx), 8192 if ctx.full else 1024, ctx.declared.space
    points, volumes, _ = grid_points(axes, [0.5] * len(axes))
    x = restore(points, space)
    for condition in ctx.condition_values():
        c = None if condition is None else take(condition, torch.zeros(len(points), dtype=torch.long))
        with torch.no_grad():
            weights = cast(Weighs, ctx.model).log_weights(x, k, c, seed=21).exp() * volumes[:, None]
        masses, size = weights.mean(1), weights.sum(1) ** 2 / weights.square().sum(1).clamp_min(1e-300)
        even = float(masses[size >= k / 10].sum() / masses.sum())
        total, error = float(masses.sum()), math.sqrt(float(weights.var(1).sum()) / k)
        require(
            even < 0.25 or abs(total - 1) <= z_threshold() * error + 1e-3,
            f"the means of exp(log_weights) add up to {total:.5g} ± {error:.2g}; expected 1{_given(condition)}",
        )


def _countable(model: GenerativeModel) -> bool:
    return has_density(model) and model.space.discrete


@check(when=lambda model: _countable(model) and is_normalised(model))
def probabilities_below_one(ctx: Context) -> None:
    """In a countable space log_prob is the logarithm of a probability: never above zero."""
    value = ctx.log_prob(ctx.rows.x, ctx.rows.condition, draws=16)
    if ctx.model.kind is None or not ctx.model.kind.noisy:
        require(float(value.max()) <= 1e-3, f"log_prob of a datum in a countable space is {float(value.max()):.4g}: a probability above one")
