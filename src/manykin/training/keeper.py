"""What a run leaves behind: lines of the log, checkpoints, samples, the final weights; and what it shows meanwhile."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from manykin.random import hash_seed
from manykin.training import checkpoint
from manykin.training.checkpoint import Saved
from manykin.training.device import count_parameters, peak_memory_bytes
from manykin.training.files import replace_tensors, writing
from manykin.training.log import Log
from manykin.training.options import TrainOptions
from manykin.training.progress import TrainState
from manykin.training.runfolder import RunFolder
from manykin.training.runners import GradientRunner
from manykin.training.setup import Setup
from manykin.training.state import State, summary

SAMPLES = 256
"""Samples that are written at an interval: enough to compute a distance from."""
SHARE = 5
"""A draw is made where training took so many times as long since the one before: a slow sampler leaves fewer pictures, and training its time."""


class Keeper:
    """Writes for a run, from the first process only; without a folder, keeps the log in memory."""

    def __init__(
        self, run: RunFolder | None, setup: Setup, state: State, resumed: bool, progress: Callable[[TrainState], None] | None, began: float
    ) -> None:
        self.run, self.setup, self.state, self.progress = run, setup, state, progress
        self.leads = run if setup.leader else None
        lines = self.leads.metrics() if self.leads is not None and resumed else []
        if self.leads is not None and resumed:
            checkpoint.tidy(self.leads.samples_dir)
        self.log = Log(None if self.leads is None else self.leads.metrics_file, lines)
        self.began = began
        self.before = 0.0
        self.save_seconds = 0.0
        self.sample_seconds = 0.0
        self._sampled = time.perf_counter()
        self._shown: tuple[float, int, float] | None = None

    def seconds(self) -> float:
        """Seconds of this run so far, those before an interruption included."""
        return round(self.before + time.perf_counter() - self.began, 3)

    def write(self, figures: dict[str, Any]) -> None:
        """Add a line to the log."""
        context, counters = self.state.context, self.state.counters
        if context.stepwise:
            epoch = counters.step / max(1, self.setup.pass_steps)
        else:
            epoch = counters.step * context.batches / context.source.order.per_epoch
        self.log.write({"step": counters.step, "seconds": self.seconds(), "epoch": round(epoch, 4), **figures})

    def report(self) -> dict[str, Any]:
        """The phases' figures since the last report, and what the model noted."""
        line: dict[str, Any] = {}
        gradients = [runner for runner in self.state.runners if isinstance(runner, GradientRunner)]
        for runner in self.state.runners:
            plain = runner is gradients[0] if runner in gradients else False
            for key, value in runner.report().items():
                line[key if plain or (runner not in gradients and key not in line) else f"{key}.{runner.name}"] = value
        if line:
            line |= {f"note.{name}": float(value.float().mean()) for name, value in self.state.model.notes.items()}
        return line

    def save(self, options: TrainOptions, good: Saved | None = None) -> None:
        """Write a checkpoint of this step.

        Raises:
            TrainingFailed: where the disk refuses.
        """
        if self.run is None:
            return
        began = time.perf_counter()
        self.state.counters.seconds = self.seconds()
        self.state.gather()
        if self.leads is not None:
            self.log.sync()
            with writing(self.run.checkpoints):
                checkpoint.write(self.run.checkpoints, self.state.collect(), good, options.keep_checkpoints or 2)
        self.setup.barrier()
        self.save_seconds = time.perf_counter() - began

    def sample(self, seed: int, patience: float = 0.0) -> None:
        """Write samples of this step, always from the same noise.

        They are by-products: a model that cannot draw yet (nothing is fitted at step 0, or it diverged) leaves none, and nothing else changes.

        Args:
            seed: of the run.
            patience: leave it out where less than so many times the seconds of the draw before have passed since.
        """
        if self.leads is None or time.perf_counter() - self._sampled < patience * self.sample_seconds:
            return
        began = time.perf_counter()
        try:
            with self.state.average.swapped() if self.state.average is not None else nullcontext():
                x = self.state.model.sample(SAMPLES, self.setup.conditions(SAMPLES), seed=hash_seed(seed, "samples"))
        except Exception:
            x = None
        if x is not None:
            path = self.leads.samples_dir / f"{self.state.counters.step}.safetensors"
            with writing(path):
                replace_tensors(path, {"x": x} if isinstance(x, torch.Tensor) else dict(x))
        self._sampled = time.perf_counter()
        self.sample_seconds = self._sampled - began

    def show(self, max_steps: int, final: bool) -> None:
        """Tell the progress callback, ten times a second at most."""
        if self.progress is None:
            return
        now, step = time.perf_counter(), self.state.counters.step
        if self._shown is None:
            self._shown = (now, step, 0.0)
        first, start, last = self._shown
        if now - last < 0.1 and not final:
            return
        self._shown = (first, start, now)
        rate = max(0, step - start) / max(now - first, 1e-9)
        metrics = self.log.lines[-1] if self.log.lines else {}
        self.progress(TrainState(step, max_steps, rate, max(0, max_steps - step) / rate if rate > 0 else None, metrics))

    def finish(self) -> dict[str, Any]:
        """Write the weights that users should use, and the result; returns it."""
        self.state.counters.seconds = self.seconds()
        result = summary(self.state.counters, count_parameters(self.state.model), peak_memory_bytes(self.setup.device))
        if self.leads is not None:
            self.log.sync()
            self.leads.save_model(self.state.model)
            self.leads.update_config({"result": result, "sizes": dict(self.state.model.sizes)})
        self.setup.barrier()
        return result
