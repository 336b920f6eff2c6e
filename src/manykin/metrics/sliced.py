"""The Wasserstein distance: exact in one dimension, sliced in many, for samples of any two sizes."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.estimate import SAMPLES, Estimate
from manykin.metrics.figures import Figure, Metric
from manykin.metrics.pairs import blocks, checked_rows, cut_note, same_width
from manykin.random import generator

BATCH_ENTRIES = 500_000
"""Projected numbers of one batch of directions."""


@torch.no_grad()
def wasserstein_1d(x: Any, y: Any, *, p: float = 1.0) -> Tensor:
    r"""The p-Wasserstein distance between the columns of two samples, float64.

    .. math:: W_p = \left(\int_0^1 |F^{-1}(u) - G^{-1}(u)|^p \, du\right)^{1/p}

    with the quantile functions F^-1 and G^-1 of the samples (Villani, Topics in Optimal Transportation, 2003, remark 2.19), exactly: both are step
    functions, whose steps are merged. Time grows as (n + m) log(n + m). The unit is that of the columns.

    Args:
        x: real numbers, shape (n,) or (n, k).
        y: real numbers, shape (m,) or (m, k).
        p: the order, at least 1.

    Returns:
        One distance a column: shape () for one-dimensional samples, else (k,).

    Raises:
        InvalidInput: for an empty sample, samples of different widths, values that are not finite, or p below 1.
    """
    _check_order(p)
    a, b = checked_rows(x, "x", 1, most=2**62), checked_rows(y, "y", 1, most=2**62)
    same_width(a, b)
    left, right, weights = _merged(len(a), len(b))
    gaps = a.sort(dim=0).values[left] - b.sort(dim=0).values[right]
    distances: Tensor = (weights @ gaps.abs().pow(p)).pow(1 / p)
    return distances[0] if (x.ndim if isinstance(x, Tensor) else np.ndim(x)) == 1 else distances


@torch.no_grad()
def sliced_wasserstein(x: Tensor, y: Tensor, *, projections: int = 256, p: float = 2.0, directions: Tensor | None = None, seed: int = 0) -> Estimate:
    r"""The sliced p-Wasserstein distance between two samples, with its standard error.

    .. math:: SW_p = \left(\frac{1}{L} \sum_l W_p^p(\theta_l \cdot X, \theta_l \cdot Y)\right)^{1/p}

    over L directions, uniform on the sphere (Rabin et al., Wasserstein barycenter and its application to texture mixing, 2012; Bonneel et al., Sliced
    and Radon Wasserstein barycenters of measures, 2015), each distance exact (:func:`wasserstein_1d`). It is 0 for equal laws only, but at finite n
    the value lies above that of the laws, by about 1/sqrt(n) where these are equal: read it beside its noise floor.

    The standard error has two parts. Over rows: the infinitesimal jackknife, which is the variance of the Kantorovich potentials of both samples,
    averaged over directions (the limit law of del Barrio and Loubes, Central limit theorems for empirical transportation cost in general
    dimension, 2019). Where laws differ it was 0.9 to 1.1 times the true spread in simulation; near equal laws it is of the right order and errs on
    the large side, 1.4 to 2.1 times. Over directions: their spread over sqrt(L). Both are carried through the p-th root by the delta method.
    Time grows as L (n + m) (d + log(n + m)); memory as the rows and one batch of projections.

    Args:
        x: real numbers, shape (n, ...); flattened.
        y: real numbers, shape (m, ...), with as many entries a row as x.
        projections: directions L.
        p: the order, at least 1.
        directions: unit vectors, shape (d, L), in the place of random ones.
        seed: of the directions, and of 50,000 rows of a sample that has more.

    Raises:
        InvalidInput: for fewer than two rows, rows of different sizes, values that are not finite, p below 1, fewer than two directions, or
            directions of another shape.
    """
    _check_order(p)
    a, b = checked_rows(x, "x", 2, seed), checked_rows(y, "y", 2, seed)
    same_width(a, b)
    unit = _directions(a.shape[1], projections, seed) if directions is None else directions.double()
    if unit.ndim != 2 or unit.shape[0] != a.shape[1] or unit.shape[1] < 2:
        raise InvalidInput(f"directions have shape {tuple(unit.shape)}; expected ({a.shape[1]}, L), with L at least 2.")
    left, right, weights = _merged(len(a), len(b))
    costs, potential_a, potential_b = [], torch.zeros(len(a), dtype=torch.float64), torch.zeros(len(b), dtype=torch.float64)
    for batch in blocks(unit.shape[1], len(a) + len(b), BATCH_ENTRIES):
        (sorted_a, order_a), (sorted_b, order_b) = (a @ unit[:, batch]).T.sort(dim=1), (b @ unit[:, batch]).T.sort(dim=1)
        gaps = sorted_a[:, left] - sorted_b[:, right]
        costs.append(gaps.abs().pow(p) @ weights)
        slopes = p * gaps.abs().pow(p - 1) * gaps.sign() * weights
        potential_a += _potentials(sorted_a, order_a, slopes, left)
        potential_b += _potentials(sorted_b, order_b, -slopes, right)
    cost, count = torch.cat(costs), unit.shape[1]
    mean = float(cost.mean())
    variance = float((potential_a / count).var()) / len(a) + float((potential_b / count).var()) / len(b) + float(cost.var()) / count
    value = mean ** (1 / p)
    stderr = math.sqrt(variance) * value / (p * mean) if mean > 0 else 0.0
    note = "; ".join(filter(None, [f"p = {p:g}, {count} directions", cut_note(x, y)]))
    return Estimate("sliced_wasserstein", value, stderr, "standard units", "estimate", len(a), note, quantity=SAMPLES)


def _check_order(p: float) -> None:
    if not 1 <= p < math.inf:
        raise InvalidInput(f"p = {p!r} is no order of a Wasserstein distance; expected a number of at least 1, such as 1 or 2.")


def _directions(width: int, count: int, seed: int) -> Tensor:
    """Unit vectors, uniform on the sphere, shape (width, count)."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise InvalidInput(f"projections = {count!r} are too few; expected an integer of at least 2, such as 256.")
    normal = torch.randn(width, count, generator=generator(seed, "directions"), dtype=torch.float64)
    return torch.nn.functional.normalize(normal, dim=0)


def _merged(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces on which both quantile functions are constant: the ranks in either sample, and how long each piece is.

    Steps lie at multiples of 1/n and of 1/m; counted in units of 1/(n m) they are integers, so that equal ones merge exactly.
    """
    ends = torch.from_numpy(np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n))
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts).double() / (n * m)


def _potentials(values: Tensor, order: Tensor, slopes: Tensor, ranks: Tensor) -> Tensor:
    """Kantorovich potentials at the rows, summed over directions, shape (n,), up to a constant.

    ``slopes`` is the derivative of the cost by each piece's value. The potential's derivative at a row is n times the sum of its pieces'; it is
    integrated from row to row by the trapezium rule.
    """
    slope = torch.zeros_like(values).index_add_(1, ranks, slopes) * values.shape[1]
    steps = (slope[:, 1:] + slope[:, :-1]) / 2 * values.diff(dim=1)
    potential = torch.cat([torch.zeros_like(values[:, :1]), steps.cumsum(dim=1)], dim=1)
    return torch.zeros_like(potential).scatter_(1, order, potential).sum(dim=0)


METRIC = Metric(
    "sliced_wasserstein",
    sliced_wasserstein,
    (
        Figure(
            name="sliced_wasserstein",
            title="sliced Wasserstein distance",
            better="lower",
            range="0 for equal laws, unbounded above; never 0 at finite n",
            meaning="How far mass must be moved, on average over directions, to turn the samples into held-out data; read it beside its floor.",
            formula=r"(mean over 256 directions t of W_2^2(t . X, t . Y))^(1/2)",
            source="J. Rabin, G. Peyré, J. Delon and M. Bernot, Wasserstein barycenter and its application to texture mixing, 2012; "
            "N. Bonneel, J. Rabin, G. Peyré and H. Pfister, Sliced and Radon Wasserstein barycenters of measures, 2015",
            pitfalls="Biased upwards at finite n, so that values at different n are not comparable; its floor shows by how much. "
            "Its standard error is 1.4 to 2.1 times the true one near equal laws. One direction in d sees about 1/sqrt(d) of a difference in one "
            "column. It does not see copied training rows.",
            ideal=0.0,
            sees=("noise", "blur", "dropped class", "shifted mean", "collapse", "independent columns"),
        ),
    ),
)
