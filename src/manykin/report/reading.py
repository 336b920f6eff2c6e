"""What a report is made from: the files of a run folder."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manykin.errors import CheckpointMismatch, InvalidInput, ManykinError
from manykin.metrics import Evaluation
from manykin.spaces import Record, Space, Value, space_from_json

if TYPE_CHECKING:
    from manykin.contract import GenerativeModel

COMPARISON = "compare.json"
ASKED = "comparison.json"
CONFIG = "config.json"
SNAPSHOTS = 24
"""Pictures over training that are read, evenly spaced."""


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
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    model: "GenerativeModel | None" = None
    trouble: str = ""

    @property
    def details(self) -> Mapping[str, Any]:
        """What the evaluation found behind its numbers; empty where there is none."""
        return {} if self.evaluation is None else self.evaluation.details


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
        tensors=_tensors(folder / "evaluation.safetensors"),
        model=model,
        trouble=trouble,
    )


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
    """Samples that training left on its way, ``STEP.safetensors``: up to SNAPSHOTS of them, evenly spaced, in order."""
    found = sorted((int(path.stem), path) for path in folder.glob("*.safetensors") if path.stem.isdigit())
    chosen = found if len(found) <= SNAPSHOTS else [found[round(i * (len(found) - 1) / (SNAPSHOTS - 1))] for i in range(SNAPSHOTS)]
    values = [(step, read_value(path, space)) for step, path in chosen]
    return tuple((step, value) for step, value in values if value is not None)


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


def plain_float(value: Any) -> float | None:
    """A finite number of a JSON file; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """What the evaluation left to be drawn; empty where there is no such file, or it cannot be read: the numbers do not need it."""
    try:
        return load_file(path) if path.is_file() else {}
    except (SafetensorError, OSError):
        return {}
