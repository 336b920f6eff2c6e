"""Densities of the wrong mass where no grid reaches, samples that are off in spread, bounds that are none, and samplers that learn nothing."""

import math
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Normal

from manykin.contract import Batch, Sampler
from manykin.spaces import Labels, Value, Vector
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles import SWITCHES, GanOracle, GaussianOracle, LinearVAE, LogisticVAE
from manykin.testing.oracles.support import normal


@caught_by("mass-by-bridge", space=Vector(5))
class TripleMass(GaussianOracle):
    """A factor of three too much in five dimensions."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition) + math.log(3)


@caught_by("mass-by-bridge", space=Vector(5))
class SlightlyTooMuch(GaussianOracle):
    """A twentieth too much mass in five dimensions."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition) + math.log(1.05)


@caught_by("dilations-balance")
class TooMuchVariance(GaussianOracle):
    """Samples with a tenth too much variance."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.push(math.sqrt(1.1) * torch.randn(n, self.size, dtype=self.dtype), condition)


@caught_by("dilations-balance", "mass-by-bridge", space=Vector(5))
class TooMuchVarianceWide(TooMuchVariance):
    """The same in five dimensions."""


@caught_by("mass-by-bridge")
class CheapDivergence(LinearVAE):
    """Counts nine tenths of the divergence from the prior, in the loss and in log_prob alike."""

    def weight(self, z: Tensor, h: Tensor, posterior: Normal) -> Tensor:
        seen = normal(z, self.decoder(h), self.log_noise.exp()).sum(-1)
        prior = normal(h, torch.zeros_like(h), torch.ones_like(h))
        return seen + 0.9 * (prior - normal(h, posterior.mean, posterior.stddev)).sum(-1)


@caught_by("loss-is-the-bound")
class CheapDivergenceInLoss(LinearVAE):
    """Counts nine tenths of the divergence from the prior in the loss only."""

    def loss(self, batch: Batch) -> Tensor:
        z, ldj = self.to_model_space(batch.x)
        posterior = self.posterior(z)
        return -CheapDivergence.weight(cast(CheapDivergence, self), z, posterior.rsample(), posterior) - ldj


@caught_by("mass-by-bridge")
class LooseBound(LinearVAE):
    """Five nats are missing from the bound."""

    def weight(self, z: Tensor, h: Tensor, posterior: Normal) -> Tensor:
        return super().weight(z, h, posterior) - 5


@caught_by("weights-add-up", space=SWITCHES)
class LooseFiniteBound(LogisticVAE):
    """A fifth of a nat is missing from the bound in a finite space."""

    def weight(self, z: Tensor, h: Tensor, posterior: Normal) -> Tensor:
        return super().weight(z, h, posterior) - 0.2


@caught_by("mass-by-bridge")
class WidePrior(LinearVAE):
    """Samples latents from a prior three tenths too wide."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        mean = self.decoder(1.3 * torch.randn(n, self.latent, dtype=self.dtype))
        return cast(Tensor, mean + self.log_noise.exp() * torch.randn_like(mean))


@caught_by("samples-approach-data")
class FlippedGenerator(GanOracle):
    """The generator helps the discriminator."""

    def generator_loss(self, batch: Batch) -> Tensor:
        return -super().generator_loss(batch)


@caught_by("samples-not-collapsed")
class CollapsedGenerator(GanOracle):
    """Samples from next to no noise."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.make(1e-3 * torch.randn(n, self.noise, dtype=self.dtype), condition)


@caught_by("samples-not-collapsed", condition=Labels(3))
class CollapsedClasses(CollapsedGenerator):
    """Samples one point a class."""
