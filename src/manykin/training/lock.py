"""One writer a folder: a lock that ends with the process, however that ends."""

import os
from pathlib import Path

from manykin.errors import InvalidInput

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Lock:
    """An exclusive lock on a file, held until :meth:`release`, garbage collection or the end of the process.

    Where the system has no ``flock`` it claims nothing.

    Raises:
        InvalidInput: where another process (or another part of this one) holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+")  # noqa: SIM115
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            owner = self._file.read(20).strip() or "another process"
            self._file.close()
            raise InvalidInput(f"{path.parent} is being written by process {owner}; wait for it, or give another --out.") from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Give the lock back."""
        self._file.close()
