"""Pictures of tables and longer vectors: marginal histograms, pairs of columns, and how likelihoods and distances compare."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manykin.metrics.estimate import number
from manykin.report.canvas import INK, MODEL, REAL, new_figure
from manykin.spaces import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
MAX_MARGINALS = 12
MAX_CATEGORIES = 12
MAX_PAIRS = 4


def marginals(columns: Sequence[Column], real: Tensor, fake: Tensor | None) -> "Figure":
    """Histograms of real (filled) and sampled (outlined) values, a panel a column.

    Args:
        columns: what the columns are.
        real: (n, columns).
        fake: (m, columns), or None.
    """
    across = min(len(columns), 4)
    down = math.ceil(len(columns) / across)
    figure = new_figure(2.6 * across, 2.05 * down)
    for index, column in enumerate(columns):
        axes = figure.add_subplot(down, across, index + 1)
        parts = [_known(part[:, index]) for part in (real, fake) if part is not None]
        (_bars if column.kind == "categorical" else _histogram)(axes, column, parts)
        axes.set_title(_short(column.name, 24) + _missing(real[:, index], None if fake is None else fake[:, index]), loc="left", fontsize=9)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    return figure


def pairs(columns: Sequence[Column], real: Tensor, fake: Tensor | None, *, points: int = 500) -> "Figure":
    """Scatter plots of every pair of up to four columns: real points below the diagonal's names, sampled ones over them."""
    size = len(columns)
    figure = new_figure(2.3 * (size - 1), 2.1 * (size - 1))
    for row in range(1, size):
        for column in range(row):
            axes = figure.add_subplot(size - 1, size - 1, (row - 1) * (size - 1) + column + 1)
            for part, colour in ((real, REAL), (fake, MODEL)):
                if part is not None:
                    axes.scatter(part[:points, column], part[:points, row], s=5, c=colour, alpha=0.5, linewidths=0, rasterized=True)
            if column == 0:
                axes.set_ylabel(_short(columns[row].name, 20))
            if row == size - 1:
                axes.set_xlabel(_short(columns[column].name, 20))
            axes.tick_params(labelsize=7)
    return figure


def worth_drawing(columns: Sequence[Column], real: Tensor) -> list[int]:
    """Up to twelve columns that vary, in their own order."""
    varied = [index for index in range(len(columns)) if len(torch.unique(_known_tensor(real[:, index]))) > 1]
    return (varied or list(range(len(columns))))[:MAX_MARGINALS]


def numeric(columns: Sequence[Column], chosen: Sequence[int]) -> list[int]:
    """Up to four of the chosen columns that are numbers."""
    return [index for index in chosen if columns[index].kind != "categorical"][:MAX_PAIRS]


@dataclass(frozen=True)
class Mark:
    """One model in :func:`standings`: its place, standard error and strength on one scale."""

    label: str
    value: float
    stderr: float | None
    strength: str


@dataclass(frozen=True)
class Block:
    """Models that may be ranked against each other, best first. ``floor``: what real data get; ``band``: half the width of its noise."""

    title: str
    marks: tuple[Mark, ...]
    floor: float | None = None
    band: float | None = None


def standings(blocks: Sequence[Block], title: str, *, floor: float | None = None, floor_label: str = "", clip: bool = True) -> "Figure":
    """Models on one scale, block by block: values with two standard errors, marked by strength. Blocks are not ranked against each other.

    A disc is exact (or plain), a triangle a bound (the truth lies on its side, further left), a diamond an estimate.

    Args:
        blocks: what to draw, one below the other; of several, each has its title above it.
        title: name and unit of the scale.
        floor: a dashed line through all blocks.
        floor_label: what the line is, or the lines of the blocks.
        clip: draw what lies far to the right at the edge, with an arrow.
    """
    gap = 1.3 if len(blocks) > 1 else 0.0
    rows = sum(len(block.marks) for block in blocks) + gap * len(blocks)
    figure = new_figure(4.8, 0.8 + 0.36 * rows)
    axes = figure.add_subplot()
    marks = [mark for block in blocks for mark in block.marks]
    floors = [value for value in (floor, *(block.floor for block in blocks)) if value is not None]
    low, high = _limits([mark.value for mark in marks] + floors, clip)
    reach = [(mark.value - 2 * (mark.stderr or 0.0), mark.value + 2 * (mark.stderr or 0.0)) for mark in marks if mark.value <= high]
    low, high = min([low, *(left for left, _ in reach)]), max([high, *(right for _, right in reach)])
    top = -0.7
    if floor is not None:
        axes.axvline(floor, color=INK, ls="--", lw=1, zorder=0)
    places: list[float] = []
    for block in blocks:
        start = (places[-1] + 1 if places else 0.0) + gap
        if gap:
            words = block.title.replace("$", r"\$")
            axes.annotate(words, (0, start - 0.95), xycoords=("axes fraction", "data"), fontsize=8, fontweight="bold", ha="left", va="center")
        places += [start + index for index in range(len(block.marks))]
        if block.floor is not None:
            span = (start - 0.6 if gap else top, places[-1] + 0.4)
            axes.plot([block.floor] * 2, span, color=INK, ls="--", lw=1, zorder=0)
            axes.fill_betweenx(span, block.floor - (block.band or 0.0), block.floor + (block.band or 0.0), color=INK, alpha=0.18, lw=0, zorder=0)
    if floors and floor_label:
        axes.annotate(
            floor_label, (floors[0], 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8, xytext=(0, 2),
            textcoords="offset points",
        )  # fmt: skip
    for place, mark in zip(places, marks, strict=True):
        _place(axes, place, mark, high)
    axes.set_xlim(low, high + 0.03 * (high - low))
    axes.set_ylim(places[-1] + 0.6, top)
    axes.set_yticks(places, [_short(mark.label, 28) for mark in marks])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(title)
    return figure


def _place(axes: "Axes", place: float, mark: Mark, high: float) -> None:
    """One model: its mark, two standard errors, and its value above it."""
    at = min(mark.value, high)
    shape = {"bound": "<", "estimate": "D"}.get(mark.strength, "o")
    colour = {"bound": "#8b5cf6", "estimate": "#14b8a6"}.get(mark.strength, REAL)
    error = 2 * (mark.stderr or 0.0) if mark.value <= high else 0.0
    axes.errorbar(at, place, xerr=error, fmt=shape, color=colour, ms=6, capsize=2.5, lw=1.2)
    text = number(mark.value, mark.stderr).split(" ±")[0] + (" →" if mark.value > high else "")
    axes.annotate(text, (at, place), xytext=(0, 6), textcoords="offset points", fontsize=7.5, ha="center")


def _histogram(axes: "Axes", column: Column, parts: Sequence[Array]) -> None:
    real = parts[0] if len(parts[0]) else np.zeros(1)
    low, high = np.quantile(real, [0.002, 0.998])
    if column.grid is not None and (high - low) / column.grid <= 40:
        edges = np.arange(low - column.grid / 2, high + column.grid, column.grid)
    else:
        pad = 0.06 * (high - low) or 0.5
        edges = np.linspace(low - pad, high + pad, 31)
    for values, colour in zip(parts, (REAL, MODEL)):
        if not len(values):
            continue
        inside = values.clip(edges[0], edges[-1])
        heights = np.histogram(inside, edges)[0] / len(values)
        if colour == REAL:
            axes.stairs(heights, edges, fill=True, color=colour, alpha=0.45, lw=0)
        else:
            axes.stairs(heights, edges, color=colour, lw=1.5)
    axes.tick_params(labelsize=7.5)
    axes.locator_params(axis="x", nbins=4)


def _bars(axes: "Axes", column: Column, parts: Sequence[Array]) -> None:
    size = len(column.categories)
    shares = [np.bincount(values.astype(int).clip(0, size - 1), minlength=size) / max(len(values), 1) for values in parts]
    top = np.argsort(-shares[0], kind="stable")[:MAX_CATEGORIES]
    place = np.arange(len(top))
    axes.bar(place, shares[0][top], width=0.85, color=REAL, alpha=0.45, lw=0)
    if len(shares) > 1:
        axes.bar(place, shares[1][top], width=0.85, fill=False, edgecolor=MODEL, lw=1.5)
    names = [_short(str(column.categories[index]), 12) for index in top]
    turn = 0 if sum(map(len, names)) <= 20 else 50
    axes.set_xticks(place, names, rotation=turn, ha="right" if turn else "center", fontsize=7)
    axes.tick_params(axis="x", length=0)


def _limits(values: Sequence[float], clip: bool) -> tuple[float, float]:
    """A scale that, to clip, shows the better half in detail: what lies far behind is drawn at the edge with an arrow."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    middle = ordered[len(ordered) // 2]
    reach = max(3 * (middle - low), 0.02 * abs(low), 1e-9)
    high = min(high, low + 4 * reach) if clip and len(set(ordered)) > 4 and high - low > 8 * reach else high
    pad = 0.08 * (high - low) or 0.1 * abs(low) or 0.1
    return low - pad, high + pad


def _known(values: Tensor) -> Array:
    return _known_tensor(values).numpy()


def _known_tensor(values: Tensor) -> Tensor:
    return values[~values.isnan()].double()


def _missing(real: Tensor, fake: Tensor | None) -> str:
    share = float(real.isnan().double().mean())
    other = 0.0 if fake is None else float(fake.isnan().double().mean())
    if not share and not other:
        return ""
    return f"\nmissing {share:.0%}" + ("" if fake is None else f", sampled {other:.0%}")


def _short(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
