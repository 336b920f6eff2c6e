"""How the own feature network is trained: by labels, or without any by agreement between two views of each picture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.metrics.features.network import FeatureNet
from manykin.random import generator, hash_seed, seeded

RECIPE = 1
"""Raised whenever a change here or in the network changes the trained weights: older files in the cache are then no longer found."""
BATCH = 128
FEWEST_STEPS, MOST_STEPS, EPOCHS = 250, 450, 15
"""Supervised steps: 15 passes over the pictures, within these limits; 450 steps of 128 pictures are one pass over 57,600."""
VIEW_STEPS = 300
"""Self-supervised steps, whatever the number of pictures."""
PROJECTION = 256
RATE = 1e-2
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
"""The weights of VICReg's three terms, as in the paper."""


@dataclass(frozen=True)
class Trained:
    """A trained network in evaluation mode; ``accuracy`` on a tenth of the labelled pictures that were not trained on, None without labels."""

    net: FeatureNet
    accuracy: float | None


def train_on_labels(x: Tensor, labels: Tensor, classes: int, seed: int) -> Trained:
    """Train a classifier by cross-entropy, each picture moved by up to a sixteenth of its width (a pixel at least).

    A tenth of the pictures (at most 5,000) is kept aside for its accuracy.

    Args:
        x: pictures in data space, (n, channels, height, width), n >= 50.
        labels: classes from 0 to ``classes`` - 1, (n,) int64.
        classes: how many classes there may be.
        seed: of the start, the order and the moves.
    """
    order = torch.randperm(len(x), generator=generator(seed, "features", "split"))
    kept, rest = order[: min(max(len(x) // 10, 5), 5000)], order[min(max(len(x) // 10, 5), 5000) :]
    net = _network(x[rest], classes, seed)
    steps = min(max(EPOCHS * len(rest) // BATCH, FEWEST_STEPS), MOST_STEPS)

    def loss(index: Tensor, draw: torch.Generator) -> Tensor:
        z = moved(net.standardise(x[rest[index]]), draw)
        return functional.cross_entropy(net.scores(net.features(z)), labels[rest[index]])

    _fit(net, loss, len(rest), steps, seed)
    with torch.no_grad():
        right = [net.scores(net.features(net.standardise(x[part]))).argmax(dim=1) == labels[part] for part in torch.split(kept, 512)]
    return Trained(net, float(torch.cat(right).float().mean()))


def train_on_views(x: Tensor, seed: int) -> Trained:
    r"""Train without labels: two views of a picture shall have the same features, and features shall vary and say different things.

    VICReg (Bardes, Ponce and LeCun, VICReg: variance-invariance-covariance regularization for self-supervised learning, 2022, equation 6):

    .. math:: 25\, |z - z'|^2 / d + 25\, [v(z) + v(z')] + [c(z) + c(z')]

    with v the mean of max(0, 1 - standard deviation) over features and c the sum of squared covariances off the diagonal over d. It needs no
    negative examples, so small sets and small batches do, and it asks for features that vary and are uncorrelated, which is what a distance
    between means and covariances works on. The views differ by moves and by an erased rectangle of half the width and height, no more: what
    views differ in, features ignore, so noise, blur and contrast, which a metric has to see, are left out.

    Args:
        x: pictures in data space, (n, channels, height, width), n >= 50.
        seed: of the start, the order and the views.
    """
    net = _network(x, PROJECTION, seed, projected=True)

    def loss(index: Tensor, draw: torch.Generator) -> Tensor:
        z = net.standardise(x[index])
        views = torch.cat([erased(moved(z, draw), draw), erased(moved(z, draw), draw)])
        first, second = net.scores(net.features(views)).chunk(2)
        return INVARIANCE * functional.mse_loss(first, second) + _spread_out(first) + _spread_out(second)

    _fit(net, loss, len(x), VIEW_STEPS, seed)
    return Trained(net, None)


def moved(z: Tensor, draw: torch.Generator) -> Tensor:
    """Each picture moved by up to a sixteenth of its sides, at least a pixel, in both directions; its edge is repeated."""
    n, _, height, width = z.shape
    down, right = (_offsets(n, -max(1, side // 16), max(1, side // 16) + 1, draw) for side in (height, width))
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    return z[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def erased(z: Tensor, draw: torch.Generator) -> Tensor:
    """Each picture with a rectangle of half its width and height, which may reach over the edge, set to the mean of all pictures."""
    n, _, height, width = z.shape
    inside = []
    for side in (height, width):
        extent = side // 2
        start = _offsets(n, -(extent // 2), side - extent // 2, draw)
        places = torch.arange(side)
        inside.append((places >= start) & (places < start + extent))
    return z.masked_fill(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0.0)


def _offsets(n: int, low: int, high: int, draw: torch.Generator) -> Tensor:
    return torch.randint(low, high, (n, 1), generator=draw)


def _spread_out(z: Tensor) -> Tensor:
    """VICReg's variance and covariance terms of one view (its equations 1 and 4)."""
    z = z - z.mean(dim=0)
    covariance = z.T @ z / (len(z) - 1)
    deviations = (covariance.diagonal() + 1e-4).sqrt()
    off = covariance.square().sum() - covariance.diagonal().square().sum()
    return VARIANCE * functional.relu(1 - deviations).mean() + COVARIANCE * off / z.shape[1]


def _network(x: Tensor, outputs: int, seed: int, projected: bool = False) -> FeatureNet:
    """A fresh network that knows the moments of its pictures."""
    with seeded(hash_seed(seed, "features", "start")):
        net = FeatureNet((x.shape[1], x.shape[2], x.shape[3]), outputs, projected)
    total, squares, count = torch.zeros(x.shape[1], dtype=torch.float64), torch.zeros(x.shape[1], dtype=torch.float64), 0
    for start in range(0, len(x), 2048):
        values = x[start : start + 2048].double().transpose(0, 1).flatten(1)
        total, squares, count = total + values.sum(dim=1), squares + values.square().sum(dim=1), count + values.shape[1]
    mean = total / count
    spread = (squares / count - mean**2).clamp_min(0).sqrt()
    net.mean.copy_(mean[:, None, None])
    net.spread.copy_(torch.where(spread > 0, spread, 1.0)[:, None, None])
    return net


@torch.enable_grad()
def _fit(net: nn.Module, loss: Callable[[Tensor, torch.Generator], Tensor], n: int, steps: int, seed: int) -> None:
    """AdamW under a one-cycle schedule (Smith and Topin, Super-convergence, 2019); leaves the network frozen in evaluation mode."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps + 1, pct_start=0.2)
    draw = generator(seed, "features", "views")
    for index in _batches(n, steps, generator(seed, "features", "order")):
        optimizer.zero_grad()
        loss(index, draw).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    net.eval().requires_grad_(False)


def _batches(n: int, steps: int, draw: torch.Generator) -> Iterator[Tensor]:
    """Positions in batches of equal size, each picture once a pass."""
    size, order = min(BATCH, n), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(n, generator=draw)
        yield order[:size]
        order = order[size:]
