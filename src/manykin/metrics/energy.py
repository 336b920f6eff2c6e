"""The energy distance between two samples, unbiased, with its standard error."""

import math

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.estimate import SAMPLES, Estimate
from manykin.metrics.figures import Figure, Metric
from manykin.metrics.numbers import flat
from manykin.random import generator

MAX_ROWS = 50_000
CHUNK_PAIRS = 4_000_000
DIRECT_WORK = 2e10


@torch.no_grad()
def energy_distance(x: Tensor, y: Tensor, *, seed: int = 0) -> Estimate:
    r"""The squared energy distance between two samples, unbiased, with a jackknife standard error.

    .. math:: E(X, Y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

    is 0 for equal laws and positive for all others (Székely and Rizzo, Energy statistics, 2013, equation 5). Each mean is a U-statistic over
    pairs of distinct rows, so the estimate is unbiased and may be slightly negative for equal laws. Its variance is the larger of two: the
    delete-one jackknife of both samples (Efron and Stein, The jackknife estimate of variance, 1981), which is exact from row sums and errs on the
    large side, and :math:`2 (V_X / n + V_Y / m)^2`, the variance under equal laws, where the statistic is degenerate and V is the distance standard
    deviation. Time grows as (n + m)^2 d, memory does not: distance matrices are summed in chunks.

    Args:
        x: real numbers, shape (n, ...); flattened, in float64.
        y: real numbers, shape (m, ...), with as many entries a row as x.
        seed: chooses 50,000 rows of a sample that has more.

    Raises:
        InvalidInput: for fewer than three rows, rows of different sizes, or values that are not finite.
    """
    note = f"on {MAX_ROWS} rows of each sample" if max(len(x), len(y)) > MAX_ROWS else ""
    a, b = _rows(x, "x", seed), _rows(y, "y", seed)
    if a.shape[1] != b.shape[1]:
        raise InvalidInput(f"x has {a.shape[1]} entries a row and y {b.shape[1]}; expected as many.")
    centre = b.mean(dim=0)
    a, b = a - centre, b - centre
    cross_a, cross_b, _ = _row_sums(a, b)
    (own_a, _, squares_a), (own_b, _, squares_b) = _row_sums(a, None), _row_sums(b, None)
    value, variance = _jackknife(cross_a, cross_b, own_a, own_b)
    degenerate = 2 * (_spread(own_a, squares_a) / len(a) + _spread(own_b, squares_b) / len(b)) ** 2
    stderr = math.sqrt(max(variance, degenerate))
    return Estimate("energy_distance", value, stderr, "data units", "estimate", len(a), note, quantity=SAMPLES)


def _rows(x: Tensor, name: str, seed: int) -> Tensor:
    """At most MAX_ROWS finite rows, shape (n, d) float64."""
    if len(x) < 3:
        raise InvalidInput(f"{name} has {len(x)} rows; an energy distance with a standard error needs at least 3.")
    rows = flat(x)
    if not torch.isfinite(rows).all():
        bad = int((~torch.isfinite(rows)).any(dim=1).nonzero()[0])
        raise InvalidInput(f"{name} holds a value that is not finite in row {bad}; expected finite numbers: encode missing values first.")
    if len(rows) > MAX_ROWS:
        rows = rows[torch.randperm(len(rows), generator=generator(seed, "energy", name))[:MAX_ROWS]]
    return rows


def _row_sums(a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Sums of |a_i - b_j| over j (n,) and over i (m,), and of their squares over both; b None: within a, each row to all others."""
    other = a if b is None else b
    work = float(len(a)) * len(other) * a.shape[1]
    mode = "donot_use_mm_for_euclid_dist" if work <= DIRECT_WORK else "use_mm_for_euclid_dist"
    size = max(CHUNK_PAIRS // len(other), 1)
    rows, columns, squares = torch.empty(len(a), dtype=torch.float64), torch.zeros(len(other), dtype=torch.float64), 0.0
    for start in range(0, len(a), size):
        distances = torch.cdist(a[start : start + size], other, compute_mode=mode)
        if b is None:
            distances.diagonal(start).zero_()
        rows[start : start + size] = distances.sum(dim=1)
        columns += distances.sum(dim=0)
        squares += float((distances * distances).sum())
    return rows, columns, squares


def _spread(own: Tensor, squares: float) -> float:
    """The distance standard deviation: the root mean square of the doubly centred distances (Székely, Rizzo and Bakirov, 2007, definition 5)."""
    means = own / len(own)
    return math.sqrt(max(squares / len(own) ** 2 - 2 * float((means**2).mean()) + float(means.mean()) ** 2, 0.0))


def _jackknife(cross_a: Tensor, cross_b: Tensor, own_a: Tensor, own_b: Tensor) -> tuple[float, float]:
    """The statistic and its jackknife variance from row sums, leaving out one row of either sample at a time."""
    n, m = len(own_a), len(own_b)
    cross, within_a, within_b = float(cross_a.sum()), float(own_a.sum()), float(own_b.sum())
    mean_a, mean_b = within_a / (n * (n - 1)), within_b / (m * (m - 1))
    value = 2 * cross / (n * m) - mean_a - mean_b
    without_a = 2 * (cross - cross_a) / ((n - 1) * m) - (within_a - 2 * own_a) / ((n - 1) * (n - 2)) - mean_b
    without_b = 2 * (cross - cross_b) / (n * (m - 1)) - mean_a - (within_b - 2 * own_b) / ((m - 1) * (m - 2))
    return value, (n - 1) * float(without_a.var(correction=0)) + (m - 1) * float(without_b.var(correction=0))


METRIC = Metric(
    "energy",
    energy_distance,
    (
        Figure(
            name="energy_distance",
            title="energy distance",
            better="lower",
            range="0 for equal laws, unbounded above; the unbiased estimate may be slightly negative",
            meaning="How far the law of the samples is from that of held-out data: 0 for equal laws, positive for all others.",
            formula=r"2 E|X - Y| - E|X - X'| - E|Y - Y'|",
            source="G. J. Székely and M. L. Rizzo, Energy statistics: a class of statistics based on distances, 2013, equation 5",
            pitfalls="Dominated by large-scale differences: in many dimensions fine detail (sharpness, rare modes) hardly moves it. "
            "It does not see copied training rows.",
            ideal=0.0,
            sees=("noise", "blur", "dropped class", "shifted mean", "collapse"),
        ),
    ),
    level="quick",
)
