"""Whether samples copy training rows: statistics on distances to nearest training rows, each calibrated by held-out rows."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.cells import centres, members
from manykin.metrics.identical import distinct
from manykin.metrics.neighbours import nearest, others
from manykin.metrics.pairs import same_width
from manykin.random import generator

QUANTILE = 0.01
"""A near-duplicate is closer to training rows than this share of held-out rows is."""
CELL_ROWS, MOST_CELLS = 40, 20
"""Rows of the smaller sample for each cell of the C_T test, and the most cells."""
FEWEST = 10
"""Rows of samples and of held-out data below which a cell is left out: the normal law of a Mann-Whitney statistic needs about so many."""


@dataclass(frozen=True)
class Reach:
    """How near rows come to the distinct training rows: distances (n,), which row is nearest (n,), and that row's distance to the next other one."""

    distance: Tensor
    nearest: Tensor
    spacing: Tensor

    @property
    def ratio(self) -> Tensor:
        """Distance to the nearest training row in units of that row's distance to its own nearest other training row, (n,)."""
        return self.distance / self.spacing

    @classmethod
    def of(cls, rows: Tensor, train: Tensor) -> "Reach":
        """``train`` without repeated rows: spacing is the distance between different ones.

        Raises:
            InvalidInput: for fewer than two different training rows.
        """
        if len(train) < 2:
            raise InvalidInput(f"there are {len(train)} different training rows; expected at least 2: give more data.")
        distance, index = (each[:, 0] for each in nearest(rows, train, 1))
        used, place = torch.unique(index, return_inverse=True)
        return cls(distance, index, others(train, used, 1)[0][place, 0])


@dataclass(frozen=True)
class Cell:
    """One cell of the C_T test: its rows of held-out data and of samples, and its z-score; None where it was left out."""

    test: int
    samples: int
    z: float | None


@dataclass(frozen=True)
class CT:
    """The C_T test: ``value`` is standard normal for samples of the data's law; ``stderr`` of it; ``average`` as in the paper; ``farther``: the
    probability that a sample is farther from the training rows than a held-out row of its cell; ``dropped``: share of samples in cells left out."""

    value: float
    stderr: float
    average: float
    farther: float
    dropped: float
    cells: tuple[Cell, ...]


def ct_test(
    train: Tensor, test: Tensor, samples: Tensor, *, cells: int | None = None, seed: int = 0, reach: tuple[Tensor, Tensor] | None = None
) -> CT:
    r"""The data-copying test of Meehan, Chaudhuri and Dasgupta (A non-parametric test to detect data-copying in generative models, 2020, section 4).

    k-means on training rows cuts space into cells. In each cell :math:`\pi` the Mann-Whitney statistic U compares the distances of samples and of
    held-out rows to their nearest training rows, :math:`Z_\pi = (U - nm/2) / \sigma`, with the variance corrected for ties. The paper averages
    with the weights :math:`w_\pi` of held-out rows, :math:`\sum_\pi w_\pi Z_\pi`; that has a variance below one, so that

    .. math:: C_T = \sum_\pi w_\pi Z_\pi \Big/ \Big(\sum_\pi w_\pi^2\Big)^{1/2}

    is reported, which is about N(0, 1) for samples of the data's law whatever the number of cells. Far below 0 samples are closer to training rows
    than held-out rows are: copies. Far above 0 they are farther. Unlike in the paper's code the nearest training row may lie in another cell.
    The standard error follows from DeLong, DeLong and Clarke-Pearson (Comparing the areas under two or more correlated receiver operating
    characteristic curves, 1988), half a row of each sample at least.

    Args:
        train: training rows, (N, d). test: held-out rows, (n, d). samples: (m, d).
        cells: how many; None: one for 40 rows of the smaller of ``test`` and ``samples``, at most 20.
        seed: of k-means.
        reach: distances of ``test`` and of ``samples`` to ``train``, where they are known already.

    Raises:
        InvalidInput: where no cell has 10 rows of both samples and distances that differ.
    """
    same_width(train, test, "train", "test")
    same_width(train, samples, "train", "samples")
    number = cells or min(max(min(len(test), len(samples)) // CELL_ROWS, 1), MOST_CELLS)
    found = centres(train, number, seed=seed)
    here, there = members(test, found), members(samples, found)
    far, fake = reach or (nearest(test, train, 1)[0][:, 0], nearest(samples, train, 1)[0][:, 0])
    told, kept = [], []
    for cell in range(len(found)):
        real, drawn = far[here == cell], fake[there == cell]
        score = _mann_whitney(real, drawn) if min(len(real), len(drawn)) >= FEWEST else None
        told.append(Cell(len(real), len(drawn), score[0] if score else None))
        kept += [(len(real), len(drawn), *score)] if score else []
    if not kept:
        raise InvalidInput(
            f"no cell of the C_T test has {FEWEST} of the {len(test)} held-out rows and {FEWEST} of the {len(samples)} samples at distances that "
            "differ; draw more samples, or hold out more data."
        )
    rows, drawn_rows, z, error, theta = (torch.tensor(column, dtype=torch.float64) for column in zip(*kept, strict=True))
    weight = rows / rows.sum()
    scale = float(weight.square().sum().sqrt())
    average = float((weight * z).sum())
    return CT(average / scale, float((weight * error).square().sum().sqrt()) / scale, average, float((weight * theta).sum()),
              1 - float(drawn_rows.sum()) / len(samples), tuple(told))  # fmt: skip


def _mann_whitney(real: Tensor, fake: Tensor) -> tuple[float, float, float] | None:
    """z, its standard error, and P(fake > real) with ties as halves; None where all distances are equal."""
    from scipy.stats import rankdata

    n, m = len(real), len(fake)
    ranks = torch.from_numpy(rankdata(torch.cat([real, fake]).numpy()))
    _, ties = torch.unique(torch.cat([real, fake]), return_counts=True)
    null = (n + m + 1 - float((ties.double() ** 3 - ties).sum()) / ((n + m) * (n + m - 1))) / (12 * n * m)
    if null <= 0:
        return None
    below = (ranks[n:] - torch.from_numpy(rankdata(fake.numpy()))) / n
    above = 1 - (ranks[:n] - torch.from_numpy(rankdata(real.numpy()))) / m
    theta = float(below.mean())
    variance = max(float(below.var()) / m + float(above.var()) / n, (0.5 / n) ** 2 + (0.5 / m) ** 2)
    return (theta - 0.5) / math.sqrt(null), math.sqrt(variance / null), theta


@dataclass(frozen=True)
class Share:
    """A share with its standard error, the same expected of real rows with its own, a p-value where one is had, and a threshold behind it."""

    value: float
    stderr: float
    floor: float
    floor_stderr: float
    p: float = 1.0
    threshold: float = math.nan


def near_duplicates(samples: Reach, test: Reach) -> Share:
    r"""The share of samples nearer to a training row than nearly all held-out rows are, in units of how far training rows lie apart there.

    r(x) is the distance to the nearest training row t divided by t's distance to the nearest different training row. The threshold is the k-th
    smallest r among n held-out rows, :math:`k = \max(1, \lfloor (n + 1) / 100 \rfloor)`: a copy (r = 0) is always counted, a slightly changed one in
    an empty region too, and the share of real rows counted is k / (n + 1) in expectation, which is the floor; more where ties reach the threshold,
    as in tables where real rows repeat. Its standard error is that of the Beta(k, n + 1 - k) law of the share below an order statistic; that of
    the value joins the scatter of samples, those that share a nearest training row counted as dependent, with :func:`threshold_error`.

    The p-value is Fisher's exact one of as many samples at or below the threshold, where c held-out rows are: a hypergeometric tail, and the same
    as the beta-binomial one with the law Beta(c + 1, n - c) of the share below the next order statistic, which is exact for a fixed c without ties.
    A tie that reaches the threshold raises the count of both sides. It is conservative: under 36 planted laws with and without ties at most 0.91 of
    the draws that it should reject at 0.05, 0.01 and 0.001 were (with Beta(c, n + 1 - c) up to 1.9 times as many).
    """
    from scipy.stats import hypergeom

    n, m, ordered = len(test.ratio), len(samples.ratio), test.ratio.sort().values
    k = max(1, int(QUANTILE * (n + 1)))
    threshold = float(ordered[k - 1])
    near, real = samples.ratio <= threshold, int((ordered <= threshold).sum())
    found, floor = int(near.sum()), real / (n + 1)
    p = float(hypergeom(m + n, found + real, m).sf(found - 1))
    error = math.hypot(_clustered(near.double(), samples.nearest), threshold_error(samples.ratio, ordered, k))
    return Share(found / m, error, floor, math.sqrt(floor * (1 - floor) / (n + 2)), p, threshold)


def threshold_error(values: Tensor, real: Tensor, k: int) -> float:
    """What a share of values below a threshold owes to chance in the threshold, the k-th smallest of n independent real ones: a standard deviation.

    The share of the law of ``real`` below that order statistic is Beta(k, n + 1 - k) distributed; its quantiles are carried to thresholds by the
    real values, interpolated from 0, and from there to shares by the values.
    """
    from scipy.stats import beta

    n, middles = len(real), (np.arange(64) + 0.5) / 64
    ranks = beta(k, n + 1 - k).ppf(middles) * (n + 1)
    thresholds = np.interp(ranks, np.arange(n + 1), np.concatenate([[0.0], real.sort().values.numpy()]))
    return float(np.searchsorted(values.sort().values.numpy(), thresholds, side="right").std()) / len(values)


def authenticity(samples: Reach, test: Reach) -> Share:
    """The share of samples farther from their nearest training row than that row is from the nearest different training row.

    Alaa, van Breugel, Saveliev and van der Schaar, How faithful is your synthetic data? (2022), section 3.3: AuthPct. What it is for real rows
    depends on the dimension and on n, so that it means something beside the floor only: the share among held-out rows. Standard errors allow for
    samples that share a nearest training row.
    """
    (value, error), (floor, floor_error) = (
        (float(authentic.mean()), _clustered(authentic, reach.nearest)) for reach in (samples, test) for authentic in [(reach.ratio > 1).double()]
    )
    return Share(value, error, floor, floor_error)


def holdout_share(train: Tensor, test: Tensor, samples: Tensor, *, seed: int = 0) -> Share:
    r"""The share of samples nearer to a training row than to a held-out row, with equally many of both; ties count half.

    The distance-to-closest-record test against a holdout (Platzer and Reutterer, Holdout-based empirical assessment of mixed-type synthetic data,
    2021): 1/2 for samples that know nothing of the training rows. The larger side is cut by ``seed``. Samples that share a nearest row are not
    independent: with 2m rows of which row j is nearest to :math:`c_j` of n samples, a random choice of which m are the training rows gives

    .. math:: \operatorname{Var} = p (1 - p) \Big(\sum_j c_j^2 / n^2 - 1 / (2m)\Big) \frac{2m}{2m - 1}

    exactly at p = 1/2, and this is the standard error. The p-value is one-sided, for a share above 1/2.
    """
    rows = min(len(train), len(test))
    if rows < 2:
        raise InvalidInput(f"there are {len(train)} training and {len(test)} held-out rows; expected at least 2 of both.")
    (to_train, at_train), (to_test, at_test) = (
        (each[:, 0] for each in nearest(samples, _cut(side, rows, generator(seed, "holdout", name)), 1))
        for name, side in (("train", train), ("test", test))
    )
    n, closer, tied = len(samples), to_train < to_test, to_train == to_test
    value = (float(closer.sum()) + 0.5 * float(tied.sum())) / n
    sizes = torch.bincount(torch.where(closer, at_train, at_test + rows)[~tied], minlength=2 * rows).double()
    spread = float(sizes.square().sum()) / n**2 - (float(sizes.sum()) / n) ** 2 / (2 * rows)
    shrunk = _shrunk(value, sizes)
    unit = math.sqrt(max(spread, 0.0) * 2 * rows / (2 * rows - 1))
    p = 0.5 * math.erfc((value - 0.5) / (0.5 * unit) / math.sqrt(2)) if unit > 0 else 1.0
    return Share(value, unit * math.sqrt(shrunk * (1 - shrunk)), 0.5, 0.0, p)


def binomial(found: float, n: int) -> float:
    """The standard error of a share, not 0 where all or none were found: half a row is added to each side."""
    p = (found + 0.5) / (n + 1)
    return math.sqrt(p * (1 - p) / n)


def different(train: Tensor) -> Tensor:
    """Training rows without repetitions."""
    return train[distinct(train)]


def _cut(rows: Tensor, n: int, chance: torch.Generator) -> Tensor:
    return rows if len(rows) == n else rows[torch.randperm(len(rows), generator=chance)[:n]]


def _clustered(marks: Tensor, group: Tensor) -> float:
    """The standard error of a mean of marks that are dependent within a group."""
    sums = torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add_(0, group, marks - marks.mean())
    shrunk = _shrunk(float(marks.mean()), torch.bincount(group).double())
    return max(float(sums.square().sum().sqrt()) / len(marks), math.sqrt(shrunk * (1 - shrunk) / len(marks)))


def _shrunk(share: float, sizes: Tensor) -> float:
    """A share with half a row added to each side, of as many independent rows as groups of these sizes are worth."""
    worth = float(sizes.sum()) ** 2 / max(float(sizes.square().sum()), 1.0)
    return (share * worth + 0.5) / (worth + 1)
