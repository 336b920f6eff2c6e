"""The exact denoiser of a Gaussian mixture: what every solver and every likelihood is tested against."""

import math

import torch
from torch import Tensor

from manykin.diffusion.denoiser import Guess
from manykin.diffusion.schedule import Schedule


class GaussianMixtureDenoiser:
    """The posterior mean of data from ``sum_k w_k N(mu_k, Sigma_k)`` given ``x_t``, in closed form.

    ``x_t`` given component k is ``N(alpha mu_k, alpha^2 Sigma_k + sigma^2 I)``, so with :math:`C_k` that covariance,
    ``E[x0 | x_t, k] = mu_k + alpha Sigma_k C_k^-1 (x_t - alpha mu_k)``, averaged with the posterior weights of the components.

    Args:
        weights: (k,), summing to one.
        means: (k, d).
        covariances: (k, d, d).
        schedule: of the noise.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, schedule: Schedule) -> None:
        self.weights, self.means, self.covariances, self.schedule = weights, means, covariances, schedule

    def __call__(self, x: Tensor, t: Tensor) -> Guess:
        """The posterior means; all points must be at one time."""
        alpha, sigma = self.schedule.alpha(t[0]), self.schedule.sigma(t[0])
        total = alpha**2 * self.covariances + sigma**2 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        offset = x[:, None] - alpha * self.means
        solved = torch.linalg.solve(total, offset[..., None])[..., 0]
        posterior = torch.softmax(self._log_joint(offset, solved, total), dim=1)
        x0 = self.means + alpha * (self.covariances @ solved[..., None])[..., 0]
        mean = (posterior[..., None] * x0).sum(dim=1)
        return Guess(mean, (x - alpha * mean) / sigma)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """The log density of x_t at one time, shape (n,)."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        total = alpha**2 * self.covariances + sigma**2 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        offset = x[:, None] - alpha * self.means
        solved = torch.linalg.solve(total, offset[..., None])[..., 0]
        return torch.logsumexp(self._log_joint(offset, solved, total), dim=1) - 0.5 * x.shape[1] * math.log(2 * math.pi)

    def _log_joint(self, offset: Tensor, solved: Tensor, total: Tensor) -> Tensor:
        joint: Tensor = self.weights.log() - 0.5 * ((offset * solved).sum(dim=2) + torch.linalg.slogdet(total).logabsdet)
        return joint
