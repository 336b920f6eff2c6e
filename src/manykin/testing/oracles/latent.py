"""Latent variables: a linear-Gaussian VAE, a mixture by EM, and a small adversarial pair."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from manykin.config import Config
from manykin.contract import EXACT, LOWER_BOUND, Batch, ClosedForm, Density, GenerativeModel, Gradient, Optim, Phase, Progress, Sampler, Support
from manykin.models.latents import Point
from manykin.random import fresh_seed, seeded
from manykin.spaces import Labels, Space, Table, Value, Vector
from manykin.testing.oracles.support import FAST, check_latents, normal


class LinearVAE(GenerativeModel):
    """z = W h + b + s e with Gaussian h and e: a VAE whose exact marginal is the Gaussian N(b, W W^T + s^2)."""

    latent = 1

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        size = self.model_space.shape[0]
        self.encoder = nn.Linear(size, self.latent)
        self.decoder = nn.Linear(self.latent, size)
        self.log_std = nn.Parameter(torch.zeros(self.latent))
        self.log_noise = nn.Parameter(torch.full((), -1.0))
        nn.init.normal_(self.decoder.weight)

    @property
    def kind(self) -> Density | None:
        return LOWER_BOUND

    @property
    def accepts(self) -> Support:
        return Support((Vector,))

    def phases(self) -> Sequence[Phase]:
        return [Gradient("main", optimizer=FAST)]

    def posterior(self, z: Tensor) -> Normal:
        """The encoder's distribution over h."""
        mean = self.encoder(z)
        return Normal(mean, self.log_std.exp().expand_as(mean))

    def weight(self, z: Tensor, h: Tensor, posterior: Normal) -> Tensor:
        """log p(z | h) + log p(h) - log q(h | z)."""
        seen = normal(z, self.decoder(h), self.log_noise.exp()).sum(-1)
        prior = normal(h, torch.zeros_like(h), torch.ones_like(h))
        return seen + (prior - normal(h, posterior.mean, posterior.stddev)).sum(-1)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        posterior = self.posterior(z)
        return self.weight(z, posterior.rsample(), posterior)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        mean = self.decoder(torch.randn(n, self.latent, dtype=self.dtype))
        return cast(Tensor, mean + self.log_noise.exp() * torch.randn_like(mean))

    @property
    def knows_marginal(self) -> bool:
        """Of real columns, whose marginal is Gaussian."""
        return isinstance(self.model_space, Vector)

    def exact_log_prob(self, x: Value, condition: Value | None = None) -> Tensor:
        """The marginal in data space: log N(z; b, W W^T + s^2) and the log-determinant of the transform."""
        z, ldj, _ = self.prepare(x, condition)
        weight = self.decoder.weight
        cover = weight @ weight.T + self.log_noise.exp() ** 2 * torch.eye(len(weight), dtype=weight.dtype)
        rest = z - self.decoder.bias
        distance: Tensor = (rest * torch.linalg.solve(cover, rest.T).T).sum(1)
        volume: Tensor = torch.linalg.slogdet(2 * math.pi * cover).logabsdet
        return -0.5 * (distance + volume).double() + ldj

    def log_weights(self, x: Value, k: int, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        z, ldj, _ = self.prepare(x, condition)
        with self.evaluating(seed):
            posterior = self.posterior(z)
            draws = [self.weight(z, posterior.rsample(), posterior) for _ in range(k)]
        return torch.stack(draws, dim=1).double() + ldj[:, None]

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        z, _, _ = self.prepare(x, condition)
        with self.evaluating(None):
            return Independent(self.posterior(z), 1)

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        with seeded(fresh_seed() if seed is None else seed):
            return torch.randn(n, self.latent, dtype=self.dtype)

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        self.check_condition(condition, len(h))
        with torch.no_grad(), self.evaluating(None):
            return self.finish(self.decoder(check_latents(h, self.latent).to(self.dtype)))


class LogisticVAE(LinearVAE):
    """Binary columns, independent given a Gaussian latent: a VAE in a finite space, whose mass can be added up."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        del self.log_noise

    @property
    def accepts(self) -> Support:
        return Support((Table,))

    def weight(self, z: Tensor, h: Tensor, posterior: Normal) -> Tensor:
        """log p(z | h) + log p(h) - log q(h | z)."""
        seen = nn.functional.logsigmoid(self.decoder(h) * (2 * z - 1)).sum(-1)
        prior = normal(h, torch.zeros_like(h), torch.ones_like(h))
        return seen + (prior - normal(h, posterior.mean, posterior.stddev)).sum(-1)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return torch.bernoulli(torch.sigmoid(self.decoder(torch.randn(n, self.latent, dtype=self.dtype))))

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        self.check_condition(condition, len(h))
        with torch.no_grad(), self.evaluating(None):
            return self.finish((self.decoder(check_latents(h, self.latent).to(self.dtype)) > 0).to(self.dtype))


class MixtureOracle(GenerativeModel):
    """A mixture of two Gaussians with diagonal covariance, by EM."""

    means: Tensor
    variances: Tensor
    weights: Tensor
    mass: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        shape = (2, self.model_space.shape[0])
        for name, size in (("means", shape), ("variances", shape), ("weights", (2,)), ("mass", (2,)), ("first", shape), ("second", shape)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))
        self.variances.fill_(1.0)
        self.weights.fill_(0.5)

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Vector,), bounded="keep", standardise=False)

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("em", statistics=("mass", "first", "second"), max_epochs=30)]

    def initialise(self, sample: Batch) -> None:
        z, _ = self.to_model_space(sample.x)
        z = z.double()
        self.means.copy_(torch.stack([z.mean(0) - 0.5 * z.std(0), z.mean(0) + 0.5 * z.std(0)]))
        self.variances.copy_(z.var(0).expand(2, -1))
        self.weights.fill_(0.5)

    def joint(self, z: Tensor) -> Tensor:
        """log p(z, k), shape (n, 2)."""
        return normal(z.double()[:, None], self.means, self.variances.sqrt()).sum(-1) + self.weights.log()

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return self.joint(z).logsumexp(1)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        k = torch.multinomial(self.weights, n, replacement=True)
        return self.means[k] + self.variances[k].sqrt() * torch.randn(n, self.means.shape[1], dtype=self.means.dtype)

    def accumulate(self, batch: Batch) -> None:
        """Weighted counts, sums and sums of squares."""
        z, _ = self.to_model_space(batch.x)
        z = z.double()
        share = self.joint(z).softmax(1)
        self.mass.add_(share.sum(0))
        self.first.add_(share.T @ z)
        self.second.add_(share.T @ z**2)

    def solve(self) -> Progress:
        """Weights, means and variances from the statistics."""
        mass = self.mass.clamp_min(1e-9)
        self.weights.copy_(mass / mass.sum())
        self.means.copy_(self.first / mass[:, None])
        self.variances.copy_((self.second / mass[:, None] - self.means**2).clamp_min(1e-6))
        return Progress()

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        z, _, _ = self.prepare(x, condition)
        with self.evaluating(0):
            return Categorical(logits=self.joint(z))


class CodingOracle(GenerativeModel):
    """The linear autoencoder in closed form: codes are the first principal components, new codes normal with their variances."""

    basis: Tensor
    centre: Tensor
    variances: Tensor
    mass: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        d = self.model_space.shape[0]
        self.latent = max(1, d // 2)
        shapes = {"basis": (d, self.latent), "centre": (d,), "variances": (self.latent,), "mass": (1,), "first": (d,), "second": (d, d)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.reset()

    def reset(self) -> None:
        """The first columns as they are."""
        self.basis.copy_(torch.eye(*self.basis.shape, dtype=torch.float64))
        self.centre.zero_()
        self.variances.fill_(1.0)

    @property
    def kind(self) -> Density | None:
        return None

    @property
    def accepts(self) -> Support:
        return Support((Vector,))

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("components", statistics=("mass", "first", "second"))]

    def initialise(self, sample: Batch) -> None:
        self.reset()

    def accumulate(self, batch: Batch) -> None:
        """Count, sum and sum of products."""
        z = self.to_model_space(batch.x)[0].double()
        self.mass.add_(len(z))
        self.first.add_(z.sum(0))
        self.second.add_(z.T @ z)

    def solve(self) -> Progress:
        """The eigenvectors of the largest eigenvalues of the covariance (Baldi and Hornik, 1989)."""
        mean = self.first / self.mass
        values, vectors = torch.linalg.eigh(self.second / self.mass - torch.outer(mean, mean))
        chosen = self.choose(values)
        self.centre.copy_(mean)
        self.basis.copy_(vectors[:, chosen])
        self.variances.copy_(values[chosen].clamp_min(1e-12))
        return Progress({}, converged=True)

    def choose(self, values: Tensor) -> Tensor:
        """The places of the components that are kept, of ascending eigenvalues."""
        return torch.arange(len(values) - self.latent, len(values))

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.back(self.variances.sqrt() * torch.randn(n, self.latent, dtype=torch.float64))

    def back(self, h: Tensor) -> Tensor:
        """What codes stand for, in model space."""
        return self.centre + h.double() @ self.basis.T

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        z, _, _ = self.prepare(x, condition)
        return Point((z.double() - self.centre) @ self.basis)

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        with seeded(fresh_seed() if seed is None else seed):
            return self.variances.sqrt() * torch.randn(n, self.latent, dtype=torch.float64)

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        self.check_condition(condition, len(h))
        return self.finish(self.back(check_latents(h, self.latent)))


class GanOracle(GenerativeModel):
    """An affine generator against a small discriminator: two gradient phases and no density."""

    noise = 2

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.classes = condition.classes if isinstance(condition, Labels) else 0
        size = self.model_space.shape[0]
        self.generator = nn.Linear(self.noise + self.classes, size)
        self.discriminator = nn.Sequential(nn.Linear(size + self.classes, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    @property
    def kind(self) -> Density | None:
        return None

    @property
    def accepts(self) -> Support:
        return Support((Vector,), bounded="scale", condition=(Labels,))

    def phases(self) -> Sequence[Phase]:
        fast = Optim("adam", lr=5e-3, betas=(0.5, 0.99))
        return [
            Gradient("discriminator", "discriminator_loss", "discriminator", optimizer=fast),
            Gradient("generator", "generator_loss", "generator", optimizer=fast),
        ]

    def with_condition(self, z: Tensor, condition: Value | None) -> Tensor:
        """Append the one-hot label, where there is one."""
        if not isinstance(condition, Tensor):
            return z
        return torch.cat([z, nn.functional.one_hot(condition, self.classes).to(z.dtype)], dim=1)

    def make(self, h: Tensor, condition: Value | None) -> Tensor:
        """The generator's output for latents h."""
        return cast(Tensor, self.generator(self.with_condition(h, condition)))

    def judge(self, z: Tensor, condition: Value | None) -> Tensor:
        """The discriminator's logit for each example."""
        return cast(Tensor, self.discriminator(self.with_condition(z, condition))[:, 0])

    def discriminator_loss(self, batch: Batch) -> Tensor:
        """-log D(x) - log(1 - D(G(h)))."""
        z, _ = self.to_model_space(batch.x)
        with torch.no_grad():
            fake = self.make(torch.randn(len(z), self.noise, dtype=z.dtype), batch.condition)
        return nn.functional.softplus(-self.judge(z, batch.condition)) + nn.functional.softplus(self.judge(fake, batch.condition))

    def generator_loss(self, batch: Batch) -> Tensor:
        """-log D(G(h)) (Goodfellow et al., Generative adversarial networks, 2014, section 3)."""
        h = torch.randn(len(batch), self.noise, dtype=self.dtype)
        return nn.functional.softplus(-self.judge(self.make(h, batch.condition), batch.condition))

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.make(torch.randn(n, self.noise, dtype=self.dtype), condition)

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        with seeded(fresh_seed() if seed is None else seed):
            return torch.randn(n, self.noise, dtype=self.dtype)

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        c = self.check_condition(condition, len(h))
        with torch.no_grad(), self.evaluating(None):
            return self.finish(self.make(check_latents(h, self.noise).to(self.dtype), c))
