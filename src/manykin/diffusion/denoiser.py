"""Denoisers: from a noisy point and its time to a guess at the data behind it."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from manykin.diffusion.schedule import Schedule
from manykin.spaces import Value

Prediction = Literal["epsilon", "x0", "v", "velocity"]


@dataclass(frozen=True)
class Guess:
    """The posterior means of the data and of the noise: ``x_t = alpha x0 + sigma eps``, both of x_t's shape."""

    x0: Tensor
    eps: Tensor


class Denoiser(Protocol):
    """Anything that answers with the posterior mean of data and noise; ``schedule`` says between which times it may be asked."""

    schedule: Schedule

    def __call__(self, x: Tensor, t: Tensor) -> Guess:
        """The guess for points x (n, ...) at times t (n,)."""
        ...


class NetworkDenoiser(nn.Module):
    r"""A network as a denoiser: preconditioning, target and loss.

    The network predicts a fixed combination ``a(t) x0 + b(t) eps``, from which both parts follow by solving two linear equations:

    ===========  ============  ============  ==================================================================
    prediction   a             b             source
    ===========  ============  ============  ==================================================================
    epsilon      0             1             Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020
    x0           1             0             the same, section 3.2
    v            -sigma        alpha         Salimans and Ho, Progressive distillation, 2022, appendix D
    velocity     alpha'        sigma'        Lipman et al., Flow matching for generative modeling, 2023
    ===========  ============  ============  ==================================================================

    Inputs are divided by their standard deviation for data of unit variance, :math:`\sqrt{\alpha^2 + \sigma^2}` (Karras et al., Elucidating the
    design space of diffusion-based generative models, 2022, section 5).

    Args:
        network: (x (n, ...), t (n,), context (n, k) or None) -> a tensor of x's shape.
        schedule: of the noise.
        prediction: what the network's output means.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, prediction: Prediction) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.prediction: Prediction = prediction

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Guess:
        """The guess, in x's dtype."""
        output = self._ask(x, t, context)
        alpha, sigma, a, b = self._parts(x, t)
        determinant = alpha * b - sigma * a
        return Guess((b * x - sigma * output) / determinant, (alpha * output - a * x) / determinant)

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean squared error of the network's target at times t, shape (n,)."""
        alpha, sigma, a, b = self._parts(x0, t)
        output = self._ask(alpha * x0 + sigma * noise, t, context)
        return (output.to(x0.dtype) - (a * x0 + b * noise)).square().flatten(1).mean(dim=1)

    def given(self, context: Tensor | None) -> Denoiser:
        """The denoiser of points that all have this context."""
        return _Given(self, context)

    def _ask(self, x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        output: Tensor = self.network(x / _wide((alpha**2 + sigma**2).sqrt(), x), t, context)
        return output

    def _parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        a, b = {
            "epsilon": lambda: (zero, one), "x0": lambda: (one, zero), "v": lambda: (-sigma, alpha), "velocity": lambda: self.schedule.slopes(t),
        }[self.prediction]()  # fmt: skip
        return _wide(alpha, x), _wide(sigma, x), _wide(a, x), _wide(b, x)


@runtime_checkable
class Denoises(Protocol):
    """A model that draws by removing noise: it holds a network denoiser, and gives the denoiser of each condition."""

    denoiser: NetworkDenoiser

    def given(self, condition: Value | None, scale: float = 1.0) -> Denoiser:
        """The denoiser, in model space, of n points under n conditions; guided by ``scale``, with 0 for no condition at all."""
        ...


class _Given:
    """A network denoiser with its context filled in."""

    def __init__(self, denoiser: NetworkDenoiser, context: Tensor | None) -> None:
        self.denoiser, self.context, self.schedule = denoiser, context, denoiser.schedule

    def __call__(self, x: Tensor, t: Tensor) -> Guess:
        guess: Guess = self.denoiser(x, t, self.context)
        return guess


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, ...), to multiply with ``like``, in its dtype."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))
