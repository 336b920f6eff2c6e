"""What may be read: free memory, file access with one-line errors, and content hashes."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from manykin.data.options import DataOptions
from manykin.errors import InvalidInput

_BLOCK = 1 << 22


def available_memory() -> int:
    """Bytes of memory that can still be used: what the system reports, and no more than the control group's own limit."""
    free = 4 << 30
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free = min(free, max(0, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text())))
    except (OSError, ValueError):
        pass
    return free


class Budget:
    """The bytes that reading one source may take: ``max_bytes``, or half of the memory that is free at the start."""

    def __init__(self, name: str, options: DataOptions, remedy: str) -> None:
        self._limit = available_memory() // 2 if options.max_bytes is None else options.max_bytes
        self._why = "half of the free memory" if options.max_bytes is None else "data.max_bytes"
        self._name, self._remedy = name, remedy

    def check(self, needed: int, least: bool = False) -> None:
        """Refuse to read what would not fit; ``least`` says that there may be more to come.

        Raises:
            InvalidInput: where ``needed`` bytes exceed the budget.
        """
        if needed > self._limit:
            words = f"{'at least' if least else 'about'} {size_in_words(needed)}"
            limit = f"at most {size_in_words(self._limit)} ({self._why})"
            raise InvalidInput(f"{self._name} needs {words} of memory; {limit} may be used. {self._remedy}")


def check_memory(needed: int, name: str, options: DataOptions, remedy: str) -> None:
    """Refuse to read what would not fit.

    Raises:
        InvalidInput: where ``needed`` bytes exceed ``max_bytes`` or half of the free memory.
    """
    Budget(name, options, remedy).check(needed)


def size_in_words(size: float) -> str:
    """A number of bytes that a person can read: ``3.2 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one line.

    Raises:
        InvalidInput: no such file, no permission, or a failing disk.
        OSError: what a library raised on its own account about the content.
    """
    try:
        yield
    except PermissionError as error:
        raise InvalidInput(
            f"{path} cannot be read: permission denied. Change its permissions (chmod u+r), or copy it to a folder of yours."
        ) from error
    except FileNotFoundError as error:
        raise InvalidInput(f"{path} does not exist; expected a file or folder.") from error
    except OSError as error:
        if error.errno is None:
            raise
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}. Check the file and the disk.") from error


def sha256_of_file(path: Path) -> str:
    """The hash of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_arrays(*arrays: Any) -> str:
    """The hash of numpy arrays: type, shape and content, in blocks along the first axis."""
    import numpy as np

    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        rows = max(1, _BLOCK // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows]).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def data_folders() -> list[Path]:
    """The folders of the environment variable MANYKIN_DATA, where large named sets are looked for, then the cache for downloads."""
    named = [Path(part) for part in os.environ.get("MANYKIN_DATA", "").split(os.pathsep) if part]
    return [*named, cache_folder()]


def cache_folder() -> Path:
    """Where downloads are kept: ``manykin`` under XDG_CACHE_HOME, by default under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manykin"
