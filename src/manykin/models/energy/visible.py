"""Visible units of a restricted Boltzmann machine: what a column's value can be, and how the hidden units tilt its distribution.

Every kind is an exponential family in one number a column: with statistic t and coefficient q,

    p(t | q) = exp(base(t) + (t - centre) q) / exp(log_normaliser(q)),

so that hidden units, classes and temperatures act on q alone. Shapes: t and q (..., d); ``base`` parameters (d,) or (d, k).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.errors import InvalidInput, Unsupported
from manykin.spaces import Column, Space, columns_of

ORDINAL_LEVELS = 64
"""Levels up to which ``visible`` auto gives each level a logit of its own."""

FEW = 16
"""Columns up to which each carries much of the energy."""

SMOOTHING = 0.5
"""Rows that each value is taken to have been seen in beside the data."""

RARE = -1e4
"""The log base measure of values that a column does not have."""

PRECISIONS = (-4.0, 8.0)
"""The range of the logarithm of a Gaussian unit's precision, in units of the data's variance."""


class Visible(nn.Module, ABC):
    """Base of all visible units; ``bias`` (d,) is q without hidden units and classes, in units of ``scale``."""

    name: str

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))
        self.register_buffer("centre", torch.zeros(size))
        self.centre: Tensor

    @property
    def scale(self) -> Tensor | float:
        """What a coefficient in the units of the weights is multiplied by, (d,) or 1."""
        return 1.0

    @property
    def rate(self) -> float:
        """A learning rate at which chains still mix: that of bits."""
        return 0.05

    @property
    def few(self) -> bool:
        """Whether few columns carry all of the energy."""
        return len(self.bias) <= FEW

    @property
    def width(self) -> int:
        """Numbers that a value's distribution takes in memory, to size chunks by."""
        return 1

    def encode(self, z: Tensor) -> Tensor:
        """Model space to statistics."""
        return z

    def decode(self, t: Tensor) -> Tensor:
        """Statistics to model space."""
        return t

    @abstractmethod
    def base(self) -> Tensor:
        """Parameters of the base measure."""

    @abstractmethod
    def log_base(self, t: Tensor, base: Tensor) -> Tensor:
        """The log base measure of whole rows, shape (...)."""

    @abstractmethod
    def log_normaliser(self, q: Tensor, base: Tensor) -> Tensor:
        """Log of the sum or integral over all rows, shape (...)."""

    @abstractmethod
    def draw(self, q: Tensor, base: Tensor) -> Tensor:
        """One draw of each entry, shape of q."""

    @abstractmethod
    def start(self, t: Tensor) -> None:
        """Take the columns' marginals from training rows (n, d)."""

    def narrow(self, residuals: Tensor) -> None:
        """Take the spread of rows about the means of their classes (n, d), where the spread has parameters of its own."""

    @abstractmethod
    def tilt(self, means: Tensor) -> Tensor:
        """What to add to ``bias`` so that the means become these, shape of ``means``: (classes, d)."""


class Bernoulli(Visible):
    """Two values: t is 0 or 1, and ``P(1) = sigmoid(q)``."""

    name = "bernoulli"

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(len(columns))
        self.register_buffer("origin", torch.tensor([column.origin for column in columns]), persistent=False)
        self.origin: Tensor

    def encode(self, z: Tensor) -> Tensor:
        return (z - self.origin > 0.5).to(self.bias.dtype)

    def decode(self, t: Tensor) -> Tensor:
        return t.double() + self.origin.double()

    def base(self) -> Tensor:
        return self.centre

    def log_base(self, t: Tensor, base: Tensor) -> Tensor:
        return t.new_zeros(t.shape[:-1])

    def log_normaliser(self, q: Tensor, base: Tensor) -> Tensor:
        return functional.softplus(q).sum(-1) - q @ self.centre.to(q.dtype)

    def draw(self, q: Tensor, base: Tensor) -> Tensor:
        return (torch.rand_like(q) < torch.sigmoid(q)).to(q.dtype)

    def start(self, t: Tensor) -> None:
        mean = (t.double().sum(0) + SMOOTHING) / (len(t) + 2 * SMOOTHING)
        self.centre.copy_(mean)
        self.bias.copy_(torch.logit(mean))

    def tilt(self, means: Tensor) -> Tensor:
        return torch.logit(means.double().clamp(1e-4, 1 - 1e-4)) - self.bias.double()


class Ordinal(Visible):
    """Few ordered values 0 ... k - 1, seen as t from 0 to 1: ``P(t) ~ exp(levels(t) + t q)`` with learned logits of every value.

    With ``levels`` the log binomial coefficients this is k - 1 Bernoulli units with shared weights; learned ones keep each column's own histogram,
    which is where they start.
    """

    name = "ordinal"

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(len(columns))
        counts = [column.cardinality or 1 for column in columns]
        most = max(counts)
        self.levels = nn.Parameter(torch.zeros(len(columns), most))
        codes = torch.arange(most).expand(len(columns), most)
        last = torch.tensor(counts)[:, None] - 1
        origin = torch.tensor([column.origin for column in columns], dtype=torch.float64)
        self.register_buffer("absent", RARE * (codes > last), persistent=False)
        self.register_buffer("values", torch.where(codes > last, 0.0, codes / last.clamp_min(1)), persistent=False)
        self.register_buffer("last", last[:, 0].clamp_min(1).double(), persistent=False)
        self.register_buffer("origin", origin, persistent=False)
        self.absent: Tensor
        self.values: Tensor
        self.last: Tensor
        self.origin: Tensor

    @property
    def rate(self) -> float:
        # On a scale from 0 to 1 a step of one level is small, and histograms hold the edges.
        return 0.2 if self.few else 1.0

    @property
    def width(self) -> int:
        return self.levels.shape[1]

    def encode(self, z: Tensor) -> Tensor:
        return ((z.double() - self.origin.double()) / self.last.double()).to(self.bias.dtype)

    def decode(self, t: Tensor) -> Tensor:
        return self._codes(t).double() + self.origin.double()

    def _codes(self, t: Tensor) -> Tensor:
        return (t * self.last.to(t.dtype)).round().long()

    def base(self) -> Tensor:
        return self.levels + self.absent

    def log_base(self, t: Tensor, base: Tensor) -> Tensor:
        flat = self._codes(t) + base.shape[1] * torch.arange(len(base), device=t.device)
        return base.reshape(-1)[flat].sum(-1)

    def _scores(self, q: Tensor, base: Tensor) -> Tensor:
        return torch.addcmul(base, (self.values - self.centre[:, None]).to(q.dtype), q.unsqueeze(-1))

    def log_normaliser(self, q: Tensor, base: Tensor) -> Tensor:
        return self._scores(q, base).logsumexp(-1).sum(-1)

    def draw(self, q: Tensor, base: Tensor) -> Tensor:
        below = torch.softmax(self._scores(q, base), dim=-1).cumsum(-1)
        code = (torch.rand_like(q).unsqueeze(-1) * below[..., -1:] >= below).sum(-1)
        return code.to(q.dtype) / self.last.to(q.dtype)

    def start(self, t: Tensor) -> None:
        flat = self._codes(t) + self.width * torch.arange(len(self.levels), device=t.device)
        counts = torch.bincount(flat.flatten(), minlength=self.levels.numel()).view_as(self.levels).double() + SMOOTHING
        chances = torch.where(self.absent < 0, 0.0, counts)
        chances = chances / chances.sum(1, keepdim=True)
        self.centre.copy_((chances * self.values).sum(1))
        self.bias.zero_()
        self.levels.copy_(torch.where(self.absent < 0, 0.0, chances.clamp_min(1e-12).log()))

    def tilt(self, means: Tensor) -> Tensor:
        base, q = self.base().double(), torch.zeros_like(means, dtype=torch.float64)
        values = self.values.double()
        for _ in range(8):  # Newton's steps towards the mean, kept short.
            chances = torch.softmax(self._scores(q, base), dim=-1)
            mean = (chances * values).sum(-1)
            variance = (chances * values.square()).sum(-1) - mean.square()
            q = (q + ((means.double() - mean) / variance.clamp_min(1e-3)).clamp(-2, 2)).clamp(-8, 8)
        return q


class Gaussian(Visible):
    """Real numbers: t is normal with mean q / precision and a learned precision a column; the weights are in units of the data."""

    name = "gaussian"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.log_precision = nn.Parameter(torch.zeros(size))

    @property
    def rate(self) -> float:
        return 0.1 if self.few else 0.01

    @property
    def scale(self) -> Tensor:
        return self.base()

    def base(self) -> Tensor:
        return self.log_precision.clamp(*PRECISIONS).exp()

    def log_base(self, t: Tensor, base: Tensor) -> Tensor:
        return -0.5 * t.square() @ base.to(t.dtype)

    def log_normaliser(self, q: Tensor, base: Tensor) -> Tensor:
        return 0.5 * (q.square() / base + math.log(2 * math.pi) - base.log()).sum(-1)

    def draw(self, q: Tensor, base: Tensor) -> Tensor:
        return q / base + torch.randn_like(q) * base.rsqrt()

    def start(self, t: Tensor) -> None:
        variance, mean = torch.var_mean(t.double(), 0, correction=0)
        self.bias.copy_(mean)
        self.log_precision.copy_(-variance.clamp_min(math.exp(-PRECISIONS[1])).log())

    def narrow(self, residuals: Tensor) -> None:
        variance = residuals.double().var(0, correction=0)
        self.log_precision.copy_(-variance.clamp_min(math.exp(-PRECISIONS[1])).log())

    def tilt(self, means: Tensor) -> Tensor:
        return means.double() - self.bias.double()


def kind_of(wanted: str, space: Space) -> str:
    """The visible units for a space: the wanted ones, or for ``auto`` those that fit.

    Raises:
        InvalidInput: where the wanted units do not fit the columns.
        Unsupported: where no units do.
    """
    columns = columns_of(space)
    counts = [column.cardinality for column in columns]
    two = all(count == 2 for count in counts)
    ordered = all(count is not None and (column.kind != "categorical" or count <= 2) for column, count in zip(columns, counts, strict=True))
    few = ordered and max(count or 0 for count in counts) <= ORDINAL_LEVELS
    chosen = wanted if wanted != "auto" else "bernoulli" if two else "ordinal" if few else "gaussian"
    if any(column.missing for column in columns):
        raise Unsupported(f"rbm cannot take missing values, and {space} may hold some: fill or drop them, or use vae or mixture.")
    if chosen == "bernoulli" and not two:
        raise InvalidInput(f"visible = 'bernoulli' needs columns of two values; {space} has others: use visible = 'ordinal' or 'gaussian'.")
    if chosen == "ordinal" and not ordered:
        raise InvalidInput(
            f"visible = 'ordinal' needs columns of finitely many ordered values; {space} has others: use visible = 'gaussian', or vae."
        )
    return chosen
