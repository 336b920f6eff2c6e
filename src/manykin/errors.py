"""Errors that manykin raises on purpose: one line with the offending value, what was expected and what to do.

The command line prints them without a traceback (exit code 2 for a wrong call, 1 for a run that failed); any other exception is a defect.
"""

from collections.abc import Iterable
from difflib import get_close_matches

NO_CONDITION = "the condition is missing: give condition=... (--condition NAME=VALUE), one of"
"""What is said where a conditional model is asked without a condition, before the conditions' space."""


class ManykinError(Exception):
    """Base of every error that manykin raises deliberately."""

    exit_code = 1


class InvalidInput(ManykinError, ValueError):
    """A value from the user cannot be used: wrong type, range, shape, file or name."""

    exit_code = 2


class Unsupported(InvalidInput):
    """The model cannot take this space, condition or operation; another model can."""


class Runaway(InvalidInput):
    """Markov chains left all bounds: their step size is too large, or a model that is being trained has diverged."""


class NoDensity(Unsupported):
    """The model is implicit: it can sample, and has no ``log_prob``."""


class NotFitted(ManykinError):
    """The model has to be fitted (or loaded) before this call."""

    exit_code = 2


class CheckpointMismatch(ManykinError):
    """A run folder is damaged, foreign, newer than this version, or of another model."""


class TrainingFailed(ManykinError):
    """Training stopped for good: it diverged repeatedly, or its run folder could not be written."""


class MissingExtra(ManykinError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    exit_code = 2


class ManykinWarning(UserWarning):
    """Something worth knowing that does not stop the work."""


def suggest(name: str, options: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the option nearest to ``name``, or the whole (short) list of options."""
    known = sorted(options)
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(known)}." if known else ""
