"""What a metric is: its figures with formula, source, range, direction and pitfalls, and how it is computed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from manykin.metrics.estimate import Estimate

if TYPE_CHECKING:
    from manykin.metrics.case import Case

Level = Literal["quick", "standard", "full"]
LEVELS: tuple[Level, ...] = ("quick", "standard", "full")


@dataclass(frozen=True)
class Figure:
    """One number that a metric yields, explained.

    ``better``: ``lower``, ``higher``, ``target`` where a value on either side of ``ideal`` is worse, or ``none`` for a figure that ranks nothing,
    such as a p-value. ``meaning``: one sentence for a reader who
    knows nothing of it. ``sees``: the degradations of :data:`manykin.testing.degradations.TABLE` that it claims to see.
    """

    name: str
    title: str
    better: Literal["lower", "higher", "target", "none"]
    range: str
    meaning: str
    formula: str
    source: str
    pitfalls: str
    ideal: float | None = None
    sees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What a metric found: estimates, JSON details and tensors for pictures, and warnings, each one line with a remedy."""

    estimates: tuple[Estimate, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def _nothing(case: "Case") -> str:
    """It applies to every case."""
    return ""


@dataclass(frozen=True)
class Metric:
    """A metric of samples.

    ``kind``: a ``pair`` metric is a function ``(real, fake, *, seed) -> Estimate or several`` of two samples, and is computed a second time with
    training rows in the place of the samples: its noise floor. A ``case`` metric is a function ``(case) -> Finding`` of everything at hand.
    ``view``: what a pair metric sees: ``numbers`` (n, d) in the units of :meth:`Case.encode`; ``features`` of an extractor; ``best``, features for
    pictures where there is an extractor and numbers elsewhere; ``values`` of the space, then the function is ``(space, real, fake, *, seed)``.
    ``needs``: why it does not apply to a case, in a few words; empty where it does. ``minimum``: the rows of each sample that it needs.
    """

    name: str
    compute: Callable[..., Any]
    figures: tuple[Figure, ...]
    kind: Literal["pair", "case"] = "pair"
    view: Literal["numbers", "features", "best", "values"] = "numbers"
    level: Level = "standard"
    needs: "Callable[[Case], str]" = _nothing
    minimum: int = 3
