"""The tables of the page on metrics: what each figure is, and which planted degradation it sees."""

from manykin.metrics import Figure
from manykin.metrics.features import choose_extractor
from manykin.metrics.likelihoods import FIGURES
from manykin.metrics.table import TABLE, metric
from manykin.testing.degradations import TABLE as DEGRADATIONS
from manykin.testing.degradations import Cell, Ground, digits_ground, survey, table_ground

WEAK = 2.0
DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "target": "a target", "none": "ranks nothing"}


def reference() -> str:
    """An entry for each figure, in the order of the table."""
    parts = ["### likelihood\n\nOf the model itself, at every level.\n", *map(_entry, FIGURES)]
    for name in TABLE:
        found = metric(name)
        parts.append(f"### {name}\n\nLevel `{found.level}`; needs at least {found.minimum} samples and held-out rows.\n")
        parts += map(_entry, found.figures)
    return "\n".join(parts)


def degradations() -> str:
    """A table a ground: figures by degradations."""
    names = [name for name in TABLE if metric(name).level != "full"]
    digits, table = digits_ground(), table_ground()
    extractor = choose_extractor("own", digits.case(digits.honest.all().x), "digits")
    parts = [_matrix(digits, survey(digits, names, extractor=extractor, strengths=(1.0,)), f"{digits.n} samples of the digits")]
    parts.append(_matrix(table, survey(table, names, strengths=(1.0,)), f"{table.n:,} samples of a table of five columns in four groups"))
    planted = "\n".join(f"- *{each.name}*: {each.what}." for each in DEGRADATIONS.values())
    return f"{planted}\n\n" + "\n\n".join(parts) + "\n"


def _matrix(ground: Ground, cells: list[Cell], title: str) -> str:
    planted = [name for name, each in DEGRADATIONS.items() if each.applies(ground)]
    rows = [f"**{title}**\n", "| | " + " | ".join(planted) + " |", "| --- " * (len(planted) + 1) + "|"]
    for figure in dict.fromkeys(cell.figure for cell in cells):
        own = {cell.degradation: cell for cell in cells if cell.figure is figure}
        rows.append(f"| `{figure.name}` | " + " | ".join(_mark(own.get(name), figure) for name in planted) + " |")
    return "\n".join(rows)


def _mark(cell: Cell | None, figure: Figure) -> str:
    if cell is None:
        return ""
    seen = "●" if cell.clear else "○" if cell.worse >= WEAK else "·"
    return seen + ("\\*" if cell.degradation in figure.sees else "")


def _entry(figure: Figure) -> str:
    formula = f"\n\n$${figure.formula}$$\n" if "\\" in figure.formula or "|" in figure.formula else f"\n\n{figure.formula}\n"
    sees = f"\n: Sees: {', '.join(figure.sees)}." if figure.sees else ""
    ideal = f" (ideal {figure.ideal:g})" if figure.ideal is not None else ""
    return (
        f"`{figure.name}`\n: {figure.meaning}\n: {DIRECTIONS[figure.better].capitalize()}{ideal}. Range: {figure.range}.\n"
        f": {formula.strip()}\n: Pitfalls: {figure.pitfalls}\n: Source: {figure.source}.{sees}\n"
    )
