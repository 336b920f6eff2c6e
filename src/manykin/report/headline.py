"""The headline table: quality, cost and strength of every model, in groups that may be ranked, with the values of real data on top."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from manykin.metrics import Estimate, ledger
from manykin.metrics.estimate import FLOOR, LOG_P, SAMPLES
from manykin.report.canvas import style, svg
from manykin.report.columns import Block, Mark, standings
from manykin.report.compared import Result
from manykin.report.standing import NOTHING, Standing, standing_of
from manykin.report.units import BETTER, better_of, capital, title_of

MAIN = (
    "frechet_distance", "fid", "energy_distance", "c2st_accuracy", "pair_distance", "coverage", "column_distance", "kernel_distance", "recall",
    "precision", "mmd", "sliced_wasserstein",
)  # fmt: skip
"""Metrics of samples that the headline table shows: the first three of these that at least one model has."""
MOST_MAIN = 3


@dataclass(frozen=True)
class Cell:
    """One metric of one model: its value, its floor, how it stands beside that, and how it stands among the others."""

    estimate: Estimate | None = None
    floor: Estimate | None = None
    standing: Standing = NOTHING
    mark: Literal["", "best", "tied"] = ""


@dataclass(frozen=True)
class Line:
    """One row of the headline table, ready to print."""

    result: Result
    likelihood: Estimate | None
    mark: str
    cells: tuple[Cell, ...]
    flags: tuple[str, ...] = ()

    @property
    def floor(self) -> bool:
        """Whether this model belongs to the classical floor."""
        return ledger.is_classical(self.result)

    @property
    def strength(self) -> str:
        """What its likelihood is; what the model calls its density where it has none to show."""
        return self.likelihood.strength if self.likelihood else self.result.density

    @property
    def notes(self) -> list[str]:
        """What the likelihood says beside its value, and why its claim is impossible."""
        parts = [] if self.likelihood is None else [part for part in self.likelihood.note.split("; ") if part and part not in self.flags]
        return list(dict.fromkeys([*parts, *self.flags]))


@dataclass(frozen=True)
class Part:
    """Models whose likelihoods may be ranked against each other, best first."""

    title: str
    lines: tuple[Line, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Board:
    """The table: its columns of metrics, the value of real rows in each, and its groups."""

    names: tuple[str, ...]
    floors: tuple[Estimate | None, ...]
    parts: tuple[Part, ...]

    @property
    def lines(self) -> list[Line]:
        """All lines, group by group."""
        return [line for part in self.parts for line in part.lines]


def board_of(results: Sequence[Result], most: int = MOST_MAIN) -> Board:
    """All finished models as a table; failed ones have no line."""
    finished = [result for result in results if not result.error]
    names = main_names(finished)[:most]
    columns = {name: cells_of(finished, name) for name in names}
    parts = []
    for group in ledger.likelihood_groups(finished):
        lines = []
        for entry in group.entries:
            own = entry.estimate if entry.estimate is not None and entry.estimate.quantity != SAMPLES else None
            mark = ("best" if entry.best else "tied" if entry.tied else "") if own is not None else ""
            lines.append(Line(entry.row, own, mark, tuple(columns[name][entry.row.model] for name in names), entry.flags))
        parts.append(Part(group.sentence, tuple(lines), group.remarks))
    return Board(tuple(names), tuple(floor_of(finished, name) for name in names), tuple(parts))


def main_names(results: Sequence[Result]) -> list[str]:
    """The metrics of samples that stand for all others, most telling first; those that no preference names follow in their own order.

    What ranks nothing, such as a p-value, is not among them.
    """
    present = list(dict.fromkeys(metric.name for result in results for metric in result.metrics if _of_samples(metric)))
    chosen = [name for name in MAIN if name in present]
    return chosen + [name for name in present if name not in chosen and better_of(name) not in ("", "none") and name + FLOOR in _all_names(results)]


def cells_of(results: Sequence[Result], name: str) -> dict[str, Cell]:
    """A metric of samples of every model: values that cannot be told from the best of their group are marked."""
    found = {result.model: Cell() for result in results}
    marks: dict[tuple[str, str | None], Literal["best", "tied"]] = {}
    for group in ledger.metric_groups(results, name):
        for entry in group.entries:
            if entry.estimate is not None and (entry.best or entry.tied):
                marks[entry.row.model, entry.estimate.sampler] = "best" if entry.best else "tied"
    for result in results:
        estimate = result.metric(name)
        if estimate is not None:
            floor = result.metric(name + FLOOR)
            blind = floor is not None and floor.tells is False
            mark = None if blind else marks.get((result.model, estimate.sampler))
            found[result.model] = Cell(estimate, floor, standing_of(estimate, floor), mark or "")
    return found


def floor_of(results: Sequence[Result], name: str) -> Estimate | None:
    """What real rows get in the place of samples; of several values, which differ only where models drew other numbers of samples, that of most."""
    floors = [floor for result in results if (floor := result.metric(name + FLOOR)) is not None and math.isfinite(floor.value)]
    return max(floors, key=lambda floor: floor.n) if floors else None


def _of_samples(metric: Estimate) -> bool:
    return metric.quantity == SAMPLES and not metric.name.endswith(FLOOR)


def _all_names(results: Sequence[Result]) -> set[str]:
    return {metric.name for result in results for metric in result.metrics}


def standing_pictures(board: Board) -> list[tuple[str, Markup]]:
    """Likelihoods and the first metric of samples as pictures, where at least two models have them: a block for each group that may be ranked."""
    units = dict.fromkeys(line.likelihood.unit for line in board.lines if line.likelihood is not None and line.likelihood.quantity == LOG_P)
    with style():
        pictures = [picture for unit in units for picture in _likelihood_picture(board, unit)]
        return pictures + (_distance_picture(board) if board.names else [])


def _likelihood_picture(board: Board, unit: str) -> list[tuple[str, Markup]]:
    blocks = []
    for part in board.parts:
        shown = [(line.result.model, line.likelihood) for line in part.lines if not line.flags]
        marks = _marks((model, each) for model, each in shown if each is not None and (each.unit, each.quantity) == (unit, LOG_P))
        if marks:
            blocks.append(Block(part.title.split(":")[0].split(" (in ")[0], marks))
    if sum(len(block.marks) for block in blocks) < 2:
        return []
    floor = ledger.classical_floor(ledger.likelihood_groups([line.result for line in board.lines]))
    place = floor.estimate.value if floor is not None and floor.estimate is not None and floor.estimate.unit == unit else None
    figure = standings(blocks, f"{unit}, lower is better", floor=place, floor_label="classical floor")
    caption = "Likelihood of held-out data, with two standard errors. Disc: exact. Triangle: bound, the truth lies to its left. Diamond: estimate."
    if len(blocks) > 1:
        caption += " Each kind is ordered by itself."
    return [(caption, svg(figure, f"Likelihood in {unit}"))]


def _distance_picture(board: Board) -> list[tuple[str, Markup]]:
    """The first metric of samples, best first within each sampler and each view of the data, with the noise floor of that view."""
    name, better = board.names[0], better_of(board.names[0])
    title, blocks = capital(title_of(name)), []
    for group in ledger.metric_groups([line.result for line in board.lines], name):
        marks = _marks((entry.row.model, entry.estimate) for entry in group.entries if entry.estimate is not None)
        floors = [found for entry in group.entries for found in entry.row.metrics if found.name == name + FLOOR and found.data == group.key.data]
        floor = max((each for each in floors if math.isfinite(each.value)), key=lambda each: each.n, default=None)
        about = [f"on {group.key.data}" if group.key.data else "", f"sampler {group.key.sampler}" if group.key.sampler else ""]
        if marks:
            place, band = (None, None) if floor is None else (floor.value, 2 * (floor.stderr or 0.0))
            blocks.append(Block(", ".join([title, *filter(None, about)]), marks, place, band))
    if sum(len(block.marks) for block in blocks) < 2:
        return []
    figure = standings(blocks, f"{title_of(name)}, {BETTER.get(better, '')}", floor_label="real data", clip=better != "higher")
    caption = f"{title} of samples, with two standard errors. Band: the same for real training rows, the noise floor."
    if len(blocks) > 1:
        caption += " Each sampler and each view of the data is ordered by itself."
    return [(caption, svg(figure, title))]


def _marks(found: Iterable[tuple[str, Estimate]]) -> tuple[Mark, ...]:
    return tuple(
        Mark(model, each.value, each.stderr, each.strength if each.quantity != SAMPLES else "") for model, each in found if math.isfinite(each.value)
    )
