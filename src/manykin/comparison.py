"""Comparing models: one split, one budget, one row a model, and the folder that holds them."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from manykin.api import fit, model_class, save_value
from manykin.config import Config
from manykin.contract import GenerativeModel
from manykin.data import load_data
from manykin.data.dataset import Dataset
from manykin.errors import InvalidInput, ManykinError
from manykin.evaluation import evaluate, save_evaluation
from manykin.metrics import Estimate
from manykin.random import generator, hash_seed
from manykin.training import RunFolder
from manykin.training.files import replace_file, writing
from manykin.training.runfolder import LOCK

FILE, REAL = "compare.json", "real.safetensors"
HOLDOUT = 0.1
"""The share of rows held back as test split where a comparison needs one and the data bring none."""


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
        with writing(path):
            replace_file(path, json.dumps(self.to_json(), indent=2, allow_nan=False).encode())
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
            _clear(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"{str(path)!r} cannot be made: {error.strerror}; give another --out.") from error
        return folder

    def __str__(self) -> str:
        names = [name for name in ("bits_per_dim", "nll", "kl_gap", "energy_distance") if any(row.metric(name) for row in self.rows)]
        table = [["model", *names, "fit"]]
        for row in self.rows:
            cells = [row.error] if row.error else [str(row.metric(name) or "none") for name in names]
            table.append([row.model, *cells, "" if row.seconds is None else f"{row.seconds:.1f} s"])
        whole = [line for line in table if len(line) == len(table[0])]
        widths = [max(len(line[place]) for line in whole) for place in range(len(table[0]))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in table)


def _clear(folder: Path) -> None:
    """Remove what an earlier comparison wrote: its own files and the run folders that it names. Everything else stays.

    Raises:
        InvalidInput: where the folder holds no comparison.
    """
    try:
        runs = [str(row["model"]) for row in json.loads((folder / FILE).read_text())]
    except (OSError, ValueError, TypeError, KeyError):
        raise InvalidInput(f"{str(folder)!r} is not a comparison of manykin and is left alone; give another --out.") from None
    for name in runs:
        run = RunFolder(folder / name)
        if Path(name).name == name and run.path.is_dir() and run.recognised:
            RunFolder.create(run.path, force=True).release()
            (run.path / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                run.path.rmdir()
    for name in (FILE, REAL, "report.html"):
        (folder / name).unlink(missing_ok=True)


def compare(
    models: Sequence[str | Config | type[GenerativeModel]],
    data: Any,
    *,
    condition: Any = None,
    preset: str = "default",
    data_options: Mapping[str, Any] | None = None,
    max_time: float | None = None,
    max_steps: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool = False,
) -> Comparison:
    """Fit several models on one split with one budget, one after the other, and evaluate them alike.

    A model that cannot take the data or fails becomes a row with its error. With ``out``, each model leaves a run folder and the whole a
    ``compare.json``.

    Args:
        models: names, configs or classes.
        data: as in :func:`fit`; data without a test split of its own is split 80/10/10.
        condition: as in :func:`fit`.
        preset: the preset of every model.
        data_options: how to read the data.
        max_time: seconds of training a model.
        max_steps: steps a model.
        out: a folder to write.
        seed: of everything.
        force: replace an existing comparison folder.
        progress: show progress.
    """
    if not models:
        raise InvalidInput("compare was given no models; expected at least one name from `manykin models`.")
    dataset = load_data(data, condition=condition, options=data_options, seed=seed)
    dataset = with_test(dataset, seed)
    folder = None if out is None else Comparison.create_folder(out, force=force)
    rows: list[Row] = []
    labels = _distinct([model_class(model)[0] for model in models])
    for label, model in zip(labels, models, strict=True):
        rows.append(_compare_one(label, model, dataset, preset, max_time, max_steps, None if folder is None else folder / label, seed, progress))
        if folder is not None:
            Comparison(dataset.name, tuple(rows), folder).write()
    if folder is not None and dataset.test is not None:
        save_value(dataset.test.sample(1024, seed).x, folder / REAL)
    return Comparison(dataset.name, tuple(rows), folder)


def _compare_one(
    label: str, model: Any, data: Dataset, preset: str, max_time: float | None, max_steps: int | None, out: Path | None, seed: int, progress: bool
) -> Row:
    try:
        fitted = fit(model, data, preset=preset, max_time=max_time, max_steps=max_steps, seed=seed, out=out, progress=progress)
        evaluation = evaluate(fitted, seed=seed)
    except (ManykinError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        return Row(label, data.name, error=str(error).splitlines()[0])
    if out is not None:
        save_evaluation(out, evaluation)
    begun = time.perf_counter()
    fitted.model.sample(256, seed=seed)
    return Row(
        label, data.name, evaluation.metrics, str(fitted.density or "none"), seconds=float(fitted.result["seconds"]),
        parameters=int(fitted.result["parameters"]), peak_memory_bytes=int(fitted.result["peak_memory_bytes"]),
        sampling_seconds=time.perf_counter() - begun,
    )  # fmt: skip


def hold_out(data: Dataset, share: float, seed: int) -> Dataset:
    """A data set with a share of its training rows as validation split.

    Raises:
        InvalidInput: for fewer than two rows.
    """
    n = len(data.train)
    if n < 2:
        raise InvalidInput(f"{data.name} has {n} row; expected at least 2 to hold one back for early stopping.")
    order = torch.randperm(n, generator=generator(seed, "hold out"))
    held = max(1, round(n * share))
    return dataclasses.replace(data, train=data.train.select(order[held:].sort().values), val=data.train.select(order[:held].sort().values))


def with_test(data: Dataset, seed: int) -> Dataset:
    """A data set with a test split: its own, else a tenth of the training rows."""
    if data.test is not None:
        return data
    split = hold_out(data, HOLDOUT, hash_seed(seed, "test"))
    note = {**data.provenance, "split": f"{len(split.train)} training and {len(split.val or ())} test rows drawn with seed {seed}"}
    return dataclasses.replace(split, test=split.val, val=data.val, provenance=note)


def _distinct(labels: list[str]) -> list[str]:
    """Names of run folders: a model that appears twice gets a number."""
    seen: dict[str, int] = {}
    result = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        result.append(label if seen[label] == 1 else f"{label}-{seen[label]}")
    return result
