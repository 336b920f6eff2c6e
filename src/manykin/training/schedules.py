"""Learning rates as functions of the step."""

import math

from manykin.training.options import TrainOptions


def factor(step: int, warmup: int, schedule: str, max_steps: int, end: float = 0.0) -> float:
    """The learning rate at a step (from 0) as a share of its full value.

    Linear warm-up over ``warmup`` steps, then with progress r from 0 to 1 over the rest: constant 1, linear 1 - r, or cosine (1 + cos(pi r)) / 2
    (Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017, equation 5, one period); the last two scaled to go down to
    the share ``end``.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, max_steps - warmup))
    return end + (1.0 - end) * (1.0 - progress if schedule == "linear" else (1.0 + math.cos(math.pi * progress)) / 2)


def is_constant(options: TrainOptions) -> bool:
    """Whether the learning rate never changes."""
    return (options.schedule or "constant") == "constant" and not options.warmup
