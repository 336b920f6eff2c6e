"""Checkpoints: ``checkpoints/STEP/`` with weights, averages, best weights and optimizer as safetensors, and ``state.json``.

A checkpoint is written beside its place, every file synced, then renamed; ``checkpoints/last`` names the newest and is replaced atomically. So a
crash at any moment leaves the folder with a whole checkpoint and a pointer to it.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manykin.errors import CheckpointMismatch
from manykin.training.files import remove, replace_file, sync_directory, write_synced, write_tensors
from manykin.training.weights import read_tensors

STATE = "state.json"
LAST = "last"
GOOD = "good"


@dataclass
class Saved:
    """Everything that the rest of a run depends on: groups of tensors by name, and plain values."""

    tensors: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        """The number of steps done."""
        return int(self.meta["step"])

    @torch.no_grad()
    def keep(self, before: "Saved | None") -> "Saved":
        """A copy that later steps cannot change, in the memory of an earlier copy where that fits."""
        old = before.tensors if before is not None else {}
        groups = {group: {name: _copy(tensor, old.get(group, {}).get(name)) for name, tensor in part.items()} for group, part in self.tensors.items()}
        return Saved(groups, json.loads(json.dumps(self.meta)))


def _copy(tensor: Tensor, place: Tensor | None) -> Tensor:
    if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype or place.device != tensor.device:
        return tensor.detach().clone()
    return place.copy_(tensor)


def last_step(folder: Path) -> int | None:
    """The step of the newest checkpoint; None where there is none.

    Raises:
        CheckpointMismatch: where the pointer is damaged or points nowhere.
    """
    try:
        text = (folder / LAST).read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointMismatch(f"{folder / LAST} cannot be read ({type(error).__name__}).") from error
    if not text.strip().isdecimal() or not (folder / text.strip()).is_dir():
        raise CheckpointMismatch(f"{folder / LAST} names the checkpoint {text.strip()[:40]!r}, which is not there.")
    return int(text)


def write(folder: Path, saved: Saved, good: Saved | None, keep: int) -> None:
    """Add a checkpoint, point to it, and remove all but the ``keep`` newest.

    ``good`` is the state to which a diverging run goes back, where that is another one.

    Raises:
        OSError: where the disk refuses; the checkpoints from before are untouched.
        SafetensorError: likewise.
    """
    folder.mkdir(exist_ok=True)
    if last_step(folder) == saved.step:
        return
    beside = folder / f".{saved.step}.tmp"
    try:
        if beside.exists():
            remove(beside)
        _write_state(beside, saved)
        if good is not None:
            _write_state(beside / GOOD, good)
        sync_directory(beside)
        place = folder / str(saved.step)
        if place.exists():
            remove(place)  # A leftover from before a crash: the pointer names another one.
        os.rename(beside, place)
        sync_directory(folder)
        replace_file(folder / LAST, f"{saved.step}\n".encode())
    except BaseException:
        with suppress(OSError):
            remove(beside)
        raise
    _prune(folder, saved.step, keep)


def read(folder: Path) -> tuple[Saved, Saved | None]:
    """The newest checkpoint, and the state to go back to where it has another one.

    Raises:
        CheckpointMismatch: naming the file that is missing or damaged.
    """
    step = last_step(folder)
    if step is None:
        raise CheckpointMismatch(f"{folder} holds no checkpoint.")
    place = folder / str(step)
    return _read_state(place), _read_state(place / GOOD) if (place / GOOD).is_dir() else None


def tidy(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for path in folder.glob(".*.tmp"):
        remove(path)


def _write_state(folder: Path, saved: Saved) -> None:
    folder.mkdir()
    for group, tensors in saved.tensors.items():
        write_tensors(folder / f"{group}.safetensors", tensors)
    meta = {**saved.meta, "files": sorted(saved.tensors)}
    write_synced(folder / STATE, (json.dumps(meta, indent=2) + "\n").encode())
    sync_directory(folder)


def _read_state(folder: Path) -> Saved:
    path = folder / STATE
    try:
        meta = json.loads(path.read_text())
        files = [str(name) for name in meta.pop("files")]
    except FileNotFoundError:
        raise CheckpointMismatch(f"{path} is missing; the run folder is not complete.") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointMismatch(f"{path} cannot be read: it is truncated or damaged ({error}).") from error
    if any(name not in ("weights", "average", "best", "optimizer") for name in files):
        raise CheckpointMismatch(f"{path}: key 'files' names {files}; expected weights, average, best or optimizer.")
    return Saved({name: read_tensors(folder / f"{name}.safetensors") for name in files}, meta)


def _prune(folder: Path, newest: int, keep: int) -> None:
    steps = sorted((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), reverse=True)
    for step in [step for step in steps if step != newest][keep - 1 :]:
        remove(folder / str(step))
