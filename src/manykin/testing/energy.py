"""Checks of models with a free energy and hidden units: the loss, the density, the chains and the constant speak of one machine."""

import math
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from manykin.contract import GenerativeModel, Sampler
from manykin.errors import ManykinError
from manykin.mcmc import LogPartition
from manykin.spaces import Labels, Value, take
from manykin.testing.context import Context, same_value
from manykin.testing.core import Topic, both, gradient_phases, is_repeatable, require
from manykin.testing.density import has_mass, partition
from manykin.testing.energy_chains import keeps_chains
from manykin.testing.statistics import P_VALUE, as_columns, integrate, locate

check = Topic("energy")

TOLERANCE = 0.05
"""The mass by which samples of chains may differ from the density beside the noise."""

CLOSE = 0.1
"""Nats by which an estimate of log Z may be off."""

PRECISE = 0.03
"""The standard error in nats that a small model's log Z has with a thousand temperatures and so many chains."""

CHAINS = 200
"""Chains of that estimate."""

ROUNDING = 0.01
"""Nats by which the exact constant may lie outside of the interval: that of one draw in some hundreds does."""

REPEATS = 4
"""Estimates by which intervals are judged."""


@runtime_checkable
class FreeEnergy(Protocol):
    """Minus log_prob up to a constant for each condition, whether or not the constant is known."""

    def free_energy(self, x: Value, condition: Value | None = None) -> Tensor:
        """Free energies in nats, shape (n,)."""
        ...


@runtime_checkable
class KnowsPartition(Protocol):
    """The log of the normalising constant, exact or estimated with an interval."""

    def log_partition(
        self, condition: int | None = None, *, temperatures: int | None = None, chains: int | None = None, seed: int = 0, estimate: bool = False
    ) -> LogPartition:
        """log Z; ``estimate`` asks for an estimate even where the exact value is known."""
        ...


def has_free_energy(model: GenerativeModel) -> bool:
    """The model has free energies, of data that reach it as they are."""
    return isinstance(model, FreeEnergy) and model.transform.exact


def chain_samplers(model: GenerativeModel) -> list[type[Sampler]]:
    """Samplers that choose where chains begin: ``chains`` fresh or buffer."""
    return [kind for kind in type(model).samplers if {"steps", "chains"} <= set(kind.__dataclass_fields__)]


@check(when=both(has_free_energy, is_repeatable))
def free_energy_is_minus_log_prob(ctx: Context) -> None:
    """free_energy and log_prob add up to the same number for all rows of a class."""
    totals = cast(FreeEnergy, ctx.model).free_energy(ctx.rows.x, ctx.rows.condition) + ctx.model.log_prob(ctx.rows.x, ctx.rows.condition)
    for label, rows in _classes(ctx).items():
        spread = float((totals[rows].max() - totals[rows].min()).detach())
        require(spread <= 1e-3, f"free_energy + log_prob varies by {spread:.3g} nats between rows of class {label}; expected a constant")


def _classes(ctx: Context) -> dict[int, Tensor]:
    """Rows of each class; all of them as class 0 for an unconditional model."""
    labels = ctx.rows.condition if isinstance(ctx.declared.condition, Labels) else torch.zeros(len(ctx.rows), dtype=torch.long)
    found = sorted(set(cast(Tensor, labels).tolist()))
    return {label: (cast(Tensor, labels) == label).nonzero()[:, 0] for label in found}


@check(when=both(keeps_chains, has_free_energy))
def loss_is_the_free_energy(ctx: Context) -> None:
    """Losses of two rows differ by their free energies, without noise: hidden units count by probabilities, chains alike for all rows of a class."""
    phase = next(each for each in gradient_phases(ctx.declared) if each.contrastive)
    energy = cast(FreeEnergy, ctx.model).free_energy(ctx.rows.x, ctx.rows.condition).detach()
    for seed in (0, 1):
        loss = ctx.loss(ctx.copy(), phase, ctx.rows, seed).detach().double()
        for label, rows in _classes(ctx).items():
            rest = (loss - energy)[rows]
            spread = float(rest.max() - rest.min())
            require(spread <= 1e-3, f"losses of rows of class {label} differ from their free energies by up to {spread:.3g} nats more or less")


@check(when=both(keeps_chains, has_free_energy))
def fresh_chains_know_no_buffer(ctx: Context) -> None:
    """Samples of fresh chains do not depend on the chains of training; those of the buffer do: without states they differ, or cannot be drawn."""
    for kind in chain_samplers(ctx.declared):
        n = 1024
        other, c = ctx.copy(), ctx.conditions(n)
        other.get_buffer("chains").fill_(math.nan)
        same = []
        for chains in ("fresh", "buffer"):
            sampler = kind.from_json({"steps": 1, "chains": chains})
            expected = ctx.model.sample(n, c, seed=0, sampler=sampler)
            try:
                same.append(same_value(expected, other.sample(n, c, seed=0, sampler=sampler)))
            except (ManykinError, RuntimeError):
                same.append(False)
        require(same[0], f"samples of {kind.__name__} with fresh chains change with the chains of training")
        require(not same[1], f"samples of {kind.__name__} with chains of the buffer do not depend on them")


@check(when=lambda model: has_mass(model) and is_repeatable(model) and bool(chain_samplers(model)))
def chains_reach_the_density(ctx: Context) -> None:
    """Samples of fresh chains follow log_prob, up to a twentieth of the mass beside the noise: chains of finite length are an approximation."""
    space, n = ctx.declared.space, 8192 if ctx.full else 2048
    axes = partition(ctx)
    for condition in ctx.condition_values()[: None if ctx.full else 1]:
        masses = integrate(lambda x, seed, c=condition: ctx.log_prob(x, c), space, axes, pairs=1)  # type: ignore[misc]
        c = None if condition is None else take(condition, torch.zeros(n, dtype=torch.long))
        for kind in chain_samplers(ctx.declared):
            x = ctx.model.sample(n, c, seed=3, sampler=kind.from_json({"chains": "fresh"}))
            observed = torch.bincount(locate(axes, as_columns(x, space)), minlength=len(masses.cells) + 1).double()
            expected = torch.cat([masses.cells, (1 - masses.cells.sum()).clamp_min(0)[None]]) * n
            gap = 0.5 * float((observed - expected).abs().sum()) / n
            # The mean of the gap is at most half the sum of standard errors; it exceeds its mean by e with a chance below exp(-2 n e^2) (McDiarmid).
            noise = 0.5 * float((expected / n**2).sqrt().sum()) + math.sqrt(-math.log(P_VALUE) / (2 * n))
            require(
                gap <= noise + TOLERANCE, f"{n} samples of {kind.__name__} and log_prob differ in {gap:.3f} of the mass; {noise:.3f} would be noise"
            )


def knows_constant(model: GenerativeModel) -> bool:
    """The constant can be had exactly, and be estimated."""
    if not isinstance(model, KnowsPartition) or not is_repeatable(model) or not (model.density and model.density.normalised):
        return False
    return model.log_partition(None if model.condition is None else 0, temperatures=2, chains=2).chains == 0


def _constants(ctx: Context) -> list[tuple[int | None, float]]:
    """The classes that are looked at, with their exact constants; None for the only one of an unconditional model."""
    labels = [None] if ctx.declared.condition is None else [int(cast(Tensor, each)[0]) for each in ctx.condition_values()]
    return [(label, cast(KnowsPartition, ctx.model).log_partition(label).value) for label in labels]


@check(when=knows_constant)
def annealing_finds_the_constant(ctx: Context) -> None:
    """log Z by a thousand temperatures is the exact one within 0.1 nat and its own interval, with an error of 0.03 nat at most."""
    for label, exact in _constants(ctx):
        found = cast(KnowsPartition, ctx.model).log_partition(label, temperatures=1000, chains=CHAINS, seed=1000, estimate=True)
        told = f"log Z by 1000 temperatures is {found.value:.3f} ± {found.stderr:.2g}; exact {exact:.3f}"
        require(found.chains == CHAINS, "an estimate of log Z was asked for, and none was made")
        require(found.stderr <= PRECISE, f"{told}; expected an error of {PRECISE:g} at most")
        require(abs(found.value - exact) <= CLOSE, f"{told}, off by {found.value - exact:+.3f}")
        inside = found.lower - ROUNDING <= exact <= found.upper + ROUNDING
        require(inside, f"{told}, outside of its interval from {found.lower:.3f} to {found.upper:.3f}")
        require(found.ess >= CHAINS / 5, f"{told}, with an effective sample size of {found.ess:.1f} of {CHAINS} chains; expected a fifth of them")


@check(when=knows_constant)
def intervals_hold_the_constant(ctx: Context) -> None:
    """Estimates of log Z by a few hundred temperatures stray from the exact one as far as their intervals say, three errors to a side."""
    for label, exact in _constants(ctx)[: None if ctx.full else 1]:
        strays = []
        for seed in range(REPEATS):
            found = cast(KnowsPartition, ctx.model).log_partition(label, temperatures=200, chains=CHAINS // 2, seed=seed, estimate=True)
            strays.append((found.value - exact) / max((found.upper - found.lower) / 6, 1e-3))
        # The sum of four squares of standard normals exceeds 25 with a chance of 5e-5.
        require(
            sum(stray**2 for stray in strays) <= 25,
            f"estimates of log Z lie {', '.join(f'{stray:+.1f}' for stray in strays)} errors from the exact one, by what their intervals claim",
        )
