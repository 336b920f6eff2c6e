"""Options as data: frozen dataclasses whose fields carry their help text, range and choices.

A model's options are one :class:`Config` above the model. The command line, JSON, the error messages and the docs are derived from it, so an
option is declared once. Fields may be ``int``, ``float``, ``bool``, ``str``, a ``Literal``, a tuple of numbers, or one of these ``| None``.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from manykin.errors import InvalidInput, suggest

_BOUNDS = {"ge": ("≥", float.__ge__), "gt": (">", float.__gt__), "le": ("≤", float.__le__), "lt": ("<", float.__lt__)}


def option(default: Any, help: str, *, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None) -> Any:
    """A dataclass field with a line of help and bounds, from which validation, CLI and docs are derived."""
    bounds = {key: value for key, value in (("ge", ge), ("gt", gt), ("le", le), ("lt", lt)) if value is not None}
    return dataclasses.field(default=default, metadata={"help": help, "bounds": bounds})


@dataclass(frozen=True)
class OptionInfo:
    """What is known of one option: enough for a command line, a form or a line of documentation."""

    name: str
    type: Any
    default: Any
    help: str
    bounds: Mapping[str, float]

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values of a ``Literal`` option, empty for all others."""
        return tuple(value for part in _parts(self.type) if get_origin(part) is Literal for value in get_args(part))

    def expected(self) -> str:
        """The allowed values in words: ``an integer ≥ 1 or none``."""
        words = [_describe(part) for part in _parts(self.type) if part is not types.NoneType]
        limits = " and ".join(f"{_BOUNDS[key][0]} {value:g}" for key, value in self.bounds.items())
        text = " or ".join(words) + (f" {limits}" if limits else "")
        return text + (" or none" if types.NoneType in _parts(self.type) else "")


@dataclass(frozen=True)
class Config:
    """Base of all option sets: validated when constructed, exact in JSON, never silently ignoring a key.

    Raises:
        InvalidInput: on construction with a value outside its type, range or choices.
    """

    label: ClassVar[str] = "model"

    def __post_init__(self) -> None:
        for info in options(type(self)):
            value = getattr(self, info.name)
            accepted = _accept(info, value)
            if accepted is _REJECTED:
                raise InvalidInput(f"{self.label}.{info.name} = {value!r} is not allowed; expected {info.expected()} (default {info.default!r}).")
            if accepted is not value:
                object.__setattr__(self, info.name, accepted)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, one key per option, defaults included."""
        return {info.name: _plain(getattr(self, info.name)) for info in options(type(self))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`; also takes strings, as a command line gives them.

        Raises:
            InvalidInput: for an unknown key (with the nearest known one) or a value that is not allowed.
        """
        known = {info.name: info for info in options(cls)}
        for key in values:
            if key not in known:
                raise InvalidInput(f"{cls.label}.{key} is not an option.{suggest(key, known)}")
        return cls(**{key: _parse(known[key], value) for key, value in values.items()})

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """A copy with some options changed, validated again."""
        return type(self).from_json({**self.to_json(), **changes})


_OPTIONS: dict[type, tuple[OptionInfo, ...]] = {}


def options(config: type[Config]) -> tuple[OptionInfo, ...]:
    """The options of a config class, in order of declaration."""
    if config not in _OPTIONS:
        hints = typing.get_type_hints(config)
        _OPTIONS[config] = tuple(
            OptionInfo(field.name, hints[field.name], field.default, field.metadata.get("help", ""), field.metadata.get("bounds", {}))
            for field in dataclasses.fields(config)
        )
    return _OPTIONS[config]


_REJECTED = object()


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _describe(part: Any) -> str:
    if get_origin(part) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(part))
    if get_origin(part) is tuple:
        return f"a list of {get_args(part)[0].__name__} values"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}.get(part, str(part))


def _accept(info: OptionInfo, value: Any) -> Any:
    for part in _parts(info.type):
        accepted = _accept_part(part, value, info.bounds)
        if accepted is not _REJECTED:
            return accepted
    return _REJECTED


def _accept_part(part: Any, value: Any, bounds: Mapping[str, float]) -> Any:
    if part is types.NoneType:
        return value if value is None else _REJECTED
    if get_origin(part) is Literal:
        return value if any(value is choice or (type(value) is type(choice) and value == choice) for choice in get_args(part)) else _REJECTED
    if get_origin(part) is tuple:
        if not isinstance(value, (tuple, list)):
            return _REJECTED
        items = tuple(_accept_part(get_args(part)[0], item, bounds) for item in value)
        return _REJECTED if any(item is _REJECTED for item in items) else items
    if part in (int, float):
        return _accept_number(part, value, bounds)
    return value if type(value) is part else _REJECTED


def _accept_number(part: type, value: Any, bounds: Mapping[str, float]) -> Any:
    if isinstance(value, bool) or (not isinstance(value, (int, float)) and not hasattr(value, "__index__")):
        return _REJECTED
    if part is int:
        if isinstance(value, float):
            return _REJECTED
        value = value.__index__()
    number = float(value)
    if not math.isfinite(number) or not all(_BOUNDS[key][1](number, float(limit)) for key, limit in bounds.items()):
        return _REJECTED
    return number if part is float else value


def _parse(info: OptionInfo, value: Any) -> Any:
    """Turn the text of a command line into the option's type; leave what cannot be read for validation to refuse."""
    if not isinstance(value, str) or any(value == choice for choice in info.choices):
        return value
    parts = _parts(info.type)
    if types.NoneType in parts and value.lower() in ("none", "null"):
        return None
    return next((read for part in parts if (read := _read(part, value)) is not _REJECTED), value)


def _read(part: Any, text: str) -> Any:
    if get_origin(part) is tuple:
        items = tuple(_read(get_args(part)[0], item.strip()) for item in text.strip("()[]").split(",") if item.strip())
        return _REJECTED if any(item is _REJECTED for item in items) else items
    if part is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), _REJECTED)
    if part in (int, float):
        try:
            return part(text)
        except ValueError:
            return _REJECTED
    if get_origin(part) is Literal:
        return next((choice for choice in get_args(part) if str(choice).lower() == text.lower()), _REJECTED)
    return text if part is str else _REJECTED


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
