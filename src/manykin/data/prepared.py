"""A prepared data set: the splits of a :class:`Dataset` in one safetensors file, for other processes to fit and evaluate.

The file holds ``SPLIT/x``, ``SPLIT/condition`` and ``SPLIT/label`` (with ``/FIELD`` behind it for each field of a :class:`Record`), a row for each
example of the split, and one JSON text under the metadata key ``manykin.dataset``: name, spaces, form, provenance, entropy and classes. Reading it
executes nothing, copies nothing (tensors are memory-mapped) and gives back exactly the data set that was written.
"""

import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from manykin.data.dataset import Chances, Dataset, Rows
from manykin.data.forms import Form
from manykin.data.limits import reading, sha256_of_file
from manykin.errors import InvalidInput
from manykin.spaces import Labels, Record, Space, Value, space_from_json

SUFFIX, KEY, FORMAT = ".safetensors", "manykin.dataset", 1
SPLITS = ("train", "val", "test")
CHUNK = 16_384
"""Rows that are written at a time: the rows of a split need not fit into memory."""

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def is_prepared(source: Any) -> bool:
    """Whether data are named by the path of a safetensors file, the only kind of which this module reads."""
    return isinstance(source, (str, Path)) and Path(source).suffix.lower() == SUFFIX and Path(source).is_file()


def write_dataset(data: Dataset, path: str | Path) -> str:
    """Write a data set as one file, atomically, and return the sha256 of its content; equal data sets give equal files.

    Raises:
        InvalidInput: where the file cannot be written.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    digest = hashlib.sha256()
    try:
        with beside.open("wb") as file:
            for part in _content(data):
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise InvalidInput(f"{path} could not be written: {error.strerror or error}. Make room or get permission, or give another --out.") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return digest.hexdigest()


def hash_of(data: Dataset) -> str:
    """The sha256 of the file that :func:`write_dataset` would write."""
    digest = hashlib.sha256()
    for part in _content(data):
        digest.update(part)
    return digest.hexdigest()


def read_dataset(path: str | Path) -> Dataset:
    """The data set in a file of :func:`write_dataset`. A provenance without a hash gets that of the file.

    Raises:
        InvalidInput: for a file that is damaged, newer, or no data set.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with reading(path), safe_open(path, "pt") as file:
            described = _description(path, (file.metadata() or {}).get(KEY))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InvalidInput(f"{path} is truncated or no safetensors file ({str(error).splitlines()[0]}); expected a prepared data set.") from error
    try:
        found = _dataset(described, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if isinstance(error, InvalidInput) else f"{type(error).__name__}: {error}"
        raise InvalidInput(f"{path} does not hold the data set that it describes: {' '.join(reason.split())[:300]}") from error
    if found.provenance.get("sha256") is None:
        found = dataclasses.replace(found, provenance={**found.provenance, "sha256": sha256_of_file(path)})
    return found


def load_prepared(path: str | Path, condition: Any, options: Mapping[str, Any], plain: Mapping[str, Any]) -> Dataset:
    """Read a prepared data set for a call that may ask for a condition and for options: what was prepared cannot be changed any more.

    Args:
        path: the file.
        condition: what the call asks for; None and True take the file as it is.
        options: of reading data; those that the file was prepared with may be repeated, others are refused unless they are ``plain``.
        plain: the defaults of all options.

    Raises:
        InvalidInput: where the file was prepared otherwise.
    """
    data = read_dataset(path)
    recorded = data.provenance.get("options") or {}
    for key, value in options.items():
        if key not in ("max_rows", "condition") and value != plain[key] and value != recorded.get(key):
            raise InvalidInput(f"data.{key} does not apply to {path}, which is prepared: its space and splits are fixed; leave it out.")
    if condition is None or (condition is False and data.condition is None):
        return data
    if data.condition is None:
        raise InvalidInput(f"condition = {_shown(condition)}, but {path} was prepared without one; prepare the data again with the condition.")
    known = {str(data.provenance.get("condition", "label")), "label"}
    if condition is not True and not (isinstance(condition, str) and condition in known):
        raise InvalidInput(f"condition = {_shown(condition)} does not fit {path}, prepared with {' or '.join(sorted(known))}; leave it out.")
    return data


def _shown(condition: Any) -> str:
    return repr(condition) if isinstance(condition, (str, bool)) else f"a {type(condition).__name__}"


# Writing.


def _content(data: Dataset) -> Iterator[bytes]:
    """The bytes of the file: the header, then the tensors, the widest types first so that each is aligned."""
    parts = dict(_parts(data))
    header: dict[str, Any] = {"__metadata__": {KEY: json.dumps(_describe(data))}}
    start = 0
    order = sorted(parts, key=lambda name: -parts[name][0].itemsize)
    for name in order:
        base, index = parts[name]
        shape = [len(base) if index is None else len(index), *base.shape[1:]]
        size = base.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": _NAMES[base.dtype], "shape": shape, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        base, index = parts[name]
        for first in range(0, len(base) if index is None else len(index), CHUNK):
            rows = base[first : first + CHUNK] if index is None else base[index[first : first + CHUNK]]
            plain = rows.detach().cpu().contiguous().reshape(-1)
            yield plain.view(torch.uint8).numpy().tobytes()


def _parts(data: Dataset) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
    """Every tensor by its name in the file, as a base and the rows of it that are written."""
    for split in SPLITS:
        rows: Rows | None = getattr(data, split)
        for key in ("x", "condition", "label") if rows is not None else ():
            value: Value | None = getattr(rows, key)
            fields = {"": value} if isinstance(value, Tensor) else {f"/{name}": part for name, part in (value or {}).items()}
            for name, part in fields.items():
                if part.dtype not in _NAMES:
                    raise InvalidInput(f"{split} rows hold {part.dtype}; expected one of {', '.join(_NAMES.values())} to be written.")
                yield f"{split}/{key}{name}", (part, rows.index if rows is not None else None)
        if rows is not None and rows.chances is not None:
            yield f"{split}/chances", (rows.chances.levels, rows.index)


def _describe(data: Dataset) -> dict[str, Any]:
    def plain(space: Space | None) -> dict[str, Any] | None:
        return None if space is None else space.to_json()

    return {
        "format": FORMAT, "name": data.name, "space": plain(data.space), "condition": plain(data.condition), "classes": plain(data.classes),
        "form": data.form.to_json(), "provenance": dict(data.provenance), "entropy": data.entropy,
        "chances": None if data.train.chances is None else data.train.chances.top, "stream": data.train.stream,
    }  # fmt: skip


# Reading.


def _description(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise InvalidInput(
            f"{path} is a safetensors file, but no data set that manykin prepared; expected a CSV, Parquet, NPY, NPZ or text file, or a folder of "
            "pictures: save its tensors with numpy.save."
        )
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} describes its data set by text that is no JSON; prepare the data again.") from error
    if not isinstance(described, dict) or not isinstance(described.get("format"), int):
        raise InvalidInput(f"{path} describes no data set (the key 'format' is missing); prepare the data again.")
    if described["format"] > FORMAT:
        raise InvalidInput(f"{path} has format {described['format']}; this version reads up to {FORMAT}: install a newer manykin.")
    return described


def _dataset(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Dataset:
    spaces = {key: None if described[key] is None else space_from_json(described[key], key) for key in ("space", "condition", "classes")}
    space, condition, classes = spaces["space"], spaces["condition"], spaces["classes"]
    if space is None or not (classes is None or isinstance(classes, Labels)):
        raise InvalidInput("key 'space' or 'classes' is not what it should be; prepare the data again.")

    def rows(split: str) -> Rows | None:
        x = _value(tensors, f"{split}/x", space)
        if x is None:
            return None
        given = None if condition is None else _value(tensors, f"{split}/condition", condition)
        levels, top = tensors.get(f"{split}/chances"), described.get("chances")
        chances = None if levels is None or top is None else Chances(levels, int(top))
        found = Rows(x, given, None, tensors.get(f"{split}/label"), chances, split == "train" and described.get("stream") is True)
        _check(found, space, condition, split)
        return found

    train = rows("train")
    if train is None:
        raise InvalidInput("it has no training rows; prepare the data again.")
    entropy = described["entropy"]
    return Dataset(
        str(described["name"]), space, train, rows("val"), rows("test"), condition, Form.from_json(described["form"]),
        dict(described["provenance"]), None if entropy is None else float(entropy), classes,
    )  # fmt: skip


def _value(tensors: Mapping[str, Tensor], name: str, space: Space) -> Value | None:
    if isinstance(space, Record):
        found = {field: tensors.get(f"{name}/{field}") for field, _ in space.fields}
        return None if None in found.values() else cast(Value, found)
    return tensors.get(name)


def _check(rows: Rows, space: Space, condition: Space | None, split: str) -> None:
    """The same checks as any other file gets, and as many conditions and labels as examples."""
    levels = None if rows.chances is None else rows.chances.levels
    lengths = {len(part) for value in (rows.x, rows.condition, rows.label, levels) if value is not None for part in _tensors(value)}
    if len(lengths) > 1 or (condition is not None and rows.condition is None):
        raise InvalidInput(f"{split} has examples, conditions and labels of different lengths {sorted(lengths)}.")
    checks: list[tuple[Space, Callable[[Any], Value | None]]] = [(space, lambda batch: batch.x)]
    checks += [] if condition is None else [(condition, lambda batch: batch.condition)]
    for batch in rows.batches():
        for each, part in checks:
            value = part(batch)
            assert value is not None
            each.validate(value, split)


def _tensors(value: Value) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value.values())
