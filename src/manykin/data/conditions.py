"""Conditions: labels or real vectors beside the data, as a space and tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manykin.data.options import DataOptions
from manykin.errors import InvalidInput, suggest
from manykin.spaces import Labels, Space, Vector


def describe_condition(values: Any, train: Any, options: DataOptions) -> Space:
    """The space of conditions: whole numbers, texts and booleans are labels, other numbers a real vector.

    Labels are those of the training rows, in sorted order; ``names`` are the user's own values.

    Args:
        values: all conditions, shape (n,) or (n, k).
        train: positions of the training rows, or a slice.
        options: the user's overrides.

    Raises:
        InvalidInput: for missing values, objects, or too many classes.
    """
    array = as_values(values, "condition")
    if (array.ndim == 2 and array.shape[1] > 1) or (array.dtype.kind == "f" and not _whole(array)):
        return Vector(array.shape[1] if array.ndim == 2 else 1)
    flat = array.reshape(len(array))
    distinct = np.unique(flat[train])
    if len(distinct) > options.max_classes:
        raise InvalidInput(
            f"the condition has {len(distinct)} different values in {len(flat)} rows; at most {options.max_classes} classes are taken. "
            "Raise --data.max_classes, or give real vectors of shape (n, k)."
        )
    labels = [int(value) if array.dtype.kind in "iuf" else value.item() if array.dtype.kind == "b" else str(value) for value in distinct]
    return Labels(len(labels), None if labels == list(range(len(labels))) and array.dtype.kind != "b" else tuple(labels))


def encode_condition(values: Any, space: Space, n: int | None = None, name: str = "condition", lenient: bool = False) -> Tensor:
    """The user's conditions as a tensor of the space: int64 codes for labels, float32 for vectors.

    Raises:
        InvalidInput: for another length than ``n``, unknown labels (unless lenient: code -1), or missing values.
    """
    if isinstance(space, Labels):
        codes = encode_labels(values, space, name, lenient)
    else:
        array = as_values(values, name)
        if array.dtype.kind not in "biuf":
            raise InvalidInput(f"{name} holds {array.flat[0]!r}; expected numbers for {space}.")
        codes = torch.from_numpy(np.array(array.reshape(len(array), -1), dtype=np.float32))
    if n is not None and len(codes) != n:
        raise InvalidInput(f"{name} has {len(codes)} values for {n} rows of data; expected {n}.")
    return codes


def encode_labels(values: Any, space: Labels, name: str = "condition", lenient: bool = False) -> Tensor:
    """Labels by the user's own values as int64 codes, shape (n,).

    Raises:
        InvalidInput: for an unknown label, unless lenient: then its code is -1.
    """
    array = as_values(values, name)
    array = array.reshape(len(array)) if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1:
        raise InvalidInput(f"{name} has shape {array.shape}; expected one label a row, shape (n,).")
    if space.names is None:
        known = np.arange(space.classes)
        if array.dtype.kind in "US":
            array = np.array([int(text) if text.lstrip("-").isdigit() else -1 for text in array], dtype=np.int64)
    else:
        known = np.asarray(space.names)
        array = array.astype(known.dtype) if known.dtype.kind not in "US" and array.dtype.kind in "biuf" else array.astype(str)
        known = known if array.dtype.kind not in "US" else known.astype(str)
    order = np.argsort(known)
    places = order[np.searchsorted(known[order], array).clip(max=len(known) - 1)]
    codes = np.where(known[places] == array, places, -1)
    if (codes < 0).any() and not lenient:
        row = int(np.flatnonzero(codes < 0)[0])
        value = as_values(values, name).reshape(-1)[row]
        shown = list(space.names or range(space.classes))
        listed = ", ".join(map(repr, shown[:5])) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
        raise InvalidInput(f"{name} holds {str(value)!r} in row {row}; expected one of {listed}.{suggest(str(value), map(str, shown))}")
    return torch.from_numpy(codes.astype(np.int64))


def as_values(values: Any, name: str) -> Any:
    """Conditions of any origin as an array (n,) or (n, k) of numbers, booleans or texts, none of them missing.

    Raises:
        InvalidInput: for missing values (naming rows), objects, and other shapes.
    """
    if isinstance(values, (str, bytes)) or not (hasattr(values, "__len__") or hasattr(values, "__array__")):
        values = [values]
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInput(f"{name} has rows of unequal length; expected one value or one vector a row.") from error
    array = array[None] if array.ndim == 0 else array
    if array.ndim not in (1, 2) or len(array) == 0:
        raise InvalidInput(f"{name} has shape {array.shape}; expected (n,) labels or (n, k) numbers.")
    if array.dtype.kind == "O" or array.dtype.kind not in "biufUS":
        array = _plain_objects(array, name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        raise InvalidInput(f"{name} holds {_bad(array)} in {_rows(rows)}; expected a value for each example: drop these rows.")
    return array


def _plain_objects(array: Any, name: str) -> Any:
    missing = np.array([value is None or value != value or type(value).__name__ in ("NAType", "NaTType") for value in array.reshape(-1)])
    if missing.any():
        raise InvalidInput(f"{name} is missing in {_rows(np.flatnonzero(missing))}; expected a value for each example: drop these rows.")
    kinds: Sequence[type] = [type(value) for value in array.reshape(-1)]
    if all(issubclass(kind, str) for kind in kinds):
        return array.astype(str)
    if all(issubclass(kind, (bool, int, float, np.number, np.bool_)) for kind in kinds):
        plain = np.array(array.tolist())
        return plain
    raise InvalidInput(f"{name} holds values of the types {', '.join(sorted({kind.__name__ for kind in kinds}))}; expected labels of one type.")


def _whole(array: Any) -> bool:
    return bool((array == np.rint(array)).all())


def _bad(array: Any) -> float:
    return float(array[~np.isfinite(array)].flat[0])


def _rows(rows: Any) -> str:
    listed = ", ".join(str(int(row)) for row in rows[:5])
    return f"row{'s' if len(rows) > 1 else ''} {listed}" + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
