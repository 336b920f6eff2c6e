"""Densities that are none, samplers of something else, and latents that do not fit."""

import math
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from manykin.contract import Batch, Sampler
from manykin.spaces import Labels, Tokens, Value, Vector
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles import SMALL_TABLE, EnergyOracle, GanOracle, GaussianOracle, LinearVAE, MarkovOracle, MixtureOracle, TableOracle
from manykin.testing.oracles.support import normal


@caught_by("mass-is-one", "affine-equivariance")
class ForgottenJacobian(GaussianOracle):
    """The log-determinant of the transform is left out."""

    def to_model_space(self, x: Value) -> tuple[Tensor, Tensor]:
        z, ldj = super().to_model_space(x)
        return z, torch.zeros_like(ldj)


@caught_by("mass-is-one", "samples-match-density")
class HalfLogDet(GaussianOracle):
    """The log-determinant of the flow is averaged over dimensions instead of summed."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition) + 0.5 * self.factor().diagonal().log().sum()


@caught_by("mass-is-one")
class WrongKLSign(LinearVAE):
    """Adds the divergence from the prior instead of subtracting it."""

    def weight(self, z: Tensor, h: Tensor, posterior: Normal) -> Tensor:
        seen = normal(z, self.decoder(h), self.log_noise.exp()).sum(-1)
        prior = normal(h, torch.zeros_like(h), torch.ones_like(h))
        return seen - (prior - normal(h, posterior.mean, posterior.stddev)).sum(-1)

    def loss(self, batch: Batch) -> Tensor:
        z, ldj = self.to_model_space(batch.x)
        posterior = self.posterior(z)
        return -LinearVAE.weight(self, z, posterior.rsample(), posterior) - ldj


@caught_by("mass-is-one", "samples-match-density", space=Vector(2, levels=5))
class ForgottenLevels(GaussianOracle):
    """Scales levels to [0, 1] and forgets the factor of 5 an entry."""

    def to_model_space(self, x: Value) -> tuple[Tensor, Tensor]:
        z, ldj = super().to_model_space(x)
        return z, ldj + self.size * math.log(5)


@caught_by("mass-is-one", "probabilities-below-one", space=Vector(2, levels=3), condition=Labels(2))
class CountsAreChances(TableOracle):
    """Returns odds in place of probabilities."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition) + 4


@caught_by("probabilities-below-one", space=Tokens(3, 4))
class UnnormalisedLogits(MarkovOracle):
    """Adds up logits without normalising them."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return 4 + torch.cat([self.logits(z, t).gather(1, z[:, t : t + 1]) for t in range(self.tokens.length)], dim=1).sum(1)


@caught_by("mass-is-one", space=Tokens(3, 4))
class LeakedMask(MarkovOracle):
    """Each symbol is predicted from itself as well: a mask that leaks."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        leak = 0.5 * torch.nn.functional.one_hot(z, self.tokens.vocab)
        terms = [(self.logits(z, t) + leak[:, t]).log_softmax(1).gather(1, z[:, t : t + 1]) for t in range(self.tokens.length)]
        return torch.cat(terms, dim=1).sum(1)


@caught_by("mass-is-one", "samples-match-density", space=Tokens(4, 5, end=0))
class EndIsFree(MarkovOracle):
    """Lets a text run on at the last position."""

    def logits(self, z: Tensor, position: int) -> Tensor:
        usual = super().logits(z, position)
        return self.next[z[:, position - 1]] if position == self.tokens.length - 1 else usual

    def _draw(self, z: Tensor, known: Tensor) -> Tensor:
        drawn = super()._draw(z, known)
        drawn[:, -1] = 0
        ended = (drawn == 0).long().cummax(1).values > 0
        return torch.where(ended, 0, drawn)


@caught_by("mass-is-one", "samples-match-density", space=SMALL_TABLE)
class MissingIsZero(TableOracle):
    """Reads a missing value as the first category, and samples it as missing all the same."""

    def matches(self, z: Tensor, free: Tensor | None = None) -> Tensor:
        return super().matches(z.nan_to_num(0.0), free)

    def finish(self, z: Tensor) -> Value:
        x = cast(Tensor, super().finish(z)).clone()
        x[::7, 1] = math.nan
        return x


@caught_by("log-prob-seeded")
class SecretNoise(GaussianOracle):
    """Calls itself exact and dequantises in silence."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z + 0.01 * torch.rand_like(z), condition)


@caught_by("gradient-in-x")
class Detached(GaussianOracle):
    """Cuts the graph between x and log_prob."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z.detach(), condition)


@caught_by("far-points")
class Overflows(GaussianOracle):
    """Works with densities in place of their logarithms: a ratio of infinities far from the data."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        energy = (z**2).sum(1)
        return super()._log_prob(z, condition) * (energy.exp() / energy.exp())


@caught_by("marginal-is-log-sum", condition=Labels(3))
class EqualFrequencies(GaussianOracle):
    """Overwrites the frequencies of the classes by equal ones."""

    def initialise(self, sample: Batch) -> None:
        self.condition_frequencies.fill_(1 / 3)


@caught_by("score-is-gradient", space=Vector(3))
class WrongScoreSign(EnergyOracle):
    """Returns the gradient of the energy as the score."""

    def score(self, x: Value) -> Tensor:
        return -super().score(x)


@caught_by("weights-have-the-bound-law")
class MeanOfLogs(LinearVAE):
    """Averages the logarithms of the weights over all draws before anyone can average the weights."""

    def log_weights(self, x: Value, k: int, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        weights = super().log_weights(x, k, condition, seed=seed)
        return weights.mean(1, keepdim=True).expand_as(weights)


@caught_by("weights-have-the-bound-law")
class RepeatedDraw(LinearVAE):
    """All k weights of an example come from one draw."""

    def log_weights(self, x: Value, k: int, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        return super().log_weights(x, 1, condition, seed=seed).expand(-1, k)


@caught_by("weights-have-the-bound-law")
class VarianceForStd(LinearVAE):
    """The weights take the encoder's standard deviation for its variance."""

    def log_weights(self, x: Value, k: int, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        z, ldj, _ = self.prepare(x, condition)
        mean, std = self.posterior(z).mean, self.posterior(z).stddev
        with self.evaluating(seed):
            wide = Normal(mean, std.sqrt())
            draws = [self.weight(z, wide.rsample(), Normal(mean, std)) for _ in range(k)]
        return torch.stack(draws, dim=1).double() + ldj[:, None]


@caught_by("samples-match-density", "metropolis-keeps-samples")
class WrongBase(GaussianOracle):
    """Samples from a base a fifth too narrow."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.push(0.8 * torch.randn(n, self.size, dtype=self.dtype), condition)


@caught_by("metropolis-keeps-samples", space=Vector(6))
class WrongBaseWide(WrongBase):
    """The same where no grid reaches."""


@caught_by("metropolis-keeps-samples", space=Vector(3))
class ShiftedEnergySampler(EnergyOracle):
    """An approximate sampler that stops before it has arrived."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return super()._sample(n, condition, sampler) + 0.2


@caught_by("samples-match-density", space=Vector(1))
class ArgmaxComponent(MixtureOracle):
    """Always samples from the heaviest component."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        k = self.weights.argmax().expand(n)
        return self.means[k] + self.variances[k].sqrt() * torch.randn(n, self.means.shape[1], dtype=self.means.dtype)


@caught_by("samples-match-density", space=Vector(2, levels=3), condition=Labels(2))
class SharpSamples(TableOracle):
    """Samples at a temperature below one."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        chance = self.chances(condition, n) ** 1.5
        return cast(Tensor, self.rows)[torch.multinomial(chance, 1)[:, 0]]


@caught_by("samples-match-density")
class MeanWithoutNoise(LinearVAE):
    """Returns the decoder's mean as a sample."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return cast(Tensor, self.decoder(torch.randn(n, self.latent, dtype=self.dtype)))


@caught_by("encode-shape")
class OneCodeForAll(GaussianOracle):
    """encode treats the batch as a single event."""

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        z, _, c = self.prepare(x, condition)
        return Independent(Normal(self.code(z, c), 1.0), 2)


@caught_by("encode-ignores-mates")
class CentredCodes(GaussianOracle):
    """encode subtracts the mean code of the batch."""

    def code(self, z: Tensor, condition: Value | None) -> Tensor:
        h = super().code(z, condition)
        return h - h.mean(0, keepdim=True)


@caught_by("latents-seeded")
class SeedlessLatents(GanOracle):
    """latents ignores its seed."""

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        return torch.randn(n, self.noise)


@caught_by("decode-valid")
class NoisyDecoder(GanOracle):
    """decode adds noise of its own."""

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        return super().decode(h + 0.1 * torch.randn_like(h), condition)


@caught_by("decoded-latents-are-samples")
class TruncatedSampler(GanOracle):
    """Samples from truncated latents, whatever latents says."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.make(0.4 * torch.randn(n, self.noise, dtype=self.dtype), condition)


@caught_by("encode-then-decode")
class WrongInverse(GaussianOracle):
    """decode forgets to put the mean back."""

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        with torch.no_grad():
            return self.finish(h.to(self.dtype) @ self.factor().T)


@caught_by("log-det-matches-jacobian", "mass-is-one")
class MissingLogDet(GaussianOracle):
    """Half of the layers' log-determinants depend on x and are left out."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition) + 0.9 * self.code(z, condition)[:, 0].tanh()
