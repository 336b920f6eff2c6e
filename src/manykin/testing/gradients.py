"""Checks of gradient phases: what each learns, and what it must leave alone."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from manykin.contract import Batch, GenerativeModel, Gradient
from manykin.spaces import cat, count, take
from manykin.testing.context import Context, changed, state_of, worst
from manykin.testing.core import Topic, gradient_phases, has_gradient, require

check = Topic("gradients")


def owned(model: GenerativeModel, phase: Gradient) -> list[str]:
    """The names of the parameters that a phase learns."""
    prefixes = (phase.params,) if isinstance(phase.params, str) else phase.params
    return [name for name, _ in model.named_parameters() if name.startswith(prefixes)]


@contextmanager
def only(model: GenerativeModel, phase: Gradient) -> Iterator[dict[str, Tensor]]:
    """Freeze all parameters but a phase's own, as training does; yields its own."""
    mine = set(owned(model, phase))
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(wanted[name] and name in mine)
    try:
        yield {name: parameter for name, parameter in model.named_parameters() if name in mine and wanted[name]}
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])


@check(when=has_gradient)
def loss_per_example(ctx: Context) -> None:
    """Each phase's loss is one finite number an example, also for a batch of one."""
    model = ctx.start(ctx.fresh())
    for phase in gradient_phases(model):
        for n in (1, 2, 48):
            batch = _rows(ctx.rows, n)
            value = ctx.loss(model, phase, batch)
            require(value.shape == (n,), f"{phase.loss} of {n} rows has shape {tuple(value.shape)}; expected ({n},)")
            require(bool(torch.isfinite(value).all()), f"{phase.loss} of {n} rows is not finite")


def _rows(batch: Batch, n: int) -> Batch:
    return Batch(take(batch.x, slice(0, n)), None if batch.condition is None else take(batch.condition, slice(0, n)))


@check(when=has_gradient)
def loss_ignores_mates(ctx: Context) -> None:
    """The loss of a row does not depend on which other rows are in the batch."""
    rows = ctx.data.train.slice(48, 96)
    n = min(48, count(rows.x))
    first, others = _rows(ctx.rows, 1), ctx.data.train.slice(49, 48 + n)
    c = None if first.condition is None or others.condition is None else cat([first.condition, others.condition])
    mixed = Batch(cat([first.x, others.x]), c)
    for phase in gradient_phases(ctx.declared):
        model = ctx.copy()
        values = [ctx.loss(copy.deepcopy(model), phase, batch)[0].detach() for batch in (_rows(ctx.rows, n), mixed)]
        gap = worst(values[0], values[1])
        require(gap <= 1e-3 * (1 + float(values[0].abs())), f"{phase.loss} of a row changes by {gap:.3g} when other rows of the batch change")


@check(when=has_gradient)
def every_parameter_learns(ctx: Context) -> None:
    """Each trainable parameter gets a finite gradient from at least one phase, and belongs to one."""
    model = ctx.copy()
    learnt: set[str] = set()
    for phase in gradient_phases(model):
        with only(model, phase) as mine:
            require(mine, f"phase {phase.name!r} owns no parameter: none starts with {phase.params!r}")
            loss = ctx.loss(model, phase, ctx.rows)
            require(loss.requires_grad, f"{phase.loss} has no gradient")
            loss.mean().backward()  # type: ignore[no-untyped-call]
            for name, parameter in mine.items():
                if parameter.grad is not None:
                    require(bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} in phase {phase.name!r} is not finite")
                    learnt.add(name)
    missing = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name not in learnt]
    require(not missing, f"no phase gives a gradient to {', '.join(missing[:4])}")


@check(when=has_gradient)
def phases_stay_at_home(ctx: Context) -> None:
    """A phase's loss gives no gradient to parameters of other phases, changes no value, and leaves them frozen."""
    model = ctx.copy()
    for phase in gradient_phases(model):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        with only(model, phase) as mine:
            ctx.loss(model, phase, ctx.rows).mean().backward()  # type: ignore[no-untyped-call]
            for name, parameter in model.named_parameters():
                if name not in mine:
                    require(parameter.grad is None, f"phase {phase.name!r} gives a gradient to {name}, which is not its own")
                    require(not parameter.requires_grad, f"phase {phase.name!r} unfreezes {name}, which is not its own")
                require(torch.equal(before[name], parameter.detach()), f"{phase.loss} changes the value of {name}: only the optimizer may")


@check(when=has_gradient)
def loss_repeatable(ctx: Context) -> None:
    """One seed gives one loss: all randomness comes from torch's generator."""
    for phase in gradient_phases(ctx.declared):
        values = [ctx.loss(ctx.copy(), phase, ctx.rows, seed=5).detach() for _ in range(2)]
        require(worst(values[0], values[1]) == 0, f"{phase.loss} with one seed differs between two calls")


@check(when=lambda model: len(gradient_phases(model)) > 1)
def phases_alternate(ctx: Context) -> None:
    """A training step moves parameters of every phase that runs at each step."""
    model = ctx.fresh()
    start = state_of(ctx.start(ctx.fresh()))
    ctx.fit(model, changes={"max_steps": 1})
    moved = set(changed(start, state_of(model)))
    for phase in gradient_phases(model):
        if phase.every == 1:
            require(moved & set(owned(model, phase)), f"a training step moves no parameter of phase {phase.name!r}")
