"""Chains that follow the gradient of their energy: where they stand, and the loop that all their kernels share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.mcmc.kernel import Energy, Move


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


class PointKernel(ABC):
    """Base of the kernels that go from point to point, and so look but once at where a step has led."""

    energy: Energy
    step_size: float

    @abstractmethod
    def advance(self, here: Point) -> tuple[Point, Tensor]:
        """One step from points to points, and the share of each chain's proposals that was accepted (n,)."""

    def step(self, state: Tensor) -> Move:
        """One step of each chain, which looks at where it begins too; many steps by :meth:`run` look there once."""
        return self.run(state, 1)

    @torch.no_grad()
    def run(self, state: Tensor, count: int) -> Move:
        """The states after ``count`` steps, with each chain's mean acceptance.

        Raises:
            InvalidInput: for less than one step.
        """
        here, accepted = self.onward(look(self.energy, state), count)
        return Move(here.state, accepted)

    @torch.no_grad()
    def onward(self, here: Point, count: int) -> tuple[Point, Tensor]:
        """The points after ``count`` steps from these, with each chain's mean acceptance (n,).

        Raises:
            InvalidInput: for less than one step.
        """
        if count < 1:
            raise InvalidInput(f"{count} steps of a Markov chain are not possible; expected at least 1.")
        accepted = torch.zeros(len(here.state), dtype=here.state.dtype, device=here.state.device)
        for _ in range(count):
            here, share = self.advance(here)
            accepted += share
        return here, accepted / count


def require_positive(kernel: str, values: Mapping[str, float]) -> None:
    """Refuse options of a kernel that are not finite numbers above 0.

    Raises:
        InvalidInput: with the first one's name and value.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InvalidInput(f"{name} = {value!r} is not possible for {kernel}; expected a finite number above 0.")
