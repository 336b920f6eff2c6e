"""Checks of complete: what is known stays, what is not follows the model's own conditional distribution."""

import dataclasses
from typing import cast

import torch
from torch import Tensor

from manykin.contract import Completes, GenerativeModel
from manykin.spaces import Image, Labels, Space, Tokens, Value, Vector, columns_of, take
from manykin.testing.context import Context, same, same_value
from manykin.testing.core import Topic, implements, is_estimated, is_repeatable, one_tensor, require
from manykin.testing.statistics import P_VALUE, as_columns, axes_of, chi_square, integrate
from manykin.transforms.continuous import restore

check = Topic("completion")


def _completes(model: GenerativeModel) -> bool:
    return implements(Completes)(model) and one_tensor(model)


def in_order(space: Space, x: Tensor) -> Tensor:
    """The entries of rows in the order in which they are read, (n, entries): pictures line by line, the channels of a pixel one after the other."""
    return x.permute(0, 2, 3, 1).flatten(1) if isinstance(space, Image) else x.reshape(len(x), -1)


def from_order(space: Space, flat: Tensor) -> Tensor:
    """The inverse of :func:`in_order`: rows (n, entries) in the shape of the space."""
    if isinstance(space, Image):
        channels, height, width = space.size
        return flat.reshape(-1, height, width, channels).permute(0, 3, 1, 2).contiguous()
    return flat.reshape(len(flat), *space.shape)


def mask(ctx: Context, x: Tensor, share: float = 0.5) -> Tensor:
    """Which entries are known: a random half, or random prefixes where the model completes prefixes only."""
    g = torch.Generator().manual_seed(5)
    if type(ctx.model).completes == "prefix":
        entries = x[0].numel()
        lengths = torch.randint(entries + 1, (len(x), 1), generator=g)
        return from_order(ctx.declared.space, torch.arange(entries)[None] < lengths)
    return torch.rand(x.shape, generator=g) < share


def fill(ctx: Context, x: Tensor, known: Tensor, condition: Value | None, seed: int = 0) -> Tensor:
    """Call complete on the fitted model."""
    return cast(Tensor, cast(Completes, ctx.model).complete(x, known, condition, seed=seed))


@check(when=_completes)
def known_entries_stay(ctx: Context) -> None:
    """Known entries come back untouched, in the same shape and dtype, and the input is left alone."""
    x = ctx.x.clone()
    known = mask(ctx, x) & ~_missing(x)
    kept = x.clone()
    found = fill(ctx, x, known, ctx.rows.condition)
    require(found.shape == x.shape, f"complete of shape {tuple(x.shape)} returned shape {tuple(found.shape)}")
    gap = float((found.double() - x.double())[known].abs().max()) if bool(known.any()) else 0.0
    scale = 1 + float(x.double()[known].abs().max()) if bool(known.any()) else 1.0
    require(gap <= 1e-5 * scale, f"complete changed a known entry by {gap:.3g}")
    require(same(x, kept), "complete changed its input in place")


def _missing(x: Tensor) -> Tensor:
    return x.isnan() if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)


@check(when=_completes)
def completions_valid(ctx: Context) -> None:
    """Completed rows are valid data, whatever stood in the unknown entries."""
    x = ctx.x.clone()
    known = mask(ctx, x) & ~_missing(x)
    found = fill(ctx, x, known, ctx.rows.condition)
    ctx.declared.space.validate(found, "completions")
    require(not bool(_missing(found)[~known].any()), "completed entries are missing")
    shuffled = x[torch.arange(len(x) - 1, -1, -1)]
    other = torch.where(known, x, shuffled)
    if not isinstance(ctx.declared.space, Tokens):
        require(same(found, fill(ctx, other, known, ctx.rows.condition)), "what stands in unknown entries changes the completion")


@check(when=_completes)
def all_known_is_identity(ctx: Context) -> None:
    """With everything known, complete returns its input."""
    x = ctx.x[~_missing(ctx.x).flatten(1).any(1)] if ctx.x.dim() > 1 else ctx.x
    c = None if ctx.rows.condition is None else take(ctx.rows.condition, slice(0, len(x)))
    found = fill(ctx, x, torch.ones(x.shape, dtype=torch.bool), c)
    gap = float((found.double() - x.double()).abs().max())
    require(gap <= 1e-5 * (1 + float(x.double().abs().max())), f"complete of a fully known row changes it by {gap:.3g}")


@check(when=_completes)
def completion_seeded(ctx: Context) -> None:
    """One seed gives one completion, another seed another, and the global generator is left alone."""
    x, known = ctx.x, torch.zeros(ctx.x.shape, dtype=torch.bool)
    before = torch.get_rng_state()
    first, again, other = (fill(ctx, x, known, ctx.rows.condition, seed) for seed in (0, 0, 1))
    require(same_value(first, again), "complete with the same seed differs between two calls")
    require(not same_value(first, other), "complete with two seeds gives the same")
    require(torch.equal(before, torch.get_rng_state()), "complete changed the global generator")


def _law_known(model: GenerativeModel) -> bool:
    return _completes(model) and is_repeatable(model) and not is_estimated(model) and unknown_entry(model.space) is not None


def unknown_entry(space: Space) -> int | None:
    """The entry to leave out: the last one with few values or a single real number."""
    if isinstance(space, Labels):
        return None
    if isinstance(space, Tokens):
        return space.length - 1 if space.end is None else space.length - 2
    columns = columns_of(space)
    if len(columns) < 2:
        return None
    return next((index for index in range(len(columns) - 1, -1, -1) if (columns[index].cardinality or 2) <= 64), None)


@check(when=_law_known)
def completions_follow_conditional(ctx: Context) -> None:
    """Completions of one unknown entry follow the conditional distribution of the model's own log_prob (chi-square)."""
    space, n = ctx.declared.space, 4096 if ctx.full else 1536
    at = cast(int, unknown_entry(space))
    usable = (~_missing(ctx.x).flatten(1).any(1)).nonzero()[:, 0]
    if isinstance(space, Tokens) and space.end is not None:
        usable = (ctx.x[:, :at] != space.end).all(1).nonzero()[:, 0]
    for row in usable[: 3 if ctx.full else 2].tolist():
        x = ctx.x[row : row + 1].expand(n, *ctx.x.shape[1:]).clone()
        c = None if ctx.rows.condition is None else take(ctx.rows.condition, slice(row, row + 1))
        many = None if c is None else take(c, torch.zeros(n, dtype=torch.long))
        known = torch.ones(x.shape, dtype=torch.bool)
        known.view(n, -1)[:, at] = False
        if isinstance(space, Tokens) and space.end is not None:
            known[:, -1] = False
        drawn = fill(ctx, x, known, many, seed=row).reshape(n, -1)[:, at].double()
        observed, expected = conditional_counts(ctx, x[:1], c, at, drawn)
        statistic, p, cells = chi_square(observed, expected)
        require(
            p > P_VALUE, f"completions of entry {at} of row {row} do not follow log_prob: chi-square {statistic:.0f} over {cells} cells, p = {p:.1g}"
        )


def conditional_counts(ctx: Context, x: Tensor, c: Value | None, at: int, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """How many values of one unknown entry fall into each cell, and how many log_prob expects there given the rest of a row x (1, ...)."""
    space = ctx.declared.space
    if isinstance(space, Tokens):
        rows = x.expand(space.vocab, -1).clone()
        rows[:, at] = torch.arange(space.vocab)
        if space.end is not None:
            rows[:, -1] = space.end
        chance = ctx.log_prob(rows, c).softmax(0)
        return torch.bincount(drawn.long(), minlength=space.vocab).double(), chance * len(drawn)
    base = as_columns(x, space)
    full = torch.cat([as_columns(ctx.data.train.all().x, space)[:, at], drawn])
    column = full[:, None].expand(-1, base.shape[1])
    axis = axes_of(space, torch.cat([as_columns(ctx.data.train.all().x, space), column]), bins=10, per_cell=32)[at]
    axis = dataclasses.replace(axis, missing=False)

    def along(points: Value, seed: int) -> Tensor:
        rows = base.expand(len(cast(Tensor, points)), -1).clone()
        rows[:, at] = cast(Tensor, points).double()[:, 0]
        return ctx.log_prob(restore(rows, space), c)

    masses = integrate(along, Vector(1), [axis], pairs=1 if axis.values is not None else 4)
    observed = torch.bincount(axis.locate(drawn), minlength=axis.cells + 1).double()
    shares = torch.cat([masses.cells / max(masses.total, 1e-300), torch.zeros(1, dtype=torch.float64)])
    return observed, shares * len(drawn)
