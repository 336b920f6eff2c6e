"""Closed-form phases: statistics over all rows, then a solution."""

import math
from collections.abc import Callable
from typing import Any

import torch

from manykin.contract import Batch, ClosedForm, Phase, Progress
from manykin.errors import TrainingFailed
from manykin.random import hash_seed, seed_all
from manykin.training.batches import shares
from manykin.training.runner import Context


class ClosedFormRunner:
    """Accumulates statistics over all rows, then solves; over and over until the model says that it has converged."""

    def __init__(self, phase: Phase, context: Context) -> None:
        assert isinstance(phase, ClosedForm)
        self.phase, self.context, self.name = phase, context, phase.name
        self.accumulate: Callable[[Batch], None] = getattr(context.model, phase.accumulate)
        self.solve: Callable[[], Progress] = getattr(context.model, phase.solve)
        self.batches = -(-len(context.source) // context.pass_size)
        self.finished, self.converged = False, False
        self.epochs, self.index = 0, 0
        self.figures: dict[str, float] = {}

    def advance(self, step: int) -> bool:
        """One batch of a pass; or, beside gradient phases, a whole pass at the end of each of their epochs."""
        context = self.context
        if context.stepwise:
            return self._batch(step, 0)
        if self.finished or (step + 1) % max(1, context.source.order.per_epoch // context.batches):
            return False
        return self.whole_pass(step)

    def whole_pass(self, step: int) -> bool:
        """All rows once, and the solution."""
        for place in range(self.batches):
            ended = self._batch(step, place)
        return ended

    @torch.no_grad()
    def _batch(self, step: int, place: int) -> bool:
        context = self.context
        if self.index == 0:
            self._clear()
        start = self.index * context.pass_size
        stop = min(start + context.pass_size, len(context.source))
        bounds = shares(stop - start, context.parts)
        for part in context.mine:
            low, high = bounds[part]
            if high > low:
                seed_all(hash_seed(context.seed, step, self.name, place, part))
                self.accumulate(context.source.slice(start + low, start + high))
        self.index += 1
        if self.index < self.batches:
            return False
        self._solve(step)
        return True

    def _solve(self, step: int) -> None:
        context = self.context
        if context.parallel:
            for name in self.phase.statistics:
                buffer = context.model.get_buffer(name)
                buffer.copy_(context.sum(buffer.clone()))
        seed_all(hash_seed(context.seed, step, self.name, "solve"))
        progress = self.solve()
        self._clear()
        self.figures = {key: float(value) for key, value in progress.metrics.items()}
        self.index = 0
        self.epochs += 1
        self.converged = progress.converged
        self.finished = progress.converged or self.epochs >= self.phase.max_epochs
        bad = next((key for key, value in self.figures.items() if math.isnan(value)), None)
        if bad is not None:
            raise TrainingFailed(
                f"phase {self.name!r}: {bad} is not a number at step {step}, pass {self.epochs}; the data may be "
                "too few, degenerate or too large: add rows, drop constant columns, or rescale."
            )

    def _clear(self) -> None:
        for name in self.phase.statistics:
            self.context.model.get_buffer(name).zero_()

    def gather(self) -> None:
        """Bring unfinished statistics of all processes to the first, so that a checkpoint holds all of them."""
        for name in self.phase.statistics if self.context.parallel else ():
            buffer = self.context.model.get_buffer(name)
            total = self.context.sum(buffer.clone())
            buffer.copy_(total if self.context.fabric.global_rank == 0 else torch.zeros_like(total))

    def check(self) -> None:
        """Solutions are checked when they are made."""

    def report(self) -> dict[str, float]:
        figures, self.figures = self.figures, {}
        return figures

    def state(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "index": self.index, "finished": self.finished, "converged": self.converged, "figures": self.figures}

    def load(self, state: dict[str, Any]) -> None:
        self.epochs, self.index = state["epochs"], state["index"]
        self.finished, self.converged, self.figures = state["finished"], state["converged"], dict(state["figures"])
