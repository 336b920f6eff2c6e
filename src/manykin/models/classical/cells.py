"""Numbers on a grid as normal variables seen through cells: the mass of an interval, the moments of a normal variable known to lie in it, and the
parts of a product that rest on them.

A number on a grid is modelled as a normal variable y rounded to its cell [a, b]. P(cell) = Phi(b) - Phi(a), and EM with y as the hidden value
has a closed, exact M-step from E[y | cell] and E[y^2 | cell] (Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM
algorithm, 1977, section 4.2, grouped and truncated data). All arguments are in standard units.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from manykin.models.classical.columns import CHUNK, Numbers, pick
from manykin.models.classical.parts import LOG_2PI, Moments, write

NARROW = 0.03
ATOMS = 8
"""The most values of a numeric column that have a probability of their own,"""
SHARE = 0.02
"""for which more than this share of the sample's rows must take them,"""
LEAST = 5
"""and more rows than this."""


def log_mass(a: Tensor, b: Tensor) -> Tensor:
    """log(Phi(b) - Phi(a)) for a < b, either of them possibly infinite; accurate in the tails and for narrow cells.

    Cells right of 0 are mirrored to the left, where log Phi keeps its digits; log(1 - exp(-(log Phi(b) - log Phi(a)))) is then bounded from below
    by the mean hazard. Narrow cells use the Taylor series about their middle m of width w: phi(m) w (1 + w^2 (m^2 - 1) / 24 + ...).
    """
    a, b = _bounded(a, b)
    mirrored = a + b > 0
    low, high = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    narrow, m, w = _narrow(low, high)
    series = -0.5 * m**2 - 0.5 * LOG_2PI + w.log() + torch.log1p(w**2 * (m**2 - 1) / 24 + w**4 * (m**4 - 6 * m**2 + 3) / 1920)
    low, high = low.masked_fill(narrow, -1.0), high.masked_fill(narrow, 0.0)
    top = torch.special.log_ndtr(high)
    gap = torch.maximum(top - torch.special.log_ndtr(low), (low - high) * (low + high) / 2)
    return torch.where(narrow, series, top + log1mexp(gap))


def moments(a: Tensor, b: Tensor, log_z: Tensor) -> tuple[Tensor, Tensor]:
    """E[u | a < u < b] and E[u^2 | a < u < b] of a standard normal u; ``log_z`` is :func:`log_mass` of the same cell."""
    a, b = _bounded(a, b)
    narrow, m, w = _narrow(a, b)
    second, fourth = w**2 / 12, w**4 / 80
    total = 1 + (m**2 - 1) / 2 * second + (m**4 - 6 * m**2 + 3) / 24 * fourth
    shift = (-m * second + (3 * m - m**3) / 6 * fourth) / total
    spread = (second + (m**2 - 1) / 2 * fourth) / total
    left, right = (torch.exp(-0.5 * edge**2 - 0.5 * LOG_2PI - log_z) for edge in (a, b))
    mean = torch.minimum(torch.maximum(left - right, a), b)
    square = 1 + a * left - b * right
    mean = torch.where(narrow, m + shift, mean)
    return mean, torch.maximum(torch.where(narrow, m**2 + 2 * m * shift + spread, square), mean**2)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0 (Maechler, Accurately computing log(1 - exp(-|a|)), 2012, equation 7)."""
    small = x < math.log(2)
    return torch.where(small, torch.log(-torch.expm1(-torch.where(small, x, 1.0))), torch.log1p(-torch.exp(-torch.where(small, 1.0, x))))


def _bounded(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Infinite ends moved to where nothing of the cell's mass is lost in float64: 40 beyond the other end, and beyond 0."""
    a = torch.where(a == -float("inf"), b.clamp(max=0) - 40, a)
    return a, torch.where(b == float("inf"), a.clamp(min=0) + 40, b)


def _narrow(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells are narrow, with middle and width made harmless in the others."""
    m, w = (a + b) / 2, b - a
    narrow = (w < NARROW) & (w * m.abs() < NARROW)
    return narrow, torch.where(narrow, m, 0.0), torch.where(narrow, w, 1.0)


class Cells(Moments):
    """Numbers on a grid: the nearest grid point to y ~ N(mean, variance), log p = log P(cell) - log step.

    The M-step is exact: it uses the moments of the hidden y given its cell.
    """

    def score(self, z: Tensor, block: slice) -> Tensor:
        width = len(self.columns)
        total = torch.zeros(len(z), len(self.mean[block]), dtype=torch.float64, device=z.device)
        for columns in self._chunks(total.numel()):
            low, high, present = self._edges(z, block, columns)
            total += (log_mass(low, high) * present).sum(dim=-1)
        observed = (~z[:, self.columns.index].isnan()).double()
        return total - (observed @ self.columns.step.log())[:, None] if width else total

    def add(self, z: Tensor, weights: Tensor, block: slice) -> None:
        for columns in self._chunks(weights.numel()):
            low, high, present = self._edges(z, block, columns)
            first, second = moments(low, high, log_mass(low, high))
            mean, deviation = self.mean[block, columns], self.variance[block, columns].sqrt()
            values = (mean + deviation * first, mean**2 + 2 * mean * deviation * first + deviation**2 * second)
            for order, value in enumerate((torch.ones_like(first), *values)):
                self.sums[order, block, columns] += torch.einsum("nk,nkj->kj", weights, value * present)

    def _chunks(self, pairs: int) -> list[slice]:
        step = max(1, CHUNK // max(1, pairs))
        return [slice(start, start + step) for start in range(0, len(self.columns), step)]

    def _edges(self, z: Tensor, block: slice, columns: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Cell ends in standard units of each component, shape (n, m, columns), and whether the value is observed (n, 1, columns)."""
        values = z[:, self.columns.index]
        present = ~values.isnan()
        ends = self.columns.edges(self.columns.snap(torch.where(present, values, self.columns.origin)))
        mean, deviation = self.mean[block, columns], self.variance[block, columns].sqrt()
        low, high = ((((end - self.centre) / self.scale)[:, None, columns] - mean) / deviation for end in ends)
        return low, high, present[:, None, columns]


class Spikes(Cells):
    """Numbers on a grid whose frequent values get a probability of their own: p(x) = sum over j of a_j [x = v_j] + a_0 Cell(x).

    Cell is the rounded normal distribution of :class:`Cells`, over the whole grid, hence p sums to one. The values v_j are those that more than
    ``SHARE`` of the sample's rows take, in columns that span more than ``max_levels`` grid points; other columns are as in the base class. Whether
    a row comes from its atom or from the normal part is hidden; EM takes its expectation, and the M-step is exact. The a_j have a Dirichlet prior
    of ``borrow`` pseudo-rows an outcome, spread in proportion to the overall frequencies.
    """

    statistics: ClassVar[tuple[str, ...]] = ("sums", "hits")
    hits: Tensor
    atoms: Tensor
    prior: Tensor
    shares: Tensor

    def __init__(self, numbers: Numbers, components: int, reg: float, floor: float, borrow: float, max_levels: int) -> None:
        super().__init__(numbers, components, reg, floor)
        self.borrow, self.max_levels = borrow, max_levels
        width = len(numbers)
        first = torch.zeros(ATOMS + 1, width, dtype=torch.float64)
        first[0] = 1
        self.register_buffer("hits", torch.zeros(components, ATOMS, width, dtype=torch.float64))
        self.register_buffer("atoms", torch.full((ATOMS, width), math.inf, dtype=torch.float64))
        self.register_buffer("prior", borrow * first)
        self.register_buffer("shares", first.repeat(components, 1, 1))

    def initialise(self, z: Tensor) -> None:
        self.atoms.fill_(math.inf)
        x = z[:, self.columns.index]
        for j in range(len(self.columns)):
            values = self._frequent(x[:, j], float(self.columns.step[j]))
            self.atoms[: len(values), j] = values
        hit = self._hit(z, slice(None))
        rest = x.masked_fill(hit.sum(dim=1) > 0, math.nan)
        none = rest.isnan().all(dim=0)
        others = z.clone()
        others[:, self.columns.index] = torch.where(none, x, rest)
        super().initialise(others)
        counts = torch.cat([(~rest.isnan()).sum(dim=0, keepdim=True) + 0.5, hit.sum(dim=0)])
        frequency = counts / counts.sum(dim=0)
        self.prior.copy_(self.borrow * (1 + self.atoms.isfinite().sum(dim=0)) * frequency)
        self.shares.copy_(frequency.expand_as(self.shares))

    def score(self, z: Tensor, block: slice) -> Tensor:
        total = torch.zeros(len(z), len(self.mean[block]), dtype=torch.float64, device=z.device)
        for columns in self._chunks(total.numel()):
            low, high, present = self._edges(z, block, columns)
            normal, atom = self._terms(log_mass(low, high), self._hit(z, columns), block, columns)
            total += (torch.logaddexp(normal, atom) * present).sum(dim=-1)
        observed = (~z[:, self.columns.index].isnan()).double()
        return total - (observed @ self.columns.step.log())[:, None]

    def add(self, z: Tensor, weights: Tensor, block: slice) -> None:
        for columns in self._chunks(weights.numel()):
            low, high, present = self._edges(z, block, columns)
            mass, hit = log_mass(low, high), self._hit(z, columns)
            normal, atom = self._terms(mass, hit, block, columns)
            own = weights[:, :, None] * torch.sigmoid(normal - atom) * present
            first, second = moments(low, high, mass)
            mean, deviation = self.mean[block, columns], self.variance[block, columns].sqrt()
            values = (mean + deviation * first, mean**2 + 2 * mean * deviation * first + deviation**2 * second)
            for order, value in enumerate((torch.ones_like(first), *values)):
                self.sums[order, block, columns] += (own * value).sum(dim=0)
            hidden = weights[:, :, None] * torch.sigmoid(atom - normal)
            self.hits[block, :, columns] += torch.einsum("nkj,naj->kaj", hidden, hit)

    def solve(self) -> None:
        super().solve()
        counts = torch.cat([self.sums[0][:, None], self.hits], dim=1) + self.prior
        self.shares.copy_(counts / counts.sum(dim=1, keepdim=True))

    def penalty(self) -> Tensor:
        return super().penalty() + torch.xlogy(self.prior, self.shares).sum()

    def draw(self, component: Tensor, z: Tensor, known: Tensor) -> None:
        super().draw(component, z, known)
        codes = pick(self.shares.log().transpose(1, 2), component)
        values = self.atoms.gather(0, (codes - 1).clamp(min=0))
        normal = z[:, self.columns.index]
        write(z, known, self.columns.index, torch.where((codes > 0) & values.isfinite(), values, normal))

    def free(self) -> int:
        return super().free() + int(self.atoms.isfinite().sum())

    def in_data_units(self) -> tuple[Tensor, Tensor]:
        centre, variance = super().in_data_units()
        atoms = self.atoms.masked_fill(self.atoms.isinf(), 0.0)
        values = torch.cat([centre[:, None], atoms.expand(len(centre), -1, -1)], dim=1)
        mean = (self.shares * values).sum(dim=1)
        return mean, self.shares[:, 0] * variance + (self.shares * (values - mean[:, None]).square()).sum(dim=1)

    def _terms(self, mass: Tensor, hit: Tensor, block: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """The logarithms of a_0 Cell(x) and of the a_j of the atom that x lies on, -inf where it lies on none, each (n, m, columns)."""
        shares = self.shares[block, :, columns]
        return shares[:, 0].log() + mass, torch.einsum("naj,kaj->nkj", hit, shares[:, 1:]).log()

    def _hit(self, z: Tensor, columns: slice) -> Tensor:
        """0/1 indicators (n, atoms, columns) of the atom that each value lies on."""
        values = z[:, self.columns.index[columns]]
        return ((values[:, None] - self.atoms[:, columns]).abs() < self.columns.step[columns] / 2).double()

    def _frequent(self, x: Tensor, step: float) -> Tensor:
        """The most frequent values of a column that spans many grid points, where they are frequent enough."""
        seen = x[~x.isnan()]
        if not len(seen) or float(seen.max() - seen.min()) < (self.max_levels - 0.5) * step:
            return seen[:0]
        values, counts = torch.unique(seen, return_counts=True)
        order = counts.argsort(descending=True, stable=True)[:ATOMS]
        frequent: Tensor = values[order][counts[order] > max(SHARE * len(seen), LEAST)]
        return frequent
