"""Starts for mixtures over mixed columns: k-means++ seeds."""

import torch
from torch import Tensor

from manykin.spaces import Column


def signatures(z: Tensor, columns: tuple[Column, ...]) -> tuple[Tensor, Tensor]:
    """Rows as ordered values (n, a) on comparable scales, and category codes (n, b); missing entries are 0 and -1.

    A numeric column is standardised; columns with the same number of ordered levels share one scale, so that nearly constant pixels stay quiet.
    """
    codes = z[:, [i for i, column in enumerate(columns) if column.kind == "categorical"]]
    sizes = torch.tensor([column.cardinality or 0 for column in columns if column.kind != "categorical"], device=z.device)
    x = z[:, [i for i, column in enumerate(columns) if column.kind != "categorical"]]
    present = ~x.isnan()
    filled = torch.where(present, x, 0.0)
    total = present.sum(dim=0).clamp(min=1)
    centred = torch.where(present, filled - filled.sum(dim=0) / total, 0.0)
    variance = centred.square().sum(dim=0) / total
    for size in sorted(set(sizes.tolist())):
        if size:
            variance[sizes == size] = variance[sizes == size].mean()
    return centred / variance.clamp(min=1e-300).sqrt() * (variance > 0), codes.nan_to_num(nan=-1.0)


def plus_plus(x: Tensor, codes: Tensor, k: int) -> Tensor:
    """k seeds by k-means++ (Arthur and Vassilvitskii, 2007), and the nearest seed of each row (n,).

    The distance of two rows is the squared distance of their ordered values plus two for each differing category, which is what two standardised
    numbers differ by on average.
    """
    nearest = torch.zeros(len(x), dtype=torch.long, device=x.device)
    distance = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    seed = int(torch.randint(len(x), ()))
    for index in range(k):
        own = (x - x[seed]).square().sum(dim=1) + 2 * (codes != codes[seed]).sum(dim=1)
        nearest = torch.where(own < distance, index, nearest)
        distance = torch.minimum(distance, own)
        chances = distance if bool(distance.sum() > 0) else torch.ones_like(distance)
        seed = int(torch.multinomial(chances, 1))
    return nearest
