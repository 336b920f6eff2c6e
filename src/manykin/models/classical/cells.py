"""Normal distributions seen through cells: the mass of an interval, and the moments of a normal variable known to lie in it.

A number on a grid is modelled as a normal variable y rounded to its cell [a, b]. P(cell) = Phi(b) - Phi(a), and EM with y as the hidden value
has a closed, exact M-step from E[y | cell] and E[y^2 | cell] (Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM
algorithm, 1977, section 4.2, grouped and truncated data). All arguments are in standard units.
"""

import math

import torch
from torch import Tensor

NARROW = 0.03
LOG_2PI = math.log(2 * math.pi)


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
