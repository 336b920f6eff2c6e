"""What one column of a table is: number, date or category, read off its dtype and content."""

from collections.abc import Hashable
from typing import Any, cast

import numpy as np
import pandas as pd

from manykin.data.arrays import LARGEST
from manykin.data.grids import find_step
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput
from manykin.spaces import Column

Series = Any
"""A pandas Series; the stubs know too little of extension types to be of use."""

SECONDS = ("datetime64", "timedelta64")
"""Dtypes that become seconds (since 1970 in UTC, or of duration)."""


def describe_column(series: Series, train: Series, name: str, options: DataOptions) -> tuple[Column, dict[str, Any]]:
    """A column of a :class:`~manykin.spaces.Table`, and the details of its dtype that JSON needs besides.

    Raises:
        InvalidInput: for a column without values, with infinite ones, with texts among numbers, or of a type that no space holds.
    """
    missing = bool(series.isna().any())
    if series.isna().all():
        raise InvalidInput(f"column {name!r} has no values; leave it out with --data.drop {name}.")
    dtype = series.dtype
    kinds = pd.api.types
    if isinstance(dtype, pd.CategoricalDtype):
        return _category(series, name, missing, options)
    if kinds.is_bool_dtype(dtype):
        return Column(name, "categorical", (False, True), missing=missing, dtype=str(dtype)), {}
    if str(dtype).startswith(SECONDS):
        return _time(series, name, missing), {}
    if kinds.is_object_dtype(dtype):
        _check_objects(series, name)
    if kinds.is_object_dtype(dtype) or kinds.is_string_dtype(dtype):
        return _text(series, train, name, missing, options)
    if name in options.categorical:
        return Column(name, "categorical", _distinct(train, name, options), missing=missing, dtype=str(dtype)), {}
    if kinds.is_integer_dtype(dtype) or kinds.is_float_dtype(dtype):
        return _number(series, train, name, missing, options), {}
    raise InvalidInput(f"column {name!r} has dtype {dtype}; expected numbers, texts, booleans, categories or dates: convert or drop it.")


def _number(series: Series, train: Series, name: str, missing: bool, options: DataOptions) -> Column:
    dtype = str(series.dtype)
    values = series.dropna().to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        rows = np.flatnonzero(np.isinf(series.to_numpy(dtype=np.float64, na_value=np.nan)))
        raise InvalidInput(f"column {name!r} holds infinity in {in_rows(rows)}; expected finite numbers: fix them, or mark them missing (NaN).")
    if pd.api.types.is_integer_dtype(series.dtype) and np.abs(values).max() >= 2**53:
        raise InvalidInput(f"column {name!r} holds whole numbers beyond 2^53, as identifiers do; leave it out with --data.drop {name}.")
    if np.abs(values).max() > LARGEST:
        row = int(np.flatnonzero(np.abs(series.to_numpy(dtype=np.float64, na_value=np.nan)) > LARGEST)[0])
        raise InvalidInput(
            f"column {name!r} holds {float(series.iloc[row]):g} in {in_rows([row])}; expected magnitudes of at most {LARGEST:g}, whose squares "
            "can be added: rescale the column (divide it)."
        )
    eps = float(np.finfo(np.float32).eps if "32" in dtype and "loat" in dtype else np.finfo(np.float16).eps if dtype == "float16" else 2.3e-16)
    grid = find_step(values, eps) if options.step or pd.api.types.is_integer_dtype(series.dtype) else None
    whole = grid is not None and grid[0] == 1.0
    if name in options.integer and not whole:
        raise InvalidInput(f"column {name!r} was declared integer, but holds {_not_whole(values):g}; expected whole numbers.")
    if whole and name not in options.real:
        held = train.dropna().to_numpy(dtype=np.float64)
        low, high = (float(held.min()), float(held.max())) if len(held) else (0.0, 0.0)
        levels = int(high - low) + 1
        known = levels <= min(options.max_levels, len(held))
        return Column(name, "integer", low=low if known else 0.0, levels=levels if known else None, missing=missing, dtype=dtype)
    if grid is None or name in options.real:
        if values.min() == values.max():
            raise InvalidInput(f"column {name!r} is constant (always {values[0]:g}): its density is unbounded; drop it, or declare it categorical.")
        return Column(name, missing=missing, dtype=dtype)
    return Column(name, step=grid[0], low=grid[1], missing=missing, dtype=dtype)


def _time(series: Series, name: str, missing: bool) -> Column:
    seconds = seconds_of(series.dropna(), name)
    step = next((step for step in (86_400.0, 3600.0, 60.0, 1.0) if not (seconds % step).any()), None)
    return Column(name, step=step, missing=missing, dtype=str(series.dtype))


def seconds_of(held: Series, name: str) -> Any:
    """Dates as seconds since 1970 (UTC) and durations as seconds, float64; no missing values.

    Raises:
        InvalidInput: for texts, and for times finer than a microsecond, which float64 seconds cannot hold.
    """
    if not str(held.dtype).startswith(SECONDS):
        held = pd.to_datetime(held, errors="coerce", utc=False)
        if held.isna().any() or not str(held.dtype).startswith(SECONDS):
            raise InvalidInput(f"column {name!r} holds {held.dtype} values that are no dates; expected datetimes.")
    if isinstance(held.dtype, pd.DatetimeTZDtype):
        held = held.dt.tz_convert("UTC").dt.tz_localize(None)
    values = held.to_numpy()
    micros = values.astype(values.dtype.str[:2] + "8[us]" if values.dtype.str[2:3] == "" else f"{values.dtype.kind}8[us]")
    if (micros.astype(values.dtype) != values).any():
        raise InvalidInput(f"column {name!r} holds times finer than a microsecond; round them: column.dt.round('us').")
    return micros.astype(np.int64) / 1e6


def _category(series: Series, name: str, missing: bool, options: DataOptions) -> tuple[Column, dict[str, Any]]:
    """Declared categories are the user's own list and are kept, seen or not."""
    index = series.cat.categories
    values = tuple(_plain(value) for value in index)
    if any(value is None for value in values):
        raise InvalidInput(f"column {name!r} has categories of dtype {index.dtype}; expected texts, numbers or booleans.")
    _check_count(len(values), name, options)
    detail = {"categories": str(index.dtype), "ordered": bool(series.cat.ordered)}
    return Column(name, "categorical", cast(tuple[str, ...], values), missing=missing, dtype="category"), detail


def _text(series: Series, train: Series, name: str, missing: bool, options: DataOptions) -> tuple[Column, dict[str, Any]]:
    if name in options.integer or name in options.real:
        raise InvalidInput(f"column {name!r} was declared a number, but holds texts such as {_first(series)!r}; mark them with --data.missing.")
    if name not in options.categorical:
        check_mostly_numeric(series, name)
    detail = {"none": True} if str(series.dtype) == "object" and any(value is None for value in series) else {}
    column = Column(name, "categorical", _distinct(train, name, options), missing=missing, dtype=str(series.dtype))
    return column, detail


def check_mostly_numeric(series: Series, name: str) -> None:
    """Refuse a column that is numeric but for a few texts: reading it as categories would hide the mistake.

    Raises:
        InvalidInput: naming the texts and their rows.
    """
    held = series.dropna()
    numeric = pd.to_numeric(held, errors="coerce").notna().to_numpy()
    if numeric.all() or numeric.mean() < 0.5:
        return
    rows = np.flatnonzero(series.notna().to_numpy())[~numeric]
    texts = list(dict.fromkeys(str(value) for value in held[~numeric]))
    raise InvalidInput(
        f"column {name!r} is numeric but for {', '.join(map(repr, texts[:3]))} in {in_rows(rows)}; fix these, mark them with "
        f"--data.missing, or declare the column with --data.categorical {name}."
    )


def _check_objects(series: Series, name: str) -> None:
    for row, value in enumerate(series):
        if not (isinstance(value, (str, bool, int, float, np.generic)) or value is None or value is pd.NA or value is pd.NaT):
            raise InvalidInput(f"column {name!r} holds a {type(value).__name__} in {in_rows([row])}; expected numbers or texts: convert or drop it.")


def _distinct(train: Series, name: str, options: DataOptions) -> tuple[str | int | float | bool, ...]:
    found = [_plain(value) for value in train.dropna().unique()]
    _check_count(len(found), name, options)
    if not found:
        raise InvalidInput(f"column {name!r} has no values in the training rows; leave it out with --data.drop {name}.")
    return tuple(sorted(cast(Any, found), key=lambda value: (isinstance(value, str), value)))


def _check_count(count: int, name: str, options: DataOptions) -> None:
    if count > options.max_categories:
        raise InvalidInput(
            f"column {name!r} holds {count} different texts; at most {options.max_categories} categories are read. Leave it out with "
            f"--data.drop {name}, or raise --data.max_categories."
        )


def _plain(value: Hashable) -> str | int | float | bool | None:
    plain = value.item() if isinstance(value, np.generic) else value
    return plain if isinstance(plain, (str, int, float, bool)) else None


def _first(series: Series) -> Any:
    return series.dropna().iloc[0]


def _not_whole(values: Any) -> float:
    off = values[values != np.rint(values)]
    return float(off[0]) if len(off) else float(values[0])


def in_rows(rows: Any) -> str:
    """Row numbers in words, a few of them: ``rows 3, 17 and 2 more (counted from 0, without the header)``."""
    listed = [int(row) for row in rows[:5]]
    more = len(rows) - len(listed)
    return (
        f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, listed))}"
        + (f" and {more} more" if more else "")
        + " (counted from 0, without the header)"
    )
