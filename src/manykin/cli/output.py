"""What verbs print: results on standard output, everything else on standard error, JSON alone where it is asked for."""

import functools
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click

WORD = 14
"""Single words of up to so many letters are never broken over lines of a table."""


@dataclass
class Settings:
    """What holds for the whole call. ``folder``: the run that is being written; ``resume``: the command that goes on with it."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    folder: Path | None = None
    resume: str | None = None


@dataclass
class Output:
    """Where a verb's words go."""

    settings: Settings
    stdout: TextIO = field(default_factory=lambda: sys.stdout)

    @property
    def progress(self) -> bool:
        """Whether a progress bar may be shown: on a terminal, unless told to be quiet."""
        return not self.settings.quiet and sys.stderr.isatty()

    def result(self, value: Any, show: Callable[[], None]) -> None:
        """Print a verb's result: ``value`` as JSON, or what ``show`` prints for people."""
        if self.settings.json:
            print(json.dumps(value, allow_nan=False), file=self.stdout, flush=True)
        elif not self.settings.quiet:
            show()

    def line(self, text: str = "") -> None:
        """One line of a result."""
        print(text, file=self.stdout)

    def paragraph(self, text: str) -> None:
        """A sentence or more of a result, in lines as wide as the terminal, 80 columns elsewhere; names and paths are never broken."""
        width = shutil.get_terminal_size().columns
        self.line("\n".join(textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)))

    def note(self, text: str) -> None:
        """One line about the work, on standard error."""
        if not self.settings.quiet:
            print(text, file=sys.stderr, flush=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
        """A table, as wide as the terminal, 80 columns elsewhere. ``right``: the columns that hold numbers."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for index, column in enumerate(columns):
            single = index == 0 or all(" " not in row[index] and len(row[index]) <= WORD for row in rows)
            table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=single)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console(file=self.stdout, highlight=False).print(table)


def common(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb ``--json``, ``--quiet`` and ``--debug``; it receives ``output`` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, alone on standard output.")
    @click.option("--quiet", is_flag=True, help="Print nothing but errors (and JSON, where asked for).")
    @click.option("--debug", is_flag=True, help="Show tracebacks and the warnings of libraries.")
    @click.pass_context
    @functools.wraps(function)
    def verb(ctx: click.Context, /, as_json: bool, quiet: bool, debug: bool, **values: Any) -> None:
        settings = ctx.find_object(Settings) or Settings()
        settings.json, settings.quiet, settings.debug = as_json, quiet, debug
        output = Output(settings)
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            function(output, **values)

    return verb


def size(n: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if n >= 10 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError


def seconds(value: float) -> str:
    """A duration as people read it."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
