"""Writing files so that a crash, a full disk or a power cut leaves either the old content or the new one, never a part."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from manykin.errors import TrainingFailed


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into one line.

    Raises:
        TrainingFailed: naming the path and the system's reason.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise TrainingFailed(
            f"{path} could not be written: {reason}. What was saved before is intact; make room or get permission, then go on with --resume."
        ) from error


def sync_directory(path: Path) -> None:
    """Make renames inside a directory durable, where the system knows how."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file's content atomically and durably."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(beside, content)
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    sync_directory(path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically and durably."""
    replace_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: str | None = None) -> None:
    """Write tensors as safetensors and wait until they are on the disk.

    ``metadata`` is one string: a header of several keys has no fixed order, and equal weights shall be equal bytes.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(_separate(tensors), path, {"manykin": metadata} if metadata is not None else None)
    path.chmod(mode)  # The library renames a private temporary file; others may read what they may read elsewhere.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: str | None = None) -> None:
    """Replace a safetensors file atomically and durably.

    It is written in a folder of its own beside its place, because the library leaves temporary files of unforeseeable names where it is killed.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        remove(beside)
        beside.mkdir()
        write_tensors(beside / path.name, tensors, metadata)
        os.replace(beside / path.name, path)
        remove(beside)
    except BaseException:
        with suppress(OSError):
            remove(beside)
        raise
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a directory; a link is removed, never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory: tied weights are written under each of their names."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        whole = plain.untyped_storage().nbytes() == plain.numel() * plain.element_size()
        if plain.numel() and (not whole or plain.untyped_storage().data_ptr() in seen):
            plain = plain.clone(memory_format=torch.contiguous_format)
        seen.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result
