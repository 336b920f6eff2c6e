"""The headline table: models by metrics, grouped by what their likelihood is, so that unlike numbers are never ranked against each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from manykin.metrics import Estimate
from manykin.metrics.estimate import LOG_P, LOG_P_GIVEN_C, number
from manykin.report.canvas import style, svg
from manykin.report.columns import Mark, standings
from manykin.report.reading import Result

FLOOR_FAMILY = "classical"
LIKELIHOODS = ("bits_per_dim", "marginal_bits_per_dim", "nll", "marginal_nll")
GROUPS: dict[tuple[str, str], str] = {
    (LOG_P, "exact"): "Exact likelihood of log p(x)",
    (LOG_P, "bound"): "Bound on log p(x): the true value is at least as good as the number",
    (LOG_P, "estimate"): "Estimate of log p(x): noisy, on neither side for sure",
    (LOG_P_GIVEN_C, "exact"): "Exact likelihood given the condition, log p(x | c): another quantity, not comparable with log p(x)",
    (LOG_P_GIVEN_C, "bound"): "Bound on the likelihood given the condition, log p(x | c): not comparable with log p(x)",
    (LOG_P_GIVEN_C, "estimate"): "Estimate of the likelihood given the condition, log p(x | c): not comparable with log p(x)",
    ("", ""): "No comparable likelihood: judged by samples only",
}
MEANING: dict[str, str] = {
    "nll": "Minus the mean log-likelihood of held-out data, in nats per example; lower is better.",
    "bits_per_dim": "The held-out negative log-likelihood in bits, per dimension (pixel, column, symbol): the size of a perfect compressor's file.",
    "bits_per_byte": "The held-out negative log-likelihood in bits, per byte of text.",
    "kl_gap": "Likelihood lost against the true law of the data: nll minus its known entropy; 0 is perfect, and less is impossible beyond noise.",
    "marginal_nll": "For a model conditional on labels: nll of log p(x), summed over the labels.",
    "marginal_bits_per_dim": "For a model conditional on labels: bits per dimension of log p(x), summed over the labels.",
    "energy_distance": "Székely's energy distance between samples and held-out data: 0 for equal laws, unbiased, so it may fall slightly below 0.",
    "energy_distance_floor": "The energy distance between training and held-out data: what a perfect model would show at this size.",
}
TERMS: dict[str, str] = {
    "exact": "The density is computed, and sums to one.",
    "bound": "The model's true likelihood is at least this good; k is the number of draws that tighten it.",
    "estimate": "The number has noise of its own beyond the standard error over examples.",
    "±": "One standard error over the held-out examples.",
    "floor": "A classical model fitted in closed form; whatever does not beat it has learned nothing that is worth its cost.",
}


@dataclass(frozen=True)
class Line:
    """One row of the table, ready to print."""

    result: Result
    likelihood: Estimate | None
    others: tuple[Estimate, ...]
    distance: Estimate | None
    distance_floor: Estimate | None

    @property
    def floor(self) -> bool:
        """Whether this model belongs to the classical floor."""
        return self.result.family == FLOOR_FAMILY

    @property
    def strength(self) -> str:
        """What its likelihood is; what the model calls its density where it has none to show."""
        return self.likelihood.strength if self.likelihood else self.result.density

    @property
    def notes(self) -> list[str]:
        """Everything that its numbers say beside their values."""
        metrics = [metric for metric in (self.likelihood, *self.others, self.distance) if metric is not None]
        parts = list(dict.fromkeys(part for metric in metrics for part in metric.note.split("; ") if part))
        means = [part for part in parts if part.startswith("mean over")]
        return [part for part in parts if part not in means[1:]]


@dataclass(frozen=True)
class Group:
    """Models whose likelihoods may be ranked against each other, best first."""

    title: str
    lines: tuple[Line, ...]


def line_of(result: Result) -> Line:
    """Choose what stands in the table: the marginal likelihood of a conditional model where there is one."""
    likelihood = _first(result, LOG_P) or _first(result, LOG_P_GIVEN_C)
    distance, floor = result.metric("energy_distance"), result.metric("energy_distance_floor")
    others = tuple(metric for metric in result.metrics if metric not in (likelihood, distance, floor))
    return Line(result, likelihood, others, distance, floor)


def groups_of(results: Sequence[Result]) -> list[Group]:
    """All finished models by quantity and strength, each group sorted by its likelihood (models without one by energy distance)."""
    lines = [line_of(result) for result in results if not result.error]
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        key = (line.likelihood.quantity, line.likelihood.strength) if line.likelihood else ("", "")
        found.setdefault(key, []).append(line)
    known = [key for key in GROUPS if key in found] + [key for key in found if key not in GROUPS]
    return [Group(GROUPS.get(key, " ".join(key)), tuple(sorted(found[key], key=_order))) for key in known]


def classical_floor(groups: Sequence[Group]) -> Line | None:
    """The best classical model with an exact log p(x), or with a bound where none is exact."""
    for strength in ("exact", "bound"):
        lines = [line for group in groups for line in group.lines if line.floor and _is(line, strength)]
        finite = [line for line in lines if line.likelihood is not None and math.isfinite(line.likelihood.value)]
        if finite:
            return min(finite, key=_order)
    return None


def verdict(groups: Sequence[Group]) -> str:
    """One sentence on what has to be beaten."""
    floor = classical_floor(groups)
    if floor is None or floor.likelihood is None:
        return ""
    return f"The best classical model is {floor.result.model} at {floor.likelihood}: any other model has to beat that."


def standing_pictures(groups: Sequence[Group]) -> list[tuple[str, Markup]]:
    """Likelihoods and energy distances as pictures, where at least two models have them."""
    lines = [line for group in groups for line in group.lines]
    pictures = []
    with style():
        for unit in dict.fromkeys(line.likelihood.unit for line in lines if line.likelihood is not None and line.likelihood.quantity == LOG_P):
            pictures += _likelihood_picture(lines, unit, classical_floor(groups))
        pictures += _distance_picture(lines)
    return pictures


def meanings(results: Sequence[Result], *, floor: bool = True) -> list[tuple[str, str]]:
    """A sentence for each number and word that the table uses."""
    metrics = list(dict.fromkeys(metric.name for result in results for metric in result.metrics))
    words = {metric.strength for result in results for metric in result.metrics} | {"±"}
    if floor and any(result.family == FLOOR_FAMILY for result in results):
        words.add("floor")
    named = [(_title(name), MEANING[name]) for name in metrics if name in MEANING]
    return named + [(key.capitalize(), text) for key, text in TERMS.items() if key in words]


def value_text(metric: Estimate | None) -> str:
    """``2.310 ± 0.010``; words where the value is not finite."""
    if metric is None:
        return "–"
    return number(metric.value, metric.stderr) if math.isfinite(metric.value) else "not finite"


def sort_key(value: Any) -> str:
    """What the page sorts a cell by: empty sorts last."""
    number_ = value.value if isinstance(value, Estimate) else value
    return repr(float(number_)) if isinstance(number_, (int, float)) and math.isfinite(number_) else ""


def _title(name: str) -> str:
    return name.replace("_", " ")


def _first(result: Result, quantity: str) -> Estimate | None:
    return next((metric for name in LIKELIHOODS for metric in result.metrics if metric.name == name and metric.quantity == quantity), None)


def _is(line: Line, strength: str) -> bool:
    return line.likelihood is not None and line.likelihood.quantity == LOG_P and line.likelihood.strength == strength


def _order(line: Line) -> tuple[bool, float]:
    metric = line.likelihood or line.distance
    value = math.inf if metric is None or not math.isfinite(metric.value) else metric.value
    return (value == math.inf, value)


def _likelihood_picture(lines: Sequence[Line], unit: str, floor: Line | None) -> list[tuple[str, Markup]]:
    chosen = [line.likelihood for line in lines if line.likelihood is not None and line.likelihood.unit == unit and line.likelihood.quantity == LOG_P]
    by_metric: Mapping[int, str] = {id(line.likelihood): line.result.model for line in lines}
    marks = [Mark(by_metric[id(metric)], metric.value, metric.stderr, metric.strength) for metric in chosen if math.isfinite(metric.value)]
    if len(marks) < 2:
        return []
    place = floor.likelihood.value if floor is not None and floor.likelihood is not None and floor.likelihood.unit == unit else None
    figure = standings(sorted(marks, key=lambda mark: mark.value), f"{unit}, lower is better", floor=place, floor_label="classical floor")
    caption = "Likelihood of held-out data, with two standard errors. Disc: exact. Triangle: bound, the truth lies to its left. Diamond: estimate."
    return [(caption, svg(figure, f"Likelihood in {unit}"))]


def _distance_picture(lines: Sequence[Line]) -> list[tuple[str, Markup]]:
    found = [(line.result.model, line.distance) for line in lines if line.distance is not None and math.isfinite(line.distance.value)]
    if len(found) < 2:
        return []
    floors = [line.distance_floor for line in lines if line.distance_floor is not None and math.isfinite(line.distance_floor.value)]
    marks = [Mark(name, metric.value, metric.stderr, "") for name, metric in sorted(found, key=lambda pair: pair[1].value)]
    floor = floors[0] if floors else None
    figure = standings(
        marks, "energy distance to held-out data, lower is better", floor=None if floor is None else floor.value,
        floor_label="training data", band=None if floor is None else 2 * (floor.stderr or 0.0),
    )  # fmt: skip
    return [
        ("Energy distance of samples, with two standard errors. Band: the same for training data, the noise floor.", svg(figure, "Energy distance"))
    ]
