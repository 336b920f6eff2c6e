"""Reading NPY, NPZ, Parquet and text files safely: sizes and types are checked before anything is read into memory, and nothing is unpickled."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from manykin.data.limits import check_memory, reading
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
            for item in members:
                with archive.open(item) as file:
                    shape, _, dtype = _header(file, f"{path}, array {item.filename[:-4]!r}")
                if int(np.prod(shape, dtype=object)) * dtype.itemsize > item.file_size:
                    raise InvalidInput(f"{path}, array {item.filename[:-4]!r} is cut short: its header promises more than the archive holds.")
            remedy = "Save the array as NPY, which is read from disk."
            check_memory(sum(item.file_size for item in members), str(path), options, remedy)
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, NotImplementedError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} is damaged or not an NPZ file ({error}); write it again with numpy.savez.") from error
    if not found:
        raise InvalidInput(f"{path} holds no arrays; expected an NPZ file with x_train, x_test, or one array.")
    return found


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

    Raises:
        InvalidInput: where it is not clear which array is meant, listing what there is.
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
                    y[split] = lower[label]
    if "train" in x:
        return x, y if set(y) == set(x) else {}
    for key, label in _WHOLE:
        if key in lower:
            return {"all": lower[key]}, {"all": lower[label]} if label in lower else {}
    if len(arrays) == 1:
        return {"all": next(iter(arrays.values()))}, {}
    listed = ", ".join(f"{key} {array.shape}" for key, array in list(arrays.items())[:6])
    raise InvalidInput(f"{name} holds {listed}; expected x_train and x_test, or x, or one array: name one with --data.array.")


def read_parquet(path: Path, options: DataOptions) -> Any:
    """A Parquet file as a pandas frame.

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
            stored = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
            remedy = "Save the numeric columns as NPY, which is read from disk, or use fewer rows."
            check_memory(max(2 * stored, 16 * meta.num_rows * meta.num_columns), str(path), options, remedy)
            frame = file.read().to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} is damaged or not a Parquet file ({str(error).splitlines()[0][:100]}); write it again.") from error
    return frame.reset_index() if frame.index.name is not None else frame.reset_index(drop=True)


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
