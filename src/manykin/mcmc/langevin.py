"""Langevin dynamics: steps down the energy with noise of the matching size, with and without Metropolis' correction."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from manykin.config import option
from manykin.errors import InvalidInput
from manykin.mcmc.chains import ChainSampler
from manykin.mcmc.kernel import Energy, Move

BEST_LANGEVIN = 0.574
"""The acceptance at which many-dimensional chains move fastest (Roberts and Rosenthal, Optimal scaling of discrete approximations to Langevin
diffusions, 1998, theorem 2)."""


class Point(NamedTuple):
    """Where chains are, and what is known there: states (n, ...), energies (n,), gradients (n, ...); all detached."""

    state: Tensor
    energy: Tensor
    slope: Tensor

    def or_else(self, other: "Point", taken: Tensor) -> "Point":
        """These points where ``taken`` (n,), the others elsewhere."""
        wide = taken.view(-1, *[1] * (self.state.dim() - 1))
        return Point(
            torch.where(wide, self.state, other.state), torch.where(taken, self.energy, other.energy), torch.where(wide, self.slope, other.slope)
        )


def look(energy: Energy, state: Tensor) -> Point:
    """The energy and its gradient at states (n, ...).

    The gradient is taken with respect to the states alone: parameters behind the energy neither get nor carry one.
    """
    with torch.enable_grad():
        leaf = state.detach().requires_grad_(True)
        value = energy(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return Point(leaf.detach(), value.detach(), slope)


def adapted(step_size: Tensor, accepted: Tensor, target: float, rate: float) -> Tensor:
    """The step size after a look at the acceptance: ``step * exp(rate * (accepted - target))``.

    Robbins and Monro's stochastic approximation in the logarithm (Andrieu and Thoms, A tutorial on adaptive MCMC, 2008, section 4.2). Chains are
    invariant only where the size has settled: adapt while training, not while sampling.
    """
    return step_size * torch.exp(rate * (accepted.mean().to(step_size.dtype) - target))


@dataclass(frozen=True)
class LangevinKernel:
    r"""``x' = x - eps^2 / 2 * grad E(x) + eps sqrt(T) xi`` with xi standard normal, for the target ``exp(-E / T)``.

    With ``metropolis`` the step is a proposal that is accepted with probability ``min(1, p(x') q(x | x') / (p(x) q(x' | x)))``: exact for any step
    size (Roberts and Tweedie, Exponential convergence of Langevin distributions and their discrete approximations, 1996, section 1.4.2, MALA).
    Without, every step is taken and the law is wrong by the order of eps^2: a unit normal gets the variance ``1 / (1 - eps^2 / 4)``, and chains
    diverge where eps^2 times the largest curvature exceeds 4. Cost: one energy and gradient a step.

    Args:
        energy: of the target at temperature 1.
        step_size: eps, in units of the state.
        metropolis: whether proposals may be refused.
        temperature: T; below 1 the noise is smaller than that of the energy itself, and the chains seek its lowest places.
        clip: the largest gradient norm of a chain, above which it is shortened; the proposal knows it, so that the correction stays exact (the same
            paper, section 1.4.3, truncated). Without ``metropolis`` it changes the law.

    Raises:
        InvalidInput: for a step size, temperature or clip that is not positive and finite.
    """

    energy: Energy
    step_size: float
    metropolis: bool = True
    temperature: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("step_size", self.step_size), ("temperature", self.temperature), ("clip", 1.0 if self.clip is None else self.clip)):
            if not 0 < value < math.inf:
                raise InvalidInput(f"{name} = {value!r} is not possible for Langevin chains; expected a finite number above 0.")

    def step(self, state: Tensor) -> Move:
        """One step of each chain; two looks at the energy. Many steps by :meth:`run` take one each."""
        return self.run(state, 1)

    @torch.no_grad()
    def run(self, state: Tensor, count: int) -> Move:
        """The states after ``count`` steps, with each chain's mean acceptance.

        Raises:
            InvalidInput: for less than one step.
        """
        if count < 1:
            raise InvalidInput(f"{count} steps of a Markov chain are not possible; expected at least 1.")
        here, accepted = look(self.energy, state), torch.zeros(len(state), dtype=state.dtype, device=state.device)
        for _ in range(count):
            here, share = self._advance(here)
            accepted += share
        return Move(here.state, accepted / count)

    def _drift(self, point: Point) -> Tensor:
        """Where a step from these points goes without its noise."""
        slope = point.slope
        if self.clip is not None:
            norms = slope.flatten(1).norm(dim=1).view(-1, *[1] * (slope.dim() - 1))
            slope = slope * (self.clip / norms.clamp_min(self.clip))
        return point.state - 0.5 * self.step_size**2 * slope

    def _advance(self, here: Point) -> tuple[Point, Tensor]:
        noise, scale = torch.randn_like(here.state), self.step_size * self.temperature**0.5
        there = look(self.energy, self._drift(here) + scale * noise)
        if not self.metropolis:
            return there, torch.ones_like(here.energy, dtype=here.state.dtype)
        back = (here.state - self._drift(there)) / scale
        gain = (here.energy - there.energy) / self.temperature + 0.5 * (noise.square() - back.square()).flatten(1).sum(dim=1)
        taken = torch.rand_like(gain).log() < gain  # A proposal whose energy is not a number is refused.
        return there.or_else(here, taken), taken.to(here.state.dtype)


@dataclass(frozen=True)
class Langevin(ChainSampler):
    """Langevin chains (:class:`LangevinKernel`), by default with Metropolis' correction."""

    metropolis: bool = option(True, "whether steps may be refused, which makes them exact; false: the unadjusted algorithm, biased by the step size")
    temperature: float = option(1.0, "square of the noise relative to Langevin's; below 1 the samples are sharper than the model", gt=0)
    clip: float | None = option(None, "largest gradient of a chain, in its norm", gt=0)

    def bind(self, energy: Energy, step_size: float) -> LangevinKernel:
        own = step_size if self.step_size is None else self.step_size
        return LangevinKernel(energy, own, self.metropolis, self.temperature, self.clip)

    def target(self, energy: Energy) -> Energy:
        return energy if self.temperature == 1 else lambda state: energy(state) / self.temperature
