"""The table of a comparison for a terminal: grouped by what a likelihood is, never ranked across groups."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from manykin.comparison.rows import FILE, Comparison, Row
from manykin.metrics import Estimate, figure
from manykin.metrics.estimate import FLOOR, LOG_P_GIVEN_C, SAMPLES, number
from manykin.metrics.ledger import Group, across, flags, headline, likelihood_groups, verdict

DISTANCE = "energy_distance"
FURTHER = ("frechet_distance", "c2st_accuracy", "coverage", "column_distance", "mmd")
"""Metrics of samples that stand in the table where there is room: the first of these, then the first others, that the models have."""
MARKS = {"as good": "*", "cannot tell": "?"}
LEGEND = {
    "*": "* as good as real: within two standard errors of the noise level, or better",
    "?": "? cannot be told: at this size the metric does not tell crude forgeries from real rows either, or the seeds disagree",
}
MOST_WARNINGS = 6
"""Warnings that stand below the table; the report has all."""
WIDE = (100, 117)
"""Columns of a terminal from which one further metric of samples and the speed of sampling fit, and from which a second one does."""


@dataclass(frozen=True)
class Section:
    """Rows of text that may be ranked against each other, best first. ``title``: what they have in common."""

    title: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Table:
    """Columns and sections of rows; ``right``: the columns of numbers; ``below``: lines that belong under it."""

    columns: tuple[str, ...]
    sections: tuple[Section, ...]
    right: tuple[str, ...]
    below: tuple[str, ...]

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The rows of all sections."""
        return tuple(row for section in self.sections for row in section.rows)

    @property
    def widths(self) -> tuple[int, ...]:
        """The characters of the widest cell of each column."""
        return tuple(max(map(len, cells)) for cells in zip(self.columns, *self.rows, strict=True))


def table_of(comparison: Comparison, width: int = 120) -> Table:
    """The table for a terminal of so many columns: the wider, the more metrics of samples and costs."""
    further = sum(width >= least for least in WIDE)
    measured = [row for row in comparison.rows if row.error is None]
    groups = likelihood_groups(measured)
    likely = any(headline(row.metrics) is not None for row in measured)
    shown = _shown(measured, further)
    units = {found.unit for row in measured if (found := headline(row.metrics)) is not None}
    unit = next(iter(units)) if len(units) == 1 else ""
    head = f"likelihood, {unit}" if unit else "likelihood"
    costs = ("fit", "draws/s", "params") if further else ("fit", "params")
    sections = []
    for group in groups:
        lines = []
        for entry in group.entries:
            claim = () if not likely else _claim(headline(entry.row.metrics), unit, bool(entry.flags))
            lines.append((entry.row.model, *claim, *(_sampled(entry.row, name) for name in shown), *(_cost(entry.row, cost) for cost in costs)))
        sections.append(Section("; ".join([group.sentence, *group.remarks]), tuple(lines)))
    titles = [_title(name) for name in shown]
    columns = ("model", *((head, "strength") if likely else ()), *titles, *costs)
    return Table(columns, tuple(sections), costs, tuple(_below(comparison, measured, shown, groups)))


def as_text(comparison: Comparison) -> str:
    """The table as plain text."""
    table = table_of(comparison)

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, table.widths, strict=True)).rstrip()

    text = [line(table.columns)] if table.sections else []
    for section in table.sections:
        text += ["", section.title, *map(line, section.rows)]
    text += [""] if table.sections and table.below else []
    return "\n".join([*text, *table.below])


def _shown(rows: Sequence[Row], further: int) -> list[str]:
    """The energy distance, and the first metrics of samples that at least half of the models have with a noise floor."""
    names = list(dict.fromkeys(metric.name for row in rows for metric in row.metrics if metric.quantity == SAMPLES))
    known = {name for name in names if 2 * sum(row.metric(name) is not None for row in rows) >= len(rows) and f"{name}{FLOOR}" in names}
    order = [*(name for name in FURTHER if name in known), *(name for name in names if name in known and name not in FURTHER)]
    return [*([DISTANCE] if DISTANCE in names else []), *[name for name in order if name != DISTANCE][:further]]


def _title(name: str) -> str:
    told = figure(name)
    return name.replace("_", " ") if told is None else told.title


def _claim(found: Estimate | None, unit: str, flagged: bool) -> tuple[str, str]:
    if found is None:
        return "none", ""
    value = _short(found.value, found.stderr) + ("" if unit else f" {found.unit}")
    return value + (" !" if flagged else ""), found.strength + (", given c" if found.quantity == LOG_P_GIVEN_C else "")


def _sampled(row: Row, name: str) -> str:
    found = row.metric(name)
    if found is None:
        return "none"
    return _short(found.value, found.stderr) + MARKS.get(row.standing(found), "")


def _cost(row: Row, name: str) -> str:
    if name == "fit":
        return f"{row.seconds or 0.0:.1f} s"
    if name == "params":
        return f"{row.parameters or 0:,}"
    return _rate((row.sampling_n or 0) / row.sampling_seconds) if row.sampling_seconds else ""


def _rate(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.2g}"


def _short(value: float, stderr: float | None) -> str:
    """A value rounded to one digit of its standard error, which is rounded up: a table compares, the report has all digits."""
    if stderr is None or not 0 < stderr < math.inf or not math.isfinite(value):
        return number(value, stderr)
    digits = min(max(-math.floor(math.log10(stderr)), 0), 6)
    return f"{value:.{digits}f} ± {math.ceil(stderr * 10**digits - 1e-9) / 10**digits:.{digits}f}"


def _below(comparison: Comparison, measured: Sequence[Row], shown: Sequence[str], groups: Sequence[Group[Row]]) -> list[str]:
    """What a reader must know of the table: floors, marks, the verdict, what groups prove of each other, what failed, and warnings, each once."""
    lines = []
    for name in shown:
        floor = next((metric for row in measured if (metric := row.metric(name + FLOOR)) is not None), None)
        if floor is not None:
            lines.append(f"noise level of {_title(name)} (training against test rows): {number(floor.value, floor.stderr)}")
    if any(len(row.seeds) > 1 for row in measured):
        lines.append(f"means over {max(len(row.seeds) for row in measured)} seeds; ± holds the error of the test and the spread between seeds")
        lines += [line for row in measured if (line := _spread(row)) != ""]
    marks = {MARKS.get(row.standing(found)) for row in measured for name in shown if (found := row.metric(name)) is not None}
    lines += [legend for mark, legend in LEGEND.items() if mark in marks]
    if told := verdict(groups):
        lines.append(told)
    strengths = {(found.quantity, found.strength) for row in measured if (found := headline(row.metrics)) is not None}
    if len(strengths) > 1:
        lines.append("likelihoods of different strength are not ranked against each other: a bound may hide a better value")
    if proven := across(groups):
        lines.append(f"the best of each group: {' '.join(proven)}")
    lines += [f"! {row.model}: {reason}" for row in measured for reason in flags(row.metrics)]
    lines += [f"failed: {row.model}: {row.error.removeprefix(f'{row.model}: ')}" for row in comparison.rows if row.error is not None]
    if comparison.folder is not None and len(measured) < len(comparison.rows):
        lines.append(f"what each run said is in {comparison.folder / 'logs'}")
    warnings = deduplicated([(row.model, warning) for row in comparison.rows for warning in row.warnings])
    rest = len(warnings) - MOST_WARNINGS
    more = [f"{rest} more warnings stand in the report and in {FILE}"] if rest > 1 else warnings[MOST_WARNINGS:]
    return [*lines, *warnings[:MOST_WARNINGS], *more]


def _spread(row: Row) -> str:
    """How far the seeds of a model lie apart in its headline numbers."""
    found = [each for each in (headline(row.metrics), row.metric(DISTANCE)) if each is not None]
    ends = [[run_value.value for run in row.runs for run_value in run.metrics if run_value.name == each.name] for each in found]
    told = [f"{_title(each.name)} {min(values):.4g} to {max(values):.4g}" for each, values in zip(found, ends, strict=True) if len(values) > 1]
    return f"spread of {row.model}: {', '.join(told)}" if told else ""


def deduplicated(warnings: Sequence[tuple[str, str]]) -> list[str]:
    """Each warning once, with the models that it concerns; those that differ in their numbers alone count as one, told as for the first model."""
    found: dict[str, list[tuple[str, str]]] = {}
    for model, text in warnings:
        found.setdefault(re.sub(r"-?\d[\d.,]*", "#", text), []).append((model, text))
    lines = []
    for told in found.values():
        same = list(dict.fromkeys(model for model, text in told if text == told[0][1]))
        others = [model for model in dict.fromkeys(model for model, _ in told) if model not in same]
        alike = f"; with other numbers {', '.join(others)}" if others else ""
        lines.append(f"warning ({', '.join(same)}{alike}): {told[0][1]}")
    return lines


def counted(row: Row) -> str:
    """One line that says how a model did, while the others are still at it."""
    if row.error is not None:
        return f"{row.model}: failed: {row.error}"
    likelihood = headline(row.metrics)
    found = [dataclasses.replace(each, note="") for each in (likelihood, row.metric(DISTANCE)) if each is not None]
    told = ", ".join(f"{each.name} {each}" for each in found) or "no metric could be computed"
    return f"{row.model}: {told}; {row.seconds or 0.0:.1f} s, {row.steps or 0:,} steps"
