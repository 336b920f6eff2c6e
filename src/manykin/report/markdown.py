"""The report as Markdown, for a paper or a README: the headline table with its floor, and footnotes that say what each number is."""

import math
import re
from collections.abc import Mapping, Sequence

from manykin.metrics import Estimate
from manykin.metrics.estimate import FLOOR, SAMPLES
from manykin.report import headline, units, words
from manykin.report.compared import Compared, Result, result_of_run
from manykin.report.headline import Board, Cell, Line
from manykin.report.reading import Run, model_name
from manykin.report.standing import AS_GOOD, UNSURE, standing_of


def comparison_markdown(compared: Compared) -> str:
    """A comparison: a paragraph, the verdict, the table, warnings, and a line for each number on what it means. No HTML."""
    board = headline.board_of(compared.results)
    n = len(compared.results)
    parts = [f"# {n} model{'s' if n != 1 else ''} on {escape(compared.data or 'own data')}", escape(words.lead(compared))]
    parts.append("\n".join(f"- {escape(text)}" for text in words.sentences(compared, board)))
    parts.append("\n".join(_table(compared, board)))
    if told := words.warnings_of(compared.results):
        parts.append("Warnings:\n\n" + "\n".join(f"- {escape(f'{models}: {text}')}" for models, texts in told for text in texts))
    parts.append("\n".join(_footnotes(compared.results, board)))
    return "\n\n".join(part for part in parts if part) + "\n"


def run_markdown(run: Run) -> str:
    """A single run: its numbers with floors, and what they mean."""
    result = result_of_run(run)
    data = run.config.get("data")
    name = str(data.get("name", "own data")) if isinstance(data, Mapping) else "own data"
    parts = [f"# {escape(model_name(run))} on {escape(name)}", escape(words.run_lead(result, name, run.space, words.held_out(run)))]
    rows = ["| metric | value | floor | beside real data | kind | n |", "| :-- | --: | --: | :-- | :-- | --: |"]
    for metric in result.metrics:
        if not metric.name.endswith(FLOOR):
            floor = result.metric(metric.name + FLOOR)
            title = f"{units.title_of(metric.name)} {units.arrow_of(metric.name)}".strip()
            kind = metric.strength if metric.quantity != SAMPLES else "samples"
            value = f"{units.value_text(metric)} {metric.unit}".strip()
            rows.append(_row([title, value, units.value_text(floor), standing_of(metric, floor).words, kind, f"{metric.n:,}"]))
    parts.append("\n".join(rows) if result.metrics else "")
    parts.append("\n".join(f"- Warning: {escape(text)}" for text in result.warnings))
    parts.append("\n".join(_meanings([result])))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line: neither markup, nor HTML, nor the end of a table's cell."""
    return re.sub(r"([\\`*_|\[\]#~])", r"\\\1", " ".join(text.split())).replace("<", "&lt;").replace(">", "&gt;")


def _table(compared: Compared, board: Board) -> list[str]:
    heads = ["model", "likelihood ↓", *(f"{units.title_of(name)} {units.arrow_of(name)}" for name in board.names)]
    costs = ["training", "samples/s", "parameters", "memory"]
    lines = [_row([*heads, *costs]), "| " + " | ".join([":--", *["--:"] * (len(heads) + len(costs) - 1)]) + " |"]
    if any(floor is not None for floor in board.floors):
        floors = [units.value_text(floor) for floor in board.floors]
        lines.append(_row(["real data (floor)", "–", *floors, *["–"] * len(costs)]))
    width = len(heads) + len(costs)
    for part in board.parts:
        lines.append("| " + " | ".join([f"*{escape(part.title)}*", *[""] * (width - 1)]) + " |")
        lines += [_line(line) for line in part.lines]
    if compared.failed:
        lines.append("| " + " | ".join(["*Failed*", *[""] * (width - 1)]) + " |")
        lines += [_row([result.model, f"failed: {result.error}", *[""] * (width - 2)]) for result in compared.failed]
    return lines


def _line(line: Line) -> str:
    result = line.result
    costs = [units.seconds_text(result.seconds), units.count_text(result.samples_per_second), units.count_text(result.parameters),
             units.bytes_text(result.peak_memory_bytes)]  # fmt: skip
    name = escape(result.model) + (" (classical)" if line.floor else "")
    cells = [name, _likelihood(line.likelihood, line.mark, bool(line.flags)), *(_metric(cell) for cell in line.cells), *costs]
    return "| " + " | ".join(cells) + " |"


def _likelihood(metric: Estimate | None, mark: str, flagged: bool) -> str:
    if metric is None:
        return "–"
    text = f"{units.value_text(metric)} {metric.unit} ({metric.strength}{', impossible' if flagged else ''})"
    return f"**{escape(text)}**" if mark else escape(text)


def _metric(cell: Cell) -> str:
    if cell.estimate is None:
        return "–"
    text = escape(f"{units.value_text(cell.estimate)} {cell.standing.sign}".strip())
    return f"**{text}**" if cell.mark and math.isfinite(cell.estimate.value) else text


def _footnotes(results: Sequence[Result], board: Board) -> list[str]:
    lines = ["Bold: best of its group, or not told apart from it within two combined standard errors."]
    shown = {cell.standing for line in board.lines for cell in line.cells}
    lines[0] += " ≈: as good as real data." if AS_GOOD in shown else ""
    lines[0] += " ?: cannot tell at this size." if UNSURE in shown else ""
    lines += ["Likelihoods of different kinds stand in groups of their own and are not ranked against each other.", ""]
    return lines + _meanings([Result(result.model, result.family, tuple(m for m in result.metrics if _shown(m, board))) for result in results])


def _shown(metric: Estimate, board: Board) -> bool:
    return metric.quantity != SAMPLES or metric.name.removesuffix(FLOOR) in board.names


def _meanings(results: Sequence[Result]) -> list[str]:
    found = [f"- **{escape(units.capital(entry['title']))}.** {escape(entry['text'])} {escape(entry['how'])}" for entry in words.meanings(results)]
    return found + [f"- **{escape(units.capital(key))}.** {escape(text)}" for key, text in words.terms(results)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"
