"""Checks of sample: the law of the samples is the model's own, and their randomness follows from the seed alone."""

import math
from typing import cast

import torch
from torch import Tensor

from manykin.random import hash_seed, seeded
from manykin.spaces import Image, Labels, Space, Tokens, Value, cat, columns_of, take
from manykin.testing.context import Context, same_value
from manykin.testing.core import Topic, has_exact_kind, is_implicit, is_normalised, on_labels, one_tensor, require
from manykin.testing.density import cell_masses, has_mass, interior, partition
from manykin.testing.statistics import (
    P_VALUE,
    as_columns,
    chi_square,
    distance_test,
    enumerate_tokens,
    locate,
    z_score,
    z_threshold,
)

check = Topic("sampling")


@check(when=has_mass)
def samples_match_density(ctx: Context) -> None:
    """Counts of samples in cells agree with the density integrated over the cells (chi-square)."""
    n = 20_000 if ctx.full else 3072
    for condition in ctx.condition_values():
        c = None if condition is None else take(condition, torch.zeros(n, dtype=torch.long))
        x = cast(Tensor, ctx.model.sample(n, c, seed=11))
        observed, expected, variance = _counts(ctx, x, condition)
        statistic, p, cells = chi_square(observed, expected, variance)
        given = "" if condition is None else f" given condition {cast(Tensor, condition).tolist()}"
        require(p > P_VALUE, f"{n} samples do not follow log_prob{given}: chi-square {statistic:.0f} over {cells} cells, p = {p:.1g}")


def _counts(ctx: Context, x: Tensor, condition: Value | None) -> tuple[Tensor, Tensor, Tensor | None]:
    space = ctx.declared.space
    if isinstance(space, Tokens):
        strings = enumerate_tokens(space)
        expected = ctx.log_prob(strings, condition).exp() * len(x)
        powers = space.vocab ** torch.arange(space.length)
        codes, keys = (strings * powers).sum(1), (x * powers).sum(1)
        order = codes.argsort()
        return torch.bincount(order[torch.searchsorted(codes[order], keys)], minlength=len(strings)), expected, None
    kept = as_columns(x, space)
    axes = partition(ctx)
    masses = cell_masses(ctx, axes, condition)
    inside = interior(ctx, axes)
    counts = torch.bincount(locate(axes, kept), minlength=len(inside) + 1).double()
    total = masses.total if ctx.model.kind is not None and ctx.model.kind.noisy and ctx.model.transform.exact else 1.0
    shares = masses.cells / total
    observed = torch.cat([counts[:-1][inside], (counts[:-1][~inside].sum() + counts[-1])[None]])
    expected = torch.cat([shares[inside], (1 - shares[inside].sum()).clamp_min(0)[None]]) * len(kept)
    variance = torch.cat([masses.variance[inside], masses.variance[inside].sum()[None]]).nan_to_num(0.0) * len(kept) ** 2
    return observed, expected, variance


@check(when=lambda model: has_exact_kind(model) and one_tensor(model))
def metropolis_keeps_samples(ctx: Context) -> None:
    """Metropolis steps with the model's own density leave the law of its samples unchanged: in any dimension, normalised or not.

    From x ~ p, steps that accept a symmetric proposal x' with probability min(1, p(x') / p(x)) end in x* ~ p, so E[f(x*) - f(x)] = 0 for each f
    (Metropolis et al., Equation of state calculations by fast computing machines, 1953).
    """
    z, c = _model_samples(ctx, 4096 if ctx.full else 1536)
    model, space = ctx.model, ctx.model.model_space
    moved = z
    with torch.no_grad(), model.evaluating(0):
        start = now = model._log_prob(z, c).double()
        outside = int((start == -math.inf).sum())
        require(outside == 0, f"{outside} of {len(z)} samples have density zero under the model itself")
        for step in range(60 if ctx.full else 12):
            g = torch.Generator().manual_seed(step)
            proposed = _propose(moved, space, z, g)
            ahead = model._log_prob(proposed, c).double()
            taken = torch.rand(len(z), generator=g, dtype=torch.float64).log() < ahead - now
            now = torch.where(taken, ahead, now)
            moved = torch.where(taken.view(-1, *[1] * (z.dim() - 1)), proposed, moved)
    tests = {"log p": now - start}
    old, new = (part.double().flatten(1) if part.dim() > 1 else part.double()[:, None] for part in (z, moved))
    for index in range(min(old.shape[1], 8)):
        tests[f"entry {index}"] = (new[:, index] - old[:, index]).nan_to_num(0.0)
        tests[f"entry {index} squared"] = (new[:, index] ** 2 - old[:, index] ** 2).nan_to_num(0.0)
    limit = z_threshold(len(tests))
    for name, values in tests.items():
        z_value = z_score(values)
        require(
            abs(z_value) <= limit,
            f"Metropolis steps move the mean of {name} of the samples by {z_value:.1f} standard errors: sampler and density differ",
        )


def _model_samples(ctx: Context, n: int) -> tuple[Tensor, Value | None]:
    model, block = ctx.model, type(ctx.model).sample_block
    c = ctx.conditions(n)
    parts = []
    for start in range(0, n, block):
        part = None if c is None else take(c, slice(start, start + block))
        with torch.no_grad(), model.evaluating(hash_seed(13, start)):
            parts.append(model._sample(min(block, n - start), part, None))
    return cast(Tensor, cat(parts)), c


def _propose(z: Tensor, space: Space, reference: Tensor, g: torch.Generator) -> Tensor:
    """A symmetric random change of each row: a step of real entries as wide as the reference, another value in one entry of finitely many."""
    n = len(z)
    rows = torch.arange(n)
    moved = z.clone()
    if isinstance(space, Tokens):
        free = (z != space.end) if space.end is not None else torch.ones_like(z, dtype=torch.bool)
        codes = torch.tensor([code for code in range(space.vocab) if code != space.end])
        at = torch.multinomial(free.double() + 1e-12, 1, generator=g)[:, 0]
        fresh = codes[torch.randint(len(codes), (n,), generator=g)].to(z.dtype)
        moved[rows, at] = torch.where(free[rows, at], fresh, z[rows, at])
        return moved
    flat = moved.view(n, -1)
    columns = columns_of(space)
    finite = [index for index, column in enumerate(columns) if column.cardinality is not None]
    unbounded = [index for index, column in enumerate(columns) if column.cardinality is None]
    if unbounded:
        scale = reference.reshape(n, -1)[:, unbounded].double().nan_to_num(0.0).std(0).clamp_min(1e-6)
        size = torch.tensor([0.2, 0.7, 1.5], dtype=torch.float64)[torch.randint(3, (n, 1), generator=g)] / math.sqrt(len(unbounded))
        step = scale * size * torch.randn(n, len(unbounded), generator=g, dtype=torch.float64)
        grids = torch.tensor([columns[index].grid or 0.0 for index in unbounded], dtype=torch.float64)
        step = torch.where(grids > 0, (step / grids.clamp_min(1e-12)).round() * grids, step)
        flat[:, unbounded] = (flat[:, unbounded].double() + step).to(z.dtype)
    if finite:
        at = torch.tensor(finite)[torch.randint(len(finite), (n,), generator=g)]
        sizes = torch.tensor([float(columns[index].cardinality or 1) for index in range(len(columns))], dtype=torch.float64)[at]
        low = torch.tensor([column.origin for column in columns], dtype=torch.float64)[at]
        fresh = low + (torch.rand(n, generator=g, dtype=torch.float64) * sizes).floor()
        kept = flat[rows, at].double().isnan() if z.is_floating_point() else torch.zeros(n, dtype=torch.bool)
        flat[rows, at] = torch.where(kept, flat[rows, at], fresh.to(z.dtype))
    return moved


@check(when=lambda model: is_normalised(model) and model.condition is not None and isinstance(model.condition, Labels) and one_tensor(model))
def samples_respect_condition(ctx: Context) -> None:
    """Samples of a class are more likely under their own class than under another, wherever the density tells classes apart."""
    classes = cast(Labels, ctx.declared.condition).classes
    n = 256
    margins = []
    for label in range(min(classes, 4)):
        other = torch.full((n,), (label + 1) % min(classes, 4))
        own = torch.full((n,), label)
        x = ctx.model.sample(n, own, seed=hash_seed(19, label))
        margins.append((ctx.log_prob(x, own, draws=4) - ctx.log_prob(x, other, draws=4)).clamp(-50, 50))
    margin = torch.cat(margins)
    z = z_score(margin)
    require(
        z > z_threshold() or float(margin.abs().max()) < 1e-9,
        f"samples are not likelier under their own class than under another (margin {float(margin.mean()):.3g} nats, {z:.1f} standard errors)",
    )


@check(when=lambda model: is_implicit(model) and on_labels(model) and one_tensor(model))
def classes_differ(ctx: Context) -> None:
    """Samples of two classes differ (energy distance against permutations)."""
    n = 300
    zs = []
    x0 = ctx.columns(ctx.model.sample(n, torch.zeros(n, dtype=torch.long), seed=23))
    for label in range(1, min(cast(Labels, ctx.declared.condition).classes, 4)):
        x1 = ctx.columns(ctx.model.sample(n, torch.full((n,), label), seed=29 + label))
        zs.append(distance_test(x0, x1)[1])
    require(
        not zs or max(zs) > 5,
        f"samples of different classes are alike (energy distance {max(zs, default=0.0):.1f} standard deviations): the condition is ignored",
    )


@check(when=on_labels)
def conditions_drawn_by_frequency(ctx: Context) -> None:
    """Without a condition, samples come from a mixture of the classes: as those of conditions drawn by frequency."""
    model = ctx.model
    n = 64
    with seeded(hash_seed(31, "conditions")):
        c = torch.multinomial(model.condition_frequencies, n, replacement=True)
    require(
        same_value(model.sample(n, seed=31), model.sample(n, c, seed=31)),
        "sample without a condition does not draw conditions by their training frequencies",
    )


@check()
def samples_valid(ctx: Context) -> None:
    """Samples are valid data, also of a model that has learnt nothing yet."""
    x, _ = ctx.samples(1024)
    ctx.declared.space.validate(x, "samples")
    untrained = ctx.started.sample(64, ctx.conditions(64), seed=0)
    ctx.declared.space.validate(untrained, "samples of the untrained model")


@check(when=one_tensor)
def samples_dtype(ctx: Context) -> None:
    """Samples have the space's own dtype."""
    x, _ = ctx.samples(1024)
    space = ctx.declared.space
    kind = cast(Tensor, x).dtype
    if isinstance(space, Image):
        require(kind == space.dtype or space.levels is None, f"samples have dtype {kind}; expected {space.dtype}")
    elif isinstance(space, (Tokens, Labels)):
        require(kind == torch.int64, f"samples have dtype {kind}; expected int64")
    else:
        require(kind.is_floating_point, f"samples have dtype {kind}; expected a floating dtype")


@check(when=lambda model: bool(type(model).samplers))
def samplers_work(ctx: Context) -> None:
    """Each sampler that the model lists draws valid data with its default options."""
    for kind in type(ctx.model).samplers:
        x = ctx.model.sample(8, ctx.conditions(8), seed=0, sampler=kind())
        ctx.declared.space.validate(x, f"samples by {kind.__name__}")


@check(when=one_tensor)
def transform_is_lossless(ctx: Context) -> None:
    """Data survive the way to model space and back."""
    model = ctx.copy().double()
    with torch.no_grad(), seeded(0):
        z, _ = model.to_model_space(ctx.rows.x)
        back = model.finish(z)
    gap = float((ctx.columns(back) - ctx.columns(ctx.rows.x)).abs().nan_to_num(0.0).max())
    require(
        gap <= 1e-5 * (1 + float(ctx.columns(ctx.rows.x).nan_to_num(0.0).abs().max())),
        f"data differ by {gap:.3g} after the way to model space and back",
    )
