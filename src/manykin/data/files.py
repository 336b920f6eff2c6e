"""Reading NPY, NPZ, Parquet and text files safely: sizes and types are checked before anything is read into memory, and nothing is unpickled."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from manykin.data.limits import Budget, check_memory, reading
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput, suggest


def read_npy(path: Path) -> Any:
    """A NumPy file as a memory-mapped array: nothing is read until rows are used, and nothing is ever written back.

    Raises:
        InvalidInput: for another kind of file, object arrays, and a file shorter than its header says.
    """
    with reading(path), path.open("rb") as file:
        shape, fortran, dtype = _header(file, str(path))
        offset = file.tell()
    needed = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if path.stat().st_size < needed:
        raise InvalidInput(f"{path} is cut short: {path.stat().st_size} of {needed} bytes; write it again.")
    if 0 in shape or not shape:
        raise InvalidInput(f"{path} holds an array of shape {shape}; expected rows of data.")
    return np.memmap(path, dtype=dtype, mode="c", offset=offset, shape=shape, order="F" if fortran else "C").view(np.ndarray)


def read_npz(path: Path, options: DataOptions) -> dict[str, Any]:
    """The arrays of an NPZ file by name.

    Raises:
        InvalidInput: for a damaged archive, object arrays, and contents that would not fit into memory.
    """
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            members = [item for item in archive.infolist() if item.filename.endswith(".npy")]
            check_memory(sum(item.file_size for item in members), str(path), options, "Save the array as NPY, which is read from disk.")
            found = {item.filename[:-4]: _read_member(archive, item, str(path)) for item in members}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} is damaged or not an NPZ file ({error}); write it again with numpy.savez.") from error
    if not found:
        raise InvalidInput(f"{path} holds no arrays; expected an NPZ file with x_train, x_test, or one array.")
    return found


def _read_member(archive: zipfile.ZipFile, item: zipfile.ZipInfo, path: str) -> Any:
    """One array of an archive. What is unpacked ends at the size that the archive's directory states, so a member cannot exceed what was allowed."""
    name = f"{path}, array {item.filename[:-4]!r}"
    if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidInput(f"{name} is packed in a way that numpy never writes; write it again with numpy.savez_compressed.")
    with archive.open(item) as file:
        shape, _, dtype = _header(file, name)
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > item.file_size:
        raise InvalidInput(f"{name} is cut short: its header promises more than the archive holds.")
    with archive.open(item) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:
        raise InvalidInput(f"{name} is damaged or not a NumPy file ({str(error).splitlines()[0]}); write it again with numpy.save.") from error
    if dtype.hasobject:
        raise InvalidInput(f"{name} is an object array, which only unpickling could read and is not done; save plain numbers: astype(float).")
    if dtype.fields or dtype.kind not in "biufUS":
        raise InvalidInput(f"{name} has dtype {dtype}; expected plain numbers or texts.")
    return shape, fortran, dtype


_ALIASES = {
    "train": (("x_train", "y_train"), ("train", "train_labels"), ("train_images", "train_labels"), ("x_train", "train_labels")),
    "val": (("x_val", "y_val"), ("x_valid", "y_valid"), ("val", "val_labels"), ("valid", "valid_labels"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test", "test_labels"), ("test_images", "test_labels")),
}
_WHOLE = (("x", "y"), ("data", "target"), ("images", "labels"), ("x", "label"))


def split_npz(arrays: Mapping[str, Any], options: DataOptions, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The examples and labels of an NPZ file by split; the one split ``all`` where the file has none.

    Labels may be there for some splits only.

    Raises:
        InvalidInput: where it is not clear which array is meant, listing what there is, and for labels of another length than their examples.
    """
    lower = {key.lower(): array for key, array in arrays.items()}
    if options.array is not None:
        if options.array not in arrays:
            raise InvalidInput(f"{name} has no array {options.array!r}.{suggest(options.array, arrays)}")
        return {"all": arrays[options.array]}, {}
    x, y = {}, {}
    for split, pairs in _ALIASES.items():
        for key, label in pairs:
            if key in lower and split not in x:
                x[split] = lower[key]
                if label in lower:
                    y[split] = _fitting(lower, key, label, name)
    if "train" in x:
        return x, y
    for key, label in _WHOLE:
        if key in lower:
            return {"all": lower[key]}, {"all": _fitting(lower, key, label, name)} if label in lower else {}
    if len(arrays) == 1:
        return {"all": next(iter(arrays.values()))}, {}
    listed = ", ".join(f"{key} {array.shape}" for key, array in list(arrays.items())[:6])
    raise InvalidInput(f"{name} holds {listed}; expected x_train and x_test, or x, or one array: name one with --data.array.")


def _fitting(arrays: Mapping[str, Any], key: str, label: str, name: str) -> Any:
    rows, held = (arrays[each].shape[0] if arrays[each].ndim else 1 for each in (key, label))
    if rows != held:
        raise InvalidInput(
            f"{name} holds {held} labels in {label} for {rows} rows in {key}; expected one label a row: write it again, or leave {label} out."
        )
    return arrays[label]


def read_parquet(path: Path, options: DataOptions) -> Any:
    """A Parquet file as a pandas frame.

    Texts are read as codes into dictionaries, and unpacked only once their real size is known to be allowed: encoded, they may be tiny.

    Raises:
        InvalidInput: for a damaged file, nested columns, and contents that would not fit into memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with reading(path), pq.ParquetFile(path) as file:
            schema, meta = file.schema_arrow, file.metadata
            for field in schema:
                if pa.types.is_nested(field.type):
                    raise InvalidInput(f"{path}, column {field.name!r} is nested ({field.type}); expected one value a row: flatten or drop it.")
            budget = Budget(str(path), options, "Save the numeric columns as NPY, which is read from disk, or use fewer rows.")
            stored = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
            widths = sum(field.type.byte_width for field in schema if pa.types.is_fixed_size_binary(field.type))
            budget.check(max(2 * stored, (16 * meta.num_columns + 2 * widths) * meta.num_rows))
            chained = _chained(meta)
        texts = [field.name for field in schema if _is_text(field.type) and field.name not in chained]
        with reading(path), pq.ParquetFile(path, read_dictionary=texts) as file:
            frame = pa.Table.from_batches(_decoded(file, schema, budget, 64 if chained else 1 << 16), schema).unify_dictionaries().to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} is damaged or not a Parquet file ({str(error).splitlines()[0][:100]}); write it again.") from error
    return frame.reset_index() if frame.index.name is not None else frame.reset_index(drop=True)


def _chained(meta: Any) -> set[str]:
    """Columns whose texts repeat the start of the one before them: the reader unpacks these itself, so that it must be given few rows at a time."""
    columns = [meta.row_group(group).column(index) for group in range(meta.num_row_groups) for index in range(meta.num_columns)]
    return {column.path_in_schema for column in columns if "DELTA_BYTE_ARRAY" in column.encodings}


def _decoded(file: Any, schema: Any, budget: Budget, rows: int) -> Iterator[Any]:
    """The batches of a Parquet file in the types of ``schema``, each refused before it is unpacked where it exceeds the budget."""
    import pyarrow as pa

    taken, seen = 0, set()
    for batch in file.iter_batches(batch_size=rows):
        for column, field in zip(batch.columns, schema, strict=True):
            if _is_text(field.type):
                taken += _TEXT_COPIES * _unpacked_bytes(column)
            elif pa.types.is_dictionary(column.type):
                words = tuple(buffer.address for buffer in column.dictionary.buffers() if buffer is not None)
                taken += 2 * column.indices.nbytes + (0 if words in seen else 2 * column.dictionary.nbytes)
                seen.add(words)
            else:
                taken += 2 * column.nbytes
            budget.check(taken, least=True)
        yield pa.RecordBatch.from_arrays([column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)], schema=schema)


_TEXT_COPIES = 3
"""A text is held by Arrow, by the frame, and by the column that is made of it."""


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _unpacked_bytes(column: Any) -> int:
    """The bytes of a column of texts once every row holds its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).cast(pa.int64()).take(column.indices)
    return int(pc.sum(lengths).as_py() or 0) + 8 * len(column)


def read_text(path: Path, options: DataOptions) -> str:
    """A UTF-8 text file, line ends as they are.

    Raises:
        InvalidInput: for other encodings, binary files, and files that would not fit into memory.
    """
    with reading(path):
        check_memory(12 * path.stat().st_size, str(path), options, "Use a part of it.")
        content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {content[error.start]:#04x} at position {error.start}); convert it.") from error
    if "\0" in text:
        raise InvalidInput(f"{path} is a binary file (a zero byte at position {text.index(chr(0))}); expected text.")
    if not text.strip():
        raise InvalidInput(f"{path} is empty; expected text.")
    return text
