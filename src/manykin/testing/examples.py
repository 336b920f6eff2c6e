"""Example data for any space: small, seeded, correlated, scaled unevenly, and dependent on the condition."""

import math
from typing import cast

import torch
from torch import Tensor

from manykin.contract import Batch
from manykin.data.dataset import Dataset, Rows
from manykin.random import generator
from manykin.spaces import Column, Image, Labels, Record, Space, Table, Tokens, Value, Vector, columns_of, count

VARIANTS: dict[str, tuple[Space, Space | None]] = {
    "vector": (Vector(2), None),
    "line": (Vector(1), None),
    "wide": (Vector(5), None),
    "levels": (Vector(2, levels=5), None),
    "image": (Image((1, 4, 4), levels=5), None),
    "table": (Table((Column("height"), Column("count", "integer", levels=4), Column("colour", "categorical", ("red", "green", "blue")))), None),
    "missing": (
        Table(
            (Column("height", missing=True), Column("count", "integer", levels=3), Column("colour", "categorical", ("red", "green"), missing=True))
        ),
        None,
    ),
    "strings": (Tokens(4, 5, end=0), None),
    "stream": (Tokens(3, 4), None),
    "labels": (Labels(4), None),
    "record": (Record({"place": Vector(1), "kind": Labels(3)}), None),
    "vector-by-label": (Vector(2), Labels(3)),
    "levels-by-label": (Vector(2, levels=5), Labels(2)),
    "vector-by-vector": (Vector(2), Vector(1)),
}
"""The spaces, each with a condition or None, on which a model is checked when only its name is given."""


def example_rows(space: Space, condition: Space | None, n: int, seed: int = 0) -> Batch:
    """n examples of a space, with conditions that they depend on."""
    g = generator(seed, "examples")
    classes = condition.classes if isinstance(condition, Labels) else 2
    kinds = torch.multinomial(torch.arange(classes, 0, -1).double(), n, replacement=True, generator=g)
    signal = kinds.double() / max(classes - 1, 1)
    c: Value | None = None
    if isinstance(condition, Labels):
        c = kinds
    elif condition is not None:
        noise = torch.rand(n, generator=g, dtype=torch.float64)
        c = _fill(condition, signal, g)
        signal = 0.8 * signal + 0.2 * noise
    return Batch(_fill(space, signal, g), c)


def example_data(space: Space, condition: Space | None = None, n: int = 512, seed: int = 0) -> Dataset:
    """A data set of n training rows and a quarter as many for validation and test."""
    rows = example_rows(space, condition, n + 2 * (n // 4), seed)
    return dataset_of(rows, space, condition, n)


def dataset_of(rows: Batch, space: Space, condition: Space | None, n: int) -> Dataset:
    """The first n rows to train on; half of the rest each to validate and to test."""
    all_rows = Rows(rows.x, rows.condition)
    rest = (count(rows.x) - n) // 2
    parts = [all_rows.select(torch.arange(start, stop)) for start, stop in ((0, n), (n, n + rest), (n + rest, n + 2 * rest))]
    return Dataset("example", space, parts[0], parts[1], parts[2], condition, provenance={"name": "example"})


def _fill(space: Space, signal: Tensor, g: torch.Generator) -> Value:
    if isinstance(space, Record):
        return {name: cast(Tensor, _fill(part, signal, g)) for name, part in space.fields}
    if isinstance(space, Tokens):
        return _strings(space, signal, g)
    x = torch.stack(_columns(columns_of(space), signal, g), dim=1)
    if isinstance(space, Labels):
        return x[:, 0].long()
    if isinstance(space, Image):
        return x.view(-1, *space.size).to(space.dtype)
    return x


def _columns(columns: tuple[Column, ...], signal: Tensor, g: torch.Generator) -> list[Tensor]:
    n, entries = len(signal), []
    shared = torch.randn(n, generator=g, dtype=torch.float64)
    for index, column in enumerate(columns):
        noise = torch.randn(n, generator=g, dtype=torch.float64)
        side = (2 * signal - 1) * (-1) ** index
        score = 1.4 * side + 0.6 * noise + 0.4 * shared
        if column.cardinality is not None:
            chance = torch.rand(n, generator=g, dtype=torch.float64)
            share = (torch.sigmoid(score) * 0.8 + 0.2 * chance).clamp(0, 1 - 1e-9)
            x = column.origin + (column.grid or 1.0) * (share * column.cardinality).floor()
        else:
            scale = (3.0, 0.5, 1.0)[index % 3] if column.grid is None else 6 * column.grid
            x = (4.0, -1.0, 0.0)[index % 3] * (column.grid is None) + scale * score
            x = x if column.grid is None else column.origin + column.grid * (x / column.grid).round()
        if column.missing:
            x = torch.where(torch.rand(n, generator=g) < 0.15, math.nan, x)
        entries.append(x)
    return entries


def _strings(space: Tokens, signal: Tensor, g: torch.Generator) -> Tensor:
    n = len(signal)
    codes = [code for code in range(space.vocab) if code != space.end]
    steps = torch.rand(n, space.length, generator=g) < 0.7
    jumps = torch.randint(len(codes), (n, space.length), generator=g)
    place = (signal * (len(codes) - 1)).round().long()
    table, columns = torch.tensor(codes), []
    for position in range(space.length):
        place = torch.where(steps[:, position], (place + 1) % len(codes), jumps[:, position])
        columns.append(table[place])
    x = torch.stack(columns, dim=1)
    if space.end is None:
        return x
    lengths = torch.randint(space.length, (n,), generator=g)
    return torch.where(torch.arange(space.length)[None, :] >= lengths[:, None], space.end, x)
