"""Hamiltonian Monte Carlo: long moves along the energy's level sets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.config import option
from manykin.errors import InvalidInput
from manykin.mcmc.chains import ChainSampler
from manykin.mcmc.kernel import Energy
from manykin.mcmc.points import Point, PointKernel, look, require_positive


def leapfrog(energy: Energy, here: Point, momentum: Tensor, step_size: Tensor, count: int) -> tuple[Point, Tensor]:
    """``count`` leapfrog steps of ``x' = p, p' = -grad E``: half a kick, then drifts with whole kicks between them, and half a kick.

    Neal, MCMC using Hamiltonian dynamics, 2011, section 2.3, equations 2.28 to 2.30. It keeps volume and runs backwards when p is turned.
    """
    momentum = momentum - 0.5 * step_size * here.slope
    for index in range(count):
        here = look(energy, here.state + step_size * momentum)
        momentum = momentum - (1.0 if index + 1 < count else 0.5) * step_size * here.slope
    return here, momentum


@dataclass(frozen=True)
class HMCKernel(PointKernel):
    """Draw a momentum, follow ``leapfrog`` steps of the dynamics, accept with probability ``min(1, exp(H - H'))``, H = E(x) + |p|^2 / 2.

    Neal, MCMC using Hamiltonian dynamics, 2011, section 3.2. Exact for any step size; a step crosses about ``leapfrog * step_size`` of space where
    as many Langevin steps wander its root. Cost: ``leapfrog`` energies and gradients a step, and one where a run begins.

    Args:
        energy: of the target.
        step_size: of the leapfrog, in units of the state.
        leapfrog: leapfrog steps a move, at least 1; 1 is Langevin's proposal.
        jitter: the step size of each chain and move is drawn evenly within so large a share of it, so that no orbit closes (section 4.2).

    Raises:
        InvalidInput: for a step size that is not positive and finite, no leapfrog steps, or a jitter outside [0, 1).
    """

    energy: Energy
    step_size: float
    leapfrog: int = 5
    jitter: float = 0.1

    def __post_init__(self) -> None:
        require_positive("HMC", {"step_size": self.step_size})
        if self.leapfrog < 1 or not 0 <= self.jitter < 1:
            raise InvalidInput(f"HMC was given leapfrog = {self.leapfrog} and jitter = {self.jitter:g}; expected leapfrog ≥ 1 and 0 ≤ jitter < 1.")

    def advance(self, here: Point) -> tuple[Point, Tensor]:
        momentum, wide = torch.randn_like(here.state), (-1, *[1] * (here.state.dim() - 1))
        spread = 1 + self.jitter * (2 * torch.rand(len(here.state), dtype=here.state.dtype, device=here.state.device) - 1)
        there, after = leapfrog(self.energy, here, momentum, self.step_size * spread.view(wide), self.leapfrog)
        kinetic = 0.5 * (momentum.square() - after.square()).flatten(1).sum(dim=1)
        taken = torch.rand_like(kinetic).log() < here.energy - there.energy + kinetic
        return there.or_else(here, taken), taken.to(here.state.dtype)


@dataclass(frozen=True)
class HMC(ChainSampler):
    """Hamiltonian Monte Carlo (:class:`HMCKernel`)."""

    steps: int = option(40, "moves of each chain", ge=1)
    leap_every: int = option(2, "moves between proposals of a fresh draw of the reference, accepted by Metropolis' rule; 0: none", ge=0)
    leapfrog: int = option(5, "leapfrog steps a move", ge=1)
    jitter: float = option(0.1, "share by which the step size of each move varies", ge=0, lt=1)

    def bind(self, energy: Energy, step_size: float) -> HMCKernel:
        return HMCKernel(energy, step_size if self.step_size is None else self.step_size, self.leapfrog, self.jitter)
