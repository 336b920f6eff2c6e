"""From arguments to an exit code: every error is one line, every traceback goes to a named file."""

import errno
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click

from manykin.cli.group import group
from manykin.cli.output import Settings
from manykin.errors import ManykinError, ManykinWarning, suggest

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT, as shells have it."""
CLOSED_PIPE = 141
"""The exit code where the reader of the output went away: 128 + SIGPIPE."""


def run(arguments: Sequence[str]) -> int:
    """Run the command line in this process and return its exit code."""
    code = _run(arguments, Settings())
    try:
        sys.stdout.flush()
    except OSError:
        _silence()
    return code


def _run(arguments: Sequence[str], settings: Settings) -> int:
    try:
        with warnings.catch_warnings():
            _show_warnings(settings)
            with group.make_context("manykin", list(arguments) or ["--help"], obj=settings) as ctx:
                group.invoke(ctx)
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        return _fail(settings, _usage(error), 2)
    except ManykinError as error:
        return _fail(settings, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        print(f"\nmanykin: {_one_line(stop) or 'interrupted'}{_resume_hint(settings)}", file=sys.stderr)
        return INTERRUPTED
    except MemoryError as error:
        return _fail(settings, f"out of memory ({_one_line(error) or 'no details'}); try a smaller model, fewer rows or --train.batch_size.", 1)
    except OSError as error:
        return CLOSED_PIPE if error.errno == errno.EPIPE else _fail(settings, _describe(error), 1)
    except Exception as error:
        return _unexpected(settings, error)


def _fail(settings: Settings, message: str, code: int) -> int:
    if settings.debug:
        traceback.print_exc()
    print(f"manykin: error: {_one_line(message)}", file=sys.stderr)
    return code


def _unexpected(settings: Settings, error: Exception) -> int:
    path = _save_traceback(settings.folder)
    where = f"; the traceback is in {path}" if path is not None else ""
    return _fail(settings, f"unexpected {type(error).__name__}: {_one_line(error) or 'no details'}{where}.", 1)


def _save_traceback(folder: Path | None) -> Path | None:
    """Write the current traceback into the run folder, else into the temporary folder; None where neither can be written."""
    for parent in (folder, Path(tempfile.gettempdir())):
        if parent is not None and parent.is_dir():
            try:
                handle, name = tempfile.mkstemp(prefix="manykin-error-", suffix=".txt", dir=parent)
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(f"manykin {' '.join(sys.argv[1:])}\n\n{traceback.format_exc()}")
                return Path(name)
            except OSError:
                continue
    return None


def _silence() -> None:
    """Point standard output nowhere, so that the interpreter's own last flush does not complain about a reader that is gone or a full disk."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warnings(settings: Settings) -> None:
    """Our warnings are one line, those of libraries are for --debug."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
    ) -> None:
        if issubclass(category, ManykinWarning):
            if not settings.quiet:
                print(f"note: {_one_line(message)}", file=sys.stderr)
        elif settings.debug:
            print(f"{filename}:{lineno}: {category.__name__}: {_one_line(message)}", file=sys.stderr)

    warnings.simplefilter("always", ManykinWarning)
    warnings.showwarning = show


def _usage(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "manykin"
    if isinstance(error, click.NoSuchOption):
        known = [name for param in ctx.command.get_params(ctx) for name in param.opts] if ctx is not None else []
        return f"{path} has no option {error.option_name}.{suggest(error.option_name, known)}"
    return f"{error.format_message()} See `{path} --help`."


def _describe(error: OSError) -> str:
    name = f"{str(error.filename)!r}: " if error.filename else ""
    return f"{name}{error.strerror or _one_line(error)}."


def _resume_hint(settings: Settings) -> str:
    folder = settings.folder if settings.resume is not None else None
    saved = folder is not None and ((folder / "checkpoints").is_dir() or (folder / "comparison.json").is_file())
    return f" Go on with: {settings.resume}" if saved else ""


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
