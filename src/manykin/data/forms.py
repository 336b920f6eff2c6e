"""Forms: what a user's data looked like, so that samples come back as what went in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import torch
from torch import Tensor

from manykin.data.saving import save
from manykin.errors import InvalidInput, suggest
from manykin.spaces import Image, Labels, Record, Space, Table, Tokens, Value, Vector

__all__ = ["Form", "as_array", "as_tensor", "cast_array", "describe", "save"]

Kind = Literal["tensor", "array", "frame", "images", "strings", "record"]


@dataclass(frozen=True)
class Form:
    """How the user's own object maps to a space's tensors: recorded in the run folder, exact in JSON.

    ``kind``: tensor, array, frame (pandas), images (uint8 arrays, channels last), strings, or record. ``dtype`` is the array's own.
    ``options``, where set: for arrays ``squeeze`` (came as (n,)) and ``shape`` (of pictures read as vectors); for pictures ``channels`` (none,
    first or last) and, for floats on a grid, ``low`` and ``step``; for frames ``labels`` (the columns' own names) and ``details`` of their types;
    for strings ``unit`` (characters or bytes) and ``stream``; for records ``fields``, each field's own form.
    """

    kind: Kind = "tensor"
    dtype: str = "float32"
    options: Mapping[str, Any] | None = None

    def option(self, key: str, default: Any = None) -> Any:
        """One of the options, or the default."""
        return default if self.options is None else self.options.get(key, default)

    def encode(self, obj: Any, space: Space, name: str = "x") -> Value:
        """The user's object as a validated batch of the space; keeps the graph of a tensor that needs gradients.

        Raises:
            InvalidInput: for an object of another kind, or values outside the space, naming rows and columns.
        """
        return space.validate(self.tensor(obj, space, name), name)

    def tensor(self, obj: Any, space: Space, name: str = "x", lenient: bool = False) -> Value:
        """The object as tensors of the space's layout, not yet validated; ``lenient`` marks unknown categories -1 instead of refusing them."""
        if isinstance(space, Record):
            return self._fields(obj, space, name, lenient)
        if isinstance(space, Table):
            from manykin.data.frames import encode_frame

            return encode_frame(obj, space, self, name, lenient)
        if isinstance(space, Tokens):
            from manykin.data.strings import encode_strings

            return encode_strings(obj, space, self, name, lenient)
        if isinstance(space, Labels):
            from manykin.data.conditions import encode_labels

            return encode_labels(obj, space, name, lenient)
        x = as_tensor(obj, name)
        return self._picture_tensor(x, space, name) if isinstance(space, Image) else self._vector_tensor(x, cast(Vector, space))

    def decode(self, x: Value, space: Space) -> Any:
        """The batch as the user's own kind of object: the inverse of :meth:`encode`."""
        if isinstance(space, Record):
            forms = {key: Form.from_json(part) for key, part in self.option("fields", {}).items()}
            fields = cast(Mapping[str, Tensor], x)
            return {key: forms.get(key, Form()).decode(fields[key], part) for key, part in space.fields}
        assert isinstance(x, Tensor)
        x = x.detach().cpu()
        if isinstance(space, Table) and self.kind == "frame":
            from manykin.data.frames import decode_frame

            return decode_frame(x, space, self)
        if isinstance(space, Tokens) and self.kind == "strings":
            from manykin.data.strings import decode_strings

            return decode_strings(x, space, self)
        if isinstance(space, Labels) and space.names is not None and self.kind != "tensor":
            return np.asarray(space.names)[x.numpy()]
        return self._restore(x, space)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_json` reads it back."""
        return {"kind": self.kind, "dtype": self.dtype, "options": None if self.options is None else dict(self.options)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a form back.

        Raises:
            InvalidInput: for an unknown key or kind.
        """
        known = ("kind", "dtype", "options")
        if unknown := [key for key in data if key not in known]:
            raise InvalidInput(f"form has the unknown key {unknown[0]!r}.{suggest(unknown[0], known)}")
        if data.get("kind") not in get_args(Kind):
            raise InvalidInput(f"form kind {data.get('kind')!r} is not known; expected one of {', '.join(get_args(Kind))}.")
        return cls(**data)

    def _fields(self, obj: Any, space: Record, name: str, lenient: bool) -> Value:
        expected = [key for key, _ in space.fields]
        if not isinstance(obj, Mapping) or sorted(map(str, obj)) != sorted(expected):
            raise InvalidInput(f"{name} is {describe(obj)}; expected a mapping with the fields {expected}.")
        forms = {key: Form.from_json(part) for key, part in self.option("fields", {}).items()}
        return {key: cast(Tensor, forms.get(key, Form()).tensor(obj[key], part, f"{name}[{key!r}]", lenient)) for key, part in space.fields}

    def _vector_tensor(self, x: Tensor, space: Vector) -> Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        elif not x.is_floating_point():
            x = x.double()
        if self.option("shape") is not None and list(x.shape[1:]) == list(self.option("shape")):
            return x.flatten(1)
        return x[:, None] if x.dim() == 1 and space.size == 1 else x

    def _picture_tensor(self, x: Tensor, space: Image, name: str) -> Tensor:
        channels = self.option("channels", "first")
        if x.dim() == 3 and space.size[0] == 1:
            x = x[:, None]
        elif x.dim() == 4 and channels != "first" and x.shape[1:] != space.size:
            x = x.permute(0, 3, 1, 2)
        if space.levels is None:
            return x if x.is_floating_point() else x.float()
        if self.option("step") is not None and x.is_floating_point():
            x = self._picture_codes(x, name)
        fits = not x.is_floating_point() and x.dtype != space.dtype and len(x) > 0 and int(x.min()) >= 0 and int(x.max()) < space.levels
        return x.to(space.dtype) if fits else x

    def _picture_codes(self, x: Tensor, name: str) -> Tensor:
        """Floats on a grid as whole levels."""
        low, step = float(self.option("low")), float(self.option("step"))
        codes = (x.detach().double() - low) / step
        off = (codes - codes.round()).abs() > 1e-3 + 1e-6 * codes.abs()
        if bool(off.any()):
            raise InvalidInput(f"{name} holds {x[off][0].item():g}; expected values on the grid {low:g} + k * {step:g}.")
        return codes.round().int()

    def _restore(self, x: Tensor, space: Space) -> Any:
        if isinstance(space, Image):
            x = self._restore_picture(x, space)
        elif self.option("squeeze", False):
            x = x[:, 0]
        elif self.option("shape") is not None:
            x = x.reshape(len(x), *self.option("shape"))
        if self.kind == "tensor":
            dtype = getattr(torch, self.dtype)
            return (x.round() if x.is_floating_point() and not dtype.is_floating_point else x).to(dtype)
        return cast_array(x.numpy(), np.dtype(self.dtype))

    def _restore_picture(self, x: Tensor, space: Image) -> Tensor:
        channels = self.option("channels", "first")
        if channels == "none":
            x = x[:, 0]
        elif channels == "last":
            x = x.permute(0, 2, 3, 1)
        step = self.option("step")
        if step is None or space.levels is None:
            return x
        cells = round(1 / step)
        exact = cells > 0 and abs(cells * step - 1) < 1e-6
        values: Tensor = x.double() / cells if exact else x.double() * float(step)
        return values + float(self.option("low"))


def cast_array(values: Any, dtype: "np.dtype[Any]") -> Any:
    """An array in another type: rounded and clipped to its range where that type is whole."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.rint(values) if values.dtype.kind == "f" else values
        high = np.nextafter(float(limits.max), 0) if values.dtype.kind == "f" and dtype.itemsize == 8 else limits.max
        values = np.clip(values, limits.min, high) if values.dtype != dtype else values
    return np.ascontiguousarray(values.astype(dtype, copy=False))


def as_tensor(obj: Any, name: str = "x") -> Tensor:
    """Numbers of any origin (tensor, array, list, numeric frame) as a tensor that shares memory where it can.

    Raises:
        InvalidInput: for object arrays, texts, and ragged lists.
    """
    if isinstance(obj, Tensor):
        return obj
    array = as_array(obj, name)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int32 if array.dtype.itemsize == 2 else np.int64)
    elif array.dtype == np.longdouble and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))


def as_array(obj: Any, name: str = "x") -> Any:
    """Numbers of any origin as a numeric numpy array.

    Raises:
        InvalidInput: for object arrays, texts, and ragged lists.
    """
    if isinstance(obj, Tensor):
        return (obj.float() if obj.dtype == torch.bfloat16 else obj).detach().cpu().numpy()
    try:
        array = np.asarray(obj)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{name} is {describe(obj)} of unequal rows; expected rows of equal length.") from error
    if hasattr(obj, "dtypes") and array.dtype.kind == "O":
        texts = [str(column) for column, dtype in zip(obj.columns, obj.dtypes, strict=True) if np.asarray(obj[column][:0]).dtype.kind == "O"]
        raise InvalidInput(f"{name} has columns that hold no plain numbers ({', '.join(texts[:3]) or 'mixed'}); expected numeric columns.")
    if array.dtype.kind not in "biuf":
        kind = "an object array" if array.dtype.kind == "O" else f"an array of dtype {array.dtype}"
        raise InvalidInput(f"{name} is {kind}; expected numbers. Convert it with astype(float), or use a DataFrame for columns of mixed kinds.")
    return array


def describe(obj: Any) -> str:
    """A user's object in words, for messages."""
    shape = getattr(obj, "shape", None)
    kind = type(obj).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" + (f" of shape {tuple(shape)}" if shape is not None else "")
