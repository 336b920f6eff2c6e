"""Likelihood heads: the distribution of one value given what a network says of it.

Ordered columns are seen in standardised units t = (x - centre) / scale; finite columns also as codes k = (x - origin) / step, from 0 to
``cardinality`` - 1. A head serves a group of g columns of one kind at once. Parameters have shape (..., g, width), values (n, g); leading
axes of the parameters (several latents an example) broadcast.
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_SCALE_FLOOR = -7.0
"""Lower end of every learned log-scale, in standardised units: keeps a likelihood finite on repeated values."""


class Values:
    """A group's values x (n, g), in the forms that likelihoods ask for: each is computed when first asked for, in the dtype of the parameters.

    Args:
        x: the values as they are, numbers even where they are missing.
        centre, scale, origin, step: of each column, shape (g,).
        dtype: of the parameters.
        plain: whether every origin is 0 and every step 1.
    """

    def __init__(self, x: Tensor, centre: Tensor, scale: Tensor, origin: Tensor, step: Tensor, dtype: torch.dtype, plain: bool = False) -> None:
        self.x, self.centre, self.scale, self.origin, self.step, self.dtype, self.plain = x, centre, scale, origin, step, dtype, plain

    @cached_property
    def t(self) -> Tensor:
        """Standardised values, (n, g)."""
        return ((self.x - self.centre) / self.scale).to(self.dtype)

    @cached_property
    def codes(self) -> Tensor:
        """Steps above the origin, whole numbers (n, g); meaningless for continuous columns."""
        return (self.x.detach().round() if self.plain else whole(self.x, self.origin, self.step)).to(self.dtype)

    @cached_property
    def half(self) -> Tensor:
        """Half a grid step in standardised units, (g,)."""
        return (0.5 * self.step / self.scale).to(self.dtype)


def whole(x: Tensor, origin: Tensor, step: Tensor) -> Tensor:
    """The codes ``(x - origin) / step`` of values on a grid, rounded, without a gradient."""
    return ((x.detach() - origin) / step).round()


def floored(log_scale: Tensor) -> Tensor:
    """A log-scale that bends smoothly into :data:`LOG_SCALE_FLOOR`."""
    return LOG_SCALE_FLOOR + functional.softplus(log_scale - LOG_SCALE_FLOOR)


def logistic_cell(middle: Tensor, half: Tensor, first: Tensor | None = None, last: Tensor | None = None) -> Tensor:
    """log P of the cell from ``middle - half`` to ``middle + half`` of the standard logistic distribution F.

    ``F(b) - F(a) = F(b) F(-a) (1 - exp(a - b))`` loses nothing in the tails. The ``first`` cell of a finite grid reaches down to minus infinity and
    the ``last`` up to infinity, so that the probabilities of all cells sum to one (Salimans, Karpathy, Chen and Kingma, PixelCNN++, 2017, section
    2.1). All arguments broadcast.
    """
    upper, lower, inner = functional.logsigmoid(middle + half), functional.logsigmoid(half - middle), torch.log(-torch.expm1(-2 * half))
    if first is None or last is None:
        return upper + lower + inner
    return torch.where(last, 0.0, upper) + torch.where(first, 0.0, lower) + torch.where(first | last, 0.0, inner)


class Head(nn.Module, ABC):
    """Base of all likelihoods. ``width``: parameters a column that the network emits. ``coded``: whether samples are codes rather than t."""

    width: int = 1
    coded: bool = False

    @abstractmethod
    def log_prob(self, parameters: Tensor, values: Values) -> Tensor:
        """log p of each value, shape (..., n, g): a mass on a grid, a density per unit of t elsewhere."""

    @abstractmethod
    def sample(self, parameters: Tensor) -> Tensor:
        """One draw for each row of parameters, shape (..., g): codes or t."""

    @abstractmethod
    def mode(self, parameters: Tensor) -> Tensor:
        """The most probable value, shape (..., g): codes or t."""

    @abstractmethod
    def start(self, codes: Tensor, observed: Tensor) -> Tensor:
        """Parameters (g, width) of the marginals of training values (n, g), as a data-dependent start."""


class Categorical(Head):
    """P(k) = softmax of ``cardinality`` logits."""

    coded = True

    def __init__(self, cardinality: int) -> None:
        super().__init__()
        self.width = cardinality

    def log_prob(self, parameters: Tensor, values: Values) -> Tensor:
        codes = values.codes.long() + torch.zeros_like(parameters[..., 0], dtype=torch.int64)
        scores = parameters.expand(*codes.shape, self.width)
        return scores.gather(-1, codes.unsqueeze(-1)).squeeze(-1) - parameters.logsumexp(dim=-1)

    def sample(self, parameters: Tensor) -> Tensor:
        return (parameters - torch.empty_like(parameters).exponential_().log()).argmax(dim=-1)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.argmax(dim=-1)

    def start(self, codes: Tensor, observed: Tensor) -> Tensor:
        columns = codes.shape[1]
        flat = (codes.long() + self.width * torch.arange(columns, device=codes.device))[observed]
        counts = torch.bincount(flat, minlength=columns * self.width).view(columns, self.width).double()
        return ((counts + 0.5) / (counts.sum(dim=1, keepdim=True) + 0.5 * self.width)).log()


class Bernoulli(Head):
    """P(1) = sigmoid of one logit, for columns of two values."""

    coded = True

    def log_prob(self, parameters: Tensor, values: Values) -> Tensor:
        logit = parameters.squeeze(-1)
        return -functional.binary_cross_entropy_with_logits(logit, values.codes.expand_as(logit), reduction="none")

    def sample(self, parameters: Tensor) -> Tensor:
        return (torch.rand_like(parameters) < parameters.sigmoid()).squeeze(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.squeeze(-1) > 0

    def start(self, codes: Tensor, observed: Tensor) -> Tensor:
        ones, count = (codes.double() * observed).sum(dim=0), observed.sum(dim=0)
        return ((ones + 0.5) / (count - ones + 0.5)).log().unsqueeze(1)


class Squared(Head):
    """Minus ``(t - location)^2 / 2``: an error in place of a likelihood; the most probable value, and the only one drawn, is the location."""

    def log_prob(self, parameters: Tensor, values: Values) -> Tensor:
        return -0.5 * (values.t - parameters.squeeze(-1)).square()

    def sample(self, parameters: Tensor) -> Tensor:
        return parameters.squeeze(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.squeeze(-1)

    def start(self, codes: Tensor, observed: Tensor) -> Tensor:
        return torch.zeros(codes.shape[1], 1, dtype=torch.float64, device=codes.device)


class LocationScale(Head):
    """Base of the likelihoods with a location and a log-scale in standardised units.

    ``shared``: the log-scale is a parameter of the column; otherwise the network emits it for each example.
    """

    base_log_scale: float = 0.0

    def __init__(self, columns: int, shared: bool) -> None:
        super().__init__()
        self.width = 1 if shared else 2
        self.log_scale = nn.Parameter(torch.full((columns,), self.base_log_scale)) if shared else None

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Location and log-scale, shapes (..., g); the log-scale bends smoothly into its floor."""
        raw = parameters[..., 1] if self.log_scale is None else self.log_scale.expand(parameters.shape[:-1])
        return parameters[..., 0], floored(raw)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters[..., 0]

    def start(self, codes: Tensor, observed: Tensor) -> Tensor:
        entries = [0.0, self.base_log_scale][: self.width]
        return torch.tensor(entries, dtype=torch.float64, device=codes.device).expand(codes.shape[1], self.width)


class Gaussian(LocationScale):
    """N(t; location, scale^2), for continuous columns."""

    def log_prob(self, parameters: Tensor, values: Values) -> Tensor:
        location, log_scale = self.split(parameters)
        return -0.5 * ((values.t - location) * (-log_scale).exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)

    def sample(self, parameters: Tensor) -> Tensor:
        location, log_scale = self.split(parameters)
        return location + log_scale.exp() * torch.randn_like(location)


class Discretised(LocationScale):
    """Base of distributions on a grid: P(k) = F(t + half) - F(t - half), where the outermost cells of a finite column take the tails.

    ``cardinality``: values of a finite column; None for a grid without ends.
    """

    def __init__(self, columns: int, shared: bool, cardinality: int | None) -> None:
        super().__init__(columns, shared)
        self.cardinality = cardinality

    def log_prob(self, parameters: Tensor, values: Values) -> Tensor:
        location, log_scale = self.split(parameters)
        rate = (-log_scale).exp()
        middle, half = (values.t - location) * rate, values.half * rate
        if self.cardinality is None:
            return self.cell(middle, half)
        return self.cell(middle, half, values.codes == 0, values.codes == self.cardinality - 1)

    @abstractmethod
    def cell(self, middle: Tensor, half: Tensor, first: Tensor | None = None, last: Tensor | None = None) -> Tensor:
        """log(F(middle + half) - F(middle - half)) of the standard distribution, without cancellation: in the tails, and for narrow cells.

        The first and the last cell of a finite grid, where they are said, reach to infinity.
        """


class DiscretisedLogistic(Discretised):
    """A logistic distribution on a grid (Salimans, Karpathy, Chen and Kingma, PixelCNN++, 2017, section 2.1, with one component)."""

    base_log_scale = math.log(math.sqrt(3) / math.pi)

    def cell(self, middle: Tensor, half: Tensor, first: Tensor | None = None, last: Tensor | None = None) -> Tensor:
        return logistic_cell(middle, half, first, last)

    def sample(self, parameters: Tensor) -> Tensor:
        location, log_scale = self.split(parameters)
        uniform = torch.rand_like(location).clamp(1e-7, 1 - 1e-7)
        return location + log_scale.exp() * (uniform.log() - torch.log1p(-uniform))


class DiscretisedGaussian(Discretised):
    """A Gaussian on a grid; by symmetry the difference of two tails is taken on the side where both are small."""

    def cell(self, middle: Tensor, half: Tensor, first: Tensor | None = None, last: Tensor | None = None) -> Tensor:
        inner = self.interval(middle, half)
        if first is None or last is None:
            return inner
        tails = torch.special.log_ndtr(half + torch.where(first, middle, -middle))
        return torch.where(first & last, torch.zeros_like(inner), torch.where(first | last, tails, inner))

    def interval(self, middle: Tensor, half: Tensor) -> Tensor:
        """log of the mass between ``middle - half`` and ``middle + half``."""
        distance = middle.abs()
        upper, lower = torch.special.log_ndtr(half - distance), torch.special.log_ndtr(-half - distance)
        difference = upper + torch.log(-torch.expm1(torch.clamp(lower - upper, max=-1e-5)))
        # The mean of exp(-t^2 / 2) over a narrow cell, to second order; far out it grows like exp(|middle| half).
        slope = middle * half
        curvature = torch.minimum(slope.square() / 6, slope.abs()) - half.square() / 6
        density = curvature - 0.5 * middle.square() - 0.5 * math.log(2 * math.pi) + torch.log(2 * half)
        return torch.where(half < 1e-3, density, difference)

    def sample(self, parameters: Tensor) -> Tensor:
        location, log_scale = self.split(parameters)
        return location + log_scale.exp() * torch.randn_like(location)
