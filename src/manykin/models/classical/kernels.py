"""Radial kernels K(|u|) in d dimensions: density, draws, and what remains of them when some coordinates are known."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Beta


class Kernel(ABC):
    """A density of u in R^d that depends on t = |u|^2 only. Scikit-learn's kernels of the same names."""

    @abstractmethod
    def log_density(self, t: Tensor, d: int) -> Tensor:
        """log K as a function of t, normalised over R^d; -inf outside the support."""

    @abstractmethod
    def draw(self, n: int, d: int, like: Tensor) -> Tensor:
        """n draws of u, (n, d), of the dtype and device of ``like``."""

    @abstractmethod
    def log_marginal(self, t: Tensor, unknown: int) -> Tensor:
        """log of the integral over ``unknown`` coordinates where the others have square norm t, up to a constant."""

    @abstractmethod
    def radius(self, t: Tensor) -> Tensor:
        """The factor by which a draw in the unknown coordinates shrinks where the known ones have square norm t."""


class GaussianKernel(Kernel):
    """K = (2 pi)^(-d/2) exp(-t / 2)."""

    def log_density(self, t: Tensor, d: int) -> Tensor:
        return -0.5 * t - 0.5 * d * math.log(2 * math.pi)

    def draw(self, n: int, d: int, like: Tensor) -> Tensor:
        return torch.randn(n, d, dtype=like.dtype, device=like.device)

    def log_marginal(self, t: Tensor, unknown: int) -> Tensor:
        return -0.5 * t

    def radius(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class BallKernel(Kernel):
    """K proportional to (1 - t)^power within the unit ball: tophat at power 0, Epanechnikov at power 1.

    t of a draw has the distribution Beta(d / 2, power + 1). Given known coordinates of square norm t, the unknown ones follow the same kernel in
    a ball of radius (1 - t)^(1/2), of total mass proportional to (1 - t)^(unknown / 2 + power).
    """

    def __init__(self, power: int) -> None:
        self.power = power

    def log_density(self, t: Tensor, d: int) -> Tensor:
        log_volume = 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1)
        log_norm = self.power * math.log(d / 2 + 1) - log_volume
        inside = t < 1
        return torch.where(inside, log_norm + self.power * torch.log1p(-torch.where(inside, t, 0.0)), float("-inf"))

    def draw(self, n: int, d: int, like: Tensor) -> Tensor:
        direction = torch.nn.functional.normalize(torch.randn(n, d, dtype=like.dtype, device=like.device), dim=1)
        ends = torch.tensor([d / 2, self.power + 1.0], dtype=like.dtype, device=like.device)
        return direction * Beta(ends[0], ends[1]).sample((n, 1)).sqrt()

    def log_marginal(self, t: Tensor, unknown: int) -> Tensor:
        inside = t < 1
        return torch.where(inside, (unknown / 2 + self.power) * torch.log1p(-torch.where(inside, t, 0.0)), float("-inf"))

    def radius(self, t: Tensor) -> Tensor:
        return (1 - t).clamp_min(0).sqrt()


KERNELS: dict[str, Kernel] = {"gaussian": GaussianKernel(), "tophat": BallKernel(0), "epanechnikov": BallKernel(1)}
