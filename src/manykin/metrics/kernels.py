"""The maximum mean discrepancy between two samples: five kernels, unbiased, with its standard error and a permutation test."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from manykin.errors import InvalidInput, suggest
from manykin.metrics.estimate import SAMPLES, Estimate
from manykin.metrics.figures import Figure, Metric
from manykin.metrics.pairs import centred, checked_rows, cut_note, pair_sums, same_width, squared_distances, unbiased
from manykin.random import generator

MEDIAN_ROWS = 500
"""Rows of each sample that the median heuristic looks at."""
TEST_ROWS = 500
"""Rows of each sample in the permutation test: its kernel matrix has at most 1,000 x 1,000 entries."""
PERMUTATIONS = 999
SCALES = 5
"""Bandwidths of the multiscale kernel: 4, 2, 1, 1/2 and 1/4 times the given one."""


def _gaussian(bandwidth: float, tile: Tensor) -> Tensor:
    return tile.mul_(-0.5 / bandwidth**2).exp_()


def _laplacian(bandwidth: float, tile: Tensor) -> Tensor:
    return tile.sqrt_().mul_(-1 / bandwidth).exp_()


def _imq(bandwidth: float, tile: Tensor) -> Tensor:
    return tile.mul_(bandwidth**-2).add_(1).rsqrt_()


def _multiscale(bandwidth: float, tile: Tensor) -> Tensor:
    """One exponential for the widest Gaussian; each narrower one is the fourth power of the one before."""
    power = _gaussian(bandwidth * 4, tile)
    total = power.clone()
    for _ in range(SCALES - 1):
        # Below 1e-8 the fourth power is 0 to all purposes, and would be a subnormal float32, which processors handle slowly.
        power = torch.threshold_(power, 1e-8, 0.0).square_().square_()
        total += power
    return total.div_(SCALES)


def _polynomial(width: float, tile: Tensor) -> Tensor:
    cubic = tile.div_(width).add_(1)
    return cubic * cubic * cubic


KERNELS: dict[str, Callable[[float, Tensor], Tensor]] = {
    "gaussian": _gaussian, "laplacian": _laplacian, "imq": _imq, "polynomial": _polynomial, "multiscale": _multiscale,
}  # fmt: skip
"""Kernels as functions of a bandwidth (of the width of the rows for the polynomial one) and a tile of squared distances (of inner products)."""


@torch.no_grad()
def mmd(x: Tensor, y: Tensor, *, kernel: str = "gaussian", bandwidth: float | None = None, seed: int = 0) -> Estimate:
    r"""The squared maximum mean discrepancy between two samples, unbiased, with its standard error.

    .. math:: \mathrm{MMD}^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y)

    by the U-statistic of Gretton et al., A kernel two-sample test, 2012, equation 3; its standard error, under equal and under different laws, is
    that of :func:`manykin.metrics.pairs.unbiased`. With bandwidth s and r = |x - y| (Euclidean) the kernels are

    ============  =====================================================================================================================
    gaussian      exp(-r^2 / (2 s^2))
    laplacian     exp(-r / s)
    imq           (1 + r^2 / s^2)^(-1/2), the inverse multiquadric (Gorham and Mackey, Measuring sample quality with kernels, 2017)
    multiscale    the mean of five Gaussian kernels, of bandwidths 4 s, 2 s, s, s / 2, s / 4
    polynomial    (x . y / d + 1)^3, without a bandwidth (Bińkowski et al., Demystifying MMD GANs, 2018)
    ============  =====================================================================================================================

    All but the polynomial kernel are characteristic: their MMD is 0 for equal laws only. The polynomial one compares moments up to the third.
    Values of different kernels or bandwidths are not comparable; the note has both. Time grows as (n + m)^2 d / 2, memory only as the rows.
    Above 1e9 multiplications kernels are computed in float32 (sums stay float64), which moves the value by less than a hundredth of its
    standard error (measured on 4,000 x 4,000 standard normal rows of 64 and 512 entries).

    Args:
        x: real numbers, shape (n, ...); flattened.
        y: real numbers, shape (m, ...), with as many entries a row as x.
        kernel: ``gaussian``, ``laplacian``, ``imq``, ``polynomial`` or ``multiscale``.
        bandwidth: s; None takes the median distance between rows of both samples (:func:`median_distance`).
        seed: chooses rows for the median, and 50,000 rows of a sample that has more.

    Raises:
        InvalidInput: for fewer than four rows, rows of different sizes, values that are not finite, rows that are all equal (they have no median
            distance), an unknown kernel, or a bandwidth that is not positive.
    """
    a, b = checked_rows(x, "x", 4, seed), checked_rows(y, "y", 4, seed)
    same_width(a, b)
    function, note = _chosen(kernel, bandwidth, a, b, seed)
    products = kernel == "polynomial"
    if not products:
        a, b = centred(a, b)
    value, stderr = unbiased(*(pair_sums(one, other, function, products=products) for one, other in ((a, None), (b, None), (a, b))))
    return Estimate("mmd", value, stderr, "", "estimate", len(a), "; ".join(filter(None, [note, cut_note(x, y)])), quantity=SAMPLES)


@torch.no_grad()
def mmd_test(
    x: Tensor, y: Tensor, *, kernel: str = "multiscale", bandwidth: float | None = None, permutations: int = PERMUTATIONS, seed: int = 0
) -> Estimate:
    """The p-value of equal laws by a permutation test of the squared MMD.

    The share of random relabellings of the pooled rows, the true one counted among them, whose unbiased MMD^2 is at least the true one's. Under
    equal laws it is uniform on multiples of 1 / (permutations + 1), whatever the kernel (Phipson and Smyth, Permutation p-values should never be
    zero, 2010), since the bandwidth rests on the pooled rows alone. At most 500 rows of each sample take part, by ``seed``. ``stderr`` is the Monte
    Carlo error of the finite number of permutations: it says nothing of how p would vary over samples.

    Args:
        x: real numbers, shape (n, ...); flattened.
        y: real numbers, shape (m, ...), with as many entries a row as x.
        kernel: as for :func:`mmd`.
        bandwidth: as for :func:`mmd`.
        permutations: random relabellings.
        seed: of rows and relabellings.

    Raises:
        InvalidInput: as :func:`mmd`.
    """
    a, b = checked_rows(x, "x", 4, seed, TEST_ROWS), checked_rows(y, "y", 4, seed, TEST_ROWS)
    same_width(a, b)
    function, note = _chosen(kernel, bandwidth, a, b, seed)
    n, m = len(a), len(b)
    pooled = torch.cat([a, b])
    if kernel != "polynomial":
        pooled = pooled - pooled.mean(dim=0)
    gram = function(pooled @ pooled.T if kernel == "polynomial" else squared_distances(pooled, pooled)).fill_diagonal_(0.0)
    order = torch.rand(permutations, n + m, generator=generator(seed, "permutations")).argsort(dim=1)
    chosen = torch.zeros(permutations + 1, n + m, dtype=torch.float64)
    chosen[0, :n] = 1.0
    chosen[1:].scatter_(1, order[:, :n], 1.0)
    within = ((chosen @ gram) * chosen).sum(dim=1)
    touched, total = chosen @ gram.sum(dim=1), float(gram.sum())
    between = touched - within
    values = within / (n * (n - 1)) + (total - within - 2 * between) / (m * (m - 1)) - 2 * between / (n * m)
    slack = 1e-12 * float(gram.abs().max())
    p = float((values >= values[0] - slack).double().mean())
    error = (p * (1 - p) / permutations) ** 0.5
    told = f"{note}; {permutations} permutations of {n} + {m} rows"
    return Estimate("mmd_p", p, error, "p-value", "estimate", n, told, quantity=SAMPLES)


def median_distance(x: Tensor, y: Tensor | None = None, *, seed: int = 0) -> float:
    """The median of the distances that are not 0 between at most 500 rows of each sample: the usual bandwidth (Gretton et al., 2012, section 8).

    Raises:
        InvalidInput: where all rows are equal.
    """
    parts = [part[torch.randperm(len(part), generator=generator(seed, "median"))[:MEDIAN_ROWS]] for part in (x, y) if part is not None]
    rows = torch.cat(parts).double()
    rows = rows - rows.mean(dim=0)
    squared = squared_distances(rows, rows)[tuple(torch.triu_indices(len(rows), len(rows), 1))]
    told_apart = squared[squared > 1e-12 * float((rows * rows).sum(dim=1).max())]
    if len(told_apart) == 0:
        raise InvalidInput(f"all {len(rows)} rows are equal, so that they have no median distance; expected rows that differ, or give a bandwidth.")
    return float(told_apart.median().sqrt())


def _chosen(kernel: str, bandwidth: float | None, a: Tensor, b: Tensor, seed: int) -> tuple[Callable[[Tensor], Tensor], str]:
    """The kernel with its bandwidth, and what a note says of it."""
    if kernel not in KERNELS:
        raise InvalidInput(f"kernel {kernel!r} is not known.{suggest(kernel, KERNELS)}")
    if kernel == "polynomial":
        if bandwidth is not None:
            raise InvalidInput(f"bandwidth = {bandwidth!r} was given, but the polynomial kernel has none; leave it out.")
        return partial(_polynomial, float(a.shape[1])), "polynomial kernel"
    if bandwidth is not None and not 0 < bandwidth < float("inf"):
        raise InvalidInput(f"bandwidth = {bandwidth!r} is no width; expected a positive number, or None for the median distance.")
    width = median_distance(a, b, seed=seed) if bandwidth is None else float(bandwidth)
    return partial(KERNELS[kernel], width), f"{kernel} kernel, bandwidth {width:.4g}"


def _compare(real: Tensor, fake: Tensor, *, seed: int) -> list[Estimate]:
    """MMD at the median distance of the real rows, so that all models are judged by one kernel, and the permutation test."""
    width = median_distance(checked_rows(real, "held-out data", 4, seed), seed=seed)
    return [mmd(real, fake, kernel="multiscale", bandwidth=width, seed=seed), mmd_test(real, fake, seed=seed)]


METRIC = Metric(
    "mmd",
    _compare,
    (
        Figure(
            name="mmd",
            title="squared MMD",
            better="lower",
            range="0 for equal laws, at most 2; the unbiased estimate may be slightly negative",
            meaning="How far the samples are from held-out data as seen by smooth bumps of five widths: 0 for equal laws, positive for all others.",
            formula=r"E k(X, X') + E k(Y, Y') - 2 E k(X, Y), k the mean of Gaussian kernels of 4, 2, 1, 1/2, 1/4 times the median real distance",
            source="A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf and A. Smola, A kernel two-sample test, 2012, equation 3",
            pitfalls="Depends on the kernel and its bandwidth (in the note): compare values of one kernel only. In hundreds of dimensions distances "
            "are nearly alike and its power falls. It does not see copied training rows.",
            ideal=0.0,
            sees=("noise", "blur", "dropped class", "shifted mean", "collapse", "independent columns"),
        ),
        Figure(
            name="mmd_p",
            title="MMD p-value",
            better="none",
            range="0.001 to 1; uniform on it for equal laws",
            meaning="How often two samples of one law would differ as much as these do: below 0.05 is evidence that they are not of one.",
            formula="share of 999 random relabellings of at most 500 + 500 rows, the true one included, whose MMD^2 is at least the true one's",
            source="A. Gretton et al., A kernel two-sample test, 2012, section 6; B. Phipson and G. Smyth, Permutation p-values, 2010",
            pitfalls="Not a size of effect: with enough rows every model is told apart, with few rows none is. Do not rank models by it. "
            "Anything above 0.05 says the same.",
            sees=("noise", "blur", "dropped class", "shifted mean", "collapse", "independent columns"),
        ),
    ),
    minimum=4,
)
