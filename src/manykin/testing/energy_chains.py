"""Checks of models that learn from Markov chains: the kernels, the chains of training, and the energies that come of them."""

import dataclasses
import math
from typing import cast

import torch
from torch import Tensor

from manykin.contract import GenerativeModel
from manykin.mcmc.chains import ChainSampler, RunsChains
from manykin.random import seeded
from manykin.spaces import Labels
from manykin.testing.context import Context, same, same_value
from manykin.testing.core import Topic, both, gradient_phases, has_density, one_tensor, real_space, require

check = Topic("chains")

SPREADS = (0.6, 1.0, 1.5)
"""Standard deviations of the target on which kernels are tried."""
KERNEL_STEP = 0.5
"""The step size there: a kernel without Metropolis' correction that follows its law widens the narrowest by a fifth, and does not pass."""
LEVEL = 2.0
"""Nats by which the mean energies of labels may differ that say nothing of x."""
LEVEL_STEPS = 150
"""Steps of training after which they are looked at."""
TOLERANCE = 0.1
"""Share by which a chain's variance may differ from the target's; for 4096 chains about 4.5 standard errors."""
FAR = (8.0, 16.0, 32.0)
"""Standard deviations from the data at which nothing should seem likely."""


def runs_chains(model: GenerativeModel) -> bool:
    """The model learns from chains over its energy."""
    return isinstance(model, RunsChains)


def keeps_chains(model: GenerativeModel) -> bool:
    """The model learns by contrast with chains of its own, which live on between steps of training in the buffer ``chains``."""
    chains = dict(model.named_buffers()).get("chains")
    return any(phase.contrastive for phase in gradient_phases(model)) and chains is not None and chains.numel() > 0


def by_label(model: GenerativeModel) -> bool:
    """Conditional on labels."""
    return isinstance(model.condition, Labels)


def draws_by_chains(model: GenerativeModel) -> bool:
    """Some of its samplers run a chain a sample."""
    return bool(_kinds(model))


def _kinds(model: GenerativeModel) -> list[type[ChainSampler]]:
    return [kind for kind in type(model).samplers if issubclass(kind, ChainSampler)]


@check(when=draws_by_chains)
def kernels_find_a_known_law(ctx: Context) -> None:
    """Each kernel among the samplers, begun in one point, comes to the means and variances of a normal: its noise fits its steps."""
    spread = torch.tensor(SPREADS, dtype=torch.float64)
    for kind in _kinds(ctx.declared):
        kernel = kind.from_json({"leap_every": 0}).bind(lambda x: 0.5 * (x / spread).square().sum(dim=1), KERNEL_STEP)
        with seeded(3):
            ends = kernel.run(torch.zeros(4096, len(SPREADS), dtype=torch.float64), 100).state
        ratios = ends.var(dim=0) / spread**2
        worst = float(ratios[(ratios.log().abs()).argmax()])
        require(abs(worst - 1) <= TOLERANCE, f"{kind.__name__} gives a normal {worst:.3f} times its variance: the noise does not fit the steps")
        shift = float((ends.mean(dim=0) / spread).abs().max())
        require(shift <= TOLERANCE, f"{kind.__name__} shifts the mean of a normal by {shift:.3f} of its deviation")


@check(when=runs_chains)
def chains_leave_parameters_alone(ctx: Context) -> None:
    """Chains give no gradient to parameters, carry none out of the loop, and leave every parameter as trainable as it was."""
    model = ctx.copy()
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = None
        parameter.requires_grad_(index % 2 == 0)
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.train()
    with torch.enable_grad(), seeded(0):
        ends, _ = cast(RunsChains, model).negatives(16)
    require(not ends.requires_grad, "the ends of the chains carry a gradient: the loss would be differentiated through the chain")
    model.sample(4, ctx.conditions(4), seed=0)
    for name, parameter in model.named_parameters():
        require(parameter.grad is None, f"running chains gives a gradient to {name}")
        require(parameter.requires_grad == wanted[name], f"running chains leaves requires_grad of {name} at {parameter.requires_grad}")
    require(not cast(RunsChains, model).chains.requires_grad, "the replay buffer carries a gradient")


@check(when=keeps_chains)
def chains_live_in_training_only(ctx: Context) -> None:
    """In training mode a loss moves the chains of the buffer on; in evaluation mode, where it is only looked at, it changes nothing."""
    phase = next(each for each in gradient_phases(ctx.declared) if each.contrastive)
    for training in (False, True):
        model = ctx.copy()
        model.train(training)
        before = model.get_buffer("chains").clone()
        with seeded(0), torch.no_grad():
            getattr(model, phase.loss)(ctx.rows)
        moved = not same(before, model.get_buffer("chains"))
        if training:
            require(moved, "a step of training leaves the replay buffer as it was: its chains never live on")
        else:
            require(not moved, "chains of the replay buffer move on in evaluation mode: looking changes training")


@check(when=keeps_chains)
def samples_are_fresh(ctx: Context) -> None:
    """Samples without a sampler come from chains of their own, whatever the replay buffer holds."""
    model, c = ctx.copy(), ctx.conditions(32)
    before = model.sample(32, c, seed=3)
    with torch.no_grad():
        model.get_buffer("chains").fill_(0.25)
    require(same_value(before, model.sample(32, c, seed=3)), "samples change with the replay buffer: chains of training are passed off as fresh ones")


@check(when=both(runs_chains, by_label))
def labels_stay_level(ctx: Context) -> None:
    """Where labels say nothing of x, training leaves their mean energies within two nats of each other: no label is pushed as a whole."""
    rows = ctx.data.train.all()
    c = cast(Tensor, rows.condition)
    shuffled = c[torch.randperm(len(c), generator=torch.Generator().manual_seed(0))]
    data = dataclasses.replace(ctx.data, train=dataclasses.replace(ctx.data.train, x=rows.x, condition=shuffled, index=None, label=None), val=None)
    model = ctx.fit(ctx.fresh(), data=data, changes={"max_steps": LEVEL_STEPS})
    u = torch.randn(512, cast(RunsChains, model).chains.shape[1], generator=torch.Generator().manual_seed(0)).to(model.dtype)
    with torch.no_grad(), model.evaluating(0):
        labels = sorted(set(shuffled.tolist()))
        means = [float(cast(RunsChains, model).potential(torch.full((len(u),), label))(u).mean()) for label in labels]
    spread = max(means) - min(means)
    require(spread <= LEVEL, f"mean energies of labels that say nothing of x part by {spread:.2f} nats in {LEVEL_STEPS} steps; expected {LEVEL:g}")


@check(when=both(runs_chains, has_density, one_tensor))
def chains_reach_the_data(ctx: Context) -> None:
    """Samples are about as likely as data: mean log_prob of fresh chains and of training rows differ by one deviation at most."""
    n = 256
    samples, c = ctx.samples(n)
    rows = ctx.data.train.slice(0, n)
    drawn, data = ctx.log_prob(samples, c), ctx.log_prob(rows.x, rows.condition)
    gap, spread = float(data.mean() - drawn.mean()), float(data.std())
    noise = 4 * math.sqrt((float(drawn.var()) + float(data.var())) / n)
    require(
        abs(gap) <= spread + noise,
        f"log_prob of the data is {gap:+.3g} nats beside that of fresh chains, and its own deviation is {spread:.3g}: they do not reach the data",
    )


@check(when=both(runs_chains, has_density, real_space, one_tensor))
def far_places_are_unlikely(ctx: Context) -> None:
    """Eight to 32 standard deviations away from the data nothing is likelier than the middle of the data."""
    rows = ctx.data.train.slice(0, 256)
    x = cast(Tensor, rows.x).double()
    centre, scale = x.mean(dim=0), x.std(dim=0)
    middle = float(ctx.log_prob(rows.x, rows.condition).median())
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction = direction / direction.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
    for distance in FAR:
        away = ctx.log_prob((centre + distance * scale * direction).to(cast(Tensor, rows.x).dtype), rows.condition)
        share = float((away > middle).double().mean())
        require(share <= 0.01, f"{share:.0%} of places {distance:g} deviations from the data are likelier than the middle of the data")
