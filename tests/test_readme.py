"""The README and the docs cannot rot: the README's Python runs, and all commands are commands that manykin takes."""

import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import click
import pytest

from manykin.cli.group import group
from manykin.cli.output import Settings

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^(<!-- not run:[^\n]*-->\n)?```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELLS = ("bash", "sh", "console", "shell", "text")


def python_examples(path):
    return [code for skipped, language, code in BLOCK.findall(path.read_text()) if language == "python" and not skipped]


def commands(path):
    """Every ``manykin ...`` line of a page's shell blocks."""
    lines = [
        line.strip().removeprefix("$ ") for _, language, code in BLOCK.findall(path.read_text()) if language in SHELLS for line in code.splitlines()
    ]
    return [line for line in lines if line.startswith("manykin ")]


PYTHON = python_examples(ROOT / "README.md")
COMMANDS = [line for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) for line in dict.fromkeys(commands(path))]


def test_readme_shows_python_and_commands():
    assert PYTHON
    assert len(commands(ROOT / "README.md")) >= 3


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.strip().splitlines()[0][:40])
def test_python_example_runs(code, tmp_path):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_one_that_manykin_takes(line):
    words = shlex.split(line, comments=True)[1:]
    with group.make_context("manykin", words, obj=Settings()) as ctx:
        _, command, rest = group.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        assert command is not None
        with suppress(click.exceptions.Exit):
            command.make_context(command.name, rest, parent=ctx)
