"""What metrics of samples see: training rows, held-out rows and samples of one model, and the same as numbers or as features."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from manykin.data.dataset import Rows
from manykin.metrics.extractor import Extractor
from manykin.metrics.numbers import Encoder, encoder
from manykin.random import generator
from manykin.spaces import Image, Labels, Space, Value, count

MOST = 50_000
"""Rows of the training split that metrics look at; a larger one is drawn from by seed."""


@dataclass(frozen=True, eq=False)
class Case:
    """Samples of one model beside the rows that it learned from and rows that it never saw.

    ``train`` and ``test`` carry labels where the data have them (-1: a class never seen in training), whether or not the model knows of them;
    ``train`` is None where the training rows are not at hand. ``labels``: what each sample was conditioned on, (n,) int64.
    ``draw(n, labels, seed)`` draws more samples, of given labels where the model is conditional; None where there is no model, only samples.
    ``target``: the column that usefulness is judged by. ``classes``: the labels' space. ``classify``: log-posteriors (n, classes) of the model's
    own Bayes rule, where it has one. ``stand_in``: real rows that take the place of samples in noise floors where the training rows are not at
    hand.
    """

    space: Space
    train: Rows | None
    test: Rows
    samples: Value
    labels: Tensor | None = None
    classes: Labels | None = None
    seed: int = 0
    draw: Callable[[int, Tensor | None, int], Value] | None = None
    extractor: Extractor | None = None
    target: str | None = None
    sampler: str | None = None
    classify: Callable[[Value], Tensor] | None = None
    stand_in: Rows | None = None

    @property
    def n(self) -> int:
        """How many samples."""
        return count(self.samples)

    @cached_property
    def known(self) -> Rows:
        """Training rows, at most MOST of them; held-out rows where the training rows are not at hand."""
        return self.held if self.train is None else _most(self.train, MOST, self.seed)

    @cached_property
    def held(self) -> Rows:
        """Held-out rows, at most MOST of them."""
        return _most(self.test, MOST, self.seed)

    @cached_property
    def seen(self) -> Rows | None:
        """As many training rows as samples, drawn by seed: what takes the place of samples in a noise floor; None where there are none."""
        rows = self.stand_in if self.train is None else self.train
        return None if rows is None else _most(rows, self.n, self.seed)

    @cached_property
    def forged(self) -> "list[Value]":
        """Crude forgeries of the rows of the noise floor: :func:`manykin.metrics.floors.forgeries`."""
        from manykin.metrics.floors import forgeries

        return forgeries(self)

    @cached_property
    def encode(self) -> Encoder:
        """The function from a batch of the space to (n, d) float64 numbers, standardised by training rows: see :mod:`manykin.metrics.numbers`."""
        return encoder(self.space, self.known.all().x)

    @cached_property
    def sample_numbers(self) -> Tensor:
        """The samples as numbers."""
        return self.encode(self.samples)

    @cached_property
    def test_numbers(self) -> Tensor:
        """The held-out rows as numbers."""
        return self.encode(self.held.all().x)

    @cached_property
    def train_numbers(self) -> Tensor:
        """The training rows (``known``) as numbers."""
        return self.encode(self.known.all().x)

    @property
    def pictures(self) -> bool:
        """Whether the data are pictures whose values are amounts, so that an extractor may look at them."""
        return isinstance(self.space, Image) and self.space.ordinal

    @cached_property
    def sample_features(self) -> Tensor:
        """The samples as features of the extractor."""
        return self._features(self.samples)

    @cached_property
    def test_features(self) -> Tensor:
        """The held-out rows as features."""
        return self._features(self.held.all().x)

    @cached_property
    def train_features(self) -> Tensor:
        """The training rows (``known``) as features."""
        return self._features(self.known.all().x)

    @cached_property
    def sample_probabilities(self) -> Tensor | None:
        """Class probabilities of the samples; None without a classifier."""
        assert isinstance(self.samples, Tensor)
        return None if self.extractor is None or not self.pictures else self.extractor.probabilities(self.samples)

    @property
    def looked_at(self) -> bool:
        """Whether there is an extractor for these data."""
        return self.pictures and self.extractor is not None

    def view(self, wanted: str) -> tuple[Callable[[Value], Tensor], str]:
        """The function to points for a metric's ``view``, and what it is called in results."""
        if wanted == "features" or (wanted == "best" and self.looked_at):
            assert self.extractor is not None
            return self._features, self.extractor.name
        return self.encode, self.encode.name

    def _features(self, x: Value) -> Tensor:
        assert self.extractor is not None
        assert isinstance(x, Tensor)
        return self.extractor.features(x)


def _most(rows: Rows, n: int, seed: int) -> Rows:
    if len(rows) <= n:
        return rows
    return rows.select(torch.randperm(len(rows), generator=generator(seed, "case"))[:n])
