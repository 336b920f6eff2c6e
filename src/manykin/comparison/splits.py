"""The test split of a comparison."""

import dataclasses

import torch

from manykin.data.dataset import Dataset
from manykin.errors import InvalidInput
from manykin.random import generator, hash_seed

HOLDOUT = 0.1
"""The share of rows held back as test split where a comparison needs one and the data bring none."""


def hold_out(data: Dataset, share: float, seed: int) -> Dataset:
    """A data set with a share of its training rows as validation split.

    Raises:
        InvalidInput: for fewer than two rows.
    """
    n = len(data.train)
    if n < 2:
        raise InvalidInput(f"{data.name} has {n} row; expected at least 2 to hold one back for early stopping.")
    order = torch.randperm(n, generator=generator(seed, "hold out"))
    held = max(1, round(n * share))
    return dataclasses.replace(data, train=data.train.select(order[held:].sort().values), val=data.train.select(order[:held].sort().values))


def with_test(data: Dataset, seed: int) -> Dataset:
    """A data set with a test split: its own, else a tenth of the training rows."""
    if data.test is not None:
        return data
    split = hold_out(data, HOLDOUT, hash_seed(seed, "test"))
    note = {**data.provenance, "split": f"{len(split.train)} training and {len(split.val or ())} test rows drawn with seed {seed}"}
    return dataclasses.replace(split, test=split.val, val=data.val, provenance=note)
