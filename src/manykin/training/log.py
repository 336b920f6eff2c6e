"""The log of a run: ``metrics.jsonl``, one JSON object a line, and the same in memory.

Keys: ``step`` (steps done), ``seconds``, ``epoch``; of the first gradient phase ``loss``, ``grad_norm`` and ``lr`` (means since the line before),
of further ones ``loss.NAME`` and so on; what closed-form solutions report; ``note.NAME`` for figures that the model notes; ``val_nll`` or
``val_loss``; ``event`` for what a person should know. A number that is not finite is null.
"""

import json
import math
import os
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from manykin.training.files import replace_file, writing


class Log:
    """Lines in memory and, where a path is given, in a file."""

    def __init__(self, path: Path | None, lines: list[dict[str, Any]]) -> None:
        self.path = path
        self.lines = lines
        self._file: TextIOWrapper | None = None

    def write(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Append one line."""
        clean = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()}
        self.lines.append(clean)
        if self.path is not None:
            with writing(self.path):
                if self._file is None:
                    self._file = self.path.open("a")
                self._file.write(json.dumps(clean) + "\n")
                self._file.flush()
        return clean

    def cut(self, step: int) -> None:
        """Forget all lines after a step: the run goes back to it."""
        self.close()
        self.lines[:] = [line for line in self.lines if line.get("step", 0) <= step]
        if self.path is not None and (self.lines or self.path.exists()):
            with writing(self.path):
                replace_file(self.path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        if self._file is not None and self.path is not None:
            with writing(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
