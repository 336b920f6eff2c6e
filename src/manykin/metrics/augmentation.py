"""Does it help to add samples to real rows: real + synthetic against real alone, at several sizes of real data."""

import math
from typing import Any

import numpy as np

from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.metrics.estimate import SAMPLES, Estimate
from manykin.metrics.figures import Figure, Finding, Metric
from manykin.metrics.predictors import LINEAR, TREES, Array, Part, Problem, standard_error, trained
from manykin.metrics.questions import Question, question, unanswerable
from manykin.random import hash_seed

SIZES = (50, 200, 1000)
"""Sizes of real data beside all of it; those that come near to all are left out."""
REPEATS = 3
SURE = 2.0
"""Standard errors by which a difference must exceed zero to be called one."""
FOLDS = 3
"""Parts of the real rows that the predictor of a verdict is chosen by, each predicted from the others."""


def augmentation(case: Case) -> Finding:
    """Predictors trained on some real rows with all samples added, against the same real rows alone, scored on the same held-out rows.

    Each size below all is drawn three times, stratified by class and by seed; as many samples are added as there are training rows, the same ones
    each time. The difference is paired: its standard error joins the scatter over test rows of the row's mean difference with the scatter between
    draws (three draws tell that scatter only roughly; for all rows there is one draw, and the error is that of the test rows). The verdict and the
    estimates are of the predictor that does better on the real rows alone, so that samples get no credit for mending a learner that needs many rows.
    It is chosen by three-fold cross-validation among those real rows (the first draw of a size), never by the held-out rows: the better of two
    scores on the rows that judge would be too high for the real rows alone, to the disadvantage of the samples.

    The generator has learned from all training rows, so gains at smaller sizes are optimistic, and the verdict says so: only the size of all rows
    answers whether the samples add anything to the data at hand.

    Raises:
        InvalidInput: see :func:`~manykin.metrics.questions.question`.
    """
    asked = question(case)
    total = len(asked.real)
    sizes = [size for size in SIZES if size < 0.9 * total] + [total]
    rows = [_at(asked, size, kind, case.seed) for size in sizes for kind in (LINEAR, TREES)]
    best = {size: max((row for row in rows if row["n_real"] == size), key=_training_score) for size in sizes}
    sentences = [_sentence(asked, best[sizes[-1]], True)]
    found = [_estimate(case, asked, "augmentation_gain", best[sizes[-1]], "all")]
    if len(sizes) > 1:
        sentences += [_sentence(asked, best[size], False) for size in sizes[:-1]]
        sentences.append(f"The generator had learned from all {total:,} training rows, so what it adds to fewer of them is optimistic: "
                         "refit it on those rows alone to know.")  # fmt: skip
        found.append(_estimate(case, asked, "augmentation_gain_small", best[sizes[0]], "the generator learned from all training rows, optimistic"))
    details = {"target": asked.target, "score": asked.problem.score, "n_test": len(asked.test), "rows": rows, "verdict": " ".join(sentences)}
    return Finding(tuple(found), {"augmentation": details})


def subset(y: Array, size: int, classes: bool, seed: int) -> Array:
    """Positions of ``size`` rows drawn by seed; for classes each gets its share, and at least one row where the size allows."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(y))
    if not classes:
        return order[:size]
    place = np.empty(len(y))
    for code in np.unique(y):
        members = order[y[order] == code]
        place[members] = np.arange(len(members)) / len(members)
    return order[np.argsort(place[order], kind="stable")][:size]


def _training_score(row: dict[str, Any]) -> float:
    found = row["cross_validated"]
    return -math.inf if found is None else float(found)


def cross_validated(kind: str, problem: Problem, rows: Part, seed: int) -> float | None:
    """The mean score over three folds, stratified by class and drawn by seed; None where a fold has no score (an R2 of one constant answer)."""
    order = subset(rows.y, len(rows), not problem.regression, seed)
    scores = []
    for fold in range(FOLDS):
        inside = np.arange(len(order)) % FOLDS == fold
        try:
            scores.append(trained(kind, problem, rows.select(order[~inside]), rows.select(order[inside]), seed).value)
        except InvalidInput:
            return None
    return float(np.mean(scores))


def _at(asked: Question, size: int, kind: str, seed: int) -> dict[str, Any]:
    """One row: scores with and without samples, averaged over draws of the real rows, and the paired difference."""
    repeats = 1 if size == len(asked.real) else REPEATS
    alone, both, differences, chosen_by = [], [], [], None
    for repeat in range(repeats):
        key = hash_seed(seed, "augmentation", size, repeat)
        real = asked.real.select(subset(asked.real.y, size, not asked.problem.regression, key))
        chosen_by = cross_validated(kind, asked.problem, real, key) if repeat == 0 else chosen_by
        first = trained(kind, asked.problem, real, asked.test, key)
        second = trained(kind, asked.problem, real.joined(asked.synthetic), asked.test, key)
        alone.append(first.value)
        both.append(second.value)
        differences.append(second.rows - first.rows)
    table = np.stack(differences)
    between = float(table.mean(axis=1).var(ddof=1)) / repeats if repeats > 1 else 0.0
    error = math.sqrt(standard_error(table.mean(axis=0)) ** 2 + between)
    return {
        "n_real": size, "n_samples": len(asked.synthetic), "classifier": asked.problem.called(kind), "real": float(np.mean(alone)),
        "both": float(np.mean(both)), "difference": float(table.mean()), "stderr": error if math.isfinite(error) else None, "repeats": repeats,
        "cross_validated": chosen_by,
    }  # fmt: skip


def _sentence(asked: Question, row: dict[str, Any], everything: bool) -> str:
    """What adding samples did, and whether that is more than chance."""
    difference, error = row["difference"], row["stderr"]
    sure = error is not None and abs(difference) > SURE * error
    verb = ("raised" if difference > 0 else "lowered") if sure else "took"
    answer = ("it helped" if difference > 0 else "it hurt") if sure else "it made no measurable difference"
    margin = "" if error is None else f" ± {error:.3f}"
    return (
        f"Adding {row['n_samples']:,} samples to {'all ' if everything else ''}{row['n_real']:,} real rows {verb} {asked.problem.score} from "
        f"{row['real']:.3f} to {row['both']:.3f} (difference {difference:.3f}{margin}, {row['classifier']}): {answer}."
    )


def _estimate(case: Case, asked: Question, name: str, row: dict[str, Any], remark: str) -> Estimate:
    which = f"{remark} {row['n_real']:,} real rows" if remark == "all" else f"{row['n_real']:,} real rows; {remark}"
    note = f"{row['n_samples']:,} samples added to {which}; {asked.problem.score} of {row['classifier']} {row['real']:.3f} to {row['both']:.3f}; "
    note += "chosen by cross-validation among these real rows"
    unit = "R2" if asked.problem.regression else "share"
    return Estimate(name, row["difference"], row["stderr"], unit, "estimate", len(asked.test), note, SAMPLES, case.sampler, asked.features)


_SOURCE = "S. Ravuri and O. Vinyals, Classification accuracy score for conditional generative models, 2019 (the naive augmentation score)"

METRIC = Metric(
    "augmentation",
    augmentation,
    (
        Figure(
            name="augmentation_gain",
            title="gain from adding samples to all real rows",
            better="higher",
            range="-1 to 1 for accuracy; 0: no difference",
            meaning="How much better a learner does on held-out rows when samples are added to all training rows.",
            formula=r"score trained on real rows + samples - score trained on the same real rows",
            source=_SOURCE,
            pitfalls="Samples are made from the training rows, so they can add no information: a gain is regularisation, or the model's structure. "
            "The learner is the one that does better on real rows alone, by cross-validation among the training rows.",
        ),
        Figure(
            name="augmentation_gain_small",
            title="gain from adding samples to few real rows",
            better="higher",
            range="-1 to 1 for accuracy; 0: no difference",
            meaning="How much better a learner does on held-out rows when samples are added to a few real rows.",
            formula=r"score trained on few real rows + samples - score trained on the same few real rows",
            source=_SOURCE,
            pitfalls="Optimistic: the generator has learned from all training rows, and hands on what it remembers of those that the few rows lack. "
            "Refit it on the few rows to know what it adds to them.",
        ),
    ),
    kind="case",
    level="full",
    needs=unanswerable,
    minimum=10,
)  # fmt: skip
