"""Runs in processes of their own: the command line in a fresh interpreter, so that whatever happens there ends nothing here.

It is started as ``python -m manykin``, never by ``multiprocessing``: a user's script without ``if __name__ == "__main__"`` is not run again.
"""

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

import manykin

PATIENCE = 60.0
"""Seconds that an interrupted run has to save its state before it is killed."""
ERROR = "manykin: error: "
WATCH = "MANYKIN_PARENT_HOLDS_STDIN"
"""The environment variable that tells a run that its standard input closes when the comparison is gone."""


def able() -> bool:
    """Whether this interpreter can be started again: an embedded one may not know its own path."""
    return bool(sys.executable)


def run_child(arguments: Sequence[str], result: Path, log: Path, threads: int) -> str | None:
    """Run ``manykin ARGUMENTS`` in a process of its own, standard output into ``result``, everything else into ``log``.

    An interruption of this process (Ctrl-C, SIGTERM) is passed on once, and waits until the run has saved itself. Where this process ends without a
    word (SIGKILL), the run notices: see :func:`end_with_parent`.

    Returns:
        None where it succeeded, else what went wrong, in one line.

    Raises:
        KeyboardInterrupt: after the run has ended.
    """
    command = [sys.executable, "-P", "-m", "manykin", *arguments]
    with result.open("wb") as out, log.open("ab") as words, _terminable():
        words.write(f"$ {' '.join(['manykin', *arguments])}\n".encode())
        words.flush()
        code = _wait(command, out, words, threads)
    return None if code == 0 else _reason(code, log)


def end_with_parent() -> None:
    """In a run of :func:`run_child`: be interrupted, as by Ctrl-C, when the comparison is gone, however it ended; nothing in any other process.

    The comparison holds a pipe to the run's standard input and writes nothing: its end is the end of the comparison, on every platform.
    """
    if os.environ.pop(WATCH, "") == "1":
        threading.Thread(target=_watch, name="manykin-parent", daemon=True).start()


def _watch() -> None:
    try:
        while os.read(0, 1):  # Not sys.stdin: a thread that waits there holds a lock which the interpreter wants at its end.
            pass
    except OSError:
        return
    _thread.interrupt_main()
    time.sleep(PATIENCE)
    os._exit(130)


def read_result(path: Path) -> dict[str, Any] | None:
    """What a run that came to its end printed; None for one that did not."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "evaluation" in found else None


def _wait(command: Sequence[str], out: IO[bytes], words: IO[bytes], threads: int) -> int:
    # A session of its own: a Ctrl-C on the terminal reaches the run once, through this process, and not a second time, which would end it unsaved.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=out, stderr=words, env=_environment(threads), start_new_session=os.name == "posix"
    )
    try:
        return process.wait()
    except BaseException:
        _stop(process)
        raise
    finally:
        assert process.stdin is not None
        process.stdin.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        process.wait(PATIENCE)
    except BaseException:
        process.kill()
        process.wait()


def _environment(threads: int) -> Mapping[str, str]:
    """The caller's environment with as many threads, and with this very package where it was not installed."""
    count = str(threads)
    chosen = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "NO_COLOR": "1", WATCH: "1"}
    home = Path(manykin.__file__).resolve().parents[1]
    if home.name not in ("site-packages", "dist-packages"):
        chosen["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    return chosen


def _reason(code: int, log: Path) -> str:
    """Why a run ended, from its exit code and the last lines of its log."""
    if code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
            if name == "SIGKILL":
                return "the process was killed (SIGKILL), by the system for lack of memory or by hand; try a smaller model or fewer rows."
            return f"the process crashed ({name}); see its log, and try other versions of torch and its libraries."
    lines = log.read_text(errors="replace").splitlines()
    told = next((line for line in reversed(lines) if line.startswith(ERROR)), None)
    if told is not None and told != ERROR:
        return told.removeprefix(ERROR)
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return f"the process ended with code {code}: {last.removeprefix('manykin: ')}"


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and a closing terminal interrupt like Ctrl-C, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
