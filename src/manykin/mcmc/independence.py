"""Leaps: proposals that do not depend on where a chain is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.mcmc.kernel import Energy, Move


def half_square(state: Tensor) -> Tensor:
    """The energy of the standard normal, |x|^2 / 2: (n, ...) to (n,)."""
    return 0.5 * state.flatten(1).square().sum(dim=1)


@dataclass(frozen=True)
class IndependenceKernel:
    """Propose y ~ q whatever the state, and accept with probability ``min(1, p(y) q(x) / (p(x) q(y)))``.

    Tierney, Markov chains for exploring posterior distributions, 1994, section 2.3.3. Exact. It joins modes that local steps cannot cross, as often
    as q hits what p wants: with w the largest p / q, the distance to the target falls at least like (1 - 1 / w)^k (Mengersen and Tweedie, Rates of
    convergence of the Hastings and Metropolis algorithms, 1996, theorem 2.1), so it is of use in few dimensions. Cost: two energies a step.

    Args:
        energy: the target's.
        propose: draws like the states (n, ...); standard normal by default.
        proposal_energy: minus the log density of the draws up to a constant.
    """

    energy: Energy
    propose: Callable[[Tensor], Tensor] = torch.randn_like
    proposal_energy: Energy = half_square

    @torch.no_grad()
    def step(self, state: Tensor) -> Move:
        """One proposal for each chain."""
        state, proposed = state.detach(), self.propose(state)
        gain = self.energy(state) - self.energy(proposed) + self.proposal_energy(proposed) - self.proposal_energy(state)
        taken = torch.rand_like(gain).log() < gain
        return Move(torch.where(taken.view(-1, *[1] * (state.dim() - 1)), proposed, state), taken.to(state.dtype))
