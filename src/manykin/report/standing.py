"""How a metric of samples stands beside its noise floor, in the words, signs and classes of a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from manykin.metrics import Estimate, standing
from manykin.metrics.estimate import FLOOR, SAMPLES
from manykin.metrics.floors import P_VALUE
from manykin.report.compared import Result


@dataclass(frozen=True)
class Standing:
    """``key``: a class of the page and a key of :data:`manykin.report.words.TERMS`. ``words``: a badge. ``sign``: for narrow cells; may be empty."""

    key: str = ""
    words: str = ""
    sign: str = ""

    def __bool__(self) -> bool:
        return bool(self.key)


NOTHING = Standing()
"""No floor, or a figure that ranks nothing."""
AS_GOOD = Standing("same", "as good as real", "≈")
WORSE = Standing("worse", "worse")
UNSURE = Standing("unsure", "cannot tell at this size", "?")
APART = Standing("apart", "told apart", "≠")
TOGETHER = Standing("together", "not told apart", "≈")
ALL = (AS_GOOD, TOGETHER, WORSE, APART, UNSURE)


def standing_of(value: Estimate | None, floor: Estimate | None) -> Standing:
    """The standing of a value; that of a p-value is that the samples are told apart from real rows, or not."""
    if value is None or floor is None:
        return NOTHING
    found = standing(value, floor)
    test = value.unit == P_VALUE
    return {"as good": TOGETHER if test else AS_GOOD, "worse": APART if test else WORSE, "cannot tell": UNSURE}.get(found, NOTHING)


def standing_in(result: Result, value: Estimate | None) -> Standing:
    """The same, with the floor that the model's line holds."""
    return NOTHING if value is None else standing_of(value, result.metric(value.name + FLOOR))


def standings_in(results: Sequence[Result]) -> list[Standing]:
    """Every standing that occurs, in a fixed order: what a legend has to explain."""
    present = {standing_in(result, metric) for result in results for metric in result.metrics if not metric.name.endswith(FLOOR)}
    return [each for each in ALL if each in present]


@dataclass(frozen=True)
class Tally:
    """How many of a model's metrics tell its samples from real data, out of those that can tell at this size.

    ``anyway``: how many do, of all metrics.
    """

    model: str
    told: int
    of: int
    anyway: int


@dataclass(frozen=True)
class Tallies:
    """Of all models. ``sizes``: numbers of samples. ``power``: whether all metrics counted are known to tell forgeries from real rows."""

    models: tuple[Tally, ...]
    sizes: tuple[int, ...]
    power: bool


def tally(results: Sequence[Result]) -> Tallies:
    """Count, for every model, metrics that are worse than their floor.

    Where it is known of any metric whether it has power at its size, only those that have it count; older evaluations, which do not say, are counted
    whole, and claim no power.
    """
    pairs = {result.model: _pairs(result) for result in results}
    power = any(floor.tells is not None for found in pairs.values() for _, floor in found)
    sizes = {floor.n for found in pairs.values() for _, floor in found if floor.n and (floor.tells is not None or not power)}
    counts = []
    for model, found in pairs.items():
        able = [(value, floor) for value, floor in found if floor.tells or not power]
        counts.append(Tally(model, _apart(able), len(able), _apart(found)))
    return Tallies(tuple(counts), tuple(sorted(sizes)), power)


def _apart(pairs: Sequence[tuple[Estimate, Estimate]]) -> int:
    return sum(standing_of(value, floor) in (WORSE, APART) for value, floor in pairs)


def _pairs(result: Result) -> list[tuple[Estimate, Estimate]]:
    """Metrics of samples whose standing is known, with their floors."""
    values = [metric for metric in result.metrics if metric.quantity == SAMPLES and standing_in(result, metric)]
    return [(value, floor) for value in values if (floor := result.metric(value.name + FLOOR)) is not None]
