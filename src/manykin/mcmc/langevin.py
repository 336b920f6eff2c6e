"""Langevin dynamics: steps down the energy with noise of the matching size, with and without Metropolis' correction."""

from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.config import option
from manykin.mcmc.chains import ChainSampler
from manykin.mcmc.independence import IndependenceKernel
from manykin.mcmc.kernel import Energy
from manykin.mcmc.points import Point, PointKernel, look, require_positive

BEST_LANGEVIN = 0.574
"""The acceptance at which many-dimensional chains move fastest (Roberts and Rosenthal, Optimal scaling of discrete approximations to Langevin
diffusions, 1998, theorem 2)."""


def adapted(step_size: Tensor, accepted: Tensor, target: float, rate: float) -> Tensor:
    """The step size after a look at the acceptance: ``step * exp(rate * (accepted - target))``.

    Robbins and Monro's stochastic approximation in the logarithm (Andrieu and Thoms, A tutorial on adaptive MCMC, 2008, section 4.2). Chains are
    invariant only where the size has settled: adapt while training, not while sampling.
    """
    return step_size * torch.exp(rate * (accepted.mean().to(step_size.dtype) - target))


@dataclass(frozen=True)
class LangevinKernel(PointKernel):
    r"""``x' = x - eps^2 / 2 * grad E(x) + eps sqrt(T) xi`` with xi standard normal, for the target ``exp(-E / T)``.

    With ``metropolis`` the step is a proposal that is accepted with probability ``min(1, p(x') q(x | x') / (p(x) q(x' | x)))``: exact for any step
    size (Roberts and Tweedie, Exponential convergence of Langevin distributions and their discrete approximations, 1996, section 1.4.2, MALA).
    Without, every step is taken and the law is wrong by the order of eps^2: a unit normal gets the variance ``1 / (1 - eps^2 / 4)``, and chains
    diverge where eps^2 times the largest curvature exceeds 4. Cost: one energy and gradient a step, and one where a run begins.

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
        values = {"step_size": self.step_size, "temperature": self.temperature}
        require_positive("Langevin chains", values | ({} if self.clip is None else {"clip": self.clip}))

    def _drift(self, point: Point) -> Tensor:
        """Where a step from these points goes without its noise."""
        slope = point.slope
        if self.clip is not None:
            norms = slope.flatten(1).norm(dim=1).view(-1, *[1] * (slope.dim() - 1))
            slope = slope * (self.clip / norms.clamp_min(self.clip))
        return point.state - 0.5 * self.step_size**2 * slope

    def advance(self, here: Point) -> tuple[Point, Tensor]:
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

    def leap(self, energy: Energy) -> IndependenceKernel:
        return IndependenceKernel(energy, temperature=self.temperature)
