"""Parts of a product of columns in the exponential family: tables of levels, normal columns, and normal columns seen through a grid."""

import math
from typing import cast

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.models.classical.cells import LOG_2PI, log_mass, moments
from manykin.models.classical.columns import CHUNK, Finite, LevelGroup, Numbers, Part, pick

DENSE_LEVELS = 32
"""Up to so many levels an indicator matrix is dense; above, it is sparse."""
ATOMS = 8
"""The most values of a numeric column that have a probability of their own,"""
SHARE = 0.02
"""for which more than this share of the sample's rows must take them,"""
LEAST = 5
"""and more rows than this."""


class Levels(Part):
    """Tables of probabilities: p(level) = (count + prior) / (total + sum of prior).

    ``prior`` (total,) are pseudo-counts. Without ``borrow`` they are ``alpha`` a level (Laplace). With it, they are ``borrow`` a level on average,
    spread in proportion to the column's overall frequencies in the sample, which are themselves smoothed by ``alpha``; this is the maximum a
    posteriori under a Dirichlet prior centred there, so that rare levels of a small component fall back on what the column does overall.
    Log densities and counts are products with 0/1 indicator matrices.
    """

    statistics = ("counts",)
    counts: Tensor
    prior: Tensor
    log_probs: Tensor

    def __init__(self, finite: Finite, components: int, alpha: float, borrow: float | None = None) -> None:
        super().__init__()
        self.columns, self.alpha, self.borrow = finite, alpha, borrow
        self.register_buffer("prior", torch.full((finite.total,), alpha, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(components, finite.total, dtype=torch.float64))
        self.register_buffer("log_probs", torch.zeros(components, finite.total, dtype=torch.float64))
        self.solve()

    def initialise(self, z: Tensor) -> None:
        if self.borrow is None:
            return
        self.prior.fill_(self.alpha)
        self.counts.zero_()
        self.add(z, torch.ones(len(z), 1, dtype=torch.float64, device=z.device), slice(0, 1))
        self.solve()
        for group in self.columns.groups:
            group.block(self.prior).copy_(self.borrow * group.levels * group.block(self.log_probs)[0].exp())
        self.counts.zero_()

    def score(self, z: Tensor, block: slice) -> Tensor:
        codes = self.columns.codes(z)
        total = torch.zeros(len(z), len(self.log_probs[block]), dtype=torch.float64, device=z.device)
        per_unit = self.log_probs[block] - self.columns.log_unit
        for group in self.columns.groups:
            own = codes[:, group.first : group.first + group.width]
            logs = group.block(per_unit)
            present = own >= 0
            base = logs[..., 0]
            total += base.sum(dim=-1) if bool(present.all()) else present.double() @ base.T
            total += self._product(own, group, (logs[..., 1:] - base[..., None]).flatten(1).T)
        return total

    def add(self, z: Tensor, weights: Tensor, block: slice) -> None:
        codes = self.columns.codes(z)
        for group in self.columns.groups:
            own = codes[:, group.first : group.first + group.width]
            present = weights.T @ (own >= 0).double()
            above = self._sums(own, group, weights).reshape(weights.shape[1], group.width, group.levels - 1)
            counts = torch.cat([(present - above.sum(dim=-1)).clamp(min=0)[..., None], above], dim=-1)
            group.block(self.counts[block]).add_(counts)

    def solve(self) -> None:
        for group in self.columns.groups:
            total = group.block(self.counts) + group.block(self.prior)
            group.block(self.log_probs).copy_(total.log() - total.sum(dim=-1, keepdim=True).log())

    def penalty(self) -> Tensor:
        return (self.log_probs * self.prior).sum()

    def draw(self, component: Tensor, z: Tensor, known: Tensor) -> None:
        codes = [pick(group.block(self.log_probs), component) for group in self.columns.groups]
        if codes:
            _write(z, known, self.columns.index, self.columns.values(torch.cat(codes, dim=1)))

    def free(self) -> int:
        return sum(group.width * (group.levels - 1) for group in self.columns.groups)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each column's values under each component, shape (m, columns); codes stand for categories."""
        values = self.columns.level_values()
        parts = []
        for group in self.columns.groups:
            p, v = group.block(self.log_probs).exp(), group.block(values)
            mean = (p * v).sum(dim=-1)
            parts.append((mean, (p * (v - mean[..., None]) ** 2).sum(dim=-1)))
        empty = self.log_probs[:, :0]
        return (torch.cat([mean for mean, _ in parts], dim=1), torch.cat([var for _, var in parts], dim=1)) if parts else (empty, empty)

    def _product(self, codes: Tensor, group: LevelGroup, table: Tensor) -> Tensor:
        """Indicators of levels 1 and above (n, width * (levels - 1)) times a table."""
        if group.levels <= DENSE_LEVELS:
            return _indicators(codes, group.levels) @ table
        return cast(Tensor, torch.sparse.mm(_sparse_indicators(codes, group.levels), table.contiguous()))

    def _sums(self, codes: Tensor, group: LevelGroup, weights: Tensor) -> Tensor:
        if group.levels <= DENSE_LEVELS:
            return weights.T @ _indicators(codes, group.levels)
        return cast(Tensor, torch.sparse.mm(_sparse_indicators(codes, group.levels).t(), weights.contiguous())).T


class Moments(Part):
    """Base of normal columns: mean and variance of each column under each component, in units of the sample's own mean and deviation.

    The prior is ``reg`` pseudo-rows a component with the sample's mean and variance, which are 0 and 1 in these units; the variance is kept at or
    above ``floor``. For given moments the penalised likelihood has one peak in the variance, so that clipping it is the constrained maximum.
    """

    statistics = ("sums",)
    sums: Tensor
    centre: Tensor
    scale: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, numbers: Numbers, components: int, reg: float, floor: float) -> None:
        super().__init__()
        self.columns, self.reg, self.floor = numbers, reg, floor
        width = len(numbers)
        self.register_buffer("sums", torch.zeros(3, components, width, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(width, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(components, width, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(components, width, dtype=torch.float64))

    def initialise(self, z: Tensor) -> None:
        x = z[:, self.columns.index]
        centre, scale = centre_and_scale(x)
        refuse_constant(x, scale, self.columns)
        self.centre.copy_(centre)
        self.scale.copy_(torch.where(scale > 0, scale, torch.where(self.columns.step > 0, self.columns.step, 1.0)))
        self.mean.zero_()
        self.variance.fill_(1.0)

    def solve(self) -> None:
        count, first, second = self.sums[0] + self.reg, self.sums[1], self.sums[2] + self.reg
        safe = count.clamp(min=1e-300)
        self.mean.copy_(first / safe)
        spread = torch.where(count > 0, second / safe - self.mean**2, 1.0)
        self.variance.copy_(spread.clamp(min=self.floor))

    def penalty(self) -> Tensor:
        return -0.5 * self.reg * (LOG_2PI + self.variance.log() + (1 + self.mean**2) / self.variance).sum()

    def draw(self, component: Tensor, z: Tensor, known: Tensor) -> None:
        noise = torch.randn(len(z), len(self.columns), dtype=torch.float64, device=z.device)
        x = self.mean[component] + self.variance[component].sqrt() * noise
        _write(z, known, self.columns.index, self.columns.snap(self.centre + self.scale * x))

    def free(self) -> int:
        return 2 * len(self.columns)

    def in_data_units(self) -> tuple[Tensor, Tensor]:
        """Means and variances in the user's units, each (m, columns)."""
        return self.centre + self.scale * self.mean, self.scale**2 * self.variance

    def _standard(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = (z[:, self.columns.index] - self.centre) / self.scale
        present = ~x.isnan()
        return torch.where(present, x, 0.0), present


class Normals(Moments):
    """Continuous columns: x ~ N(mean, variance); densities and moments are matrix products."""

    def score(self, z: Tensor, block: slice) -> Tensor:
        x, present = self._standard(z)
        mean, precision = self.mean[block], 1 / self.variance[block]
        constant = 0.5 * (precision.log() - LOG_2PI - mean**2 * precision) - self.scale.log()
        return x**2 @ (-0.5 * precision).T + x @ (mean * precision).T + present.double() @ constant.T

    def add(self, z: Tensor, weights: Tensor, block: slice) -> None:
        x, present = self._standard(z)
        for order, values in enumerate((present.double(), x, x**2)):
            self.sums[order, block] += weights.T @ values


class Cells(Moments):
    """Numbers on a grid: the nearest grid point to y ~ N(mean, variance), log p = log P(cell) - log step (see :mod:`.cells`).

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

    statistics = ("sums", "hits")
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
        _write(z, known, self.columns.index, torch.where((codes > 0) & values.isfinite(), values, normal))

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
        values, counts = seen.unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)[:ATOMS]
        return values[order][counts[order] > max(SHARE * len(seen), LEAST)]


def centre_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the observed entries of each column; 0 and 0 where there are none."""
    present = ~x.isnan()
    total = present.sum(dim=0).clamp(min=1)
    centre = torch.where(present, x, 0.0).sum(dim=0) / total
    squares = torch.where(present, x - centre, 0.0).square().sum(dim=0)
    return centre, (squares / total).sqrt()


def refuse_constant(x: Tensor, scale: Tensor, columns: Numbers) -> None:
    """Raise InvalidInput for a continuous column that takes one value only, since its density is unbounded."""
    top = torch.where(x.isnan(), -math.inf, x).amax(dim=0)
    constant = (columns.step == 0) & top.isfinite() & (scale <= 1e-14 * top.abs())
    if bool(constant.any()):
        j = int(constant.nonzero()[0])
        raise InvalidInput(
            f"column {columns.names[j]!r} is constant (always {float(top[j]):g}): its density is unbounded; drop it, "
            "or declare it an integer or a category."
        )


def _write(z: Tensor, known: Tensor, index: Tensor, values: Tensor) -> None:
    z[:, index] = torch.where(known[:, index], z[:, index], values)


def _indicators(codes: Tensor, levels: int) -> Tensor:
    """Dense 0/1 matrix (n, width * (levels - 1)) of the levels above the first."""
    return (codes[..., None] == torch.arange(1, levels, device=codes.device)).flatten(1).double()


def _sparse_indicators(codes: Tensor, levels: int) -> Tensor:
    """The same as a sparse matrix."""
    rows, columns = (codes > 0).nonzero(as_tuple=True)
    at = columns * (levels - 1) + codes[rows, columns] - 1
    ones = torch.ones(len(rows), dtype=torch.float64, device=codes.device)
    size = (len(codes), codes.shape[1] * (levels - 1))
    return torch.sparse_coo_tensor(torch.stack([rows, at]), ones, size, is_coalesced=True, check_invariants=False)
