r"""The ledger: which numbers may be ranked against each other, what a claim proves, and which claims are impossible.

The rules, in this one place for the terminal, the report, Markdown and JSON:

1. Numbers are ranked only within a group: the same quantity (log p(x), log p(x | c), samples), strength, unit, sampler and, for metrics of samples,
   the same points or features. Groups stand one below the other, each with a sentence that says what it holds.
2. Within a group the order is by value. An entry within two combined standard errors of the best is not distinguishable from it.
3. Across groups only one thing is said, and only where it is proven: see :func:`compare_claims`.
4. A claim that no density can make (:func:`flags`) is never best, and stands last.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from manykin.metrics.claims import Claim, Key, compare_claims, flags, loss, margin
from manykin.metrics.estimate import LOG_P, LOG_P_GIVEN_C, SAMPLES, Estimate, number
from manykin.metrics.judge import figure

__all__ = [
    "CLASSICAL", "LIKELIHOODS", "NO_LIKELIHOOD", "SENTENCES", "Claim", "Entry", "Group", "Key", "Rated", "Row", "across", "as_json",
    "classical_floor",
    "compare_claims", "flags", "headline", "is_classical", "likelihood_groups", "metric_groups", "verdict",
]  # fmt: skip

CLASSICAL = "classical"
"""The family of models that are the floor: closed form or a few seconds; whatever does not beat them has learned nothing worth its cost."""
LIKELIHOODS = ("marginal_bits_per_dim", "marginal_nll", "bits_per_dim", "nll")
"""What a model's likelihood is shown as: the first of these that it has, log p(x) before log p(x | c)."""
SENTENCES: dict[tuple[str, str], str] = {
    (LOG_P, "exact"): "Exact likelihood of log p(x)",
    (LOG_P, "bound"): "Bound on log p(x): the true value is at least as good as the number",
    (LOG_P, "estimate"): "Estimate of log p(x): noisy, on neither side for sure",
    (LOG_P, "unnormalised"): "Unnormalised log p(x): an unknown constant is missing, so the numbers say nothing about each other",
    (LOG_P_GIVEN_C, "exact"): "Exact likelihood given the condition, log p(x | c): another quantity, not comparable with log p(x)",
    (LOG_P_GIVEN_C, "bound"): "Bound on the likelihood given the condition, log p(x | c): not comparable with log p(x)",
    (LOG_P_GIVEN_C, "estimate"): "Estimate of the likelihood given the condition, log p(x | c): not comparable with log p(x)",
    (LOG_P_GIVEN_C, "unnormalised"): "Unnormalised log p(x | c): an unknown constant is missing, so the numbers say nothing about each other",
}
"""What a group of likelihoods holds; groups stand in this order."""
NO_LIKELIHOOD = "No comparable likelihood: judged by samples only"


class Rated(Protocol):
    """Anything with a model's name and its estimates. One that also has ``family`` equal to :data:`CLASSICAL` is part of the floor."""

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    @property
    def metrics(self) -> Sequence[Estimate]:
        """Its estimates."""
        ...


@dataclass(frozen=True)
class Row:
    """The plainest :class:`Rated`, for callers without a class of their own."""

    model: str
    metrics: tuple[Estimate, ...]
    family: str = ""


R = TypeVar("R", bound=Rated)


@dataclass(frozen=True)
class Entry(Generic[R]):
    """One row in its group. ``best``: first of its group. ``tied``: not distinguishable from the best. ``flags``: why its claim is impossible."""

    row: R
    estimate: Estimate | None
    best: bool = False
    tied: bool = False
    flags: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """``best``, ``not distinguishable from the best``, ``impossible``, or nothing."""
        if self.flags:
            return "impossible"
        return "best" if self.best else "not distinguishable from the best" if self.tied else ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: model, value, standard error, mark and flags."""
        value, stderr = (None, None) if self.estimate is None else (_plain(self.estimate.value), _plain(self.estimate.stderr))
        return {"model": self.row.model, "value": value, "stderr": stderr, "mark": self.mark, "flags": list(self.flags)}


@dataclass(frozen=True)
class Group(Generic[R]):
    """Rows whose estimates may be ranked against each other, best first. ``remarks``: what a reader must know of the ranking."""

    name: str
    key: Key
    sentence: str
    entries: tuple[Entry[R], ...]
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the key, the sentence, and an entry a model with value, standard error, mark and flags."""
        entries = [entry.to_json() for entry in self.entries]
        key = {"quantity": self.key.quantity, "strength": self.key.strength, "unit": self.key.unit, "sampler": self.key.sampler}
        return {"metric": self.name, **key, "sentence": self.sentence, "remarks": list(self.remarks), "entries": entries}


def headline(metrics: Iterable[Estimate]) -> Estimate | None:
    """The likelihood that a model is known by: of log p(x) where it has one, else of log p(x | c); bits per dimension before nats."""
    known = {(metric.quantity, metric.name): metric for metric in metrics}
    return next((known[quantity, name] for quantity in (LOG_P, LOG_P_GIVEN_C) for name in LIKELIHOODS if (quantity, name) in known), None)


def likelihood_groups(rows: Sequence[R]) -> list[Group[R]]:
    """All rows by what their likelihood is; rows without one come last, by their energy distance, under :data:`NO_LIKELIHOOD`."""
    having = [(row, found) for row in rows if (found := headline(row.metrics)) is not None]
    without = [row for row in rows if headline(row.metrics) is None]
    groups = _grouped("likelihood", having)
    if without:
        distances = [(row, next((each for each in row.metrics if each.name == "energy_distance"), None)) for row in without]
        apart = {Key.of(found) for _, found in distances if found is not None}
        remarks = ("their distances differ in sampler or in what they are computed on: not ranked",) if len(apart) > 1 else ()
        groups.append(Group("energy_distance", Key(), NO_LIKELIHOOD, _ordered(distances, ranked=not remarks), remarks))
    return groups


def metric_groups(rows: Sequence[R], name: str) -> list[Group[R]]:
    """The rows that have a metric, in groups that may be ranked; a row may stand in several groups, once a sampler."""
    return _grouped(name, [(row, metric) for row in rows for metric in row.metrics if metric.name == name])


def classical_floor(groups: Sequence[Group[R]]) -> Entry[R] | None:
    """The best classical model with an exact log p(x), or with a bound where none is exact; None where there is none."""
    for strength in ("exact", "bound"):
        for group in groups:
            if (group.key.quantity, group.key.strength) == (LOG_P, strength):
                for entry in group.entries:
                    if is_classical(entry.row) and not entry.flags and entry.estimate is not None and math.isfinite(entry.estimate.value):
                        return entry
    return None


def is_classical(row: Rated) -> bool:
    """Whether a row belongs to the classical floor."""
    return getattr(row, "family", "") == CLASSICAL


def verdict(groups: Sequence[Group[R]]) -> str:
    """Sentences on what has to be beaten, who is proven to beat it, and whom the numbers leave undecided; empty without a classical floor."""
    floor = classical_floor(groups)
    if floor is None or floor.estimate is None:
        return ""
    text = f"The best classical model is {floor.row.model} at {floor.estimate}: any other model has to beat that."
    others = [entry for group in groups for entry in group.entries if not is_classical(entry.row) and not entry.flags]
    known = [(entry.row.model, entry.estimate) for entry in others if entry.estimate is not None and entry.estimate.quantity == LOG_P]
    exact = [name for name, claim in known if claim.strength == "exact" and compare_claims(claim, floor.estimate) == "better"]
    bounds = [name for name, claim in known if claim.strength == "bound" and compare_claims(claim, floor.estimate) == "better"]
    worse = [name for name, claim in known if compare_claims(claim, floor.estimate) == "worse"]
    open_ = [name for name, claim in known if compare_claims(claim, floor.estimate) == "undecided"]
    parts = [
        f"{_list(exact)} beat{_s(exact)} it." if exact else "",
        f"{_list(bounds)} beat{_s(bounds)} it too: even a bound, which the truth can only surpass, is better than the floor." if bounds else "",
        f"{_list(worse)} {'are' if len(worse) > 1 else 'is'} worse." if worse else "",
        f"Undecided: {_list(open_)}, for a bound that is worse proves nothing, nor does an estimate or a small gap." if open_ else "",
    ]
    return " ".join([text, *filter(None, parts)])


def across(groups: Sequence[Group[R]]) -> tuple[str, ...]:
    """What the best claims of the groups of log p(x) prove of each other, a sentence a pair: groups are never ranked against each other silently."""
    tops = [group.entries[0] for group in groups if group.key.quantity == LOG_P and group.entries and not group.entries[0].flags]
    told = []
    for index, one in enumerate(tops):
        for other in tops[index + 1 :]:
            if one.estimate is None or other.estimate is None or one.estimate.unit != other.estimate.unit:
                continue
            claim = compare_claims(one.estimate, other.estimate)
            if claim == "undecided":
                told.append(f"Between {_claimed(one)} and {_claimed(other)} the numbers decide nothing.")
            else:
                better, worse = (one, other) if claim == "better" else (other, one)
                told.append(f"{_claimed(better)} is better than {_claimed(worse)}{_still_a_bound(better)}.")
    return tuple(told)


def _claimed(entry: Entry[R]) -> str:
    assert entry.estimate is not None
    return f"{entry.row.model} ({entry.estimate.strength} {number(entry.estimate.value, entry.estimate.stderr)})"


def _still_a_bound(entry: Entry[R]) -> str:
    bound = entry.estimate is not None and entry.estimate.strength == "bound"
    return ": a bound that beats an exact value is still a bound, so the model is at least that good" if bound else ""


def as_json(rows: Sequence[Rated]) -> dict[str, Any]:
    """The ledger of likelihoods as plain JSON: ``groups``, ``verdict``, ``across``, and ``flags`` by model."""
    groups = likelihood_groups(rows)
    found = {row.model: list(told) for row in rows if (told := flags(row.metrics))}
    return {"groups": [group.to_json() for group in groups], "verdict": verdict(groups), "across": list(across(groups)), "flags": found}


def _grouped(name: str, pairs: Sequence[tuple[R, Estimate]]) -> list[Group[R]]:
    found: dict[tuple[str, Key], list[tuple[R, Estimate]]] = {}
    for row, estimate in pairs:
        found.setdefault((estimate.name if estimate.quantity == SAMPLES else estimate.quantity, Key.of(estimate)), []).append((row, estimate))
    order = list(SENTENCES)

    def place(item: tuple[str, Key]) -> tuple[int, int, str]:
        key = (item[1].quantity, item[1].strength)
        return (order.index(key) if key in order else len(order), item[1].sampler is not None, item[1].unit)

    keys = sorted(found, key=place)
    units = {(key.quantity, key.strength) for _, key in keys if sum(_same_but_unit(key, other) for _, other in keys) > 1}
    return [
        Group(
            name, key[1], _sentence(name, key[1], (key[1].quantity, key[1].strength) in units),
            _ordered(found[key], ranked=_ranks(found[key][0][1])), _remarks(found[key]),
        )
        for key in keys
    ]  # fmt: skip


def _ranks(estimate: Estimate) -> bool:
    """Whether values of this name may be ordered at all: a p-value may not."""
    told = figure(estimate.name) if estimate.quantity == SAMPLES else None
    return told is None or told.better != "none"


def _same_but_unit(a: Key, b: Key) -> bool:
    return (a.quantity, a.strength, a.sampler, a.data) == (b.quantity, b.strength, b.sampler, b.data)


def _sentence(name: str, key: Key, several_units: bool) -> str:
    if key.quantity == SAMPLES:
        told = figure(name)
        title = name.replace("_", " ") if told is None else told.title
        on = f" on {key.data}" if key.data else ""
        by = "" if key.sampler is None else f", by the sampler {key.sampler}: another law than the model's own, not comparable with the other groups"
        return f"{title[:1].upper()}{title[1:]}{on}{by}"
    text = SENTENCES.get((key.quantity, key.strength), f"{key.quantity}, {key.strength}")
    return f"{text} (in {key.unit}: not comparable with other units)" if several_units else text


def _ordered(pairs: Sequence[tuple[R, Estimate | None]], *, ranked: bool = True) -> tuple[Entry[R], ...]:
    """Possible claims by value, then values that are not finite, then impossible claims; the order given where ``ranked`` is False."""
    flagged = [(row, estimate, flags(row.metrics) if estimate is not None and estimate.quantity != SAMPLES else ()) for row, estimate in pairs]
    if not ranked:
        return tuple(Entry(row, estimate, flags=told) for row, estimate, told in flagged)

    def place(item: tuple[R, Estimate | None, tuple[str, ...]]) -> tuple[bool, bool, float]:
        value = math.nan if item[1] is None else loss(item[1])
        return (bool(item[2]), not math.isfinite(value), value if math.isfinite(value) else 0.0)

    flagged.sort(key=place)
    first = flagged[0][1] if flagged and place(flagged[0])[:2] == (False, False) else None
    entries = []
    for index, (row, estimate, told) in enumerate(flagged):
        rankable = first is not None and estimate is not None and not told and estimate.strength != "unnormalised"
        best = rankable and index == 0 and len(flagged) > 1
        tied = rankable and index > 0 and estimate is not None and first is not None and abs(loss(estimate) - loss(first)) <= margin(estimate, first)
        entries.append(Entry(row, estimate, best, tied, told))
    return tuple(entries)


def _remarks(pairs: Sequence[tuple[Rated, Estimate]]) -> tuple[str, ...]:
    counts = sorted({estimate.n for _, estimate in pairs})
    lone = [row.model for row, estimate in pairs if estimate.stderr is None and math.isfinite(estimate.value)]
    remarks = []
    if len(counts) > 1:
        remarks.append(f"on different numbers of rows ({counts[0]} to {counts[-1]}): compare with care")
    if lone and len(pairs) > 1:
        remarks.append(f"no standard error for {_list(list(dict.fromkeys(lone)))}: whether a difference is noise is not known")
    return tuple(remarks)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def _s(names: Sequence[str]) -> str:
    return "" if len(names) > 1 else "s"


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
