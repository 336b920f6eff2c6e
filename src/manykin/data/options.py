"""The options of reading data: every ``--data.FIELD`` that overrides what is read off the content."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from manykin.config import Config, option


@dataclass(frozen=True)
class DataOptions(Config):
    """How a source becomes a space and splits. None leaves the choice to the content, by the table in :mod:`manykin.data.load`."""

    label: ClassVar[str] = "data"

    kind: Literal["vector", "image", "table", "text"] | None = option(None, "read the data as this kind of space instead of deciding by content")
    condition: str | None = option(None, "the column (or `label`) to condition on, where the call names none")
    levels: int | None = option(None, "arrays and pictures hold whole numbers from 0 to levels - 1", ge=1)
    step: bool = option(True, "look for columns on a grid (rounded decimals, whole numbers); false takes all floats as continuous")
    categorical: tuple[str, ...] = option((), "columns of a table to read as categories")
    integer: tuple[str, ...] = option((), "columns of a table to read as whole numbers")
    real: tuple[str, ...] = option((), "columns of a table to read as continuous numbers")
    drop: tuple[str, ...] = option((), "columns of a table to leave out")
    header: bool | None = option(None, "whether the first line of a CSV holds the column names; none decides by content")
    delimiter: str | None = option(None, "the separator of a CSV; none chooses among comma, semicolon, tab and |")
    missing: tuple[str, ...] = option(
        ("?", "NaN", "nan", "NA", "N/A", "NULL", "null", "None"), "what marks a missing value in a CSV, besides an empty field"
    )
    size: tuple[int, ...] | None = option(None, "resize pictures to height,width (lossy, recorded)", ge=1)
    mode: Literal["grey", "rgb", "rgba"] | None = option(None, "convert pictures to this mode (lossy, recorded)")
    channels: Literal["first", "last"] | None = option(None, "where the channels of a 4-D array are; none decides by content")
    binarise: Literal["dynamic", "static", "threshold"] | None = option(
        None, "grey pictures to black and white, by chance (anew at each training step, or once) or by a threshold (lossy, recorded)"
    )
    labels: str | None = option(None, "a CSV with one line a picture: file name, label")
    array: str | None = option(None, "the array of an NPZ file to use")
    unit: Literal["characters", "bytes"] = option("characters", "what one symbol of a text is")
    lines: bool = option(False, "each line of a text file is a datum of its own; false reads one stream")
    length: int | None = option(None, "block length of a text stream (default 64), or the most symbols of a string", ge=1)
    val: float = option(0.1, "fraction of a file's rows held back for validation", ge=0, lt=1)
    test: float = option(0.1, "fraction of a file's rows held back as test split", ge=0, lt=1)
    split_seed: int = option(0, "seed of the split of a file", ge=0)
    max_rows: int | None = option(None, "use at most so many rows, a seeded random subset (recorded)", ge=2)
    max_bytes: int | None = option(None, "refuse to read more bytes into memory; none allows what the free memory can hold", ge=1)
    max_pixels: int = option(50_000_000, "refuse pictures of more pixels, before decoding them", ge=1)
    max_levels: int = option(256, "whole numbers of a wider range than this are unbounded integers, not levels", ge=2)
    max_classes: int = option(1000, "refuse a condition of more different labels", ge=1)
    max_categories: int = option(1000, "refuse a text column of more different values", ge=1)
