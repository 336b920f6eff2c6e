"""No page can rot: every Python and bash example of the README and the docs runs, in order and in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "families").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, *languages):
    return [code for kind, code in FENCE.findall(page.read_text()) if kind in languages]


def commands(page, *languages):
    lines = (line.strip().removeprefix("$ ") for code in blocks(page, *languages) for line in code.splitlines())
    return [line for line in lines if line.startswith("manykin ")]


def test_readme_shows_python_and_three_commands():
    assert blocks(PAGES[0], "python")
    assert len(commands(PAGES[0], "bash")) >= 3


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for index, code in enumerate(blocks(page, "python")):
        exec(compile(code, f"{page.name} example {index + 1}", "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page, "bash")], ids=lambda page: page.name)
def test_commands_run(page, tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in commands(page, "bash"):
        words = shlex.split(line, comments=True)
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
