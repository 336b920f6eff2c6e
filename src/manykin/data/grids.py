"""Finding the grid of rounded numbers, so that they can be dequantised: a density of values that repeat exactly is unbounded."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_RESOLVED = 1000.0
"""A step must be this many times the float's own resolution, so that being on the grid means something."""


def find_step(values: Floats, eps: float, decimals_only: bool = False) -> tuple[float, float] | None:
    """The ``(step, low)`` of a grid low + k step that holds all values, or None for a continuous column.

    Whole numbers always count as a grid of step 1. Decimals (step 10^-d, d up to 6) and other even spacings (k / 255) count where values
    repeat, or where the range has fewer cells than there are values: rounding to far more cells than data is no obstacle to a density.

    Args:
        values: finite numbers, shape (n,).
        eps: relative resolution of the type that they were stored in.
        decimals_only: leave other spacings than 10^-d out.
    """
    distinct = np.unique(values).astype(np.float64)
    resolution = 4 * eps * max(float(np.abs(distinct).max()), 1e-300)
    for decimals in range(7):
        scale = 10.0**decimals
        if 1 / scale <= _RESOLVED * resolution:
            break
        steps = distinct * scale
        if np.all(np.abs(steps - np.rint(steps)) <= resolution * scale + 1e-9):
            crowded = decimals == 0 or len(distinct) <= 0.9 * len(values) or (distinct[-1] - distinct[0]) * scale < len(values)
            return (1 / scale, 0.0) if crowded else None
    if decimals_only or len(distinct) < 2 or len(distinct) > 0.5 * len(values):
        return None
    return _even_spacing(distinct, resolution)


def on_grid(values: Floats, step: float, low: float) -> bool:
    """Whether all values lie on the grid, by the same tolerance as a column's own check."""
    steps = (values.astype(np.float64) - low) / step
    return bool(np.all(np.abs(steps - np.rint(steps)) <= 1e-3 + 1e-6 * np.abs(steps)))


def _even_spacing(distinct: Floats, resolution: float) -> tuple[float, float] | None:
    """The smallest gap as step, refined by least squares over ever longer stretches, where all values are multiples of it."""
    offsets = distinct - distinct[0]
    step = float(np.diff(distinct).min())
    if step <= _RESOLVED * resolution:
        return None
    reach = 16.0
    while True:
        near = offsets[(offsets <= reach * step) & (offsets > 0)]
        steps = np.rint(near / step)
        if len(near):
            step = float((near * steps).sum() / (steps * steps).sum())
        if reach * step >= offsets[-1]:
            break
        reach *= 16
    return (step, float(distinct[0])) if on_grid(distinct, step, float(distinct[0])) else None
