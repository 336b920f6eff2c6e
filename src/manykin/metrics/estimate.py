"""Estimates: a number is never alone, it carries its unit, strength, standard error, number of examples and quantity."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

LOG_P = "log p(x)"
LOG_P_GIVEN_C = "log p(x | c)"
SAMPLES = "samples"

FLOOR = "_floor"
"""What the name of a noise floor ends with: the same metric with training rows in the place of samples."""


@dataclass(frozen=True)
class Estimate:
    """One metric of one model.

    ``strength``: exact, bound, estimate or unnormalised: two values of different strength are not comparable without saying so. ``quantity``: what
    was measured (``log p(x)``, ``log p(x | c)``, ``samples``): values of different quantities are not comparable at all. ``sampler``: the sampler
    behind a metric of samples, None for the model's own. ``n``: examples. ``stderr``: standard error of ``value`` over examples; None: unknown.
    ``data``: what was done to the data before the number was computed: the transform and its draws, the features and their extractor. ``tells``:
    whether this metric of samples, at this size, tells real rows from crude forgeries; None where that was not tried.
    """

    name: str
    value: float
    stderr: float | None
    unit: str
    strength: str
    n: int
    note: str = ""
    quantity: str = LOG_P
    sampler: str | None = None
    data: str = ""
    tells: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: a value or error that is not finite becomes None, and the note says why.

        ``quantity``, ``sampler`` and ``data`` appear only where they differ from their defaults, ``infinite`` (1 or -1) only for an infinite value,
        ``tells`` only where it is known.
        """
        finite = math.isfinite(self.value)
        stderr = self.stderr if self.stderr is not None and math.isfinite(self.stderr) else None
        data: dict[str, Any] = {
            "name": self.name,
            "value": self.value if finite else None,
            "stderr": stderr,
            "unit": self.unit,
            "strength": self.strength,
            "n": self.n,
            "note": self.note if finite or self.note else f"the value is {self.value}",
        }
        sign = math.copysign(1, self.value) if math.isinf(self.value) else 0
        extra: dict[str, tuple[Any, Any]] = {
            "quantity": (self.quantity, LOG_P),
            "sampler": (self.sampler, None),
            "data": (self.data, ""),
            "infinite": (int(sign), 0),
        }
        extra["tells"] = (self.tells, None)
        return data | {key: value for key, (value, default) in extra.items() if value != default}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Estimate":
        """Read :meth:`to_json` back."""
        value, lost = data.get("value"), math.copysign(math.inf, data["infinite"]) if data.get("infinite") else math.nan
        return cls(
            name=str(data["name"]),
            value=lost if value is None else float(value),
            stderr=None if data.get("stderr") is None else float(data["stderr"]),
            unit=str(data.get("unit", "")),
            strength=str(data.get("strength", "")),
            n=int(data.get("n") or 0),
            note=str(data.get("note", "")),
            quantity=str(data.get("quantity", LOG_P)),
            sampler=data.get("sampler"),
            data=str(data.get("data", "")),
            tells=data.get("tells"),
        )

    def __str__(self) -> str:
        label = ", ".join(part for part in (self.strength, self.note) if part)
        return f"{number(self.value, self.stderr)}{f' {self.unit}' if self.unit else ''}{f' ({label})' if label else ''}"


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one model on one data set.

    ``warnings``: what a user should know before believing them, each one line with a remedy. ``details``: plain JSON behind the numbers (a row a
    column, a row a class). ``tensors``: what a report draws (nearest neighbours); not part of the JSON.
    """

    model: str
    data: str
    metrics: tuple[Estimate, ...]
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """``{"model", "data", "metrics": [...]}``, and ``warnings`` and ``details`` where there are any."""
        plain = {"model": self.model, "data": self.data, "metrics": [metric.to_json() for metric in self.metrics]}
        return plain | {key: value for key, value in (("warnings", list(self.warnings)), ("details", dict(self.details))) if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Evaluation":
        """Read :meth:`to_json` back."""
        return cls(str(data.get("model", "")), str(data.get("data", "")), tuple(Estimate.from_json(item) for item in data.get("metrics", ())),
                   tuple(data.get("warnings", ())), dict(data.get("details", {})))  # fmt: skip

    def __getitem__(self, name: str) -> Estimate:
        """The metric of that name.

        Raises:
            KeyError: where there is none, naming those that exist.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"{name!r}; this evaluation has {', '.join(metric.name for metric in self.metrics)}")

    def __str__(self) -> str:
        floors = {metric.name.removesuffix(FLOOR): metric for metric in self.metrics if metric.name.endswith(FLOOR)}
        names = {metric.name for metric in self.metrics}
        shown = [metric for metric in self.metrics if not (metric.name.endswith(FLOOR) and metric.name.removesuffix(FLOOR) in names)]
        width = max((len(metric.name) for metric in shown), default=0)
        lines = [f"  {metric.name:<{width}}  {metric}{_foreign(metric)}{_beside(metric, floors.get(metric.name))}" for metric in shown]
        return "\n".join([f"{self.model} on {self.data}", *lines, *(f"  warning: {each}" for each in self.warnings)])


def number(value: float, stderr: float | None = None) -> str:
    """A value rounded to two digits of its standard error: ``2.310 ± 0.010``; to four significant digits where there is none.

    >>> number(2.31049, 0.0101), number(-1234.567, 8.2), number(0.5)
    ('2.310 ± 0.010', '-1234.6 ± 8.2', '0.5000')
    """
    if not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: "-infinite"}.get(value, "undefined")
    if stderr is None or not math.isfinite(stderr):
        return f"{value:.{_decimals(value, 4)}f}"
    digits = _decimals(stderr, 2) if stderr > 0 else 3
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def _decimals(value: float, significant: int) -> int:
    """Decimals that show so many significant digits, between 0 and 6."""
    if value == 0:
        return significant - 1
    return min(max(significant - 1 - math.floor(math.log10(abs(value))), 0), 6)


def _beside(metric: Estimate, floor: Estimate | None) -> str:
    from manykin.metrics.judge import standing

    told = standing(metric, floor)
    return "" if floor is None else f"; floor {number(floor.value, floor.stderr)}{f': {told}' if told else ''}"


def _foreign(metric: Estimate) -> str:
    return f"  [{metric.quantity}]" if metric.quantity == LOG_P_GIVEN_C else ""
