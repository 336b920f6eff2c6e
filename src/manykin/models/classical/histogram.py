"""Histograms with tails: densities of numbers without a family, exact on the real line and on a grid.

The density is constant within bins, P(bin) / width, and exponential beyond the outermost edges, P(tail) rate exp(-rate distance). For a number on
a grid of step s, edges lie midway between grid points and P(cell) is the integral of that density over the cell, so the tails become geometric
distributions and the probabilities of all grid points sum to one. Probabilities are smoothed by ``alpha`` pseudo-counts a bin and tail.
"""

import torch
from torch import Tensor

from manykin.models.classical.cells import log1mexp
from manykin.models.classical.columns import Numbers, Part, pick
from manykin.models.classical.parts import centre_and_scale, refuse_constant

CANDIDATES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


class Histogram(Part):
    """One histogram a column and component.

    Edges are chosen once, from the sample: of equal-width and equal-count bins in several numbers, each column takes those that give one half of
    the sample the highest likelihood under the other half. A fixed number of ``bins`` restricts the choice.
    """

    statistics = ("counts", "excess")
    counts: Tensor
    excess: Tensor
    edges: Tensor
    scale: Tensor
    log_mass: Tensor
    rate: Tensor

    def __init__(self, numbers: Numbers, components: int, alpha: float, bins: int | None) -> None:
        super().__init__()
        self.columns, self.components, self.alpha, self.bins = numbers, components, alpha, bins
        self.register_buffer("excess", torch.zeros(components, len(numbers), 2, dtype=torch.float64))
        self.register_buffer("rate", torch.ones(components, len(numbers), 2, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(len(numbers), dtype=torch.float64))
        self.resize(1)

    def resize(self, bins: int) -> None:
        """Make room for so many bins a column."""
        width, device = len(self.columns), self.rate.device
        inner = torch.linspace(-0.5, 0.5, bins + 1, dtype=torch.float64, device=device).expand(width, -1)
        self.register_buffer("edges", self.columns.origin[:, None] + inner * self.columns.step.clamp(min=1e-9)[:, None])
        for name in ("counts", "log_mass"):
            self.register_buffer(name, torch.zeros(self.components, width, bins + 2, dtype=torch.float64, device=device))
        self.solve()

    def initialise(self, z: Tensor) -> None:
        x = z[:, self.columns.index]
        centre, scale = centre_and_scale(x)
        refuse_constant(x, scale, self.columns)
        unit = torch.where(self.columns.step > 0, self.columns.step, 1.0)
        self.scale.copy_(torch.where(scale > 0, scale, unit))
        empty = x.isnan().all(dim=0)
        edges = self._choose(torch.where(empty, centre, x))
        self.resize(edges.shape[1] - 1)
        self.edges.copy_(edges)
        self.solve()

    def score(self, z: Tensor, block: slice) -> Tensor:
        x = z[:, self.columns.index]
        present = ~x.isnan()
        x = torch.where(present, x, self.columns.origin)
        return (self._log_density(x, self.edges, self.log_mass[block], self.rate[block]) * present).sum(dim=-1).T

    def add(self, z: Tensor, weights: Tensor, block: slice) -> None:
        x = z[:, self.columns.index]
        present = ~x.isnan()
        x = torch.where(present, x, self.columns.origin)
        place = _place(x, self.edges)
        for component in range(weights.shape[1]):
            w = weights[:, component, None] * present
            self.counts[block][component].scatter_add_(1, place.T, w.T)
            self.excess[block][component, :, 0] += (w * (self.edges[:, 0] - x).clamp(min=0)).sum(dim=0)
            self.excess[block][component, :, 1] += (w * (x - self.edges[:, -1]).clamp(min=0)).sum(dim=0)

    def solve(self) -> None:
        total = self.counts + self.alpha * self._possible(self.edges)
        self.log_mass.copy_(total.log() - total.sum(dim=-1, keepdim=True).log())
        in_tails = self.counts[..., [0, -1]]
        self.rate.copy_((in_tails + 1) / (self.excess + self.scale[:, None]))

    def draw(self, component: Tensor, z: Tensor, known: Tensor) -> None:
        if not len(self.columns):
            return
        place = pick(self.log_mass, component)
        u = torch.rand(place.shape, dtype=torch.float64, device=z.device)
        bins = self.edges.shape[1] - 1
        columns = torch.arange(len(self.columns), device=z.device)
        inner = (place - 1).clamp(0, bins - 1)
        low, high = self.edges[columns, inner], self.edges[columns, inner + 1]
        distance = -torch.log1p(-u) / torch.where(place == 0, self.rate[component, :, 0], self.rate[component, :, 1])
        x = torch.where(place == 0, self.edges[:, 0] - distance, torch.where(place > bins, self.edges[:, -1] + distance, low + u * (high - low)))
        index = self.columns.index
        z[:, index] = torch.where(known[:, index], z[:, index], self.columns.snap(x))

    def free(self) -> int:
        possible = int((self._possible(self.edges) > 0).sum())
        return possible - len(self.columns) + 2 * len(self.columns)

    def _possible(self, edges: Tensor) -> Tensor:
        """1 for bins of positive width and for tails that the space allows, shape (columns, bins + 2)."""
        lower, upper = self.columns.lower.isinf(), self.columns.upper.isinf()
        return torch.cat([lower[:, None], edges.diff(dim=1) > 0, upper[:, None]], dim=1).double()

    def _log_density(self, x: Tensor, edges: Tensor, log_mass: Tensor, rate: Tensor) -> Tensor:
        """Log density per unit of the data of x (n, columns) under tables (m, columns, bins + 2), shape (m, n, columns)."""
        place = _place(x, edges)
        columns = torch.arange(len(self.columns), device=x.device)
        width = edges.diff(dim=1)
        inner = -torch.where(width > 0, width, 1.0).log()
        inner = torch.cat([torch.zeros_like(inner[:, :1]), inner, torch.zeros_like(inner[:, :1])], dim=1)
        step = self.columns.step
        distance = torch.maximum(edges[:, 0] - x, x - edges[:, -1])
        decay = torch.where(place[None] == 0, rate[:, None, :, 0], rate[:, None, :, 1])
        grid = -decay * (distance - step / 2) + log1mexp(decay * torch.where(step > 0, step, 1.0)) - torch.where(step > 0, step, 1.0).log()
        tail = torch.where(step > 0, grid, decay.log() - decay * distance)
        outside = (place == 0) | (place == edges.shape[1])
        return log_mass[:, columns, place] + torch.where(outside, tail, inner[columns, place] + 0 * x)

    def _choose(self, x: Tensor) -> Tensor:
        """The edges (columns, bins + 1) of the best candidate of each column, padded by repeating the last one."""
        if not len(self.columns):
            return self.edges
        allowed = CANDIDATES if self.bins is None else (self.bins,)
        choices = [(kind, bins) for bins in allowed if self.bins is not None or bins <= max(4, len(x)) for kind in ("width", "count")]
        gains = torch.stack([self._held_out(x, kind, bins) for kind, bins in choices])
        best = gains.argmax(dim=0)
        used = max(choices[index][1] for index in best.tolist())
        edges = torch.zeros(len(self.columns), used + 1, dtype=torch.float64, device=x.device)
        for index in sorted(set(best.tolist())):
            own = self._edges(x, *choices[index])
            padded = torch.cat([own, own[:, -1:].expand(-1, used + 1)], dim=1)[:, : used + 1]
            edges = torch.where((best == index)[:, None], padded, edges)
        return edges

    def _held_out(self, x: Tensor, kind: str, bins: int) -> Tensor:
        """Log-likelihood of each half of the rows under the other half, per column."""
        total = torch.zeros(len(self.columns), dtype=torch.float64, device=x.device)
        for train, test in ((x[::2], x[1::2]), (x[1::2], x[::2])):
            if len(train) == 0 or len(test) == 0:
                continue
            edges = self._edges(torch.where(train.isnan().all(dim=0), torch.nanmean(x, dim=0), train), kind, bins)
            filled = torch.where(train.isnan(), self.columns.origin, train)
            counts = torch.zeros(len(self.columns), bins + 2, dtype=torch.float64, device=x.device)
            counts.scatter_add_(1, _place(filled, edges).T, (~train.isnan()).double().T)
            counts += self.alpha * self._possible(edges)
            log_mass = counts.log() - counts.sum(dim=-1, keepdim=True).log()
            present = ~test.isnan()
            values = torch.where(present, test, self.columns.origin)
            rate = (1 / self.scale)[None, :, None].expand(1, -1, 2)
            total += torch.where(present, self._log_density(values, edges, log_mass[None], rate)[0], 0.0).sum(dim=0)
        return total

    def _edges(self, x: Tensor, kind: str, bins: int) -> Tensor:
        """Equal-width or equal-count edges (columns, bins + 1), at half steps for numbers on a grid."""
        values = x.T.sort(dim=1).values
        last = (~values.isnan()).sum(dim=1, keepdim=True) - 1
        low, high = values[:, :1], values.gather(1, last)
        step, origin = self.columns.step[:, None], self.columns.origin[:, None]
        margin = torch.where(step > 0, step / 2, ((high - low) / (last + 1)).clamp(min=1e-12 * self.scale[:, None]))
        low, high = low - margin, high + margin
        ramp = torch.arange(bins + 1, dtype=torch.float64, device=x.device) / bins
        if kind == "width":
            cells = ((high - low) / torch.where(step > 0, step, 1.0)).round()
            per_bin = (cells / bins).ceil().clamp(min=1)
            on_grid = low + torch.minimum(per_bin * ramp * bins, cells) * step
            return torch.where(step > 0, on_grid, low + ramp * (high - low)).contiguous()
        at = ramp * last
        below = at.floor().long()
        inner = (values.gather(1, below) + values.gather(1, torch.minimum(below + 1, last))) / 2
        safe = torch.where(step > 0, step, 1.0)
        inner = torch.where(step > 0, origin + (((inner - origin) / safe).floor() + 0.5) * safe, inner)
        inner[:, :1], inner[:, -1:] = low, high
        return torch.minimum(torch.maximum(inner, low), high).contiguous()


def _place(x: Tensor, edges: Tensor) -> Tensor:
    """The bin of each entry: 0 left of the first edge, bins + 1 from the last edge on; shape of x (n, columns)."""
    return torch.searchsorted(edges, x.detach().T.contiguous(), right=True).T
