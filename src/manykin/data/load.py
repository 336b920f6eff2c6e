"""From a source to a :class:`~manykin.data.dataset.Dataset`: the space is read off the content.

============================================  ====================================================================  ==========================
input                                         space                                                                 comes back as
============================================  ====================================================================  ==========================
float array (n, d)                            ``Vector(d)``; columns on a grid (whole numbers, repeated decimals,   array of the same dtype
                                              even spacings) keep their ``step`` and are dequantised
integer array, at most 256 levels             ``Vector`` with ``levels``; wider or negative: ``step`` 1             integer array
uint8 (n, h, w[, c]), folder of pictures      ``Image``, 256 levels (16-bit grey: 65,536; black and white: 2),      uint8 array, PNG files
                                              channels last outside, first inside
float (n, h, w[, c])                          ``Image`` with the levels of its grid (k / 255), else real-valued     float array
DataFrame, CSV, Parquet                       ``Table``: real, integer, categorical, each with missing values       DataFrame, same dtypes
list of strings, text file with ``lines``     ``Tokens`` with an end symbol                                         list of strings
text file                                     ``Tokens``, a stream cut into blocks of 64 characters                 strings
NPZ                                           by its arrays: x_train, x_test, y_train, y_test; or x, y; or one      as the array
mapping of arrays                             ``Record``, each field by this table                                  mapping of arrays
torch tensor                                  as the array; pictures (n, c, h, w) with the channels first           tensor of the same dtype
safetensors                                   a data set with its splits, as ``manykin compare`` prepares it        as the original
============================================  ====================================================================  ==========================

Objects in memory are used whole for training. Files are split 80/10/10 at random with a fixed seed (a text stream: contiguously), unless they
hold splits of their own. What a column *is* (its type and grid) is read from all rows, as its dtype is; what it *holds* (categories, symbols,
range of levels) from the training rows only. Rows of the other splits that hold a category, symbol, level or label never seen in training have no
code: they are left out of their split, counted under ``outside`` in the provenance, and a warning says so.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from manykin.data.arrays import describe_arrays
from manykin.data.binarise import binarised
from manykin.data.catalogue import TABLE, load_named
from manykin.data.conditions import describe_condition, encode_condition
from manykin.data.dataset import Dataset, Rows
from manykin.data.forms import Form, as_array
from manykin.data.limits import check_memory
from manykin.data.options import DataOptions
from manykin.data.prepared import is_prepared, load_prepared
from manykin.data.source import Source, read_source
from manykin.data.splits import Split, check_trainable, cut_splits, limited, rows_of
from manykin.errors import InvalidInput, suggest
from manykin.spaces import Labels, Record, Space, Tokens, Value, Vector, count


def load_data(source: Any, *, condition: Any = None, options: DataOptions | Mapping[str, Any] | None = None, seed: int = 0) -> Dataset:
    """Load a data set.

    Args:
        source: a name listed by ``manykin data``, a path, an array, tensor, DataFrame, list of strings, mapping of arrays, or a ``Dataset``.
        condition: labels or real vectors, one a row; a column's name; True or "label" for the labels that the source brings; None for none.
        options: overrides of what is read off the content.
        seed: of the draws of a toy and of the subset of ``max_rows``. Splits have the seed of their own in the options.

    Raises:
        InvalidInput: for anything that is no usable data, in one line with the remedy.
    """
    if isinstance(source, Dataset):
        return source
    chosen = read_options(options)
    wanted = chosen.condition if condition is None else condition
    if isinstance(source, str) and source in TABLE:
        _check_named(source, chosen)
        named = binarised(load_named(source, named_condition(source, wanted), seed), chosen)
        return limited(named, chosen.max_rows, seed)
    if is_prepared(source):
        return limited(load_prepared(source, wanted, chosen.to_json(), DataOptions().to_json()), chosen.max_rows, seed)
    found = read_source(source, chosen)
    own = dict(found.labels)
    take_condition(found, wanted)
    _as_kind(found, chosen)
    return _assemble(found, wanted is not None and wanted is not False, own, chosen, seed)


def load_rows(
    source: Any, space: Space, form: Form, *, condition_space: Space | None = None, condition: Any = None,
    options: DataOptions | Mapping[str, Any] | None = None, lenient: bool = False,
) -> Rows:  # fmt: skip
    """Rows for a model that exists: the source encoded strictly in that model's spaces; the test split where the source has one of its own.

    ``lenient``: values outside the space are kept as they are (unknown categories as -1) for the caller to find.

    Raises:
        InvalidInput: for values outside the spaces, naming row and column, or a condition that is missing.
    """
    chosen = read_options(options)
    if condition is None and condition_space is not None:
        condition = chosen.condition or (True if isinstance(source, str) and source in TABLE else None)
    if chosen.binarise is not None and not is_prepared(source):
        whole = {} if isinstance(source, str) and source in TABLE else {"val": 0.0, "test": 0.0}
        source = load_data(source, condition=condition, options=chosen.replace(whole))
    elif isinstance(source, str) and source in TABLE:
        source = load_named(source, named_condition(source, condition), 0)
    if is_prepared(source):
        source = load_prepared(source, condition, chosen.to_json(), DataOptions().to_json())
    if isinstance(source, Dataset):
        rows = source.test or source.train
        if source.space != space:
            raise InvalidInput(f"{source.name} is {source.space}; expected data of {space}, the space that the model was fitted in.")
        if condition_space is not None and rows.condition is None:
            raise InvalidInput(f"{source.name} was loaded without its condition; expected one of {condition_space} a row.")
        return rows if condition_space is not None else dataclasses.replace(rows, condition=None)
    found = read_source(source, chosen)
    take_condition(found, condition)
    split = "test" if "test" in found.parts else "all"
    if found.kind == "stream":
        from manykin.data.strings import known_blocks

        assert isinstance(space, Tokens)
        x: Value = space.validate(known_blocks(found.parts[split], space, form.option("unit"), found.name))
    else:
        x = form.tensor(found.parts[split], space, lenient=True) if lenient else form.encode(found.parts[split], space)
    if condition_space is None:
        return Rows(x)
    if split not in found.labels:
        raise InvalidInput(
            f"the condition is missing; expected one of {condition_space} for each of {count(x)} rows: give an array, or a column's name."
        )
    return Rows(x, encode_condition(found.labels[split], condition_space, count(x)))


def read_options(options: DataOptions | Mapping[str, Any] | None) -> DataOptions:
    """Options from whatever a call gave."""
    return options if isinstance(options, DataOptions) else DataOptions.from_json(options or {})


def named_condition(name: str, condition: Any) -> bool:
    """Whether the labels of a named set are asked for.

    Raises:
        InvalidInput: for anything but True, "label", False or None.
    """
    if condition is None or condition is False:
        return False
    if condition is True or (isinstance(condition, str) and condition in ("label", "labels", "class", "y")):
        return True
    shown = repr(condition) if isinstance(condition, str) else f"a {type(condition).__name__}"
    raise InvalidInput(f"condition = {shown} does not fit the data set {name}; expected 'label' (or True) for its labels.")


def take_condition(found: Source, condition: Any) -> None:
    """Put the wanted conditions into ``found.labels``: a column leaves the table, an array is checked for its length."""
    if condition is None or condition is False:
        found.labels = {}
    elif isinstance(condition, str) and found.kind == "frame":
        frame = found.parts["all"]
        columns = {str(column): column for column in frame.columns}
        if condition not in columns:
            raise InvalidInput(f"the condition column {condition!r} is not in the table.{suggest(condition, columns)}")
        if len(columns) == 1:
            raise InvalidInput(f"the table has no column besides the condition {condition!r}; expected data to model.")
        found.labels = {"all": frame[columns[condition]]}
        found.provenance["condition"] = condition
        found.parts = {"all": frame.drop(columns=[columns[condition]])}
    elif condition is True or isinstance(condition, str):
        if found.unlabelled:
            raise InvalidInput(
                f"condition = {condition!r}, but {found.name} has no labels for its split {found.unlabelled[0]!r}; expected labels for every split."
            )
        if not found.labels:
            raise InvalidInput(f"condition = {condition!r}, but {found.name} brings no labels; give them as an array, or name a column of a table.")
        found.provenance["condition"] = "label"
    elif "all" not in found.parts:
        raise InvalidInput(f"{found.name} has splits of its own, so that an array of conditions fits none; use condition=True for its labels.")
    else:
        found.labels = {"all": condition}


def _assemble(found: Source, conditional: bool, own: dict[str, Any], options: DataOptions, seed: int) -> Dataset:
    sizes = {split: _length(found, part) for split, part in found.parts.items()}
    if min(sizes.values()) == 0 or sizes.get("all", sizes.get("train", 0)) < 2:
        raise InvalidInput(f"{found.name} has {max(sizes.values())} row; expected at least 2 to learn from.")
    space: Space
    if found.kind == "stream":
        bases, space, form, dropped = _stream(found, options)
        splits: dict[str, Split] = {split: {split: slice(None)} for split in bases}
        found.lossy += [f"the last {dropped} symbols, less than a block, left out"] if dropped else []
    else:
        splits = cut_splits(found, sizes, options, seed)
        train = splits["all" if "all" in splits else "train"]["train"]
        space, form = _describe(found, train, options)
        bases = {split: _tensors(part, space, form) for split, part in found.parts.items()}
    condition, codes = _conditions(found, sizes, splits, options) if conditional else (None, {})
    rows, outside = rows_of(bases, codes, splits, space, condition)
    rows["train"] = dataclasses.replace(rows["train"], stream=found.kind == "stream")
    provenance = {
        "name": found.name, **found.provenance, "rows": {split: len(part) for split, part in rows.items()},
        "split": _rule(found, options), "licence": None, "lossy": found.lossy, "outside": outside,
    }  # fmt: skip
    check_trainable(rows["train"], space, _called(found))
    rows, classes = _labelled(rows, condition, own, sizes, splits, options)
    data = Dataset(found.name, space, rows["train"], rows.get("val"), rows.get("test"), condition, form, provenance, classes=classes)
    return binarised(data, options)


def _check_named(name: str, options: DataOptions) -> None:
    plain = DataOptions()
    for key in options.to_json():
        if key not in ("condition", "max_rows", "split_seed", "binarise") and getattr(options, key) != getattr(plain, key):
            raise InvalidInput(f"data.{key} does not apply to {name}, which has a space and splits of its own; leave it out.")


def _as_kind(found: Source, options: DataOptions) -> None:
    """Honour ``data.kind`` for tables and texts; arrays look at it themselves."""
    if found.kind == "frame" and options.kind == "vector":
        found.kind, found.parts = "array", {"all": as_array(found.parts["all"]).astype(np.float64)}
    fits = {"frame": "table", "strings": "text", "stream": "text"}.get(found.kind)
    if fits is not None and options.kind not in (None, fits):
        raise InvalidInput(f"data.kind = {options.kind!r} does not fit {found.name}; expected {fits}, or leave it out.")
    if found.kind == "stream" and options.max_rows is not None:
        raise InvalidInput(f"data.max_rows does not fit a stream of text; cut {found.name} itself, or read it with --data.lines true.")


def _length(found: Source, part: Any) -> int:
    return count(part) if found.kind == "record" else len(part)


def _rule(found: Source, options: DataOptions) -> str:
    if "all" not in found.parts:
        return "the source's own"
    if not found.split:
        return "all rows for training"
    held = f"{options.val:g} validation, {options.test:g} test"
    return f"contiguous: {held}" if found.kind == "stream" else f"random: {held}, seed {options.split_seed}"


def _called(found: Source) -> str:
    """What messages call the data: the file, or x."""
    return str(found.provenance.get("file", "x"))


def _positions(rows: Tensor | slice) -> Any:
    return rows if isinstance(rows, slice) else rows.numpy()


def _describe(found: Source, train: Tensor | slice, options: DataOptions) -> tuple[Space, Form]:
    at = _positions(train)
    if found.kind == "frame":
        from manykin.data.frames import describe_frame

        return describe_frame(found.parts["all"], at, options)
    if found.kind == "strings":
        from manykin.data.strings import describe_strings

        first: list[str] = found.parts["all" if "all" in found.parts else "train"]
        return describe_strings(first if isinstance(at, slice) else [first[index] for index in at], options)
    if found.kind == "record":
        described = {key: describe_arrays([array], at, options, name=f"x[{key!r}]") for key, array in found.parts["all"].items()}
        fields = {key: form.to_json() for key, (_, form) in described.items()}
        return Record({key: space for key, (space, _) in described.items()}), Form("record", "float32", {"fields": fields})
    ordered = sorted(found.parts.items(), key=lambda item: item[0] not in ("all", "train"))
    chosen = options.replace({"levels": found.levels}) if found.levels is not None and options.levels is None else options
    kind = str(ordered[0][1].dtype).removeprefix("torch.") if found.kind == "tensor" else None
    return describe_arrays([as_array(part) for _, part in ordered], at, chosen, kind, _called(found))


def _tensors(part: Any, space: Space, form: Form) -> Value:
    if isinstance(space, Vector) and isinstance(part, np.ndarray) and part.dtype.kind != "f":
        check_memory(8 * part.size, "the whole numbers of x as floats", DataOptions(), "Save them as float32, which is read from disk.")
    return form.tensor(part, space, lenient=True)


def _stream(found: Source, options: DataOptions) -> tuple[dict[str, Value], Tokens, Form, int]:
    from manykin.data.strings import blocks, describe_stream

    text = found.parts["all"]
    first, second = round(len(text) * (1 - options.val - options.test)), round(len(text) * (1 - options.test))
    texts = {"train": text[:first], "val": text[first:second], "test": text[second:]}
    space, form = describe_stream(texts["train"], options)
    cut = {split: blocks(part, space, options.unit) for split, part in texts.items()}
    if len(cut["train"][0]) < 2:
        raise InvalidInput(f"{found.name} has {len(text)} {options.unit}; expected at least two blocks of {space.length} to train on (data.length).")
    return {split: part for split, (part, _) in cut.items() if len(part)}, space, form, sum(rest for _, rest in cut.values())


def _labelled(
    rows: dict[str, Rows], condition: Space | None, own: dict[str, Any], sizes: dict[str, int], splits: dict[str, Split], options: DataOptions
) -> tuple[dict[str, Rows], Labels | None]:  # fmt: skip
    """Rows with the classes that metrics may use: the labels that they are conditioned on, else those that the source brings."""
    if isinstance(condition, Labels):
        return {split: dataclasses.replace(part, label=part.condition) for split, part in rows.items()}, condition  # type: ignore[arg-type]
    if condition is not None or set(own) != set(sizes) or any(len(own[part]) != sizes[part] for part in sizes):
        return rows, None
    first = "all" if "all" in own else "train"
    try:
        classes = describe_condition(own[first], _positions(splits[first]["train"]), options)
    except InvalidInput:
        return rows, None
    if not isinstance(classes, Labels):
        return rows, None
    codes = {part: encode_condition(values, classes, sizes[part], lenient=True) for part, values in own.items()}
    part_of = {split: part for part, cut in splits.items() for split in cut}
    return {split: dataclasses.replace(each, label=codes[part_of[split]]) for split, each in rows.items()}, classes


def _conditions(found: Source, sizes: dict[str, int], splits: dict[str, Split], options: DataOptions) -> tuple[Space, dict[str, Tensor]]:
    first = "all" if "all" in found.labels else "train"
    for split, labels in found.labels.items():
        held = len(labels) if hasattr(labels, "__len__") else 1
        if held != sizes[split]:
            raise InvalidInput(f"the condition has {held} values for {sizes[split]} rows of data; expected one a row.")
    space = describe_condition(found.labels[first], _positions(splits[first]["train"]), options)
    return space, {split: encode_condition(labels, space, sizes[split], lenient=True) for split, labels in found.labels.items()}


__all__ = ["load_data", "load_rows", "named_condition", "read_options", "take_condition"]
