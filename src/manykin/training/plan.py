"""How long a run is, and when things happen in it: all functions of the number of steps."""

from dataclasses import dataclass

from manykin.training.options import TrainOptions, every

GUARD = 200
"""Steps between copies of the state to which a diverging run goes back."""

SYNC = 50
"""Steps between looks at the losses on an accelerator: each look waits for it."""


@dataclass(frozen=True)
class Plan:
    """The number of steps and the intervals of a run.

    ``sample_every``: None writes samples with each checkpoint (where their cost is small), 0 never.
    """

    max_steps: int
    log_every: int
    save_every: int
    eval_every: int
    sample_every: int | None
    others: tuple[int, ...]

    @classmethod
    def of(cls, options: TrainOptions, max_steps: int, gradient: bool, synchronous: bool) -> "Plan":
        """The plan that follows from a number of steps."""
        others = ((GUARD,) if gradient else ()) + (() if synchronous else (SYNC,))
        return cls(
            max_steps,
            every(options.log_every, max_steps, 200),
            every(options.save_every, max_steps, 10),
            every(options.eval_every, max_steps, 20),
            options.sample_every,
            others,
        )

    def samples_at(self, step: int) -> bool:
        """Whether samples are written after this step, which may be 0; with ``sample_every`` None at the last step too."""
        if self.sample_every is None:
            return step % self.save_every == 0 or step >= self.max_steps
        return self.sample_every > 0 and step > 0 and step % self.sample_every == 0

    def next_event(self, step: int) -> int:
        """The first step after this one at which anything is due."""
        intervals = [self.log_every, self.save_every, self.eval_every, *self.others, *([self.sample_every] if self.sample_every else [])]
        return min([self.max_steps, *((step // interval + 1) * interval for interval in intervals)])
