"""Degradations with known causes, planted into honest samples: what each metric claims to see, it must see.

Honest samples are real rows that neither the training nor the held-out split holds: what a perfect model would draw. A degradation spoils them in
one way, more or less strongly, and a metric that claims to see it must rank the honest samples before the spoiled ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from manykin.data.dataset import Rows
from manykin.metrics import Case, Estimate, Figure, figure, judge
from manykin.metrics.extractor import Extractor
from manykin.random import generator
from manykin.spaces import Column, Image, Labels, Space, Table, columns_of

P_VALUE = "p-value"
CLEAR = 3.7
"""Standard errors by which spoiled samples must look worse to count as seen: one-sided p = 1e-4."""
STRENGTHS = (0.5, 1.0)
"""How strongly each degradation is planted: half of it, and all of it."""


@dataclass(frozen=True, eq=False)
class Ground:
    """Real rows in three disjoint parts, with their classes: training, held-out, and honest samples (a few more than ``n`` of them)."""

    name: str
    space: Space
    train: Rows
    test: Rows
    honest: Rows
    classes: Labels
    n: int

    @cached_property
    def spread(self) -> Tensor:
        """The standard deviation of each entry among training rows; of all entries together for pictures, whose margins never vary."""
        x = _values(self.train)
        if isinstance(self.space, Image):
            return x.std().expand(x.shape[1:])
        known = torch.where(x.isnan(), torch.nan, x)
        centre = known.nanmean(dim=0)
        return ((known - centre) ** 2).nanmean(dim=0).sqrt()

    @property
    def numeric(self) -> Tensor:
        """Which entries are amounts, of the shape of a row."""
        return torch.tensor([column.kind != "categorical" for column in columns_of(self.space)]).reshape(self.space.shape)

    def case(self, x: Tensor, extractor: Extractor | None = None, seed: int = 0) -> Case:
        """These samples beside the ground's rows."""
        return Case(self.space, self.train, self.test, x, None, self.classes, seed, None, extractor)


@dataclass(frozen=True)
class Degradation:
    """One way to spoil samples: ``spoil(ground, x, labels, strength, generator)`` gives n spoiled samples from the honest rows and their labels."""

    name: str
    what: str
    spoil: Callable[[Ground, Tensor, Tensor, float, torch.Generator], Tensor]
    only: Literal["", "pictures"] = ""

    def applies(self, ground: Ground) -> bool:
        """Whether it means something for these data."""
        return self.only != "pictures" or isinstance(ground.space, Image)

    def samples(self, ground: Ground, strength: float, seed: int = 0) -> Tensor:
        """n spoiled samples that are valid in the data space."""
        draw = generator(seed, "degradation", self.name)
        labels = ground.honest.labels
        assert labels is not None
        return _valid(ground.space, self.spoil(ground, _values(ground.honest), labels, strength, draw))


@dataclass(frozen=True)
class Cell:
    """One figure on samples spoiled in one way, beside its value on honest samples."""

    figure: Figure
    degradation: str
    strength: float
    value: Estimate
    honest: Estimate

    @property
    def worse(self) -> float:
        """Standard errors between honest and spoiled, positive where the spoiled samples look worse; for a p-value the normal score of 1 - p."""
        told, value, honest = self.figure, self.value.value, self.honest.value
        if self.value.unit == P_VALUE:
            return -float(torch.special.ndtri(torch.tensor(max(value, 1e-300), dtype=torch.float64)))
        ideal = told.ideal or 0.0
        gap = {"lower": value - honest, "higher": honest - value, "target": abs(value - ideal) - abs(honest - ideal), "none": 0.0}[told.better]
        error: float = ((self.value.stderr or 0.0) ** 2 + (self.honest.stderr or 0.0) ** 2) ** 0.5
        if error > 0:
            return gap / error
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)

    @property
    def clear(self) -> bool:
        """Whether the spoiled samples are told from the honest ones: 3.7 standard errors, or a p-value of at most 1 in 1,000."""
        return self.value.value <= 1e-3 if self.value.unit == P_VALUE else self.worse > CLEAR


def survey(
    ground: Ground, names: Sequence[str], *, extractor: Extractor | None = None, degradations: Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS, seed: int = 0,
) -> list[Cell]:  # fmt: skip
    """Every figure of these metrics on every degradation that applies to the ground, beside its value on honest samples.

    Args:
        ground: the real rows.
        names: metrics of the table.
        extractor: what looks at pictures.
        degradations: names; None for all.
        strengths: between 0 (honest) and 1.
        seed: of everything.
    """
    honest = _figures(judge(ground.case(_values(ground.honest)[: ground.n].to(_dtype(ground.space)), extractor, seed), names).estimates)
    cells = []
    for name in degradations or TABLE:
        if not TABLE[name].applies(ground):
            continue
        for strength in strengths:
            found = _figures(judge(ground.case(TABLE[name].samples(ground, strength, seed), extractor, seed), names).estimates)
            for key, (told, value) in found.items():
                if key in honest:
                    cells.append(Cell(told, name, strength, value, honest[key][1]))
    return cells


def digits_ground(n: int = 400) -> Ground:
    """The handwritten digits of scikit-learn: 897 training rows, 450 held out, 450 honest samples."""
    from manykin.data import load_data

    data = load_data("digits")
    assert data.test is not None
    assert data.classes is not None
    assert isinstance(data.train.x, Tensor)
    assert isinstance(data.test.x, Tensor)
    assert data.train.label is not None
    assert data.test.label is not None
    x, label = torch.cat([data.train.x, data.test.x]), torch.cat([data.train.label, data.test.label])
    rows = Rows(x, label=label, index=torch.randperm(len(x), generator=generator(0, "digits ground")))
    train, test, honest = (rows.select(torch.arange(start, stop)) for start, stop in ((0, 897), (897, 1347), (1347, 1797)))
    return Ground("digits", data.space, train, test, honest, data.classes, n)


def table_ground(n: int = 1000) -> Ground:
    """A table of four groups: two correlated real columns, a skewed one, an integer and a category, all of which depend on the group."""
    groups, count = 4, 4 * n
    draw = generator(0, "table ground")
    label = torch.randint(groups, (count,), generator=draw)
    first = 2.0 * label + torch.randn(count, generator=draw)
    second = 0.8 * first + 0.6 * torch.randn(count, generator=draw) - 3.0 * (label == 2)
    third = torch.exp(0.5 * torch.randn(count, generator=draw) + 0.3 * label)
    whole = torch.poisson(2.0 + 3.0 * label, generator=draw)
    colour = torch.where(torch.rand(count, generator=draw) < 0.8, label % 3, torch.randint(3, (count,), generator=draw))
    x = torch.stack([first, second, third, whole, colour], dim=1).double()
    space = Table((
        Column("first"), Column("second"), Column("third"), Column("whole", "integer"), Column("colour", "categorical", ("blue", "green", "red")),
    ))  # fmt: skip
    rows = Rows(x, label=label)
    train, test, honest = (rows.select(torch.arange(start, stop)) for start, stop in ((0, n), (n, 2 * n), (2 * n, count)))
    return Ground("table", space, train, test, honest, Labels(groups), n)


def _figures(estimates: Sequence[Estimate]) -> Mapping[str, tuple[Figure, Estimate]]:
    found = {}
    for estimate in estimates:
        told = figure(estimate.name)
        if told is not None and told.name == estimate.name:
            found[estimate.name] = (told, estimate)
    return found


def _values(rows: Rows) -> Tensor:
    x = rows.all().x
    assert isinstance(x, Tensor)
    return x.double()


def _dtype(space: Space) -> torch.dtype:
    return space.dtype if isinstance(space, Image) else torch.float64


def _valid(space: Space, x: Tensor) -> Tensor:
    """Values rounded and clamped to what the space allows."""
    if isinstance(space, Image):
        if space.levels is not None:
            x = x.round().clamp(0, space.levels - 1)
        return x.to(space.dtype)
    for index, column in enumerate(columns_of(space)):
        if column.kind == "integer":
            x[:, index] = x[:, index].round()
    return x


def _noise(ground: Ground, x: Tensor, labels: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    x = x[: ground.n]
    loud = x + strength * ground.spread * torch.randn(x.shape, generator=draw, dtype=x.dtype)
    hit = torch.rand(x.shape, generator=draw) < 0.5 * strength
    other = x[torch.randperm(len(x), generator=draw)]
    return torch.where(ground.numeric, loud, torch.where(hit, other, x))


def _blur(ground: Ground, x: Tensor, labels: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    x = x[: ground.n]
    channels = x.shape[1]
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]], dtype=x.dtype) / 16
    soft = torch.nn.functional.conv2d(
        torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), kernel.expand(channels, 1, 3, 3), groups=channels
    )  # fmt: skip
    return (1 - strength) * x + strength * soft


def _shifted(ground: Ground, x: Tensor, labels: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    x = x[: ground.n]
    return torch.where(ground.numeric, x + 0.5 * strength * ground.spread, x)


def _dropped(ground: Ground, x: Tensor, labels: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Rows of class 0 are left out of the honest rows, half of them or all; the classes that stay are sampled again where rows run out."""
    gone = (labels == 0) & (torch.rand(len(labels), generator=draw) < strength)
    rest = x[~gone]
    if len(rest) < ground.n:
        rest = torch.cat([rest, rest[torch.randperm(len(rest), generator=draw)[: ground.n - len(rest)]]])
    return rest[: ground.n]


def _collapse(ground: Ground, x: Tensor, labels: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    distinct = max(2, round(ground.n * (1 - strength) * 0.2) + 5)
    return x[torch.randint(distinct, (ground.n,), generator=draw)]


def _duplicated(ground: Ground, x: Tensor, labels: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    times = 1 + round(4 * strength)
    return x[torch.arange(ground.n) // times]


def _copied(ground: Ground, x: Tensor, labels: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    copies = _values(ground.train)
    number = round(strength * ground.n)
    chosen = torch.randperm(len(copies), generator=draw)[:number]
    return torch.cat([copies[chosen], x[: ground.n - len(chosen)]])


def _independent(ground: Ground, x: Tensor, labels: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """A share of the entries is permuted over the rows, each by itself."""
    x = x[: ground.n].clone()
    flat = x.reshape(len(x), -1)
    for index in torch.randperm(flat.shape[1], generator=draw)[: max(1, round(strength * flat.shape[1]))].tolist():
        flat[:, index] = flat[torch.randperm(len(flat), generator=draw), index]
    return flat.reshape(x.shape)


TABLE: dict[str, Degradation] = {
    each.name: each
    for each in (
        Degradation("noise", "Gaussian noise of the data's own standard deviation (categories: half of them drawn anew)", _noise),
        Degradation("blur", "smoothed by a 3 x 3 binomial filter", _blur, "pictures"),
        Degradation("shifted mean", "every amount moved up by half a standard deviation", _shifted),
        Degradation("dropped class", "one class of the data is missing", _dropped),
        Degradation("collapse", "five distinct samples, drawn again and again", _collapse),
        Degradation("duplicated rows", "each sample five times", _duplicated),
        Degradation("copied training data", "samples are training rows", _copied),
        Degradation("independent columns", "each entry permuted over the rows by itself: marginals right, dependence lost", _independent),
    )
}
"""What is planted, at strength 1. A name here is what :attr:`manykin.metrics.Figure.sees` may claim."""
