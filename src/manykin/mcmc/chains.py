"""Chains as exchangeable samplers: where they begin, how long they run, and by which kernel."""

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from manykin.config import option
from manykin.contract import Sampler
from manykin.errors import ManykinWarning, Runaway
from manykin.mcmc.diagnostics import diverged
from manykin.mcmc.independence import IndependenceKernel
from manykin.mcmc.kernel import Energy, Move
from manykin.mcmc.points import PointKernel, look
from manykin.spaces import Value

FAR = 1e3
"""Standard deviations of the reference beyond which a chain counts as diverged."""
STUCK = 0.01
"""Share of accepted proposals below which chains count as stuck."""


@dataclass(frozen=True)
class ChainSampler(Sampler):
    """Base of the samplers that run a Markov chain a sample, in units in which a standard normal is the rough shape of the target."""

    steps: int = option(200, "steps of each chain", ge=1)
    step_size: float | None = option(None, "length of a step, the standard deviation of the reference being 1; none: what training settled on", gt=0)
    leap_every: int = option(5, "steps between proposals of a fresh draw of the reference, accepted by Metropolis' rule; 0: none", ge=0)
    chains: Literal["fresh", "buffer"] = option("fresh", "where chains begin: at fresh draws of the reference, or where those of training stand")

    @abstractmethod
    def bind(self, energy: Energy, step_size: float) -> PointKernel:
        """The kernel of these options for a target; ``step_size`` is the model's own, used where this value has none."""

    def leap(self, energy: Energy) -> IndependenceKernel:
        """The proposals of fresh draws of the reference, for the same target as the kernel's."""
        return IndependenceKernel(energy)

    def walk(self, energy: Energy, state: Tensor, step_size: float) -> Move:
        """Chains (n, ...) after all steps and leaps, and each one's mean acceptance by the kernel.

        Raises:
            Runaway: where a chain left all bounds, with the step size.
        """
        moved = walk(self.bind(energy, step_size), self.leap(energy), state, self.steps, self.leap_every)
        own = step_size if self.step_size is None else self.step_size
        refuse_runaways(moved.state, f"{type(self).__name__} and step_size = {own:g}")
        if float(moved.accepted.mean()) < STUCK:
            warnings.warn(
                f"{type(self).__name__} with step_size = {own:g} accepted {float(moved.accepted.mean()):.2%} of its proposals, so the samples are "
                "about where their chains began; lower step_size.", ManykinWarning, stacklevel=2,
            )  # fmt: skip
        return moved


def refuse_runaways(state: Tensor, cause: str) -> None:
    """Raise where chains (n, ...) left all bounds.

    Raises:
        Runaway: naming how many, and the kernel and step size given as ``cause``.
    """
    lost = int(diverged(state, FAR).sum())
    if lost:
        raise Runaway(f"{lost} of {len(state)} chains diverged with {cause}; lower step_size, or leave metropolis on.")


@torch.no_grad()
def walk(kernel: PointKernel, leap: IndependenceKernel, state: Tensor, steps: int, leap_every: int) -> Move:
    """``steps`` steps of a kernel with a leap before every ``leap_every``-th of them (0: none): all leave the same target invariant.

    Cost: an energy with its gradient for the beginning, for each leap, and for each step as often as the kernel says.
    """
    here, done = look(kernel.energy, state), 0
    accepted = torch.zeros(len(state), dtype=state.dtype, device=state.device)
    while done < steps:
        count = min(leap_every, steps - done) if leap_every else steps
        here, share = kernel.onward(leap.leap(here) if leap_every else here, count)
        accepted, done = accepted + count * share, done + count
    return Move(here.state, accepted / steps)


@runtime_checkable
class RunsChains(Protocol):
    """A model that learns from Markov chains over its energy."""

    chains: Tensor

    def negatives(self, n: int, condition: Value | None = None) -> tuple[Tensor, Value | None]:
        """The ends of n chains in model space with their conditions: those asked for, or some of the model's own choice.

        In training mode ``chains``, the replay buffer, goes on from there.
        """
        ...

    def potential(self, condition: Value | None) -> Energy:
        """The energy whose density chains (n, d) follow, where a standard normal is the rough shape."""
        ...
