"""What the numbers of a picture model say of a pixel's level, and how levels enter its network."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.models.likelihoods import floored, logistic_cell

RAMPS = 16
"""Inputs of an ordered level: with up to 17 levels one for each step between them."""


class LevelFeatures(nn.Module):
    """Levels (...) as inputs of a network, (..., width).

    Ordered levels by ramps: the k-th rises from 0 to 1 over the k-th of ``width`` equal parts of the range, which for few levels is the thermometer
    code ``[x > k]``. Codes without order as learned vectors.
    """

    def __init__(self, levels: int, ordinal: bool) -> None:
        super().__init__()
        self.width = min(levels - 1, RAMPS) if ordinal else min(levels, RAMPS)
        self.scale = self.width / (levels - 1)
        self.table = None if ordinal else nn.Embedding(levels, self.width)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if self.table is not None:
            return self.table(x.long()).to(dtype)  # type: ignore[no-any-return]
        starts = torch.arange(self.width, device=x.device, dtype=dtype)
        return (x.to(dtype).unsqueeze(-1) * self.scale - starts).clamp_(0, 1)


class LevelOutput(ABC):
    """A distribution over ``levels`` levels, given ``width`` numbers. It has no parameters of its own."""

    width: int

    def __init__(self, levels: int) -> None:
        self.levels = levels

    @abstractmethod
    def log_prob(self, numbers: Tensor, x: Tensor) -> Tensor:
        """log p of levels x (...) given numbers (..., width), shape (...)."""

    @abstractmethod
    def logits(self, numbers: Tensor) -> Tensor:
        """log p of every level up to a constant, (..., levels)."""

    @abstractmethod
    def start(self, x: Tensor) -> Tensor:
        """The numbers of the marginals of training levels (n, entries), shape (entries, width): a data-dependent start."""

    def shares(self, x: Tensor) -> Tensor:
        """How often each entry takes each level in (n, entries), drawn slightly towards the shares of all entries: (entries, levels), float64."""
        n, entries = x.shape
        places = x.long() + self.levels * torch.arange(entries, device=x.device)
        counts = torch.bincount(places.flatten(), minlength=entries * self.levels).view(entries, self.levels).double()
        overall = (counts.sum(dim=0) + 1) / (counts.sum() + self.levels)
        return (counts + overall) / (n + 1)


class BernoulliOutput(LevelOutput):
    """Two levels: one number, the log-odds of the upper one."""

    width = 1

    def log_prob(self, numbers: Tensor, x: Tensor) -> Tensor:
        logit = numbers.squeeze(-1)
        return logit * x.to(logit.dtype) - functional.softplus(logit)

    def logits(self, numbers: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(numbers), numbers], dim=-1)

    def start(self, x: Tensor) -> Tensor:
        shares = self.shares(x)
        return (shares[:, 1:] / shares[:, :1]).log()


class CategoricalOutput(LevelOutput):
    """A number for each level, its logit."""

    def __init__(self, levels: int) -> None:
        super().__init__(levels)
        self.width = levels

    def log_prob(self, numbers: Tensor, x: Tensor) -> Tensor:
        return -functional.cross_entropy(numbers.reshape(-1, self.width), x.reshape(-1).long(), reduction="none").view(x.shape)

    def logits(self, numbers: Tensor) -> Tensor:
        return numbers

    def start(self, x: Tensor) -> Tensor:
        return self.shares(x).log()


class LogisticMixtureOutput(LevelOutput):
    r"""A mixture of logistic distributions, each integrated over the cell of a level: logits, means and log-scales, ``components`` of each.

    .. math:: P(k) = \sum_m \pi_m [F((t_k + h - \mu_m) / s_m) - F((t_k - h - \mu_m) / s_m)]

    With :math:`t_k` from -1 to 1, h half a step, and F the logistic function; the outermost cells reach to infinity, so that the probabilities of all
    levels sum to one exactly: a mixture of :func:`~manykin.models.likelihoods.logistic_cell`. Salimans, Karpathy, Chen and Kingma, PixelCNN++, 2017,
    equation 2.
    """

    def __init__(self, levels: int, components: int) -> None:
        super().__init__(levels)
        self.components, self.width = components, 3 * components

    def log_prob(self, numbers: Tensor, x: Tensor) -> Tensor:
        logits, means, scales = numbers.chunk(3, dim=-1)
        rate = (-floored(scales)).exp()
        half = 1 / (self.levels - 1)
        level = x.unsqueeze(-1)
        middle = (2 * half * level.to(numbers.dtype) - 1 - means) * rate
        terms = logistic_cell(middle, half * rate, level == 0, level == self.levels - 1)
        return torch.logsumexp(terms + logits.log_softmax(dim=-1), dim=-1)

    def logits(self, numbers: Tensor) -> Tensor:
        every = torch.arange(self.levels, device=numbers.device).expand(*numbers.shape[:-1], self.levels)
        return self.log_prob(numbers.unsqueeze(-2), every)

    def start(self, x: Tensor) -> Tensor:
        values = 2 * x.double() / (self.levels - 1) - 1
        deviation, mean = values.std(dim=0, correction=0), values.mean(dim=0)
        overall = values.std(correction=0)
        spread = (deviation.square() + (0.05 * overall).square() + self.levels**-2.0).sqrt()[:, None]
        places = torch.special.ndtri((torch.arange(self.components, device=x.device).double() + 0.5) / self.components)
        means = mean[:, None] + spread * places
        scales = (spread / (1 + math.sqrt(self.components))).log().expand_as(means)
        return torch.cat([torch.zeros_like(means), means, scales], dim=1)
