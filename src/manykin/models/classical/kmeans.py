"""k-means++: a start for mixtures."""

import torch
from torch import Tensor


def kmeans(x: Tensor, k: int, rounds: int = 30) -> Tensor:
    """Assign rows x (n, d) to k clusters, shape (n,): greedy k-means++ seeding, then Lloyd's rounds until nothing moves.

    Source: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, 2007; the greedy variant tries 2 + log k candidates for each
    centre. Draws from the global generator, which the caller seeds. An emptied cluster takes the row farthest from its centre.
    """
    centres = seed_centres(x, k)
    nearest = torch.full((len(x),), -1, dtype=torch.long, device=x.device)
    for _ in range(rounds):
        distance = squared_distances(x, centres)
        best, assigned = distance.min(dim=1)
        counts = torch.bincount(assigned, minlength=k)
        for empty in (counts == 0).nonzero().flatten().tolist():
            farthest = int(best.argmax())
            assigned[farthest], best[farthest] = empty, -1.0
        if torch.equal(assigned, nearest):
            break
        nearest = assigned
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = sums / torch.bincount(nearest, minlength=k).clamp_min(1).unsqueeze(1)
    return nearest


def seed_centres(x: Tensor, k: int) -> Tensor:
    """k rows of x, spread out by the greedy k-means++ rule, shape (k, d)."""
    candidates = 2 + int(torch.tensor(float(k)).log())
    chosen = [int(torch.randint(len(x), (1,)))]
    closest = squared_distances(x, x[chosen]).squeeze(1)
    while len(chosen) < k:
        weights = closest if bool(closest.sum() > 0) else torch.ones_like(closest)
        tries = torch.multinomial(weights, candidates, replacement=True)
        after = torch.minimum(squared_distances(x, x[tries]), closest.unsqueeze(1))
        best = int(after.sum(dim=0).argmin())
        chosen.append(int(tries[best]))
        closest = after[:, best]
    return x[chosen]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, shape (n, m), by one matrix product about the mean of y; differentiable."""
    centre = y.mean(dim=0)
    x, y = x - centre, y - centre
    return torch.addmm(x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1), x, y.mT, alpha=-2).clamp_min(0)
