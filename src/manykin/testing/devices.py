"""Checks of copies, dtypes, devices and compilation."""

import copy
import math
from typing import cast

import torch
from torch import Tensor

from manykin.random import seeded
from manykin.spaces import Value, move
from manykin.testing.context import Context, same_value, worst
from manykin.testing.core import Topic, gradient_phases, has_density, has_gradient, is_repeatable, require

check = Topic("devices")


@check()
def copies_are_independent(ctx: Context) -> None:
    """A deep copy gives the same samples, and changing it leaves the original alone."""
    model = ctx.copy()
    twin = copy.deepcopy(model)
    c = ctx.conditions(8)
    before = model.sample(8, c, seed=0)
    require(same_value(before, twin.sample(8, c, seed=0)), "samples of a deep copy differ")
    with torch.no_grad():
        for tensor in [*twin.parameters(), *twin.buffers()]:
            if tensor.is_floating_point():
                tensor.mul_(1.25).add_(0.25)
    require(same_value(before, model.sample(8, c, seed=0)), "changing a deep copy changes the original")


@check()
def works_in_double(ctx: Context) -> None:
    """A model cast to float64 still samples, and scores as before to single precision."""
    model = ctx.copy().double()
    ctx.declared.space.validate(model.sample(8, ctx.conditions(8), seed=0), "samples in float64")
    for phase in gradient_phases(model):
        loss = ctx.loss(copy.deepcopy(model), phase, ctx.rows)
        require(bool(torch.isfinite(loss).all()), f"{phase.loss} in float64 is not finite")
    if is_repeatable(ctx.model):
        before, after = (each.log_prob(ctx.rows.x, ctx.rows.condition).detach() for each in (ctx.model, model))
        gap = worst(before, after)
        finite = after[after.isfinite()].abs()
        require(gap <= 1e-2 * (1 + (float(finite.max()) if len(finite) else 0.0)), f"log_prob in float64 differs by {gap:.3g} nats")


@check()
def moves_to_devices(ctx: Context) -> None:
    """.to(device) moves everything: the model samples and scores there, and takes data from the CPU."""
    names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for name in names:
        model = ctx.copy().to(name)
        x = model.sample(8, ctx.conditions(8), seed=0)
        ctx.declared.space.validate(move(x, "cpu"), f"samples on {name}")
        _on(x, name, "samples")
        if has_density(model):
            value = model.log_prob(ctx.rows.x, ctx.rows.condition).detach()
            _on(value, name, "log_prob")
            gap = worst(value.cpu(), ctx.model.log_prob(ctx.rows.x, ctx.rows.condition))
            require(
                ctx.model.density is None or ctx.model.density.noisy or gap <= 1e-2 * _size(value), f"log_prob on {name} differs by {gap:.3g} nats"
            )


def _on(x: Value, device: str, what: str) -> None:
    tensor = x if isinstance(x, Tensor) else next(iter(x.values()))
    require(tensor.device.type == device, f"{what} of a model on {device} lie on {tensor.device.type}")


def _size(value: Tensor) -> float:
    finite = value[value.isfinite()].abs()
    return 1 + (float(finite.max()) if len(finite) else 0.0)


@check()
def built_without_memory(ctx: Context) -> None:
    """The constructor works on the meta device, with the same names and shapes: a file is compared with it before memory is taken."""
    given = ctx.declared
    with torch.device("meta"):
        shell = type(given)(given.config, given.space, given.condition)
        shell.allocate(ctx.model.sizes)
    expected = {name: tensor.shape for name, tensor in ctx.model.state_dict().items() if isinstance(tensor, Tensor)}
    found = {name: tensor.shape for name, tensor in shell.state_dict().items() if isinstance(tensor, Tensor)}
    require(found == expected, f"on the meta device the tensors differ in {sorted(set(found.items()) ^ set(expected.items()))[:2]}")


@check(when=has_gradient, level="full")
def compiled_loss_agrees(ctx: Context) -> None:
    """torch.compile (backend aot_eager) leaves losses and gradients as they are."""
    phase = gradient_phases(ctx.declared)[0]
    found = []
    for compiled in (False, True):
        model = ctx.copy()
        model.train()
        function = getattr(model, phase.loss)
        if compiled:
            torch._dynamo.reset()
            function = torch.compile(function, backend="aot_eager")
        with seeded(0):
            loss = cast(Tensor, function(ctx.rows))
        try:
            loss.mean().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "double backward" in str(error):
                return  # torch cannot compile a gradient penalty: a limit of its own, which no model can lift
            raise
        slopes = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        found.append((loss.detach(), torch.stack(slopes)))
    gap = worst(found[0][0].mean(), found[1][0].mean())
    require(gap <= 1e-3 * (1 + float(found[0][0].abs().mean())), f"the compiled {phase.loss} differs by {gap:.3g}")
    require(len(found[0][1]) == len(found[1][1]), "the compiled loss gives gradients to other parameters")
    relative = worst(found[0][1], found[1][1]) / (float(found[0][1].max()) + 1e-12)
    require(relative <= 1e-2 or math.isclose(relative, 0), f"gradients of the compiled {phase.loss} differ by {relative:.2%}")
