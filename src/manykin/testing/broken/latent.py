"""Autoencoders and variational bounds gone wrong."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from manykin.models.latents import Point
from manykin.random import fresh_seed, seeded
from manykin.spaces import Value, Vector
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles import CodingOracle, LinearVAE
from manykin.testing.oracles.support import normal


@caught_by("codes-carry-the-data", space=Vector(4))
class FlippedCodes(CodingOracle):
    """encode gives the codes with the wrong sign."""

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        return Point(-super().encode(x, condition).mean)


@caught_by("codes-carry-the-data", space=Vector(4))
class NoCodes(CodingOracle):
    """decode looks at nothing but the mean code."""

    def back(self, h: Tensor) -> Tensor:
        return super().back(h.mean(dim=0, keepdim=True).expand_as(h))


@caught_by("latents-are-like-codes", space=Vector(4))
class StandardPrior(CodingOracle):
    """Draws latents from a standard normal, which codes with a penalty, or without, do not follow."""

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        with seeded(fresh_seed() if seed is None else seed):
            return 0.3 * torch.randn(n, self.latent, dtype=torch.float64)


@caught_by("decoded-latents-are-samples", space=Vector(4))
class OtherPrior(CodingOracle):
    """Samples from a wider density of codes than latents does."""

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        return 0.5 * super().latents(n, seed)


@caught_by("linear-codes-are-principal", space=Vector(4))
class SmallestComponents(CodingOracle):
    """Takes eigenvalues in ascending order, and keeps the smallest."""

    def choose(self, values: Tensor) -> Tensor:
        return torch.arange(self.latent)


@caught_by("weights-meet-the-closed-form")
class SquaredError(LinearVAE):
    """Takes the squared error for the log-likelihood, without the variance of the noise."""

    def weight(self, z: Tensor, h: Tensor, posterior: Normal) -> Tensor:
        seen: Tensor = -(z - self.decoder(h)).square().sum(-1)
        prior = normal(h, torch.zeros_like(h), torch.ones_like(h))
        return seen + (prior - normal(h, posterior.mean, posterior.stddev)).sum(-1)
