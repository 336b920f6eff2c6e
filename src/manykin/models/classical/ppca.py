"""Probabilistic principal component analysis."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from manykin.config import Config, option
from manykin.contract import Batch, ClosedForm, Phase, Preset, Progress, Sampler
from manykin.errors import InvalidInput, Unsupported
from manykin.models.classical.groups import by_group, groups_of, per_group, spread_of
from manykin.models.classical.real import NormalDensity
from manykin.random import fresh_seed, seeded
from manykin.spaces import Space, Value


@dataclass(frozen=True)
class PPCAConfig(Config):
    """Options of :class:`PPCA`."""

    n_components: int | None = option(None, "latent dimensions, fewer than columns; none: 10, or one less than columns where that is fewer", ge=1)


def _default(space: Space, n: int) -> Preset:
    d = torch.Size(space.shape).numel()
    return Preset(model={"n_components": max(1, min(d // 2, 40, n // 4))})


class PPCA(NormalDensity):
    """x = W h + mu + e with h ~ N(0, I_q), e ~ N(0, sigma^2 I): a Gaussian of covariance W W^T + sigma^2 I.

    The maximum-likelihood solution is closed: mu is the mean, sigma^2 the mean of the d - q smallest eigenvalues of the covariance S (divisor n),
    and W = U (Lambda - sigma^2 I)^(1/2) of its q largest (Tipping and Bishop, Probabilistic principal component analysis, 1999, equations 7 and
    8, at rotation R = I). With labels as condition each class has a solution of its own; a class with fewer than q + 2
    rows, which leave no noise, takes that of all rows.

    In the basis U the Woodbury identity is diagonal: ``|L^-1 (x - mu)|^2 = sum_i (u_i . (x - mu))^2 / lambda_i + |rest|^2 / sigma^2``, so a density
    costs n d q. Fitting takes one pass of n d^2 and memory d^2.

    Raises:
        Unsupported: for fewer than two columns.
        InvalidInput: for ``n_components`` of at least the number of columns, a single row, a constant column, or data of rank at most q.
    """

    config_class = PPCAConfig
    family = "classical"
    paper = "Tipping and Bishop, 1999"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {"default": _default, "tiny": Preset(model={"n_components": 1})}

    config: PPCAConfig
    mean: Tensor
    basis: Tensor
    variances: Tensor
    noise: Tensor
    counts: Tensor
    first: Tensor
    second: Tensor
    centre: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        d, g = self.model_space.shape[0], groups_of(condition)
        if d < 2:
            raise Unsupported(f"{space} has one column; PPCA needs at least 2. Use gaussian.")
        q = min(10, d - 1) if self.config.n_components is None else self.config.n_components
        if q >= d:
            raise InvalidInput(f"model.n_components = {q} is not allowed for {space}; expected fewer than its {d} columns.")
        self.groups, self.latent_size = g, q
        buffers = {
            "mean": torch.zeros(g, d), "basis": torch.eye(d, q).expand(g, d, q), "variances": torch.full((g, q), 2.0), "noise": torch.ones(g),
            "counts": torch.zeros(g), "first": torch.zeros(g, d), "second": torch.zeros(g, d, d), "centre": torch.zeros(d),
        }  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, value.double().clone())

    # Learning.

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("moments", statistics=("counts", "first", "second"))]

    def initialise(self, sample: Batch) -> None:
        z, _ = self.to_model_space(sample.x)
        mean, _ = spread_of(z, self.space)
        self.centre.copy_(mean)

    def accumulate(self, batch: Batch) -> None:
        """Add the moments of these rows about the mean of the starting sample."""
        z, _ = self.to_model_space(batch.x)
        for group, rows in by_group(batch.condition, self.groups):
            y = z[rows] - self.centre
            self.counts[group] += len(y)
            self.first[group] += y.sum(dim=0)
            self.second[group] += y.mT @ y

    def solve(self) -> Progress:
        """Eigenvectors and eigenvalues of the covariance.

        Raises:
            InvalidInput: where no variance is left for the noise.
        """
        pooled = self._solution(self.counts.sum(), self.first.sum(dim=0), self.second.sum(dim=0))
        for group in range(self.groups):
            own = self.groups > 1 and float(self.counts[group]) >= self.latent_size + 2
            solution = self._solution(self.counts[group], self.first[group], self.second[group]) if own else pooled
            for buffer, value in zip((self.mean, self.basis, self.variances, self.noise), solution, strict=True):
                buffer[group].copy_(value)
        return Progress({"rows": float(self.counts.sum())}, converged=True)

    def _solution(self, rows: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        shift = first / rows
        values, vectors = torch.linalg.eigh(second / rows - torch.outer(shift, shift))
        values, vectors = values.flip(0), vectors.flip(1)
        q = self.latent_size
        noise = values[q:].clamp_min(0).mean()
        if not noise > 1e-13 * values[0]:
            raise InvalidInput(
                f"the data lies in {q} or fewer dimensions, which leaves no noise for n_components = {q} and an unbounded density; "
                "lower --model.n_components, or drop columns that repeat each other."
            )
        # The sign of an eigenvector is arbitrary: its largest entry is made positive, so that every platform gives the same latents.
        largest = vectors.abs().argmax(dim=0)
        vectors = vectors * torch.where(vectors.gather(0, largest.unsqueeze(0)) < 0, -1.0, 1.0)
        return self.centre + shift, vectors[:, :q], values[:q], noise

    # Density, samples, latents.

    def _density(self, z: Tensor, group: int) -> Tensor:
        y, basis, variances, noise = z - self.mean[group], self.basis[group], self.variances[group], self.noise[group]
        inside = y @ basis
        rest = y - inside @ basis.mT
        log_det = variances.log().sum() + (y.shape[1] - self.latent_size) * noise.log()
        squares = (inside.square() / variances).sum(dim=1) + rest.square().sum(dim=1) / noise
        return -0.5 * (squares + log_det + y.shape[1] * math.log(2 * math.pi))

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return per_group(z, condition, self.groups, self._density, max(64, 2**22 // z.shape[1]))

    def _loadings(self, group: int) -> Tensor:
        """W, (d, q)."""
        return self.basis[group] * (self.variances[group] - self.noise[group]).clamp_min(0).sqrt()

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        h = torch.randn(n, self.latent_size, dtype=torch.float64, device=self.device)
        z = torch.randn(n, self.mean.shape[1], dtype=torch.float64, device=self.device)
        for group, rows in by_group(condition, self.groups):
            z[rows] = self.mean[group] + h[rows] @ self._loadings(group).mT + z[rows] * self.noise[group].sqrt()
        return z

    def _posterior(self, z: Tensor, group: int) -> Tensor:
        """Mean and standard deviation of h given z, stacked as (n, 2, q)."""
        variances, noise = self.variances[group], self.noise[group]
        inside = (z - self.mean[group]) @ self.basis[group]
        mean = inside * (variances - noise).clamp_min(0).sqrt() / variances
        return torch.stack([mean, (noise / variances).sqrt().expand_as(mean)], dim=1)

    @torch.no_grad()
    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        """The posterior N(M^-1 W^T (x - mu), sigma^2 M^-1) of h given x with M = W^T W + sigma^2 I, here diagonal; batch (n,), event (q,)."""
        with self.evaluating(0):
            z, _, c = self.prepare(x, condition)
            mean, std = per_group(z, c, self.groups, self._posterior, 2**14).unbind(dim=1)
        return Independent(Normal(mean, std), 1)

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        """n draws of the latent prior N(0, I), shape (n, q)."""
        with seeded(fresh_seed() if seed is None else seed):
            return torch.randn(n, self.latent_size, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        """The mean W h + mu of x given latents h (n, q), without noise, as data.

        Raises:
            InvalidInput: for latents of another shape, or a condition that is missing or superfluous.
        """
        if not isinstance(h, Tensor) or h.dim() != 2 or h.shape[1] != self.latent_size or len(h) == 0:
            what = tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
            raise InvalidInput(f"h has shape {what}; expected (n, {self.latent_size}) latents.")
        if not bool(torch.isfinite(h).all()):
            raise InvalidInput("h holds NaN or infinity; expected finite latents.")
        h = h.to(self.mean)
        c = self.check_condition(condition, len(h))
        return self.finish(per_group(h, c, self.groups, lambda part, g: self.mean[g] + part @ self._loadings(g).mT, 2**14))

    # Completion and reading.

    def _covariance(self, group: int) -> Tensor:
        loadings = self._loadings(group)
        return loadings @ loadings.mT + self.noise[group] * torch.eye(len(loadings), dtype=loadings.dtype, device=loadings.device)

    def _dense(self, group: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros(1).to(self.mean), self.mean[group : group + 1], torch.linalg.cholesky(self._covariance(group)).unsqueeze(0)

    def parameters_table(self) -> dict[str, Tensor]:
        """As of scikit-learn's PCA: ``mean`` (d,), ``components`` (q, d), ``explained_variance`` (q,), ``noise_variance`` (), here with divisor n.

        A leading axis for classes if conditional.
        """
        table = {"mean": self.mean, "components": self.basis.mT, "explained_variance": self.variances, "noise_variance": self.noise}
        return {name: value.clone() if self.condition is not None else value[0].clone() for name, value in table.items()}
