"""The folder of a comparison: made, replaced, gone on with; removed afterwards where nobody asked for one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from manykin.comparison import rows, setup
from manykin.comparison.trust import is_plain
from manykin.errors import InvalidInput
from manykin.training import RunFolder
from manykin.training.files import remove
from manykin.training.lock import Lock
from manykin.training.runfolder import LOCK

DATA, REAL, LOGS = "data.safetensors", "real.safetensors", "logs"
OURS = (LOCK, rows.FILE, setup.FILE, DATA, REAL, LOGS, "report.html", "report.md")
"""What a comparison writes beside its run folders: replacing one removes these, and the runs that it names, and nothing else."""


@contextmanager
def workplace(out: str | Path | None, *, force: bool, resume: bool) -> Iterator[Path]:
    """The folder to work in, locked against other processes; a temporary one, removed at the end, for ``out`` None.

    Raises:
        InvalidInput: where ``out`` is taken or cannot be made; where another process works there.
    """
    if out is None:
        with TemporaryDirectory(prefix="manykin-compare-") as scratch:
            (Path(scratch) / LOGS).mkdir()
            yield Path(scratch)
        return
    folder = Path(out).expanduser().absolute()
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken and not (force or resume):
        raise InvalidInput(f"{str(out)!r} exists and is not empty; give another --out, --resume to go on, or --force to replace it.")
    if taken and not recognised(folder):
        raise InvalidInput(f"{str(out)!r} is not a comparison of manykin and is left alone; give another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / LOCK)
    except OSError as error:
        raise InvalidInput(f"{str(out)!r} cannot be made: {error.strerror}; give another --out.") from error
    try:
        if taken and force:
            _clear(folder)
        (folder / LOGS).mkdir(exist_ok=True)
        yield folder
    finally:
        lock.release()
        (folder / LOCK).unlink(missing_ok=True)


def recognised(folder: Path) -> bool:
    """Whether a folder is visibly a comparison."""
    return folder.is_dir() and (_names(folder) != [] or (folder / setup.FILE).is_file() or _begun(folder))


def _begun(folder: Path) -> bool:
    """Whether a comparison died before its first file."""
    return {entry.name for entry in folder.iterdir()} <= {LOCK, LOGS, DATA, f".{DATA}.tmp", f".{setup.FILE}.tmp"}


def _names(folder: Path) -> list[str]:
    """The run folders that a comparison names."""
    found: set[str] = set()
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        for row in json.loads((folder / rows.FILE).read_text()):
            found |= {str(row["model"]), *(str(run["folder"]) for run in row.get("runs", ()))}
    with suppress(OSError, ValueError, TypeError, KeyError):
        asked = json.loads((folder / setup.FILE).read_text())
        found |= {name for each in asked["models"] for name in (each["label"], *(f"{each['label']}-seed{seed}" for seed in asked["seeds"]))}
    return sorted(found)


def _clear(folder: Path) -> None:
    """Remove what an earlier comparison wrote: its own files and the run folders that it names. Everything else stays."""
    for name in _names(folder):
        run = RunFolder(folder / name)
        if is_plain(name) and run.path.is_dir() and not run.path.is_symlink() and run.recognised:
            RunFolder.create(run.path, force=True).release()
            (run.path / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                run.path.rmdir()
    for name in OURS:
        if name != LOCK:
            remove(folder / name)
