"""Are samples useful: trained on synthetic rows, tested on real ones, against training on real rows and against floors."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from manykin.metrics.case import Case
from manykin.metrics.estimate import LOG_P_GIVEN_C, SAMPLES, Estimate
from manykin.metrics.figures import Figure, Finding, Metric
from manykin.metrics.predictors import LINEAR, TREES, Score, constant, standard_error, trained, usual
from manykin.metrics.questions import Question, question, unanswerable
from manykin.random import generator, hash_seed

REAL, SYNTHETIC, SHUFFLED, NOTHING = "real", "synthetic", "independent columns", "nothing"
BAYES = "the model's own Bayes rule"
MOST_CLASSIFIED = 2000
"""Held-out rows that the model's own Bayes rule classifies."""


def usefulness(case: Case) -> Finding:
    r"""Train on Synthetic, Test on Real, against Train on Real, Test on Real, and floors.

    Source: C. Esteban, S. L. Hyland and G. Rätsch, Real-valued (medical) time series generation with recurrent conditional GANs, 2017.
    The same predictors (:func:`~manykin.metrics.predictors.trained`) learn the same target (:func:`~manykin.metrics.questions.question`) from as many
    samples as real rows and are scored on the same held-out rows. Floors: the most frequent class (or the mean), and real rows whose every column is
    permuted by itself, which is what a model of independent columns could give at best. Accuracy is reported for classes, with the area under
    the ROC curve and the F1 score averaged over classes where there are two; R^2 for numbers.

    For a model conditional on labels with a normalised density, its own Bayes rule is a further row: the contrast of generative and discriminative
    classifiers of A. Y. Ng and M. I. Jordan, 2001.

    Standard errors are over the test rows: binomial for accuracy, DeLong's for the ROC curve, the delta method for R^2, and paired by test row for
    the gap; they leave out the luck of the training rows and of the samples drawn.

    Raises:
        InvalidInput: see :func:`~manykin.metrics.questions.question`.
    """
    asked = question(case)
    seed = hash_seed(case.seed, "usefulness")
    sources = {REAL: asked.real, SYNTHETIC: asked.synthetic}
    scores = {(name, kind): trained(kind, asked.problem, part, asked.test, seed) for name, part in sources.items() for kind in (LINEAR, TREES)}
    rows = [_row(name, asked.problem.called(kind), score, len(sources[name])) for (name, kind), score in scores.items()]
    shuffled = trained(TREES, asked.problem, asked.real.shuffled(seed), asked.test, seed)
    rows.append(_row(SHUFFLED, asked.problem.called(TREES), shuffled, len(asked.real)))
    simple = constant(asked.problem, usual(asked.problem, asked.real), asked.test)
    rows.append(_row(NOTHING, "the mean" if asked.problem.regression else "the most frequent class", simple, 0))
    found = _estimates(case, asked, scores)
    own = _own_rule(case, asked)
    if own is not None:
        rows.insert(2, _row(REAL, BAYES, own, len(asked.real)))
        found.append(_of_own_rule(own, asked, scores))
    details = {
        "task": "regression" if asked.problem.regression else "classification", "target": asked.target, "score": asked.problem.score,
        "n_test": len(asked.test), "features": asked.features, "rows": rows,
    }  # fmt: skip
    return Finding(tuple(found), {"usefulness": details}, warnings=asked.warnings)


def _row(trained_on: str, classifier: str, score: Score, n: int) -> dict[str, Any]:
    row: dict[str, Any] = {"trained_on": trained_on, "classifier": classifier, "score": score.value, "stderr": _or_none(score.stderr), "n": n}
    extra = {"roc_auc": score.auc, "roc_auc_stderr": score.auc_stderr, "macro_f1": score.macro_f1}
    return row | {key: value for key, value in extra.items() if value is not None}


def _or_none(stderr: float | None) -> float | None:
    return stderr if stderr is not None and np.isfinite(stderr) else None


def _estimates(case: Case, asked: Question, scores: dict[tuple[str, str], Score]) -> list[Estimate]:
    """The score of boosted trees on samples, beside the same on real rows, and the paired gap."""
    n, trees, linear = len(asked.test), asked.problem.called(TREES), asked.problem.called(LINEAR)
    name, unit = ("r2", "R2") if asked.problem.regression else ("accuracy", "share")
    main, areas, data = [], [], asked.features
    for source, part, suffix in ((SYNTHETIC, asked.synthetic, ""), (REAL, asked.real, "_floor")):
        score, sampler = scores[source, TREES], None if suffix else case.sampler
        what = f"{asked.target} by {trees} trained on {len(part):,} {source} rows; {linear} {scores[source, LINEAR].value:.3f}"
        note = "; ".join((what, *asked.notes))
        main.append(Estimate(f"tstr_{name}{suffix}", score.value, _or_none(score.stderr), unit, "estimate", n, note, SAMPLES, sampler, data))
        if score.auc is not None:
            other = f"{asked.target} by {trees} trained on {len(part):,} {source} rows; {linear} {scores[source, LINEAR].auc:.3f}"
            areas.append(
                Estimate(f"tstr_roc_auc{suffix}", score.auc, _or_none(score.auc_stderr), "share", "estimate", n, other, SAMPLES, sampler, data)
            )
    synthetic, real = scores[SYNTHETIC, TREES], scores[REAL, TREES]
    gap, error = real.value - synthetic.value, _or_none(standard_error(real.rows - synthetic.rows))
    note = f"{asked.problem.score} of {trees}, trained on real minus trained on synthetic rows, paired by test row"
    return [*main, *areas, Estimate("generative_gap", gap, error, unit, "estimate", n, note, SAMPLES, case.sampler, data)]


def _own_rule(case: Case, asked: Question) -> Score | None:
    """The score of the model's own Bayes rule on held-out rows; None where it has none or the target is a column."""
    labels = case.held.labels
    if case.classify is None or asked.column is not None or labels is None:
        return None
    order = torch.randperm(len(labels), generator=generator(case.seed, "bayes rows"))
    order = order[labels[order] >= 0][:MOST_CLASSIFIED]
    posterior = case.classify(case.held.select(order).all().x)
    undecided = posterior.isnan().any(dim=1) | (posterior.max(dim=1).values == -torch.inf)
    answers: Tensor = torch.where(undecided, -1, posterior.nan_to_num(-torch.inf).argmax(dim=1))
    right = (answers == labels[order]).double().numpy()
    return Score(float(right.mean()), right)


def _of_own_rule(own: Score, asked: Question, scores: dict[tuple[str, str], Score]) -> Estimate:
    beside = ", ".join(f"{asked.problem.called(kind)} {scores[REAL, kind].value:.3f}" for kind in (LINEAR, TREES))
    note = f"{asked.target} by the largest p(x | c) p(c); trained on the same real rows: {beside}"
    return Estimate("bayes_rule_accuracy", own.value, _or_none(own.stderr), "share", "estimate", len(own.rows), note, LOG_P_GIVEN_C)


_SOURCE = "C. Esteban, S. L. Hyland and G. Rätsch, Real-valued (medical) time series generation with recurrent conditional GANs, 2017"
_PITFALLS = (
    "Depends on the learner: with a weak one everything looks as good as real. The error bar holds the test rows only, not the luck of training and "
    "of the samples drawn. Copied training rows score as high as real ones, so read the memorisation metrics beside it."
)

METRIC = Metric(
    "usefulness",
    usefulness,
    (
        Figure(
            name="tstr_accuracy",
            title="accuracy, trained on samples",
            better="higher",
            range="0 to 1; the most frequent class is the floor to beat, training on real rows the mark to reach",
            meaning="The share of real held-out rows whose class is told right by gradient boosting that has learned from samples alone.",
            formula=r"mean over held-out (x, y) of 1[f_samples(x) = y]",
            source=_SOURCE,
            pitfalls=_PITFALLS + " Where one class is rare, look at tstr_roc_auc instead.",
        ),
        Figure(
            name="tstr_roc_auc",
            title="area under the ROC curve, trained on samples",
            better="higher",
            range="0 to 1; 0.5 for guessing",
            meaning="How often gradient boosting that has learned from samples alone ranks a real row of the second class above one of the first.",
            formula=r"P(f_samples(X_1) > f_samples(X_0)) + 1/2 P(equal)",
            source=_SOURCE + "; error: E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, 1988",
            pitfalls=_PITFALLS,
        ),
        Figure(
            name="tstr_r2",
            title="R2, trained on samples",
            better="higher",
            range="up to 1; 0 for always giving the mean, negative for worse",
            meaning="The share of the target's variance among real held-out rows that gradient boosting explains, having learned from samples alone.",
            formula=r"1 - sum (y - f_samples(x))^2 / sum (y - mean y)^2",
            source=_SOURCE,
            pitfalls=_PITFALLS + " A few rows with very large values can decide it.",
        ),
        Figure(
            name="generative_gap",
            title="what samples lose against real rows",
            better="lower",
            range="-1 to 1 for accuracy; 0: samples teach as much as real rows",
            meaning="How much better the same learner does when it learns from real rows instead of as many samples.",
            formula=r"score trained on real rows - score trained on samples, on the same held-out rows",
            source=_SOURCE,
            pitfalls=_PITFALLS,
            ideal=0.0,
        ),
        Figure(
            name="bayes_rule_accuracy",
            title="accuracy of the model's own Bayes rule",
            better="higher",
            range="0 to 1",
            meaning="The share of held-out rows whose class the model itself tells right, as the one under which the row is most probable.",
            formula=r"mean over held-out (x, y) of 1[argmax_c log p(x | c) + log p(c) = y]",
            source="A. Y. Ng and M. I. Jordan, On discriminative vs. generative classifiers, 2001",
            pitfalls="A density may be excellent and its Bayes rule poor: most of log p(x | c) is about what all classes share. Where the density is "
            "a lower bound, the rule compares bounds.",
        ),
    ),
    kind="case",
    level="full",
    needs=unanswerable,
    minimum=10,
)  # fmt: skip
