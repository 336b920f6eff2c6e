"""Options whose names follow from configs: ``--model.FIELD``, ``--train.FIELD``, ``--data.FIELD``, ``--sampler.FIELD``."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manykin.errors import InvalidInput

if TYPE_CHECKING:
    from manykin.config import Config

HELP = ("-h", "--help")
SECTIONS = "manykin.sections"
ARGUMENTS = "manykin.arguments"
"""Where a command's raw arguments are kept in click's ``ctx.meta``."""


class ConfigCommand(click.Command):
    """A command that also takes ``--PREFIX.FIELD VALUE`` for the fields of configs that are known only once an argument is.

    The values reach the verb as ``fields``, a mapping from prefix to a mapping from field to text: the configs themselves parse and refuse them.
    """

    prefixes: tuple[str, ...] = ("model", "train", "data")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the prefixed options out, leave the others to click."""
        ctx.meta[ARGUMENTS] = list(args)
        rest, fields = split_fields(args, self.prefixes)
        if any(flag in rest for flag in HELP):
            plain = [arg for arg in rest if arg not in HELP]
            ctx.meta[SECTIONS] = self.sections(self.make_parser(ctx).parse_args(plain)[0])
        parsed = super().parse_args(ctx, rest)
        ctx.params["fields"] = fields
        return parsed

    def sections(self, given: Mapping[str, Any]) -> "dict[str, type[Config]]":
        """The configs to explain in ``--help``, by headline, from the arguments given so far."""
        return {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The fixed options, then those of each config."""
        super().format_options(ctx, formatter)
        for headline, config in ctx.meta.get(SECTIONS, {}).items():
            with formatter.section(headline):
                formatter.write_dl(explain(config))


def split_fields(args: Sequence[str], prefixes: Sequence[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Split arguments into those for click and the prefixed ones; hyphens in a field's name count as underscores.

    Raises:
        InvalidInput: for a prefixed option without a value.
    """
    pattern = re.compile(rf"--({'|'.join(prefixes)})\.([^=]+)(?:=(.*))?", re.DOTALL)
    rest: list[str] = []
    fields: dict[str, dict[str, str]] = {prefix: {} for prefix in prefixes}
    queue = list(args)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return [*rest, word, *queue], fields
        match = pattern.fullmatch(word)
        if match is None:
            rest.append(word)
            continue
        prefix, name, value = match.groups()
        if value is None:
            if not queue or queue[0].startswith("--"):
                raise InvalidInput(f"{word} was given no value; expected {word} VALUE.")
            value = queue.pop(0)
        fields[prefix][name.replace("-", "_")] = value
    return rest, fields


def explain(config: "type[Config]") -> list[tuple[str, str]]:
    """The options of a config with their help, what they take, and their defaults."""
    from manykin.config import options

    return [
        (f"--{config.label}.{info.name}", f"{info.help.rstrip('.')}{': ' if info.help else ''}{info.expected()} (default {_shown(info.default)}).")
        for info in options(config)
    ]


def _shown(value: Any) -> str:
    return "none" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A callback that reads seconds, written as ``90``, ``60s``, ``5m`` or ``1h``.

    Raises:
        InvalidInput: for anything else, and for nothing or less.
    """
    if value is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(s|m|min|h)?\s*", value)
    found = float(match[1]) * {"m": 60, "min": 60, "h": 3600}.get(match[2] or "s", 1) if match else 0.0
    if not 0 < found < math.inf:
        raise InvalidInput(f"{param.opts[0]} {value!r} is not a length of time; expected seconds, or 60s, 5m or 1h.")
    return found


def free_folder(name: str, root: Path = Path("runs")) -> Path:
    """``runs/NAME``, or ``runs/NAME-2``, ... where that exists already."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    return _free(lambda number: root / (stem if number == 1 else f"{stem}-{number}"))


def free_file(folder: Path, stem: str, suffix: str) -> Path:
    """``FOLDER/STEM.SUFFIX``, or with the first number that is not taken."""
    return _free(lambda number: folder / f"{stem}{'' if number == 1 else f'-{number}'}{suffix}")


def _free(candidate: Any) -> Path:
    number = 1
    while candidate(number).exists():
        number += 1
    path: Path = candidate(number)
    return path


def data_label(data: str) -> str:
    """The name of data in paths: that of the data set, or of the file without its suffix."""
    return Path(data).stem if any(mark in data for mark in ("/", "\\", ".")) else data
