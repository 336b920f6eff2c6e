"""Leaps: proposals that do not depend on where a chain is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.mcmc.kernel import Energy, Move
from manykin.mcmc.points import Point, look


def half_square(state: Tensor) -> Tensor:
    """The energy of the standard normal, |x|^2 / 2: (n, ...) to (n,)."""
    return 0.5 * state.flatten(1).square().sum(dim=1)


@dataclass(frozen=True)
class IndependenceKernel:
    """Propose y ~ q whatever the state, and accept with probability ``min(1, p(y) q(x) / (p(x) q(y)))``.

    Tierney, Markov chains for exploring posterior distributions, 1994, section 2.3.3. Exact. It joins modes that local steps cannot cross, as often
    as q hits what p wants: with w the largest p / q, the distance to the target falls at least like (1 - 1 / w)^k (Mengersen and Tweedie, Rates of
    convergence of the Hastings and Metropolis algorithms, 1996, theorem 2.1), so it is of use in few dimensions. Cost: two energies a step; a leap
    from a point, whose energy is known, one energy with its gradient.

    Args:
        energy: of the target ``exp(-E / T)``.
        propose: draws like the states (n, ...); standard normal by default.
        proposal_energy: minus the log density of the draws up to a constant.
        temperature: T.
    """

    energy: Energy
    propose: Callable[[Tensor], Tensor] = torch.randn_like
    proposal_energy: Energy = half_square
    temperature: float = 1.0

    @torch.no_grad()
    def step(self, state: Tensor) -> Move:
        """One proposal for each chain."""
        state, proposed = state.detach(), self.propose(state)
        taken = self._taken(state, self.energy(state), proposed, self.energy(proposed))
        return Move(torch.where(taken.view(-1, *[1] * (state.dim() - 1)), proposed, state), taken.to(state.dtype))

    @torch.no_grad()
    def leap(self, here: Point) -> Point:
        """The same from points, which know their energy, to points."""
        there = look(self.energy, self.propose(here.state))
        return there.or_else(here, self._taken(here.state, here.energy, there.state, there.energy))

    def _taken(self, state: Tensor, energy: Tensor, proposed: Tensor, after: Tensor) -> Tensor:
        gain = (energy - after) / self.temperature + self.proposal_energy(proposed) - self.proposal_energy(state)
        return torch.rand_like(gain).log() < gain
