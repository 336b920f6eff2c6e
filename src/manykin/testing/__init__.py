"""The conformance suite: every promise of the contract as a check that runs on anyone's model.

>>> import manykin as mk
>>> report = mk.check("realnvp", level="fast")  # doctest: +SKIP
>>> print(report)  # doctest: +SKIP

Checks are chosen by what a model declares (its density, spaces and optional protocols), never by its name or class. Thresholds come from a
p-value of 1e-4 at fixed seeds, or from standard errors. :mod:`manykin.testing.oracles` holds sound models with known answers, and
:mod:`manykin.testing.broken` a wrong model for every check.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from manykin.errors import InvalidInput, Unsupported, suggest
from manykin.testing.core import Check, CheckFailed, CheckReport, Level, Row

if TYPE_CHECKING:
    from manykin.contract import GenerativeModel
    from manykin.testing.context import Context, Subject

__all__ = ["Check", "CheckFailed", "CheckReport", "all_checks", "check", "checks_for", "run_checks", "subjects_of"]


def all_checks() -> list[Check]:
    """Every check, topic by topic."""
    from manykin.testing import (
        adversarial,
        autoregressive,
        completion,
        density,
        devices,
        diffusion,
        energy,
        energy_chains,
        errors,
        flows,
        gradients,
        identities,
        latent,
        learning,
        persistence,
        randomness,
        sampling,
        shapes,
    )

    modules = (
        shapes,
        errors,
        density,
        sampling,
        identities,
        randomness,
        latent,
        gradients,
        learning,
        persistence,
        devices,
        completion,
        diffusion,
        autoregressive,
        adversarial,
        energy,
        energy_chains,
        flows,
    )
    return [each for module in modules for each in module.check.checks]


def checks_for(model: "GenerativeModel", level: Level = "full") -> list[Check]:
    """The checks that apply to a model, by its density, spaces and protocols."""
    return [each for each in all_checks() if (level == "full" or each.level == "fast") and each.applies(model)]


def check(target: Any, level: Level = "fast", waive: Mapping[str, str] | None = None) -> CheckReport:
    """Run the conformance suite.

    Args:
        target: a model's name (its ``tiny`` preset is fitted to example data of each space that it takes), an instance of a model (a copy of
            the same config and spaces is fitted), or a fitted model (its own weights are checked, on data like its samples).
        level: ``fast``, about 3 seconds a model, or ``full``.
        waive: names of checks that may fail, each with the reason. A waived check that passes counts as a failure.

    Raises:
        InvalidInput: for an unknown level, model or check, or a waiver without a reason.
    """
    if level not in ("fast", "full"):
        raise InvalidInput(f"level {level!r} is not known; expected 'fast' or 'full'.")
    waivers = dict(waive or {})
    known = {each.name for each in all_checks()}
    for name, reason in waivers.items():
        if name not in known:
            raise InvalidInput(f"check {name!r} is not known.{suggest(name, known)}")
        if not isinstance(reason, str) or not reason.strip():
            raise InvalidInput(f"the waiver of {name!r} has no reason; expected a sentence.")
    from manykin.testing.context import Context

    rows: list[Row] = []
    subjects = subjects_of(target)
    with one_thread():
        for subject in subjects:
            rows += run_checks(Context(subject, level))
    title = target if isinstance(target, str) else type(subjects[0].model).__name__
    return CheckReport(title, tuple(_waive(rows, waivers)))


@contextmanager
def one_thread() -> Iterator[None]:
    """A block on one thread: tensors this small only wait for each other on more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_checks(ctx: "Context", names: Iterable[str] | None = None) -> list[Row]:
    """Run the checks that apply to a context's model, or those of them with the given names."""
    wanted = None if names is None else set(names)
    chosen = [each for each in checks_for(ctx.declared, ctx.level) if wanted is None or each.name in wanted]
    return [_run(each, ctx) for each in chosen]


def _run(each: Check, ctx: "Context") -> Row:
    began = time.perf_counter()
    message = ""
    try:
        each.run(ctx)
        passed = True
    except CheckFailed as failure:
        passed, message = False, str(failure)
    except Exception as error:
        passed, message = False, f"{type(error).__name__}: {error}".split("\n")[0]
    return Row(each.name, each.topic, passed, time.perf_counter() - began, message, None, ctx.subject.label)


def _waive(rows: list[Row], waivers: Mapping[str, str]) -> list[Row]:
    """Mark failures under a waiver; a waiver of a check that failed nowhere becomes a failure of its own."""
    failed = {row.name for row in rows if not row.passed}
    result = []
    for row in rows:
        reason = waivers.get(row.name) if not row.passed else None
        result.append(Row(row.name, row.topic, row.passed, row.seconds, row.message, reason, row.subject))
    for name, reason in waivers.items():
        if name not in failed:
            message = f"waived ({reason}), but it passes or does not apply: remove the waiver"
            result.append(Row(name, "waivers", False, 0.0, message))
    return result


def subjects_of(target: Any) -> "list[Subject]":
    """What to check for a target: one subject, or one for each space that a named model takes.

    Raises:
        InvalidInput: for a target that is no model.
    """
    from manykin.contract import GenerativeModel
    from manykin.testing.context import Subject

    if isinstance(target, str):
        return _named(target)
    if isinstance(target, GenerativeModel):
        return [Subject(target, str(target.space))]
    inner = getattr(target, "model", None)
    if isinstance(inner, GenerativeModel):
        return [_fitted(inner)]
    raise InvalidInput(f"check was given a {type(target).__name__}; expected a model, a fitted model, or a model's name.")


def _named(name: str) -> "list[Subject]":
    from manykin.models import get
    from manykin.testing.context import Subject
    from manykin.testing.examples import VARIANTS

    kind = get(name)
    subjects = []
    for label, (space, condition) in VARIANTS.items():
        preset = kind.presets.get("tiny") or kind.presets.get("default")
        chosen = preset(space, 512) if callable(preset) else preset
        config = None if chosen is None else kind.config_class.from_json(chosen.model)
        try:
            model = kind(config, space, condition)
        except Unsupported:
            continue
        subjects.append(Subject(model, label, {} if chosen is None else chosen.train))
    if not subjects:
        raise InvalidInput(f"model {name!r} takes none of the example spaces; give an instance of it instead.")
    return subjects


def _fitted(model: "GenerativeModel") -> "Subject":
    from manykin.contract import Batch
    from manykin.spaces import Labels, move
    from manykin.testing.context import Subject
    from manykin.testing.examples import dataset_of, example_rows

    n = 512
    conditions = example_rows(model.space, model.condition, 2 * n, seed=1).condition
    if isinstance(model.condition, Labels):
        import torch

        conditions = torch.multinomial(model.condition_frequencies.cpu(), 2 * n, replacement=True, generator=torch.Generator().manual_seed(0))
    x = move(model.sample(2 * n, conditions, seed=0), "cpu")
    data = dataset_of(Batch(x, conditions), model.space, model.condition, n)
    return Subject(model, str(model.space), data=data, fitted=True)
