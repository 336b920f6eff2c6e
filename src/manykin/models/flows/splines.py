"""Monotone rational-quadratic splines: bijections of the line or of an interval, with their log-derivatives and inverses in closed form.

Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019, section 3.1 and appendix A. A spline of K bins maps [low, high] onto itself. In
units t of that interval, with knots (t_k, v_k), bin sizes w_k and h_k, mean slopes s_k = h_k / w_k, slopes d_k at the knots, and the place
``theta = (t - t_k) / w_k`` in bin k,

``v = v_k + h_k (s_k theta^2 + d_k theta (1 - theta)) / (s_k + (d_k + d_{k+1} - 2 s_k) theta (1 - theta))``.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

STEEPEST = 8.0
"""The largest logarithm of the slope of a histogram's cell, up to a constant: in double precision every cell can be left again."""


@dataclass(frozen=True)
class Spline:
    """The shape of a family of splines.

    ``bins``: K. ``low``, ``high``: the interval. ``tails``: outside it the spline is the identity, its slope at both ends is 1, and it maps the real
    line; without tails it maps the interval alone, and values outside are taken as its ends. ``slope``: bin sizes and knot slopes stay within a
    factor of ``1 / slope`` of each other.

    A spline's parameters are free numbers (..., :attr:`width`), for its sizes along x, along y, and its slopes; all zero, it is the identity.
    """

    bins: int
    low: float = -4.0
    high: float = 4.0
    tails: bool = True
    slope: float = 1e-3

    @property
    def limit(self) -> float:
        """The largest logarithm of a knot's slope, and of the ratio of two bin sizes."""
        return -math.log(self.slope)

    @property
    def width(self) -> int:
        """Parameters of one spline."""
        return 3 * self.bins + (-1 if self.tails else 1)

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """y and log dy/dx of each entry, both of x's shape (...); ``raw`` has shape (..., width)."""
        raw = _full(raw)
        t, inside = self._units(x)
        v, log_slope = _Forward.apply(t, raw, self)  # type: ignore[no-untyped-call]
        y = self.low + (self.high - self.low) * v
        if not self.tails:
            return y, log_slope
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        """The x that :meth:`forward` maps to y: the root of a quadratic that lies in the bin (Durkan et al., 2019, equations 6 to 8)."""
        raw = _full(raw)
        v, inside = self._units(y)
        (t0, v0), (w, h), (d0, d1) = (part.unbind(-1) for part in self.bin(v, raw, 1)[0])
        s, above = h / w, v - v0
        bend = above * (d0 + d1 - 2 * s)
        a, b, c = h * (s - d0) + bend, h * d0 - bend, -s * above
        root = (b * b - 4 * a * c).clamp_min(torch.finfo(b.dtype).tiny).sqrt()
        theta = (2 * c / (-b - root)).clamp(0, 1)
        x = self.low + (self.high - self.low) * (t0 + w * theta)
        return torch.where(inside, x, y) if self.tails else x

    def _units(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x in units of the interval, brought into it, and where it was inside."""
        t = (x - self.low) * (1 / (self.high - self.low))
        clamped = t.clamp(0, 1)
        return clamped, t == clamped

    def bin(self, t: Tensor, raw: Tensor, axis: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Tensor]:
        """The bins in which t lies along x (axis 0) or y (axis 1), and how they follow from the parameters.

        Returns:
            starts along x and y, sizes along x and y, and slopes at both ends, each of shape (..., 2); then the bins' numbers (..., 1), and the
            logarithms and sizes of all bins, (..., 2, bins), up to a constant the former.
        """
        k = self.bins
        logs = _bounded(torch.unflatten(raw[..., : 2 * k], -1, (2, k)), self.limit / 2)
        sizes = logs.softmax(dim=-1)
        ends = sizes.cumsum(dim=-1)
        place = (t.detach().unsqueeze(-1) > ends.detach()[..., axis, :-1]).sum(dim=-1, keepdim=True)
        both = place.unsqueeze(-2).expand(*place.shape[:-1], 2, 1)
        size, end = sizes.gather(-1, both).squeeze(-1), ends.gather(-1, both).squeeze(-1)
        free = functional.pad(raw[..., 2 * k :], (1, 1)) if self.tails else raw[..., 2 * k :]
        slopes = _bounded(free.gather(-1, torch.cat([place, place + 1], dim=-1)), self.limit).exp()
        return (end - size, size, slopes), place, logs, sizes

    @property
    def cells(self) -> int:
        """Cells of the histogram from which :meth:`near` starts."""
        return self.bins

    def cell(self, x: Tensor) -> Tensor:
        """The cell of :meth:`near` in which each x lies."""
        return ((x - self.low) * (self.bins / (self.high - self.low))).long().clamp(0, self.bins - 1)

    def near(self, mass: Tensor) -> Tensor:
        """Parameters of splines with equal bins along x that give each bin its ``mass`` (..., bins), up to the limits of :attr:`slope`.

        Such a spline maps values with that histogram to nearly uniform ones.
        """
        density = (mass * self.bins).log()
        heights = _unbounded(density - density.mean(dim=-1, keepdim=True), self.limit / 2)
        knots = torch.cat([density[..., :1], 0.5 * (density[..., 1:] + density[..., :-1]), density[..., -1:]], dim=-1)
        slopes = _unbounded(knots[..., 1:-1] if self.tails else knots, self.limit)
        return torch.cat([torch.zeros_like(heights), heights, slopes], dim=-1)


class Cells(Protocol):
    """What has :attr:`edges` (m + 1,) from 0 to 1, increasing."""

    edges: Tensor


@dataclass(frozen=True)
class HistogramSpline:
    r"""A learned histogram on fixed cells, and a rational-quadratic spline behind it: maps [0, 1] onto itself.

    With cells of widths :math:`m_j` and learned masses :math:`q_j`, the first map is linear in each cell, of slope :math:`q_j / m_j` (Mueller et
    al., Neural importance sampling, 2019, section 4.2, there with equal cells), so that a density may jump at a cell's edge, which a smooth spline
    can only approach. Parameters: :math:`\log (q_j / m_j)` up to a constant, then those of the spline; all zero, it is the identity.

    ``smooth``: the spline, of [0, 1] without tails. ``known``: holds the edges of the cells.
    """

    smooth: Spline
    known: Cells

    @property
    def cells(self) -> int:
        """Cells of the histogram."""
        return len(self.known.edges) - 1

    @property
    def width(self) -> int:
        """Parameters of one map."""
        return self.cells + self.smooth.width

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """y and log dy/dx of each entry, both of x's shape (...); ``raw`` has shape (..., width)."""
        logs, rest, edges, widths = self._parts(raw, x)
        place = self.cell(x)
        mass, index = logs.exp(), place.unsqueeze(-1)
        below = (mass * (torch.arange(self.cells, device=x.device) < index)).sum(dim=-1)
        found, width = logs.gather(-1, index).squeeze(-1), widths[place]
        t = below + found.exp() * ((x - edges[place]) / width)
        y, log_slope = self.smooth.forward(t, rest)
        return y, log_slope + found - width.log()

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        """The x that :meth:`forward` maps to y."""
        logs, rest, edges, widths = self._parts(raw, y)
        t, mass = self.smooth.inverse(y, rest), logs.exp()
        ends = mass.cumsum(dim=-1)
        place = (t.unsqueeze(-1) > ends[..., :-1]).sum(dim=-1)
        index = place.unsqueeze(-1)
        own = mass.gather(-1, index).squeeze(-1)
        part = (t - ends.gather(-1, index).squeeze(-1) + own) / own
        return edges[place] + widths[place] * part.clamp(0, 1)

    def _parts(self, raw: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logarithms of the masses, the spline's parameters, and the cells' edges and widths."""
        steps, rest = torch.split(_full(raw), [self.cells, self.smooth.width], dim=-1)
        edges = self.known.edges.to(x.dtype)
        widths = edges.diff()
        return (_bounded(steps, STEEPEST) + widths.log()).log_softmax(dim=-1), rest, edges, widths

    def cell(self, x: Tensor) -> Tensor:
        """The cell in which each x lies."""
        return torch.bucketize(x.detach().contiguous(), self.known.edges[1:-1].to(x.dtype), right=True)

    def near(self, mass: Tensor) -> Tensor:
        """Parameters of histograms with the given ``mass`` (..., cells) and splines that are the identity."""
        steps = _unbounded((mass / self.known.edges.diff()).log(), STEEPEST)
        return torch.cat([steps, steps.new_zeros(*steps.shape[:-1], self.smooth.width)], dim=-1)


def _full(raw: Tensor) -> Tensor:
    """Parameters in single precision or better: sums of bin sizes in bfloat16 would miss their ends by percents."""
    return raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw


def _bounded(raw: Tensor, limit: float) -> Tensor:
    """A smooth odd map of the line into (-limit, limit) with slope 1 at 0."""
    return raw / (1 + raw.abs() * (1 / limit))


def _unbounded(value: Tensor, limit: float) -> Tensor:
    """The inverse of :func:`_bounded`, for values that are brought to four fifths of the limit."""
    value = value.clamp(-0.8 * limit, 0.8 * limit)
    return value / (1 - value.abs() * (1 / limit))


class _Forward(torch.autograd.Function):
    """v and log dv/dt from t and the parameters, with a gradient by hand: a third of the operations that a recorded one takes.

    Sizes are p = softmax(l): a bin's start is the sum of the p_j before it, so that with g_start and g_size the gradients of the start and the size
    of bin k, ``dl_j = p_j ([j < k] g_start + [j = k] g_size - g_start start - g_size size)``.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, raw: Tensor, spline: Spline) -> tuple[Tensor, Tensor]:
        (starts, lengths, slopes), place, logs, sizes = spline.bin(t, raw, 0)
        (t0, v0), (w, h), (d0, d1) = starts.unbind(-1), lengths.unbind(-1), slopes.unbind(-1)
        theta = ((t - t0) / w).clamp_(0, 1)
        s, rest = h / w, 1 - theta
        mixed = theta * rest
        below = torch.addcmul(s, d0 + d1 - 2 * s, mixed)
        share = (s * theta * theta + d0 * mixed) / below
        inner = 2 * s * mixed + d0 * rest * rest + d1 * theta * theta
        ctx.spline = spline
        ctx.save_for_backward(raw, starts, lengths, slopes, place, logs, sizes, theta, below, share, inner)
        return torch.addcmul(v0, h, share), (s * s * inner / (below * below)).log()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        to_v, to_log = grads
        raw, starts, lengths, slopes, place, logs, sizes, theta, below, share, inner = ctx.saved_tensors
        (w, h), (d0, d1) = lengths.unbind(-1), slopes.unbind(-1)
        s, rest = h / w, 1 - theta
        mixed, turn, square = theta * rest, rest - theta, theta * theta
        to_share = to_v * h / below
        to_inner = to_log / inner
        to_below = -2 * to_log / below - to_share * share
        to_s = 2 * to_log / s + to_share * square + to_below * (1 - 2 * mixed) + 2 * to_inner * mixed
        to_ends = torch.stack([(to_share + to_below) * mixed + to_inner * rest * rest, to_below * mixed + to_inner * square], dim=-1)
        # The slope itself in the place of a difference that cancels where it is small.
        to_theta = to_v * h * s * inner / below.square() - 2 * to_log / below * (d0 + d1 - 2 * s) * turn
        to_theta += 2 * to_inner * (s * turn - d0 * rest + d1 * theta)
        to_t = to_theta / w
        to_h = to_s / w
        to_starts = torch.stack([-to_t, to_v], dim=-1)
        to_lengths = torch.stack([-to_t * theta - to_h * s, to_v * share + to_h], dim=-1)
        return to_t, _to_raw(ctx.spline, raw, place, logs, sizes, slopes, (starts, lengths), (to_starts, to_lengths, to_ends)), None


def _to_raw(
    spline: Spline, raw: Tensor, place: Tensor, logs: Tensor, sizes: Tensor, slopes: Tensor, bins: tuple[Tensor, Tensor],
    grads: tuple[Tensor, Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """The gradient of the parameters from those of the starts, sizes and end slopes of the bins that were chosen."""
    k, (to_starts, to_lengths, to_ends) = spline.bins, grads
    total = (bins[0] * to_starts + bins[1] * to_lengths).unsqueeze(-1)
    earlier = (torch.arange(k, device=raw.device) < place).unsqueeze(-2)
    part = torch.where(earlier, to_starts.unsqueeze(-1) - total, -total)
    part.scatter_add_(-1, place.unsqueeze(-2).expand(*place.shape[:-1], 2, 1), to_lengths.unsqueeze(-1))
    bent = logs.abs().mul_(-2 / spline.limit).add_(1)
    part.mul_(sizes).mul_(bent).mul_(bent)
    to_free = to_ends * slopes * (1 - slopes.log().abs() * (1 / spline.limit)).square()
    knots = raw.new_zeros(*place.shape[:-1], k + 1).scatter_(-1, torch.cat([place, place + 1], dim=-1), to_free)
    return torch.cat([part.flatten(-2), knots[..., 1:-1] if spline.tails else knots], dim=-1)
