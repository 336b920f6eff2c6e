"""From whatever a user names or passes to plain objects (arrays, frames, strings) with labels and provenance, not yet tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from manykin.data.limits import reading, sha256_of_arrays, sha256_of_file
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput, suggest

Kind = Literal["array", "tensor", "frame", "strings", "stream", "record"]
_CSV = (".csv", ".tsv", ".data")
_TEXT = (".txt", ".text", ".md")
_PARQUET = (".parquet", ".pq")
_ACCEPTED = ", ".join((*_CSV, *_TEXT, *_PARQUET, ".npy", ".npz"))


@dataclass
class Source:
    """What was read. ``parts`` holds the one split ``all``, or the source's own splits; ``labels`` has the same keys, or is empty;
    ``unlabelled`` names the splits without labels where only some have them."""

    name: str
    kind: Kind
    parts: dict[str, Any]
    labels: dict[str, Any] = field(default_factory=dict)
    split: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    lossy: list[str] = field(default_factory=list)
    levels: int | None = None
    unlabelled: tuple[str, ...] = ()


def read_source(source: Any, options: DataOptions) -> Source:
    """Read a file or folder, or take an object as it is.

    Raises:
        InvalidInput: for what does not exist, cannot be read, or is no data.
    """
    if isinstance(source, (str, Path)):
        return _from_path(Path(source), options)
    if hasattr(source, "iloc") and hasattr(source, "dtypes"):
        frame = source if hasattr(source, "columns") else source.to_frame(name=source.name if source.name is not None else "x0")
        return _from_frame(frame.reset_index(drop=True), "the DataFrame", options, {"source": "DataFrame", "sha256": _frame_hash(frame)})
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if _holds_strings(source):
        from manykin.data.strings import check_strings

        return Source("strings", "strings", {"all": check_strings(source, "x")}, provenance={"source": "list of strings"})
    return _from_numbers(source, options)


def _from_numbers(source: Any, options: DataOptions) -> Source:
    import torch

    from manykin.data.forms import as_array, describe

    if source is None or isinstance(source, (int, float, bool, bytes)) or callable(source):
        raise InvalidInput(f"the data is {describe(source)}; expected a data set's name, a path, an array, tensor, DataFrame or list of strings.")
    array = as_array(source)
    if array.size == 0 or array.ndim == 0:
        raise InvalidInput(f"x is empty (shape {array.shape}); expected rows of data.")
    kind: Kind = "tensor" if isinstance(source, torch.Tensor) else "array"
    value = source.detach() if isinstance(source, torch.Tensor) else array
    return Source(kind, kind, {"all": value}, provenance={"source": kind, "sha256": sha256_of_arrays(array)})


def _from_mapping(source: Mapping[Any, Any]) -> Source:
    from manykin.data.forms import as_array

    parts = {str(key): as_array(value, f"x[{key!r}]") for key, value in source.items()}
    sizes = {key: len(value) for key, value in parts.items() if value.ndim}
    if not parts or len(sizes) < len(parts) or len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise InvalidInput(f"a mapping of arrays needs fields of one length each; got {sizes or 'no fields'}.")
    note = {"source": "record", "sha256": sha256_of_arrays(*parts.values())}
    return Source("record", "record", {"all": parts}, provenance=note)


def _holds_strings(source: Any) -> bool:
    if isinstance(source, (list, tuple)):
        return bool(source) and isinstance(source[0], str)
    return getattr(getattr(source, "dtype", None), "kind", "") in ("U", "T") and getattr(source, "ndim", 0) == 1


def _from_path(path: Path, options: DataOptions) -> Source:
    with reading(path):
        if not path.exists():
            raise InvalidInput(_unknown(path))
        if path.is_dir():
            return _from_folder(path, options)
        if path.stat().st_size == 0:
            raise InvalidInput(f"{path} is empty (0 bytes); expected data.")
        with path.open("rb") as file:
            head = file.read(8)
    kind = _kind_of(path, head, options)
    loaded = {"npy": _from_npy, "npz": _from_npz, "parquet": _from_parquet, "csv": _from_csv, "text": _from_text}[kind](path, options)
    loaded.provenance = {**loaded.provenance, "file": path.name, "source": kind, "sha256": sha256_of_file(path)}
    loaded.name = path.stem
    return loaded


def _unknown(path: Path) -> str:
    from manykin.data.catalogue import names

    known = names()
    looks_like_path = path.parent != Path(".") or path.suffix != ""
    if not looks_like_path:
        return f"{str(path)!r} is neither a data set nor a file or folder.{suggest(str(path), known)}"
    near = suggest(path.name, [item.name for item in path.parent.iterdir()]) if path.parent.is_dir() else ""
    hint = near if "Did you mean" in near else " Give the path of a file or folder, or a name listed by `manykin data`."
    return f"{path} does not exist.{hint}"


def _kind_of(path: Path, head: bytes, options: DataOptions) -> str:
    suffix = path.suffix.lower()
    if options.kind == "text" or (suffix in _TEXT and options.kind != "table"):
        return "text"
    if suffix in _CSV:
        return "csv"
    if suffix == ".npy" or head.startswith(b"\x93NUMPY"):
        return "npy"
    if suffix == ".npz":
        return "npz"
    if suffix in _PARQUET or head.startswith(b"PAR1"):
        return "parquet"
    if suffix in (".gz", ".zip", ".xz", ".bz2", ".tar", ".7z") or head.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        raise InvalidInput(f"{path} is an archive; expected data: unpack it first.")
    if b"\0" not in head and options.kind == "table":
        return "csv"
    if b"\0" in head or suffix != "":
        raise InvalidInput(f"{path} is of no known kind; expected {_ACCEPTED} or a folder of pictures{_remedy(path)}.")
    return "text"


def _remedy(path: Path) -> str:
    """How a text under another suffix can be read all the same; nothing for a binary file."""
    from manykin.data.csvs import delimiter_of

    with reading(path), path.open("rb") as file:
        head = file.read(1 << 14)
    if b"\0" in head:
        return ""
    mark = delimiter_of(head.decode("utf-8", errors="replace"))
    if mark is None:
        return "; if it is text, give --data.kind text, or table for a CSV"
    return f"; its lines split evenly at {mark!r}: to read it as CSV, give --data.kind table"


def _from_npy(path: Path, options: DataOptions) -> Source:
    from manykin.data.files import read_npy

    return Source("", "array", {"all": read_npy(path)}, split=True)


def _from_npz(path: Path, options: DataOptions) -> Source:
    from manykin.data.files import read_npz, split_npz

    parts, labels = split_npz(read_npz(path, options), options, str(path))
    bare = tuple(split for split in parts if split not in labels) if labels else ()
    labels = {} if bare else labels
    for split, array in parts.items():
        if array.size == 0 or array.ndim == 0:
            raise InvalidInput(f"{path}, split {split!r} is empty (shape {array.shape}); expected rows of data.")
    labels = {split: values.reshape(len(values)) if values.ndim == 2 and values.shape[1] == 1 else values for split, values in labels.items()}
    if next(iter(parts.values())).dtype.kind in "US":
        return Source("", "strings", {split: array.tolist() for split, array in parts.items()}, labels, "all" in parts, unlabelled=bare)
    return Source("", "array", parts, labels, split="all" in parts, unlabelled=bare)


def _from_parquet(path: Path, options: DataOptions) -> Source:
    from manykin.data.files import read_parquet

    return _from_frame(read_parquet(path, options), path.name, options, {}, split=True)


def _from_csv(path: Path, options: DataOptions) -> Source:
    from manykin.data.csvs import read_csv

    options = options.replace({"delimiter": "\t"}) if path.suffix.lower() == ".tsv" and options.delimiter is None else options
    return _from_frame(read_csv(path, options), path.name, options, {}, split=True, dropped=True)


def _from_frame(frame: Any, name: str, options: DataOptions, note: dict[str, Any], split: bool = False, dropped: bool = False) -> Source:
    known = [str(column) for column in frame.columns]
    repeated = next((column for column in known if known.count(column) > 1), None) if len(set(known)) < len(known) else None
    if repeated is not None:
        raise InvalidInput(f"{name} has the column name {repeated!r} {known.count(repeated)} times; expected distinct names: rename one.")
    if not dropped:
        for column in options.drop:
            if column not in known:
                raise InvalidInput(f"data.drop names the column {column!r}, which the table does not have.{suggest(column, known)}")
        frame = frame[[column for column in frame.columns if str(column) not in options.drop]]
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise InvalidInput(f"{name} is empty ({frame.shape[0]} rows, {frame.shape[1]} columns); expected rows of data.")
    return Source(name, "frame", {"all": frame}, split=split, provenance=note)


def _from_text(path: Path, options: DataOptions) -> Source:
    from manykin.data.files import read_text

    text = read_text(path, options)
    if options.lines:
        return Source("", "strings", {"all": [line for line in text.splitlines() if line]}, split=True)
    return Source("", "stream", {"all": text}, split=True)


def _from_folder(path: Path, options: DataOptions) -> Source:
    from manykin.data.pictures import read_pictures

    found = read_pictures(path, options)
    note = {"file": path.resolve().name, "source": "folder of pictures", "sha256": found.sha256}
    return Source(path.resolve().name, "array", found.x, found.labels, "all" in found.x, note, found.lossy, found.levels)


def _frame_hash(frame: Any) -> str:
    """The hash of a frame's names, types and content."""
    import hashlib

    import pandas as pd

    digest = hashlib.sha256(repr([(str(name), str(dtype)) for name, dtype in zip(frame.columns, frame.dtypes, strict=True)]).encode())
    for index in range(frame.shape[1]):
        column = frame.iloc[:, index]
        try:
            digest.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
        except TypeError:
            digest.update("\0".join(map(repr, column)).encode())
    return digest.hexdigest()
