"""Writing samples in the user's own kind of file. Nothing is ever overwritten."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.spaces import Image, Space, Table, Tokens, Vector, columns_of

if TYPE_CHECKING:
    from manykin.data.forms import Form

_SHEET = 400


def save(obj: Any, space: Space, form: "Form", path: str | Path) -> Path:
    """Write samples by the suffix of ``path``, and return it.

    ``.npy`` and ``.npz`` hold arrays (a record: one array a field); ``.csv`` and ``.parquet`` tables and vectors; ``.png`` a contact sheet of up to
    400 pictures; a path without suffix is a folder of one PNG a picture; ``.txt`` holds one string a line, ``.json`` a list of strings.

    Args:
        obj: samples as tensors of the space, or already in the user's form.

    Raises:
        InvalidInput: where the path exists, cannot be written, or the suffix does not fit the space.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    writers: dict[str, Callable[[Any, Space, Form, Path], None]] = {
        ".npy": _npy, ".npz": _npz, ".csv": _csv, ".parquet": _parquet, ".png": _sheet, "": _folder, ".txt": _text, ".json": _json,
    }  # fmt: skip
    if suffix not in writers:
        raise InvalidInput(f"{path} ends in {suffix!r}; expected {', '.join(key for key in writers if key)}, or a folder for pictures.")
    fits = _fitting(space)
    if suffix not in fits:
        raise InvalidInput(f"{path} cannot hold samples of {space}; expected {', '.join(key or 'a folder' for key in fits)}.")
    if path.exists():
        raise InvalidInput(f"{path} exists, and nothing is overwritten; choose another name, or remove it.")
    tensors = isinstance(obj, Tensor) or (isinstance(obj, Mapping) and all(isinstance(part, Tensor) for part in obj.values()))
    value = form.decode(obj, space) if tensors and form.kind != "tensor" else obj
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == "":
            _folder(value, space, form, path)
        else:
            _beside(path, lambda part: writers[suffix](value, space, form, part))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}. Choose another folder, or free some space.") from error
    return path


def _beside(path: Path, write: Callable[[Path], None]) -> None:
    """Write to a file beside, then link it into place: no half-written file under the final name, and none overwritten."""
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(part)
        try:
            os.link(part, path)
        except FileExistsError as error:
            raise InvalidInput(f"{path} exists, and nothing is overwritten; choose another name, or remove it.") from error
        except OSError:
            os.rename(part, path)
    finally:
        part.unlink(missing_ok=True)


def _fitting(space: Space) -> tuple[str, ...]:
    if isinstance(space, Image):
        return (".npy", ".npz", ".png", "") if space.levels is not None else (".npy", ".npz")
    if isinstance(space, Table):
        return (".csv", ".parquet")
    if isinstance(space, Tokens):
        return (".txt", ".json", ".npy") if space.symbols is not None else (".npy", ".npz")
    return (".npy", ".npz", ".csv", ".parquet") if isinstance(space, Vector) else (".npz",)


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _npy(value: Any, space: Space, form: "Form", path: Path) -> None:
    np.save(path, _array(value), allow_pickle=False)


def _npz(value: Any, space: Space, form: "Form", path: Path) -> None:
    arrays: dict[str, Any] = {key: _array(part) for key, part in value.items()} if isinstance(value, Mapping) else {"x": _array(value)}
    np.savez_compressed(path, **arrays)


def _frame(value: Any, space: Space, form: "Form") -> Any:
    import pandas as pd

    from manykin.data.frames import decode_frame

    if isinstance(value, pd.DataFrame):
        return value
    if isinstance(space, Table):
        return decode_frame(value, space, form)
    array = _array(value)
    names = (space.names if isinstance(space, Vector) else None) or [f"x{index}" for index in range(space.shape[0])]
    return pd.DataFrame(array.reshape(len(array), -1), columns=list(names))


def _csv(value: Any, space: Space, form: "Form", path: Path) -> None:
    frame = _frame(value, space, form)
    places = {
        name: round(-math.log10(column.step))
        for name, column in zip(frame.columns, columns_of(space), strict=True)
        if column.kind == "real" and column.step is not None and _decimal(column.step) and str(frame[name].dtype).lower().startswith("float")
    }
    frame.round(places).to_csv(path, index=False)


def _decimal(step: float) -> bool:
    return step < 1 and abs(math.log10(step) - round(math.log10(step))) < 1e-9


def _parquet(value: Any, space: Space, form: "Form", path: Path) -> None:
    frame = _frame(value, space, form)
    frame.columns = [str(column) for column in frame.columns]
    frame.to_parquet(path, index=False)


def _pictures(value: Any, space: Image, form: "Form") -> Any:
    """Pictures as (n, h, w) or (n, h, w, c), 8-bit with the levels spread over 0 to 255, 16-bit as they are."""
    codes = form.encode(value, space)
    assert isinstance(codes, Tensor)
    array = codes.detach().cpu().numpy().transpose(0, 2, 3, 1)
    levels = space.levels or 256
    if levels > 256:
        array = array.astype(np.uint16)
    elif levels < 256:
        array = np.rint(array * (255.0 / (levels - 1))).astype(np.uint8)
    channels = array.shape[3]
    if channels > 4 or (channels > 1 and array.dtype == np.uint16):
        raise InvalidInput(f"pictures of {space} cannot be PNG files; expected 1 to 4 channels of 8 bits, or one of 16: use .npy.")
    return array[..., 0] if channels == 1 else array


def _sheet(value: Any, space: Space, form: "Form", path: Path) -> None:
    from PIL import Image as Pillow

    assert isinstance(space, Image)
    pictures = _pictures(value[:_SHEET], space, form)
    n, height, width = pictures.shape[:3]
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    gap = max(1, min(height, width) // 8)
    sheet = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, *pictures.shape[3:]), np.iinfo(pictures.dtype).max // 2, pictures.dtype
    )
    for index, picture in enumerate(pictures):
        top, left = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    zoom = max(1, 64 // max(height, width))
    Pillow.fromarray(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)).save(path)


def _folder(value: Any, space: Space, form: "Form", path: Path) -> None:
    from PIL import Image as Pillow

    assert isinstance(space, Image)
    pictures = _pictures(value, space, form)
    path.mkdir()
    digits = len(str(len(pictures) - 1))
    for index, picture in enumerate(pictures):
        Pillow.fromarray(picture).save(path / f"{index:0{max(digits, 5)}}.png")


def _strings(value: Any, space: Space, form: "Form") -> list[str]:
    from manykin.data.forms import Form

    return list(Form("strings", "str", form.options).decode(value, space) if isinstance(value, Tensor) else value)


def _text(value: Any, space: Space, form: "Form", path: Path) -> None:
    texts = _strings(value, space, form)
    mark = "\n----\n" if any("\n" in text for text in texts) else "\n"
    path.write_text(mark.join(texts) + "\n", encoding="utf-8")


def _json(value: Any, space: Space, form: "Form", path: Path) -> None:
    path.write_text(json.dumps(_strings(value, space, form), ensure_ascii=False, indent=1), encoding="utf-8")
