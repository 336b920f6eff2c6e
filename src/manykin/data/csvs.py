"""Reading CSV: strict about ragged rows, careful with sizes, and typed by content column by column."""

import re
from pathlib import Path
from typing import Any

from manykin.data.limits import check_memory, reading
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput

_DELIMITERS = (",", ";", "\t", "|")
_MAX_FIELD = 1 << 24
_DATE = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?$"
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


def read_csv(path: Path, options: DataOptions) -> Any:
    """A CSV file as a pandas frame: whole numbers, floats, booleans, dates in ISO form, or texts, with the missing markers of the options.

    A column of digits with leading zeros (postcodes) stays text, so that it comes back as it went in.

    Raises:
        InvalidInput: for binary, ragged or empty files, repeated column names, fields over 16 MB, and files that would not fit into memory.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    with reading(path):
        size = path.stat().st_size
        check_memory(6 * size, str(path), options, "Convert it to Parquet, or its numbers to NPY, which is read from disk.")
        with path.open("rb") as file:
            head = file.read(1 << 16)
    delimiter, names = _format(head, path, options, complete=size <= 1 << 16)
    bad_rows: list[Any] = []

    def ragged(row: Any) -> str:
        bad_rows.append(row)
        return "error"

    read = pc.ReadOptions(use_threads=False, block_size=_MAX_FIELD, column_names=[f"c{index}" for index in range(len(names[0]))])
    read.skip_rows_after_names = 1 if names[1] else 0
    parse = pc.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=ragged)
    texts = dict.fromkeys(read.column_names, pa.string())
    try:
        with reading(path):
            table = pc.read_csv(path, read, parse, pc.ConvertOptions(column_types=texts, strings_can_be_null=False, quoted_strings_can_be_null=False))
    except pa.ArrowInvalid as error:
        raise InvalidInput(_explain(path, error, bad_rows)) from error
    if not table.num_rows:
        raise InvalidInput(f"{path} has no rows of data; expected lines of values below the header.")
    last = table.column(table.num_columns - 1)[-1].as_py()
    if "\n" in last and _odd_quotes(path):
        raise InvalidInput(f"{path} has an unclosed quote, which swallows all lines from {last[:40]!r} on; close or remove it.")
    return _typed(table, names[0], options)


def _odd_quotes(path: Path) -> bool:
    total = 0
    with reading(path), path.open("rb") as file:
        while block := file.read(1 << 22):
            total += block.count(b'"')
    return total % 2 == 1


def _format(head: bytes, path: Path, options: DataOptions, complete: bool) -> tuple[str, tuple[list[str], bool]]:
    """The delimiter, the column names, and whether the first line holds them."""
    if b"\0" in head or head[:4] in (b"PK\x03\x04", b"PAR1", b"\x89PNG", b"%PDF"):
        raise InvalidInput(f"{path} is a binary file, not a CSV; expected lines of text.")
    if not complete and b"\n" in head:
        head = head[: head.rindex(b"\n")]
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text (byte {head[error.start]:#04x} at position {error.start}); convert it.") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InvalidInput(f"{path} is empty; expected a CSV with a header line.")
    delimiter = options.delimiter or max(_DELIMITERS, key=lambda mark: (lines[0].count(mark) > 0, -_DELIMITERS.index(mark)))
    if len(delimiter) != 1:
        raise InvalidInput(f"data.delimiter = {options.delimiter!r} is not possible; expected one character.")
    first = _fields(lines[0], delimiter)
    header = options.header if options.header is not None else not any(_NUMBER.fullmatch(field) for field in first)
    if not header:
        return delimiter, ([f"x{index}" for index in range(len(first))], False)
    names = [name or f"Unnamed: {index}" for index, name in enumerate(first)]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InvalidInput(f"{path} has the column name {repeated!r} {names.count(repeated)} times; expected distinct names: rename one.")
    return delimiter, (names, True)


def delimiter_of(text: str) -> str | None:
    """The delimiter that splits the first lines of a text into equally many fields, at least two; None where none does."""
    lines = [line for line in text.splitlines()[:20] if line.strip()]
    lines = lines[:-1] if len(lines) > 2 else lines  # The last one may be cut.
    for mark in _DELIMITERS:
        counts = {len(_fields(line, mark)) for line in lines}
        if len(lines) > 1 and len(counts) == 1 and counts.pop() > 1:
            return mark
    return None


def _fields(line: str, delimiter: str) -> list[str]:
    import csv

    return [field.strip() for field in next(csv.reader([line], delimiter=delimiter))]


def _explain(path: Path, error: Exception, bad_rows: list[Any]) -> str:
    if bad_rows:
        row = bad_rows[0]
        line = f" in line {row.number}" if row.number is not None else ""
        shown = row.text if len(row.text) <= 40 else row.text[:40] + "..."
        return f"{path} has {row.actual_columns} fields instead of {row.expected_columns}{line} ({shown!r}); fix this line, or name --data.delimiter."
    if "straddling" in str(error) or "block" in str(error):
        return f"{path} has a field of more than {_MAX_FIELD >> 20} MB or an unclosed quote; fix it."
    reason = str(error).splitlines()[0].removeprefix("CSV parse error: ")[:120]
    return f"{path} cannot be read as CSV ({reason}); expected UTF-8 lines of equally many fields."


def _typed(table: Any, names: list[str], options: DataOptions) -> Any:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    markers = pa.array(sorted({"", *(marker.strip() for marker in options.missing)}), pa.string())
    columns = {}
    for index, name in enumerate(names):
        if name in options.drop:
            continue
        texts = pc.utf8_trim_whitespace(table.column(index))
        texts = pc.if_else(pc.is_in(texts, value_set=markers), pa.scalar(None, pa.string()), texts)
        columns[name] = _column(texts)
    if not columns:
        raise InvalidInput("data.drop leaves no columns; expected at least one.")
    return pd.DataFrame(columns)


def _column(texts: Any) -> Any:
    """Trimmed texts as the narrowest type that holds them all: whole numbers, floats, booleans, ISO dates, texts."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = texts.null_count > 0
    if texts.null_count == len(texts) or pc.any(pc.match_substring_regex(texts, r"^[+-]?0\d+$")).as_py():
        return texts.to_pandas().astype("str")
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = pc.cast(texts, kind)
        except pa.ArrowInvalid:
            continue
        if kind == pa.int64():
            return pd.Series(numbers.to_pandas(integer_object_nulls=True), dtype="Int64" if missing else "int64")
        return numbers.to_pandas()
    if set(pc.unique(pc.utf8_lower(texts)).to_pylist()) <= {"true", "false", None}:
        values = pc.equal(pc.utf8_lower(texts), "true").to_pandas()
        return values.astype("boolean" if missing else "bool")
    if pc.all(pc.match_substring_regex(texts, _DATE)).as_py():
        dates = pd.to_datetime(texts.to_pandas(), errors="coerce", format="ISO8601")
        if int(dates.isna().sum()) == texts.null_count and str(dates.dtype).startswith("datetime64"):
            return dates
    return texts.to_pandas().astype("str")
