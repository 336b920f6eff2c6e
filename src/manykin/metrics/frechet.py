"""Fréchet and kernel distances between features, and the Inception Score's formula, over whatever network the features are from."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.metrics.estimate import SAMPLES, Estimate
from manykin.metrics.figures import Figure, Metric
from manykin.metrics.gaussians import Distance, gaussian_distance, jackknife
from manykin.metrics.pairs import checked_rows, cut_note, pair_sums, same_width, unbiased
from manykin.random import generator

MOST_PARTS = 4
"""The smallest subsets of an extrapolation are quarters."""
REPEATS = 2
"""Random partitions of each size in an extrapolation."""
UNIT = "squared feature units"


@torch.no_grad()
def frechet_distance(real: Tensor, fake: Tensor, *, seed: int = 0) -> Estimate:
    r"""The Fréchet distance between Gaussians fitted to two samples of features; over Inception's features it is the FID.

    .. math:: |\mu_1 - \mu_2|^2 + \operatorname{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

    (Dowson and Landau, The Fréchet distance between multivariate normal distributions, 1982, equation 4; Heusel et al., GANs trained by a two
    time-scale update rule converge to a local Nash equilibrium, 2017, equation 6), with covariances over n - 1. The trace of the root is the sum of
    the singular values of :math:`F_1 F_2^T` for any factors with :math:`\Sigma = F^T F`: rows less their mean for n <= d, the symmetric
    eigendecomposition otherwise. It is real by construction, and right for singular covariances.

    The estimate is biased upwards, by about c / n, also for equal laws: compare at equal n, with the floor, or take :func:`frechet_infinity`.
    The standard error is the infinitesimal jackknife over rows of both samples (Efron, The jackknife, the bootstrap and other resampling plans,
    1982, chapter 6): the derivative of the distance in the weight of row x is, up to a constant, :math:`2 (\mu_1 - \mu_2)^T (x - \mu_1) +
    (x - \mu_1)^T (I - T) (x - \mu_1)` with T the optimal linear map from one Gaussian to the other. Near equal laws the distance is of second order
    in the samples, and the jackknife counts second-order variance twice (Efron and Stein, The jackknife estimate of variance, 1981, section 4):
    its expectation is :math:`V_1 / n + 2 V_2 / n^2` where the variance is :math:`V_1 / n + V_2 / n^2`. From J of all rows and J' of random halves
    (both split once, J' the mean of the two) follows :math:`1.5 J - J' / 4`, which is held between J / 2 and J. It is that of the estimate around
    its own mean, so the bias is not in it. Measured on 40 to 100 draws it was 1.0 to 1.2 times the true one, for equal and for
    different laws: 1.07 for 500 normal rows of 32 entries, 1.18 for 300 pictures of digits in features (1.48 and 1.51 without the correction).
    Time that of three such decompositions, n d^2 + d^3.

    Args:
        real: features of held-out rows, shape (n, d).
        fake: features of samples, shape (m, d).
        seed: chooses 50,000 rows of a sample that has more; ``feature_moments`` and ``frechet_from_moments`` take any number.

    Raises:
        InvalidInput: for fewer than two rows, rows of different sizes, or values that are not finite.
    """
    a, b = _both(real, fake, 2, seed)
    halves = _parts(a, b, 2, generator(seed, "frechet")) if min(len(a), len(b)) >= 4 else []
    return _plain(gaussian_distance(a, b), [part for _, _, part in halves], cut_note(real, fake))


@torch.no_grad()
def frechet_infinity(real: Tensor, fake: Tensor, *, seed: int = 0) -> Estimate:
    r"""The Fréchet distance extrapolated to infinitely many rows of both samples, so that small samples can be compared.

    The bias of :func:`frechet_distance` is linear in 1 / n to first order. As in Chong and Forsyth, Effectively unbiased FID and Inception Score and
    where to find them, 2020, section 4.1, the distance of subsets of several sizes is regressed on 1 / n, and the intercept is the estimate, here
    with three changes: both samples are cut, since both bias the distance; each size uses all rows, in random partitions into 1, 2, 3 and 4 parts;
    and parts have at least twice as many rows as the features have dimensions, below which the bias is not linear (halves are always used, and
    where even they are smaller than the dimension the note says that a bias remains). It may be slightly negative.

    The intercept is a weighted sum of distances, so its jackknife :math:`J_\infty` follows from the derivatives of :func:`frechet_distance` in the
    weight of each row, summed with the same weights: subsets share rows, which a standard error of the regression would not know. Its first-order
    variance is that of the plain distance, :math:`V_1 / n = 2 J - J' / 2`, and its second-order variance, which the jackknife counts twice, is
    halved: the stated variance is :math:`(J_\infty + \max(V_1 / n, 0)) / 2`. The interval of 95 % is the value plus or minus 1.96 standard errors.
    Measured on 40 to 100 draws it was 0.91 to 1.12 times the true one, for equal and for different laws; lowest where rows do not fill the
    dimensions. The bias of 500 rows of 32 entries was below 0.04 where that of the plain distance is 1.2. Time about ten times that.

    Args:
        real: features of held-out rows, shape (n, d).
        fake: features of samples, shape (m, d).
        seed: of the partitions.

    Raises:
        InvalidInput: for fewer than four rows, rows of different sizes, or values that are not finite.
    """
    a, b = _both(real, fake, 4, seed)
    return _extrapolated(a, b, gaussian_distance(a, b), seed, cut_note(real, fake))[0]


def _parts(a: Tensor, b: Tensor, count: int, draws: torch.Generator) -> list[tuple[Tensor, Tensor, Distance]]:
    """A random partition of both samples, each into so many parts: the positions in either sample, and the distance of each pair of parts."""
    splits = (torch.randperm(len(rows), generator=draws).tensor_split(count) for rows in (a, b))
    return [(i, j, gaussian_distance(a[i], b[j])) for i, j in zip(*splits)]


def _first_order(whole: Distance, halves: Sequence[Distance]) -> float:
    """The part of the variance of a distance that falls with 1 / n, from the jackknife of all rows and of halves; not below 0."""
    return max(2 * whole.jackknife - sum(half.jackknife for half in halves) / (2 * len(halves)), 0.0)


def _plain(whole: Distance, halves: Sequence[Distance], note: str) -> Estimate:
    first = min(_first_order(whole, halves), whole.jackknife) if halves else whole.jackknife
    error = math.sqrt((whole.jackknife + first) / 2)
    return Estimate("frechet_distance", whole.value, error, UNIT, "estimate", len(whole.second), note, quantity=SAMPLES)


def _extrapolated(a: Tensor, b: Tensor, whole: Distance, seed: int, cut: str) -> tuple[Estimate, list[Distance]]:
    """The estimate at infinite n, and the distances of the first pair of halves."""
    draws, halves = generator(seed, "frechet"), list[Distance]()
    least, rank = min(len(a), len(b)), whole.rank
    counts = [1, 2, *(parts for parts in range(3, MOST_PARTS + 1) if least // parts >= max(2 * rank, 2))]
    weights = torch.linalg.pinv(torch.tensor([[1.0, parts] for parts in counts], dtype=torch.float64))[0]
    share = float(weights[0])
    value, first, second = share * whole.value, share * whole.first, share * whole.second
    for weight, parts in zip((weights[1:] / REPEATS).tolist(), counts[1:]):
        for _ in range(REPEATS):
            found = _parts(a, b, parts, draws)
            halves = halves or [part for _, _, part in found]
            for i, j, part in found:
                value += weight * part.value / parts
                first[i] += weight * part.first
                second[j] += weight * part.second
    sizes = ", ".join(str(least // parts) for parts in counts)
    short = f"a bias remains: halves of {least // 2} rows do not fill {a.shape[1]} dimensions" if least // 2 <= rank else ""
    note = "; ".join(filter(None, [f"linear in 1/n over n = {sizes}", short, cut]))
    both = jackknife(first, second)
    error = math.sqrt((both + min(_first_order(whole, halves), both)) / 2)
    return Estimate("frechet_distance_inf", value, error, UNIT, "estimate", len(b), note, quantity=SAMPLES), halves


@torch.no_grad()
def kernel_distance(real: Tensor, fake: Tensor, *, seed: int = 0) -> Estimate:
    r"""The squared maximum mean discrepancy of features with the kernel :math:`(x \cdot y / d + 1)^3`; over Inception's features it is the KID.

    .. math:: E k(X, X') + E k(Y, Y') - 2 E k(X, Y)

    as a U-statistic over all pairs of distinct rows (Binkowski et al., Demystifying MMD GANs, 2018, section 4): unbiased at any n, hence sometimes
    slightly negative for equal laws. KID as usually reported is the mean over random subsets, which has the same expectation and more noise.
    The standard error is that of :func:`manykin.metrics.pairs.unbiased`, which holds for equal and for different laws. All in float64: the value is
    often a thousandth of the kernel's. Time (n + m)^2 d / 2, memory that of the rows.

    Args:
        real: features of held-out rows, shape (n, d).
        fake: features of samples, shape (m, d).
        seed: chooses 50,000 rows of a sample that has more.

    Raises:
        InvalidInput: for fewer than four rows, rows of different sizes, or values that are not finite.
    """
    a, b = _both(real, fake, 4, seed)
    d = a.shape[1]

    def cubed(products: Tensor) -> Tensor:
        base = products.div_(d).add_(1)
        return (base * base).mul_(base)

    sums = [pair_sums(one, other, cubed, products=True, double=True) for one, other in ((a, None), (b, None), (a, b))]
    value, stderr = unbiased(sums[0], sums[1], sums[2])
    note = "; ".join(filter(None, ["unbiased: may be negative" if value < 0 else "", cut_note(real, fake)]))
    return Estimate("kernel_distance", value, stderr, "kernel units", "estimate", len(b), note, quantity=SAMPLES)


@torch.no_grad()
def inception_score(probabilities: Tensor, *, splits: int | None = None) -> Estimate:
    r"""exp E KL(p(y | x) || p(y)) of class probabilities of samples: the Inception Score's formula, over whatever classifier they are from.

    (Salimans et al., Improved techniques for training GANs, 2016, section 4.) Between 1 and the number of classes; high where each sample is
    confidently of one class and all classes are equally frequent. It never looks at real data. p(y) is the mean over the samples, whose
    entropy is biased downwards, and with it the score: by a factor of about 1 - (classes - 1) / (2 n) at most (Miller, Note on the bias of
    information estimates, 1955). The standard error is the delete-one jackknife; with ``splits``, the convention of the paper: the mean over
    so many consecutive parts, with the error from their spread, and the bias of a part.

    Args:
        probabilities: shape (n, classes), rows that sum to one.
        splits: None takes all rows at once.

    Raises:
        InvalidInput: for rows that are no probabilities, fewer than two rows, or fewer than two rows a split.
    """
    rows = checked_rows(probabilities, "probabilities", 2, most=2**62)
    off = (rows.sum(dim=1) - 1).abs() + (rows < 0).any(dim=1)
    if float(off.max()) > 1e-3:
        bad = int(off.argmax())
        raise InvalidInput(f"row {bad} sums to {float(rows[bad].sum()):.4g}, smallest entry {float(rows[bad].min()):.3g}; expected probabilities.")
    if splits is not None and not (isinstance(splits, int) and 2 <= splits <= len(rows) // 2):
        raise InvalidInput(f"splits = {splits!r} of {len(rows)} rows; expected 2 to {len(rows) // 2}, or None for all rows at once.")
    n, gain = len(rows), torch.xlogy(rows, rows).sum(dim=1)
    if splits is not None:
        scores = torch.stack([_score(part.mean(dim=0), of.mean()) for part, of in zip(rows.tensor_split(splits), gain.tensor_split(splits))])
        value, stderr = float(scores.mean()), float(scores.std()) / math.sqrt(splits)
    else:
        value = float(_score(rows.mean(dim=0), gain.mean()))
        without = _score((rows.sum(dim=0) - rows).clamp_(min=0) / (n - 1), (gain.sum() - gain) / (n - 1))
        stderr = math.sqrt((n - 1) * float(without.var(correction=0)))
    low = (rows.shape[1] - 1) / (2 * n / (splits or 1))
    note = f"biased low by at most about {100 * low:.2g} %" + (f"; mean of {splits} splits" if splits else "")
    return Estimate("inception_score", value, stderr, "classes", "estimate", n, note, quantity=SAMPLES)


def _score(mean: Tensor, gain: Tensor) -> Tensor:
    return torch.exp(gain - torch.xlogy(mean, mean).sum(dim=-1))


def _both(real: Tensor, fake: Tensor, minimum: int, seed: int) -> tuple[Tensor, Tensor]:
    a, b = checked_rows(real, "real", minimum, seed), checked_rows(fake, "fake", minimum, seed)
    same_width(a, b, "real", "fake")
    return a, b


@torch.no_grad()
def _frechet(real: Tensor, fake: Tensor, *, seed: int = 0) -> tuple[Estimate, Estimate]:
    a, b = _both(real, fake, 4, seed)
    whole, note = gaussian_distance(a, b), cut_note(real, fake)
    extrapolated, halves = _extrapolated(a, b, whole, seed, note)
    return _plain(whole, halves, note), extrapolated


def _needs(case: Case) -> str:
    return "" if case.looked_at else "it needs pictures and a network that looks at them (features)"


METRIC = Metric(
    "frechet",
    _frechet,
    (
        Figure(
            name="frechet_distance",
            title="Fréchet distance",
            better="lower",
            range="0 and above; above 0 for equal laws too, by about c / n",
            meaning="How far the features of the samples are from those of real pictures, seen as two Gaussians.",
            formula=r"|\mu_1 - \mu_2|^2 + \operatorname{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})",
            source="M. Heusel et al., GANs trained by a two time-scale update rule converge to a local Nash equilibrium, 2017, equation 6",
            pitfalls="Biased upwards at small n: compare at equal n and with the floor. Only means and covariances of features count. Values over "
            "different networks cannot be compared, and only Inception's is FID. It does not see copied training rows. "
            "Its standard error leaves the bias out, and is up to 1.2 times the true one near equal laws.",
            ideal=0.0,
            sees=("noise", "blur", "shifted mean", "collapse", "independent columns"),
        ),
        Figure(
            name="frechet_distance_inf",
            title="Fréchet distance at infinite n",
            better="lower",
            range="0 and above; the estimate may be slightly negative, and is far below 0 where samples copy the held-out rows",
            meaning="What the Fréchet distance would be with infinitely many samples and real pictures.",
            formula=r"\text{intercept of } FD(n) \text{ over } 1/n",
            source="M. J. Chong and D. Forsyth, Effectively unbiased FID and Inception Score and where to find them, 2020, section 4.1",
            pitfalls="A bias remains where half of the rows are fewer than the dimensions of the features: the note says so, "
            "and there the standard error is about a tenth too small.",
            ideal=0.0,
            sees=("noise", "blur", "shifted mean", "collapse", "independent columns"),
        ),
    ),
    view="features",
    needs=_needs,
    minimum=4,
)
KERNEL = Metric(
    "kernel",
    kernel_distance,
    (
        Figure(
            name="kernel_distance",
            title="kernel distance",
            better="lower",
            range="0 for equal moments up to the third; the unbiased estimate may be slightly negative",
            meaning="How far the features of the samples are from those of real pictures: all averages, products and triple products of features.",
            formula=r"E k(X, X') + E k(Y, Y') - 2 E k(X, Y), \quad k(x, y) = (x \cdot y / d + 1)^3",
            source="M. Binkowski et al., Demystifying MMD GANs, 2018, section 4",
            pitfalls="Its scale depends on the network: compare with its floor. Large features rule it. It does not see copied training rows.",
            ideal=0.0,
            sees=("noise", "blur", "shifted mean", "collapse", "independent columns"),
        ),
    ),
    view="features",
    needs=_needs,
    minimum=4,
)
