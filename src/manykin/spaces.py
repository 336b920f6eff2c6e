"""Sample spaces: what one datum is, checked, described in JSON, and counted in dimensions.

A space says what a batch of data looks like as tensors (examples along the first axis). Everything that a model learns about the *kind* of its
data comes from here, so a tensor's shape is a function of the space and never of the first batch seen. ``log_prob`` in a space is

- the log-probability where :attr:`Space.discrete` holds (levels, categories, tokens), and
- the log-density per unit of the data elsewhere; a column on a grid of step s spreads the mass of a grid point evenly over its cell, so its
  value is log P(cell) - log s. For integers (s = 1) both readings agree.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from manykin.errors import InvalidInput, Unsupported
from manykin.typed import brief, check_fields

Value = Tensor | Mapping[str, Tensor]
"""A batch in some space: one tensor, or one tensor a field for a :class:`Record`."""


def count(x: Value) -> int:
    """The number of examples in a batch."""
    return len(x) if isinstance(x, Tensor) else len(next(iter(x.values())))


def take(x: Value, index: Any) -> Value:
    """Examples by index, slice or mask, whatever the space."""
    return x[index] if isinstance(x, Tensor) else {name: part[index] for name, part in x.items()}


def cat(parts: Sequence[Value]) -> Value:
    """Batches of one space joined along the examples."""
    if isinstance(parts[0], Tensor):
        return torch.cat(cast(list[Tensor], list(parts)))
    return {name: torch.cat([cast(Mapping[str, Tensor], part)[name] for part in parts]) for name in parts[0]}


def move(x: Value, device: torch.device | str, non_blocking: bool = False) -> Value:
    """A batch on another device."""
    if isinstance(x, Tensor):
        return x.to(device, non_blocking=non_blocking)
    return {name: part.to(device, non_blocking=non_blocking) for name, part in x.items()}


class Space(ABC):
    """Base of all spaces. Spaces are frozen dataclasses: equal by value, hashable, exact in JSON."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one datum's tensor."""

    @property
    @abstractmethod
    def discrete(self) -> bool:
        """Whether the space is countable, so that ``log_prob`` is a log-probability and bits per dimension are exact."""

    @abstractmethod
    def check(self, x: Tensor, name: str) -> Tensor:
        """Validate one non-empty tensor of the right rank; return it (its integer type widened where needed)."""

    @abstractmethod
    def __str__(self) -> str: ...

    def validate(self, x: Value, name: str = "x") -> Value:
        """Check a batch and return it.

        Raises:
            InvalidInput: empty batch, wrong rank, size or dtype, NaN or infinity, value out of range; names rows and columns.
        """
        if not isinstance(x, Tensor):
            raise InvalidInput(f"{name} is a {type(x).__name__}; expected a tensor of shape (n, {', '.join(map(str, self.shape))}) for {self}.")
        if x.shape[1:] != self.shape or x.dim() != len(self.shape) + 1:
            raise InvalidInput(f"{name} has shape {tuple(x.shape)}; expected {_expected(self.shape)} for {self}.")
        if len(x) == 0:
            raise InvalidInput(f"{name} is empty (0 examples); expected at least one example of {self}.")
        return self.check(x, name)

    def dims(self, x: Value) -> Tensor:
        """Dimensions of each datum, shape (n,) in float64: the divisor of bits per dimension. Differs per datum for texts."""
        first = x if isinstance(x, Tensor) else next(iter(x.values()))
        return torch.full((count(x),), float(torch.Size(self.shape).numel()), dtype=torch.float64, device=first.device)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with the key ``space`` naming the kind; :func:`space_from_json` reads it."""
        fields = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(cast(Any, self))}
        return {"space": type(self).__name__, **fields}


@dataclass(frozen=True)
class Column:
    """One column of a :class:`Table`.

    ``real``: any number, or multiples ``low + k * step`` where ``step`` is given. ``integer``: whole numbers, ``low ... low + levels - 1`` where
    ``levels`` is given. ``categorical``: codes ``0 ... len(categories) - 1``. Missing values are NaN, allowed where ``missing`` is true.
    ``dtype`` is the user's own (``float32``, ``Int64``, ``str``, ``bool``, ``category``), which samples come back in.
    """

    name: str
    kind: Literal["real", "integer", "categorical"] = "real"
    categories: tuple[str | int | float | bool, ...] = ()
    low: float = 0.0
    step: float | None = None
    levels: int | None = None
    missing: bool = False
    dtype: str = "float64"

    def __post_init__(self) -> None:
        if self.kind not in ("real", "integer", "categorical"):
            raise InvalidInput(f"column {self.name!r} has kind {self.kind!r}; expected real, integer or categorical.")
        if self.kind == "categorical" and not self.categories:
            raise InvalidInput(f"categorical column {self.name!r} has no categories; expected at least one.")
        if (self.step is not None and not 0 < self.step < math.inf) or (self.levels is not None and self.levels < 1) or not math.isfinite(self.low):
            raise InvalidInput(
                f"column {self.name!r} has low {self.low}, step {self.step} and levels {self.levels}; expected finite, positive sizes."
            )

    @property
    def cardinality(self) -> int | None:
        """How many values are possible; None where there is no finite list."""
        return len(self.categories) if self.kind == "categorical" else self.levels

    @property
    def grid(self) -> float | None:
        """The distance between neighbouring values, None for a continuous column."""
        return 1.0 if self.kind in ("integer", "categorical") else self.step

    @property
    def origin(self) -> float:
        """The smallest code of a finite column, or any point of the grid."""
        return 0.0 if self.kind == "categorical" else self.low

    def check(self, values: Tensor, name: str) -> None:
        """Validate one column, shape (n,)."""
        where = f"{name}, column {self.name!r}"
        finite = torch.isfinite(values)
        bad = torch.isinf(values) if self.missing else ~finite
        if bad.any():
            remedy = "only NaN marks a missing value" if self.missing else "fill it or drop the row"
            raise InvalidInput(f"{where} holds {_first(values, bad)}; expected finite numbers: {remedy}.")
        if self.grid is None:
            return
        steps = (values[finite] - self.origin) / self.grid
        off = (steps - steps.round()).abs() > 1e-3 + 1e-6 * steps.abs()
        if off.any():
            raise InvalidInput(f"{where} holds {_first(values[finite], off)}; expected {self._expectation()}.")
        if self.cardinality is not None:
            out = (steps < -0.5) | (steps > self.cardinality - 0.5)
            if out.any():
                raise InvalidInput(f"{where} holds {_first(values[finite], out)}; expected {self._expectation()}.")

    def _expectation(self) -> str:
        if self.cardinality is not None:
            return f"a whole number from {self.origin:g} to {self.origin + self.cardinality - 1:g}"
        return "whole numbers" if self.grid == 1 else f"values on the grid {self.origin:g} + k * {self.grid:g}"


@dataclass(frozen=True)
class Vector(Space):
    """``size`` numbers a datum, as a floating tensor (n, size).

    ``levels``: every entry is an integer from 0 to levels - 1 (then the space is discrete). ``step``: per entry the distance of its grid, 0 for a
    continuous entry; ``low``: a point of each grid (0 where not given). ``names``: column names for messages and tables.
    """

    size: int
    levels: int | None = None
    step: tuple[float, ...] | None = None
    low: tuple[float, ...] | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or (self.levels is not None and self.levels < 1):
            raise InvalidInput(f"Vector(size={self.size}, levels={self.levels}): expected a size and levels of at least 1.")
        for label, entries in (("step", self.step), ("low", self.low), ("names", self.names)):
            if entries is not None and len(entries) != self.size:
                raise InvalidInput(f"Vector(size={self.size}) was given {len(entries)} values of {label}; expected {self.size}.")
        if not all(0 <= step < math.inf for step in self.step or ()) or not all(map(math.isfinite, self.low or ())):
            raise InvalidInput(f"Vector(size={self.size}) was given a step or low that is negative or not finite; expected a step of at least 0.")
        if self.levels is not None and self.step is not None:
            raise InvalidInput("Vector takes levels or step, not both: levels already mean whole numbers.")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def discrete(self) -> bool:
        return self.levels is not None or (self.step is not None and all(step == 1 for step in self.step))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The same space as the columns of a :class:`Table`."""
        names = self.names or tuple(f"x{index}" for index in range(self.size))
        if self.levels is not None:
            return tuple(Column(name, "integer", levels=self.levels, dtype="int64") for name in names)
        steps, lows = self.step or (0.0,) * self.size, self.low or (0.0,) * self.size
        return tuple(Column(name, low=low if step else 0.0, step=step or None) for name, step, low in zip(names, steps, lows, strict=True))

    def check(self, x: Tensor, name: str) -> Tensor:
        if x.is_complex() or x.dtype == torch.bool or (not x.is_floating_point() and self.levels is None and self.step is None):
            raise InvalidInput(f"{name} has dtype {_dtype(x)}; expected a floating dtype for {self}.")
        if not x.is_floating_point():
            x = x.double()
        _check_finite(x, name, self.names)
        if self.levels is not None:
            _check_levels(x, self.levels, name)
        elif self.step is not None:
            for index, column in enumerate(self.columns):
                if column.step is not None:
                    column.check(x[:, index].detach(), name)
        return x

    def __str__(self) -> str:
        extra = f", levels={self.levels}" if self.levels is not None else ", step=..." if self.step is not None else ""
        return f"Vector({self.size}{extra})"


@dataclass(frozen=True)
class Image(Space):
    """Pictures, channels first, as a uint8 tensor (n, channels, height, width) of levels 0 to ``levels`` - 1 (int32 above 256 levels).

    ``levels=None``: real-valued pictures. ``ordinal=False``: the levels are codes without order (tiles of a game, entries of a codebook).
    """

    size: tuple[int, int, int]
    levels: int | None = 256
    ordinal: bool = True

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) < 1 or (self.levels is not None and self.levels < 2):
            raise InvalidInput(f"Image(size={self.size}, levels={self.levels}): expected (channels, height, width) and at least 2 levels.")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    @property
    def discrete(self) -> bool:
        return self.levels is not None

    @property
    def dtype(self) -> torch.dtype:
        """The tensor type that holds a picture."""
        return torch.float32 if self.levels is None else torch.uint8 if self.levels <= 256 else torch.int32

    @property
    def columns(self) -> tuple[Column, ...]:
        """The pixels as columns of a :class:`Table`, in row-major order of (channel, row, column)."""
        names = [f"c{c}y{y}x{x}" for c in range(self.size[0]) for y in range(self.size[1]) for x in range(self.size[2])]
        if self.levels is None:
            return tuple(Column(name, dtype="float32") for name in names)
        if self.ordinal:
            return tuple(Column(name, "integer", levels=self.levels, dtype="uint8") for name in names)
        codes = tuple(range(self.levels))
        return tuple(Column(name, "categorical", categories=codes, dtype="uint8") for name in names)

    def check(self, x: Tensor, name: str) -> Tensor:
        if self.levels is None:
            if not x.is_floating_point():
                raise InvalidInput(f"{name} has dtype {_dtype(x)}; expected a floating dtype for {self}.")
            _check_finite(x, name, None)
            return x
        if x.dtype == torch.bool or x.is_complex():
            raise InvalidInput(f"{name} has dtype {_dtype(x)}; expected uint8 levels from 0 to {self.levels - 1} for {self}.")
        if x.is_floating_point():
            _check_finite(x, name, None)
        if x.dtype != torch.uint8 or self.levels < 256:
            _check_levels(x, self.levels, name)
        return x if x.dtype in (torch.uint8, self.dtype) else x.to(self.dtype)

    def __str__(self) -> str:
        values = "real" if self.levels is None else f"{self.levels} {'levels' if self.ordinal else 'codes'}"
        return f"Image({'x'.join(map(str, self.size))}, {values})"


@dataclass(frozen=True)
class Labels(Space):
    """One of ``classes`` labels a datum, as an int64 tensor (n,) of codes; ``names`` are the user's own values."""

    classes: int
    names: tuple[str | int | float | bool, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes < 1 or (self.names is not None and len(self.names) != self.classes):
            raise InvalidInput(f"Labels(classes={self.classes}) with {len(self.names or ())} names: expected one name a class.")

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def discrete(self) -> bool:
        return True

    @property
    def columns(self) -> tuple[Column, ...]:
        """The label as one categorical column."""
        return (Column("label", "categorical", categories=self.names or tuple(range(self.classes)), dtype="int64"),)

    def check(self, x: Tensor, name: str) -> Tensor:
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise InvalidInput(f"{name} has dtype {_dtype(x)}; expected int64 labels from 0 to {self.classes - 1}.")
        _check_levels(x, self.classes, name)
        return x.long()

    def __str__(self) -> str:
        return f"Labels({self.classes})"


@dataclass(frozen=True)
class Tokens(Space):
    """Sequences over ``vocab`` symbols, as an int64 tensor (n, length) of codes.

    With ``end``: strings of up to length - 1 symbols; ``end`` follows the last one and fills the rest of the row. ``log_prob`` counts up to and
    including the first ``end``; at the last position only ``end`` is possible, so the probabilities of all strings sum to one. ``end=None``: a
    stream, split contiguously and scored in blocks. ``symbols`` are the strings behind the codes (bytes or characters), where known.
    """

    vocab: int
    length: int
    end: int | None = None
    symbols: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.vocab < 1 or self.length < 1 or (self.end is not None and not 0 <= self.end < self.vocab):
            raise InvalidInput(f"Tokens(vocab={self.vocab}, length={self.length}, end={self.end}): expected sizes of at least 1, end below vocab.")
        if self.symbols is not None and len(self.symbols) != self.vocab:
            raise InvalidInput(f"Tokens(vocab={self.vocab}) was given {len(self.symbols)} symbols; expected {self.vocab}.")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def discrete(self) -> bool:
        return True

    def check(self, x: Tensor, name: str) -> Tensor:
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise InvalidInput(f"{name} has dtype {_dtype(x)}; expected int64 codes from 0 to {self.vocab - 1} for {self}.")
        _check_levels(x, self.vocab, name)
        if self.end is not None:
            ended = (x == self.end).cummax(dim=1).values if x.dtype == torch.bool else ((x == self.end).long().cummax(dim=1).values > 0)
            bad = (ended & (x != self.end)).any(dim=1) | ~ended[:, -1]
            if bad.any():
                raise InvalidInput(f"{name}, row {int(bad.nonzero()[0])} does not end in the end code {self.end}; expected it after the last symbol.")
        return x.long()

    def dims(self, x: Value) -> Tensor:
        """Scored positions of each datum: up to and including ``end``, or the whole block of a stream."""
        assert isinstance(x, Tensor)
        if self.end is None:
            return super().dims(x)
        return ((x != self.end).sum(dim=1) + 1).double()

    def __str__(self) -> str:
        return f"Tokens(vocab={self.vocab}, length={self.length}{'' if self.end is None else ', strings'})"


@dataclass(frozen=True)
class Table(Space):
    """Rows of named columns of mixed kinds, as a float64 tensor (n, columns): numbers as they are, categories as codes, missing as NaN."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        repeated = [name for name, times in Counter(names).items() if times > 1]
        if not names or repeated:
            raise InvalidInput(
                f"Table has {'no columns' if not names else f'repeated column names {sorted(repeated)[:5]}'}; expected distinct names."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.columns),)

    @property
    def discrete(self) -> bool:
        return all(column.kind != "real" for column in self.columns)

    @property
    def missing(self) -> bool:
        """Whether any column may hold missing values."""
        return any(column.missing for column in self.columns)

    def check(self, x: Tensor, name: str) -> Tensor:
        if not x.is_floating_point():
            raise InvalidInput(f"{name} has dtype {_dtype(x)}; expected float64 columns for {self}.")
        for index, column in enumerate(self.columns):
            column.check(x[:, index].detach(), name)
        return x

    def __str__(self) -> str:
        kinds = [column.kind for column in self.columns]
        parts = [f"{kinds.count(kind)} {kind}" for kind in ("real", "integer", "categorical") if kind in kinds]
        return f"Table({', '.join(parts)}{', missing values' if self.missing else ''})"


@dataclass(frozen=True)
class Record(Space):
    """Several spaces at once: a batch is a mapping from field name to that field's tensor."""

    fields: tuple[tuple[str, Space], ...]

    def __init__(self, fields: Mapping[str, Space] | Sequence[tuple[str, Space]]) -> None:
        pairs = tuple(fields.items()) if isinstance(fields, Mapping) else tuple((name, space) for name, space in fields)
        if not pairs or any(isinstance(space, Record) for _, space in pairs):
            raise InvalidInput("Record needs at least one field, each a space that is not itself a Record.")
        object.__setattr__(self, "fields", pairs)

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(torch.Size(space.shape).numel() for _, space in self.fields),)

    @property
    def discrete(self) -> bool:
        return all(space.discrete for _, space in self.fields)

    @property
    def columns(self) -> tuple[Column, ...]:
        """All fields' columns, each name behind its field's."""
        return tuple(
            dataclasses.replace(column, name=f"{name}.{column.name}") for name, space in self.fields for column in columns_of(space, str(self))
        )

    def validate(self, x: Value, name: str = "x") -> Value:
        expected = [field for field, _ in self.fields]
        if isinstance(x, Tensor) or sorted(x) != sorted(expected):
            found = "one tensor" if isinstance(x, Tensor) else f"the fields {sorted(x)}"
            raise InvalidInput(f"{name} is {found}; expected a mapping with the fields {expected}.")
        checked = {field: cast(Tensor, space.validate(x[field], f"{name}[{field!r}]")) for field, space in self.fields}
        sizes = {field: len(part) for field, part in checked.items()}
        if len(set(sizes.values())) > 1:
            raise InvalidInput(f"{name} has fields of different lengths {sizes}; expected as many examples in each.")
        return checked

    def check(self, x: Tensor, name: str) -> Tensor:
        raise InvalidInput(f"{name} is one tensor; expected a mapping with the fields {[field for field, _ in self.fields]}.")

    def dims(self, x: Value) -> Tensor:
        assert not isinstance(x, Tensor)
        return torch.stack([space.dims(x[name]) for name, space in self.fields]).sum(dim=0)

    def to_json(self) -> dict[str, Any]:
        return {"space": "Record", "fields": [[name, space.to_json()] for name, space in self.fields]}

    def __str__(self) -> str:
        return f"Record({', '.join(f'{name}: {space}' for name, space in self.fields)})"


SPACES: dict[str, type[Space]] = {kind.__name__: kind for kind in (Vector, Image, Labels, Tokens, Table, Record)}
"""Every kind of space by the name that JSON files use."""


def columns_of(space: Space, what: str | None = None) -> tuple[Column, ...]:
    """The space seen as table columns.

    Raises:
        Unsupported: for a space without columns (texts).
    """
    columns = getattr(space, "columns", None)
    if columns is None:
        raise Unsupported(f"{what or space} cannot be seen as columns: {space} has none.")
    return cast(tuple[Column, ...], columns)


def space_from_json(data: Mapping[str, Any], where: str = "space") -> Space:
    """Read a space back from :meth:`Space.to_json`; ``where`` is the key that holds it, for messages.

    Raises:
        InvalidInput: for an unknown kind, and for a key that is unknown, missing or of another type.
    """
    if not isinstance(data, Mapping):
        raise InvalidInput(f"{where} is {brief(data)}; expected an object with the key 'space'.")
    kind = SPACES.get(str(data.get("space")))
    if kind is None:
        raise InvalidInput(f"{where} {brief(data.get('space'))} is not known; expected one of {', '.join(SPACES)}.")
    values = {key: value for key, value in data.items() if key != "space"}
    nested = "fields" if kind is Record else "columns" if kind is Table else None
    if nested is None:
        check_fields(kind, values, where)
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    if not isinstance(values.get(nested), list) or len(values) > 1:
        raise InvalidInput(f"{where} has the keys {sorted(values)}; expected {nested!r} alone, a list.")
    if kind is Table:
        return Table(tuple(_column(column, f"{where}.columns[{index}]") for index, column in enumerate(values["columns"])))
    for index, pair in enumerate(values["fields"]):
        named = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], dict)
        if not named or pair[1].get("space") == "Record":
            raise InvalidInput(f"{where}.fields[{index}] is {brief(pair)}; expected a name and a space that is not itself a Record.")
    return Record([(name, space_from_json(part, f"{where}.{name}")) for name, part in values["fields"]])


def _column(values: Any, where: str) -> Column:
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{where} is {brief(values)}; expected an object.")
    check_fields(Column, values, where)
    return Column(**{**values, "categories": tuple(values.get("categories", ()))})


def _plain(value: Any) -> Any:
    if isinstance(value, Column):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _check_finite(x: Tensor, name: str, columns: tuple[str, ...] | None) -> None:
    finite = torch.isfinite(x.detach())
    if bool(finite.all()):
        return
    where = (~finite).nonzero()[0].tolist()
    value = x[tuple(where)].item()
    place = f"row {where[0]}" + (
        f", column {columns[where[1]]!r}" if columns else f", position {where[1:]}" if len(where) > 2 else f", column {where[1]}"
    )
    rows = int((~finite).flatten(1).any(dim=1).sum())
    raise InvalidInput(f"{name} holds {value} at {place} ({rows} of {len(x)} rows affected); expected finite numbers: fill or drop these rows.")


def _check_levels(x: Tensor, levels: int, name: str) -> None:
    values = x.detach()
    bad = (values < 0) | (values > levels - 1)
    if values.is_floating_point():
        bad |= values != values.round()
    if bool(bad.any()):
        raise InvalidInput(f"{name} holds {_first(values, bad)}; expected whole numbers from 0 to {levels - 1}.")


def _first(values: Tensor, bad: Tensor) -> str:
    where = bad.nonzero()[0].tolist()
    place = f"row {where[0]}" + (f", position {where[1:]}" if len(where) > 1 else "")
    return f"{values[tuple(where)].item():g} in {place}"


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _expected(shape: tuple[int, ...]) -> str:
    return f"(n, {', '.join(map(str, shape))})" if shape else "(n,)"
