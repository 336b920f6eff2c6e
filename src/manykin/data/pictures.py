"""Folders of pictures: sizes and kinds are read from the headers, checked, and only then decoded."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manykin.data.limits import check_memory, reading, sha256_of_file
from manykin.data.options import DataOptions
from manykin.errors import InvalidInput, suggest

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_CHANNELS = {"grey": 1, "16-bit grey": 1, "grey and alpha": 2, "rgb": 3, "rgba": 4, "black and white": 1}
_MODES = {
    "1": "black and white", "L": "grey", "LA": "grey and alpha", "RGB": "rgb", "RGBA": "rgba", "I;16": "16-bit grey", "I;16B": "16-bit grey",
    "I;16L": "16-bit grey", "I": "16-bit grey", "P": "rgb", "CMYK": "rgb", "YCbCr": "rgb", "RGBX": "rgb",
}  # fmt: skip
_PILLOW = {"black and white": "L", "grey": "L", "grey and alpha": "LA", "rgb": "RGB", "rgba": "RGBA"}


@dataclass
class Pictures:
    """Decoded pictures (n, h, w[, c]) and label names by split; the one split ``all`` where the folder names none."""

    x: dict[str, Any]
    labels: dict[str, Any]
    sha256: str
    lossy: list[str] = field(default_factory=list)
    levels: int | None = None


@dataclass(frozen=True)
class _Header:
    path: Path
    name: str
    size: tuple[int, int]
    mode: str
    deep_colour: bool
    lossy_mode: bool


def read_pictures(folder: Path, options: DataOptions) -> Pictures:
    """All pictures of a folder, in the order of their names.

    Sub-folders called train, val (or valid) and test are splits; other sub-folders are labels, unless ``data.labels`` names a CSV.

    Raises:
        InvalidInput: for no pictures, a corrupt one, mixed sizes or kinds, and pictures beyond the limits; each names the file.
    """
    paths = _find(folder)
    headers = [_header(path, path.relative_to(folder).as_posix(), options) for path in paths]
    mode, lossy = _common_mode(headers, options)
    size = _common_size(headers, options, lossy)
    channels = _CHANNELS[mode]
    check_memory(len(paths) * size[0] * size[1] * channels * (2 if mode == "16-bit grey" else 1), str(folder), options, "Resize with --data.size.")
    out = np.empty((len(paths), *size) + ((channels,) if channels > 1 else ()), dtype=np.uint16 if mode == "16-bit grey" else np.uint8)
    digest = hashlib.sha256()
    for index, header in enumerate(headers):
        digest.update(f"{header.name} {sha256_of_file(header.path)}\n".encode())
        out[index] = _decode(header, mode, size)
    splits, labels = _splits_and_labels(headers, folder, options)
    if mode == "black and white":
        out = (out > 0).astype(np.uint8)
    x = {split: out if len(splits) == 1 else out[rows] for split, rows in splits.items()}
    y = {split: [labels[row] for row in rows] for split, rows in splits.items()} if labels else {}
    return Pictures(x, y, digest.hexdigest(), lossy, {"black and white": 2, "16-bit grey": 65_536}.get(mode, 256))


def _find(folder: Path) -> list[Path]:
    with reading(folder):
        everything = [path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
        paths = sorted(path for path in everything if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise InvalidInput(f"{folder} holds no pictures; expected files ending in {', '.join(SUFFIXES)}.")
    return paths


def _header(path: Path, name: str, options: DataOptions) -> _Header:
    """Size and mode without decoding; Pillow reads no pixels until asked."""
    from PIL import Image

    try:
        with reading(path):
            if path.stat().st_size == 0:
                raise InvalidInput(f"{path} is empty; expected a picture: remove it or write it again.")
            width, height = _png_size(path) or (0, 0)
            _check_pixels(path, width, height, options)
            with Image.open(path) as image:
                _check_pixels(path, image.width, image.height, options)
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                size = (image.width, image.height) if turned else (image.height, image.width)
                mode = "rgba" if image.mode == "P" and "transparency" in image.info else _MODES.get(image.mode)
                lossy_mode = image.mode in ("CMYK", "YCbCr")
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError, struct.error) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} is corrupt or not a picture ({str(error).splitlines()[0][:80]}); remove it or write it again.") from error
    if mode is None:
        raise InvalidInput(f"{path} has pixels of mode {image.mode!r}; expected grey, RGB, RGBA or 16-bit grey: convert it.")
    return _Header(path, name, size, mode, _deep_colour(path), lossy_mode)


def _check_pixels(path: Path, width: int, height: int, options: DataOptions) -> None:
    if width * height > options.max_pixels:
        raise InvalidInput(f"{path} has {width} x {height} pixels; at most {options.max_pixels} (data.max_pixels) are decoded. Shrink it first.")


def _png_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a PNG by its first chunk, before any library sees the file."""
    with path.open("rb") as file:
        head = file.read(24)
    return struct.unpack(">II", head[16:24]) if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 24 else None


def _deep_colour(path: Path) -> bool:
    """Whether a PNG holds 16 bits a channel in colour, which Pillow reads as 8."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 26 and head[24] == 16 and head[25] != 0


def _common_mode(headers: Sequence[_Header], options: DataOptions) -> tuple[str, list[str]]:
    """The kind of pixels of all pictures, and the lossy steps on the way to it."""
    lossy = []
    modes = {header.mode: header for header in reversed(headers)}
    if options.mode is None and len(modes) > 1:
        (first, one), (second, other) = sorted(modes.items(), key=lambda item: item[1].name)[:2]
        raise InvalidInput(f"pictures are of mixed kinds: {one.name} is {first}, {other.name} is {second}; choose one with --data.mode rgb or grey.")
    mode: str = options.mode or headers[0].mode
    changed = sorted({header.mode for header in headers} - {mode})
    if changed:
        lossy.append(f"converted from {' and '.join(changed)} to {mode}")
    if any(header.deep_colour for header in headers):
        lossy.append("16-bit colour read as 8-bit")
    if any(header.lossy_mode for header in headers):
        lossy.append("CMYK or YCbCr converted to RGB")
    return mode, lossy


def _common_size(headers: Sequence[_Header], options: DataOptions, lossy: list[str]) -> tuple[int, int]:
    first = headers[0]
    other = next((header for header in headers if header.size != first.size), None)
    if options.size is None:
        if other is not None:
            raise InvalidInput(
                f"pictures are of mixed sizes: {first.name} is {_size(first.size)}, {other.name} is {_size(other.size)} (height x width); "
                f"make them equal, or resize with --data.size {first.size[0]},{first.size[1]}."
            )
        return first.size
    if len(options.size) not in (1, 2):
        raise InvalidInput(f"data.size = {options.size} is not possible; expected height,width.")
    size = (options.size[0], options.size[-1])
    if other is not None or first.size != size:
        lossy.append(f"resized from {'mixed sizes' if other else _size(first.size)} to {_size(size)} (Lanczos, antialiased)")
    return size


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _decode(header: _Header, mode: str, size: tuple[int, int]) -> Any:
    from PIL import Image, ImageOps

    try:
        with reading(header.path), Image.open(header.path) as image:
            picture: Any = ImageOps.exif_transpose(image)
            if mode != "16-bit grey":
                picture = picture.convert(_PILLOW[mode])
            if (picture.height, picture.width) != size:
                picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
            return np.asarray(picture)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = str(error.__cause__ or error).splitlines()[0][:80]
        raise InvalidInput(f"{header.path} is corrupt ({reason}); remove it or write it again.") from error


def _splits_and_labels(headers: Sequence[_Header], folder: Path, options: DataOptions) -> tuple[dict[str, list[int]], list[str] | None]:
    folders = [header.name.split("/")[:-1] for header in headers]
    own = all(parts and parts[0].lower() in _SPLITS for parts in folders) and any(_SPLITS[parts[0].lower()] == "train" for parts in folders)
    splits: dict[str, list[int]] = {}
    for row, parts in enumerate(folders):
        splits.setdefault(_SPLITS[parts[0].lower()] if own else "all", []).append(row)
    if options.labels is not None:
        return splits, _labels_from_csv(headers, Path(options.labels), options)
    below = [parts[1:] if own else parts for parts in folders]
    return splits, [parts[0] for parts in below] if all(below) else None


def _labels_from_csv(headers: Sequence[_Header], path: Path, options: DataOptions) -> list[str]:
    """One label a picture, matched by its path within the folder or by its bare file name."""
    from manykin.data.csvs import read_csv

    frame = read_csv(path, DataOptions(delimiter=options.delimiter, header=options.header))
    if frame.shape[1] < 2:
        raise InvalidInput(f"{path} has one column; expected the file name and the label of each picture.")
    columns = [str(column) for column in frame.columns]
    chosen = options.condition if options.condition in columns else "label" if "label" in columns else columns[1]
    known = dict(zip(frame.iloc[:, 0].astype(str), frame[chosen], strict=True))
    labels = []
    for header in headers:
        key = next((key for key in (header.name, header.path.name, header.path.stem) if key in known), None)
        if key is None or known[key] != known[key]:
            raise InvalidInput(f"{path} has no label for {header.name}; expected a line for each picture.{suggest(header.path.name, known)}")
        labels.append(known[key])
    return labels
