"""Back to the last good state, with half the learning rate, where training diverges."""

import math

import torch

from manykin.errors import TrainingFailed
from manykin.training.checkpoint import Saved
from manykin.training.runners import Diverged
from manykin.training.state import State

TRIES = 3
"""How often a run goes back in a row before it fails."""


class Guard:
    """Keeps the state to go back to. When it is renewed is a function of the step, so that a resumed run goes back to the same place."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.good: Saved | None = None

    def renew(self) -> None:
        """Remember this state, if it is good.

        Raises:
            Diverged: where a weight is not finite.
        """
        state, counters = self.state, self.state.counters
        if state.context.stepwise or (self.good is not None and self.good.step == counters.step):
            return
        weights = [p.detach() for p in state.model.parameters() if p.is_floating_point()]
        if not math.isfinite(float(torch.stack([norm.double() for norm in torch._foreach_norm(weights)]).sum())):
            raise Diverged(state.runners[0].name, "the weights are not finite")
        if counters.step > counters.failed_at:
            counters.tries = 0
        self.good = state.collect().keep(self.good)

    @property
    def elsewhere(self) -> Saved | None:
        """The good state, where it is not the present one."""
        return None if self.good is None or self.good.step == self.state.counters.step else self.good

    def roll_back(self, failure: Diverged) -> str:
        """Go back; returns what to tell.

        Raises:
            TrainingFailed: after :data:`TRIES` returns without getting past the place.
        """
        counters = self.state.counters
        at, tries, scale = counters.step, counters.tries + 1, counters.lr_scale / 2
        if tries > TRIES or self.good is None:
            rate = next((stepper.base * counters.lr_scale for stepper in self.state.context.steppers.values()), None)
            reached = "" if rate is None else f" (down to {rate:g})"
            raise TrainingFailed(
                f"training diverged at step {at} in {failure}, also after {TRIES} returns with half the learning rate each{reached}; "
                "lower --train.lr, set --train.clip, or look for extreme values in the data."
            )
        self.state.restore(self.good)
        counters = self.state.counters
        counters.tries, counters.lr_scale, counters.failed_at = tries, scale, max(at, counters.failed_at)
        return f"diverged at step {at} in {failure}: back to step {counters.step} with the learning rate times {scale:g}"
