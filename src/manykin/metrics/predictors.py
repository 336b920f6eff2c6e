"""Plain discriminative models that judge samples by what can be learned from them: a linear one and boosted trees, and scores with errors."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manykin.errors import InvalidInput

LINEAR, TREES = "linear", "trees"
ROUNDS = 100
"""Rounds of boosting for two classes and for numbers. More classes cost a tree each a round: they take MANY_ROUNDS at twice the rate."""
MANY_ROUNDS = 30
LEAST_IN_LEAF = 20
MOST_CODES = 255
"""Categories of a column that trees split as sets; the codes of a column with more are read as numbers."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Problem:
    """What is predicted: one of ``classes`` classes, or a number where ``classes`` is 0; and which of the raw columns hold codes of categories."""

    classes: int
    categorical: tuple[bool, ...]

    @property
    def regression(self) -> bool:
        """Whether a number is predicted."""
        return self.classes == 0

    @property
    def score(self) -> str:
        """What the score is called."""
        return "R2" if self.regression else "accuracy"

    def called(self, kind: str) -> str:
        """What a kind of predictor is called."""
        return {LINEAR: "ridge regression" if self.regression else "logistic regression", TREES: "gradient boosting"}[kind]


@dataclass(frozen=True, eq=False)
class Part:
    """Rows as features and answers: ``points`` (n, d) standardised numbers for the linear model, ``columns`` (n, c) for trees, ``y`` (n,)."""

    points: Array
    columns: Array
    y: Array

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: Array) -> "Part":
        """These rows."""
        return Part(self.points[rows], self.columns[rows], self.y[rows])

    def joined(self, other: "Part") -> "Part":
        """Both, one after the other."""
        return Part(*(np.concatenate(pair) for pair in ((self.points, other.points), (self.columns, other.columns), (self.y, other.y))))

    def shuffled(self, seed: int) -> "Part":
        """Every column, and the answers, permuted by itself: all margins stay and all dependence goes."""
        draw = np.random.default_rng(seed)
        return Part(draw.permuted(self.points, axis=0), draw.permuted(self.columns, axis=0), draw.permutation(self.y))


@dataclass(frozen=True, eq=False)
class Score:
    """Accuracy or R^2 on test rows. ``rows`` (n,) have it as their mean, and their scatter is its error; the others exist for two classes only."""

    value: float
    rows: Array
    auc: float | None = None
    auc_stderr: float | None = None
    macro_f1: float | None = None

    @property
    def stderr(self) -> float:
        """The standard error of the value over test rows."""
        return standard_error(self.rows)


def standard_error(rows: Array) -> float:
    """The standard error of a mean of independent rows; NaN for fewer than two."""
    return float(rows.std(ddof=1)) / math.sqrt(len(rows)) if len(rows) > 1 else math.nan


def trained(kind: str, problem: Problem, train: Part, test: Part, seed: int) -> Score:
    """Fit a predictor of a kind to one part and score it on another.

    Linear: logistic regression (L2 penalty of strength 1) or ridge regression. Trees: histogram gradient boosting (J. H. Friedman, Greedy function
    approximation: a gradient boosting machine, 2001), which takes missing values and categories as they are: 100 rounds of 31 leaves at rate 0.1, or
    30 of 15 at rate 0.2 for more than two classes, with at least n / 20 rows a leaf, between 2 and 20. Where all rows hold one answer, that is given.
    """
    only = np.unique(train.y)
    if len(only) == 1:
        return constant(problem, float(only[0]), test)
    model = _predictor(kind, problem, len(train), seed)
    seen, asked = (train.points, test.points) if kind == LINEAR else _without_empty(train.columns, test.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(seen, train.y)
        answers = model.predict(asked)
        chance = model.predict_proba(asked)[:, 1] if problem.classes == 2 else None
    return scored(problem, answers, test.y, chance)


def _without_empty(train: Array, test: Array) -> tuple[Array, Array]:
    """Columns with a constant in the place of those without any value among training rows, which trees cannot be binned by."""
    empty = np.isnan(train).all(axis=0)
    return (np.where(empty, 0.0, train), np.where(empty, 0.0, test)) if empty.any() else (train, test)


def constant(problem: Problem, answer: float, test: Part) -> Score:
    """The score of always giving one answer."""
    return scored(problem, np.full(len(test), answer), test.y, np.zeros(len(test)))


def usual(problem: Problem, train: Part) -> float:
    """The one answer that serves best: the most frequent class, or the mean."""
    return float(train.y.mean()) if problem.regression else float(np.bincount(train.y.astype(np.int64)).argmax())


def _predictor(kind: str, problem: Problem, n: int, seed: int) -> Any:
    """An unfitted estimator."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    if kind == LINEAR:
        return Ridge() if problem.regression else LogisticRegression(max_iter=300)
    family = HistGradientBoostingRegressor if problem.regression else HistGradientBoostingClassifier
    rounds, rate, leaves = (ROUNDS, 0.1, 31) if problem.classes <= 2 else (MANY_ROUNDS, 0.2, 15)
    codes = np.array(problem.categorical) if any(problem.categorical) else None
    return family(
        max_iter=rounds, learning_rate=rate, max_leaf_nodes=leaves, min_samples_leaf=min(LEAST_IN_LEAF, max(2, n // 20)),
        categorical_features=codes, early_stopping=False, random_state=seed % 2**32,
    )  # fmt: skip


def scored(problem: Problem, answers: Array, truth: Array, chance: Array | None = None) -> Score:
    r"""Accuracy, or :math:`R^2 = 1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`, with the row by row terms that its error follows from.

    The rows of R^2 are its linearisation (the delta method of a ratio of means). For two classes also the area under the ROC curve, with the
    standard error of E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, Comparing the areas under two or more correlated receiver operating
    characteristic curves, 1988, and the F1 score averaged over both classes.

    Args:
        problem: what is predicted.
        answers: predictions, shape (n,).
        truth: shape (n,).
        chance: the probability of class 1, shape (n,), for two classes.

    Raises:
        InvalidInput: for numbers of which all test rows hold the same one: R^2 is undefined.
    """
    if not problem.regression:
        right = (answers == truth).astype(np.float64)
        if problem.classes != 2 or chance is None or len(np.unique(truth)) < 2:
            return Score(float(right.mean()), right)
        return Score(float(right.mean()), right, *roc_auc(chance, truth == 1), macro_f1(answers, truth))
    spread = (truth - truth.mean()) ** 2
    if spread.mean() == 0:
        raise InvalidInput(f"the target is {truth[0]:g} in all {len(truth)} test rows, so R2 is undefined; name a column that varies.")
    error = (truth - answers) ** 2
    value = 1 - float(error.mean() / spread.mean())
    return Score(value, value - (error - (1 - value) * spread) / spread.mean())


def roc_auc(chance: Array, positive: Array) -> tuple[float, float]:
    """The area under the ROC curve and its standard error by DeLong's method; ``chance`` is any score, ``positive`` boolean, both (n,)."""
    from scipy.stats import rankdata

    up, down = chance[positive], chance[~positive]
    ranks = rankdata(np.concatenate([up, down]))
    above = (ranks[: len(up)] - rankdata(up)) / len(down)
    below = 1 - (ranks[len(up) :] - rankdata(down)) / len(up)
    return float(above.mean()), math.hypot(*(standard_error(each) for each in (above, below)))


def macro_f1(answers: Array, truth: Array) -> float:
    """The F1 score 2 TP / (2 TP + FP + FN) averaged over the classes of the test rows, each with the same weight."""
    found = []
    for code in np.unique(truth):
        said, true = answers == code, truth == code
        found.append(2 * float((said & true).sum()) / float(said.sum() + true.sum()))
    return sum(found) / len(found)
