"""Tables: pandas frames to float64 tensors and back, with the same dtypes."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from manykin.data.columns import SECONDS, Series, describe_column, seconds_of
from manykin.data.forms import Form, cast_array, describe
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput, suggest
from manykin.spaces import Column, Table

Frame = Any
"""A pandas DataFrame."""


def describe_frame(frame: Frame, train: Any, options: DataOptions) -> tuple[Table, Form]:
    """The space of a frame, and the form that brings it back.

    What a column is (number, date, category; its grid; whether values may be missing) is read from all rows, as its dtype is. What it holds
    (categories, range of levels) is read from the training rows only.

    Args:
        frame: all rows.
        train: positions of the training rows, or a slice.
        options: the user's overrides.

    Raises:
        InvalidInput: for a column that no space can hold, named with its offending rows.
    """
    labels = _labels(frame)
    for key in ("categorical", "integer", "real"):
        for name in getattr(options, key):
            if name not in labels:
                raise InvalidInput(f"data.{key} names the column {name!r}, which the table does not have.{suggest(name, labels)}")
    columns, details = [], {}
    for position, name in enumerate(labels):
        series = frame.iloc[:, position]
        column, detail = describe_column(series, series.iloc[train], name, options)
        columns.append(column)
        if detail:
            details[name] = detail
    return Table(tuple(columns)), Form("frame", "float64", {"labels": [_plain(label) for label in frame.columns], "details": details})


def encode_frame(obj: Any, space: Table, form: Form, name: str, lenient: bool) -> Tensor:
    """A frame (or numeric rows in the columns' order) as a float64 tensor (n, columns): categories as codes, missing as NaN.

    Raises:
        InvalidInput: for columns that are missing or unknown, texts in numeric columns, and (unless lenient) unknown categories.
    """
    if isinstance(obj, Tensor):
        return obj.double() if not obj.is_floating_point() else obj
    if not isinstance(obj, pd.DataFrame):
        obj = _as_frame(obj, space, name)
    labels = _labels(obj)
    expected = [column.name for column in space.columns]
    for label in expected:
        if label not in labels:
            raise InvalidInput(f"{name} has no column {label!r}; expected the columns {_some(expected)}.{suggest(label, labels)}")
    out = np.empty((len(obj), len(expected)), dtype=np.float64)
    for index, column in enumerate(space.columns):
        out[:, index] = _codes(obj.iloc[:, labels.index(column.name)], column, name, lenient)
    return torch.from_numpy(out)


def decode_frame(x: Tensor, space: Table, form: Form) -> Frame:
    """The tensor as a frame with the dtypes and column names that went in."""
    labels = form.option("labels") or [column.name for column in space.columns]
    details = form.option("details", {})
    values = x.double().numpy()
    series = [_series(values[:, index], column, details.get(column.name, {})) for index, column in enumerate(space.columns)]
    frame = pd.concat(series, axis=1)
    frame.columns = pd.Index(labels)
    return frame


def _labels(frame: Frame) -> list[str]:
    if isinstance(frame.columns, pd.MultiIndex):
        raise InvalidInput("the table has columns of several levels; expected one name a column: flatten frame.columns first.")
    labels = [str(label) for label in frame.columns]
    if len(set(labels)) < len(labels):
        repeated = next(label for label in labels if labels.count(label) > 1)
        raise InvalidInput(f"the table has the column name {repeated!r} {labels.count(repeated)} times; expected distinct names: rename one.")
    return labels


def _as_frame(obj: Any, space: Table, name: str) -> Frame:
    """Rows without column names, taken in the columns' order: an array, a list of rows, or one mapping a row."""
    if isinstance(obj, Sequence) and obj and isinstance(obj[0], dict):
        return pd.DataFrame(list(obj))
    try:
        array = np.asarray(obj)
    except ValueError as error:
        raise InvalidInput(f"{name} is {describe(obj)} of unequal rows; expected {len(space.columns)} columns.") from error
    if array.ndim != 2 or array.shape[1] != len(space.columns):
        raise InvalidInput(f"{name} is {describe(obj)}; expected a DataFrame, or rows of {len(space.columns)} columns for {space}.")
    return pd.DataFrame(array, columns=pd.Index([column.name for column in space.columns]))


def _codes(series: Series, column: Column, name: str, lenient: bool) -> Any:
    missing = series.isna().to_numpy()
    out = np.full(len(series), np.nan)
    held = series[~missing]
    if column.kind == "categorical":
        codes = category_codes(held, column)
        if not lenient and (codes < 0).any():
            row = int(np.flatnonzero(~missing)[np.flatnonzero(codes < 0)[0]])
            raise InvalidInput(
                f"{name}, column {column.name!r} holds {series.iloc[row]!r} in row {row}; expected one of {_some(column.categories)}."
                f"{suggest(str(series.iloc[row]), map(str, column.categories)) if len(column.categories) > 5 else ''}"
            )
        out[~missing] = codes
    elif column.dtype.startswith(SECONDS):
        out[~missing] = seconds_of(held, column.name)
    else:
        numbers = pd.to_numeric(held, errors="coerce").to_numpy(dtype=np.float64)
        texts = np.isnan(numbers)
        if texts.any():
            row = int(np.flatnonzero(~missing)[np.flatnonzero(texts)[0]])
            raise InvalidInput(f"{name}, column {column.name!r} holds {series.iloc[row]!r} in row {row}; expected a number.")
        out[~missing] = numbers
    return out


def category_codes(held: Series, column: Column) -> Any:
    """The code of each value, -1 where the column does not know it."""
    categories = pd.Index(list(column.categories))
    values = pd.Index(held.astype(categories.dtype) if isinstance(held.dtype, pd.CategoricalDtype) else held)
    if values.dtype == bool and categories.dtype != bool:
        values = values.astype(object)
    return categories.get_indexer(cast(Any, values))


def _series(values: Any, column: Column, detail: dict[str, Any]) -> Series:
    dtype: Any = column.dtype
    missing = np.isnan(values)
    if column.kind == "categorical":
        return _categories(np.where(missing, -1, values).astype(np.int64), missing, column, detail)
    if column.dtype.startswith(SECONDS):
        return _times(values, missing, column)
    if column.kind == "integer":
        values = np.where(missing, np.nan, np.rint(values))
    if missing.any() and not pd.api.types.is_extension_array_dtype(column.dtype):
        return pd.Series(values.astype(dtype if column.dtype.startswith("float") else "float64"))
    if missing.any():
        return pd.Series(pd.array(np.where(missing, 0, values), dtype="Float64")).mask(missing).astype(dtype)
    plain = column.dtype.lower() if column.dtype.lower() in np.sctypeDict else "float64"
    return pd.Series(cast_array(values, np.dtype(plain))).astype(dtype)


def _categories(codes: Any, missing: Any, column: Column, detail: dict[str, Any]) -> Series:
    if column.dtype == "category":
        dtype = detail.get("categories")
        index = pd.Index(list(column.categories), dtype=dtype)
        return pd.Series(pd.Categorical.from_codes(codes, categories=index, ordered=bool(detail.get("ordered", False))))
    held = np.empty(len(codes), dtype=object)
    held[:] = [column.categories[code] if code >= 0 else None for code in codes]
    if column.dtype == "object" and missing.any():
        held[missing] = None if detail.get("none") else np.nan
    elif missing.any() and not pd.api.types.is_extension_array_dtype(column.dtype):
        return pd.Series(held)
    return pd.Series(held, dtype=cast(Any, column.dtype))


def _times(values: Any, missing: Any, column: Column) -> Series:
    micros = np.rint(np.where(missing, 0, values) * 1e6).astype(np.int64)
    kind = "m8[us]" if column.dtype.startswith("timedelta") else "M8[us]"
    series = pd.Series(micros.view(kind))
    series[missing] = pd.NaT
    dtype = pd.api.types.pandas_dtype(column.dtype)
    if isinstance(dtype, pd.DatetimeTZDtype):
        return series.dt.tz_localize("UTC").astype(cast(Any, dtype))
    return series.astype(cast(Any, dtype))


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label if isinstance(label, (str, int, float, bool)) else str(label)


def _some(values: Sequence[Any]) -> str:
    return ", ".join(map(repr, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
