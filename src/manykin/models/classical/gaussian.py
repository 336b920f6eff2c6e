"""Gaussian: one component, by its formula or by gradient ascent on the likelihood."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from manykin.config import Config, option
from manykin.contract import Batch, ClosedForm, Gradient, Optim, Phase, Preset, Progress, Sampler
from manykin.models.classical.em import log_densities
from manykin.models.classical.groups import by_group, groups_of, per_group, spread_of
from manykin.models.classical.linalg import triangular_inverse
from manykin.models.classical.real import NormalDensity
from manykin.models.classical.shapes import SHAPES
from manykin.spaces import Space, Value


@dataclass(frozen=True)
class GaussianConfig(Config):
    """Options of :class:`Gaussian`."""

    covariance_type: Literal["full", "diag", "spherical"] = option("full", "shape of the covariance")
    reg_covar: float = option(1e-6, "added to the variances by the closed form, in squared units of the data", ge=0)
    fit: Literal["closed-form", "gradient"] = option("closed-form", "by the formula, in one pass, or by gradient steps on the likelihood")


class Gaussian(NormalDensity):
    """p(x) = N(x; mu, Sigma), by maximum likelihood: mu the mean and Sigma the covariance of the data (with divisor n).

    ``fit="gradient"`` reaches the same solution by steps on the mean log-likelihood. Its parameters are the precision factor A = L^-1 (lower
    triangular, diagonal exp(a)) and b = A mu of standardised columns, in which ``-log p = |A y - b|^2 / 2 - sum a + const`` has no local minima.
    With labels as condition each class has a Gaussian of its own, which makes quadratic discriminant analysis of the Bayes rule; a class with
    fewer than two rows takes the Gaussian of all rows.

    Time n d^2 and memory d^2 for the closed form, in one pass.

    Source: Anderson, An Introduction to Multivariate Statistical Analysis, 2003, theorem 3.2.1.

    Raises:
        InvalidInput: for a single row, a constant column, or a singular covariance.
    """

    config_class = GaussianConfig
    family = "classical"
    paper = "Anderson, 2003, section 3.2"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {"default": Preset(), "tiny": Preset()}

    config: GaussianConfig
    means: Tensor
    factors: Tensor
    counts: Tensor
    first: Tensor
    second: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        d, g = self.model_space.shape[0], groups_of(condition)
        self.groups = g
        self.shape = SHAPES[self.config.covariance_type](d)
        buffers = {"centre": torch.zeros(d), "scale": torch.ones(d)}
        if self.config.fit == "gradient":
            self.offset = nn.Parameter(torch.zeros(g, d, dtype=torch.float64))
            self.log_diagonal = nn.Parameter(torch.zeros(g, 1 if self.config.covariance_type == "spherical" else d, dtype=torch.float64))
            full = self.config.covariance_type == "full"
            self.lower = nn.Parameter(torch.zeros(g, d, d, dtype=torch.float64)) if full else None
        else:
            factor = self.shape.from_std(torch.ones(d), 1)
            buffers |= {"means": torch.zeros(g, 1, d), "factors": factor.expand(g, *factor.shape), "counts": torch.zeros(g)}
            buffers |= {"first": torch.zeros(g, d), "second": torch.zeros(g, *self.shape.moment_shape(1))}
        for name, value in buffers.items():
            self.register_buffer(name, value.double().clone())

    # Learning.

    def phases(self) -> Sequence[Phase]:
        if self.config.fit == "gradient":
            return [Gradient("likelihood", optimizer=Optim("adam", lr=0.03))]
        return [ClosedForm("moments", statistics=("counts", "first", "second"))]

    def initialise(self, sample: Batch) -> None:
        z, _ = self.to_model_space(sample.x)
        mean, std = spread_of(z, self.space)
        self.centre.copy_(mean)
        self.scale.copy_(std.square().mean().sqrt() if self.config.covariance_type == "spherical" else std)

    def accumulate(self, batch: Batch) -> None:
        """Add the moments of these rows, standardised by the start's columns."""
        z, _ = self.to_model_space(batch.x)
        for group, rows in by_group(batch.condition, self.groups):
            y = ((z[rows] - self.centre) / self.scale).mT
            self.counts[group] += y.shape[1]
            self.first[group] += y.sum(dim=1)
            self.second[group] += self.shape.moment(y.unsqueeze(0), torch.ones_like(y[:1]))

    def solve(self) -> Progress:
        """Mean and covariance from the moments.

        Raises:
            InvalidInput: where the covariance is singular.
        """
        pooled = self._solution(self.counts.sum(), self.first.sum(dim=0), self.second.sum(dim=0))
        for group in range(self.groups):
            own = self.groups > 1 and float(self.counts[group]) >= 2
            mean, factor = self._solution(self.counts[group], self.first[group], self.second[group]) if own else pooled
            self.means[group].copy_(mean)
            self.factors[group].copy_(factor)
        return Progress({"rows": float(self.counts.sum())}, converged=True)

    def _solution(self, rows: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        covariance = self.shape.covariance(self.shape.from_std(self.scale, 1), rows.view(1), first.view(1, -1), second)
        factor = self.shape.factorise(self.shape.regularise(covariance, self.config.reg_covar))
        return self.centre + self.scale * (first / rows), factor

    # Density and samples.

    def _precision(self, group: int) -> Tensor:
        """A = L^-1 of standardised columns, lower triangular with positive diagonal, (d, d); only its diagonal unless full."""
        diagonal = self.log_diagonal[group].exp().expand(len(self.centre))
        return diagonal if self.lower is None else self.lower[group].tril(-1) + torch.diag(diagonal)

    def _component(self, group: int) -> tuple[Tensor, Tensor]:
        """Mean (1, d) and factor of a class, in model space."""
        if self.config.fit == "closed-form":
            return self.means[group], self.factors[group]
        a, b = self._precision(group), self.offset[group]
        if a.dim() == 1:
            factor = (self.scale / a).unsqueeze(0)[:, : self.shape.factor_shape(1)[1]]
            return self.centre + (self.scale * b / a).unsqueeze(0), factor
        inverse = triangular_inverse(a)
        return (self.centre + self.scale * (inverse @ b)).unsqueeze(0), (self.scale.unsqueeze(1) * inverse).unsqueeze(0)

    def _density(self, z: Tensor, group: int) -> Tensor:
        if self.config.fit == "closed-form":
            return log_densities(self.shape, z, *self._component(group)).squeeze(1)
        a, y = self._precision(group), (z - self.centre) / self.scale
        u = (y * a if a.dim() == 1 else y @ a.mT) - self.offset[group]
        log_det = (a if a.dim() == 1 else torch.diagonal(a)).log().sum() - self.scale.log().sum()
        return log_det - 0.5 * (u.square().sum(dim=1) + len(self.centre) * math.log(2 * math.pi))

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return per_group(z, condition, self.groups, self._density, max(64, 2**22 // z.shape[1]))

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = torch.randn(n, len(self.centre), dtype=torch.float64, device=self.device)
        for group, rows in by_group(condition, self.groups):
            mean, factor = self._component(group)
            z[rows] = mean + z[rows] @ self.shape.dense(factor, 1)[0].mT
        return z

    # Completion and reading.

    def _dense(self, group: int) -> tuple[Tensor, Tensor, Tensor]:
        mean, factor = self._component(group)
        return torch.zeros_like(mean[:, 0]), mean, self.shape.dense(factor, 1)

    def parameters_table(self) -> dict[str, Tensor]:
        """``weights`` (k,), ``means`` (k, d), ``covariances`` as of scikit-learn's GaussianMixture: k = 1, or the classes and their frequencies."""
        with torch.no_grad():
            means, factors = zip(*(self._component(group) for group in range(self.groups)), strict=True)
            weights = self.condition_frequencies if self.condition is not None else torch.ones(1, dtype=torch.float64, device=self.device)
            return {"weights": weights.clone(), "means": torch.cat(means), "covariances": self.shape.expand(torch.cat(factors))}
