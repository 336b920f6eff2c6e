"""The question that usefulness is judged by: what is predicted from what, on real rows, on samples and on held-out rows."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from manykin.data.dataset import Rows
from manykin.errors import InvalidInput, suggest
from manykin.metrics.case import Case
from manykin.metrics.columns import matrix, table_columns
from manykin.metrics.numbers import encoder
from manykin.metrics.predictors import MOST_CODES, Array, Part, Problem
from manykin.random import generator, hash_seed
from manykin.spaces import Column, Space, Table, Tokens, Value, count, take

MOST = 20_000
"""Rows of each part: real training rows, samples and test rows; more are drawn from by seed."""
FEW_VALUES = 10
"""A column of whole numbers with no more distinct values than this is predicted as classes."""
MOST_CLASSES = 100
WIDE, NARROW = 256, 64
"""Pictures and texts of more than WIDE numbers are reduced to their NARROW first principal components."""
CLIP = 50.0
"""Standardised features of samples are clipped at so many standard deviations of real rows."""


@dataclass(frozen=True, eq=False)
class Question:
    """Three parts with the same features and answers. ``column``: the target's position, None where the answer is the condition.

    ``names``: of the classes. ``features``: what they are, in a few words. ``notes`` and ``warnings``: what a reader must know, each one line.
    """

    target: str
    problem: Problem
    real: Part
    synthetic: Part
    test: Part
    names: tuple[str, ...]
    column: int | None
    features: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


_ASKED: "WeakKeyDictionary[Case, Question]" = WeakKeyDictionary()


def unanswerable(case: Case) -> str:
    """Why no question can be asked of a case, in a few words; empty where one can."""
    if case.train is None:
        return "the training rows, to train on them beside the samples"
    if case.labels is None and case.target is None:
        tabular = bool(table_columns(case.space))
        return "name a target column: --target COLUMN" if tabular else "labelled samples: fit the model with a condition"
    return ""


def question(case: Case) -> Question:
    """The question of a case, asked once: samples are drawn and features computed on the first call.

    The target is the column of the space that ``case.target`` names, else the labels that samples were conditioned on. A categorical column and one
    of few whole numbers are predicted as classes, other numbers as numbers. The target is no feature: features are built from a table that lacks
    its column. As many samples are drawn as there are real training rows (20,000 at most), with the labels of those rows where samples are
    conditional; where no more can be drawn, the samples at hand are set against as many real rows.

    Raises:
        InvalidInput: where the target is no column, has one class or too many, or nothing is left to predict it from.
    """
    known = _ASKED.get(case)
    if known is None:
        known = _ASKED[case] = _ask(case)
    return known


def _ask(case: Case) -> Question:
    columns = table_columns(case.space)
    at = _position(case, columns)
    train, test = _at_most(case.known, MOST, case.seed), _at_most(case.held, MOST, case.seed)
    fake, fake_labels, broken = _samples(case, train, at)
    if case.draw is None and count(fake) < len(train):
        train = _at_most(train, count(fake), case.seed)
    real_x, test_x = train.all().x, test.all().x
    answer = _answers(case, columns, at, real_x, train.labels)
    real_y, fake_y, test_y = answer.read(real_x, train.labels), answer.read(fake, fake_labels), answer.read(test_x, test.labels)
    _check_answers(real_y, fake_y, test_y, answer)
    features = _features(case.space, columns, at, real_x, case.seed)
    parts = [_part(features, x, y) for x, y in ((real_x, real_y), (fake, fake_y), (test_x, test_y))]
    problem = Problem(len(answer.names), features.categorical)
    notes, warnings = _remarks(answer, parts, real_y, test_y, broken)
    return Question(answer.name, problem, parts[0], parts[1], parts[2], answer.names, at, features.name, notes, warnings)


@dataclass(frozen=True)
class _Answers:
    """What is predicted, and how it is read from rows: class codes, or numbers where there are no names; NaN where a row has none."""

    name: str
    names: tuple[str, ...]
    read: Callable[[Value, Tensor | None], Array]


def _position(case: Case, columns: tuple[Column, ...]) -> int | None:
    names = [column.name for column in columns]
    if case.target in names:
        return names.index(case.target)
    if case.labels is None:
        raise InvalidInput(f"the target {case.target!r} is no column of these data: {case.space}.{suggest(str(case.target), names)}")
    return None


def _answers(case: Case, columns: tuple[Column, ...], at: int | None, real: Value, labels: Tensor | None) -> _Answers:
    if at is None:
        for given, what in ((labels, "training"), (case.held.labels, "held-out")):
            if given is None:
                raise InvalidInput(f"the {what} rows have no labels, but samples are conditioned on some; expected data with classes.")
        if case.classes is None:
            raise InvalidInput("the data's classes are not known, but samples are conditioned on labels; expected data with classes.")
        names = tuple(str(name) for name in case.classes.names or range(case.classes.classes))
        return _Answers(case.target or "label", names, lambda x, given: _known_codes(given))
    column = columns[at]

    def values(x: Value) -> Array:
        return np.asarray(matrix(x)[:, at].numpy())

    if column.kind == "categorical":
        return _Answers(column.name, tuple(str(each) for each in column.categories), lambda x, given: values(x))
    levels = np.unique(values(real)[~np.isnan(values(real))])
    if column.grid is None or len(levels) > FEW_VALUES:
        return _Answers(column.name, (), lambda x, given: values(x))

    def coded(x: Value, given: Tensor | None) -> Array:
        found = values(x)
        code = np.searchsorted(levels, found).clip(max=len(levels) - 1)
        return np.where(np.isclose(levels[code], found), code.astype(np.float64), np.nan)

    return _Answers(column.name, tuple(f"{level:g}" for level in levels), coded)


def _known_codes(labels: Tensor | None) -> Array:
    """Labels as numbers, NaN for a class never seen in training."""
    assert labels is not None
    codes = labels.double()
    return np.asarray(torch.where(codes < 0, torch.nan, codes).cpu().numpy())


def _check_answers(real: Array, fake: Array, test: Array, answer: _Answers) -> None:
    for rows, what in ((real, "training rows"), (fake, "samples"), (test, "held-out rows")):
        if np.isfinite(rows).sum() < 2:
            raise InvalidInput(f"the target {answer.name!r} is known in {int(np.isfinite(rows).sum())} {what}; expected at least 2.")
    present = np.unique(real[np.isfinite(real)])
    if len(present) == 1:
        value = answer.names[int(present[0])] if answer.names else f"{present[0]:g}"
        raise InvalidInput(f"the target {answer.name!r} is {value!r} in all training rows; expected at least two values: name another column.")
    if len(answer.names) > MOST_CLASSES:
        raise InvalidInput(f"the target {answer.name!r} has {len(answer.names)} classes; expected at most {MOST_CLASSES}: name another column.")


def _remarks(
    answer: _Answers, parts: list[Part], real: Array, test: Array, broken: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:  # fmt: skip
    """Notes and warnings: rows without an answer, classes that the samples lack, samples that could not be used."""
    notes, warnings = [], []
    for rows, what in ((real, "training rows"), (test, "held-out rows")):
        left = int(np.isnan(rows).sum())
        if left:
            notes.append(f"{left} {what} whose target is missing or was never seen in training are left out")
    if broken:
        warnings.append(
            f"{broken} of {broken + len(parts[1])} samples drawn to train on are not finite and left out. Train longer or at a lower rate."
        )
    if answer.names:
        present, needed = (set(np.unique(part.y).astype(int).tolist()) for part in (parts[1], parts[0]))
        lost = [answer.names[code] for code in sorted(needed - present)]
        if len(present) == 1:
            only = answer.names[next(iter(present))]
            warnings.append(
                f"all {len(parts[1])} samples have {answer.name} = {only!r}, of {len(needed)} classes, so nothing can be learned from them: "
                f"train longer, or fit with {answer.name} as the condition."
            )
        elif lost:
            shown = ", ".join(repr(name) for name in lost[:5]) + (", ..." if len(lost) > 5 else "")
            warnings.append(
                f"the samples lack {len(lost)} of {len(needed)} classes of {answer.name} ({shown}): train longer, or fit with {answer.name} as the "
                "condition."
            )
    return tuple(notes), tuple(warnings)


def _samples(case: Case, train: Rows, at: int | None) -> tuple[Value, Tensor | None, int]:
    """Samples to train on, their labels, and how many broken ones were left out."""
    x, labels = case.samples, case.labels
    if case.draw is not None:
        n = len(train)
        if labels is not None:
            own = train.labels
            order = torch.randint(len(labels), (n,), generator=generator(case.seed, "usefulness labels"))
            labels = labels[order] if own is None else own
        x = case.draw(n, labels, hash_seed(case.seed, "usefulness"))
    elif count(x) > len(train):
        kept = torch.randperm(count(x), generator=generator(case.seed, "usefulness"))[: len(train)]
        x, labels = take(x, kept), None if labels is None else labels[kept]
    good = _finite(case.space, x)
    kept = good.nonzero()[:, 0]
    if len(kept) < 2:
        raise InvalidInput(f"{len(kept)} of {len(good)} samples drawn to train on are finite; expected at least 2: train longer or at a lower rate.")
    return take(x, kept), None if labels is None else labels[kept], len(good) - len(kept)


def _finite(space: Space, x: Value) -> Tensor:
    """Which rows hold no infinity, and NaN only where a value may be missing."""
    rows = matrix(x)
    columns = table_columns(space)
    allowed = torch.tensor([column.missing for column in columns]) if columns else torch.zeros(rows.shape[1], dtype=torch.bool)
    return ~(rows.isinf() | (rows.isnan() & ~allowed)).any(dim=1)


@dataclass(frozen=True)
class _Features:
    """What they are called, the function to (points, raw columns), and which raw columns hold codes of categories."""

    name: str
    function: Callable[[Value], tuple[Array, Array]]
    categorical: tuple[bool, ...]


def _features(space: Space, columns: tuple[Column, ...], at: int | None, real: Value, seed: int) -> _Features:
    """Features without the target, on scales that real training rows set."""
    if not columns:
        return _wide_features(space, real, seed)
    kept = [index for index in range(len(columns)) if index != at]
    if not kept:
        raise InvalidInput(f"the table has no column besides the target {columns[0].name!r}; expected at least one to predict it from.")
    rest = Table(tuple(dataclasses.replace(columns[index], name=str(index)) for index in kept))
    encode = encoder(rest, matrix(real)[:, kept])

    def features(x: Value) -> tuple[Array, Array]:
        raw = matrix(x)[:, kept]
        return encode(raw).clamp(-CLIP, CLIP).numpy(), raw.numpy()

    codes = tuple(column.kind == "categorical" and len(column.categories) <= MOST_CODES for column in rest.columns)
    return _Features(f"{len(kept)} columns" if len(kept) > 1 else "1 column", features, codes)


def _wide_features(space: Space, real: Value, seed: int) -> _Features:
    """Pixels, or frequencies of symbols: centred, on one scale for all pixels, and in principal components where they are many."""
    from sklearn.decomposition import PCA

    encode = encoder(space, real)
    known = encode(real)
    centre = known.mean(dim=0)
    spread = (known - centre).std(dim=0) if isinstance(space, Tokens) else (known - centre).pow(2).mean().sqrt()
    scale = torch.where(spread > 0, spread, 1.0)

    def points(x: Value) -> Array:
        return np.asarray(((encode(x) - centre) / scale).clamp(-CLIP, CLIP).numpy())

    width = known.shape[1]
    if width <= WIDE:
        return _Features(encode.name, lambda x: (points(x),) * 2, (False,) * width)
    size = min(NARROW, len(known) - 1)
    reduced = PCA(size, svd_solver="randomized", random_state=seed % 2**32).fit(points(real))
    unit = float(np.sqrt(reduced.explained_variance_.mean())) or 1.0
    name = f"{size} principal components of {encode.name}, fitted to real training rows"
    return _Features(name, lambda x: (reduced.transform(points(x)) / unit,) * 2, (False,) * size)


def _part(features: _Features, x: Value, y: Array) -> Part:
    """The rows whose answer is known."""
    kept = np.flatnonzero(np.isfinite(y))
    return Part(*features.function(take(x, torch.from_numpy(kept))), y[kept])


def _at_most(rows: Rows, n: int, seed: int) -> Rows:
    if len(rows) <= n:
        return rows
    return rows.select(torch.randperm(len(rows), generator=generator(seed, "usefulness rows"))[:n])
