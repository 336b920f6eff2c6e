"""Flows gone wrong: log-determinants, masks, starts, and splines."""

from typing import Any

import torch
from torch import Tensor, nn

from manykin.contract import Batch
from manykin.spaces import Image, Value, Vector
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles import GaussianOracle


@caught_by("whole-jacobian-adds-up")
class LogDetSign(GaussianOracle):
    """The log-determinant is added where it should be subtracted."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition) + 2 * self.factor().diagonal().log().sum()


@caught_by("whole-jacobian-adds-up", space=Vector(3))
class LogDetOfOneEntry(GaussianOracle):
    """The log-determinant is not summed over the entries: only the first counts."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition) + self.factor().diagonal()[1:].log().sum()


@caught_by("whole-jacobian-adds-up", space=Image((1, 2, 2), levels=4))
class LogDetSignOfLevels(LogDetSign):
    """The log-determinant is added where it should be subtracted, of pictures with levels."""


class BentOracle(GaussianOracle):
    """A sound flow: the Gaussian oracle behind a spline of two straight pieces on [-2, 2], the identity outside."""

    knot = (0.0, 0.5)

    def bend(self, t: Tensor) -> Tensor:
        """The spline."""
        return torch.where(t.abs() >= 2, t, self.pieces(t, self.knot[0], self.knot[1], self.knot[0]))

    def unbend(self, v: Tensor) -> Tensor:
        """Its inverse."""
        return torch.where(v.abs() >= 2, v, self.pieces(v, self.knot[1], self.knot[0], self.knot[1]))

    def pieces(self, t: Tensor, at: float, to: float, split: float) -> Tensor:
        """The line from (-2, -2) to (at, to) left of ``split``, that from (at, to) to (2, 2) right of it."""
        return torch.where(t < split, -2 + (t + 2) * ((to + 2) / (at + 2)), to + (t - at) * ((2 - to) / (2 - at)))

    def slopes(self, t: Tensor) -> Tensor:
        """The logarithm of the spline's slope."""
        (at, to), one = self.knot, torch.ones_like(t)
        inner = torch.where(t < at, one * ((to + 2) / (at + 2)), one * ((2 - to) / (2 - at)))
        return torch.where(t.abs() >= 2, 0.0, inner.log())

    def code(self, z: Tensor, condition: Value | None) -> Tensor:
        return self.bend(super().code(z, condition))

    def push(self, h: Tensor, condition: Value | None) -> Tensor:
        return super().push(self.unbend(h), condition)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition) + self.slopes(GaussianOracle.code(self, z, condition)).sum(1)


@caught_by("encode-then-decode", "samples-match-density")
class WrongBin(BentOracle):
    """The inverse of a spline looks for its bin among the knots of the other side."""

    def unbend(self, v: Tensor) -> Tensor:
        return torch.where(v.abs() >= 2, v, self.pieces(v, self.knot[1], self.knot[0], self.knot[0] - 0.5))


@caught_by("inverse-far-out")
class TailsAreCut(BentOracle):
    """Beyond its interval a spline is not the identity: everything is brought to its ends."""

    def bend(self, t: Tensor) -> Tensor:
        return super().bend(t.clamp(-2, 2))


@caught_by("inverse-far-out", space=Vector(2, levels=9))
class TailsOfLevelsAreCut(TailsAreCut):
    """Beyond its interval a spline is not the identity: the lowest and highest levels are brought to its ends."""

    def bend(self, t: Tensor) -> Tensor:
        return super().bend(t.clamp(-1, 1))


@caught_by("starts-once", space=Image((1, 2, 2), levels=4))
class LevelsStartAgain(GaussianOracle):
    """Its data-dependent start happens whenever it is asked for, of pictures with levels."""

    def initialise(self, sample: Batch) -> None:
        self.mean.data.copy_(self.to_model_space(sample.x)[0].mean(0, keepdim=True))


@caught_by("starts-once")
class StartsAgain(GaussianOracle):
    """Its data-dependent start happens whenever it is asked for."""

    def initialise(self, sample: Batch) -> None:
        self.mean.data.copy_(self.to_model_space(sample.x)[0].mean(0, keepdim=True))


@caught_by("columns-are-treated-alike")
class OneMask(GaussianOracle):
    """Every coupling moves the same half of the entries: the alternate mask is missing."""

    def __init__(self, config: Any, space: Any, condition: Any = None) -> None:
        super().__init__(config, space, condition)
        self.curve = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z[:, :1], z[:, 1:]

    def code(self, z: Tensor, condition: Value | None) -> Tensor:
        a, b = self._split(z)
        return super().code(torch.cat([a, b - self.curve(a)], dim=1), condition)

    def push(self, h: Tensor, condition: Value | None) -> Tensor:
        a, b = self._split(super().push(h, condition))
        return torch.cat([a, b + self.curve(a)], dim=1)
