"""The loop: for each step, run the phases, average, and at intervals log, evaluate, sample and save.

It asks for the class of a phase and never what a model is. Nothing depends on a generator's state or on what ran before: a step's randomness is a
function of (seed, step, phase, repeat, micro-batch), a batch's rows of (seed, epoch, index).
"""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from manykin.contract import ClosedForm, GenerativeModel
from manykin.data.dataset import Dataset
from manykin.errors import ManykinWarning
from manykin.training import checkpoint
from manykin.training.device import reset_peak_memory
from manykin.training.guard import Guard
from manykin.training.keeper import SHARE, Keeper
from manykin.training.options import MAX_STEPS, TrainOptions
from manykin.training.plan import GUARD, Plan
from manykin.training.progress import TrainState
from manykin.training.runfolder import RunFolder
from manykin.training.runners import ClosedFormRunner, Diverged
from manykin.training.schedules import factor, is_constant
from manykin.training.setup import Setup
from manykin.training.signals import Interrupted, Signals

PROBE = 50
"""Steps that are timed, at least, to turn ``max_time`` into ``max_steps``."""

PROBE_SHARE = 0.02
"""Share of ``max_time`` for which steps are timed, at least: how fast a machine is changes from second to second."""


class Trainer:
    """One training run; see :func:`manykin.training.train`."""

    def __init__(self, model: GenerativeModel, data: Dataset, options: TrainOptions, seed: int, run: RunFolder | None, signals: Signals) -> None:
        self.model, self.options, self.seed, self.run, self.signals = model, options, seed, run, signals
        self.setup = Setup(model, data, options, seed)
        self.began = time.perf_counter()
        reset_peak_memory(self.setup.device)

    def train(self, resume: bool, progress: Callable[[TrainState], None] | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Run from the first step, or from the newest checkpoint, to the end; the result's fields, and the log."""
        try:
            self._begin(resume, progress)
            self._loop()
            return self._finish(), self.keeper.log.lines
        finally:
            if hasattr(self, "keeper"):
                self.keeper.log.close()
            self.setup.leave()

    # Beginning.

    def _begin(self, resume: bool, progress: Callable[[TrainState], None] | None) -> None:
        run = self.run
        resumed = bool(self.setup.agree(float(resume and run is not None and run.last_step() is not None)))
        self.state = self.setup.prepare(run if resumed else None)
        self.guard = Guard(self.state)
        self.gradient = not self.state.context.stepwise
        self.constant = is_constant(self.options)
        self.keeper = Keeper(run, self.setup, self.state, resumed, progress, self.began)
        if resumed:
            self._resume()
        self._plan(self.options.max_steps)
        if not resumed:
            self._start()
        if self.options.max_time is not None:
            self._fix_steps(self.options.max_time)
        if self.guard.good is None:
            self.guard.renew()
        self._set_lr()

    def _start(self) -> None:
        self.state.counters.rows = self.setup.rows
        if self.keeper.leads is not None:
            self.setup.record(self.keeper.leads, self.options.max_steps if self.options.max_time is not None else self.plan.max_steps)
            checkpoint.tidy(self.keeper.leads.checkpoints)
        self.keeper.log.cut(-1)
        self.keeper.save(self.options)
        if self.plan.samples_at(0):
            self.keeper.sample(self.seed)

    def _resume(self) -> None:
        assert self.run is not None
        if self.setup.leader:
            checkpoint.tidy(self.run.checkpoints)
        saved, self.guard.good = checkpoint.read(self.run.checkpoints)
        self.state.restore(saved, self.run.checkpoints / str(saved.step))
        self.state.counters.check_rows(self.setup.rows, self.run.path)
        self.keeper.log.cut(saved.step)
        self.keeper.before = self.state.counters.seconds

    def _plan(self, max_steps: int | None) -> None:
        limit = self.setup.pass_limit
        length = (max_steps or MAX_STEPS) if self.gradient else max(1, min(max_steps or limit, limit))
        self.plan = Plan.of(self.options, length, self.gradient, self.setup.device.type == "cpu")
        self.next_event = self.plan.next_event(self.state.counters.step)

    def _fix_steps(self, max_time: float) -> None:
        """Time the first steps, undo them, and turn the time that is left into a number of steps, once.

        The timed steps are undone because the course of the learning rate and all intervals follow from the number of steps: the run then is
        exactly the run that this number given as ``max_steps`` would be.
        """
        before, began, parallel = self.state.collect().keep(None), time.perf_counter(), self.state.context.parallel
        seconds: list[float] = []
        # Several processes must time equally many steps, however fast each is.
        while not self._exhausted():
            timed, share = len(seconds), (time.perf_counter() - began) / max_time
            if timed >= PROBE // 10 if parallel else (timed >= PROBE and share > PROBE_SHARE) or (timed and share > 0.05):
                break
            if self._told_to_stop():
                self._interrupt()
            tick = time.perf_counter()
            try:
                self._advance()
                self.state.counters.step += 1
            except Diverged:
                pass
            seconds.append(time.perf_counter() - tick)
        self.state.restore(before)
        steady = seconds[3:] if len(seconds) >= 8 else seconds
        steps = self._affordable(max_time, sum(steady) / max(1, len(steady)))
        steps = int(self.setup.agree(float(min(steps, self.options.max_steps or steps))))
        self.options = self.options.replace({"max_steps": steps, "max_time": None})
        self._plan(steps)
        if self.keeper.leads is not None:
            self.setup.record_steps(self.keeper.leads, self.plan.max_steps)

    def _affordable(self, max_time: float, per_step: float) -> int:
        evaluation = 0.0
        if self.setup.validation is not None:
            began = time.perf_counter()
            self._measure()
            evaluation = time.perf_counter() - began
        if self.options.eval_every is not None:
            per_step, evaluation = per_step + evaluation / self.options.eval_every, 0.0
        left = 0.93 * max_time - self.keeper.seconds() - 20 * evaluation - 10 * self.keeper.save_seconds
        left -= min(10 * self.keeper.sample_seconds, left / (SHARE + 1))
        steps, whole = max(1, int(left / max(per_step, 1e-9))), max(1, self.setup.pass_steps)
        return steps if self.gradient else max(whole, steps // whole * whole)

    # The loop.

    def _loop(self) -> None:
        while not self._done():
            try:
                ended = self._advance()
                counters = self.state.counters
                counters.step += 1
                if ended or counters.step >= self.next_event:
                    self._events(ended)
            except Diverged as failure:
                self._roll_back(failure)
            if self.keeper.progress is not None:
                self.keeper.show(self.plan.max_steps, self._done())
            if self._told_to_stop():
                self._interrupt()

    def _advance(self) -> bool:
        """One training step of all phases; True where a pass over the data ended in a run of passes."""
        counters, runners = self.state.counters, self.state.runners
        if not self.gradient:
            ended = runners[counters.turn].advance(counters.step)
            if ended:
                others = [*range(counters.turn + 1, len(runners)), *range(counters.turn + 1)]
                counters.turn = next((turn for turn in others if not runners[turn].finished), 0)
            return ended
        if not self.constant:
            self._set_lr()
        self.model.progress = counters.step / self.plan.max_steps
        for runner in runners:
            runner.advance(counters.step)
        if self.state.average is not None:
            self.state.average.update(counters.step)
        if self.state.context.parallel:
            self.setup.share_buffers(self.state.statistics)
        return False

    def _exhausted(self) -> bool:
        """Whether every closed-form phase has had its passes."""
        return not self.gradient and all(runner.finished for runner in self.state.runners)

    def _done(self) -> bool:
        counters = self.state.counters
        if self.gradient:
            return counters.step >= self.plan.max_steps or counters.stopped is not None
        if counters.stopped is not None or self._exhausted():
            return True
        # A pass that has begun is brought to its end: half of the statistics have no solution.
        whole = counters.turn == 0 and all(runner.index == 0 for runner in self.state.runners if isinstance(runner, ClosedFormRunner))
        return counters.step >= self.plan.max_steps and whole

    def _events(self, ended: bool) -> None:
        """All that is due after this step."""
        step, plan = self.state.counters.step, self.plan
        for runner in self.state.runners:
            runner.check()
        line: dict[str, Any] = {}
        if ended or step % plan.log_every == 0 or self._done():
            line |= self.keeper.report()
        if self.setup.validation is not None and (self._evaluation_due(ended) or self._done()):
            line |= self._evaluate()
        if line or ended or self._done():
            self.keeper.write(line)
        if step % plan.save_every == 0 or self._done():
            self.guard.renew()
            self.keeper.save(self.options)
        elif step % GUARD == 0:
            self.guard.renew()
        if plan.samples_at(step) or (plan.sample_every is None and self._done()):
            self.keeper.sample(self.seed, 0.0 if plan.sample_every else 1.0 if self._done() else SHARE)
        self.next_event = plan.next_event(step)

    def _evaluation_due(self, ended: bool) -> bool:
        step, every = self.state.counters.step, self.plan.eval_every
        if self.gradient:
            return step % every == 0
        return ended and step // every > max(0, step - self.setup.pass_steps) // every

    def _evaluate(self) -> dict[str, Any]:
        """The validation metric, and what follows from it for the best weights and for stopping."""
        counters, patience = self.state.counters, self.options.patience
        if counters.evaluated == counters.step:
            return {}
        counters.evaluated = counters.step
        value = self._measure()
        if counters.best is None or value < counters.best:
            counters.best, counters.best_step, counters.waited = value, counters.step, 0
            if patience is not None:
                self.state.best = self.state.exported()
        else:
            counters.waited += 1
            if patience is not None and counters.waited >= patience:
                counters.stopped = "patience"
        assert self.setup.validation is not None
        return {self.setup.validation.name: value}

    def _measure(self) -> float:
        assert self.setup.validation is not None
        with self.state.average.swapped() if self.state.average is not None else nullcontext():
            return self.setup.agree(self.setup.validation())

    def _set_lr(self) -> None:
        counters, options = self.state.counters, self.options
        steppers = self.state.context.steppers.values()
        end = (options.min_lr or 0.0) / next((stepper.base for stepper in steppers), 1.0)
        share = factor(counters.step, options.warmup or 0, options.schedule or "constant", self.plan.max_steps, end) * counters.lr_scale
        for stepper in steppers:
            stepper.set_lr(share)

    def _roll_back(self, failure: Diverged) -> None:
        event = self.guard.roll_back(failure)
        self._set_lr()
        self.next_event = self.plan.next_event(self.state.counters.step)
        self.keeper.log.cut(self.state.counters.step)
        self.keeper.write({"event": event})
        if self.setup.leader:
            warnings.warn(f"{event[0].upper()}{event[1:]}.", ManykinWarning, stacklevel=2)

    def _told_to_stop(self) -> bool:
        if not self.state.context.parallel:
            return self.signals.received
        return self.state.counters.step % 10 == 0 and self.setup.any(self.signals.received)

    def _interrupt(self) -> None:
        """Save, and say how to go on."""
        step, of = self.state.counters.step, self.plan.max_steps
        if self.run is None:
            raise Interrupted(f"Interrupted at step {step} of {of}; nothing is saved, since no run folder (--out) was given.")
        if self.options.max_time is None:
            self.keeper.save(self.options, self.guard.elsewhere)
        raise Interrupted(f"Interrupted at step {step} of {of} and saved in {self.run.path}; --resume goes on from there.")

    # The end.

    def _finish(self) -> dict[str, Any]:
        """Put the weights in place that users should use, run the closing phases on them, and write the result."""
        state, counters = self.state, self.state.counters
        if self.options.patience is not None and state.best is not None:
            self.setup.fill(state.best)
        elif state.average is not None:
            state.average.swap()
        for phase in self.setup.closing:
            assert isinstance(phase, ClosedForm)
            runner = ClosedFormRunner(phase, state.context)
            while not runner.finished:
                runner.whole_pass(counters.step + runner.epochs)
            if figures := runner.report():
                self.keeper.write(figures)
        counters.stopped = counters.stopped or self._reason()
        return self.keeper.finish()

    def _reason(self) -> str:
        if self._exhausted():
            return "converged" if all(runner.converged for runner in self.state.runners) else "max_epochs"
        return "max_steps"
