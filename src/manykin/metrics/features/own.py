"""The own feature network: trained on the user's training pictures, frozen, hashed and kept in the cache."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from manykin.data.dataset import Rows
from manykin.data.limits import sha256_of_arrays
from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.metrics.features import cache
from manykin.metrics.features.common import in_batches, weights_hash
from manykin.metrics.features.network import SMALLEST, FeatureNet
from manykin.metrics.features.training import PROJECTION, RECIPE, Trained, train_on_labels, train_on_views
from manykin.random import generator
from manykin.spaces import Image

FEWEST = 50
"""Training rows, or rows with a label, below which a network would learn nothing."""
MOST = 60_000
"""Training rows that are looked at; a larger set is drawn from by seed."""
FEWEST_A_CLASS = 5
"""Labelled rows a class, on average, below which labels are left aside."""


class OwnNetwork:
    """A frozen :class:`FeatureNet`: an :class:`manykin.metrics.extractor.Extractor`.

    ``classes`` it tells apart, None for a self-supervised one; ``accuracy`` of its classes on pictures that it was not trained on. ``hash`` is the
    sha256 of its weights, and the first 8 digits are in ``name``. One set of training pictures, labels and seed gives one hash, on one kind of
    machine with one number of threads; the cache keeps it for others.
    """

    inception = False

    def __init__(self, trained: Trained, classes: int | None, described: str, seed: int) -> None:
        self._net = trained.net
        self.accuracy, self.classes, self.seed = trained.accuracy, classes, seed
        self.hash = weights_hash(trained.net.state_dict())
        self.name = f"own network {self.hash[:8]} ({described})"

    def features(self, x: Tensor) -> Tensor:
        return in_batches(x, lambda part: self._net.features(self._net.standardise(part)))

    def probabilities(self, x: Tensor) -> Tensor | None:
        if self.classes is None:
            return None
        return in_batches(x, lambda part: self._net.scores(self._net.features(self._net.standardise(part))).softmax(dim=1))


def own_network(case: Case, data: str, seed: int = 0) -> OwnNetwork:
    """The feature network of a case's training rows, from the cache or trained now.

    Where at least 50 training rows have labels of two classes or more, with five rows a class on average, it is a classifier of them; elsewhere it
    is self-supervised, and its name says why. Where no training rows are at hand it is trained on the held-out rows, and its name says so.

    Args:
        case: pictures.
        data: what messages call the data.
        seed: another seed makes another network; it does not follow the seed of the evaluation, so that results of several seeds rest on one
            network and can be compared.

    Raises:
        InvalidInput: for pictures of less than 4 x 4 pixels, or fewer than 50 training rows.
    """
    assert isinstance(case.space, Image)
    _, height, width = case.space.size
    if min(height, width) < SMALLEST:
        raise InvalidInput(f"pictures of {height} x {width} pixels are too small for the own feature network (at least {SMALLEST} x {SMALLEST}); "
                           "use features='none', metrics then work on pixels.")  # fmt: skip
    rows = case.test if case.train is None else case.train
    if len(rows) < FEWEST:
        raise InvalidInput(f"{data} has {len(rows)} training pictures; the own feature network needs at least {FEWEST}: "
                           "use features='none', or a pretrained network by name.")  # fmt: skip
    rows = rows if len(rows) <= MOST else rows.select(torch.randperm(len(rows), generator=generator(0, "features", "rows"))[:MOST].sort().values)
    rows, labels, described = _lesson(case, rows)
    if case.train is None:
        described += ", trained on the held-out rows"
    x = rows.all().x
    assert isinstance(x, Tensor)
    classes = None if labels is None or case.classes is None else case.classes.classes
    known = np.empty(0, dtype=np.int64) if labels is None else labels.numpy()
    content = sha256_of_arrays(np.asarray(x), known)
    key = sha256_of_arrays(np.frombuffer(f"{content} {case.space.to_json()} {classes} {seed} {RECIPE}".encode(), dtype=np.uint8))
    kept = cache.load(key)
    trained = None if kept is None else _restored(case.space, classes, *kept)
    if trained is None:
        trained = train_on_views(x, seed) if labels is None or classes is None else train_on_labels(x, labels, classes, seed)
        state = trained.net.state_dict()
        cache.store(key, state, {"hash": weights_hash(state), "accuracy": trained.accuracy, "seed": seed, "recipe": RECIPE, "content": content})
    return OwnNetwork(trained, classes, described, seed)


def _lesson(case: Case, rows: Rows) -> tuple[Rows, Tensor | None, str]:
    """The rows to learn from, their labels where these are worth it, and how the network is described."""
    labels = rows.labels
    if labels is None or case.classes is None:
        return rows, None, "self-supervised"
    known = (labels >= 0).nonzero()[:, 0]
    found = len(labels[known].bincount().nonzero())
    if len(known) < FEWEST:
        return rows, None, f"self-supervised: only {len(known)} rows have labels"
    if found < 2:
        return rows, None, "self-supervised: the labels hold a single class"
    if len(known) < FEWEST_A_CLASS * found:
        return rows, None, f"self-supervised: {found} classes in {len(known)} rows"
    rows = rows if len(known) == len(rows) else rows.select(known)
    return rows, labels[known], f"{found} classes"


def _restored(space: Image, classes: int | None, state: dict[str, Tensor], facts: dict[str, Any]) -> Trained:
    """A network from the cache; its hash was checked, and the recipe is part of its key, so its tensors fit."""
    net = FeatureNet(space.size, classes or PROJECTION, projected=classes is None)
    net.load_state_dict(state)
    accuracy = facts.get("accuracy")
    return Trained(net.eval().requires_grad_(False), None if accuracy is None else float(accuracy))
