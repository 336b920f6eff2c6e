"""Mixture of products of columns: latent classes for categories, mixtures of Bernoullis for binary pictures, mixed tables in one model."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.distributions import Categorical

from manykin.config import Config, option
from manykin.contract import Batch, ClosedForm, Preset, Progress
from manykin.errors import InvalidInput
from manykin.models.classical.cells import Spikes
from manykin.models.classical.columns import Finite, Missing, Numbers, Part, numeric
from manykin.models.classical.parts import Levels, Moments, Normals
from manykin.models.classical.product import Product
from manykin.models.classical.seeding import plus_plus, signatures
from manykin.spaces import Labels, Space, Table, Value, columns_of, count


@dataclass(frozen=True)
class MixtureConfig(Config):
    """Options of :class:`Mixture`."""

    n_components: int = option(10, "components in all; with a condition, split evenly among its labels (at least one each)", ge=1)
    alpha: float = option(0.5, "pseudo-count of each level in the overall frequencies of its column", gt=0)
    borrow: float = option(0.5, "pseudo-counts a level that each component borrows from those overall frequencies", gt=0)
    reg: float = option(0.1, "pseudo-rows with a numeric column's overall mean and variance in each component", gt=0)
    floor: float = option(1e-6, "smallest variance of a component, as a fraction of the column's", gt=0, le=1)
    missingness: Literal["ignorable", "informative"] = option("ignorable", "whether the chance of a missing value depends on the component")
    max_levels: int = option(256, "ordered columns with more levels than this are discretised normal, frequent values apart", ge=1)
    n_init: int = option(4, "starts, of which the best is kept", ge=1)
    init_iter: int = option(10, "iterations of each start, on the initial sample", ge=0)
    max_iter: int = option(100, "most iterations over the training rows", ge=1)
    tol: float = option(1e-3, "stop where the mean penalised log-likelihood of a row rises by less (nats)", ge=0)


def _default(space: Space, n: int) -> Preset:
    """Components for n rows: about one for 20 rows, fewer where tables are large."""
    width = sum(column.cardinality or 2 for column in columns_of(space))
    affordable = max(2, int(2e7 / max(1, width)))
    return Preset({"n_components": max(1, min(120, affordable, n // 20))})


class Mixture(Product):
    """p(x | c) = sum over k of w_ck * product over columns j of p_ckj(x_j), fitted by expectation-maximisation.

    Columns: tables of probabilities for categories and ordered levels (Lazarsfeld and Henry, Latent structure analysis, 1968); normal densities for
    continuous numbers; for numbers on a grid, unbounded integers among them, the mass that a normal distribution gives to their cell, so that
    probabilities of all grid points sum to one. Values of the latter that are frequent in the sample (such as an exact 0) get a probability of
    their own beside the normal part. Each label of a condition has components of its own.

    EM (Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM algorithm, 1977) maximises the *penalised* log-likelihood

        sum over rows of log p(x) + sum over k of [log w_k / K + borrow * V * sum of q_v log p_kv + reg * E_N(m, s^2) log N(y; mean_k, variance_k)]

    with q the overall frequencies of a column's V levels (or frequent values and the rest) and m, s^2 the overall moments of the columns (of their
    infrequent values), both from the initial sample: a Dirichlet and a conjugate normal prior in the form of pseudo-rows. Every M-step is the
    exact maximum (for cells through the hidden value before rounding, for frequent values through the hidden origin of a row), so this objective
    never falls. Missing values are integrated out, and p(missing) is a factor of its own, with half a pseudo-row on either side:
    ``missingness="ignorable"`` has one rate a column and label, "informative" one a column and component.

    Cost of an iteration: O(n K F) with F the number of levels beyond the first, summed over columns, plus numeric columns; memory O(K F).
    """

    config_class = MixtureConfig
    paper = "Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM algorithm, 1977"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {
        "default": _default,
        "tiny": Preset({"n_components": 4, "n_init": 2, "max_iter": 20}),
    }

    rows: Tensor
    log_likelihood: Tensor
    weight_counts: Tensor
    objective: Tensor

    def __init__(self, config: MixtureConfig | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        options: MixtureConfig = self.config
        columns = cast(Table, self.model_space).columns
        labels = condition.classes if isinstance(condition, Labels) else 1
        each = math.ceil(options.n_components / labels)
        total = each * labels
        finite = Finite(columns, options.max_levels)
        parts: list[Part] = [Levels(finite, total, options.alpha, options.borrow)] if finite.total else []
        index = numeric(columns, options.max_levels)
        real, gridded = [i for i in index if columns[i].grid is None], [i for i in index if columns[i].grid is not None]
        if real:
            parts.append(Normals(Numbers(columns, real), total, options.reg, options.floor))
        if gridded:
            parts.append(Spikes(Numbers(columns, gridded), total, options.reg, options.floor, options.borrow, options.max_levels))
        shared = each if options.missingness == "ignorable" else 1
        self.build(parts, Missing(columns, total, shared) if any(column.missing for column in columns) else None, each)
        self.register_buffer("weight_counts", torch.zeros(labels, each, dtype=torch.float64))
        self.register_buffer("log_likelihood", torch.zeros((), dtype=torch.float64))
        self.register_buffer("rows", torch.zeros((), dtype=torch.float64))
        self.register_buffer("objective", torch.tensor(-math.inf, dtype=torch.float64))

    def _phase(self) -> ClosedForm:
        names = (*self.statistics(), "weight_counts", "log_likelihood", "rows")
        return ClosedForm("em", statistics=names, max_epochs=self.config.max_iter)

    def initialise(self, sample: Batch) -> None:
        """Several starts by k-means++ seeds and one hard assignment; the best after a few iterations on (part of) the sample is kept.

        Raises:
            InvalidInput: where there are fewer rows than components.
        """
        if len(sample) < self.components:
            raise InvalidInput(f"{len(sample)} rows cannot support {self.components} components; lower n_components, or bring more rows.")
        z, _ = self.to_model_space(sample.x)
        start = z
        chosen = torch.randperm(len(z), device=z.device)[: max(4096, 8 * self.components * self.labels)]
        z, c = z[chosen], None if sample.condition is None else cast(Tensor, sample.condition)[chosen]
        view = signatures(z, columns_of(self.model_space))
        best, state = -math.inf, None
        for _ in range(self.config.n_init):
            for _, part in self.own_parts():
                part.initialise(start)
            reached = self._try_start(z, c, view)
            if state is None or reached > best:
                best, state = reached, {name: value.clone() for name, value in self.state_dict().items()}
        assert state is not None
        self.load_state_dict(state)
        self.clear()
        self.objective.fill_(-math.inf)

    def _try_start(self, z: Tensor, condition: Tensor | None, view: tuple[Tensor, Tensor]) -> float:
        """One start; returns the objective that its iterations reach."""
        self.clear()
        weights = torch.zeros(len(z), self.components, dtype=torch.float64, device=z.device)
        for rows, _ in self.by_label(condition):
            nearest = plus_plus(view[0][rows], view[1][rows], self.components)
            weights[rows] = torch.nn.functional.one_hot(nearest, self.components).double()
        self._add(z, weights, condition)
        self._maximise()
        for _ in range(self.config.init_iter):
            self._expect(z, condition)
            self._maximise()
        self._expect(z, condition)
        return float(self.log_likelihood + self._penalty())

    def accumulate(self, batch: Batch) -> None:
        """The E-step on a batch: responsibilities and their weighted statistics."""
        z, _ = self.to_model_space(batch.x)
        self._expect(z, batch.condition)

    def solve(self) -> Progress:
        """The M-step; reports the objective of the parameters that the statistics were taken under."""
        rows = self.rows.clamp(min=1)
        mean, objective = self.log_likelihood / rows, (self.log_likelihood + self._penalty()) / rows
        converged = bool(objective - self.objective < self.config.tol)
        self.objective.copy_(objective)
        self._maximise()
        return Progress({"log_likelihood": float(mean), "objective": float(objective)}, converged)

    def encode(self, x: Value, condition: Value | None = None) -> Categorical:
        """Responsibilities: p(component | x), batch shape (n,)."""
        with torch.no_grad(), self.evaluating(None):
            z, _, c = self.prepare(x, condition)
            return Categorical(logits=self.joint(z, c))

    def n_parameters(self) -> int:
        """Free parameters, all labels together."""
        each = sum(part.free() for _, part in self.own_parts() if part is not self.missing)
        rates = 0 if self.missing is None else self.missing.free() * (self.labels * self.components // self.missing.shared)
        return self.labels * (self.components * each + self.components - 1) + rates

    def bic(self, x: Value, condition: Value | None = None) -> float:
        """Bayesian information criterion on x, lower is better (Schwarz, Estimating the dimension of a model, 1978)."""
        return -2 * float(self.log_prob(x, condition).sum()) + self.n_parameters() * math.log(count(x))

    def aic(self, x: Value, condition: Value | None = None) -> float:
        """Akaike's information criterion on x, lower is better (Akaike, A new look at the statistical model identification, 1974)."""
        return -2 * float(self.log_prob(x, condition).sum()) + 2 * self.n_parameters()

    def parameters_table(self) -> dict[str, Tensor]:
        """``weights`` (k,), ``means`` and ``variances`` (k, d) in the user's units, ``missing`` (k, columns with missing values).

        Codes stand for categories. With a condition, components are those of the first label, then of the second, and so on; the weights of a label
        sum to one. ``log_probs`` (k, levels of all finite columns) are sorted by cardinality, then position.
        """
        width = len(columns_of(self.model_space))
        means = torch.zeros(self.labels * self.components, width, dtype=torch.float64, device=self.device)
        variances = torch.zeros_like(means)
        table = {"weights": self.log_mixing.exp().flatten(), "means": means, "variances": variances}
        for _, part in self.own_parts():
            if isinstance(part, Levels):
                means[:, part.columns.index], variances[:, part.columns.index] = part.moments()
                table["log_probs"] = part.log_probs
            elif isinstance(part, Moments):
                means[:, part.columns.index], variances[:, part.columns.index] = part.in_data_units()
            elif isinstance(part, Missing):
                table["missing"] = part.probability
        return table

    def _expect(self, z: Tensor, condition: Value | None) -> None:
        joint = self.joint(z, condition)
        total = joint.logsumexp(dim=1)
        self.log_likelihood += total.sum()
        self._add(z, (joint - total[:, None]).exp(), condition)

    def _add(self, z: Tensor, weights: Tensor, condition: Value | None) -> None:
        self.add_rows(z, weights, condition)
        label = condition if isinstance(condition, Tensor) else torch.zeros(len(z), dtype=torch.long, device=z.device)
        self.weight_counts.index_add_(0, label, weights)
        self.rows += len(z)

    def _maximise(self) -> None:
        for _, part in self.own_parts():
            part.solve()
        counts = self.weight_counts + 1 / self.components
        self.log_mixing.copy_(counts.log() - counts.sum(dim=1, keepdim=True).log())
        self.clear()

    def _penalty(self) -> Tensor:
        priors = torch.stack([part.penalty().to(self.device) for _, part in self.own_parts()])
        return priors.sum() + self.log_mixing.mean(dim=1).sum()
