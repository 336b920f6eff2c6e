"""Numeric arrays and pictures to their spaces, by content, in one streaming pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manykin.data.forms import Form
from manykin.data.grids import find_step, on_grid
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput
from manykin.spaces import Image, Space, Vector

_BLOCK_BYTES = 1 << 24
LARGEST = 1e100
"""The largest magnitude of a real number that is taken: sums of squares stay far inside of float64."""

_PROBE_VALUES, _PROBE_ROWS = 20_000_000, 100_000


@dataclass(frozen=True)
class Extremes:
    """What one pass over an array found: its smallest and largest entry, overall and whether all are equal."""

    low: float
    high: float

    @property
    def constant(self) -> bool:
        """Whether every entry is the same."""
        return self.low == self.high


def describe_arrays(parts: Sequence[Any], train: Any, options: DataOptions, tensor: str | None = None, name: str = "x") -> tuple[Space, Form]:
    """The space and form of numeric arrays that share a layout.

    Whether columns lie on a grid is read from all parts, as their dtype is; the number of levels from the training rows.

    Args:
        parts: arrays (n, ...), the training rows in the first.
        train: positions of the training rows in the first part, or a slice.
        options: the user's overrides.
        tensor: the dtype of the torch tensor that they came as (then channels are first); None for arrays.
        name: what messages call the data.

    Raises:
        InvalidInput: for NaN, infinity or a magnitude above 1e100 (naming rows and columns), all-constant data, and shapes that no space has.
    """
    first = parts[0]
    extremes = scan(parts, name)
    if extremes.constant:
        raise InvalidInput(f"{name} is constant: all {sum(part.size for part in parts)} entries are {extremes.low:g}; expected data that varies.")
    if options.kind in ("table", "text"):
        raise InvalidInput(f"data.kind = {options.kind!r} does not fit an array; expected vector or image (a table is a DataFrame, CSV or Parquet).")
    if first.ndim in (3, 4) and options.kind != "vector":
        return _pictures(parts, train, extremes, options, tensor)
    if (first.ndim not in (1, 2) and options.kind != "vector") or options.kind == "image":
        raise InvalidInput(f"x has shape {first.shape}; expected (n, d) numbers, or (n, h, w) or (n, h, w, channels) pictures.")
    return _vectors(parts, train, extremes, options, tensor)


def blocks_of(array: Any) -> Iterator[tuple[int, Any]]:
    """Blocks of rows of about 16 MB and the position of each: for memory-mapped arrays of any length."""
    rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def scan(parts: Sequence[Any], name: str = "x") -> Extremes:
    """One pass that finds the range and refuses NaN, infinity, and magnitudes above 1e100.

    Raises:
        InvalidInput: naming rows and columns of what is not finite or too large.
    """
    low, high = np.inf, -np.inf
    for array in parts:
        for start, block in blocks_of(array):
            small, large = float(block.min()), float(block.max())
            if not (np.isfinite(small) and np.isfinite(large)):
                raise InvalidInput(_not_finite(block, start, name))
            if max(-small, large) > LARGEST:
                raise InvalidInput(_too_large(block, start, name))
            low, high = min(low, small), max(high, large)
    return Extremes(low, high)


def _too_large(block: Any, start: int, name: str) -> str:
    row, *rest = (int(place[0]) for place in np.nonzero(np.abs(block) > LARGEST))
    where = f"row {start + row}" + (f", column {rest[0]}" if len(rest) == 1 else "")
    value = float(block[(row, *rest)])
    return f"{name} holds {value:g} in {where}; expected magnitudes of at most {LARGEST:g}, whose squares can be added: rescale the data (divide it)."


def _not_finite(block: Any, start: int, name: str) -> str:
    bad = ~np.isfinite(block)
    rows = np.flatnonzero(bad.reshape(len(block), -1).any(axis=1))
    values = sorted({str(float(value)) for value in block[bad][:1000]})
    columns: Any = np.flatnonzero(bad.any(axis=0)) if block.ndim == 2 else []
    where = f"row{'s' if len(rows) > 1 else ''} {', '.join(str(start + int(row)) for row in rows[:5])}{' and more' if len(rows) > 5 else ''}"
    if len(columns):
        where += f", column{'s' if len(columns) > 1 else ''} {', '.join(map(str, columns[:5]))}{' and more' if len(columns) > 5 else ''}"
    return f"{name} holds {' and '.join(values)} in {where}; expected finite numbers: drop or fill these rows (a DataFrame may hold missing values)."


def _vectors(parts: Sequence[Any], train: Any, extremes: Extremes, options: DataOptions, tensor: str | None) -> tuple[Space, Form]:
    first = parts[0]
    size = int(np.prod(first.shape[1:])) if first.ndim > 1 else 1
    details = {"squeeze": True} if first.ndim == 1 else {"shape": list(first.shape[1:])} if first.ndim > 2 else None
    form = Form("tensor" if tensor else "array", tensor or first.dtype.name, details)
    whole = first.dtype.kind in "iub"
    if options.levels is not None:
        if extremes.low < 0 or extremes.high > options.levels - 1:
            raise InvalidInput(
                f"x ranges from {extremes.low:g} to {extremes.high:g}; data.levels = {options.levels} expects 0 to {options.levels - 1}."
            )
        return Vector(size, levels=options.levels), form
    if whole:
        levels = 256 if first.ndim > 2 and first.dtype == np.uint8 else int(first[train].max()) + 1
        if extremes.low >= 0 and levels <= options.max_levels:
            return Vector(size, levels=max(levels, 2)), form
        return Vector(size, step=(1.0,) * size), form
    grids = [None] * size if not options.step else _grids(parts, size, _eps(first, tensor))
    if not any(grids):
        return Vector(size), form
    steps, lows = zip(*[grid or (0.0, 0.0) for grid in grids], strict=True)
    return Vector(size, step=steps, low=lows if any(lows) else None), form


def _grids(parts: Sequence[Any], size: int, eps: float) -> list[tuple[float, float] | None]:
    """A grid for each column: proposed from rows spread over the first part, and kept where every row of every part lies on it."""
    first = parts[0]
    probe = first[:: max(1, len(first) // _PROBE_ROWS, len(first) * size // _PROBE_VALUES)].reshape(-1, size)
    grids = [find_step(probe[:, index], eps) for index in range(size)]
    for array in parts:
        for _, block in blocks_of(array):
            rows = block.reshape(-1, size)
            grids = [grid if grid is None or on_grid(rows[:, index], *grid) else None for index, grid in enumerate(grids)]
            if not any(grids):
                return grids
    return grids


def _pictures(parts: Sequence[Any], train: Any, extremes: Extremes, options: DataOptions, tensor: str | None) -> tuple[Space, Form]:
    first = parts[0]
    channels, size = _layout(first.shape, options, tensor)
    details: dict[str, Any] = {"channels": channels}
    levels = options.levels
    if first.dtype.kind in "iub":
        limit = levels or (2 if first.dtype.kind == "b" else 256 if extremes.high <= 255 else 65_536)
        if extremes.low < 0 or extremes.high > limit - 1:
            raise InvalidInput(f"pictures range from {extremes.low:g} to {extremes.high:g}; expected levels from 0 to {limit - 1} (data.levels).")
        return Image(size, limit), Form("tensor" if tensor else "images", tensor or first.dtype.name, details)
    grid = _picture_grid(parts, extremes, _eps(first, tensor)) if options.step else None
    if grid is not None:
        step, count = grid
        details |= {"low": extremes.low, "step": step}
        return Image(size, max(levels or count, 2)), Form("tensor" if tensor else "images", tensor or first.dtype.name, details)
    return Image(size, None), Form("tensor" if tensor else "images", tensor or first.dtype.name, details)


def _picture_grid(parts: Sequence[Any], extremes: Extremes, eps: float) -> tuple[float, int] | None:
    """Step and number of levels of pictures stored as floats, such as k / 255."""
    first = parts[0]
    found = find_step(first[:: max(1, first.size // 2_000_000)].reshape(-1), eps)
    if found is None:
        return None
    step = found[0]
    fits = all(on_grid(block.reshape(-1), step, extremes.low) for array in parts for _, block in blocks_of(array))
    count = round((extremes.high - extremes.low) / step) + 1
    return (step, count) if fits and count <= 65_536 else None


def _eps(first: Any, tensor: str | None) -> float:
    return 2.0**-7 if tensor == "bfloat16" else float(np.finfo(first.dtype).eps)


def _layout(shape: tuple[int, ...], options: DataOptions, tensor: str | None) -> tuple[str, tuple[int, int, int]]:
    """Where the channels are, and (channels, height, width)."""
    if len(shape) == 3:
        return "none", (1, shape[1], shape[2])
    last_possible, first_possible = shape[3] <= 4, shape[1] <= 4
    choice = options.channels or ("first" if first_possible and (tensor is not None or not last_possible) else "last")
    channels = shape[1] if choice == "first" else shape[3]
    if channels > 4 and options.channels is None:
        raise InvalidInput(f"pictures have shape {shape}; expected 1 to 4 channels in the last axis, or name the axis with --data.channels.")
    return choice, (channels, shape[1], shape[2]) if choice == "last" else (shape[1], shape[2], shape[3])
