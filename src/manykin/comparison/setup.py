"""What was asked of a comparison: ``comparison.json``, what may be gone on with, and what is repeated."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from manykin import __version__
from manykin.api import model_class
from manykin.comparison.trust import check_setup, first_line
from manykin.config import Config
from manykin.errors import CheckpointMismatch, InvalidInput
from manykin.metrics import chosen
from manykin.models import get, name_of
from manykin.training import TrainOptions
from manykin.training.files import write_json, writing

FILE = "comparison.json"
FORMAT = 1


@dataclass(frozen=True)
class Candidate:
    """One model of a comparison. ``name``: what the command line calls it, None for a class of nobody's table; ``options``: of a config, in full."""

    label: str
    name: str | None
    options: Mapping[str, Any] | None = None
    given: Any = field(default=None, compare=False, repr=False)

    @property
    def alone(self) -> bool:
        """Whether a process of its own can build it."""
        return self.name is not None

    @property
    def family(self) -> str:
        """The family that its class declares."""
        return model_class(self.given)[1].family if self.name is None else get(self.name).family

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"label": self.label, "name": self.name, "options": None if self.options is None else dict(self.options)}


def candidates(models: Iterable[Any]) -> tuple[Candidate, ...]:
    """The models of a call; one that appears twice gets a number.

    Raises:
        InvalidInput: for none, or for what is no model.
    """
    if isinstance(models, (str, Config, type)):
        models = [models]
    found: list[Candidate] = []
    for model in models:
        name, cls = model_class(model)
        seen = [name, *(f"{name}-{number}" for number in range(2, len(found) + 2))]
        label = next(each for each in seen if each not in {other.label for other in found})
        options = model.to_json() if isinstance(model, Config) else None
        found.append(Candidate(label, model if isinstance(model, str) else name_of(cls), options, model))
    if not found:
        raise InvalidInput("compare was given no models; expected at least one name from `manykin models`.")
    return tuple(found)


@dataclass(frozen=True)
class Setup:
    """Everything that decides what a comparison finds. ``steps``: the steps of each run by its folder, where a comparison is repeated."""

    models: tuple[Candidate, ...]
    data: Mapping[str, Any]
    seeds: tuple[int, ...] = (0,)
    preset: str = "default"
    max_time: float | None = None
    max_steps: int | None = None
    metrics: tuple[str, ...] = ()
    n: int | None = None
    features: str = "own"
    target: str | None = None
    threads: int = 1
    steps: Mapping[str, int] | None = None

    @property
    def seed(self) -> int:
        """The seed of the split."""
        return self.seeds[0]

    def folder(self, label: str, seed: int) -> str:
        """The name of a run folder inside that of the comparison."""
        return label if len(self.seeds) == 1 else f"{label}-seed{seed}"

    def to_json(self) -> dict[str, Any]:
        """The content of ``comparison.json``."""
        versions = {"manykin": __version__, "torch": str(torch.__version__)}
        return {
            "format": FORMAT, "models": [model.to_json() for model in self.models], "data": dict(self.data), "seeds": list(self.seeds),
            "preset": self.preset, "budget": {"max_time": self.max_time, "max_steps": self.max_steps},
            "metrics": list(self.metrics), "n": self.n, "features": self.features, "target": self.target, "threads": self.threads,
            "steps": None if self.steps is None else dict(self.steps), "versions": versions,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Setup":
        """Read :meth:`to_json` back.

        Raises:
            InvalidInput: for a model that only the process of the original could build, that is not known here, or whose options are none.
        """
        models = []
        for each in data["models"]:
            if each["name"] is None:
                raise InvalidInput(f"the model {each['label']!r} is in no table, so that a folder cannot bring it back; compare it by a new call.")
            cls_of = get(each["name"])
            if each["options"] is not None:
                cls_of.config_class.from_json(each["options"])
            models.append(Candidate(each["label"], each["name"], each["options"], each["name"]))
        return cls(
            tuple(models), data["data"], tuple(data["seeds"]), data["preset"], data["budget"]["max_time"], data["budget"]["max_steps"],
            tuple(data["metrics"]), data["n"], data["features"], data["target"], data["threads"], data["steps"],
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write ``comparison.json``.

        Raises:
            TrainingFailed: where the disk refuses.
        """
        with writing(folder / FILE):
            write_json(folder / FILE, self.to_json())

    def check(self) -> "Setup":
        """Refuse at once what every run would refuse later.

        Raises:
            InvalidInput: for a budget, seed, number or metric that cannot be.
        """
        TrainOptions.from_json({key: value for key in ("max_time", "max_steps") if (value := getattr(self, key)) is not None})
        chosen(self.metrics)
        if not isinstance(self.features, str):
            raise InvalidInput(f"features is a {type(self.features).__name__}; expected own, none, a path or a hub id: other processes need a name.")
        for seed in self.seeds:
            if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
                raise InvalidInput(f"seed {seed!r} cannot be used; expected an integer of at least 0.")
        if self.n is not None and (isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1):
            raise InvalidInput(f"n = {self.n!r} samples cannot be drawn; expected an integer of at least 1.")
        return self


def seeds_of(seed: int, seeds: int | Sequence[int] | None) -> tuple[int, ...]:
    """The seeds of a call: so many from ``seed`` on, or a list.

    Raises:
        InvalidInput: for none, or one that appears twice.
    """
    found = (seed,) if seeds is None else tuple(range(seed, seed + seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not found or len(set(found)) < len(found) or isinstance(seeds, bool):
        raise InvalidInput(f"seeds = {seeds!r}; expected how many, at least 1, or a list of different seeds.")
    return found


def read_setup(folder: Path) -> dict[str, Any]:
    """The content of ``comparison.json``.

    Raises:
        CheckpointMismatch: for a file that is missing, damaged or newer, or holds values that no comparison writes.
    """
    path = folder / FILE
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointMismatch(f"{path} is missing: {folder} is not a comparison, or one of an older version; give another folder.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointMismatch(f"{path} cannot be read: it is truncated or damaged ({first_line(error)}).") from error
    missing = [key for key in Setup((), {}).to_json() if not isinstance(found, dict) or key not in found]
    if missing:
        raise CheckpointMismatch(f"{path}: key {missing[0]!r} is missing.")
    if isinstance(found["format"], int) and found["format"] > FORMAT:
        raise CheckpointMismatch(f"{path} has format {found['format']}; this version reads up to {FORMAT}: install a newer manykin.")
    check_setup(path, found)
    return found


def check_same(folder: Path, setup: Setup) -> int:
    """Refuse to go on with a comparison under another setup; models may be added behind those that are there.

    Returns:
        The number of threads that it was begun with.

    Raises:
        CheckpointMismatch: naming the key that differs.
    """
    before, now = read_setup(folder), setup.to_json()
    models = before["models"]
    pairs = [("models", models, now["models"][: len(models)])] + [
        (key, before[key], now[key]) for key in ("seeds", "preset", "metrics", "n", "features", "target")
    ]
    pairs += [(f"data.{key}", before["data"].get(key), now["data"].get(key)) for key in ("name", "sha256")]
    pairs += [(f"budget.{key}", before["budget"][key], now["budget"][key]) for key in ("max_time", "max_steps")]
    for key, old, new in pairs:
        if old != new:
            raise CheckpointMismatch(f"{folder} was begun with {key} = {_brief(old)}, now {_brief(new)}; leave it as it was, or give another --out.")
    return int(before["threads"])


def _brief(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        value = [each.get("label") for each in value]
    return json.dumps(value)[:100]
