"""What a report of a comparison is made from: what was asked, a row a model, and the run folders behind them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from manykin.errors import CheckpointMismatch, ManykinError
from manykin.metrics import Estimate
from manykin.report.reading import ASKED, COMPARISON, CONFIG, Run, family_of, model_name, plain_float, read_json, read_run, read_value
from manykin.spaces import Space, Value, space_from_json

SPLITS = ("train", "val", "test")
SAMPLING_N = 256
"""Samples behind a sampling time that does not say."""


@dataclass(frozen=True)
class Moment:
    """A distance on the way: after so many seconds of training."""

    seconds: float
    value: float
    stderr: float | None


@dataclass(frozen=True)
class Result:
    """A model's line in the tables."""

    model: str
    family: str
    metrics: tuple[Estimate, ...]
    density: str = "none"
    seconds: float | None = None
    steps: float | None = None
    parameters: float | None = None
    peak_memory_bytes: float | None = None
    samples_per_second: float | None = None
    error: str = ""
    warnings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    curve: tuple[Moment, ...] = ()

    def metric(self, *names: str) -> Estimate | None:
        """The first of these metrics that the model has."""
        found = {metric.name: metric for metric in self.metrics}
        return next((found[name] for name in names if name in found), None)


@dataclass(frozen=True)
class Compared:
    """A comparison folder, read. ``runs``: one run folder a model that finished; ``asked``: ``comparison.json``, empty where there is none."""

    data: str
    results: tuple[Result, ...]
    runs: Mapping[str, Run]
    asked: Mapping[str, Any] = field(default_factory=dict)
    space: Space | None = None
    real: Value | None = None
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def finished(self) -> list[Result]:
        """The models that did not fail."""
        return [result for result in self.results if not result.error]

    @property
    def failed(self) -> list[Result]:
        """The models that failed."""
        return [result for result in self.results if result.error]


def read_comparison(folder: Path, *, with_models: bool = True) -> Compared:
    """Read a comparison folder. A run folder that is damaged is said where its pictures would stand; the numbers do not need it.

    Raises:
        CheckpointMismatch: for a damaged ``compare.json``.
    """
    rows = read_json(folder / COMPARISON)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "model" in row for row in rows):
        raise CheckpointMismatch(f"{folder / COMPARISON} is damaged: expected a list of objects, each with the key 'model'.")
    runs: dict[str, Run] = {}
    for row in rows:
        path = None if row.get("error") else _run_folder(folder, row)
        if path is not None:
            runs[str(row["model"])] = _read(path, with_models)
    first = next((run for run in runs.values() if run.space is not None), None)
    counts, space = _prepared(folder / "data.safetensors")
    space = space if first is None else first.space
    results = tuple(_result(row, runs.get(str(row["model"]))) for row in rows)
    real = _optional(folder / "real.safetensors", space)
    if real is None and first is not None:
        real = first.real
    asked = _asked(folder)
    return Compared(_data_name(rows, asked), results, runs, asked, space, real, counts or _row_counts(runs.values()))


def _read(path: Path, with_models: bool) -> Run:
    try:
        return read_run(path, with_model=with_models)
    except ManykinError as error:
        return Run(path.name, {}, trouble=f"The run folder is damaged, so its pictures are left out: {error}")


def _optional(path: Path, space: Space | None) -> Value | None:
    try:
        return read_value(path, space)
    except ManykinError:
        return None


def _asked(folder: Path) -> Mapping[str, Any]:
    try:
        asked = read_json(folder / ASKED)
    except ManykinError:
        return {}
    return asked if isinstance(asked, Mapping) else {}


def _data_name(rows: Sequence[Mapping[str, Any]], asked: Mapping[str, Any]) -> str:
    named = asked.get("data")
    if isinstance(named, Mapping):
        named = named.get("name")
    return str(rows[0].get("data") or "") if rows else str(named or "")


def _prepared(path: Path) -> tuple[Mapping[str, int], Space | None]:
    """Rows of each split and the space, from the header of the data that the models were fitted to; nothing where there is none to read."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
            described = json.loads((file.metadata() or {}).get("manykin.dataset", "{}"))
        space = space_from_json(described["space"]) if isinstance(described, Mapping) and "space" in described else None
    except (OSError, SafetensorError, ValueError, ManykinError, TypeError, KeyError):
        return {}, None
    return {key.split("/")[0]: shape[0] for key, shape in shapes.items() if shape and key.split("/")[0] in SPLITS}, space


def _row_counts(runs: Iterable[Run]) -> Mapping[str, int]:
    """Rows of each split, where one of the runs recorded them."""
    for run in runs:
        data = run.config.get("data")
        rows = data.get("rows") if isinstance(data, Mapping) else None
        if isinstance(rows, Mapping) and isinstance(rows.get("train"), int):
            return {name: rows[name] for name in SPLITS if isinstance(rows.get(name), int)}
    return {}


def _run_folder(folder: Path, row: Mapping[str, Any]) -> Path | None:
    """The run folder that stands for a model: the first of its seeds that finished. A name that leads outside the comparison leads nowhere."""
    return next((path for path in _candidates(folder, row) if (path / CONFIG).is_file()), None)


def _candidates(folder: Path, row: Mapping[str, Any]) -> Iterator[Path]:
    runs = row.get("runs")
    for run in runs if isinstance(runs, list) else []:
        if isinstance(run, Mapping) and not run.get("error") and _inside(str(run.get("folder", ""))):
            yield folder / str(run["folder"])
    if _inside(str(row["model"])):
        yield folder / str(row["model"])


def _inside(name: str) -> bool:
    return name not in ("", ".", "..") and Path(name).name == name


def _result(row: Mapping[str, Any], run: Run | None) -> Result:
    name = str(row["model"])
    seconds, n = plain_float(row.get("sampling_seconds")), plain_float(row.get("sampling_n")) or SAMPLING_N
    density = row.get("density")
    told = row.get("warnings") or ()
    own = () if run is None or run.evaluation is None else run.evaluation.warnings
    return Result(
        model=name,
        family=str(row.get("family") or "") or family_of(name if run is None or not run.config else model_name(run)),
        metrics=_estimates(row.get("metrics")),
        density=str(density.get("strength", "none") if isinstance(density, Mapping) else density or "none"),
        seconds=plain_float(row.get("seconds")),
        steps=plain_float(row.get("steps")),
        parameters=plain_float(row.get("parameters")),
        peak_memory_bytes=plain_float(row.get("peak_memory_bytes")),
        samples_per_second=n / seconds if seconds else None,
        error=str(row.get("error") or ""),
        warnings=tuple(dict.fromkeys(str(each) for each in (*told, *own))),
        seeds=tuple(seed for seed in row.get("seeds") or () if isinstance(seed, int)),
        curve=_curve(row.get("curve")),
    )


def _estimates(found: Any) -> tuple[Estimate, ...]:
    return tuple(Estimate.from_json(metric) for metric in found or () if isinstance(metric, Mapping) and "name" in metric)


def _curve(found: Any) -> tuple[Moment, ...]:
    points = []
    for point in found if isinstance(found, list) else []:
        seconds, value = plain_float(point.get("seconds")), plain_float(point.get("energy_distance"))
        if seconds is not None and value is not None:
            points.append(Moment(seconds, value, plain_float(point.get("stderr"))))
    return tuple(sorted(points, key=lambda point: point.seconds))


def result_of_run(run: Run) -> Result:
    """The line of a single run."""
    recorded = run.config.get("result")
    recorded = recorded if isinstance(recorded, Mapping) else {}
    name = model_name(run)
    density = "none" if run.model is None or run.model.density is None else run.model.density.strength
    found = run.evaluation
    return Result(
        name, family_of(name), found.metrics if found else (), density, plain_float(recorded.get("seconds")), plain_float(recorded.get("steps")),
        plain_float(recorded.get("parameters")), plain_float(recorded.get("peak_memory_bytes")), warnings=found.warnings if found else (),
    )  # fmt: skip
