"""Quality against time: how far samples are from real data, and how likely held-out rows become, after so many seconds of training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from manykin.metrics import Estimate
from manykin.metrics.estimate import FLOOR
from manykin.report.canvas import ACCENTS, INK, new_figure, style, svg
from manykin.report.compared import Compared, Moment, Result
from manykin.report.headline import floor_of
from manykin.report.panels import Panel
from manykin.report.reading import Run, plain_float

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DISTANCE = "energy_distance"
VALIDATION = ("val_nll", "val_loss")
"""What a log calls its validation metric; only a likelihood is drawn."""
LINES = ("-", "--", ":", "-.")
EARLIEST = 1e-3
"""Seconds that count as no time: on a logarithmic axis they are drawn a little before everything else."""


def time_panels(compared: Compared) -> list[Panel]:
    """Energy distance and validation likelihood against seconds of training; empty where nothing was recorded."""
    with style():
        return [panel for panel in (_distance_panel(compared.finished), _likelihood_panel(compared.runs)) if panel is not None]


def _distance_panel(results: Sequence[Result]) -> Panel | None:
    curves: dict[str, list[Moment]] = {}
    for result in results:
        final = result.metric(DISTANCE)
        if len(result.curve) > 1:
            curves[result.model] = list(result.curve)
        elif final is not None and math.isfinite(final.value) and result.seconds is not None:
            curves[result.model] = [Moment(result.seconds, final.value, final.stderr)]
    if not curves:
        return None
    figure = new_figure(9.6, 4.4)
    axes = figure.add_subplot()
    floor = floor_of(results, DISTANCE)
    values = [point.value for points in curves.values() for point in points]
    _floor(axes, floor)
    _scale(axes, values, floor)
    start = _start(point.seconds for points in curves.values() for point in points)
    for index, (name, points) in enumerate(curves.items()):
        colour, line = _look(index)
        seconds = [max(point.seconds, start) for point in points]
        heights = [point.value for point in points]
        if len(points) == 1:
            axes.errorbar(seconds, heights, yerr=[points[0].stderr or 0.0], fmt="o", color=colour, ms=6, capsize=2.5, lw=1.2, label=name)
            continue
        axes.plot(seconds, heights, line, color=colour, lw=1.8, marker="o", ms=3, label=name)
        errors = [point.stderr or 0.0 for point in points]
        axes.fill_between(seconds, [a - b for a, b in zip(heights, errors)], [a + b for a, b in zip(heights, errors)], color=colour, alpha=0.15, lw=0)
    _finish(axes, "energy distance to held-out data, lower is better", len(curves))
    caption = (
        "Samples against seconds of training. Lines: models that learn step by step, with one standard error; points: models that are fitted at "
        "once. The leftmost point of a line is the model before training. Grey band: real training rows in the place of samples, with two standard "
        "errors; no model has to be below it."
    )
    return Panel(caption, svg(figure, "Energy distance against seconds of training"), wide=True)


def _likelihood_panel(runs: Mapping[str, Run]) -> Panel | None:
    found = {name: points for name, run in runs.items() if len(points := validation(run)) > 1}
    if not found:
        return None
    figure = new_figure(9.6, 4.2)
    axes = figure.add_subplot()
    start = _start(seconds for points in found.values() for seconds, _ in points)
    for index, (name, points) in enumerate(found.items()):
        colour, line = _look(list(runs).index(name) if len(runs) <= len(ACCENTS) else index)
        strength = _strength(runs[name])
        seconds, values = zip(*points, strict=True)
        axes.plot(
            [max(each, start) for each in seconds],
            values,
            line,
            color=colour,
            lw=1.8,
            marker="o",
            ms=3,
            label=f"{name}{f' ({strength})' if strength else ''}",
        )
    ends = sorted(value for points in found.values() for _, value in points[len(points) // 3 :])
    low, high = ends[0], ends[-1]
    span = high - low or abs(high) or 1.0
    axes.set_ylim(low - 0.05 * span, high + 0.15 * span)
    _finish(axes, "validation nll in nats, lower is better", len(found))
    caption = (
        "Minus the log-likelihood of validation rows against seconds of training, for models that learn step by step. A bound may be above the "
        "model's true value, so curves of different kinds are not comparable in height."
    )
    return Panel(caption, svg(figure, "Validation likelihood against seconds of training"), wide=True)


def validation(run: Run) -> list[tuple[float, float]]:
    """``(seconds, nll)`` of the validation rows, from the log, in order of time."""
    points = []
    for line in run.history:
        seconds, value = plain_float(line.get("seconds")), plain_float(line.get(VALIDATION[0]))
        if seconds is not None and value is not None:
            points.append((seconds, value))
    return sorted(points)


def _strength(run: Run) -> str:
    found = run.evaluation.metrics if run.evaluation is not None else ()
    return next((metric.strength for metric in found if metric.name in ("nll", "bits_per_dim")), "")


def _start(seconds: Iterable[float]) -> float:
    """Where the logarithmic axis begins: half of the first time that counts."""
    return 0.5 * min((each for each in seconds if each > EARLIEST), default=2 * EARLIEST)


def _look(index: int) -> tuple[str, str]:
    return ACCENTS[index % len(ACCENTS)], LINES[index // len(ACCENTS) % len(LINES)]


def _floor(axes: "Axes", floor: Estimate | None) -> None:
    if floor is not None and math.isfinite(floor.value):
        band = 2 * (floor.stderr or 0.0)
        axes.axhspan(floor.value - band, floor.value + band, color=INK, alpha=0.18, lw=0, zorder=0, label=f"real data ({FLOOR.strip('_')})")
        axes.axhline(floor.value, color=INK, lw=1, ls="--", zorder=0)


def _scale(axes: "Axes", values: Sequence[float], floor: Estimate | None) -> None:
    """Logarithmic where values span orders of magnitude, and linear around zero, where unbiased distances may be negative."""
    from matplotlib.ticker import FuncFormatter

    largest = max(values)
    noise = 0.0 if floor is None or floor.stderr is None else 2 * floor.stderr
    small = max(noise, 1e-3 * abs(largest), 1e-9)
    if largest > 10 * small:
        axes.set_yscale("symlog", linthresh=small)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if abs(value) >= 0.99 * small or value == 0 else ""))
        lowest = min([*values, 0.0 if floor is None else floor.value - noise])
        axes.set_ylim(min(lowest * 1.2, -0.5 * small), largest * 1.6)


def _finish(axes: "Axes", label: str, count: int) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    dense = (1, 2, 5) if high / low < 3000 else (1,)
    axes.xaxis.set_major_locator(FixedLocator([step * 10.0**power for power in powers for step in dense if low <= step * 10.0**power <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds of training, logarithmic")
    axes.set_ylabel(label)
    axes.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0), ncols=1 if count <= 18 else 2)
