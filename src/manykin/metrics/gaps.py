"""How far two samples of a column, or of a pair of columns, are from each other: the largest difference of probability over a class of sets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.spaces import Column

MOST_CATEGORIES = 20
"""The most frequent categories that have a cell of their own in a joint histogram; the others share one."""


@dataclass(frozen=True)
class Gap:
    """The largest difference of probability between two samples over a class of sets, and which rows lie in the set where it is reached.

    ``x`` (n,) and ``y`` (m,) boolean: ``value`` is the mean of x minus the mean of y.
    """

    value: float
    x: Tensor
    y: Tensor


def kolmogorov_smirnov(x: Tensor, y: Tensor) -> Gap:
    r"""The Kolmogorov-Smirnov distance of two samples of numbers, :math:`\sup_t |F(t) - G(t)|` of their distribution functions.

    It is the largest difference of probability over half-lines (A. N. Kolmogorov, 1933; N. V. Smirnov, 1948); free of units, in [0, 1]. Missing
    values (NaN) are an outcome above every number, so the distance is never below the difference of the missing rates.

    Args:
        x: shape (n,), NaN where missing.
        y: shape (m,), likewise.

    Raises:
        InvalidInput: where a sample is empty.
    """
    a, b = _one(x, "x"), _one(y, "y")
    a, b = (torch.where(each.isnan(), math.inf, each) for each in (a, b))
    points = torch.cat([a, b]).sort().values
    difference = _share_below(a, points) - _share_below(b, points)
    at = int(difference.abs().argmax())
    value, point = float(difference[at]), points[at]
    return Gap(value, a <= point, b <= point) if value >= 0 else Gap(-value, a > point, b > point)


def total_variation(x: Tensor, y: Tensor, cells: int) -> Gap:
    r"""The total variation distance of two samples of codes, :math:`\frac12 \sum_c |p_c - q_c| = \max_A (p(A) - q(A))`, in [0, 1].

    Source: D. A. Levin, Y. Peres and E. L. Wilmer, Markov Chains and Mixing Times, 2009, proposition 4.2.

    Args:
        x: codes from 0 to cells - 1, shape (n,) int64.
        y: likewise, shape (m,).
        cells: how many codes there are.

    Raises:
        InvalidInput: where a sample is empty.
    """
    a, b = _one(x, "x").long(), _one(y, "y").long()
    difference = _shares(a, cells) - _shares(b, cells)
    more = difference > 0
    return Gap(float(difference[more].sum()), more[a], more[b])


def _one(x: Tensor, name: str) -> Tensor:
    if x.dim() != 1 or len(x) == 0:
        raise InvalidInput(f"{name} has shape {tuple(x.shape)}; expected the values of one column, shape (n,) with n of at least 1.")
    return x.detach().cpu()


def _share_below(x: Tensor, points: Tensor) -> Tensor:
    return torch.searchsorted(x.sort().values, points, right=True).double() / len(x)


def _shares(codes: Tensor, cells: int) -> Tensor:
    return torch.bincount(codes, minlength=cells).double() / len(codes)


@dataclass
class Gaps:
    """A mean of gaps with its standard error.

    Each gap is a difference of two means once its set is held fixed (the delta method: at a maximum the first-order effect of moving the set is
    nil), so a mean of gaps is a difference of two means too, of the row's average membership. This keeps the dependence between columns, and errs
    on the large side where the laws are equal: there no set is the largest one, and a mean of gaps has 1.4 to 1.7 times its true spread stated.
    """

    n: int
    m: int
    gaps: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x, self.y = torch.zeros(self.n, dtype=torch.float64), torch.zeros(self.m, dtype=torch.float64)

    def add(self, gap: Gap) -> None:
        """Count one more gap."""
        self.x += gap.x
        self.y += gap.y
        self.gaps.append(gap.value)
        self.errors.append(_error(gap.x.double(), gap.y.double()))

    @property
    def mean(self) -> tuple[float, float]:
        """The mean and its standard error."""
        number = len(self.gaps)
        return sum(self.gaps) / number, _error(self.x / number, self.y / number)


def _error(x: Tensor, y: Tensor) -> float:
    return math.sqrt(float(x.var()) / len(x) + float(y.var()) / len(y)) if min(len(x), len(y)) > 1 else math.nan


def column_gaps(columns: Sequence[Column], x: Tensor, y: Tensor) -> Gaps:
    """One gap a column: Kolmogorov-Smirnov for numbers, total variation for categories with "missing" as one more.

    Args:
        columns: what each column is.
        x: shape (n, columns) float64, categories as codes, missing as NaN.
        y: shape (m, columns), likewise.
    """
    total = Gaps(len(x), len(y))
    for index, column in enumerate(columns):
        if column.kind == "categorical":
            size = len(column.categories)
            a, b = (torch.where(part[:, index].isnan(), float(size), part[:, index]).long() for part in (x, y))
            total.add(total_variation(a, b, size + 1))
        else:
            total.add(kolmogorov_smirnov(x[:, index], y[:, index]))
    return total


@dataclass(frozen=True)
class Binning:
    """Columns as a few cells each: numbers in the quantile bins of training rows, the most frequent categories, all others, and missing."""

    edges: tuple[Tensor, ...]
    categorical: tuple[bool, ...]

    @classmethod
    def of(cls, columns: Sequence[Column], real: Tensor, bins: int) -> "Binning":
        """The cells that training rows (n, columns) suggest: ``bins`` bins of a number, and the 20 most frequent categories."""
        edges = []
        for index, column in enumerate(columns):
            known = real[:, index]
            known = known[~known.isnan()]
            if column.kind == "categorical":
                counts = torch.bincount(known.long(), minlength=len(column.categories))
                edges.append(counts.argsort(descending=True, stable=True)[:MOST_CATEGORIES])
            else:
                shares = torch.arange(1, bins, dtype=torch.float64) / bins
                known = known.sort().values
                at = (shares * len(known)).long().clamp(max=max(len(known) - 1, 0))
                edges.append(_with_spikes(known[at]) if len(known) else known)
        return cls(tuple(edges), tuple(column.kind == "categorical" for column in columns))

    def cells(self, index: int) -> int:
        """How many cells a column has, with those of "other" and "missing"."""
        return len(self.edges[index]) + 2

    def code(self, index: int, values: Tensor) -> Tensor:
        """The cell of each value of a column, (n,) int64."""
        edges, missing = self.edges[index], values.isnan()
        if self.categorical[index]:
            same = values[:, None] == edges[None, :].to(values.dtype)
            found = torch.where(same.any(dim=1), same.long().argmax(dim=1) if len(edges) else 0, len(edges))
        else:
            found = torch.bucketize(torch.where(missing, 0.0, values), edges, right=True)
        return torch.where(missing, len(edges) + 1, found)


def _with_spikes(quantiles: Tensor) -> Tensor:
    """Edges such that a value which holds several quantiles has a bin of its own, apart from what lies above it."""
    spikes = quantiles[1:][quantiles[1:] == quantiles[:-1]]
    return torch.cat([quantiles, torch.nextafter(spikes, torch.full_like(spikes, math.inf))]).sort().values


def pair_gaps(binning: Binning, pairs: Sequence[tuple[int, int]], x: Tensor, y: Tensor) -> Gaps:
    """One gap a pair of columns: the total variation distance between joint histograms over the cells of the two.

    Args:
        binning: the cells of each column.
        pairs: positions of two columns each.
        x: shape (n, columns) float64.
        y: shape (m, columns).
    """
    total = Gaps(len(x), len(y))
    used = {index for pair in pairs for index in pair}
    codes = {index: tuple(binning.code(index, part[:, index]).short() for part in (x, y)) for index in used}
    for a, b in pairs:
        width = binning.cells(b)
        joint = [codes[a][side].long() * width + codes[b][side] for side in (0, 1)]
        total.add(total_variation(joint[0], joint[1], binning.cells(a) * width))
    return total
