"""A Gaussian three ways: a density, an affine flow, an energy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from manykin.config import option
from manykin.contract import (
    EXACT,
    UNNORMALISED,
    Batch,
    Config,
    Density,
    GenerativeModel,
    Gradient,
    Phase,
    Sampler,
    Support,
)
from manykin.random import fresh_seed, seeded
from manykin.spaces import Labels, Space, Value, Vector
from manykin.testing.oracles.support import FAST, check_latents, check_mask


@dataclass(frozen=True)
class OracleConfig(Config):
    """The one option that the Gaussian oracle has."""

    slack: float = option(0.05, "added to each scale", gt=0, le=1)


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
        return [Gradient("main", optimizer=FAST)]

    def factor(self) -> Tensor:
        """L, lower triangular with a positive diagonal."""
        return self.raw.tril(-1) + torch.diag_embed(nn.functional.softplus(self.raw.diagonal()) + self.config.slack)

    def centre(self, condition: Value | None, n: int) -> Tensor:
        """m_c for each of n examples."""
        return self.mean[condition] if isinstance(condition, Tensor) else self.mean.expand(n, -1)

    def code(self, z: Tensor, condition: Value | None) -> Tensor:
        """h = L^-1 (z - m_c)."""
        h: Tensor = torch.linalg.solve_triangular(self.factor(), (z - self.centre(condition, len(z))).T, upper=False).T
        return h

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
        with torch.enable_grad():
            data = cast(Tensor, x).detach().requires_grad_(True)
            width = torch.autograd.grad(self.to_model_space(data)[0].sum(), data)[0]
        return slope * width

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
