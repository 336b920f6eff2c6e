"""Checks of learning: it helps, it repeats, it sees the training rows only."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from manykin.contract import ClosedForm, GenerativeModel
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput, ManykinError
from manykin.metrics.energy import energy_distance
from manykin.metrics.numbers import encoder
from manykin.random import seeded
from manykin.spaces import Labels, Value, take
from manykin.testing.context import Context, changed, same, state_of, worst
from manykin.testing.core import (
    Topic,
    closed_phases,
    gradient_phases,
    has_closed_form,
    has_gradient,
    is_normalised,
    is_repeatable,
    one_tensor,
    real_space,
    require,
)
from manykin.testing.statistics import z_score, z_threshold

check = Topic("learning")


def _one_loss(model: GenerativeModel) -> bool:
    phases = gradient_phases(model)
    return len(phases) == 1 and not phases[0].contrastive


@check(when=_one_loss)
def loss_falls(ctx: Context) -> None:
    """A short fit lowers the loss of the only gradient phase, or leaves it where it was; a contrastive loss need not fall."""
    if ctx.subject.fitted:
        return
    phase = gradient_phases(ctx.declared)[0]
    batch = ctx.data.train.slice(0, 256)
    losses = []
    for model in (ctx.start(ctx.fresh()), ctx.copy()):
        with torch.no_grad():
            losses.append(torch.stack([ctx.loss(model, phase, batch, seed=seed).detach().double() for seed in range(4)]).mean(0))
    z = z_score(losses[1] - losses[0])
    require(z < z_threshold(), f"{phase.loss} rises from {float(losses[0].mean()):.4g} to {float(losses[1].mean()):.4g} in a short fit")


@check(when=is_normalised)
def likelihood_rises(ctx: Context) -> None:
    """A short fit raises the mean log_prob of the training rows, or leaves it where it was."""
    if ctx.subject.fitted:
        return
    batch = ctx.data.train.slice(0, 256)
    start = ctx.start(ctx.fresh())
    with torch.no_grad():
        try:
            before = torch.stack([start.log_prob(batch.x, batch.condition, seed=seed) for seed in range(4)]).mean(0)
        except ManykinError:
            return  # some models have no density before they have seen the data
        after = torch.stack([ctx.model.log_prob(batch.x, batch.condition, seed=seed) for seed in range(4)]).mean(0)
    if bool(torch.isfinite(before).all()):
        z = z_score(after - before)
        require(
            z > -z_threshold(),
            f"the mean log_prob of the training rows falls from {float(before.mean()):.4g} to {float(after.mean()):.4g} in a short fit",
        )
    require(bool(torch.isfinite(after).all()), "log_prob of training rows is not finite after the fit")


@check()
def samples_approach_data(ctx: Context) -> None:
    """A short fit brings samples closer to the training rows than the start's were, or keeps them as close (energy distance).

    One-sided at the suite's p-value plus a twentieth of the start's distance; columns are standardised by the data.
    """
    if ctx.subject.fitted:
        return
    real, features = _standardised(ctx)
    n = len(real)
    fitted, c = ctx.samples(n)
    before, after = (energy_distance(features(x), real) for x in (ctx.started.sample(n, c, seed=7), fitted))
    assert before.stderr is not None and after.stderr is not None
    noise = z_threshold() * math.hypot(before.stderr, after.stderr) + 0.05 * abs(before.value)
    require(
        after.value <= before.value + noise,
        f"a short fit takes samples away from the data: the energy distance rises from {before.value:.4g} to {after.value:.4g} (noise {noise:.2g})",
    )


SMALLEST_SHARE = 0.01
"""Samples with less than this share of the data's variance have collapsed."""


@check()
def samples_not_collapsed(ctx: Context) -> None:
    """After a short fit the samples keep at least a hundredth of the data's variance, within each class where there are classes.

    Within classes, because a conditional model that has lost its noise still varies with its condition.
    """
    real, features = _standardised(ctx)
    x, c = ctx.samples(len(real))
    drawn, labels = features(x), c if isinstance(ctx.declared.condition, Labels) else torch.zeros(len(real), dtype=torch.long)
    own, theirs = (_variance_within(rows, cast(Tensor, labels)) for rows in (drawn, real))
    require(
        own >= SMALLEST_SHARE * theirs,
        f"samples have {own:.3g} of variance and the data {theirs:.3g}: the sampler has collapsed onto a few points",
    )


def _standardised(ctx: Context) -> tuple[Tensor, Callable[[Value], Tensor]]:
    """Up to 512 training rows as points with unit variance in each column, and the function that turns data into such points."""
    rows = ctx.data.train.slice(0, min(512, len(ctx.data.train))).x
    points = encoder(ctx.declared.space, rows)
    reference = points(rows)
    centre, scale = reference.mean(0), reference.std(0)
    scale = torch.where(scale > 0, scale, 1.0)
    return (reference - centre) / scale, lambda x: (points(x) - centre) / scale


def _variance_within(rows: Tensor, labels: Tensor) -> float:
    """The sum over columns of the variance within labels, weighted by their counts."""
    parts = [rows[labels == label] for label in sorted(set(labels.tolist()))]
    return float(sum(((part - part.mean(0)) ** 2).sum() for part in parts)) / len(rows)


def _monotone(model: GenerativeModel) -> bool:
    phases = closed_phases(model)
    return is_repeatable(model) and is_normalised(model) and len(model.phases()) == 1 and len(phases) == 1 and phases[0].when == "epoch"


@check(when=_monotone)
def closed_form_monotone(ctx: Context) -> None:
    """Each pass of a closed-form phase raises the likelihood of the training rows: EM never falls."""
    model = ctx.start(ctx.fresh())
    phase = closed_phases(model)[0]
    rows = ctx.data.train.all()
    values: list[float] = []
    for _ in range(min(phase.max_epochs, 8 if ctx.full else 5)):
        ctx.accumulate(model, phase)
        ctx.solve(model, phase)
        with torch.no_grad():
            values.append(float(model.log_prob(rows.x, rows.condition).mean()))
    for before, after in itertools.pairwise(values):
        require(
            after >= before - 1e-4 * (1 + abs(before)), f"a pass of phase {phase.name!r} lowers the mean log_prob from {before:.6g} to {after:.6g}"
        )


@check(when=has_closed_form)
def statistics_named(ctx: Context) -> None:
    """What accumulate adds to is named by ``statistics``, or put back by solve itself; after a fit the statistics are zero."""
    for phase in closed_phases(ctx.declared):
        _statistics_are_buffers(ctx.fresh(), phase)
    fitted = ctx.copy()
    for phase in closed_phases(fitted):
        for name in phase.statistics:
            require(not bool(fitted.get_buffer(name).any()), f"statistics buffer {name!r} is not zero after the fit")
        before = state_of(fitted)
        ctx.accumulate(fitted, phase)
        seen = changed(before, state_of(fitted))
        require(not phase.statistics or bool(seen), f"{phase.accumulate} changes none of its statistics")
        ctx.solve(fitted, phase)
        after = state_of(fitted)
        strays = [name for name in seen if name not in phase.statistics and not same(before[name], after[name])]
        names = ", ".join(strays[:3])
        require(not strays, f"{phase.accumulate} changes {names}, which statistics does not name and {phase.solve} does not put back")


def _statistics_are_buffers(model: GenerativeModel, phase: ClosedForm) -> None:
    known = dict(model.named_buffers())
    for name in phase.statistics:
        require(name in known, f"statistics names {name!r}, which is no buffer of the model")


@check(when=has_closed_form)
def statistics_add_up(ctx: Context) -> None:
    """Statistics do not depend on how the rows are cut into batches."""
    for index, phase in enumerate(closed_phases(ctx.declared)):
        found = []
        for size in (64, 512):
            model = ctx.copy()
            mine = closed_phases(model)[index]
            ctx.accumulate(model, mine, size)
            found.append({name: model.get_buffer(name).clone() for name in mine.statistics if name in dict(model.named_buffers())})
        for name, first in found[0].items():
            gap = worst(first, found[1][name])
            scale = float(first.double().abs().nan_to_num(0.0).max()) if first.numel() else 0.0
            require(gap <= 1e-4 * (1e-6 + scale), f"statistics {name!r} of phase {phase.name!r} differ by {gap:.3g} between batches of 64 and of 512")


@check()
def one_seed_one_result(ctx: Context) -> None:
    """Two short fits with one seed agree in every bit, whatever the global generators hold."""
    states = []
    for state in (1, 2):
        with seeded(state):
            states.append(state_of(ctx.fit(ctx.fresh(), changes={"max_steps": 4})))
    names = changed(states[0], states[1])
    require(not names, f"two fits with one seed differ in {', '.join(names[:3])}")


@check(when=lambda model: real_space(model) and one_tensor(model))
def scaling_from_train_only(ctx: Context) -> None:
    """The transform is fitted to the training rows alone, and nothing changes it afterwards."""
    wild = replace(ctx.data, val=_shifted(ctx.data.val), test=_shifted(ctx.data.test))
    transform = {f"transform.{name}" for name in dict(ctx.declared.transform.named_buffers())}
    expected = {name: tensor for name, tensor in state_of(ctx.start(ctx.fresh())).items() if name in transform}
    found = state_of(ctx.fit(ctx.fresh(), data=wild, changes={"max_steps": 2}))
    for name, tensor in expected.items():
        require(
            worst(tensor, found[name]) <= 1e-9 * (1 + float(tensor.abs().max())),
            f"{name} depends on rows that are not for training, or changes after the start",
        )
    model = ctx.copy()
    kept = state_of(model)
    if is_repeatable(model):
        model.log_prob(ctx.x + 1, ctx.rows.condition)
    names = [name for name in changed(kept, state_of(model)) if name in transform]
    require(not names, f"scoring other rows changes {', '.join(names)}")


def _shifted(rows: Rows | None) -> Rows | None:
    if rows is None:
        return None
    batch = rows.all()
    return Rows(cast(Tensor, batch.x) * 10 + 100, batch.condition)


@check(when=lambda model: has_gradient(model) or has_closed_form(model))
def start_is_repeatable(ctx: Context) -> None:
    """start with one seed gives one start, and a second start overwrites the first."""
    once, twice = ctx.start(ctx.fresh()), ctx.start(ctx.start(ctx.fresh()))
    names = changed(state_of(once), state_of(twice))
    require(not names, f"starting twice differs from starting once in {', '.join(names[:3])}")


@check(when=lambda model: has_gradient(model) or has_closed_form(model))
def small_data_is_learnt(ctx: Context) -> None:
    """A fit to 17 rows, fewer than a batch, gives finite parameters, or one line that names the number of rows."""
    rows = ctx.data.train.slice(0, 17)
    few = replace(ctx.data, train=Rows(rows.x, rows.condition))
    try:
        model = ctx.fit(ctx.fresh(), data=few, changes={"max_steps": 2})
    except InvalidInput as refusal:
        require("17" in str(refusal) and "\n" not in str(refusal), f"17 rows are refused without naming them: {refusal}")
        return
    bad = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    require(not bad, f"parameters {', '.join(bad[:3])} are not finite after a fit to 17 rows")
    x: Value = take(rows.x, slice(0, 3))
    ctx.declared.space.validate(model.sample(3, None if rows.condition is None else take(rows.condition, slice(0, 3)), seed=0), "samples")
    ctx.declared.space.validate(x)
