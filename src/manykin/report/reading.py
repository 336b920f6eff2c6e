"""What a report is made from: the files of a run folder or a comparison folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manykin.errors import CheckpointMismatch, InvalidInput, ManykinError
from manykin.metrics import Estimate, Evaluation
from manykin.spaces import Record, Space, Value, space_from_json

if TYPE_CHECKING:
    from manykin.contract import GenerativeModel

COMPARISON = "compare.json"
CONFIG = "config.json"
SNAPSHOTS = 8


@dataclass(frozen=True)
class Run:
    """One run folder, read. What a folder does not hold is None or empty; ``trouble`` says what could not be read of the model itself."""

    name: str
    config: Mapping[str, Any]
    space: Space | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluation: Evaluation | None = None
    samples: Value | None = None
    real: Value | None = None
    snapshots: tuple[tuple[int, Value], ...] = ()
    model: "GenerativeModel | None" = None
    trouble: str = ""


@dataclass(frozen=True)
class Result:
    """A model's line in the headline table."""

    model: str
    family: str
    metrics: tuple[Estimate, ...]
    density: str = "none"
    seconds: float | None = None
    parameters: float | None = None
    peak_memory_bytes: float | None = None
    samples_per_second: float | None = None
    error: str = ""

    def metric(self, *names: str) -> Estimate | None:
        """The first of these metrics that the model has."""
        found = {metric.name: metric for metric in self.metrics}
        return next((found[name] for name in names if name in found), None)


def is_comparison(folder: Path) -> bool:
    """Whether a folder is a comparison; otherwise it is a run.

    Raises:
        InvalidInput: where it is neither.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{str(folder)!r} is not a folder; expected a run folder or a comparison folder.")
    if (folder / COMPARISON).is_file():
        return True
    if not (folder / CONFIG).is_file():
        raise InvalidInput(f"{str(folder)!r} holds neither {CONFIG} nor {COMPARISON}; expected a run folder or a comparison folder.")
    return False


def read_run(folder: Path, *, with_model: bool = True) -> Run:
    """Read a run folder.

    Raises:
        CheckpointMismatch: for a damaged file; a model that cannot be loaded is only noted.
    """
    config = read_json(folder / CONFIG)
    if not isinstance(config, Mapping):
        raise CheckpointMismatch(f"{folder / CONFIG} holds a {type(config).__name__}; expected an object with the keys of a run.")
    space = _space(config, folder)
    model, trouble = _model(folder) if with_model else (None, "")
    evaluation = folder / "evaluation.json"
    return Run(
        name=folder.name,
        config=config,
        space=space,
        history=_history(folder / "metrics.jsonl"),
        evaluation=_evaluation(evaluation) if evaluation.is_file() else None,
        samples=read_value(folder / "samples" / "final.safetensors", space),
        real=read_value(folder / "samples" / "real.safetensors", space),
        snapshots=_snapshots(folder / "samples", space),
        model=model,
        trouble=trouble,
    )


def read_comparison(folder: Path) -> tuple[str, list[Result], dict[str, Run]]:
    """The data set's name, a result a model, and the run folders of those that finished.

    Raises:
        CheckpointMismatch: for a damaged file.
    """
    rows = read_json(folder / COMPARISON)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "model" in row for row in rows):
        raise CheckpointMismatch(f"{folder / COMPARISON} is damaged: expected a list of objects, each with the key 'model'.")
    runs = {str(row["model"]): read_run(_inside(folder, row)) for row in rows if (_inside(folder, row) / CONFIG).is_file() and not row.get("error")}
    results = [_result(row, runs.get(str(row["model"]))) for row in rows]
    return str(rows[0].get("data", "")) if rows else "", results, runs


def result_of_run(run: Run) -> Result:
    """The headline line of a single run."""
    recorded = run.config.get("result") or {}
    name = model_name(run)
    density = "none" if run.model is None or run.model.density is None else run.model.density.strength
    return Result(
        name, family_of(name), run.evaluation.metrics if run.evaluation else (), density, _float(recorded.get("seconds")),
        _float(recorded.get("parameters")), _float(recorded.get("peak_memory_bytes")),
    )  # fmt: skip


def model_name(run: Run) -> str:
    """The name of a run's model in the table of models."""
    model = run.config.get("model")
    return str(model.get("name", run.name)) if isinstance(model, Mapping) else run.name


def family_of(name: str) -> str:
    """The family that a model's class declares; empty for a model that is not in the table."""
    from manykin.models import get

    try:
        return get(name).family
    except (ManykinError, ImportError):
        return ""


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        CheckpointMismatch: where it cannot be read, naming it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointMismatch(f"{path} cannot be read ({error}): the folder is damaged or incomplete.") from error


def read_value(path: Path, space: Space | None) -> Value | None:
    """Saved examples: the tensor ``x``, or the fields of a record; None where there is no such file.

    Raises:
        CheckpointMismatch: for a damaged file.
    """
    if not path.is_file():
        return None
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointMismatch(f"{path} cannot be read ({error}): it is damaged.") from error
    if isinstance(space, Record):
        return tensors
    if "x" not in tensors:
        raise CheckpointMismatch(f"{path} has no tensor 'x'; found {sorted(tensors)}.")
    return tensors["x"]


def _snapshots(folder: Path, space: Space | None) -> tuple[tuple[int, Value], ...]:
    """Samples that training left on its way, ``STEP.safetensors``: up to eight of them, evenly spaced, in order."""
    found = sorted((int(path.stem), path) for path in folder.glob("*.safetensors") if path.stem.isdigit())
    chosen = found if len(found) <= SNAPSHOTS else [found[round(i * (len(found) - 1) / (SNAPSHOTS - 1))] for i in range(SNAPSHOTS)]
    values = [(step, read_value(path, space)) for step, path in chosen]
    return tuple((step, value) for step, value in values if value is not None)


def _inside(folder: Path, row: Mapping[str, Any]) -> Path:
    """A model's run folder; a name that leads outside the comparison leads nowhere."""
    name = str(row["model"])
    return folder / name if Path(name).name == name else folder / "_"


def _result(row: Mapping[str, Any], run: Run | None) -> Result:
    name = str(row["model"])
    table_name = model_name(run) if run is not None else name
    seconds = _float(row.get("sampling_seconds"))
    return Result(
        model=name,
        family=family_of(table_name),
        metrics=tuple(Estimate.from_json(metric) for metric in row.get("metrics") or ()),
        density=str(row.get("density") or "none"),
        seconds=_float(row.get("seconds")),
        parameters=_float(row.get("parameters")),
        peak_memory_bytes=_float(row.get("peak_memory_bytes")),
        samples_per_second=_float(row.get("sampling_n", 256)) / seconds if seconds else None,  # type: ignore[operator]
        error=str(row.get("error") or ""),
    )


def _evaluation(path: Path) -> Evaluation:
    try:
        return Evaluation.from_json(read_json(path))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointMismatch(f"{path} is damaged: {error}.") from error


def _history(path: Path) -> list[dict[str, Any]]:
    """The lines of the log; a last line that was cut short by a crash is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _space(config: Mapping[str, Any], folder: Path) -> Space | None:
    if not isinstance(config.get("space"), Mapping):
        return None
    try:
        return space_from_json(config["space"])
    except (ManykinError, TypeError, KeyError) as error:
        raise CheckpointMismatch(f"{folder / CONFIG} describes a space that cannot be read: {error}") from error


def _model(folder: Path) -> "tuple[GenerativeModel | None, str]":
    if not (folder / "model.safetensors").is_file():
        return None, "model.safetensors is missing, so pictures that need the model are left out."
    from manykin.fitted import from_pretrained

    try:
        return from_pretrained(folder).model, ""
    except ManykinError as error:
        return None, f"The model could not be loaded, so pictures that need it are left out: {error}"


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
