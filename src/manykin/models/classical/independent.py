"""Independent columns: the floor that every other model must beat."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

from torch import Tensor

from manykin.config import Config, option
from manykin.contract import Batch, Preset, Progress, Support
from manykin.models.classical.cells import Cells
from manykin.models.classical.columns import Finite, Missing, Numbers, Part, numeric
from manykin.models.classical.histogram import Histogram
from manykin.models.classical.parts import Levels, Moments, Normals
from manykin.models.classical.positions import Positions
from manykin.models.classical.product import Product
from manykin.spaces import Column, Labels, Space, Table, Tokens


@dataclass(frozen=True)
class IndependentConfig(Config):
    """Options of :class:`Independent`."""

    alpha: float = option(0.5, "pseudo-count of each level, bin and symbol", gt=0)
    real: Literal["histogram", "gaussian"] = option("histogram", "distribution of real columns")
    bins: int | None = option(None, "bins of each histogram; none: by held-out likelihood", ge=1, le=65536)
    max_levels: int = option(1024, "ordered columns with more levels than this get a histogram", ge=1)


class Independent(Product):
    """Every column on its own: p(x | c) = product over columns j of p_j(x_j | c).

    - Categories and ordered levels: smoothed frequencies (n_v + alpha) / (n + alpha V). ``alpha = 1/2`` is the estimator of Krichevsky and Trofimov
      (The performance of universal encoding, 1981), whose excess code length over the best frequencies is minimax up to a constant.
    - Integers without bounds: a histogram over the observed range with geometric tails, so that every integer has positive probability.
    - Real columns: a histogram with exponential tails (see :mod:`.histogram`), or a normal distribution; on a grid, its mass in each cell.
    - Missing values: p(missing) * nothing, or p(present) * p(value | present), with p(missing) estimated with half a pseudo-row on each side.
    - Texts: symbols independent of one another (see :mod:`.positions`).

    Everything is counted in one pass in constant memory. Fitting costs O(n d); evaluation O(n d).
    """

    config_class = IndependentConfig
    paper = "Laplace, Essai philosophique sur les probabilités, 1814"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {"default": Preset(), "tiny": Preset()}

    def __init__(self, config: IndependentConfig | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        options: IndependentConfig = self.config
        labels = condition.classes if isinstance(condition, Labels) else 1
        if isinstance(self.model_space, Tokens):
            self.build([Positions(self.model_space, labels, options.alpha)], None, 1)
            return
        columns = cast(Table, self.model_space).columns
        parts: list[Part] = [Levels(Finite(columns, options.max_levels), labels, options.alpha)]
        histogram, normal = _split(columns, options)
        for kind, on_grid in ((Normals, False), (Cells, True)):
            index = [i for i in normal if (columns[i].grid is not None) == on_grid]
            if index:
                parts.append(kind(Numbers(columns, index), labels, reg=options.alpha, floor=1e-9))
        if histogram:
            parts.append(Histogram(Numbers(columns, histogram), labels, options.alpha, options.bins))
        missing = Missing(columns, labels, shared=1) if any(column.missing for column in columns) else None
        self.build(parts, missing, 1)

    @property
    def accepts(self) -> Support:
        return Support((Table, Tokens), missing=True, standardise=False, condition=(Labels,))

    def allocate(self, sizes: Mapping[str, int]) -> None:
        super().allocate(sizes)
        for _, part in self.own_parts():
            if isinstance(part, Histogram) and "bins" in sizes:
                part.resize(sizes["bins"])

    def initialise(self, sample: Batch) -> None:
        z, _ = self.to_model_space(sample.x)
        for _, part in self.own_parts():
            part.initialise(z)
            if isinstance(part, Histogram):
                edges = part.edges.clone()
                self.allocate({"bins": edges.shape[1] - 1})
                part.edges.copy_(edges)
                part.solve()

    def accumulate(self, batch: Batch) -> None:
        """Count a batch."""
        z, _ = self.to_model_space(batch.x)
        self.add_rows(z, self.log_mixing.new_ones(len(z), 1), batch.condition)

    def solve(self) -> Progress:
        """Turn counts into probabilities."""
        for _, part in self.own_parts():
            part.solve()
        return Progress(converged=True)

    def parameters_table(self) -> dict[str, Tensor]:
        """``log_probs`` of levels or symbols, ``means`` and ``variances`` of normal columns, ``edges`` and ``log_mass`` of histograms, ``missing``.

        The first axis counts labels, 1 for an unconditional model. Rows of a kind of column keep the order of the table.
        """
        table: dict[str, Tensor] = {}
        for _, part in self.own_parts():
            if isinstance(part, (Levels, Positions)) and part.log_probs.numel():
                table["log_probs"] = part.log_probs
            if isinstance(part, Moments):
                name = "grid_" if isinstance(part, Cells) else ""
                table[f"{name}means"], table[f"{name}variances"] = part.in_data_units()
            if isinstance(part, Histogram):
                table["edges"], table["log_mass"] = part.edges, part.log_mass
            if isinstance(part, Missing):
                table["missing"] = part.probability
        return table


def _split(columns: tuple[Column, ...], options: IndependentConfig) -> tuple[list[int], list[int]]:
    """Numeric columns that get a histogram, and those that are normal."""
    index = numeric(columns, options.max_levels)
    normal = [i for i in index if options.real == "gaussian" and columns[i].kind == "real"]
    return [i for i in index if i not in set(normal)], normal
