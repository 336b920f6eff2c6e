"""Gibbs kernels: draw a part of the state from its own distribution given the rest."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.mcmc.kernel import Energy, Move


@dataclass(frozen=True)
class BlockGibbs:
    """Draw all hidden entries given the visible ones, then all visible ones given the hidden: (v, h) -> (v', h') with v' alone as the state.

    Each half leaves the joint law unchanged, hence the whole leaves the marginal of v unchanged (Geman and Geman, Stochastic relaxation, Gibbs
    distributions and the Bayesian restoration of images, 1984). Where visible entries are independent given the hidden ones, as in a restricted
    Boltzmann machine, those under ``known`` may be held: the law is then the conditional one given them.

    Attributes:
        hidden: a draw of h given v.
        visible: a draw of v given h.
        known: which entries of the state stay as they are, boolean and of the state's shape; None for none.
    """

    hidden: Callable[[Tensor], Tensor]
    visible: Callable[[Tensor], Tensor]
    known: Tensor | None = None

    @torch.no_grad()
    def step(self, state: Tensor) -> Move:
        """One draw of both blocks; nothing is ever refused."""
        drawn = self.visible(self.hidden(state))
        if self.known is not None:
            drawn = torch.where(self.known, state, drawn)
        return Move(drawn, state.new_ones(len(state)))


@dataclass(frozen=True)
class SiteGibbs:
    """Draw one entry after the other, in order, from its distribution given all others: for entries with few values and any energy.

    Entry i becomes the value w with probability proportional to ``exp(-E(x with x_i = w))``. Cost: entries times values energies a step.

    Attributes:
        energy: states (n, d) to energies (n,).
        values: what an entry can be, shape (k,).

    Raises:
        InvalidInput: for less than two values.
    """

    energy: Energy
    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dim() != 1 or len(self.values) < 2:
            raise InvalidInput(f"values has shape {tuple(self.values.shape)}; expected at least two values in one row.")

    @torch.no_grad()
    def step(self, state: Tensor) -> Move:
        """One sweep over all entries."""
        state = state.clone()
        for site in range(state.shape[1]):
            scores = []
            for value in self.values:
                state[:, site] = value
                scores.append(-self.energy(state))
            chances = torch.softmax(torch.stack(scores, dim=1), dim=1)
            state[:, site] = self.values[torch.multinomial(chances, 1)[:, 0]].to(state.dtype)
        return Move(state, state.new_ones(len(state)))
