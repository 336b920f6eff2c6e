"""Gaussian mixture by expectation-maximisation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Categorical

from manykin.config import Config, option
from manykin.contract import Batch, ClosedForm, Phase, Preset, Progress, Sampler
from manykin.errors import InvalidInput
from manykin.models.classical import em
from manykin.models.classical.groups import by_group, groups_of, per_group, spread_of
from manykin.models.classical.kmeans import kmeans
from manykin.models.classical.real import NormalDensity
from manykin.models.classical.shapes import SHAPES
from manykin.spaces import Image, Space, Value, count

_START_FLOPS = 2e10
_SMALL = 16_384
_STALE = 5


@dataclass(frozen=True)
class GaussianMixtureConfig(Config):
    """Options of :class:`GaussianMixture`; names are scikit-learn's."""

    n_components: int = option(8, "number of Gaussian components (of each class, if conditional)", ge=1)
    covariance_type: Literal["full", "tied", "diag", "spherical"] = option("full", "shape of the covariances")
    reg_covar: float = option(1e-6, "added to the variances after every step, in squared units of the data", ge=0)
    tol: float = option(1e-3, "converged when the mean log-likelihood rises by less than this", ge=0)
    max_iter: int = option(100, "passes over the data at most", ge=1)
    n_init: int = option(3, "starts tried by k-means++ on a sample; the likeliest after a few steps is kept", ge=1)
    precision: Literal["auto", "single", "double"] = option("auto", "arithmetic of the bulk of an EM step; auto: single where it is safe and pays")


def _default(space: Space, n: int) -> Preset:
    d = torch.Size(space.shape).numel()
    # Pictures: few of their columns vary at once, and many diagonal components beat a few full ones (digits: 2.53 against 2.61 bits/dim).
    full = n >= 20 * d and not isinstance(space, Image)
    k = min(10, n // (10 * d)) if full else n // 15
    return Preset(model={"covariance_type": "full" if full else "diag", "n_components": max(1, min(k, 100))})


class GaussianMixture(NormalDensity):
    """p(x) = sum_k w_k N(x; mu_k, Sigma_k), fitted by expectation-maximisation (EM).

    One pass over the data in mini-batches of any size is one exact EM iteration: the E-step adds sufficient statistics, the M-step solves. The
    likelihood never falls (but for the effect of ``reg_covar``). Starts come from k-means++ on standardised columns of a sample. With labels as
    condition each class has a mixture of its own; a class absent from training keeps the start of the whole data.

    Time a pass: about 4 n k d^2 operations (full, tied) or 6 n k d (diag, spherical); memory k d^2, whatever n.

    Source: Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM algorithm, 1977; Bishop, Pattern Recognition and Machine
    Learning, 2006, section 9.2.

    Raises:
        InvalidInput: for fewer rows than components, or a constant column.
    """

    config_class = GaussianMixtureConfig
    family = "classical"
    paper = "Dempster, Laird and Rubin, 1977"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {
        "default": _default,
        "tiny": Preset(model={"n_components": 2, "max_iter": 20, "n_init": 1}),
    }

    config: GaussianMixtureConfig
    weights: Tensor
    means: Tensor
    factors: Tensor
    counts: Tensor
    first: Tensor
    second: Tensor
    total: Tensor
    least: Tensor
    record: Tensor
    large: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        k, d = self.config.n_components, self.model_space.shape[0]
        self.groups = groups_of(condition)
        self.shape = SHAPES[self.config.covariance_type](d)
        self._given = False
        start = self.shape.from_std(torch.ones(d, dtype=torch.float64), k)
        buffers = {
            "weights": torch.full((self.groups, k), 1.0 / k), "means": torch.zeros(self.groups, k, d),
            "factors": start.expand(self.groups, *start.shape), "counts": torch.zeros(self.groups, k), "first": torch.zeros(self.groups, k, d),
            "second": torch.zeros(self.groups, *self.shape.moment_shape(k)), "total": torch.zeros(self.groups, 2), "least": torch.zeros(d),
            "record": torch.zeros(3),
        }  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, value.double().clone())
        self.register_buffer("large", torch.tensor(False))

    # Learning.

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("em", statistics=("counts", "first", "second", "total"), max_epochs=self.config.max_iter)]

    def accumulate(self, batch: Batch) -> None:
        """E-step: add the statistics of these rows under the current parameters."""
        z, _ = self.to_model_space(batch.x)
        for group, rows in by_group(batch.condition, self.groups):
            em.accumulate(self.shape, self._component(group), self._moments(group), z[rows], self._single(group))

    def solve(self) -> Progress:
        """M-step; converged when the mean log-likelihood rises by less than ``tol``.

        Dequantised data differ a little in every pass: there it takes several passes in a row without a new best.

        Raises:
            InvalidInput: for a class with fewer rows than components.
        """
        for group in range(self.groups):
            rows = int(self.total[group, 1])
            if 0 < rows < self.config.n_components:
                raise InvalidInput(self._too_few(rows, f"class {group} has" if self.condition is not None else "the training data has"))
            if rows:
                em.maximise(self.shape, self._component(group), self._moments(group), self.config.reg_covar, self.least)
        before, best, stale = self.record.tolist()
        bound = float(self.total[:, 0].sum() / self.total[:, 1].sum())
        stale = 0.0 if bound > best + self.config.tol else stale + 1
        self.record.copy_(torch.tensor([bound, max(best, bound), stale]))
        converged = abs(bound - before) < self.config.tol if self.transform.exact else stale >= _STALE
        return Progress({"lower_bound": bound, "nll": -bound}, converged=converged)

    def initialise(self, sample: Batch) -> None:
        z, _ = self.to_model_space(sample.x)
        if len(z) < self.config.n_components:
            raise InvalidInput(self._too_few(len(z), "the training data has"))
        mean, std = spread_of(z, self.space)
        self.least.copy_(1e-12 * std.square())
        self.large.fill_(len(z) >= _SMALL)
        self.record.copy_(torch.tensor([float("-inf"), float("-inf"), 0.0]))
        if self._given:
            return
        rows_of = dict(by_group(sample.condition, self.groups))
        for group in range(self.groups):
            rows = z[rows_of[group]] if group in rows_of else z
            self._start(group, rows if len(rows) >= self.config.n_components else z, mean, std)

    def set_start(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Start EM here instead of at k-means++: weights (k,), means (k, d), covariances in scikit-learn's storage; a leading axis for classes.

        Raises:
            InvalidInput: for tensors of another shape, weights that do not sum to one, or a covariance that is not positive definite.
        """
        given = {"weights": weights, "means": means, "covariances": covariances}
        expected = {"weights": self.weights, "means": self.means, "covariances": self.shape.expand(self.factors)}
        values = {name: torch.as_tensor(value, dtype=torch.float64, device=self.device) for name, value in given.items()}
        for name, value in values.items():
            wanted = expected[name].shape if self.condition is not None else expected[name].shape[1:]
            if value.shape != wanted:
                raise InvalidInput(f"{name} has shape {tuple(value.shape)}; expected {tuple(wanted)} for covariance_type={self._type!r}.")
        if not torch.allclose(values["weights"].sum(dim=-1), torch.ones((), dtype=torch.float64)) or bool((values["weights"] < 0).any()):
            raise InvalidInput(f"weights are {values['weights'].tolist()}; expected positive numbers that sum to 1.")
        self.weights.copy_(values["weights"].view_as(self.weights))
        self.means.copy_(values["means"].view_as(self.means))
        stacked = values["covariances"].view_as(expected["covariances"])
        self.factors.copy_(torch.stack([self.shape.factorise(covariance) for covariance in stacked]))
        self._given = True

    @property
    def _type(self) -> str:
        return self.config.covariance_type

    def _component(self, group: int) -> em.Component:
        return em.Component(self.weights[group], self.means[group], self.factors[group])

    def _moments(self, group: int) -> em.Moments:
        return em.Moments(self.counts[group], self.first[group], self.second[group], self.total[group])

    def _single(self, group: int) -> bool:
        if self.config.precision != "auto":
            return self.config.precision == "single"
        return bool(self.large) and em.single_suffices(self.shape, self._component(group))

    def _start(self, group: int, rows: Tensor, mean: Tensor, std: Tensor) -> None:
        """The likeliest of ``n_init`` k-means++ starts after a few EM steps on the sample, as many as their cost allows."""
        k, d = self.means.shape[1:]
        current, moments = self._component(group), self._moments(group)
        width = d if self._type in ("full", "tied") else 1
        steps = 0 if self.config.n_init == 1 else max(1, min(10, int(_START_FLOPS / (4.0 * len(rows) * k * d * width))))
        best, kept = float("-inf"), None
        for _ in range(self.config.n_init):
            labels = kmeans((rows - mean) / std, k)
            current.means.copy_(mean)
            current.factors.copy_(self.shape.from_std(std, k))
            moments.clear()
            em.accumulate(self.shape, current, moments, rows, False, labels)
            em.maximise(self.shape, current, moments, self.config.reg_covar, self.least)
            start = [part.clone() for part in (current.weights, current.means, current.factors)]
            score = 0.0
            for _ in range(steps):
                moments.clear()
                em.accumulate(self.shape, current, moments, rows, False)
                em.maximise(self.shape, current, moments, self.config.reg_covar, self.least)
                score = float(moments.total[0])
            if kept is None or score > best:
                best, kept = score, start
        assert kept is not None
        for part, value in zip((current.weights, current.means, current.factors), kept, strict=True):
            part.copy_(value)
        moments.clear()

    def _too_few(self, rows: int, who: str) -> str:
        return f"{who} {rows} rows, fewer than n_components = {self.config.n_components}; lower --model.n_components, or give more rows."

    # Density, samples, latents.

    def _joint(self, z: Tensor, group: int) -> Tensor:
        return em.log_densities(self.shape, z, self.means[group], self.factors[group]) + self.weights[group].log()

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return per_group(z, condition, self.groups, lambda rows, group: torch.logsumexp(self._joint(rows, group), dim=1), self._block)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        k, d = self.means.shape[1:]
        z = torch.randn(n, d, dtype=torch.float64, device=self.device)
        uniform = torch.rand(n, 1, dtype=torch.float64, device=self.device)
        for group, rows in by_group(condition, self.groups):
            edges = self.weights[group].cumsum(dim=0)
            component = torch.searchsorted(edges, uniform[rows] * edges[-1]).clamp_max(k - 1).flatten()
            tril = self.shape.dense(self.factors[group], k)
            noise, drawn = z[rows], torch.empty_like(z[rows])
            for index in torch.bincount(component).nonzero().flatten().tolist():
                chosen = component == index
                drawn[chosen] = self.means[group, index] + noise[chosen] @ tril[index].mT
            z[rows] = drawn
        return z

    @torch.no_grad()
    def encode(self, x: Value, condition: Value | None = None) -> Categorical:
        """Responsibilities: the probability of each component given x, a categorical distribution of batch shape (n,)."""
        with self.evaluating(0):
            z, _, c = self.prepare(x, condition)
            return Categorical(logits=per_group(z, c, self.groups, self._joint, self._block))

    @property
    def _block(self) -> int:
        return max(16, 2**20 // self.means[0].numel())

    # Completion.

    def _dense(self, group: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.weights[group].log(), self.means[group], self.shape.dense(self.factors[group], self.config.n_components)

    # Reading.

    def parameters_table(self) -> dict[str, Tensor]:
        """``weights`` (k,), ``means`` (k, d) and ``covariances`` in scikit-learn's storage; a leading axis for classes if conditional."""
        table = {"weights": self.weights, "means": self.means, "covariances": self.shape.expand(self.factors)}
        return {name: value.clone() if self.condition is not None else value[0].clone() for name, value in table.items()}

    def n_parameters(self) -> int:
        """Free parameters of the fitted mixture, of all classes."""
        k, d = self.means.shape[1:]
        return self.groups * (self.shape.parameters(k) + k * d + k - 1)

    def bic(self, x: Value, condition: Value | None = None) -> float:
        """Bayesian information criterion, -2 log-likelihood + parameters * log n; lower is better (Schwarz, 1978)."""
        n = torch.tensor(float(count(x)), dtype=torch.float64)
        return float(-2 * self._total(x, condition) + self.n_parameters() * n.log())

    def aic(self, x: Value, condition: Value | None = None) -> float:
        """Akaike information criterion, -2 log-likelihood + 2 parameters; lower is better."""
        return float(-2 * self._total(x, condition) + 2 * self.n_parameters())

    @torch.no_grad()
    def _total(self, x: Value, condition: Value | None) -> Tensor:
        return self.log_prob(x, condition).sum()
