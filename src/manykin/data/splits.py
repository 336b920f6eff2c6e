"""Which rows belong to which split, and which of them the spaces have a code for."""

import dataclasses
import warnings
from typing import cast

import torch
from torch import Tensor

from manykin.data.dataset import Dataset, Rows
from manykin.data.options import DataOptions
from manykin.data.source import Source
from manykin.errors import InvalidInput, ManykinWarning
from manykin.random import generator
from manykin.spaces import Labels, Space, Table, Tokens, Value, Vector, count

Split = dict[str, Tensor | slice]
"""For each split the positions of its rows within one part of the source."""


def cut_splits(found: Source, sizes: dict[str, int], options: DataOptions, seed: int) -> dict[str, Split]:
    """For each part the positions of its splits, sorted, so that a file is read in order."""
    if "all" not in sizes:
        splits: dict[str, Split] = {split: {split: slice(None)} for split in sizes}
        if options.max_rows is not None and options.max_rows < sizes["train"]:
            splits["train"] = {"train": _subset(torch.arange(sizes["train"]), options.max_rows, found, seed)}
        return splits
    n = sizes["all"]
    kept = torch.arange(n)
    if options.max_rows is not None and options.max_rows < n:
        kept = _subset(kept, options.max_rows, found, seed)
    elif not found.split:
        return {"all": {"train": slice(None)}}
    if not found.split:
        return {"all": {"train": kept}}
    order = kept[torch.randperm(len(kept), generator=generator(options.split_seed, "split"))]
    test, val = round(len(kept) * options.test), round(len(kept) * options.val)
    if len(kept) - test - val < 1:
        raise InvalidInput(f"data.val = {options.val:g} and data.test = {options.test:g} leave none of {len(kept)} rows; expected less.")
    cut = {"train": order[test + val :], "val": order[test : test + val], "test": order[:test]}
    return {"all": {split: rows.sort().values for split, rows in cut.items() if len(rows)}}


def _subset(rows: Tensor, limit: int, found: Source, seed: int) -> Tensor:
    found.lossy.append(f"a random {limit} of {len(rows)} rows, seed {seed}")
    return rows[torch.randperm(len(rows), generator=generator(seed, "subset"))[:limit]].sort().values


def limited(data: Dataset, limit: int | None, seed: int) -> Dataset:
    """The data set with at most ``limit`` training rows, a seeded subset that the provenance records."""
    if limit is None or limit >= len(data.train):
        return data
    chosen = torch.randperm(len(data.train), generator=generator(seed, "subset"))[:limit].sort().values
    lossy = [*data.provenance["lossy"], f"a random {limit} of {len(data.train)} training rows, seed {seed}"]
    provenance = {**data.provenance, "lossy": lossy, "rows": {**data.provenance["rows"], "train": limit}}
    return dataclasses.replace(data, train=data.train.select(chosen), provenance=provenance)


def rows_of(
    bases: dict[str, Value], codes: dict[str, Tensor], splits: dict[str, Split], space: Space, condition: Space | None
) -> tuple[dict[str, Rows], dict[str, int]]:
    """Rows of each split; outside training, rows that the spaces have no code for are left out and counted."""
    rows, outside = {}, {}
    for part, cut in splits.items():
        for split, at in cut.items():
            found = Rows(bases[part], codes.get(part), None if isinstance(at, slice) else at)
            if split != "train":
                bad = _outside(found, space, condition)
                if bad.any():
                    outside[split] = int(bad.sum())
                    found = found.select((~bad).nonzero()[:, 0])
            if len(found):
                rows[split] = found
    if outside:
        counted = " and ".join(f"{number} {split} rows" for split, number in outside.items())
        warnings.warn(
            f"{counted} hold values never seen in training; they are left out, and counted in the provenance.", ManykinWarning, stacklevel=4
        )
    return rows, outside


def _outside(rows: Rows, space: Space, condition: Space | None) -> Tensor:
    bounded = isinstance(space, (Table, Tokens)) or (isinstance(space, Vector) and space.levels is not None)
    if not bounded and not isinstance(condition, Labels):
        return torch.zeros(len(rows), dtype=torch.bool)
    return torch.cat([_unseen(batch.x, space) | _unseen(batch.condition, condition) for batch in rows.batches()])


def _unseen(x: Value | None, space: Space | None) -> Tensor:
    if x is None or not isinstance(x, Tensor):
        return torch.zeros(1 if x is None else count(x), dtype=torch.bool)
    if isinstance(space, Labels):
        return x < 0
    if isinstance(space, Tokens):
        return (x < 0).any(dim=1)
    if isinstance(space, Vector) and space.levels is not None:
        return ((x < 0) | (x > space.levels - 1)).any(dim=1)
    bad = torch.zeros(len(x), dtype=torch.bool)
    for index, column in enumerate(space.columns if isinstance(space, Table) else ()):
        if column.cardinality is not None:
            steps = x[:, index] - column.origin
            bad |= (steps < -0.5) | (steps > column.cardinality - 0.5)
    return bad


def check_trainable(train: Rows, space: Space, name: str = "x") -> None:
    """Refuse training rows that are all the same; check tables and texts against their space once."""
    if not isinstance(space, (Table, Tokens)):
        return
    first, varies = cast(Tensor, train.slice(0, 1).x), False
    if isinstance(space, Tokens) and space.end is None:
        first = first[:, :1]
    for batch in train.batches():
        x = cast(Tensor, space.validate(batch.x))
        varies = varies or bool((torch.nan_to_num(x, nan=-0.5) != torch.nan_to_num(first, nan=-0.5)).any())
    if not varies:
        raise InvalidInput(f"{name} is constant: all {len(train)} training rows are the same; expected data that varies.")
