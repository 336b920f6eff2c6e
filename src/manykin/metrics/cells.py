"""A partition of the space of points into cells by k-means on training rows."""

import torch
from torch import Tensor

from manykin.metrics.neighbours import nearest
from manykin.metrics.pairs import checked_rows, squared_distances
from manykin.random import generator

FITTED = 10_000
"""Rows that centres are fitted to; a larger sample is drawn from by seed."""
ROUNDS = 30


@torch.no_grad()
def centres(points: Tensor, k: int, *, seed: int = 0) -> Tensor:
    """At most k centres, (cells, d) float64: fewer where there are fewer distinct rows.

    Lloyd's algorithm (Least squares quantization in PCM, 1982) of at most 30 rounds from the seeding of Arthur and Vassilvitskii (k-means++: the
    advantages of careful seeding, 2007), on at most 10,000 rows drawn by ``seed``.

    Raises:
        InvalidInput: for no rows, or values that are not finite.
    """
    rows = checked_rows(points, "points", 1, seed, FITTED)
    middle = rows.mean(dim=0)
    rows = rows - middle
    found = _seeds(rows, k, generator(seed, "cells"))
    member = torch.full((len(rows),), -1)
    for _ in range(ROUNDS):
        before, member = member, torch.cat([squared_distances(part, found).argmin(dim=1) for part in torch.split(rows, 4096)])
        if torch.equal(before, member):
            break
        sizes = torch.bincount(member, minlength=len(found))
        sums = torch.zeros_like(found).index_add_(0, member, rows)
        found = torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp(min=1), found)
    return found + middle


def members(points: Tensor, found: Tensor) -> Tensor:
    """The cell of each point, (n,) int64: its nearest centre."""
    return nearest(points, found, 1)[1][:, 0]


def _seeds(rows: Tensor, k: int, chance: torch.Generator) -> Tensor:
    """k-means++: each further centre is a row drawn in proportion to its squared distance from the nearest centre so far."""
    chosen = [int(torch.randint(len(rows), (1,), generator=chance))]
    gap = ((rows - rows[chosen[0]]) ** 2).sum(dim=1)
    while len(chosen) < k and float(gap.max()) > 0:
        chosen.append(int(torch.multinomial(gap, 1, generator=chance)))
        gap = torch.minimum(gap, ((rows - rows[chosen[-1]]) ** 2).sum(dim=1))
    return rows[chosen]
