"""Kernel density estimate."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from manykin.config import Config, option
from manykin.contract import Batch, ClosedForm, Phase, Preset, Progress, Sampler
from manykin.models.classical.groups import by_group, groups_of, per_group, spread_of
from manykin.models.classical.kernels import KERNELS
from manykin.models.classical.kmeans import squared_distances
from manykin.models.classical.real import RealDensity
from manykin.spaces import Image, Space, Value

_QUERIES = 1024
_ELEMENTS = 2**21


@dataclass(frozen=True)
class KDEConfig(Config):
    """Options of :class:`KDE`."""

    bandwidth: float | Literal["scott", "silverman", "cross-validation"] = option(
        "cross-validation", "width of the kernel: a number, a rule of thumb, or the best leave-one-out likelihood", gt=0
    )
    kernel: Literal["gaussian", "tophat", "epanechnikov"] = option("gaussian", "shape of the kernel")
    scale_columns: bool = option(True, "measure each column in its own standard deviation, so that the kernel is wide where the column is")
    max_rows: int = option(16_384, "training rows kept (chosen at random), each a kernel", ge=2, le=16_384)


def _default(space: Space, n: int) -> Preset:
    return Preset(model={"scale_columns": not isinstance(space, Image)})


class KDE(RealDensity):
    """p(x) = 1/m sum_i K((x - x_i) / (h s)) / (h^d prod_j s_j): a kernel on each of m training rows.

    s are the standard deviations of the columns (within classes), or 1. The bandwidth h may be a number, Scott's m^(-1/(d+4)) or Silverman's
    (m (d+2)/4)^(-1/(d+4)), as in scikit-learn, or the maximum of the leave-one-out likelihood sum_i log p_{-i}(x_i), where p_{-i} leaves out x_i
    and every copy of it: counting the row itself would drive h to zero. With labels as condition each class has its own rows and bandwidth;
    a class absent from the kept rows takes those of all.

    A density or a sample costs m d operations, with m at most ``max_rows``; memory m d. The file of the model holds training rows.

    Source: Silverman, Density Estimation for Statistics and Data Analysis, 1986, sections 3.4.4 (likelihood cross-validation) and 4.2.1; Scott,
    Multivariate Density Estimation, 1992, equation 6.42.

    Raises:
        InvalidInput: for a single row or a constant column.
    """

    config_class = KDEConfig
    family = "classical"
    paper = "Parzen, 1962; Silverman, 1986"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {"default": _default, "tiny": Preset(model={"max_rows": 512})}
    stores_rows = True

    config: KDEConfig
    rows: Tensor
    row_labels: Tensor
    bandwidth: Tensor
    scale: Tensor
    centre: Tensor
    counts: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        d, g = self.model_space.shape[0], groups_of(condition)
        self.groups = g
        self.kernel = KERNELS[self.config.kernel]
        buffers = {
            "bandwidth": torch.ones(g), "scale": torch.ones(d), "centre": torch.zeros(d), "counts": torch.zeros(g), "first": torch.zeros(g, d),
            "second": torch.zeros(g, d),
        }  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, value.double())
        self._make_rows(1)

    def allocate(self, sizes: Mapping[str, int]) -> None:
        super().allocate(sizes)
        self._make_rows(sizes["rows"])

    def _make_rows(self, n: int) -> None:
        self.register_buffer("rows", torch.zeros(n, self.model_space.shape[0], dtype=torch.float64, device=self.device))
        self.register_buffer("row_labels", torch.zeros(n, dtype=torch.long, device=self.device))

    # Learning.

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("bandwidth", statistics=("counts", "first", "second"))]

    def initialise(self, sample: Batch) -> None:
        z, _ = self.to_model_space(sample.x)
        mean, _ = spread_of(z, self.space)
        kept = torch.randperm(len(z))[: self.config.max_rows].sort().values if len(z) > self.config.max_rows else slice(None)
        self.allocate({"rows": len(z[kept])})
        self.rows.copy_(z[kept])
        if sample.condition is not None:
            assert isinstance(sample.condition, Tensor)
            self.row_labels.copy_(sample.condition[kept])
        self.centre.copy_(mean)

    def accumulate(self, batch: Batch) -> None:
        """Add the moments of each column, within each class."""
        z, _ = self.to_model_space(batch.x)
        for group, rows in by_group(batch.condition, self.groups):
            y = z[rows] - self.centre
            self.counts[group] += len(y)
            self.first[group] += y.sum(dim=0)
            self.second[group] += y.square().sum(dim=0)

    def solve(self) -> Progress:
        """Column scales from the moments, then each class's bandwidth."""
        n = self.counts.clamp_min(1).unsqueeze(1)
        within = ((self.second - self.first.square() / n).sum(dim=0) / self.counts.sum()).clamp_min(0).sqrt()
        overall = (self.second.sum(dim=0) - self.first.sum(dim=0).square() / self.counts.sum()).div(self.counts.sum()).clamp_min(0).sqrt()
        # Where a column is constant within every class, its spread over all classes is the only scale there is.
        std = torch.where(within > 1e-6 * overall, within, overall)
        self.scale.copy_(std if self.config.scale_columns else torch.ones_like(std))
        typical = 1.0 if self.config.scale_columns else float(std.square().mean().sqrt())
        for group in range(self.groups):
            self.bandwidth[group] = self._choose(self._kept(group) / self.scale, typical)
        return Progress({"bandwidth": float(self.bandwidth.mean())}, converged=True)

    def _choose(self, rows: Tensor, typical: float) -> float:
        m, d = rows.shape
        rule = self.config.bandwidth
        if isinstance(rule, float):
            return rule
        if rule == "silverman":
            return float((m * (d + 2) / 4) ** (-1 / (d + 4)))
        scott = float(m ** (-1 / (d + 4)))
        return scott if rule == "scott" or m < 3 else self._cross_validate(rows, scott * typical)

    def _cross_validate(self, rows: Tensor, guess: float) -> float:
        """The bandwidth of the best leave-one-out likelihood: a coarse grid around ``guess``, then two finer ones around its best."""
        queries = torch.randperm(len(rows), device=rows.device)[:_QUERIES]
        asked = queries[: _QUERIES // 4]
        low, high, points = math.log(guess) - 5.0, math.log(guess) + 2.5, 16
        best = math.log(guess)
        for _ in range(3):
            grid = torch.linspace(low, high, points, dtype=torch.float64, device=rows.device)
            scores = self.leave_one_out(rows, asked, grid.exp())
            if not bool(torch.isfinite(scores).any()):
                break
            best = float(grid[scores.argmax()])
            step = (high - low) / (points - 1)
            low, high, points, asked = best - step, best + step, 9, queries
        return math.exp(best)

    def leave_one_out(self, rows: Tensor, queries: Tensor, bandwidths: Tensor) -> Tensor:
        """Mean log density of ``rows[queries]`` under kernels on all other rows, for each bandwidth; scaled rows (m, d), shape as ``bandwidths``.

        Copies of a row are left out with it, so that repeated rows cannot drive the bandwidth to zero.
        """
        m, d = rows.shape
        norms = (rows - rows.mean(dim=0)).square().sum(dim=1)
        total = torch.zeros_like(bandwidths)
        for block in torch.split(queries, max(1, _ELEMENTS // m)):
            squares = squared_distances(rows[block], rows)
            squares[squares <= 1e-12 * (norms[block].unsqueeze(1) + norms)] = float("inf")
            squares[torch.arange(len(block)), block] = float("inf")
            for index, h in enumerate(bandwidths):
                total[index] += torch.logsumexp(self.kernel.log_density(squares / h.square(), d), dim=1).sum()
        return total / len(queries) - d * bandwidths.log() - math.log(m - 1)

    def _kept(self, group: int) -> Tensor:
        """The kernels of a class."""
        if self.condition is None:
            return self.rows
        own = self.row_labels == group
        return self.rows[own] if own.any() else self.rows

    # Density and samples.

    def _density(self, z: Tensor, group: int) -> Tensor:
        kept, h, d = self._kept(group), self.bandwidth[group], z.shape[1]
        squares = squared_distances(z / self.scale, kept / self.scale) / h.square()
        volume = d * h.log() + self.scale.log().sum() + math.log(len(kept))
        return torch.logsumexp(self.kernel.log_density(squares, d), dim=1) - volume

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return per_group(z, condition, self.groups, self._density, max(1, _ELEMENTS // len(self.rows)))

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = self.kernel.draw(n, self.rows.shape[1], self.rows)
        uniform = torch.rand(n, dtype=torch.float64, device=self.device)
        for group, rows in by_group(condition, self.groups):
            kept = self._kept(group)
            chosen = (uniform[rows] * len(kept)).long().clamp_max(len(kept) - 1)
            z[rows] = kept[chosen] + z[rows] * self.bandwidth[group] * self.scale
        return z

    # Completion and reading.

    def _weights(self, rows: Tensor, known: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """The probability of each kernel given the known entries, and their squared distances in bandwidths, both (n, m).

        Where no kernel reaches the known entries (the density there is zero) the nearest one serves.
        """
        scale, kept = self.scale[known], self._kept(group)[:, known]
        squares = squared_distances(rows[:, known] / scale, kept / scale) / self.bandwidth[group].square()
        logits = self.kernel.log_marginal(squares, int((~known).sum()))
        nearest = torch.nn.functional.one_hot(squares.argmin(dim=1), len(kept)).double().log()
        reached = torch.isfinite(logits).any(dim=1, keepdim=True)
        return torch.softmax(torch.where(reached, logits, nearest), dim=1), torch.where(reached, squares, 0.0)

    def _mean_unknown(self, rows: Tensor, known: Tensor, group: int) -> Tensor:
        weights, _ = self._weights(rows, known, group)
        return weights @ self._kept(group)[:, ~known]

    def _draw_unknown(self, rows: Tensor, known: Tensor, group: int) -> Tensor:
        weights, squares = self._weights(rows, known, group)
        chosen = torch.multinomial(weights, 1)
        u = self.kernel.draw(len(rows), int((~known).sum()), rows) * self.kernel.radius(squares.gather(1, chosen))
        return self._kept(group)[chosen.flatten()][:, ~known] + u * self.bandwidth[group] * self.scale[~known]

    def parameters_table(self) -> dict[str, Tensor]:
        """``bandwidth`` (), of each class if conditional, and ``scale`` (d,), the unit of each column."""
        return {"bandwidth": self.bandwidth.clone() if self.condition is not None else self.bandwidth[0].clone(), "scale": self.scale.clone()}
