"""Columns by kind, and the parts from which products of columns are built.

A row z (d,) of a :class:`~manykin.spaces.Table` falls into three kinds of columns: *finite* ones (categories, and ordered levels up to a bound),
which get a table of probabilities; *numbers on a grid* without a short list of values (integers, decimals); and *continuous numbers*. A
:class:`Part` holds the parameters of one kind for m components at once. NaN stands for a value that is not observed: every part leaves it out of
its sum, which integrates it out, since the columns are independent within a component. Whether a value is missing is an event of its own
(:class:`Missing`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn

from manykin.spaces import Column

CHUNK = 2**22
"""The most elements that a temporary tensor of (rows, components, columns) may have."""


@dataclass(frozen=True)
class LevelGroup:
    """Finite columns of equal cardinality: a block of the flat table of levels.

    ``first``: position of the group's first column among the finite ones; ``width``: number of columns; ``start``: offset in the flat table.
    """

    levels: int
    first: int
    width: int
    start: int

    def block(self, flat: Tensor) -> Tensor:
        """This group's part of a flat table (..., total) as a view (..., width, levels)."""
        part = flat[..., self.start : self.start + self.width * self.levels]
        return part.view(*part.shape[:-1], self.width, self.levels)


class Finite(nn.Module):
    """The finite columns of a table, ordered by cardinality."""

    index: Tensor
    origin: Tensor
    step: Tensor
    log_unit: Tensor

    def __init__(self, columns: tuple[Column, ...], max_levels: int) -> None:
        super().__init__()
        sizes = {i: column.cardinality or 0 for i, column in enumerate(columns) if is_finite(column, max_levels)}
        order = sorted(sizes, key=sizes.__getitem__)
        self.groups: list[LevelGroup] = []
        self.total = 0
        for size, members in groupby(order, key=sizes.__getitem__):
            width = len(list(members))
            first = self.groups[-1].first + self.groups[-1].width if self.groups else 0
            self.groups.append(LevelGroup(size, first, width, self.total))
            self.total += width * size
        steps = [columns[i].grid or 1.0 for i in order]
        _constant(self, "index", order, torch.int64)
        _constant(self, "origin", [columns[i].origin for i in order])
        _constant(self, "step", steps)
        per_level = [step for i, step in zip(order, steps, strict=True) for _ in range(sizes[i])]
        _constant(self, "log_unit", per_level)
        self.log_unit.log_()
        self.ordered = [columns[i].kind != "categorical" for i in order]

    def codes(self, z: Tensor) -> Tensor:
        """Level codes (n, columns), int64, -1 where not observed."""
        steps = (z[:, self.index] - self.origin) / self.step
        return steps.detach().round().nan_to_num(nan=-1.0).long()

    def values(self, codes: Tensor) -> Tensor:
        """The values behind level codes."""
        return self.origin + codes * self.step

    def level_values(self) -> Tensor:
        """The value of each entry of the flat table, shape (total,)."""
        parts = [self.values(torch.arange(g.levels, device=self.step.device)[:, None])[:, g.first : g.first + g.width].T for g in self.groups]
        return torch.cat([part.flatten() for part in parts]) if parts else self.log_unit


class Numbers(nn.Module):
    """Numeric columns of a table: continuous where ``step`` is 0, else multiples of ``step`` from ``origin``, within lower and upper."""

    index: Tensor
    step: Tensor
    origin: Tensor
    lower: Tensor
    upper: Tensor

    def __init__(self, columns: tuple[Column, ...], index: list[int]) -> None:
        super().__init__()
        chosen = [columns[i] for i in index]
        self.names = [column.name for column in chosen]
        top = [column.origin + ((column.cardinality or 1) - 1) * (column.grid or 1.0) for column in chosen]
        top = [high if _bounded(column) else float("inf") for column, high in zip(chosen, top, strict=True)]
        _constant(self, "index", index, torch.int64)
        _constant(self, "step", [column.grid or 0.0 for column in chosen])
        _constant(self, "origin", [column.origin for column in chosen])
        _constant(self, "lower", [column.origin if _bounded(column) else -float("inf") for column in chosen])
        _constant(self, "upper", top)

    def __len__(self) -> int:
        return len(self.names)

    def snap(self, x: Tensor) -> Tensor:
        """Real numbers (..., columns) as the nearest possible values."""
        safe = torch.where(self.step > 0, self.step, 1.0)
        near = torch.where(self.step > 0, self.origin + ((x - self.origin) / safe).round() * safe, x)
        return torch.minimum(torch.maximum(near, self.lower), self.upper)

    def edges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of the cells around grid points; the cells of the lowest and highest possible value reach to infinity."""
        low, high = x - self.step / 2, x + self.step / 2
        return low.masked_fill(low < self.lower, -float("inf")), high.masked_fill(high > self.upper, float("inf"))


class Part(nn.Module, ABC):
    """The distributions of some columns under each of ``components`` components; ``statistics`` names the buffers that :meth:`add` adds to.

    Shapes: z (n, d) rows with NaN for what is not observed; ``block``: the components meant, m of them; ``weights`` (n, m) responsibilities.
    """

    statistics: ClassVar[tuple[str, ...]] = ()

    def initialise(self, z: Tensor) -> None:
        """Take reference values (scales, priors) from sample rows; raises InvalidInput for columns that cannot be modelled."""

    @abstractmethod
    def score(self, z: Tensor, block: slice) -> Tensor:
        """Log density of the observed entries under each component, shape (n, m), float64."""

    @abstractmethod
    def add(self, z: Tensor, weights: Tensor, block: slice) -> None:
        """Add rows to the statistics."""

    @abstractmethod
    def solve(self) -> None:
        """Set the parameters that maximise the expected log-likelihood plus :meth:`penalty`."""

    def penalty(self) -> Tensor:
        """The logarithm of the prior at the present parameters, up to a constant: a scalar."""
        return torch.zeros((), dtype=torch.float64)

    @abstractmethod
    def draw(self, component: Tensor, z: Tensor, known: Tensor) -> None:
        """Write draws of this part's columns into z (n, d), under component (n,), where ``known`` (n, d) is False."""

    @abstractmethod
    def free(self) -> int:
        """Free parameters of one component, for information criteria."""


class Missing(Part):
    """Whether a value is missing: a Bernoulli event a column, with half a pseudo-row on each side.

    ``shared``: how many components in a row share one probability. 1 makes missingness informative (it tells about the component); the number of
    components of a label makes it ignorable, so that missing values are integrated out and nothing else.
    """

    statistics = ("present", "absent")
    present: Tensor
    absent: Tensor
    probability: Tensor
    index: Tensor

    def __init__(self, columns: tuple[Column, ...], components: int, shared: int) -> None:
        super().__init__()
        index = [i for i, column in enumerate(columns) if column.missing]
        self.shared = shared
        _constant(self, "index", index, torch.int64)
        for name in self.statistics:
            self.register_buffer(name, torch.zeros(components, len(index), dtype=torch.float64))
        self.register_buffer("probability", torch.full((components, len(index)), 0.5, dtype=torch.float64))

    def score(self, z: Tensor, block: slice, known: Tensor | None = None) -> Tensor:
        gone = z[:, self.index].isnan().double()
        here = 1 - gone
        if known is not None:
            gone, here = gone * known[:, self.index], here * known[:, self.index]
        p = self.probability[block]
        return gone @ p.log().T + here @ torch.log1p(-p).T

    def add(self, z: Tensor, weights: Tensor, block: slice) -> None:
        gone = z[:, self.index].isnan().double()
        self.absent[block] += weights.T @ gone
        self.present[block] += weights.T @ (1 - gone)

    def solve(self) -> None:
        gone, here = (part.view(-1, self.shared, part.shape[1]).sum(dim=1) for part in (self.absent, self.present))
        self.probability.copy_(((gone + 0.5) / (gone + here + 1)).repeat_interleave(self.shared, dim=0))

    def penalty(self) -> Tensor:
        p = self.probability[:: self.shared]
        return 0.5 * (p.log() + torch.log1p(-p)).sum()

    def draw(self, component: Tensor, z: Tensor, known: Tensor) -> None:
        """Blank out drawn values at their columns' rates."""
        gone = torch.rand(len(z), len(self.index), dtype=torch.float64, device=z.device) < self.probability[component]
        z[:, self.index] = z[:, self.index].masked_fill(gone & ~known[:, self.index], float("nan"))

    def free(self) -> int:
        return len(self.index)


def pick(log_table: Tensor, component: Tensor) -> Tensor:
    """Draw from categorical distributions by inversion: log_table (m, width, levels), component (n,) -> codes (n, width)."""
    _, width, levels = log_table.shape
    codes = []
    for rows in torch.split(component, max(1, CHUNK // max(1, width * levels))):
        cdf = log_table[rows].exp().cumsum(dim=-1)
        u = torch.rand(len(rows), width, 1, dtype=cdf.dtype, device=cdf.device) * cdf[..., -1:]
        codes.append((cdf[..., :-1] <= u).sum(dim=-1))
    return torch.cat(codes)


def is_finite(column: Column, max_levels: int) -> bool:
    """Whether a column gets a table of probabilities: categories always, ordered levels up to ``max_levels``."""
    return column.kind == "categorical" or (_bounded(column) and (column.cardinality or 0) <= max_levels)


def numeric(columns: tuple[Column, ...], max_levels: int) -> list[int]:
    """The positions of the columns that are not finite."""
    return [i for i, column in enumerate(columns) if not is_finite(column, max_levels)]


def _bounded(column: Column) -> bool:
    return column.grid is not None and column.cardinality is not None


def _constant(module: nn.Module, name: str, values: list[int] | list[float], dtype: torch.dtype = torch.float64) -> None:
    """A buffer that follows from the space, hence is not saved."""
    module.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)
