"""Running the table of metrics over a case: values, the noise floor beside each, and what stands in the way of the others."""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from manykin.errors import InvalidInput, suggest
from manykin.metrics.case import MOST, Case
from manykin.metrics.estimate import FLOOR, SAMPLES, Estimate
from manykin.metrics.figures import LEVELS, Figure, Finding, Metric
from manykin.metrics.floors import P_VALUE, fair, tells
from manykin.metrics.table import LIKELIHOOD, TABLE, metric
from manykin.spaces import Value, count, take

INCEPTION = {"frechet_distance": "fid", "frechet_distance_inf": "fid_inf", "kernel_distance": "kid"}
"""What distances of features are called over Inception's, and over no other network's."""


def chosen(wanted: str | Sequence[str]) -> list[str]:
    """Names of metrics, in the order of the table, from a level (``quick``, ``standard``, ``full``) or from names.

    Raises:
        InvalidInput: for an unknown name.
    """
    names = [part.strip() for part in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    found: set[str] = set()
    for name in names:
        if name in LEVELS:
            reach = LEVELS.index(name)
            found |= {LIKELIHOOD} | {key for key in TABLE if LEVELS.index(metric(key).level) <= reach}
        elif name in TABLE or name == LIKELIHOOD:
            found.add(name)
        elif (group := _group(name)) is not None:
            found.add(group)
        else:
            raise InvalidInput(f"metric {name!r} is not known.{suggest(name, {*LEVELS, *TABLE, LIKELIHOOD})}")
    return [name for name in (LIKELIHOOD, *TABLE) if name in found]


def _group(name: str) -> str | None:
    """The metric that yields a figure of this name."""
    from manykin.metrics.likelihoods import FIGURES

    if any(each.name == name for each in FIGURES):
        return LIKELIHOOD
    return next((key for key in TABLE if any(each.name == name for each in metric(key).figures)), None)


def judge(case: Case, names: Sequence[str], asked: Collection[str] = ()) -> Finding:
    """Every named metric that applies, each pair metric with its noise floor.

    Of the others, those ``asked`` for by name, not by level, say why they do not apply. A metric that cannot be computed (too few rows, a constant
    feature) becomes a warning that says why; nothing else is lost. Samples that are not finite are counted, and left out of all other metrics.
    """
    case, found = _finite(case)
    if case.n == 0:
        return found
    case, remark = fair(case)
    found = joined(found, remark)
    for name in names:
        if name == LIKELIHOOD:
            continue
        wanted = metric(name)
        reason = wanted.needs(case)
        if reason:
            found = joined(found, Finding(warnings=(f"{name} does not apply: {reason}",) if name in asked else ()))
            continue
        short = min(case.n, len(case.test))
        if short < wanted.minimum:
            found = joined(
                found, Finding(warnings=(f"{name} needs at least {wanted.minimum} rows of samples and of held-out data; there are {short}.",))
            )
            continue
        try:
            found = joined(found, _pair(case, wanted) if wanted.kind == "pair" else wanted.compute(case))
        except InvalidInput as refusal:
            found = joined(found, Finding(warnings=(f"{name} could not be computed: {refusal}",)))
    return found


def by_name(wanted: str | Sequence[str]) -> set[str]:
    """The metrics that were asked for by their own name."""
    names = [part.strip() for part in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    return {_group(name) or name for name in names} & {LIKELIHOOD, *TABLE}


def joined(first: Finding, second: Finding) -> Finding:
    """Both, in this order."""
    return Finding(
        (*first.estimates, *second.estimates), {**first.details, **second.details}, {**first.tensors, **second.tensors},
        (*first.warnings, *second.warnings),
    )  # fmt: skip


def figure(name: str) -> Figure | None:
    """The explanation of an estimate by its name; that of the metric itself for a floor or a marginal; None for an unknown name."""
    from manykin.metrics.likelihoods import FIGURES

    base = name.removesuffix(FLOOR).removeprefix("marginal_")
    base = {fid: own for own, fid in INCEPTION.items()}.get(base, base)
    known = {each.name: each for each in FIGURES}
    return known.get(base) or next((each for key in TABLE for each in metric(key).figures if each.name == base), None)


def standing(value: Estimate, floor: Estimate | None) -> Literal["as good", "worse", "cannot tell", ""]:
    """How a metric of samples stands beside its noise floor.

    ``as good``: it is within two standard errors of its floor, or better; a p-value, which is uniform for real rows whatever its floor happened to
    be, above 0.05. ``cannot tell``: so it is, but at this size the metric does not even tell crude forgeries from real rows (:attr:`Estimate.tells`).
    ``worse``: neither. Empty where nothing can be said: no floor, or a figure that ranks nothing.
    """
    if not _measurable(value, floor):
        return ""
    assert floor is not None
    if _worse(value, floor):
        return "worse"
    return "cannot tell" if floor.tells is False else "as good"


def as_good_as_real(value: Estimate, floor: Estimate | None) -> bool:
    """Whether a metric of samples, which at this size tells crude forgeries from real rows, does not tell the samples from them: :func:`standing`."""
    return standing(value, floor) == "as good"


def _measurable(value: Estimate, floor: Estimate | None) -> bool:
    told = figure(value.name)
    if floor is None or told is None or not (math.isfinite(value.value) and math.isfinite(floor.value)):
        return False
    return value.unit == P_VALUE or told.better != "none"


def _worse(value: Estimate, floor: Estimate, errors: float = 2.0, level: float = 0.05) -> bool:
    """Whether a value is worse than its floor by so many standard errors, or a p-value at most ``level``."""
    told = figure(value.name.removesuffix(FLOOR))
    assert told is not None
    if value.unit == P_VALUE:
        return value.value <= level
    gap = value.value - floor.value
    margin: float = errors * ((value.stderr or 0.0) ** 2 + (floor.stderr or 0.0) ** 2) ** 0.5
    return bool({"lower": gap, "higher": -gap, "target": abs(gap), "none": 0.0}[told.better] > margin)


def _pair(case: Case, wanted: Metric) -> Finding:
    """A pair metric, its floor, and whether it tells forgeries from real rows."""
    real = case.held.all().x
    points, name = case.view("numbers" if wanted.view == "values" else wanted.view)
    fixed = None if wanted.view == "values" else points(real)
    names = INCEPTION if wanted.view == "features" and case.extractor is not None and case.extractor.inception else {}

    def compute(fake: Value) -> list[Estimate]:
        found: Estimate | Sequence[Estimate]
        found = wanted.compute(case.space, real, fake, seed=case.seed) if fixed is None else wanted.compute(fixed, points(fake), seed=case.seed)
        about = {"quantity": SAMPLES, "n": min(count(fake), MOST)}
        each_one = [found] if isinstance(found, Estimate) else found
        return [dataclasses.replace(each, name=names.get(each.name, each.name), data=each.data or name, **about) for each in each_one]  # type: ignore[arg-type]

    found = [dataclasses.replace(each, sampler=case.sampler) for each in compute(case.samples)]
    if case.seen is None or len(case.seen) < wanted.minimum:
        return Finding(tuple(found))
    floors = compute(case.seen.all().x)
    known = tells(floors, compute, case.forged, lambda value, floor: _worse(value, floor, 3.0, 1e-3))
    beside = {each.name: dataclasses.replace(each, name=each.name + FLOOR, tells=each.name in known) for each in floors}
    return Finding(tuple(each for value in found for each in (value, beside.get(value.name)) if each is not None))


def _finite(case: Case) -> tuple[Case, Finding]:
    """The case without samples that hold NaN where none may be, or an infinity; and the share that was left."""
    broken = _broken(case)
    bad = int(broken.sum())
    if bad == 0:
        return case, Finding()
    rest = case.n - bad
    told = (
        f"{bad} of {case.n} samples are not finite or outside {case.space}; all metrics are over the other {rest}. Train longer or with a lower rate."
    )
    share = Estimate(
        "valid_samples", rest / case.n, (rest * bad / case.n**3) ** 0.5, "share", "estimate", case.n, quantity=SAMPLES, sampler=case.sampler
    )
    kept = (~broken).nonzero()[:, 0]
    labels = None if case.labels is None else case.labels[kept]
    return dataclasses.replace(case, samples=take(case.samples, kept), labels=labels), Finding((share,), warnings=(told,))


def _broken(case: Case) -> Tensor:
    """Which samples their own space refuses, (n,) boolean."""

    def refused(x: Value) -> bool:
        try:
            case.space.validate(x)
        except InvalidInput:
            return True
        return False

    broken = torch.zeros(case.n, dtype=torch.bool)
    stack: list[tuple[int, int]] = [(0, case.n)]
    while stack:
        start, stop = stack.pop()
        if start < stop and refused(take(case.samples, slice(start, stop))):
            if stop - start == 1:
                broken[start] = True
            else:
                middle = (start + stop) // 2
                stack += [(start, middle), (middle, stop)]
    return broken
