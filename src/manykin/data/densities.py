"""What a toy is, the quadrature behind it, and the toys of flat density: box, circle, noisy disc and checkerboard."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.random import generator

_CHUNK = 512
LOG_2PI = math.log(2 * math.pi)
"""log 2π."""


class Toy(ABC):
    """A density over the plane: exact ``log_prob``, a sampler, and its entropy."""

    name: str
    bounds: tuple[float, float, float, float]
    """x from, x to, y from, y to: a rectangle that holds all but 1e-12 of the mass."""

    @abstractmethod
    def _log_prob(self, x: Tensor) -> Tensor:
        """Log density of rows (n, 2) in float64, shape (n,)."""

    @abstractmethod
    def _sample(self, n: int, source: torch.Generator) -> Tensor:
        """n draws, shape (n, 2), float64."""

    @cached_property
    @abstractmethod
    def entropy(self) -> float:
        """Differential entropy H = -E[log p(x)] in nats."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log density in nats, shape (n,), float64; -inf outside the support.

        Raises:
            InvalidInput: for anything but a tensor (n, 2).
        """
        if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != 2:
            raise InvalidInput(f"x has shape {tuple(getattr(x, 'shape', ()))}; expected a tensor of shape (n, 2) for {self.name}.")
        return torch.cat([self._log_prob(part.double()) for part in torch.split(x, _CHUNK)]) if len(x) else x.new_zeros(0, dtype=torch.float64)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n independent draws, shape (n, 2), float64; the same for the same seed."""
        return self._sample(n, generator(seed, "toy", self.name))


def uniform(n: int, source: torch.Generator) -> Tensor:
    """n numbers of [0, 1), float64."""
    return torch.rand(n, generator=source, dtype=torch.float64)


def normal(n: int, source: torch.Generator) -> Tensor:
    """Standard normal points of the plane, shape (n, 2), float64."""
    return torch.randn(n, 2, generator=source, dtype=torch.float64)


def legendre(low: float, high: float, count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on [low, high]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    half = (high - low) / 2
    return torch.from_numpy(nodes) * half + (low + high) / 2, torch.from_numpy(weights) * half


def grid_entropy(log_prob: Callable[[Tensor], Tensor], bounds: tuple[float, float, float, float], step: float) -> float:
    """-∫ p log p by the trapezoidal rule, which converges exponentially for a smooth density that vanishes at the bounds."""
    x0, x1, y0, y1 = bounds
    xs, ys = torch.arange(x0, x1 + step, step, dtype=torch.float64), torch.arange(y0, y1 + step, step, dtype=torch.float64)
    total = 0.0
    for column in xs:
        log_p = log_prob(torch.stack([column.expand(len(ys)), ys], dim=1))
        total -= float((log_p.exp() * log_p).sum())
    return total * step * step


def _flat(inside: Tensor, value: float) -> Tensor:
    return torch.full(inside.shape, value, dtype=torch.float64, device=inside.device).masked_fill(~inside, -math.inf)


class Box(Toy):
    """Uniform on [-2, 2] x [-1, 1]: H = ln 8."""

    name = "box"
    bounds = (-2.0, 2.0, -1.0, 1.0)

    def _log_prob(self, x: Tensor) -> Tensor:
        inside = (x[:, 0].abs() <= 2) & (x[:, 1].abs() <= 1)
        return _flat(inside, -math.log(8))

    def _sample(self, n: int, source: torch.Generator) -> Tensor:
        return torch.stack([4 * uniform(n, source) - 2, 2 * uniform(n, source) - 1], dim=1)

    @cached_property
    def entropy(self) -> float:
        return math.log(8)


class Circle(Toy):
    """Uniform inside the circle of radius 2: H = ln 4π."""

    name = "circle"
    bounds = (-2.0, 2.0, -2.0, 2.0)
    radius = 2.0

    def _log_prob(self, x: Tensor) -> Tensor:
        inside = (x * x).sum(dim=1) <= self.radius**2 * (1 + 1e-12)
        return _flat(inside, -math.log(math.pi * self.radius**2))

    def _sample(self, n: int, source: torch.Generator) -> Tensor:
        radius, angle = self.radius * uniform(n, source).sqrt(), 2 * math.pi * uniform(n, source)
        return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)

    @cached_property
    def entropy(self) -> float:
        return math.log(math.pi * self.radius**2)


class NoisyDisc(Circle):
    """The uniform circle of radius R = 2 plus Gaussian noise of σ = 0.25 in both directions.

    With r = |x| and the disc cut into chords, p(x) = 1/(πR²) ∫ N(u; r, σ²) erf(√(R² - u²) / (σ √2)) du over [-R, R]; u = R sin θ makes the
    integrand smooth at the ends.
    """

    name = "noisy-disc"
    bounds = (-4.0, 4.0, -4.0, 4.0)
    sigma = 0.25

    @cached_property
    def _rule(self) -> tuple[Tensor, Tensor]:
        theta, weights = legendre(-math.pi / 2, math.pi / 2, 256)
        chord = torch.log(torch.erf(self.radius * theta.cos() / (self.sigma * math.sqrt(2))))
        constant = math.log(math.pi * self.radius**2) + math.log(self.sigma) + LOG_2PI / 2
        return self.radius * theta.sin(), weights.log() + (self.radius * theta.cos()).log() + chord - constant

    def _log_prob(self, x: Tensor) -> Tensor:
        u, weights = self._rule
        r = (x * x).sum(dim=1).clamp_min(1e-300).sqrt()
        return torch.logsumexp(weights - ((u - r[:, None]) / self.sigma) ** 2 / 2, dim=1)

    def _sample(self, n: int, source: torch.Generator) -> Tensor:
        return super()._sample(n, source) + self.sigma * normal(n, source)

    @cached_property
    def entropy(self) -> float:
        radius, weights = legendre(0.0, self.radius + 9 * self.sigma, 512)
        log_p = self.log_prob(torch.stack([radius, torch.zeros_like(radius)], dim=1))
        return float(-(weights * 2 * math.pi * radius * log_p.exp() * log_p).sum())


class Checkerboard(Toy):
    """Uniform on the 8 squares of area 4 of [-4, 4]² whose row and column numbers add up to an even number: H = ln 32."""

    name = "checkerboard"
    bounds = (-4.0, 4.0, -4.0, 4.0)

    def _log_prob(self, x: Tensor) -> Tensor:
        cell = (x / 2).floor()
        inside = (cell >= -2).all(dim=1) & (cell <= 1).all(dim=1) & (cell.sum(dim=1) % 2 == 0)
        return _flat(inside, -math.log(32))

    def _sample(self, n: int, source: torch.Generator) -> Tensor:
        row, half = torch.randint(0, 4, (n,), generator=source), torch.randint(0, 2, (n,), generator=source)
        cell = torch.stack([2 * half + row % 2, row], dim=1).double()
        offset = torch.rand(n, 2, generator=source, dtype=torch.float64)
        return 2 * (cell - 2 + offset)

    @cached_property
    def entropy(self) -> float:
        return math.log(32)
