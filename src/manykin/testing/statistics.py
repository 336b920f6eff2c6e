"""Statistics behind the checks: thresholds from p-values, chi-square, and integration with a standard error."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
from scipy import stats
from torch import Tensor

from manykin.spaces import Column, Record, Space, Tokens, Value, columns_of, take
from manykin.transforms.continuous import restore

P_VALUE = 1e-4
"""The chance that a check fails a sound model, for each check and seed."""


def z_threshold(tests: int = 1) -> float:
    """The two-sided normal quantile at :data:`P_VALUE`, after Bonferroni's correction for several tests."""
    return float(stats.norm.isf(P_VALUE / (2 * tests)))


def z_score(values: Tensor) -> float:
    """The mean of independent values in standard errors; 0 where all are zero."""
    values = values.double()
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(len(values))
    return 0.0 if mean == 0 else mean / error if error > 0 else math.copysign(math.inf, mean)


def chi_square(observed: Tensor, expected: Tensor, variance: Tensor | None = None, smallest: float = 5.0) -> tuple[float, float, int]:
    """Pearson's statistic, its p-value and the number of cells; cells with few expected counts are merged into one.

    ``variance`` is that of the expected counts themselves, where they were estimated; it adds to the denominator.
    """
    spread = torch.zeros_like(expected) if variance is None else variance
    small = expected < smallest
    groups = [torch.stack([part[~small].double() for part in (observed, expected, spread)])]
    rest = torch.stack([part[small].double().sum() for part in (observed, expected, spread)])
    if bool(small.any()) and float(rest[:2].sum()) > 0:
        rest[1] = rest[1].clamp_min(1.0)
        groups.append(rest[:, None])
    o, e, v = torch.cat(groups, dim=1)
    statistic = float(((o - e) ** 2 / (e + v)).sum())
    return statistic, float(stats.chi2.sf(statistic, max(len(o) - 1, 1))), len(o)


def distance_test(x: Tensor, y: Tensor, seed: int = 0, permutations: int = 200) -> tuple[float, float]:
    """Energy distance between two samples (rows), and in how many standard deviations of its permutation distribution it lies.

    Szekely and Rizzo, Energy statistics: a class of statistics based on distances, 2013, equation 5 and section 6.
    """
    both = torch.cat([x.flatten(1), y.flatten(1)]).double()
    both = (both - both.mean(0)) / both.std(0).clamp_min(1e-12)
    distances = torch.cdist(both, both)
    sign = torch.cat([torch.full((len(x),), 1.0 / len(x)), torch.full((len(y),), -1.0 / len(y))]).double()
    g = torch.Generator().manual_seed(seed)
    signs = torch.stack([sign, *(sign[torch.randperm(len(sign), generator=g)] for _ in range(permutations))])
    values = -((signs @ distances) * signs).sum(dim=1)
    null = values[1:]
    return float(values[0]), float((values[0] - null.mean()) / null.std().clamp_min(1e-300))


# Cells: a partition of a space, with points in each cell for integration.


@dataclass(frozen=True)
class Axis:
    """One column's part of the partition: a finite list of values, or the edges of intervals with ``per_cell`` points in each."""

    values: Tensor | None = None
    edges: Tensor | None = None
    per_cell: int = 1
    weight: float = 1.0
    missing: bool = False

    @property
    def known(self) -> int:
        """How many cells hold values."""
        return len(self.values) if self.values is not None else len(cast(Tensor, self.edges)) - 1

    @property
    def cells(self) -> int:
        """How many cells this axis has; the last one is for missing values, where they are possible."""
        return self.known + self.missing

    def points(self, shift: float) -> tuple[Tensor, Tensor, Tensor]:
        """Points, their weights and the number of their cell."""
        if self.values is not None:
            points, weights, cells = self.values, torch.full_like(self.values, self.weight), torch.arange(len(self.values))
        else:
            edges = cast(Tensor, self.edges)
            offsets = (torch.arange(self.per_cell, dtype=torch.float64) + shift) / self.per_cell
            width = edges.diff()
            points = (edges[:-1, None] + width[:, None] * offsets).flatten()
            weights = (width / self.per_cell).repeat_interleave(self.per_cell)
            cells = torch.arange(len(width)).repeat_interleave(self.per_cell)
        if not self.missing:
            return points, weights, cells
        nan, one = torch.tensor([math.nan], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        return torch.cat([points, nan]), torch.cat([weights, one]), torch.cat([cells, torch.tensor([self.known])])

    def locate(self, column: Tensor) -> Tensor:
        """The cell of each value; ``cells`` for a value outside all of them."""
        if self.values is not None:
            hits = (column[:, None] - self.values).abs() < 1e-6 * (1 + self.values.abs())
            place = torch.where(hits.any(dim=1), hits.long().argmax(dim=1), self.cells)
        else:
            place = torch.searchsorted(cast(Tensor, self.edges), column.contiguous(), right=True) - 1
            place = torch.where((place >= 0) & (place < self.known), place, self.cells)
        return torch.where(column.isnan(), self.known, place) if self.missing else place


def cardinality(space: Space) -> float:
    """The number of complete data in a space; infinite where it is not finite."""
    if isinstance(space, Tokens):
        return float(space.vocab) ** space.length
    total = 1.0
    for column in columns_of(space):
        total *= column.cardinality or math.inf
    return total


def enumerate_tokens(space: Tokens) -> Tensor:
    """All valid rows of a small space of tokens."""
    x = torch.cartesian_prod(*[torch.arange(space.vocab)] * space.length).view(-1, space.length)
    if space.end is None:
        return x
    after = (x == space.end).long().cummax(dim=1).values > 0
    return x[~(after & (x != space.end)).any(dim=1) & after[:, -1]]


def continuous(space: Space) -> int:
    """How many columns have no finite list of values."""
    return sum(column.cardinality is None for column in columns_of(space))


def integrable(space: Space, cap: int = 4096) -> bool:
    """Whether the whole mass of a space can be added up: small and finite, or up to two unbounded columns beside a few finite ones."""
    if isinstance(space, Record):
        return False
    if isinstance(space, Tokens):
        return cardinality(space) <= cap
    finite = math.prod(float(column.cardinality) for column in columns_of(space) if column.cardinality is not None)
    return finite <= (cap, 256, 16)[min(continuous(space), 2)] and continuous(space) <= 2


def axes_of(space: Space, reference: Tensor, bins: int, per_cell: int) -> list[Axis]:
    """A partition fitted to reference rows in columns (n, d): quantile bins inside their range, and two wide cells on each side of it."""
    return [_axis(column, reference[:, index], bins, per_cell) for index, column in enumerate(columns_of(space))]


def _axis(column: Column, reference: Tensor, bins: int, per_cell: int) -> Axis:
    if column.cardinality is not None:
        step = column.grid or 1.0
        return Axis(values=column.origin + step * torch.arange(column.cardinality, dtype=torch.float64), weight=step, missing=column.missing)
    known = reference[~reference.isnan()].double()
    low, high = float(known.min()), float(known.max())
    width = max(high - low, 1e-6)
    if column.grid is not None:
        first, last = round((low - width - column.origin) / column.grid), round((high + width - column.origin) / column.grid)
        return Axis(
            values=column.origin + column.grid * torch.arange(first, last + 1, dtype=torch.float64), weight=column.grid, missing=column.missing
        )
    quantiles = torch.quantile(known, torch.linspace(0, 1, bins + 1, dtype=torch.float64))
    inner = torch.tensor(sorted(set(quantiles.tolist())), dtype=torch.float64)
    tails = torch.tensor([0.15, 0.6, 2.0], dtype=torch.float64) * width
    return Axis(edges=torch.cat([(low - tails).flip(0), inner, high + tails]), per_cell=per_cell, missing=column.missing)


@dataclass(frozen=True)
class Masses:
    """Integrated mass of each cell (last: outside all), as a mean over randomly shifted grids, its variance, and the least total."""

    cells: Tensor
    variance: Tensor
    total: float
    error: float
    least: float


def integrate(log_prob: Callable[[Value, int], Tensor], space: Space, axes: list[Axis], pairs: int = 4, seed: int = 0) -> Masses:
    """Integrate exp(log_prob(points, replicate)) over the cells of the axes.

    Each of ``pairs`` replicates shifts the grid inside every cell by u and by 1 - u with u uniform, hence is unbiased (Cranley and Patterson,
    Randomization of number theoretic methods for multiple integration, 1976), and the replicates give the standard error.
    """
    g, cells = torch.Generator().manual_seed(seed), math.prod(axis.cells for axis in axes)
    replicates = []
    for replicate in range(pairs):
        shifts = torch.rand(len(axes), generator=g, dtype=torch.float64)
        both = []
        for side, shift in enumerate((shifts, 1 - shifts)):
            points, weights, place = grid_points(axes, shift.tolist())
            mass = weights * log_prob(restore(points, space), 2 * replicate + side).exp()
            both.append(torch.zeros(cells, dtype=torch.float64).index_add_(0, place, mass))
        replicates.append(torch.stack(both).mean(0))
    stack = torch.stack(replicates)
    totals = stack.sum(dim=1)
    if pairs == 1:
        return Masses(stack[0], torch.zeros_like(stack[0]), float(totals), 0.0, float(totals))
    return Masses(stack.mean(0), stack.var(0) / pairs, float(totals.mean()), float(totals.std()) / math.sqrt(pairs), float(totals.min()))


def grid_points(axes: list[Axis], shifts: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Points of all cells as columns (n, d), their weights, and the flat number of their cell."""
    parts = [axis.points(shift) for axis, shift in zip(axes, shifts, strict=True)]
    points = torch.cartesian_prod(*[part[0] for part in parts]).view(-1, len(axes))
    weights = torch.cartesian_prod(*[part[1] for part in parts]).view(-1, len(axes)).prod(dim=1)
    places = torch.cartesian_prod(*[part[2] for part in parts]).view(-1, len(axes))
    return points, weights, _flat(places, [axis.cells for axis in axes])


def _flat(places: Tensor, sizes: list[int]) -> Tensor:
    return reduce(lambda total, pair: total * pair[0] + pair[1], zip(sizes, places.unbind(dim=1), strict=True), torch.zeros_like(places[:, 0]))


def locate(axes: list[Axis], columns: Tensor) -> Tensor:
    """The flat cell number of each row of columns; the number of cells for rows outside."""
    places = torch.stack([axis.locate(columns[:, index]) for index, axis in enumerate(axes)], dim=1)
    sizes = [axis.cells for axis in axes]
    outside = (places >= torch.tensor(sizes)).any(dim=1)
    return torch.where(outside, math.prod(sizes), _flat(places.clamp(max=torch.tensor(sizes) - 1), sizes))


def edge_cells(axes: list[Axis]) -> Tensor:
    """Which flat cells touch an end of some finite axis: where clamping at the ends may pile up mass."""
    flags = []
    for combination in itertools.product(*[range(axis.cells) for axis in axes]):
        flags.append(any(axis.values is not None and place in (0, axis.cells - 1) for axis, place in zip(axes, combination, strict=True)))
    return torch.tensor(flags)


def as_columns(x: Value, space: Space) -> Tensor:
    """A batch as columns (n, d) in float64; a table with missing values keeps its NaN."""
    if isinstance(x, Tensor):
        return x.double().reshape(len(x), -1)
    assert isinstance(space, Record)
    return torch.cat([as_columns(x[name], part) for name, part in space.fields], dim=1)


def blocks(function: Callable[[Value], Tensor], x: Value, n: int, size: int = 8192) -> Tensor:
    """A per-example function over many examples in constant memory."""
    return torch.cat([function(take(x, slice(start, start + size))) for start in range(0, n, size)])
