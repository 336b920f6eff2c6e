"""The classifier two-sample test: can a classifier tell samples from held-out data?"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manykin.errors import InvalidInput, suggest
from manykin.metrics.estimate import SAMPLES, Estimate
from manykin.metrics.figures import Figure, Metric
from manykin.metrics.pairs import checked_rows, same_width
from manykin.random import generator, hash_seed

MOST_ROWS = 10_000
"""Rows of each sample that classifiers see."""
NAMES = {"logistic": "logistic regression", "boosting": "gradient boosting"}
NAMED = 3
"""Features that a note names."""

Rows = NDArray[np.float64]


def classifier_two_sample(x: Tensor, y: Tensor, *, classifiers: Sequence[str] = ("logistic", "boosting"), seed: int = 0) -> list[Estimate]:
    """How well a classifier tells two samples apart: accuracy, area under the ROC curve, and the p-value of equal laws.

    After Lopez-Paz and Oquab, Revisiting classifier two-sample tests, 2017: as many rows of either sample, half of them for training, and the other
    half, which no choice has seen, for the test. A third of the training half chooses the classifier by its area under the curve; the chosen one is
    then fitted to the whole training half and judged once. Because the test rows took no part in anything, under equal laws the p-value is uniform.
    (Predictions by k-fold cross-validation would use each row, but they depend on each other, and the usual tests would reject too often.)

    - ``c2st_accuracy``: share of test rows told right, 1/2 for equal laws; standard error: binomial, by sample.
    - ``c2st_auc``: probability that a row of y scores above one of x, 1/2 for equal laws; standard error of DeLong, DeLong and Clarke-Pearson,
      Comparing the areas under two or more correlated receiver operating characteristic curves, 1988.
    - ``c2st_p``: one-sided p-value of that area by Mann and Whitney (On a test of whether one of two random variables is stochastically larger than
      the other, 1947), which uses the scores and not only which side of 1/2 they fall. Its standard error is None.

    Logistic regression (standardised columns) sees shifted means; gradient boosting (60 trees of 15 leaves) also sees spreads, edges, lattices of
    values and dependence between columns. The note says what each reached, and the columns that tell the samples apart most, one by one.

    Args:
        x: real numbers, shape (n, ...); flattened.
        y: real numbers, shape (m, ...), with as many entries a row as x.
        classifiers: which take part: ``logistic``, ``boosting``, or both.
        seed: of the rows (at most 10,000 of each sample), their halves, and gradient boosting.

    Raises:
        InvalidInput: for fewer than 20 rows, rows of different sizes, values that are not finite, or an unknown classifier.
    """
    for name in classifiers or [""]:
        if name not in NAMES:
            raise InvalidInput(f"classifier {name!r} is not known.{suggest(name, NAMES)}")
    count = min(len(x), len(y), MOST_ROWS)
    a, b = checked_rows(x, "x", 20, seed, count), checked_rows(y, "y", 20, seed, count)
    same_width(a, b)
    train, test = _halves(a.numpy(), b.numpy(), seed)
    fitted, reached = _choose(train, classifiers, seed)
    scores = {name: fitted[name](test.rows) for name in classifiers}
    best = max(classifiers, key=lambda name: reached[name])
    accuracy, accuracy_error = _accuracy(scores[best], test.labels)
    area, area_error, p = _area(scores[best], test.labels)
    each = ", ".join(f"{NAMES[name]} {_accuracy(scores[name], test.labels)[0]:.3f}" for name in classifiers)
    told = [f"{NAMES[best]} chosen on training rows; accuracy of {each}", _giveaways(test)]
    if count < max(len(x), len(y)):
        told.append(f"on {count} rows of each sample")
    note = "; ".join(filter(None, told))
    n = len(test.labels)
    return [
        Estimate("c2st_accuracy", accuracy, accuracy_error, "share", "estimate", n, note, quantity=SAMPLES),
        Estimate("c2st_auc", area, area_error, "", "estimate", n, f"{NAMES[best]}", quantity=SAMPLES),
        Estimate("c2st_p", p, None, "p-value", "estimate", n, f"{NAMES[best]}, {n} rows that it never saw", quantity=SAMPLES),
    ]


@dataclass(frozen=True)
class _Part:
    """Rows of both samples, and which are of the second (1) or the first (0)."""

    rows: Rows
    labels: NDArray[np.int64]

    def take(self, picked: NDArray[Any]) -> "_Part":
        return _Part(self.rows[picked], self.labels[picked])


def _halves(a: Rows, b: Rows, seed: int) -> tuple[_Part, _Part]:
    """A training and a test part, each with as many rows of either sample, in random order."""
    random = np.random.default_rng(hash_seed(seed, "halves"))
    a, b = random.permutation(a), random.permutation(b)
    size = len(a) // 2
    train = _Part(np.concatenate([a[:size], b[:size]]), np.repeat(np.arange(2), size))
    test = _Part(np.concatenate([a[size:], b[size:]]), np.repeat(np.arange(2), len(a) - size))
    return train.take(random.permutation(2 * size)), test


def _choose(train: _Part, classifiers: Sequence[str], seed: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Every classifier as a function from rows to scores, fitted to the training half, and its area under the curve on a third of it."""
    cut = 2 * len(train.labels) // 3
    order = np.arange(len(train.labels))
    most, rest = train.take(order[:cut]), train.take(order[cut:])
    judged = len(classifiers) > 1 and 0 < rest.labels.sum() < len(rest.labels)
    reached = {name: _area(_fit(name, most, seed)(rest.rows), rest.labels)[0] if judged else 0.5 for name in classifiers}
    return {name: _fit(name, train, seed) for name in classifiers}, reached


def _fit(name: str, part: _Part, seed: int) -> Any:
    """A fitted classifier as a function from rows to scores, above 0 for the second sample."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(part.labels)) < 2:
        return lambda rows: np.zeros(len(rows))
    if name == "logistic":
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    else:
        model = HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=generator(seed, "boosting").initial_seed() % 2**31
        )
    with warnings.catch_warnings():
        # A fit that stops at 200 steps separates the training rows well enough to be judged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(part.rows, part.labels)
    return model.decision_function


def _accuracy(scores: Rows, labels: NDArray[np.int64]) -> tuple[float, float]:
    """The mean of the shares told right in either sample, and its binomial standard error."""
    told = [float(np.mean((scores > 0)[labels == 1])), float(np.mean((scores <= 0)[labels == 0]))]
    sizes = [int(labels.sum()), int((1 - labels).sum())]
    # At 0 or all of n told right the binomial variance is 0; half a row is added to either side (Agresti and Coull, 1998).
    smooth = [(share * size + 0.5) / (size + 1) for share, size in zip(told, sizes, strict=True)]
    return sum(told) / 2, math.sqrt(sum(share * (1 - share) / size for share, size in zip(smooth, sizes, strict=True)) / 4)


def _area(scores: Rows, labels: NDArray[np.int64]) -> tuple[float, float, float]:
    """The area under the ROC curve, its standard error (DeLong), and the one-sided Mann-Whitney p-value."""
    from scipy.stats import mannwhitneyu, rankdata

    high, low = scores[labels == 1], scores[labels == 0]
    ranks = rankdata(np.concatenate([high, low]))
    above = (ranks[: len(high)] - rankdata(high)) / len(low)
    below = 1 - (ranks[len(high) :] - rankdata(low)) / len(high)
    area = float(above.mean())
    error = math.sqrt(float(above.var(ddof=1)) / len(high) + float(below.var(ddof=1)) / len(low))
    if np.ptp(scores) == 0:
        return area, error, 1.0
    return area, error, float(mannwhitneyu(high, low, alternative="greater", method="asymptotic").pvalue)


def _giveaways(part: _Part) -> str:
    """The columns that tell the samples apart most, each on its own: by the distance of its ranks' mean from that of equal laws."""
    from scipy.stats import rankdata

    size = int(part.labels.sum())
    ranks = rankdata(part.rows, axis=0)
    gaps = ranks[part.labels == 1].mean(axis=0) - ranks[part.labels == 0].mean(axis=0)
    errors = np.sqrt(ranks.var(axis=0, ddof=1) * 2 / size)
    scores = np.divide(np.abs(gaps), errors, out=np.zeros_like(gaps), where=errors > 0)
    # A normal score of 4 is reached by chance in one of 16,000 columns.
    top = [int(index) for index in np.argsort(-scores, kind="stable")[:NAMED] if scores[index] > 4]
    return f"moved most: feature {', '.join(map(str, top))} (counted from 0)" if top else ""


METRIC = Metric(
    "c2st",
    classifier_two_sample,
    (
        Figure(
            name="c2st_accuracy",
            title="classifier's accuracy",
            better="lower",
            range="0 to 1; 0.5: not told apart; below 0.5 is noise, not better than 0.5",
            meaning="How often a classifier tells a sample from a held-out row: one half means it cannot, 1 that it always can.",
            formula="share of test rows that the better of logistic regression and gradient boosting tells right",
            source="D. Lopez-Paz and M. Oquab, Revisiting classifier two-sample tests, 2017",
            pitfalls="Harsh: one detail that betrays samples (a value that data never take, a lattice) makes it 1, however good the rest. "
            "It grows with the rows that the classifier learns from, so compare at equal n. Repeated samples betray themselves, since copies fall in "
            "both halves; copied training rows do not.",
            ideal=0.5,
            sees=("noise", "blur", "dropped class", "shifted mean", "collapse", "duplicated rows", "independent columns"),
        ),
        Figure(
            name="c2st_auc",
            title="classifier's area under the ROC curve",
            better="lower",
            range="0 to 1; 0.5: not told apart; below 0.5 is noise, not better than 0.5",
            meaning="How often a classifier scores a sample above a held-out row: one half means it cannot tell them apart, 1 that it always can.",
            formula="P(score of a sample > score of a held-out row) + P(equal) / 2, over test rows",
            source="D. Lopez-Paz and M. Oquab, Revisiting classifier two-sample tests, 2017; H. B. Mann and D. R. Whitney, 1947",
            pitfalls="As the accuracy; it does not depend on where the classifier draws its line.",
            ideal=0.5,
            sees=("noise", "blur", "dropped class", "shifted mean", "collapse", "duplicated rows", "independent columns"),
        ),
        Figure(
            name="c2st_p",
            title="classifier's p-value",
            better="none",
            range="0 to 1; uniform for equal laws",
            meaning="How often a classifier would do this well if samples and data were of one law: below 0.05 is evidence that they are not.",
            formula="one-sided Mann-Whitney test of the scores of test rows",
            source="D. Lopez-Paz and M. Oquab, Revisiting classifier two-sample tests, 2017; H. B. Mann and D. R. Whitney, 1947",
            pitfalls="Not a size of effect: with enough rows every model is told apart, with few rows none is. Do not rank models by it. "
            "Anything above 0.05 says the same.",
            sees=("noise", "blur", "dropped class", "shifted mean", "collapse", "duplicated rows", "independent columns"),
        ),
    ),
    minimum=20,
)
