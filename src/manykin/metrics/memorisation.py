"""Does a model copy its training rows? In data space, among the numbers, and among the features of pictures."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.metrics.copying import CT, Reach, Share, authenticity, binomial, ct_test, holdout_share, near_duplicates
from manykin.metrics.estimate import FLOOR, SAMPLES, Estimate
from manykin.metrics.figures import Figure, Finding, Metric
from manykin.metrics.identical import digests, distinct, occur
from manykin.metrics.neighbours import nearest
from manykin.spaces import Tokens

FEATURES = "_features"
"""What the name of a figure ends with that was computed from features of pictures instead of pixels."""
ALARM = 3.0
"""C_T above this many standard deviations is warned of as underfitting, where the effect is large too (FARTHER)."""
CHANCE = 1e-3
"""The probability that honest samples are called copies: the p-value of each of the tests joined must lie below their share of it (Bonferroni)."""
FARTHER = 0.75
"""Underfitting is warned of where a sample is farther from training rows than a held-out row with at least this probability."""
ROUNDING = 1e-5
"""Rows of a continuous space are identical up to this distance in standard deviations: what single precision loses on the way there and back."""
SHOWN, NEIGHBOURS = 8, 3


def memorisation(case: Case) -> Finding:
    """All figures of memorisation for a case with training rows, the closest samples with their nearest training rows, and warnings.

    Texts are judged by exact copies alone: the distance between the symbol frequencies of two texts says nothing about copying.

    One warning tells of copies. It joins up to seven tests: Fisher's exact one of exact copies, and in each view (numbers, features) the C_T test,
    near-duplicates and the share closer to training rows. A test counts where its p-value is below 0.001 over the number of tests, so that honest
    samples raise the warning in at most one of 1,000 evaluations, however the tests depend on each other (Bonferroni, 1936).
    """
    parts = []
    if not isinstance(case.space, Tokens):
        parts.append(_View.numbers(case))
        if case.looked_at:
            parts.append(_View.features(case))
    copies = _exact_copies(case, parts[0] if parts else None)
    estimates = _shares(case, "exact_copies", copies, "data space")
    tests = [_Test("exact copies", "exact_copies", copies.p, _percent(copies.value), f"held-out rows {_percent(copies.floor)}")]
    details: dict[str, Any] = {"rows": {"train": len(case.known), "held_out": len(case.held), "samples": case.n}}
    for part in parts:
        found, told = part.judge(case)
        estimates += found
        details[f"view{part.suffix}"] = told
        tests[-1:-1] = part.tests
    tensors = parts[0].pictures(case) if parts else {}
    return Finding(tuple(estimates), {"memorisation": details}, tensors, (*_copying(tests, 1 + 3 * len(parts)), *_far(parts)))


@dataclasses.dataclass(frozen=True)
class _Test:
    """One test of copying: its plain title, the name of its figure, its p-value, its value as words, and a remark on it."""

    title: str
    name: str
    p: float
    value: str
    remark: str = ""

    @property
    def told(self) -> str:
        """The value with the figure's name."""
        return f"{self.value} ({'; '.join(filter(None, [self.name, self.remark]))})"


def _joined(tests: Sequence[_Test]) -> str:
    """What tests found, those of one title together."""
    titles = dict.fromkeys(each.title for each in tests)
    return ", ".join(f"{title} {' and '.join(each.told for each in tests if each.title == title)}" for title in titles)


def _copying(tests: Sequence[_Test], number: int) -> list[str]:
    """The warning of copies, where one of so many tests rejects."""
    alarms = [each for each in tests if each.p < CHANCE / number]
    return [_COPIES.format(_joined(alarms))] if alarms else []


def _far(parts: "Sequence[_View]") -> list[str]:
    """The warning of underfitting, and of C_T tests that could not be computed; one line for both views."""
    far = [part for part in parts if part.farther is not None]
    found = [_UNDERFITS.format(_joined([part.tests[0] for part in far]), " and ".join(str(part.farther) for part in far))] if far else []
    refusals = {part.refusal: [each.ct_name for each in parts if each.refusal == part.refusal] for part in parts if part.refusal}
    return found + [f"the C_T test ({' and '.join(names)}) could not be computed: {refusal}" for refusal, names in refusals.items()]


_COPIES = (
    "{}: samples lie closer to training rows than held-out rows do, so the model copies training data; use a larger bandwidth, fewer components or "
    "parameters, more regularisation, earlier stopping or more data, and do not call its samples private."
)
_UNDERFITS = (
    "{}: a sample lies farther from the training rows than a held-out row with probability {}, so the model underfits or leaves the data's "
    "support; train longer, use a larger or better suited model, or check the sampler."
)


class _View:
    """Training rows, held-out rows and samples as points of one kind, and what their distances tell."""

    def __init__(self, train: Tensor, test: Tensor, samples: Tensor, suffix: str, name: str) -> None:
        self.all_train, self.test, self.samples, self.suffix, self.name = train, test, samples, suffix, name
        self.kept = distinct(train)
        self.train = train[self.kept]
        self.fake, self.real = Reach.of(samples, self.train), Reach.of(test, self.train)
        self.ct_name = f"ct_score{suffix}"
        self.tests: list[_Test] = []
        self.farther: str | None = None
        self.refusal = ""

    @classmethod
    def numbers(cls, case: Case) -> "_View":
        return cls(case.train_numbers, case.test_numbers, case.sample_numbers, "", case.encode.name)

    @classmethod
    def features(cls, case: Case) -> "_View":
        assert case.extractor is not None
        return cls(case.train_features, case.test_features, case.sample_features, FEATURES, case.extractor.name)

    def judge(self, case: Case) -> tuple[list[Estimate], dict[str, Any]]:
        """Estimates, and the numbers behind them."""
        near, own = near_duplicates(self.fake, self.real), authenticity(self.fake, self.real)
        share = holdout_share(self.all_train, self.test, self.samples, seed=case.seed)
        rows = min(len(self.all_train), len(self.test))
        estimates = [
            *self._tested(case),
            *_shares(case, f"near_duplicates{self.suffix}", near, self.name),
            *_shares(case, f"authenticity{self.suffix}", own, self.name),
            *_shares(case, f"train_holdout_share{self.suffix}", share, self.name, f"{rows} rows of each", "1/2 by construction"),
        ]
        beside = f"held-out rows {_percent(near.floor)}"
        self.tests += [
            _Test("near-duplicates", f"near_duplicates{self.suffix}", near.p, _percent(near.value), beside),
            _Test("samples closer to training than to held-out rows", f"train_holdout_share{self.suffix}", share.p, _percent(share.value),
                  "held-out rows 50 %"),
        ]  # fmt: skip
        median = {"samples": float(self.fake.distance.median()), "held_out": float(self.real.distance.median())}
        told = {"points": self.name, "different_training_rows": len(self.train), "near_duplicate_ratio": near.threshold, "median_distance": median}
        return estimates, told | self.cells

    def _tested(self, case: Case) -> list[Estimate]:
        """The C_T test; a refusal in its place where there are too few rows."""
        self.cells: dict[str, Any] = {}
        name = self.ct_name
        try:
            found = ct_test(self.train, self.test, self.samples, seed=case.seed, reach=(self.real.distance, self.fake.distance))
        except InvalidInput as refusal:
            self.refusal = str(refusal)
            return []
        self.cells = {"ct_average": found.average, "farther": found.farther, "cells": [dataclasses.asdict(cell) for cell in found.cells]}
        self.tests.append(_Test("the C_T test", name, 0.5 * math.erfc(-found.value / math.sqrt(2)), f"{found.value:.1f}"))
        if found.value > ALARM and found.farther >= FARTHER:
            self.farther = _percent(found.farther)
        value = Estimate(name, found.value, found.stderr, "z-score", "estimate", case.n, _cells_note(found), SAMPLES, case.sampler, self.name)
        floor = dataclasses.replace(value, name=name + FLOOR, value=0.0, stderr=0.0, n=len(self.test), note="0 by construction", sampler=None)
        return [value, floor]

    def pictures(self, case: Case) -> dict[str, Tensor]:
        """The samples nearest to training rows, each kind once, with their three nearest different training rows."""
        rows, train = case.samples, case.known.all().x
        if not isinstance(rows, Tensor) or not isinstance(train, Tensor) or len(self.train) < NEIGHBOURS:
            return {}
        order = self.fake.distance.sort(stable=True).indices
        order = order[distinct(rows[order])][:SHOWN]
        distance, index = nearest(self.samples[order], self.train, NEIGHBOURS)
        return {"neighbours.samples": rows[order], "neighbours.train": train[self.kept[index]], "neighbours.distance": distance}


def _exact_copies(case: Case, view: _View | None) -> Share:
    """The share of samples identical to a training row, in all of the training split, beside that of held-out rows, and Fisher's exact p-value."""
    from scipy.stats import hypergeom

    assert case.train is not None
    fake, real = digests(case.samples, case.train.slice(0, 1).x), digests(case.held.all().x, case.train.slice(0, 1).x)
    seen = occur((*fake, *real), (digests(batch.x, case.samples) for batch in case.train.batches()))
    copied, known = (torch.tensor([key in seen for key in keys]) for keys in (fake, real))
    if view is not None and not case.space.discrete:
        copied, known = copied | (view.fake.distance <= ROUNDING), known | (view.real.distance <= ROUNDING)
    found, expected, m, n = int(copied.sum()), int(known.sum()), len(fake), len(real)
    p = float(hypergeom(m + n, found + expected, m).sf(found - 1))
    return Share(found / m, binomial(found, m), expected / n, binomial(expected, n), p)


def _shares(case: Case, name: str, share: Share, points: str, note: str = "", floor_note: str = "") -> list[Estimate]:
    """A share and what real rows have in its place."""
    value = Estimate(name, share.value, share.stderr, "share", "estimate", case.n, note, SAMPLES, case.sampler, points)
    floor = dataclasses.replace(
        value, name=name + FLOOR, value=share.floor, stderr=share.floor_stderr, n=len(case.held), note=floor_note or "held-out rows", sampler=None
    )
    return [value, floor]


def _cells_note(found: CT) -> str:
    used = sum(cell.z is not None for cell in found.cells)
    left = f", {_percent(found.dropped)} of samples in cells left out" if found.dropped > 0 else ""
    return f"{used} of {len(found.cells)} cells{left}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def _needs(case: Case) -> str:
    return "" if case.train is not None else "the training rows are not at hand"


_FIGURES = (
    Figure(
        name="ct_score",
        title="C_T test",
        better="target",
        range="any number; about N(0, 1) for samples of the data's law",
        meaning="Whether samples lie closer to the training rows than rows the model never saw: far below 0 it copies, far above 0 it underfits.",
        formula=r"\sum_\pi w_\pi Z_\pi / (\sum_\pi w_\pi^2)^{1/2}, with Z_\pi the Mann-Whitney z-score of d(sample, train) against d(test, train)"
        r" in cell \pi of k-means on training rows, and w_\pi the share of held-out rows in it",
        source="C. Meehan, K. Chaudhuri and S. Dasgupta, A non-parametric test to detect data-copying in generative models, 2020, section 4",
        pitfalls="A z-score: it grows with the number of rows, so that small flaws of any model show in large samples. A model that copies in one "
        "part and underfits in another can come out near 0: see the cells in the details, where ct_average is the paper's own scale. Its law assumes "
        "independent samples: where they repeat, it is wider.",
        ideal=0.0,
        sees=("copied training data", "noise", "independent columns"),
    ),
    Figure(
        name="near_duplicates",
        title="near-duplicates of training rows",
        better="lower",
        range="0 to 1; about 0.01 for real rows",
        meaning="The share of samples closer to a training row than 99 % of held-out rows are, for how far training rows lie apart there.",
        formula=r"P(r \le q), r = d(x, t) / d(t, t'), t the nearest training row, t' its nearest other one, q the 1 % quantile of r on held-out rows",
        source="calibrated by order statistics of held-out rows; r as in Alaa et al., How faithful is your synthetic data?, 2022, section 3.3",
        pitfalls="Compare with the floor: in tables real rows repeat. A model that never comes near the data has none. "
        "Its standard error is 1.1 to 1.5 times the true one, more where hardly any sample is one.",
        sees=("copied training data",),
    ),
    Figure(
        name="authenticity",
        title="authenticity",
        better="none",
        range="0 to 1",
        meaning="The share of samples farther from their nearest training row than that row is from the next training row.",
        formula=r"P(d(x, t) > d(t, t')), t the nearest training row, t' its nearest other one",
        source="A. M. Alaa et al., How faithful is your synthetic data?, 2022, section 3.3 (AuthPct)",
        pitfalls="Means something beside its floor only, which depends on the dimension and on the number of rows; noise is perfectly authentic. "
        "So it ranks no models: neither direction is good.",
    ),
    Figure(
        name="train_holdout_share",
        title="closer to training than to held-out rows",
        better="target",
        range="0 to 1; 1/2 for a model that did not overfit",
        meaning="The share of samples whose nearest real row is a training row, among as many training rows as held-out rows.",
        formula=r"P(d(x, train) < d(x, held-out)) + P(=) / 2, with equally many rows of both",
        source="M. Platzer and T. Reutterer, Holdout-based empirical assessment of mixed-type synthetic data, 2021",
        pitfalls="A few copies among many honest samples hardly move it; near_duplicates and exact_copies see them.",
        ideal=0.5,
        sees=("copied training data",),
    ),
)
_EXACT = Figure(
    name="exact_copies",
    title="exact copies of training rows",
    better="lower",
    range="0 to 1",
    meaning="The share of samples identical to a training row, beside the same share of held-out rows.",
    formula=r"P(x = t for a training row t), in data space; on a continuous space up to rounding in single precision",
    source="counting",
    pitfalls="Where values are few, real rows repeat and copies prove nothing: the floor says how often. One changed pixel hides a copy.",
    sees=("copied training data",),
)


def _of_features(figures: Sequence[Figure]) -> tuple[Figure, ...]:
    return tuple(
        dataclasses.replace(each, name=each.name + FEATURES, title=f"{each.title}, in features", sees=(), pitfalls=f"{each.pitfalls} {_LOOK}")
        for each in figures
    )


_LOOK = "Features see copies that were shifted or changed in brightness, as far as their network does."
METRIC = Metric("memorisation", memorisation, (*_FIGURES, _EXACT, *_of_features(_FIGURES)), kind="case", view="best", needs=_needs, minimum=10)
