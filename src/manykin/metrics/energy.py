"""The energy distance between two samples, unbiased, with its standard error."""

import torch
from torch import Tensor

from manykin.metrics.estimate import SAMPLES, Estimate
from manykin.metrics.figures import Figure, Metric
from manykin.metrics.pairs import centred, checked_rows, cut_note, pair_sums, same_width, unbiased


@torch.no_grad()
def energy_distance(x: Tensor, y: Tensor, *, seed: int = 0) -> Estimate:
    r"""The squared energy distance between two samples, unbiased, with its standard error.

    .. math:: E(X, Y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

    is 0 for equal laws and positive for all others (Székely and Rizzo, Energy statistics, 2013, equation 5). Each mean is a U-statistic over
    pairs of distinct rows, so the estimate is unbiased and may be slightly negative for equal laws. Its standard error is that of
    :func:`manykin.metrics.pairs.unbiased`: Hoeffding's variance, first and second order, which holds under equal laws too, where the statistic is
    degenerate. The value has the unit of the rows. In one dimension it is twice the squared Cramér distance, and the square of
    ``scipy.stats.energy_distance`` up to that one's bias.

    Time grows as (n + m)^2 d / 2, memory only as the rows. Above 1e9 multiplications distances are float32 products (sums stay float64): measured
    on 4,000 x 4,000 standard normal rows of 64 and 512 entries this moves the value by less than a hundredth of its standard error.

    Args:
        x: real numbers, shape (n, ...); flattened.
        y: real numbers, shape (m, ...), with as many entries a row as x.
        seed: chooses 50,000 rows of a sample that has more.

    Raises:
        InvalidInput: for fewer than four rows, rows of different sizes, or values that are not finite.
    """
    a, b = checked_rows(x, "x", 4, seed), checked_rows(y, "y", 4, seed)
    same_width(a, b)
    a, b = centred(a, b)
    value, stderr = unbiased(*(pair_sums(one, other, torch.sqrt_) for one, other in ((a, None), (b, None), (a, b))))
    return Estimate("energy_distance", -value, stderr, "standard units", "estimate", len(a), cut_note(x, y), quantity=SAMPLES)


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
            "It does not see copied training rows. Its unit is that of the numbers it sees: standard deviations, or pixels from 0 to 1.",
            ideal=0.0,
            sees=("noise", "blur", "dropped class", "shifted mean", "collapse", "independent columns"),
        ),
    ),
    level="quick",
    minimum=4,
)
