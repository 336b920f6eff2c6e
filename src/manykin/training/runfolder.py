"""The run folder: the only interface between training, command line and report.

``config.json`` · ``model.safetensors`` (what users should use) · ``checkpoints/STEP/`` and ``checkpoints/last`` · ``metrics.jsonl`` · ``samples/`` ·
``README.md``. Reading never executes anything: JSON and safetensors only.
"""

import json
import math
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch

from manykin import __version__
from manykin.contract import GenerativeModel
from manykin.errors import CheckpointMismatch, InvalidInput, suggest
from manykin.training import checkpoint
from manykin.training.device import rank
from manykin.training.files import remove, replace_file, replace_tensors, write_json, writing
from manykin.training.layout import FORMAT, REQUIRED, brief, check_config, check_keys
from manykin.training.lock import Lock
from manykin.training.weights import check_layout, load_weights, model_tensors, read_layout

CONFIG, MODEL, METRICS, CARD, LOCK = "config.json", "model.safetensors", "metrics.jsonl", "README.md", ".lock"
LEFTOVERS = (LOCK, *(f".{name}.tmp" for name in (CONFIG, MODEL, METRICS, CARD)))
"""Names that a process killed before its first step may leave: a folder with nothing else counts as empty."""

OURS = (CONFIG, MODEL, METRICS, CARD, *LEFTOVERS, "checkpoints", "samples", "components", "evaluation.json",
        "evaluation.safetensors", "report.html", "report.md", "samples.gif", "strip.png")  # fmt: skip
"""Every name that manykin itself puts into a run folder: replacing a run removes these and nothing else."""


ENTRIES = 16
"""How many entries of a space, or units of an option, one stored number may stand for."""


class RunFolder:
    """A run folder by its path. Constructing one touches nothing; :meth:`create` prepares one for writing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.writable = rank() == 0
        self._lock: Lock | None = None

    @classmethod
    def create(cls, path: str | Path, *, force: bool = False, resume: bool = False) -> Self:
        """A folder to write a run into, locked against other processes.

        Args:
            path: created where it does not exist.
            force: replace the run that is there. Only what manykin wrote is removed.
            resume: go on with the run that is there; an empty folder starts one.

        Raises:
            InvalidInput: where the path is taken, by a run or by anything else, or cannot be written; where another process writes to it.
        """
        run = cls(path)
        if force and resume:
            raise InvalidInput("--force replaces a run and --resume goes on with it; expected one of them.")
        if not run.writable:
            return run
        run._prepare(force, resume)
        return run

    def _prepare(self, force: bool, resume: bool) -> None:
        path = self.path
        if path.exists() and not path.is_dir():
            raise InvalidInput(f"{path} is a file; expected a folder for the run.")
        taken = path.is_dir() and any(entry.name not in LEFTOVERS for entry in path.iterdir())
        if taken and not (force or resume):
            raise InvalidInput(f"{path} exists; give another --out, --resume to go on, or --force to replace.")
        if taken and not self.recognised:
            raise InvalidInput(f"{path} is not a run folder: it holds {_first_entry(path)!r} and no readable {CONFIG}. Give another --out.")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.lock()
            if taken and force:
                for name in (*OURS, *(found.name for kind in ("json", "safetensors") for found in path.glob(f"evaluation-*.{kind}"))):
                    if name != LOCK:
                        remove(path / name)
        except OSError as error:
            raise InvalidInput(f"{path} cannot be written: {error.strerror or error}. Give another --out.") from error

    def lock(self) -> None:
        """Claim the folder for this process until :meth:`release`, or until the process ends.

        Raises:
            InvalidInput: where another process has it.
        """
        if self.writable and self._lock is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path / LOCK)

    def release(self) -> None:
        """Let others write to the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def locked(self) -> bool:
        """Whether this object has claimed the folder."""
        return self._lock is not None

    @property
    def recognised(self) -> bool:
        """Whether the folder is visibly a run of manykin's."""
        try:
            config = json.loads((self.path / CONFIG).read_text())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(config, dict) and "format" in config and "model" in config

    @property
    def begun(self) -> bool:
        """Whether there is a run in the folder."""
        return (self.path / CONFIG).is_file()

    @property
    def finished(self) -> bool:
        """Whether the run in the folder came to its end."""
        return self.begun and (self.path / MODEL).is_file() and bool(self.read_config().get("result"))

    @property
    def model_file(self) -> Path:
        """The weights that users should use."""
        return self.path / MODEL

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        """The log, one JSON object a line."""
        return self.path / METRICS

    @property
    def samples_dir(self) -> Path:
        """The folder of samples, created where it does not exist."""
        path = self.path / "samples"
        with writing(path):
            path.mkdir(exist_ok=True)
        return path

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace ``config.json``; format and versions are filled in.

        Raises:
            InvalidInput: for a key that the format does not have.
            TrainingFailed: where the disk refuses.
        """
        check_keys(config, InvalidInput, "config")
        versions = {"manykin": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
        if self.writable:
            with writing(self.path / CONFIG):
                write_json(self.path / CONFIG, {"format": FORMAT, "versions": versions, **config})

    def update_config(self, changes: Mapping[str, Any]) -> None:
        """Change some keys of ``config.json``."""
        if self.writable:
            self.write_config({**self.read_config(), **changes})

    def read_config(self) -> dict[str, Any]:
        """The content of ``config.json``, checked.

        Raises:
            CheckpointMismatch: missing or damaged file, newer format, missing or unknown key; names it.
        """
        path = self.path / CONFIG
        try:
            config = json.loads(path.read_text())
        except FileNotFoundError:
            raise CheckpointMismatch(f"{path} is missing: {self.path} is not a run folder.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointMismatch(f"{path} cannot be read: it is truncated or damaged ({error}).") from error
        if not isinstance(config, dict):
            raise CheckpointMismatch(f"{path} holds a {type(config).__name__}; expected an object with the keys {', '.join(REQUIRED)}.")
        check_config(config, path)
        return config

    def save_model(self, model: GenerativeModel) -> None:
        """Replace ``model.safetensors`` by a model's weights.

        Raises:
            TrainingFailed: where the disk refuses.
        """
        if self.writable:
            with writing(self.model_file):
                replace_tensors(self.model_file, model_tensors(model), str(FORMAT))

    def fill_model(self, model: GenerativeModel) -> None:
        """Fill a model, constructed for the recorded config and spaces, with the recorded weights.

        Raises:
            CheckpointMismatch: where the model, its space or its tensors are not the recorded ones.
        """
        config = self.read_config()
        self.check_model(model, config)
        load_weights(model, self.model_file, config["sizes"])

    def load_model(self, build: Callable[[], GenerativeModel]) -> GenerativeModel:
        """Build the recorded model and fill it; nothing is allocated before the stored tensors are known to fit it.

        Raises:
            CheckpointMismatch: where the model, its space or its tensors are not the recorded ones.
        """
        check_layout(build, read_layout(self.model_file), self.read_config()["sizes"], self.model_file)
        model = build()
        self.fill_model(model)
        return model

    def check_entries(self, entries: Mapping[str, int]) -> None:
        """Refuse spaces and options far larger than a model with the stored weights can have, before anything is built for them.

        A model whose shapes do not grow with its data (a convolution) may be small, so a million entries are always allowed.

        Args:
            entries: how many by the key of ``config.json`` that asks for them.

        Raises:
            CheckpointMismatch: naming the key with more entries than that and than ``ENTRIES`` times the stored numbers.
        """
        stored = sum(math.prod(shape) for shape, _ in read_layout(self.model_file).values())
        most = max(1_000_000, ENTRIES * stored)
        for key, value in entries.items():
            if value > most:
                raise CheckpointMismatch(
                    f"{self.path / CONFIG}: key {key!r} asks for {value} entries; the {stored} stored numbers allow at most {most}."
                )

    def check_model(self, model: GenerativeModel, config: Mapping[str, Any]) -> None:
        """Refuse a model that is not the recorded one.

        Raises:
            CheckpointMismatch: naming the key that differs.
        """
        now = describe_model(model)
        for key in ("space", "condition", "transform"):
            if config[key] != now[key]:
                raise CheckpointMismatch(f"{self.path / CONFIG}: key {key!r} is {brief(config[key])}; this model has {brief(now[key])}.")
        stored, own = config["model"]["config"], now["model"]["config"]
        for name in sorted({*stored, *own}):
            if name not in own:
                raise CheckpointMismatch(f"{self.path / CONFIG}: key 'model.config.{name}' is unknown to {type(model).__name__}.{suggest(name, own)}")
            if name not in stored or stored[name] != own[name]:
                raise CheckpointMismatch(
                    f"{self.path / CONFIG}: key 'model.config.{name}' is {brief(stored.get(name))}; this model has {brief(own[name])}."
                )

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a last line that was cut short is left out.

        Raises:
            CheckpointMismatch: where a line before the last is damaged.
        """
        try:
            lines = self.metrics_file.read_text().splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointMismatch(f"{self.metrics_file} cannot be read ({type(error).__name__}).") from error
        result = []
        for number, line in enumerate(lines, start=1):
            try:
                result.append(dict(json.loads(line)))
            except (ValueError, TypeError, RecursionError):
                if number < len(lines):
                    raise CheckpointMismatch(f"{self.metrics_file}, line {number} is damaged; expected one JSON object.") from None
        return result

    def write_card(self, text: str) -> None:
        """Replace the model card, ``README.md``.

        Raises:
            TrainingFailed: where the disk refuses.
        """
        if self.writable:
            with writing(self.path / CARD):
                replace_file(self.path / CARD, text.encode())

    def last_step(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        return checkpoint.last_step(self.checkpoints)


def describe_model(model: GenerativeModel) -> dict[str, Any]:
    """What ``config.json`` says of a model itself."""
    described = {
        "model": {"name": type(model).__name__, "config": model.config.to_json()},
        "space": model.space.to_json(),
        "condition": None if model.condition is None else model.condition.to_json(),
        "sizes": dict(model.sizes),
        "transform": model.transform.describe(),
    }
    return dict(json.loads(json.dumps(described)))


def _first_entry(path: Path) -> str:
    return min(entry.name for entry in path.iterdir() if entry.name not in LEFTOVERS)


__all__ = ["FORMAT", "RunFolder", "describe_model"]
