"""The one call that trains a model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch.distributions import Distribution

from manykin.contract import GenerativeModel
from manykin.data.dataset import Dataset
from manykin.errors import InvalidInput
from manykin.random import hash_seed, seeded
from manykin.training.options import TrainOptions
from manykin.training.progress import TrainState
from manykin.training.resume import resumed_options
from manykin.training.runfolder import RunFolder
from manykin.training.signals import Interrupted, Signals
from manykin.training.trainer import Trainer


@dataclass(frozen=True)
class TrainResult:
    """How a run went. ``stopped``: max_steps, converged, patience, or finished before (nothing was left to do)."""

    steps: int
    seconds: float
    stopped: str
    history: list[dict[str, Any]] = field(repr=False)
    parameters: int
    peak_memory_bytes: int


def train(
    model: GenerativeModel,
    data: Dataset,
    options: TrainOptions | None = None,
    *,
    seed: int = 0,
    run: RunFolder | None = None,
    resume: bool = False,
    progress: Callable[[TrainState], None] | None = None,
) -> TrainResult:
    """Train a model on ``data.train``. Afterwards it carries the weights that users should use: averaged, best by validation, as asked.

    Equal arguments give equal weights, bit by bit, on equal versions, devices and threads, whether or not the run was interrupted and resumed.
    The global random state is untouched.

    Args:
        model: freshly constructed; it is moved to the device and changed in place.
        data: its training rows and, for validation, its validation rows. With patience and without such rows a tenth is held back.
        options: how to train.
        seed: of everything.
        run: a folder for configuration, checkpoints and log; None keeps everything in memory.
        resume: go on with the run in the folder, or start one where there is none.
        progress: called a few times a second.

    Raises:
        InvalidInput: for options that cannot be used here.
        CheckpointMismatch: where ``resume`` meets another run, finished or not, or a damaged one.
        TrainingFailed: after diverging three times, or where the folder cannot be written.
        Interrupted: after Ctrl-C or SIGTERM, once the state is saved.
    """
    options = options or TrainOptions()
    if run is not None:
        if resume and run.finished:
            resumed_options(run, model, data, options, seed)
            return _finished(model, run)
        if not resume and run.last_step() is not None:
            raise InvalidInput(f"{run.path} holds a run already; resume it, or give another folder.")
        if resume and run.last_step() is not None:
            options = resumed_options(run, model, data, options, seed)
        run.lock()
    try:
        with ExitStack() as stack:
            signals = stack.enter_context(Signals())
            stack.enter_context(seeded(hash_seed(seed, "train")))
            stack.enter_context(_unvalidated())
            result, history = Trainer(model, data, options, seed, run, signals).train(resume, progress)
            if signals.received:
                raise Interrupted("Interrupted after the last step: this run is complete.")
            return TrainResult(**result, history=history)
    finally:
        if run is not None:
            run.release()


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Without the argument checks of torch.distributions, which cost a synchronisation each and would hide a divergence behind a ValueError."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _finished(model: GenerativeModel, run: RunFolder) -> TrainResult:
    run.fill_model(model)
    result = run.read_config()["result"]
    return TrainResult(
        int(result["steps"]), float(result["seconds"]), "finished before", run.metrics(), int(result["parameters"]), int(result["peak_memory_bytes"])
    )
