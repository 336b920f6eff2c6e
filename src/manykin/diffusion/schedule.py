"""Schedules: how much of the data and how much noise a point holds at each time."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Schedule(ABC):
    """``x_t = alpha(t) x_0 + sigma(t) eps`` with standard normal eps, for times from 0 (data) to 1 (noise).

    The signal-to-noise ratio alpha^2 / sigma^2 falls strictly. ``first`` and ``last`` bound the times at which networks are trained and asked: at
    the very ends of some schedules a target is infinite, or the noise does not depend on the data at all.

    Kingma, Salimans, Poole and Ho, Variational diffusion models, 2021, section 3.1.
    """

    first: float = 1e-3
    last: float = 1.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The share of the data, of t's shape."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise, of t's shape."""

    @abstractmethod
    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of alpha and sigma by t."""

    def log_snr(self, t: Tensor) -> Tensor:
        """``lambda(t) = log(alpha^2 / sigma^2)``; infinite at time 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """The time of a logarithmic signal-to-noise ratio: the inverse of :meth:`log_snr`."""


class Linear(Schedule):
    """Noise that is added at a rate rising linearly from 0.1 to 20: ``alpha = exp(-(19.9 / 4) t^2 - (0.1 / 2) t)``, ``sigma^2 = 1 - alpha^2``.

    The continuous limit of the betas of Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020 (Song et al., Score-based generative
    modeling through stochastic differential equations, 2021, equation 33). Noise rises with the square root of time at first, so the first time is
    earlier than elsewhere, with the same noise of a thousandth.
    """

    first = 1e-5
    low, high = 0.1, 20.0

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).clamp_min(0).sqrt()

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha(t), self.sigma(t)
        rate = -0.5 * (self.low + (self.high - self.low) * t)
        return rate * alpha, -rate * alpha**2 / sigma

    def log_snr(self, t: Tensor) -> Tensor:
        log_alpha = self._log_alpha(t)
        return 2 * log_alpha - (-torch.expm1(2 * log_alpha)).log()

    def time_of(self, log_snr: Tensor) -> Tensor:
        log_alpha = 0.5 * torch.nn.functional.logsigmoid(log_snr)
        a, b = 0.25 * (self.high - self.low), 0.5 * self.low
        return (-b + (b * b - 4 * a * log_alpha).sqrt()) / (2 * a)

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * (self.high - self.low) * t**2 - 0.5 * self.low * t


class Cosine(Schedule):
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)``: noise that rises evenly.

    Nichol and Dhariwal, Improved denoising diffusion probabilistic models, 2021, section 3.2, without the offset of discrete times. The last time is
    before 1, where the data would be gone and a guess of the noise would say nothing of them: there it is magnified 64 times on its way to data.
    """

    last = 0.99

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(0.5 * math.pi * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * math.pi * self.sigma(t), 0.5 * math.pi * self.alpha(t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return (2 / math.pi) * torch.atan(torch.exp(-0.5 * log_snr))


class Rectified(Schedule):
    """``alpha = 1 - t``, ``sigma = t``: straight lines from data to noise.

    Liu, Gong and Liu, Flow straight and fast, 2023; Lipman et al., Flow matching for generative modeling, 2023, equation 22 with sigma_min = 0 and
    time reversed. Networks are asked up to ``last`` only: velocities are finite there, ratios are not.
    """

    last = 0.9975

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)


SCHEDULES: dict[str, type[Schedule]] = {"linear": Linear, "cosine": Cosine, "rectified": Rectified}
"""Schedules by the names that configs use."""
