"""The result of a comparison: one row a model, and the folder that holds them."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manykin.errors import InvalidInput
from manykin.metrics import Estimate

FILE = "compare.json"


@dataclass(frozen=True)
class Row:
    """What one model reached, or why it did not."""

    model: str
    data: str
    metrics: tuple[Estimate, ...] = ()
    density: str = "none"
    seconds: float | None = None
    parameters: int | None = None
    peak_memory_bytes: int | None = None
    sampling_seconds: float | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, infinities as null."""
        plain = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "metrics"}
        return {**plain, "metrics": [metric.to_json() for metric in self.metrics]}

    def metric(self, name: str) -> Estimate | None:
        """An estimate by name; None where the model has none."""
        return next((metric for metric in self.metrics if metric.name == name), None)


@dataclass(frozen=True)
class Comparison:
    """Rows in the order in which the models were given."""

    data: str
    rows: tuple[Row, ...]
    folder: Path | None = field(default=None, compare=False)

    def to_json(self) -> list[dict[str, Any]]:
        """A list with an object for each model."""
        return [row.to_json() for row in self.rows]

    def row(self, model: str) -> Row:
        """The row of a model by name.

        Raises:
            InvalidInput: for a model that was not compared.
        """
        found = next((row for row in self.rows if row.model == model), None)
        if found is None:
            raise InvalidInput(f"{model!r} is not in this comparison; expected one of {', '.join(row.model for row in self.rows)}.")
        return found

    def write(self) -> Path:
        """Write ``compare.json`` into the folder."""
        assert self.folder is not None
        path = self.folder / FILE
        scratch = path.with_suffix(".json.tmp")
        scratch.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False))
        scratch.replace(path)
        return path

    @staticmethod
    def create_folder(path: str | Path, *, force: bool = False) -> Path:
        """A fresh folder for a comparison.

        Raises:
            InvalidInput: where it exists and is not empty; with ``force``, where it is not a comparison.
        """
        folder = Path(path).expanduser()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if not force:
                raise InvalidInput(f"{str(path)!r} exists and is not empty; give another --out, or --force to replace it.")
            if not (folder / FILE).is_file():
                raise InvalidInput(f"{str(path)!r} is not a comparison of manykin and is left alone; give another --out.")
            shutil.rmtree(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"{str(path)!r} cannot be made: {error.strerror}; give another --out.") from error
        return folder

    def __str__(self) -> str:
        names = list(dict.fromkeys(metric.name for row in self.rows for metric in row.metrics))
        lines = []
        for row in self.rows:
            found = [f"{name} {metric}" for name in names if (metric := row.metric(name)) is not None]
            lines.append(f"{row.model}: {row.error or '; '.join(found)}")
        return "\n".join(lines)
