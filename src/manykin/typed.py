"""JSON values against the annotations of a dataclass, for files that somebody else may have written."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from manykin.errors import InvalidInput

LARGEST = 1 << 53
"""The largest integer that a JSON file may hold: beyond it other readers lose digits."""

_HINTS: dict[type, dict[str, Any]] = {}


def check_fields(kind: type, values: Mapping[str, Any], where: str) -> None:
    """Refuse values that cannot be the fields of a dataclass.

    Args:
        kind: a dataclass of numbers, texts, and tuples of them (lists in JSON).
        values: what a JSON file holds.
        where: the key that holds them, for messages.

    Raises:
        InvalidInput: naming the first key that is unknown, missing, or of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := set(values) - set(fields):
        raise InvalidInput(f"{where} has unknown keys {sorted(unknown)}; expected {sorted(fields)}.")
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    for name, field in fields.items():
        if name in values:
            if not _fits(_HINTS[kind][name], values[name]):
                raise InvalidInput(f"{where}.{name} is {brief(values[name])}; expected {_words(_HINTS[kind][name])}.")
        elif field.default is dataclasses.MISSING:
            raise InvalidInput(f"{where} has no key {name!r}; expected {_words(_HINTS[kind][name])}.")


def brief(value: Any) -> str:
    """A value as Python writes it, cut to one short line."""
    return repr(value)[:60].replace("\n", " ")


def _fits(hint: Any, value: Any) -> bool:
    parts = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(part, value) for part in parts)
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in parts
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)) or (parts[-1] is not Ellipsis and len(value) != len(parts)):
            return False
        return all(_fits(parts[0], item) for item in value)
    if hint is float:
        return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))
    if hint is int:
        return _is_integer(value)
    return type(value) is hint if hint is not types.NoneType else value is None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


def _words(hint: Any) -> str:
    parts = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(part) for part in parts)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(parts)
    if get_origin(hint) is tuple:
        many = "a list" if parts[-1] is Ellipsis else f"a list of {len(parts)}"
        return f"{many} of {_words(parts[0])}"
    return {int: "an integer", float: "a finite number", bool: "true or false", str: "text", types.NoneType: "null"}.get(hint, "an object")
