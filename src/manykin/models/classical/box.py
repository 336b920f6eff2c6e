"""Box: the uniform distribution on the bounding box of the data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, distributed

from manykin.config import Config, option
from manykin.contract import EXACT, Batch, ClosedForm, Density, GenerativeModel, Phase, Preset, Progress, Sampler, Support
from manykin.errors import InvalidInput
from manykin.models.classical.conditioning import complete
from manykin.models.classical.groups import by_group, groups_of, per_group
from manykin.spaces import Labels, Space, Value, Vector, columns_of


@dataclass(frozen=True)
class BoxConfig(Config):
    """Options of :class:`Box`."""

    margin: float = option(0.0, "widen every side by this fraction of its width, half at each end", ge=0)


class Box(GenerativeModel):
    """p(x) = prod_j 1 / (b_j - a_j) for a <= x <= b, and 0 outside.

    The likelihood of n rows inside a box is volume^-n, so maximum likelihood takes the smallest box that holds them: the bounding box. It is the
    plainest case of overfitting by maximum likelihood: a new row falls outside with probability of about 2 d / (n + 1), and then has log
    density -inf, however near it lies. A ``margin`` m widens every side by the factor 1 + m (half of the addition at each end), which lowers every
    training row's log density by d log(1 + m) and gives rows just outside a finite one; m = 2 / (n - 1) makes each side's width unbiased. Columns
    on a grid reach from their lowest cell to their highest.

    With labels as condition each class has a box of its own; a class absent from training takes the box of all rows.

    Time n d and memory d, in one pass.

    Source: Casella and Berger, Statistical Inference, 2002, example 7.3.13 (the uniform distribution's maximum likelihood and its bias).

    Raises:
        InvalidInput: for a single row, or a column that is constant, whose density is unbounded.
    """

    config_class = BoxConfig
    family = "classical"
    paper = "Casella and Berger, 2002"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {"default": Preset(), "tiny": Preset()}

    config: BoxConfig
    low: Tensor
    high: Tensor
    seen_low: Tensor
    seen_high: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.groups = groups_of(condition)
        shape = (self.groups, self.model_space.shape[0])
        self.register_buffer("low", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("high", torch.ones(shape, dtype=torch.float64))
        # Extremes cannot be summed over processes, so they are no `statistics` of the phase: solve() reduces and resets them itself.
        self.register_buffer("seen_low", torch.full(shape, float("inf"), dtype=torch.float64))
        self.register_buffer("seen_high", torch.full(shape, float("-inf"), dtype=torch.float64))
        cells = torch.tensor([[column.origin, column.grid or 0.0] for column in columns_of(space)], dtype=torch.float64)
        self.origin, self.step = cells.unbind(dim=1)

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Vector,), standardise=False, bounded="keep", condition=(Labels,))

    # Learning.

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("extremes")]

    def initialise(self, sample: Batch) -> None:
        self._forget()
        if len(sample) < 2:
            raise InvalidInput(f"the training data has {len(sample)} row; expected at least 2: the box around one row has no volume.")

    def accumulate(self, batch: Batch) -> None:
        """Note the lowest and highest values so far; of columns on a grid, the ends of their cells."""
        z, _ = self.to_model_space(batch.x)
        step, origin = self.step.to(z.device), self.origin.to(z.device)
        cell = origin + ((z - origin) / torch.where(step > 0, step, 1.0)).floor() * step
        low, high = torch.where(step > 0, cell, z), torch.where(step > 0, cell + step, z)
        for group, rows in by_group(batch.condition, self.groups):
            self.seen_low[group] = torch.minimum(self.seen_low[group], low[rows].amin(dim=0))
            self.seen_high[group] = torch.maximum(self.seen_high[group], high[rows].amax(dim=0))

    def solve(self) -> Progress:
        """The bounding box with its margin.

        Raises:
            InvalidInput: for a constant column.
        """
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self.seen_low, distributed.ReduceOp.MIN)
            distributed.all_reduce(self.seen_high, distributed.ReduceOp.MAX)
        pooled = (self.seen_low.amin(dim=0), self.seen_high.amax(dim=0))
        self._refuse_constant(*pooled)
        usable = (self.seen_high > self.seen_low).all(dim=1, keepdim=True)
        low, high = torch.where(usable, self.seen_low, pooled[0]), torch.where(usable, self.seen_high, pooled[1])
        extra = 0.5 * self.config.margin * (high - low)
        self.low.copy_(low - extra)
        self.high.copy_(high + extra)
        self._forget()
        nll = (self.condition_frequencies if self.condition is not None else 1.0) * (self.high - self.low).log().sum(dim=1)
        return Progress({"nll": float(nll.sum())}, converged=True)

    def _forget(self) -> None:
        self.seen_low.fill_(float("inf"))
        self.seen_high.fill_(float("-inf"))

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
        inside = ((z >= self.low[group]) & (z <= self.high[group])).all(dim=1)
        log_volume = (self.high[group] - self.low[group]).log().sum()
        # z enters with weight zero: the density is flat inside, and log_prob stays differentiable in x.
        return torch.where(inside, -log_volume + 0.0 * z.sum(dim=1), float("-inf"))

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = torch.rand(n, self.low.shape[1], dtype=torch.float64, device=self.device)
        for group, rows in by_group(condition, self.groups):
            z[rows] = self.low[group] + z[rows] * (self.high[group] - self.low[group])
        return z

    # Completion and reading.

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """x with the entries where ``known`` is False drawn uniformly from the box: columns are independent. Unknown entries of x may be NaN."""

        def fill(rows: Tensor, pattern: Tensor, group: int) -> Tensor:
            low, width = self.low[group, ~pattern], (self.high - self.low)[group, ~pattern]
            return low + torch.rand(len(rows), len(low), dtype=rows.dtype, device=rows.device) * width

        return complete(self, x, known, condition, seed, self.groups, fill)

    def predict(self, x: Value, known: Tensor, condition: Value | None = None) -> Value:
        """x with the entries where ``known`` is False replaced by the middle of the box."""
        middle = (self.low + self.high) / 2
        return complete(self, x, known, condition, 0, self.groups, lambda rows, pattern, g: middle[g, ~pattern].expand(len(rows), -1))

    def parameters_table(self) -> dict[str, Tensor]:
        """``low`` and ``high`` (d,); a leading axis for classes if conditional."""
        table = {"low": self.low, "high": self.high}
        return {name: value.clone() if self.condition is not None else value[0].clone() for name, value in table.items()}
