"""What a check is, how it reports, and the predicates by which checks are chosen."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from manykin.contract import ClosedForm, Encodes, GenerativeModel, Gradient
from manykin.spaces import Image, Labels, Record, Space, Tokens, Vector

if TYPE_CHECKING:
    from manykin.testing.context import Context

Level = Literal["fast", "full"]
Applies = Callable[[GenerativeModel], bool]


class CheckFailed(AssertionError):
    """A promise of the contract does not hold; the message says which, with figures."""


def require(holds: object, message: str) -> None:
    """Fail the running check with ``message`` unless ``holds``.

    Raises:
        CheckFailed: where ``holds`` is false.
    """
    if not holds:
        raise CheckFailed(message)


@dataclass(frozen=True)
class Check:
    """One promise of the contract: its name, topic, the level from which it runs, the models it applies to, and the function that tests it."""

    name: str
    topic: str
    level: Level
    applies: Applies
    run: Callable[["Context"], None]

    @property
    def promise(self) -> str:
        """The promise in a sentence."""
        return (self.run.__doc__ or "").strip().split("\n")[0]


class Topic:
    """Collects the checks of one module; used as a decorator, a check's name is its function's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.checks: list[Check] = []

    def __call__(self, when: Applies | None = None, level: Level = "fast") -> Callable[[Callable[["Context"], None]], Callable[["Context"], None]]:
        """Register the decorated function for the models for which ``when`` holds (all by default)."""

        def register(function: Callable[["Context"], None]) -> Callable[["Context"], None]:
            self.checks.append(Check(function.__name__.replace("_", "-"), self.name, level, when or _always, function))
            return function

        return register


def _always(model: GenerativeModel) -> bool:
    return True


@dataclass(frozen=True)
class Row:
    """The outcome of one check on one subject (a model in one space)."""

    name: str
    topic: str
    passed: bool
    seconds: float
    message: str = ""
    waived: str | None = None
    subject: str = ""


@dataclass(frozen=True)
class CheckReport:
    """All outcomes. :attr:`passed` where every check passed or failed under a waiver."""

    model: str
    rows: tuple[Row, ...] = field(default_factory=tuple)

    @property
    def failures(self) -> tuple[Row, ...]:
        """Checks that failed and were not waived, and waivers of checks that passed."""
        return tuple(row for row in self.rows if not row.passed and row.waived is None)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the model, the verdict, and a list of rows."""
        data = {"model": self.model, "passed": self.passed, "checks": [dataclasses.asdict(row) for row in self.rows]}
        return json.loads(json.dumps(data))  # type: ignore[no-any-return]

    def __str__(self) -> str:
        lines = [f"{self.model}: {len(self.rows)} checks, {len(self.failures)} failed, {sum(row.seconds for row in self.rows):.1f} s"]
        for row in self.rows:
            verdict = "waived" if row.waived is not None else "ok" if row.passed else "FAILED"
            detail = f"  {row.message}" if row.message else ""
            reason = f"  (waived: {row.waived})" if row.waived is not None else ""
            lines.append(f"  {verdict:7}{row.topic:13}{row.name:32}{row.seconds:6.2f} s  {row.subject}{detail}{reason}")
        return "\n".join(lines)


def has_density(model: GenerativeModel) -> bool:
    """``log_prob`` returns a number."""
    return model.density is not None


def is_implicit(model: GenerativeModel) -> bool:
    """``log_prob`` raises NoDensity."""
    return model.density is None


def is_normalised(model: GenerativeModel) -> bool:
    """``log_prob`` has no unknown constant and is no overestimate."""
    density = model.density
    return density is not None and density.normalised and density.bias in ("none", "lower")


def is_repeatable(model: GenerativeModel) -> bool:
    """``log_prob`` does not depend on internal draws."""
    return model.density is not None and not model.density.noisy


def is_noisy(model: GenerativeModel) -> bool:
    """``log_prob`` depends on internal draws."""
    return model.density is not None and model.density.noisy


def is_estimated(model: GenerativeModel) -> bool:
    """``log_prob`` is normalised up to an error of unknown sign: of an integrator, say."""
    return model.density is not None and model.density.normalised and model.density.bias == "unknown"


def has_exact_kind(model: GenerativeModel) -> bool:
    """The hook ``_log_prob`` is log p(z), possibly up to a constant, without noise."""
    return model.kind is not None and model.kind.bias == "none" and not model.kind.noisy


def is_real(space: Space) -> bool:
    """Every entry may be any real number."""
    return (isinstance(space, Vector) and space.levels is None and not any(space.step or ())) or (isinstance(space, Image) and space.levels is None)


def real_space(model: GenerativeModel) -> bool:
    """The data are real numbers."""
    return is_real(model.space)


def on_labels(model: GenerativeModel) -> bool:
    """The model is conditional on labels."""
    return isinstance(model.condition, Labels)


def one_tensor(model: GenerativeModel) -> bool:
    """A batch is one tensor."""
    return not isinstance(model.space, Record)


def maps_one_to_one(model: GenerativeModel) -> bool:
    """``encode`` gives a point of as many real numbers as an example has entries: seen at a few examples, whatever the weights."""
    if not isinstance(model, Encodes) or isinstance(model.space, (Record, Tokens, Labels)):
        return False
    from manykin.testing.examples import example_rows

    rows = example_rows(model.space, model.condition, 2)
    with torch.no_grad():
        code = model.encode(rows.x, rows.condition)
        try:  # Codes that are no numbers have no moments.
            mean, variance = code.mean, code.variance
        except (NotImplementedError, AttributeError):
            return False
    return mean[0].numel() == math.prod(model.space.shape) and bool((variance <= 1e-10 * (1 + mean**2)).all())


def gradient_phases(model: GenerativeModel) -> list[Gradient]:
    """The phases that follow a gradient."""
    return [phase for phase in model.phases() if isinstance(phase, Gradient)]


def closed_phases(model: GenerativeModel) -> list[ClosedForm]:
    """The phases with a closed-form solution."""
    return [phase for phase in model.phases() if isinstance(phase, ClosedForm)]


def has_gradient(model: GenerativeModel) -> bool:
    """Some phase follows a gradient."""
    return bool(gradient_phases(model))


def has_closed_form(model: GenerativeModel) -> bool:
    """Some phase has a closed-form solution."""
    return bool(closed_phases(model))


def both(*conditions: Applies) -> Applies:
    """All of several predicates."""
    return lambda model: all(condition(model) for condition in conditions)


def implements(protocol: type) -> Applies:
    """The model has an optional protocol of the contract."""
    return lambda model: isinstance(model, protocol)
