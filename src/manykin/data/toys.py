"""Two-dimensional toys whose density is known exactly, so that a model's distance from the truth is a number.

Every toy has ``log_prob`` (normalised, float64, differentiable where it is positive), ``sample`` and ``entropy`` H in nats, hence the gap
KL(p || q) = mean negative log-likelihood of q - H. A noisy toy is the convolution of a shape with a Gaussian; its density is the integral itself,
by Gauss-Legendre quadrature in log space, to about ten digits.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from manykin.data.densities import LOG_2PI, Box, Checkerboard, Circle, NoisyDisc, Toy, grid_entropy, legendre, normal, uniform
from manykin.errors import InvalidInput, suggest

__all__ = ["Box", "Checkerboard", "Circle", "Curve", "Mixture", "NoisyDisc", "Pinwheel", "Toy", "TwoMoons", "TwoSpirals", "names", "toy"]


class Mixture(Toy):
    """A mixture of round Gaussians; its entropy, overlaps included, is integrated."""

    def __init__(self, name: str, means: Tensor, sigmas: Tensor, weights: Tensor) -> None:
        self.name = name
        self.means, self.sigmas, self.weights = means.double(), sigmas.double(), weights.double() / weights.sum()
        low, high = (means - 8 * sigmas[:, None]).min(dim=0).values, (means + 8 * sigmas[:, None]).max(dim=0).values
        self.bounds = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))

    def _log_prob(self, x: Tensor) -> Tensor:
        squares = ((x[:, None] - self.means) ** 2).sum(dim=2) / self.sigmas**2
        return torch.logsumexp(self.weights.log() - squares / 2 - 2 * self.sigmas.log() - LOG_2PI, dim=1)

    def _sample(self, n: int, source: torch.Generator) -> Tensor:
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=source)
        return self.means[chosen] + self.sigmas[chosen, None] * normal(n, source)

    @cached_property
    def entropy(self) -> float:
        return grid_entropy(self.log_prob, self.bounds, float(self.sigmas.min()) / 4)


class Curve(Toy):
    """A density along curves, plus Gaussian noise: p(x) = Σ_j w_j ∫ f_j(t) N(x; c_j(t), σ² I) dt.

    Args:
        nodes: curve points c(t) of the quadrature rule, shape (m, 2).
        weights: f(t) times the rule's weights, shape (m,), summing to one.
    """

    sigma: float

    def __init__(self, nodes: Tensor, weights: Tensor) -> None:
        self.nodes, self.log_weights = nodes, weights.log()
        low, high = nodes.min(dim=0).values - 8 * self.sigma, nodes.max(dim=0).values + 8 * self.sigma
        self.bounds = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))

    def _log_prob(self, x: Tensor) -> Tensor:
        squares = ((x[:, :1] - self.nodes[:, 0]) ** 2 + (x[:, 1:] - self.nodes[:, 1]) ** 2) / self.sigma**2
        return torch.logsumexp(self.log_weights - squares / 2, dim=1) - 2 * math.log(self.sigma) - LOG_2PI

    @abstractmethod
    def _points(self, n: int, source: torch.Generator) -> Tensor:
        """n points on the curves themselves."""

    def _sample(self, n: int, source: torch.Generator) -> Tensor:
        return self._points(n, source) + self.sigma * normal(n, source)

    @cached_property
    def entropy(self) -> float:
        return grid_entropy(self.log_prob, self.bounds, self.sigma / 3)


def _moons(t: Tensor, upper: Tensor) -> Tensor:
    return torch.where(upper[:, None], torch.stack([t.cos(), t.sin()], dim=1), torch.stack([1 - t.cos(), 0.5 - t.sin()], dim=1))


class TwoMoons(Curve):
    """scikit-learn's two moons: half circles of radius 1 around (0, 0) and (1, 0.5), evenly filled, noise σ = 0.1."""

    name = "two-moons"
    sigma = 0.1

    def __init__(self) -> None:
        t, weights = legendre(0.0, math.pi, 160)
        upper = torch.arange(2 * len(t)) < len(t)
        super().__init__(_moons(t.repeat(2), upper), weights.repeat(2) / (2 * math.pi))

    def _points(self, n: int, source: torch.Generator) -> Tensor:
        return _moons(math.pi * uniform(n, source), uniform(n, source) < 0.5)


def _spiral(t: Tensor, sign: Tensor) -> Tensor:
    return (sign * t / 3)[:, None] * torch.stack([t.cos(), t.sin()], dim=1)


class TwoSpirals(Curve):
    """Two arms ±(t/3)(cos t, sin t), t from 0 to 3π with density 2t/(3π)² (about even along the arm), noise σ = 0.1."""

    name = "two-spirals"
    sigma = 0.1
    turn = 3 * math.pi

    def __init__(self) -> None:
        t, weights = legendre(0.0, self.turn, 480)
        sign = torch.ones(2 * len(t), dtype=torch.float64)
        sign[len(t) :] = -1
        super().__init__(_spiral(t.repeat(2), sign), (weights * t / self.turn**2).repeat(2))

    def _points(self, n: int, source: torch.Generator) -> Tensor:
        return _spiral(self.turn * uniform(n, source).sqrt(), (uniform(n, source) < 0.5).double() * 2 - 1)


class Pinwheel(Toy):
    """Five Gaussian blades, twisted by an angle that grows with the distance from the centre.

    A blade is N((2, 0), diag(0.6², 0.2²)), turned by 2πk/5 and by θ(|x|) = |x| / 2. Johnson, Duvenaud, Wiltschko, Datta and Adams
    (Composing graphical models with neural networks, 2016) turn by a function of the first coordinate, which has no simple density; turning by
    a function of the radius keeps areas, so that p(x) = Σ_k N(R_k(x)) / 5 exactly, and the entropy is that of the untwisted blades.
    """

    name = "pinwheel"
    bounds = (-7.0, 7.0, -7.0, 7.0)
    blades = 5

    def __init__(self) -> None:
        self.angles = torch.arange(self.blades, dtype=torch.float64) * (2 * math.pi / self.blades)
        self.mean = torch.tensor([2.0, 0.0], dtype=torch.float64)
        self.sigma = torch.tensor([0.6, 0.2], dtype=torch.float64)

    def _log_prob(self, x: Tensor) -> Tensor:
        radius = (x * x).sum(dim=1).clamp_min(1e-300).sqrt()
        return self._blades(x, radius / 2)

    def _blades(self, x: Tensor, twist: Tensor) -> Tensor:
        angle = -(self.angles + twist[:, None])
        first, second = x[:, :1] * angle.cos() - x[:, 1:] * angle.sin(), x[:, :1] * angle.sin() + x[:, 1:] * angle.cos()
        squares = ((first - self.mean[0]) / self.sigma[0]) ** 2 + (second / self.sigma[1]) ** 2
        return torch.logsumexp(-squares / 2, dim=1) - math.log(self.blades) - self.sigma.log().sum() - LOG_2PI

    def _sample(self, n: int, source: torch.Generator) -> Tensor:
        w = self.mean + self.sigma * normal(n, source)
        angle = self.angles[torch.randint(0, self.blades, (n,), generator=source)] + w.norm(dim=1) / 2
        return torch.stack([w[:, 0] * angle.cos() - w[:, 1] * angle.sin(), w[:, 0] * angle.sin() + w[:, 1] * angle.cos()], dim=1)

    @cached_property
    def entropy(self) -> float:
        return grid_entropy(lambda w: self._blades(w, w.new_zeros(len(w))), self.bounds, float(self.sigma.min()) / 4)


def _blobs() -> Mixture:
    means = torch.tensor([[-2.5, 0.0], [1.0, 2.0], [2.0, -1.5]], dtype=torch.float64)
    return Mixture("blobs", means, torch.tensor([0.7, 0.5, 0.9]), torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64))


def _eight_gaussians() -> Mixture:
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    means = 4 / math.sqrt(2) * torch.stack([angles.cos(), angles.sin()], dim=1)
    return Mixture("eight-gaussians", means, torch.full((8,), 0.5 / math.sqrt(2), dtype=torch.float64), torch.ones(8))


def _grid_gaussians() -> Mixture:
    places = torch.arange(-2, 3, dtype=torch.float64) * 2
    means = torch.cartesian_prod(places, places) / math.sqrt(8)
    return Mixture("25-gaussians", means, torch.full((25,), 0.05 / math.sqrt(8), dtype=torch.float64), torch.ones(25))


_MAKERS: dict[str, Callable[[], Toy]] = {
    "box": Box, "circle": Circle, "noisy-disc": NoisyDisc, "blobs": _blobs, "two-moons": TwoMoons, "eight-gaussians": _eight_gaussians,
    "25-gaussians": _grid_gaussians, "checkerboard": Checkerboard, "pinwheel": Pinwheel, "two-spirals": TwoSpirals,
}  # fmt: skip
_MADE: dict[str, Toy] = {}


def names() -> list[str]:
    """The names of all toys."""
    return list(_MAKERS)


def toy(name: str) -> Toy:
    """The toy of this name; one object each, so that an entropy is integrated once.

    Raises:
        InvalidInput: for an unknown name, with the nearest known one.
    """
    if name not in _MAKERS:
        raise InvalidInput(f"{name!r} is not a toy.{suggest(name, _MAKERS)}")
    if name not in _MADE:
        _MADE[name] = _MAKERS[name]()
    return _MADE[name]
