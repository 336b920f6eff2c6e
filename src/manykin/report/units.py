"""Numbers as people read them: values with their errors, times, counts, sizes; and names of metrics in words."""

import math
from collections.abc import Sequence
from typing import Any

from manykin.metrics import Estimate, figure
from manykin.metrics.estimate import FLOOR, number

ARROWS = {"lower": "↓", "higher": "↑", "target": "◎"}
BETTER = {"lower": "lower is better", "higher": "higher is better", "target": "best near its ideal", "none": "ranks nothing"}
OVER_INCEPTION = {"fid": "FID", "fid_inf": "FID, extrapolated", "kid": "KID"}
"""What distances are called over Inception's features: their figures are those of the distances over any features."""
LOW = ("nll", "bits_per_dim", "bits_per_byte", "kl_gap", "perplexity")
"""Figures of likelihood, which are better low whoever explains them."""


def value_text(metric: Estimate | None) -> str:
    """``2.310 ± 0.010``; words where the value is not finite, a dash where there is none."""
    if metric is None:
        return "–"
    return number_text(metric.value, metric.stderr) if math.isfinite(metric.value) else "not finite"


def number_text(value: float, stderr: float | None = None) -> str:
    """:func:`manykin.metrics.estimate.number`, but a tiny number without an error keeps its magnitude: ``6e-23``."""
    return f"{value:.0e}" if not stderr and 0 < abs(value) < 1e-4 else number(value, stderr)


def sort_key(value: Any) -> str:
    """What the page sorts a cell by: empty sorts last."""
    plain = value.value if isinstance(value, Estimate) else value
    return repr(float(plain)) if isinstance(plain, (int, float)) and math.isfinite(plain) else ""


def title_of(name: str) -> str:
    """A metric's name in words: the title of its figure, FID and KID under their own, else the name without underscores."""
    base = name.removesuffix(FLOOR)
    told = figure(base)
    words = OVER_INCEPTION.get(base) or (base.replace("_", " ") if told is None else told.title)
    if base.startswith("marginal_") and "marginal" not in words:
        words = f"marginal {words}"
    return f"{words}, noise floor" if name.endswith(FLOOR) else words


def better_of(name: str) -> str:
    """``lower``, ``higher``, ``target``, or ``none`` for what ranks nothing; empty where nobody says."""
    base = name.removesuffix(FLOOR)
    told = figure(base)
    return told.better if told is not None else "lower" if base.removeprefix("marginal_") in LOW else ""


def arrow_of(name: str) -> str:
    """Which way is better: ↓, ↑, or ◎ for a target; empty where nobody says."""
    return ARROWS.get(better_of(name), "")


def seconds_text(value: float | None) -> str:
    """``0.31 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 10 min``."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def count_text(value: float | None) -> str:
    """``812``, ``12,345``, ``1.2 M``, ``3.4 G``."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def bytes_text(value: float | None) -> str:
    """``812 KB``, ``123 MB``, ``1.2 GB``: powers of 1000."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.0f} B"
    power = min(int(math.log(value, 1000)), 4)
    return f"{value / 1000**power:.3g} {['B', 'KB', 'MB', 'GB', 'TB'][power]}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """``a``, ``a and b``, ``a, b and c``; the rest of a long list as a number."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def capital(text: str) -> str:
    """The first letter as a capital."""
    return text[:1].upper() + text[1:]
