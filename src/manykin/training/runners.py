"""One runner for each kind of phase: what a training step does for it.

A runner knows the phase and the names in it, never the model. Randomness is a function of the place: micro-batch j of step s in phase p, repeat r,
is seeded with ``hash_seed(seed, s, p, r, j)``, where j counts over all processes; so two processes draw what one that accumulates twice would draw.
"""

from collections.abc import Callable

from manykin.contract import ClosedForm, Gradient, Phase
from manykin.training.closed_form import ClosedFormRunner
from manykin.training.gradient import GradientRunner
from manykin.training.runner import Context, Diverged, Runner

RUNNERS: dict[type, Callable[[Phase, Context], Runner]] = {Gradient: GradientRunner, ClosedForm: ClosedFormRunner}
"""The runner of each kind of phase: the only place where the trainer asks what a phase is."""

__all__ = ["RUNNERS", "ClosedFormRunner", "Context", "Diverged", "GradientRunner", "Runner"]
