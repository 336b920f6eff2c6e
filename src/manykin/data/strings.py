"""Texts: strings and streams of characters or bytes to codes and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manykin.data.forms import Form, describe
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput
from manykin.spaces import Tokens

_BYTES = tuple(chr(code) for code in range(256))


def describe_strings(train: Sequence[str], options: DataOptions) -> tuple[Tokens, Form]:
    """The space of separate strings: symbols and the longest length are those of the training strings, plus an end symbol.

    Raises:
        InvalidInput: for a string longer than ``length``.
    """
    symbols = _BYTES if options.unit == "bytes" else tuple(sorted(set("".join(train))))
    sizes = [len(_units(text, options.unit)) for text in train]
    longest = max(sizes)
    if options.length is not None and longest > options.length:
        raise InvalidInput(f"string {sizes.index(longest)} has {longest} {options.unit}; at most {options.length} (data.length) are allowed.")
    if not symbols:
        raise InvalidInput(f"all {len(train)} strings are empty; expected some text.")
    length = (options.length or longest) + 1
    return Tokens(len(symbols) + 1, length, len(symbols), (*symbols, "")), Form("strings", "str", {"unit": options.unit, "stream": False})


def describe_stream(train: str, options: DataOptions) -> tuple[Tokens, Form]:
    """The space of one long text, cut into blocks; its symbols are those of the training part (all 256 where the unit is bytes)."""
    symbols = _BYTES if options.unit == "bytes" else tuple(sorted(set(train)))
    return Tokens(len(symbols), options.length or 64, None, symbols), Form("strings", "str", {"unit": options.unit, "stream": True})


def stream_codes(text: str, space: Tokens, unit: str) -> Any:
    """One text as an array of codes, -1 for symbols that the space does not know."""
    if unit == "bytes":
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
    known = np.array([ord(symbol) for symbol in space.symbols or () if symbol], dtype=np.int64)
    places = np.searchsorted(known, points).clip(max=max(len(known) - 1, 0))
    return np.where(known[places] == points, places, -1)


def blocks(text: str, space: Tokens, unit: str) -> tuple[Tensor, int]:
    """A stream cut into non-overlapping blocks (m, length), and the number of symbols of the last, incomplete block, which is left out."""
    codes = stream_codes(text, space, unit)
    kept = len(codes) // space.length * space.length
    return torch.from_numpy(codes[:kept].reshape(-1, space.length).copy()), len(codes) - kept


def known_blocks(text: str, space: Tokens, unit: str, name: str) -> Tensor:
    """:func:`blocks` of a text whose symbols the space knows.

    Raises:
        InvalidInput: for the first symbol that it does not, with its place.
    """
    unknown = np.flatnonzero(stream_codes(text, space, unit) < 0)
    if len(unknown):
        at = int(unknown[0])
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        more = f" and {len(unknown) - 1} more such places" if len(unknown) > 1 else ""
        raise InvalidInput(
            f"{name}, line {line}, character {column} is {text[at]!r}{more}, which no training text held; expected the {space.vocab} known {unit}: "
            "take it out, or fit on a text that has it (--data.unit bytes knows all)."
        )
    return blocks(text, space, unit)[0]


def encode_strings(obj: Any, space: Tokens, form: Form, name: str, lenient: bool) -> Tensor:
    """Strings as codes (n, length): each ended and filled with the end symbol, or of exactly one block where the space is a stream.

    Raises:
        InvalidInput: for other objects, unknown symbols, and strings that are too long (or, of a stream, not of block length).
    """
    if isinstance(obj, Tensor):
        return obj
    texts = check_strings(obj, name)
    unit = form.option("unit", "characters")
    end = space.end
    out = np.full((len(texts), space.length), 0 if end is None else end, dtype=np.int64)
    for row, text in enumerate(texts):
        codes = stream_codes(text, space, unit)
        room = space.length - (end is not None)
        fits = len(codes) == room if end is None else len(codes) <= room
        if not fits and not lenient:
            raise InvalidInput(f"{name}, string {row} has {len(codes)} {unit}; expected {'exactly' if end is None else 'at most'} {room}.")
        if (codes < 0).any() and not lenient:
            symbol = text[int(np.flatnonzero(codes < 0)[0])]
            raise InvalidInput(f"{name}, string {row} holds {symbol!r}, which no training text held; expected the {space.vocab} known {unit}.")
        if fits:
            out[row, : len(codes)] = codes
        else:
            out[row] = -1
    return torch.from_numpy(out)


def decode_strings(x: Tensor, space: Tokens, form: Form) -> list[str]:
    """Codes as strings; bytes that are no UTF-8 become the replacement character."""
    rows = x.tolist()
    if space.end is not None:
        rows = [row[: row.index(space.end)] if space.end in row else row for row in rows]
    if form.option("unit") == "bytes":
        return [bytes(row).decode("utf-8", errors="replace") for row in rows]
    symbols = space.symbols or tuple(map(str, range(space.vocab)))
    return ["".join(symbols[code] for code in row) for row in rows]


def check_strings(obj: Any, name: str) -> list[str]:
    """A list of strings from whatever holds strings.

    Raises:
        InvalidInput: where it does not, naming the first entry that is no string.
    """
    if isinstance(obj, str):
        return [obj]
    texts = obj.tolist() if hasattr(obj, "tolist") else list(obj) if isinstance(obj, (list, tuple)) else None
    if texts is None:
        raise InvalidInput(f"{name} is {describe(obj)}; expected a list of strings.")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"{name}, entry {row} is {text!r}; expected a string.")
    return texts


def _units(text: str, unit: str) -> str | bytes:
    return text.encode() if unit == "bytes" else text
