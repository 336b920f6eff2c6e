"""Learning curves from the training log, whatever a model chose to write in it."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manykin.report.canvas import ACCENTS, REAL, new_figure

PHASED = ("loss", "grad_norm", "lr")
"""What each phase of training logs: ``loss`` of the first phase, ``loss.NAME`` of the others."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def learning_curves(history: Sequence[Mapping[str, Any]], *, panels: int = 9, first: str = "first phase") -> "Figure | None":
    """Every figure of the training log over steps, with seconds along the top; None where the log holds fewer than two values of each.

    Losses of several phases share one panel, and so do their learning rates; validation is drawn over the loss; long series get a running mean.

    Args:
        history: the lines of ``metrics.jsonl``.
        panels: at most so many.
        first: the name of the first gradient phase, which the log does not name.
    """
    series = curves(history)
    groups: dict[str, list[str]] = {}
    for name in series:
        groups.setdefault(_stem(name, series), []).append(name)
    chosen = sorted(groups, key=_importance)[:panels]
    if not chosen:
        return None
    across = min(len(chosen), 3)
    down = math.ceil(len(chosen) / across)
    figure = new_figure(3.5 * across, 2.5 * down)
    clock = [(float(line["step"]), float(line["seconds"])) for line in history if _number(line.get("step")) and _number(line.get("seconds"))]
    for index, stem in enumerate(chosen):
        axes = figure.add_subplot(down, across, index + 1)
        _curves(axes, {name: series[name] for name in groups[stem]}, first)
        axes.set_title(stem, loc="left", fontweight="bold")
        if index < across:
            _seconds(axes, clock)
        if index // across == down - 1 or index + across >= len(chosen):
            axes.set_xlabel("step")
    return figure


def curves(history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """The numeric series of a training log, name -> (steps, values), in order of appearance; only those with two values or more."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for position, line in enumerate(history):
        step = line.get("step")
        at = float(step) if step is not None and _number(step) else float(position)
        phase = f"{line['phase']}/" if isinstance(line.get("phase"), str) else ""
        for name, value in _flatten(line):
            if name not in ("step", "seconds", "epoch", "time") and _number(value):
                steps, values = found.setdefault(f"{phase}{name}", ([], []))
                steps.append(at)
                values.append(float(value))
    return {name: pair for name, pair in found.items() if len(pair[1]) > 1}


def _curves(axes: "Axes", series: Mapping[str, tuple[list[float], list[float]]], first: str) -> None:
    for index, (name, (steps, values)) in enumerate(sorted(series.items(), key=lambda item: _held_out(item[0]))):
        colour = REAL if _held_out(name) else ACCENTS[index % len(ACCENTS)]
        label = _label(name)
        if label == "training" and any(_label(other) not in ("training", "validation") and not _held_out(other) for other in series):
            label = first
        long = len(values) > 120
        axes.plot(steps, values, color=colour, lw=0.8 if long else 1.6, alpha=0.35 if long else 1.0, label=None if long else label)
        if long:
            window = max(len(values) // 40, 3)
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            axes.plot(steps[window - 1 :], smooth, color=colour, lw=1.8, label=label)
    everything = np.concatenate([np.asarray(values)[np.isfinite(values)] for _, values in series.values()])
    if len(everything) > 20:
        low, high = np.quantile(everything, [0.0, 0.97])
        if everything.max() - low > 3 * (high - low) > 0:
            axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    if len(series) > 1:
        axes.legend(fontsize=8)


def _seconds(axes: "Axes", clock: Sequence[tuple[float, float]]) -> None:
    """Seconds along the top, where the log tells at least two different times."""
    rising = sorted(dict(clock).items())
    if len(rising) < 2 or not rising[-1][1] > rising[0][1]:
        return
    steps, seconds = (np.array(column) for column in zip(*rising, strict=True))
    seconds = np.maximum.accumulate(seconds) + np.arange(len(seconds)) * 1e-9
    low, high = axes.get_xlim()
    top = axes.twiny()
    top.set_xlim(low, high)
    whole = _round_times(float(seconds[0]), float(seconds[-1]))
    top.set_xticks([float(np.interp(t, seconds, steps)) for t in whole], [f"{t:g} s" for t in whole], fontsize=7.5)
    top.tick_params(length=2, pad=1)
    top.spines["top"].set_visible(True)
    for side in ("right", "left", "bottom"):
        top.spines[side].set_visible(False)


def _round_times(first: float, last: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(t) for t in MaxNLocator(4).tick_values(first, last) if first <= t <= last]


def _flatten(line: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for name, value in line.items():
        pairs += _flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return pairs


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _held_out(name: str) -> bool:
    return any(part in ("val", "valid", "validation") for part in name.replace("_", "/").replace(".", "/").split("/"))


def _stem(name: str, series: Mapping[str, Any]) -> str:
    """The panel of a series: validation joins its training series, or the loss; phases join each other."""
    if _held_out(name):
        bare = name.replace("val_", "").replace("val/", "")
        return bare if bare in series or "loss" not in series else "loss"
    base = name.split(".")[0]
    return base if base in PHASED else name.removeprefix("note.")


def _label(name: str) -> str:
    if _held_out(name):
        return "validation" if "loss" in name else name.replace("val_", "validation ")
    base, _, phase = name.partition(".")
    return phase.replace("_", " ") if phase and base in PHASED else "training"


def _importance(stem: str) -> int:
    last = stem.split("/")[-1]
    return 0 if "nll" in last else 1 if "loss" in last else 3 if last in ("lr", "norm", "grad_norm", "gradient_norm") else 2
