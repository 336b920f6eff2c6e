"""The state of a run: everything that the steps to come depend on, in one place, to be kept, saved and put back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manykin.contract import ClosedForm, GenerativeModel, Phase
from manykin.errors import CheckpointMismatch
from manykin.training.checkpoint import Saved
from manykin.training.ema import Average
from manykin.training.optim import Stepper
from manykin.training.runners import ClosedFormRunner, Context, Runner
from manykin.training.weights import compare, layout, model_tensors


@dataclass
class Counters:
    """The plain values of a run's state."""

    step: int = 0
    turn: int = 0
    """Which closed-form phase has the turn, where there are only such."""
    lr_scale: float = 1.0
    tries: int = 0
    failed_at: int = -1
    best: float | None = None
    best_step: int = -1
    waited: int = 0
    """Evaluations since the best one."""
    evaluated: int = -1
    """The step of the last evaluation."""
    stopped: str | None = None
    rows: int = 0
    seconds: float = 0.0

    def check_rows(self, rows: int, where: Path) -> None:
        """Refuse to go on with other rows.

        Raises:
            CheckpointMismatch: where their number differs.
        """
        if self.rows != rows:
            raise CheckpointMismatch(f"{where} was begun on {self.rows} training rows (key 'rows'), now {rows}; give the same data.")


@dataclass
class State:
    """A run's live state."""

    model: GenerativeModel
    context: Context
    runners: list[Runner]
    average: Average | None
    statistics: tuple[str, ...]
    counters: Counters = field(default_factory=Counters)
    best: dict[str, Tensor] | None = None

    def collect(self) -> Saved:
        """Everything, as references to the live tensors."""
        tensors = {"weights": model_tensors(self.model, self.statistics), "optimizer": self._optimizer()}
        if self.average is not None:
            tensors["average"] = self.average.values
        if self.best is not None:
            tensors["best"] = self.best
        meta = {entry.name: getattr(self.counters, entry.name) for entry in fields(Counters)}
        return Saved(tensors, {**meta, "phases": {runner.name: runner.state() for runner in self.runners}})

    @torch.no_grad()
    def restore(self, saved: Saved, where: Path | None = None) -> None:
        """Go back to a state.

        Raises:
            CheckpointMismatch: where it is of another model or run; names the tensor or key.
        """
        place = where or Path("checkpoint")
        live = model_tensors(self.model, self.statistics)
        self._match(saved, live, place)
        for name, tensor in live.items():
            tensor.copy_(saved.tensors["weights"][name])
        if self.average is not None:
            self.average.load(saved.tensors["average"])
        self.best = saved.tensors.get("best")
        self._load_optimizer(saved.tensors.get("optimizer", {}), place)
        try:
            self.counters = Counters(**{entry.name: saved.meta[entry.name] for entry in fields(Counters)})
            for runner in self.runners:
                runner.load(saved.meta["phases"][runner.name])
        except KeyError as error:
            raise CheckpointMismatch(f"{place / 'state.json'}: key {error} is missing; the checkpoint is of another model or version.") from error
        if self.context.fabric.global_rank > 0:
            for name in self.statistics:
                self.model.get_buffer(name).zero_()

    def gather(self) -> None:
        """Bring what is spread over the processes to the first."""
        for runner in self.runners:
            if isinstance(runner, ClosedFormRunner):
                runner.gather()

    def exported(self) -> dict[str, Tensor]:
        """The weights that users should use now, copied: averaged where there is an average."""
        if self.average is None:
            return {name: tensor.clone() for name, tensor in model_tensors(self.model).items()}
        with self.average.swapped():
            return {name: tensor.clone() for name, tensor in model_tensors(self.model).items()}

    def _match(self, saved: Saved, live: Mapping[str, Tensor], place: Path) -> None:
        groups = ["weights", *(["average"] if self.average is not None else [])]
        for group in groups:
            if group not in saved.tensors:
                raise CheckpointMismatch(f"{place / group}.safetensors is missing; the checkpoint is not complete or of other options.")
        compare(layout(saved.tensors["weights"]), layout(live), place / "weights.safetensors")
        if self.average is not None:
            compare(layout(saved.tensors["average"]), layout(self.average.values), place / "average.safetensors")
        if "best" in saved.tensors:
            compare(layout(saved.tensors["best"]), layout(model_tensors(self.model)), place / "best.safetensors")

    def _steppers(self) -> list[Stepper]:
        return list({id(stepper): stepper for stepper in self.context.steppers.values()}.values())

    def _optimizer(self) -> dict[str, Tensor]:
        return {f"{number}|{key}": value for number, stepper in enumerate(self._steppers()) for key, value in stepper.tensors().items()}

    def _load_optimizer(self, tensors: Mapping[str, Tensor], place: Path) -> None:
        parts: list[dict[str, Tensor]] = [{} for _ in self._steppers()]
        try:
            for key, value in tensors.items():
                number, _, name = key.partition("|")
                parts[int(number)][name] = value
            for stepper, part in zip(self._steppers(), parts, strict=True):
                stepper.load(part)
        except (KeyError, IndexError, ValueError) as error:
            raise CheckpointMismatch(f"{place / 'optimizer.safetensors'} is of another model or optimizer: {error} is unknown here.") from error


def statistics_of(phases: Sequence[Phase]) -> tuple[str, ...]:
    """The buffers that closed-form phases add to."""
    return tuple(dict.fromkeys(name for phase in phases if isinstance(phase, ClosedForm) for name in phase.statistics))


def summary(counters: Counters, parameters: int, peak_memory: int) -> dict[str, Any]:
    """The ``result`` of a finished run, as ``config.json`` holds it."""
    return {
        "steps": counters.step, "seconds": counters.seconds, "stopped": counters.stopped or "max_steps", "parameters": parameters,
        "peak_memory_bytes": peak_memory,
    }  # fmt: skip
