"""Rows and data sets: what every loader returns and every trainer reads."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manykin.contract import Batch
from manykin.data.forms import Form
from manykin.random import generator
from manykin.spaces import Labels, Space, Value, count, take


@dataclass(frozen=True)
class Chances:
    """Levels (n, ...) that are chances: pixel v is 1 with probability ``v / top``."""

    levels: Tensor
    top: int

    def draw(self, source: torch.Generator | None = None) -> Tensor:
        """A binary draw of every row, uint8 in the shape of the levels; from the global generator where no other is given."""
        shape, device = self.levels.shape, self.levels.device
        below = torch.randint(0, self.top, shape, dtype=self.levels.dtype, device=device, generator=source)
        return (below < self.levels).to(torch.uint8)

    def at(self, positions: Tensor) -> "Chances":
        """Those of some rows."""
        return Chances(self.levels.index_select(0, positions), self.top)


@dataclass(frozen=True)
class Rows:
    """Examples and their conditions: one base (in memory, or a memory-mapped file) and the rows of it that belong here.

    ``index`` (m,) int64 selects rows of the base without copying it; None means all. ``label`` (n,) int64: the class of each row of the base, where
    the data bring classes, whether or not a model is conditioned on them: metrics use them. ``chances``: where set, x is one draw of them, and every
    training step draws its rows anew. ``stream``: x, shape (n, length), holds neighbouring blocks of one sequence, and every training step cuts its
    rows anew, each up to a block later, so that no symbol always stands at the same place.
    """

    x: Value
    condition: Value | None = None
    index: Tensor | None = None
    label: Tensor | None = None
    chances: Chances | None = None
    stream: bool = False

    def __len__(self) -> int:
        return count(self.x) if self.index is None else len(self.index)

    @property
    def labels(self) -> Tensor | None:
        """The class of each row, (m,) int64; None where the data bring none."""
        return self.label if self.label is None or self.index is None else self.label[self.index]

    def batch(self, positions: Tensor) -> Batch:
        """The examples at these positions (int64, any order)."""
        at = positions if self.index is None else self.index[positions]
        return Batch(take(self.x, at), None if self.condition is None else take(self.condition, at))

    def anew(self, at: Tensor) -> Value:
        """Rows at these positions of the base as a training step sees them: where a step draws or cuts its own, from the global generator."""
        if self.chances is not None:
            return self.chances.at(at).draw()
        if not self.stream:
            return self.x.index_select(0, at) if isinstance(self.x, Tensor) else take(self.x, at)
        assert isinstance(self.x, Tensor)
        length = self.x.shape[1]
        starts = (at * length + torch.randint(length, at.shape, device=at.device)).clamp(max=self.x.numel() - length)
        return self.x.reshape(-1)[starts[:, None] + torch.arange(length, device=at.device)]

    def slice(self, start: int, stop: int) -> Batch:
        """The examples from start to stop, without a gather where the rows are contiguous."""
        if self.index is not None:
            return self.batch(torch.arange(start, min(stop, len(self))))
        rows = slice(start, stop)
        return Batch(take(self.x, rows), None if self.condition is None else take(self.condition, rows))

    def batches(self, size: int = 16_384) -> Iterator[Batch]:
        """All examples in order, each once."""
        for start in range(0, len(self), size):
            yield self.slice(start, min(start + size, len(self)))

    def select(self, positions: Tensor) -> "Rows":
        """A subset that shares the base."""
        return dataclasses.replace(self, index=positions if self.index is None else self.index[positions])

    def sample(self, n: int, seed: int) -> Batch:
        """Up to n distinct examples in random order, both by the seed: the first k of them are a random draw too, in sorted data as well."""
        return self.batch(torch.randperm(len(self), generator=generator(seed, "rows"))[:n])

    def all(self) -> Batch:
        """Everything as one batch."""
        return self.slice(0, len(self))


@dataclass(frozen=True)
class Dataset:
    """Disjoint splits in one space, and where they come from.

    ``form`` turns tensors back into what the user gave. ``provenance`` is plain JSON: name, base name of the file, sha256 of the content, rows in
    each split, split rule, licence, and every lossy step. ``entropy``: the known differential entropy in nats of a toy; None for real data.
    ``classes``: the space of :attr:`Rows.labels`, where the data bring classes.
    """

    name: str
    space: Space
    train: Rows
    val: Rows | None = None
    test: Rows | None = None
    condition: Space | None = None
    form: Form = field(default_factory=Form)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    entropy: float | None = None
    classes: Labels | None = None
