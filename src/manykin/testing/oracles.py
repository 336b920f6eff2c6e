"""Sound models with known answers: small enough to be right by reading, and the ground on which broken ones are built.

Each has a closed-form answer to compare with: the Gaussian its own formula, the linear-Gaussian VAE its exact marginal, the categorical model its
table, the Markov chain its sum over strings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from manykin.contract import (
    EXACT,
    LOWER_BOUND,
    UNNORMALISED,
    Batch,
    ClosedForm,
    Config,
    Density,
    GenerativeModel,
    Gradient,
    Optim,
    Phase,
    Progress,
    Sampler,
    Support,
)
from manykin.config import option
from manykin.errors import InvalidInput, Unsupported
from manykin.random import fresh_seed, seeded
from manykin.spaces import Column, Labels, Space, Table, Tokens, Value, Vector

_FAST = Optim("adam", lr=0.05)


@dataclass(frozen=True)
class OracleConfig(Config):
    """The one option that the Gaussian oracle has."""

    slack: float = option(0.05, "added to each scale", gt=0, le=1)


def check_latents(h: Tensor, size: int) -> Tensor:
    """Validate latents of shape (n, size).

    Raises:
        InvalidInput: for another shape, or NaN.
    """
    if h.dim() != 2 or h.shape[1] != size:
        raise InvalidInput(f"latents have shape {tuple(h.shape)}; expected (n, {size}).")
    if not bool(torch.isfinite(h).all()):
        raise InvalidInput("latents hold nan or inf; expected finite numbers.")
    return h


def check_mask(known: Tensor, x: Tensor) -> Tensor:
    """Validate a mask of known entries.

    Raises:
        InvalidInput: for another shape or dtype.
    """
    if known.shape != x.shape:
        raise InvalidInput(f"known has shape {tuple(known.shape)}; expected that of x, {tuple(x.shape)}.")
    if known.dtype != torch.bool:
        raise InvalidInput(f"known has dtype {str(known.dtype).removeprefix('torch.')}; expected bool.")
    return known


class GaussianOracle(GenerativeModel):
    """z = m_c + L h with h standard normal: a Gaussian with full covariance L L^T, fitted by gradient, and an affine flow at the same time."""

    config_class = OracleConfig

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.size = self.model_space.shape[0]
        classes = condition.classes if isinstance(condition, Labels) else 1
        self.mean = nn.Parameter(0.3 * torch.randn(classes, self.size))
        self.raw = nn.Parameter(0.3 * torch.randn(self.size, self.size))

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Vector,), condition=(Labels,))

    def phases(self) -> Sequence[Phase]:
        return [Gradient("main", optimizer=_FAST)]

    def factor(self) -> Tensor:
        """L, lower triangular with a positive diagonal."""
        return self.raw.tril(-1) + torch.diag_embed(nn.functional.softplus(self.raw.diagonal()) + self.config.slack)

    def centre(self, condition: Value | None, n: int) -> Tensor:
        """m_c for each of n examples."""
        return self.mean[condition] if isinstance(condition, Tensor) else self.mean.expand(n, -1)

    def code(self, z: Tensor, condition: Value | None) -> Tensor:
        """h = L^-1 (z - m_c)."""
        return torch.linalg.solve_triangular(self.factor(), (z - self.centre(condition, len(z))).T, upper=False).T

    def push(self, h: Tensor, condition: Value | None) -> Tensor:
        """z = m_c + L h."""
        return self.centre(condition, len(h)) + h @ self.factor().T

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        h = self.code(z, condition)
        return -0.5 * (h**2).sum(1) - 0.5 * self.size * math.log(2 * math.pi) - self.factor().diagonal().log().sum()

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.push(torch.randn(n, self.size, dtype=self.dtype, device=self.device), condition)

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        z, _, c = self.prepare(x, condition)
        with self.evaluating(None):
            h = self.code(z, c)
        return Independent(Normal(h, torch.full_like(h, 1e-9)), 1)

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        with seeded(fresh_seed() if seed is None else seed):
            return torch.randn(n, self.size, dtype=self.dtype)

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        c = self.check_condition(condition, len(h))
        with torch.no_grad():
            return self.finish(self.push(check_latents(h, self.size).to(self.dtype), c))

    def score(self, x: Value) -> Tensor:
        z, _, c = self.prepare(x)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            slope = torch.autograd.grad(self._log_prob(leaf, c).sum(), leaf)[0]
        width = torch.autograd.functional.jvp(lambda y: self.to_model_space(y)[0], cast(Tensor, x), torch.ones_like(cast(Tensor, x)))[1]
        return cast(Tensor, slope * width)

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """Draw from the joint, then correct by the known residual (Matheron's rule): s + S_uk S_kk^-1 (x_k - s_k)."""
        with seeded(fresh_seed() if seed is None else seed):
            z, _, c = self.prepare(x, condition)
            draw = self._sample(len(z), c, None)
        keep = check_mask(known, cast(Tensor, x)).to(z.dtype)
        cover = self.factor() @ self.factor().T
        inner = keep[:, :, None] * cover * keep[:, None, :] + torch.diag_embed(1 - keep)
        gain = torch.linalg.solve(inner, (keep * (z - draw))[:, :, None])
        filled = cast(Tensor, self.finish(draw + (cover @ gain)[:, :, 0]))
        return torch.where(known, cast(Tensor, x), filled.to(cast(Tensor, x).dtype))


class EnergyOracle(GaussianOracle):
    """The same Gaussian known up to a constant: minus a quadratic energy, with an exact sampler."""

    @property
    def kind(self) -> Density | None:
        return UNNORMALISED

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return -0.5 * (self.code(z, condition) ** 2).sum(1)

    def loss(self, batch: Batch) -> Tensor:
        z, _ = self.to_model_space(batch.x)
        return GaussianOracle._log_prob(self, z, batch.condition).neg()


class LinearVAE(GenerativeModel):
    """z = W h + b + s e with Gaussian h and e: a VAE whose exact marginal is the Gaussian N(b, W W^T + s^2)."""

    latent = 1

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        size = self.model_space.shape[0]
        self.encoder = nn.Linear(size, self.latent)
        self.decoder = nn.Linear(self.latent, size)
        self.log_std = nn.Parameter(torch.zeros(self.latent))
        self.log_noise = nn.Parameter(torch.zeros(()))

    @property
    def kind(self) -> Density | None:
        return LOWER_BOUND

    @property
    def accepts(self) -> Support:
        return Support((Vector,))

    def phases(self) -> Sequence[Phase]:
        return [Gradient("main", optimizer=_FAST)]

    def posterior(self, z: Tensor) -> Normal:
        """The encoder's distribution over h."""
        mean = self.encoder(z)
        return Normal(mean, self.log_std.exp().expand_as(mean))

    def weight(self, z: Tensor, h: Tensor, posterior: Normal) -> Tensor:
        """log p(z | h) + log p(h) - log q(h | z)."""
        seen = Normal(self.decoder(h), self.log_noise.exp()).log_prob(z).sum(-1)
        prior = Normal(torch.zeros_like(h), 1.0).log_prob(h)
        return cast(Tensor, seen + (prior - posterior.log_prob(h)).sum(-1))

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        posterior = self.posterior(z)
        return self.weight(z, posterior.rsample(), posterior)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        mean = self.decoder(torch.randn(n, self.latent, dtype=self.dtype))
        return cast(Tensor, mean + self.log_noise.exp() * torch.randn_like(mean))

    def exact_log_prob(self, x: Value) -> Tensor:
        """The marginal in data space: log N(z; b, W W^T + s^2) and the log-determinant of the transform."""
        z, ldj, _ = self.prepare(x)
        weight = self.decoder.weight
        cover = weight @ weight.T + self.log_noise.exp() ** 2 * torch.eye(len(weight), dtype=weight.dtype)
        return torch.distributions.MultivariateNormal(self.decoder.bias, cover).log_prob(z).double() + ldj

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


class TableOracle(GenerativeModel):
    """One probability for each of the K possible rows, fitted by counting; missing values are integrated out, and filled in by EM."""

    counts: Tensor
    weights: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        columns = cast(Table, self.model_space).columns
        if any(column.cardinality is None for column in columns) or math.prod(column.cardinality or 1 for column in columns) > 4096:
            raise Unsupported(f"{type(self).__name__} lists every row; {space} has too many.")
        values = [column.origin + (column.grid or 1.0) * torch.arange(column.cardinality or 1).double() for column in columns]
        self.register_buffer("rows", torch.cartesian_prod(*values).view(-1, len(columns)), persistent=False)
        shape = (condition.classes if isinstance(condition, Labels) else 1, len(cast(Tensor, self.rows)))
        self.register_buffer("weights", torch.full(shape, 1.0 / shape[1], dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.float64))

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Table,), missing=True, condition=(Labels,))

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("count", statistics=("counts",), max_epochs=20)]

    def matches(self, z: Tensor) -> Tensor:
        """Which of the K rows agree with each example in what is known of it, shape (n, K)."""
        return ((z[:, None] == cast(Tensor, self.rows)) | z[:, None].isnan()).all(-1)

    def chances(self, condition: Value | None, n: int) -> Tensor:
        """The table of each example's condition, shape (n, K)."""
        return self.weights[condition] if isinstance(condition, Tensor) else self.weights.expand(n, -1)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return (self.chances(condition, len(z)) * self.matches(z)).sum(1).log()

    def initialise(self, sample: Batch) -> None:
        self.weights.fill_(1.0 / self.weights.shape[1])

    def accumulate(self, batch: Batch) -> None:
        """Add each example's posterior over the K rows."""
        z, _ = self.to_model_space(batch.x)
        share = (self.chances(batch.condition, len(z)) + 1e-9) * self.matches(z)
        which = batch.condition if isinstance(batch.condition, Tensor) else torch.zeros(len(z), dtype=torch.long)
        self.counts.index_add_(0, which, share / share.sum(1, keepdim=True))

    def solve(self) -> Progress:
        """The shares, as new probabilities."""
        fresh = (self.counts + 1e-6) / (self.counts + 1e-6).sum(1, keepdim=True)
        change = float((fresh - self.weights).abs().max())
        self.weights.copy_(fresh)
        return Progress({"change": change}, change < 1e-7)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return cast(Tensor, self.rows)[torch.multinomial(self.chances(condition, n), 1)[:, 0]]

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """Draw a row among those that agree with what is known."""
        z, _, c = self.prepare(x, condition)
        keep = check_mask(known, cast(Tensor, x)).view(z.shape)
        chance = (self.chances(c, len(z)) + 1e-12) * self.matches(torch.where(keep, z, math.nan))
        with seeded(fresh_seed() if seed is None else seed):
            draw = cast(Tensor, self.rows)[torch.multinomial(chance, 1)[:, 0]]
        return self.finish(torch.where(keep & ~z.isnan(), z, draw))

    def parameters_table(self) -> dict[str, Tensor]:
        return {"weights": self.weights[0]}


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
        return cast(Tensor, Normal(self.means, self.variances.sqrt()).log_prob(z.double()[:, None]).sum(-1) + self.weights.log())

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


class MarkovOracle(GenerativeModel):
    """A Markov chain over tokens: a table of first symbols and one of next symbols, by gradient."""

    completes = "prefix"

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.tokens = cast(Tokens, self.model_space)
        self.first = nn.Parameter(0.1 * torch.randn(self.tokens.vocab))
        self.next = nn.Parameter(0.1 * torch.randn(self.tokens.vocab, self.tokens.vocab))

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Tokens,))

    def phases(self) -> Sequence[Phase]:
        return [Gradient("main", optimizer=_FAST)]

    def logits(self, z: Tensor, position: int) -> Tensor:
        """Logits of the symbol at a position given the one before; after ``end``, and at the last position, only ``end`` is possible."""
        logits = self.first.expand(len(z), -1) if position == 0 else self.next[z[:, position - 1]]
        end = self.tokens.end
        if end is None:
            return logits
        closed = torch.full((len(z),), position == self.tokens.length - 1)
        if position > 0:
            closed = closed | (z[:, position - 1] == end)
        only = torch.where(torch.arange(self.tokens.vocab) == end, 0.0, -math.inf).to(logits.dtype)
        return torch.where(closed[:, None], only, logits)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        terms = [self.logits(z, t).log_softmax(1).gather(1, z[:, t : t + 1]) for t in range(self.tokens.length)]
        return torch.cat(terms, dim=1).sum(1)

    def _draw(self, z: Tensor, known: Tensor) -> Tensor:
        for position in range(self.tokens.length):
            fresh = torch.multinomial(self.logits(z, position).softmax(1), 1)[:, 0]
            z[:, position] = torch.where(known[:, position], z[:, position], fresh)
        return z

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = torch.zeros(n, self.tokens.length, dtype=torch.long)
        return self._draw(z, torch.zeros_like(z, dtype=torch.bool))

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """Continue each row after its known prefix."""
        z, _, _ = self.prepare(x, condition)
        check_mask(known, z)
        with seeded(fresh_seed() if seed is None else seed):
            return self._draw(z.clone(), known)


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


SMALL_TABLE = Table(
    (Column("size", "integer", levels=3), Column("colour", "categorical", ("red", "green"), missing=True), Column("round", "categorical", (False, True)))
)
"""A table of twelve possible rows, with missing values in one column."""

ORACLES: dict[str, tuple[type[GenerativeModel], Space, Space | None]] = {
    "gaussian": (GaussianOracle, Vector(2), None),
    "gaussian-wide": (GaussianOracle, Vector(6), None),
    "gaussian-by-label": (GaussianOracle, Vector(2), Labels(3)),
    "gaussian-on-levels": (GaussianOracle, Vector(2, levels=5), None),
    "energy": (EnergyOracle, Vector(3), None),
    "linear-vae": (LinearVAE, Vector(2), None),
    "table": (TableOracle, SMALL_TABLE, None),
    "table-by-label": (TableOracle, Vector(2, levels=3), Labels(2)),
    "mixture": (MixtureOracle, Vector(1), None),
    "mixture-on-levels": (MixtureOracle, Vector(2, levels=5), None),
    "strings": (MarkovOracle, Tokens(4, 5, end=0), None),
    "stream": (MarkovOracle, Tokens(3, 4), None),
    "gan": (GanOracle, Vector(2), None),
    "gan-by-label": (GanOracle, Vector(2), Labels(3)),
}
"""Sound models by name: class, space and condition. Every check passes on each of them."""


def oracle(name: str) -> GenerativeModel:
    """A sound model by name, unfitted."""
    kind, space, condition = ORACLES[name]
    return kind(None, space, condition)
