"""Box: the uniform distribution on the bounding box of the data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, distributed

from manykin.config import Config, option
from manykin.contract import EXACT, Batch, ClosedForm, Density, GenerativeModel, Phase, Preset, Progress, Sampler, Support
from manykin.errors import InvalidInput, ManykinError
from manykin.models.classical.conditioning import complete
from manykin.models.classical.groups import by_group, groups_of, per_group
from manykin.spaces import Labels, Space, Table, Value, columns_of

_PROCESSES = 16
_SINGLE_EPS = 1.2e-7


@dataclass(frozen=True)
class BoxConfig(Config):
    """Options of :class:`Box`."""

    margin: float = option(0.0, "widen every side by this fraction of its width, half at each end (whole cells of columns on a grid)", ge=0)


class Box(GenerativeModel):
    """p(x) = prod_j 1 / (b_j - a_j) for a <= x <= b, and 0 outside.

    The likelihood of n rows inside a box is volume^-n, so maximum likelihood takes the smallest box that holds them: the bounding box. It is the
    plainest case of overfitting by maximum likelihood: a new row falls outside with probability of about 2 d / (n + 1), and then has log
    density -inf, however near it lies. A ``margin`` m widens every side by the factor 1 + m, which lowers every training row's log density by
    d log(1 + m) and gives rows just outside a finite one; m = 2 / (n - 1) makes each side's width unbiased. A column on a grid is uniform on the
    values from its lowest to its highest, a categorical one on all of its categories.

    With labels as condition each class has a box of its own; a class with a flat box takes the box of all rows. A value that lies on the
    boundary stays inside when it is rounded to float32.

    Time n d and memory d, in one pass, by up to 16 processes.

    Source: Casella and Berger, Statistical Inference, 2002, example 7.3.13 (the uniform distribution's maximum likelihood and its bias).

    Raises:
        InvalidInput: for a single row, or a real column that is constant, whose density is unbounded.
    """

    config_class = BoxConfig
    family = "classical"
    paper = "Casella and Berger, 2002"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {"default": Preset(), "tiny": Preset()}

    config: BoxConfig
    low: Tensor
    high: Tensor
    extremes: Tensor
    counts: Tensor
    step: Tensor
    bounds: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        columns = columns_of(self.model_space)
        g, d = groups_of(condition), len(columns)
        self.groups = g
        self.register_buffer("low", torch.zeros(g, d, dtype=torch.float64))
        self.register_buffer("high", torch.ones(g, d, dtype=torch.float64))
        # The lowest z and the lowest -z in a slot for each process: statistics are summed over processes, and extremes survive a sum only so.
        self.register_buffer("extremes", torch.zeros(_PROCESSES, g, 2, d, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(_PROCESSES, g, dtype=torch.float64))
        self.register_buffer("step", torch.tensor([column.grid or 0.0 for column in columns], dtype=torch.float64), persistent=False)
        inf = float("inf")
        limits = [(c.origin, c.origin + c.cardinality * (c.grid or 0.0)) if c.cardinality else (-inf, inf) for c in columns]
        self.register_buffer("bounds", torch.tensor(limits, dtype=torch.float64).T, persistent=False)
        self.unordered = torch.tensor([column.kind == "categorical" for column in columns])

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Table,), standardise=False, condition=(Labels,))

    # Learning.

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("extremes", statistics=("extremes", "counts"))]

    def initialise(self, sample: Batch) -> None:
        if len(sample) < 2:
            raise InvalidInput(f"the training data has {len(sample)} row; expected at least 2: the box around one row has no volume.")

    def accumulate(self, batch: Batch) -> None:
        """Note the lowest and highest values so far."""
        z, _ = self.to_model_space(batch.x)
        place = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        if place >= _PROCESSES:
            raise ManykinError(f"box was given process {place + 1}; expected at most {_PROCESSES} processes: use fewer.")
        lowest, counts = self._lowest(), self.counts.sum(dim=0)
        for group, rows in by_group(batch.condition, self.groups):
            part = z[rows]
            lowest[group] = torch.minimum(lowest[group], torch.stack([part.amin(dim=0), (-part).amin(dim=0)]))
            counts[group] += len(part)
        # All slots are folded into this process's own: after a checkpoint the first process also holds those of the others.
        self.extremes.zero_()
        self.counts.zero_()
        self.extremes[place] = torch.where((counts > 0).view(-1, 1, 1), lowest, 0.0)
        self.counts[place] = counts

    def solve(self) -> Progress:
        """The bounding box with its margin.

        Raises:
            InvalidInput: for a constant real column.
        """
        lowest = self._lowest()
        low, high = lowest[:, 0], self.step - lowest[:, 1]
        pooled = (low.amin(dim=0), high.amax(dim=0))
        self._refuse_constant(*pooled)
        usable = (high > low).all(dim=1, keepdim=True)
        low, high = torch.where(usable, low, pooled[0]), torch.where(usable, high, pooled[1])
        extra = 0.5 * self.config.margin * (high - low)
        extra = torch.where(self.step > 0, (extra / self.step.clamp_min(1e-300)).floor() * self.step, extra)
        unordered = self.unordered.to(low.device)
        self.low.copy_(torch.where(unordered, self.bounds[0], torch.maximum(low - extra, self.bounds[0])))
        self.high.copy_(torch.where(unordered, self.bounds[1], torch.minimum(high + extra, self.bounds[1])))
        nll = (self.high - self.low).log().sum(dim=1)
        weights = self.condition_frequencies if self.condition is not None else torch.ones_like(nll)
        return Progress({"nll": float((weights * nll).sum())}, converged=True)

    def _lowest(self) -> Tensor:
        """The lowest z and -z of each class over all slots, (g, 2, d); infinite where a class has not been seen."""
        return torch.where((self.counts > 0).view(_PROCESSES, -1, 1, 1), self.extremes, float("inf")).amin(dim=0)

    def _refuse_constant(self, low: Tensor, high: Tensor) -> None:
        flat = ~(high > low)
        if flat.any():
            index = int(flat.nonzero()[0])
            name = columns_of(self.space)[index].name
            raise InvalidInput(
                f"column {name!r} is constant (always {float(low[index]):g}): the box has no volume; drop it, or declare it an integer or a category."
            )

    # Density and samples.

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return per_group(z, condition, self.groups, self._density, 2**16)

    def _density(self, z: Tensor, group: int) -> Tensor:
        low, high = self.low[group], self.high[group]
        slack = _SINGLE_EPS * torch.maximum(low.abs(), high.abs())
        inside = ((z >= low - 0.5 * self.step - slack) & (z <= high - 0.5 * self.step + slack)).all(dim=1)
        # z enters with weight zero: the density is flat inside, and log_prob stays differentiable in x.
        return torch.where(inside, 0.0 * z.sum(dim=1) - (high - low).log().sum(), float("-inf"))

    def _uniform(self, n: int, group: int) -> Tensor:
        """n draws of one class, on the grid where there is one."""
        low, high = self.low[group], self.high[group]
        u = torch.rand(n, len(low), dtype=torch.float64, device=self.device)
        cells = ((high - low) / self.step.clamp_min(1e-300)).round()
        return low + torch.where(self.step > 0, (u * cells).floor().minimum(cells - 1) * self.step, u * (high - low))

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = self._uniform(n, 0)
        for group, rows in by_group(condition, self.groups):
            if group:
                z[rows] = self._uniform(n, group)[rows]
        return z

    # Completion and reading.

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """x with the entries where ``known`` is False drawn uniformly from the box: columns are independent. Unknown entries of x may be NaN."""
        return complete(self, x, known, condition, seed, self.groups, lambda rows, pattern, g: self._uniform(len(rows), g)[:, ~pattern])

    def parameters_table(self) -> dict[str, Tensor]:
        """``low`` and ``high`` (d,), the upper end of the highest cell where a column is on a grid; a leading axis for classes if conditional."""
        table = {"low": self.low, "high": self.high}
        return {name: value.clone() if self.condition is not None else value[0].clone() for name, value in table.items()}
