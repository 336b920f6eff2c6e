"""The options of training, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from manykin.config import Config, option

MAX_STEPS = 2000
"""Steps of a gradient phase where nobody says how many."""

BATCH_SIZE = 128
"""Examples an optimizer step where nobody says how many."""

GRADIENT_ONLY = ("lr", "optimizer", "weight_decay", "schedule", "min_lr", "warmup", "clip", "ema")
"""Options that only gradient phases look at."""


@dataclass(frozen=True)
class TrainOptions(Config):
    """How to train. None leaves the decision to the model's preset and phases, then to the default that the help names.

    Precedence: an explicit option, then the preset, then the phase's own optimizer or the default.
    """

    label: ClassVar[str] = "train"

    max_steps: int | None = option(None, "training steps; default 2000, closed-form models: until converged", ge=1)
    max_time: float | None = option(None, "seconds; the first steps are timed, then max_steps is fixed once and the run begins", gt=0)
    batch_size: int | None = option(None, "examples a step, over all processes; default 128, closed-form models 16384", ge=1)
    accumulate: int | None = option(None, "split each process's batch into so many parts, to save memory; default 1", ge=1)
    lr: float | None = option(None, "learning rate of the first phase; the others keep their ratio to it", gt=0)
    optimizer: Literal["adam", "adamw", "sgd", "muon"] | None = option(None, "optimizer of all phases; default: each phase's own")
    weight_decay: float | None = option(None, "weight decay of all phases; default: each phase's own", ge=0)
    schedule: Literal["constant", "cosine", "linear"] | None = option(None, "course of the learning rate after warm-up; default constant")
    min_lr: float | None = option(None, "learning rate of the first phase at the end of a cosine or linear schedule; default 0", ge=0)
    warmup: int | None = option(None, "steps over which the learning rate rises linearly; default 0", ge=0)
    clip: float | None = option(None, "largest norm of the gradient of a phase; larger ones are scaled down to it", gt=0)
    ema: float | None = option(None, "decay of the average of the weights, which is then used in place of the last ones", gt=0, lt=1)
    precision: Literal["auto", "32", "bf16"] | None = option(None, "numbers of the networks in training; auto is 32")
    device: str | None = option(None, "auto, cpu, cuda, cuda:N or mps; default auto")
    patience: int | None = option(None, "stop after so many evaluations without improvement, and keep the best weights", ge=1)
    eval_every: int | None = option(None, "steps between evaluations on validation data; default a twentieth of the run", ge=1)
    save_every: int | None = option(None, "steps between checkpoints; default a tenth of the run", ge=1)
    sample_every: int | None = option(None, "steps between samples written to the run folder; default at step 0 and each checkpoint; 0: never", ge=0)
    log_every: int | None = option(None, "steps between lines of metrics.jsonl; default a 200th of the run", ge=1)
    keep_checkpoints: int | None = option(None, "how many of the newest checkpoints stay; default 2", ge=1)

    def over(self, preset: Mapping[str, Any]) -> "TrainOptions":
        """These options, with what they leave open filled from a preset.

        Raises:
            InvalidInput: for an unknown option in the preset.
        """
        return type(self).from_json({**preset, **{key: value for key, value in self.to_json().items() if value is not None}})

    def idle(self) -> tuple[str, ...]:
        """The options that were given and have no effect on a model without gradient phases."""
        given = tuple(name for name in GRADIENT_ONLY if getattr(self, name) is not None)
        return (*given, "precision") if self.precision == "bf16" else given


def every(option: int | None, max_steps: int, share: int) -> int:
    """An interval in steps: the user's own, else ``max_steps / share``, rounded up."""
    return option if option is not None else -(-max_steps // share)
