"""A flow of pictures, lattice after lattice: each pixel by a spline whose parameters see all pixels of the lattices before it."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from manykin.models.flows.couplings import AutoregressiveSplines, RowFlow, SplineCoupling, sides
from manykin.models.flows.splines import HistogramSpline, Spline
from manykin.nn import GridNet

FINEST = 1024
"""Cells of the histogram that equalises values of more levels than this."""

ROUGHEST = 8
"""The first lattice has at most so many rows and columns."""

START = 4096
"""Training rows from which the splines of pictures start; the histogram of all pixels is that of all rows given."""

LEAST = 1e-5
"""The least share of a level in the histogram: in single precision a hundred values of u for each."""

ROUNDING = 1e-6
"""By how much a scaled value may miss its range."""

OFFSETS = ((1, 1), (0, 1), (1, 0))
"""The places in a square of four pixels, after the one that is known, in the order in which they are modelled."""


class Equalise(nn.Module):
    """Values of levels, dequantised and scaled to [-1, 1], made nearly uniform on [0, 1] by the histogram of all training pixels.

    A fixed map, linear within each level: ``u = C_k + p_k (position in level k)``, where p_k is the share of level k and C_k that of all below it.

    Args:
        levels: of the pixels' values.
        groups: of neighbouring levels, nearly equal in their shares where that can be: :attr:`edges`, from 0 to 1, lie between levels.
    """

    shares: Tensor
    below: Tensor
    edges: Tensor

    def __init__(self, levels: int, groups: int) -> None:
        super().__init__()
        self.cells = min(levels, FINEST)
        shares = torch.full((self.cells,), 1 / self.cells, dtype=torch.float64)
        self.register_buffer("shares", shares)
        self.register_buffer("below", shares.cumsum(0) - shares)
        self.register_buffer("edges", grouped(shares, min(groups, self.cells)))

    def fit(self, z: Tensor) -> None:
        """Take the histogram of pictures z (n, c, h, w); each level counts for half a pixel more than was seen, and has a share of about 1e-5."""
        counts = torch.bincount(self._cell(z).flatten(), minlength=self.cells).double() + 0.5
        shares = (counts / counts.sum()).clamp_min(LEAST)
        self.shares.copy_(shares / shares.sum())
        self.below.copy_(self.shares.cumsum(0) - self.shares)
        self.edges.copy_(grouped(self.shares.double(), len(self.edges) - 1))

    def _cell(self, z: Tensor) -> Tensor:
        return ((z + 1) * (self.cells / 2)).long().clamp(0, self.cells - 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u (n, c, h, w), its log-derivative (-inf outside the range), and what networks see of the pixels, (n, c, 2, h, w)."""
        cell = self._cell(z)
        share, below = self.shares.take(cell), self.below.take(cell)
        position = (z.double() + 1) * (self.cells / 2) - cell
        u = (below + share * position).clamp(0, 1).to(z.dtype)
        log_slope = torch.where(z.abs() <= 1 + ROUNDING, (share * (self.cells / 2)).log().to(z.dtype), -math.inf)
        return u, log_slope, self._features(cell, below + share / 2, z.dtype, 2)

    def _features(self, cell: Tensor, middle: Tensor, dtype: torch.dtype, axis: int) -> Tensor:
        """The level and its rank, both from -1 to 1: not the position within the level, which is noise."""
        return torch.stack([cell.double() * (2 / max(self.cells - 1, 1)) - 1, 2 * middle - 1], dim=axis).to(dtype)

    def look(self, u: Tensor, axis: int = 1) -> Tensor:
        """What networks see of values u, two numbers each, along a new axis."""
        cell = self._place(u)
        return self._features(cell, (self.below + self.shares / 2)[cell], u.dtype, axis)

    def _place(self, u: Tensor) -> Tensor:
        return torch.bucketize(u.detach().double().contiguous(), self.below[1:].double(), right=True)

    def inverse(self, u: Tensor) -> Tensor:
        """The z in [-1, 1] that is mapped to u (n, c, h, w)."""
        cell = self._place(u)
        position = (u.double() - self.below[cell]) / self.shares[cell]
        return ((cell + position.clamp(0, 1)) * (2 / self.cells) - 1).to(u.dtype)


def grouped(shares: Tensor, groups: int) -> Tensor:
    """The edges, from 0 to 1, of groups of neighbouring cells of nearly equal share: the heaviest that can be is halved until there are enough."""
    ends = torch.cat([shares.new_zeros(1), shares.cumsum(0) / shares.sum()])
    cuts = [0, len(shares)]
    while len(cuts) <= groups:
        _, left, right = max((float(ends[b] - ends[a]), a, b) for a, b in itertools.pairwise(cuts) if b - a > 1)
        middle = int(torch.searchsorted(ends, (ends[left] + ends[right]) / 2))
        nearer = middle - int(abs(ends[middle - 1] - (ends[left] + ends[right]) / 2) < abs(ends[middle] - (ends[left] + ends[right]) / 2))
        cuts = sorted([*cuts, min(max(nearer, left + 1), right - 1)])
    return ends[cuts]


class Lattices(nn.Module):
    """Pictures (n, c, h, w) to (n, d), in groups: a coarse lattice of pixels first, then the pixels between, finer and finer.

    The first lattice is every s-th row and column, s the smallest power of two for which at most 8 are left, and at least 2; it is mapped by spline
    couplings or autoregressive splines. Then s is halved until it is 1, and at each size the pixels in the middles of squares, then those on
    vertical and horizontal edges between known ones, are mapped by splines whose parameters a network of convolutions computes from all pixels of
    earlier groups, one channel after the other. Within such a group pixels are independent given the earlier ones, so a whole group is sampled in
    one pass; the Jacobian is block triangular with diagonal blocks but for the first. Any height and width from 2: odd ones are padded inside the
    networks, and what is padded counts nowhere.

    Pictures with levels are equalised first, and mapped to the unit cube; real-valued ones are mapped to a standard normal, by splines with tails.

    Args:
        size: channels, height and width.
        levels: of values dequantised and scaled to [-1, 1]; None for real values.
        bins, bound: of the splines; the bound is that of real values.
        histogram: bins of a learned histogram in front of each spline, with edges between levels; 0 for none. Of values with levels only.
        conditioner: how the first lattice is mapped, in ``layers`` couplings or one autoregressive step.
        hidden, activation: of the networks of the first lattice.
        channels, blocks: of the networks of the other groups.
        context: features of the condition.
        dropout: share of hidden units or channels that training silences.
    """

    started: Tensor

    def __init__(
        self, size: tuple[int, int, int], levels: int | None, *, bins: int, bound: float, histogram: int,
        conditioner: Literal["coupling", "autoregressive"], layers: int, hidden: Sequence[int], activation: str, channels: int, blocks: int,
        context: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.colours, self.height, self.width = size
        self.equalise = None if levels is None else Equalise(levels, max(histogram, 1))
        self.spline: Spline | HistogramSpline = Spline(bins, -bound, bound)
        if self.equalise is not None:
            smooth = Spline(bins, 0.0, 1.0, tails=False, slope=1e-2 if histogram else 1e-4)
            self.spline = HistogramSpline(smooth, self.equalise) if histogram else smooth
        self.stride = 2 ** max(1, math.ceil(math.log2(max(self.height, self.width) / ROUGHEST)))
        rows, columns = -(-self.height // self.stride), -(-self.width // self.stride)
        self.coarse, seen = (self.colours, rows, columns), 1 if levels is None else 2
        self.first = self._rows(math.prod(self.coarse), conditioner, layers, hidden, activation, context, dropout, seen)
        self.nets = nn.ModuleList()
        self.groups: list[tuple[int, int, tuple[int, int], tuple[int, int]]] = []
        stride = self.stride // 2
        while stride:
            grid = (rows * self.stride // (2 * stride), columns * self.stride // (2 * stride))
            for number in range(3 * self.colours):
                inputs = seen * (self.colours + number)
                self.nets.append(GridNet(inputs, grid, self.spline.width, width=channels, blocks=blocks, context=context, dropout=dropout))
                offset, colour = OFFSETS[number // self.colours], number % self.colours
                self.groups.append((stride, colour, offset, self._inside(stride, offset)))
            stride //= 2
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def _rows(
        self, size: int, conditioner: str, layers: int, hidden: Sequence[int], activation: str, context: int, dropout: float, seen: int
    ) -> RowFlow:
        """The flow of the first lattice."""
        norms = self.equalise is None
        if conditioner == "coupling":
            steps = [SplineCoupling(kept, moved, context, self.spline, hidden, activation, dropout) for kept, moved in sides(size, layers)]
            return RowFlow(size, steps, "halves", norms)
        look = None if self.equalise is None else self._look_rows
        step = AutoregressiveSplines(size, context, self.spline, hidden, activation, dropout, look, seen)
        return RowFlow(size, [step], "turns", norms)

    def _look_rows(self, u: Tensor) -> Tensor:
        """What the network of the first lattice sees of its values (n, d): (n, d, 2)."""
        assert self.equalise is not None
        return self.equalise.look(u, axis=2)

    def _inside(self, stride: int, offset: tuple[int, int]) -> tuple[int, int]:
        """How many rows and columns of a group's grid lie in the picture."""
        down, across = (-(-(side - stride * first) // (2 * stride)) for side, first in zip((self.height, self.width), offset, strict=True))
        return max(down, 0), max(across, 0)

    def _pad(self, x: Tensor, value: float) -> Tensor:
        right, below = self.coarse[2] * self.stride - self.width, self.coarse[1] * self.stride - self.height
        return nn.functional.pad(x, (0, right, 0, below), value=value) if right or below else x

    def _at(self, x: Tensor, group: int) -> Tensor:
        """A group's pixels of x (n, c, ..., h, w), a view (n, ..., rows, columns)."""
        stride, colour, (down, across), _ = self.groups[group]
        return x[:, colour, ..., down * stride :: 2 * stride, across * stride :: 2 * stride]

    def _values(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Padded pixels as the splines take them, log|det| of that, and what the networks see of them (n, c, features, h, w)."""
        if self.equalise is None:
            padded = self._pad(z, 0.0)
            return padded, torch.zeros(len(z), dtype=z.dtype, device=z.device), padded.unsqueeze(2)
        u, log_slope, seen = self.equalise(self._pad(z, -1.0))
        return u, log_slope[..., : self.height, : self.width].flatten(1).sum(1), seen

    def _known(self, seen: Tensor, group: int) -> list[Tensor]:
        """What the networks see of the lattice that is known before the first group of this one's size."""
        stride = 2 * self.groups[group][0]
        return [seen[:, colour, :, ::stride, ::stride] for colour in range(self.colours)]

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """h and the log-determinants, shapes (n, d) and (n,)."""
        u, total, seen = self._values(z)
        h, ldj = self.first(u[:, :, :: self.stride, :: self.stride].flatten(1), context)
        parts, total = [h], total + ldj
        known: list[Tensor] = []
        for group, net in enumerate(self.nets):
            if group % (3 * self.colours) == 0:
                known = self._known(seen, group)
            raw = net(torch.cat(known, dim=1), context).permute(0, 2, 3, 1)
            h, log_slope = self.spline.forward(self._at(u, group), raw)
            down, across = self.groups[group][3]
            parts.append(h[:, :down, :across].flatten(1))
            total = total + log_slope[:, :down, :across].flatten(1).sum(1)
            known.append(self._at(seen, group))
        return torch.cat(parts, dim=1), total

    def inverse(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The z that :meth:`forward` maps to h."""
        n, sizes = len(h), [math.prod(self.coarse), *(down * across for *_, (down, across) in self.groups)]
        first, *others = torch.split(h, sizes, dim=1)
        u = torch.zeros(n, self.colours, self.coarse[1] * self.stride, self.coarse[2] * self.stride, dtype=h.dtype, device=h.device)
        u[:, :, :: self.stride, :: self.stride] = self.first.inverse(first, context).view(n, *self.coarse)
        known: list[Tensor] = []
        for group, (net, part) in enumerate(zip(self.nets, others, strict=True)):
            if group % (3 * self.colours) == 0:
                stride = 2 * self.groups[group][0]
                known = [self._look(u[:, colour, ::stride, ::stride]) for colour in range(self.colours)]
            raw, (down, across) = net(torch.cat(known, dim=1), context).permute(0, 2, 3, 1), self.groups[group][3]
            inside = self.spline.inverse(part.view(n, down, across), raw[:, :down, :across])
            value = nn.functional.pad(inside, (0, raw.shape[2] - across, 0, raw.shape[1] - down))
            self._at(u, group).copy_(value)
            known.append(self._look(value))
        u = u[:, :, : self.height, : self.width]
        return u if self.equalise is None else self.equalise.inverse(u)

    def _look(self, u: Tensor) -> Tensor:
        return u.unsqueeze(1) if self.equalise is None else self.equalise.look(u)

    def start(self, z: Tensor, context: Tensor | None) -> None:
        """Take the histogram of all values, and start every spline from the histogram of its own pixel; of real values only ActNorm layers."""
        if bool(self.started):
            return
        if self.equalise is None:
            self.first.start(z[:, :, :: self.stride, :: self.stride].flatten(1), context)
        else:
            self.equalise.fit(z)
            u = self.equalise(self._pad(z[:START], -1.0))[0]
            for group, net in enumerate(self.nets):
                assert isinstance(net, GridNet)
                net.bias.data.copy_(self._marginal(self._at(u, group)).permute(2, 0, 1).flatten())
            self._start_rows(self._marginal(u[:, :, :: self.stride, :: self.stride].flatten(1)))
        self.started.fill_(True)

    def _marginal(self, u: Tensor) -> Tensor:
        """The parameters of splines that make each of many values u (n, ...) nearly uniform: (..., width)."""
        cells, flat = self.spline.cells, u.flatten(1)
        cell = self.spline.cell(flat) + cells * torch.arange(flat.shape[1], device=u.device)
        counts = torch.bincount(cell.flatten(), minlength=cells * flat.shape[1]).view(*u.shape[1:], cells).double()
        return self.spline.near((counts + 1) / (len(u) + cells)).to(u.dtype)

    def _start_rows(self, marginals: Tensor) -> None:
        """The first step that moves an entry of the first lattice starts from the entry's own histogram."""
        if self.first.period == 1:
            step = self.first.steps[0]
            assert isinstance(step, AutoregressiveSplines)
            step.net.last.bias.data.copy_(marginals.flatten())
            return
        order = self.first.orders[0]
        for step, moved in zip(self.first.steps, (order[len(order) - len(order) // 2 :], order[: len(order) - len(order) // 2]), strict=False):
            assert isinstance(step, SplineCoupling)
            step.start_bias(marginals[moved])
