"""The nouns of Markov chain Monte Carlo: an energy, a kernel, and the move that a kernel makes.

A target is an energy ``E(x)``, one number a chain, with density ``exp(-E(x)) / Z``; a tempered target is ``E(x, beta)`` for an inverse temperature
beta, so that a path of targets is one function. A kernel is bound to its target when it is made, holds options only, and steps a whole batch of
chains (n, ...) at once. Draws come from the global generator: callers seed.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from manykin.errors import InvalidInput

Energy = Callable[[Tensor], Tensor]
"""States (n, ...) to energies (n,): minus the log density up to a constant."""

TemperedEnergy = Callable[[Tensor, float], Tensor]
"""States (n, ...) and an inverse temperature to energies (n,)."""


class Move(NamedTuple):
    """What a step did: the new states (n, ...), and for each chain the share of its proposals that was accepted (n,), 1 where none is refused."""

    state: Tensor
    accepted: Tensor


class Kernel(Protocol):
    """A transition that leaves its target invariant, exactly or, where its class says so, up to the error of a step size."""

    def step(self, state: Tensor) -> Move:
        """Move every chain once; ``state`` (n, ...) is not changed in place and carries no gradients out."""
        ...


def steps(kernel: Kernel, state: Tensor, count: int) -> Iterator[Move]:
    """The moves of ``count`` steps, one after the other.

    Raises:
        InvalidInput: for less than one step.
    """
    if count < 1:
        raise InvalidInput(f"{count} steps of a Markov chain are not possible; expected at least 1.")
    for _ in range(count):
        move = kernel.step(state)
        state = move.state
        yield move


def run(kernel: Kernel, state: Tensor, count: int) -> Move:
    """The states after ``count`` steps, with each chain's mean acceptance; nothing else is kept."""
    accepted: Tensor | None = None
    for move in steps(kernel, state, count):
        state = move.state
        accepted = move.accepted if accepted is None else accepted + move.accepted
    assert accepted is not None
    return Move(state, accepted / count)


def trace(kernel: Kernel, state: Tensor, draws: int, *, thin: int = 1, warm_up: int = 0, observe: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """What chains go through: (draws, n, ...), every ``thin``-th state after ``warm_up`` steps, or ``observe`` of it where given."""
    if warm_up:
        state = run(kernel, state, warm_up).state
    kept = []
    for _ in range(draws):
        state = run(kernel, state, thin).state
        kept.append(state if observe is None else observe(state))
    return torch.stack(kept)
