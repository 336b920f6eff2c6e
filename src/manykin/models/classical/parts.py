"""Parts of a product of columns in the exponential family: tables of levels, and normal columns."""

import math
from typing import ClassVar, cast

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.models.classical.columns import Finite, LevelGroup, Numbers, Part, pick

DENSE_LEVELS = 32
"""Up to so many levels an indicator matrix is dense; above, it is sparse."""
LOG_2PI = math.log(2 * math.pi)


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
            write(z, known, self.columns.index, self.columns.values(torch.cat(codes, dim=1)))

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

    statistics: ClassVar[tuple[str, ...]] = ("sums",)
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
        write(z, known, self.columns.index, self.columns.snap(self.centre + self.scale * x))

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


def write(z: Tensor, known: Tensor, index: Tensor, values: Tensor) -> None:
    """Put values (n, columns) into the columns ``index`` of z (n, d) where ``known`` (n, d) is False."""
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
