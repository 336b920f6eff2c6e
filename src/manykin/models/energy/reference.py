"""The reference measure of an energy model: a Gaussian, from which chains begin and in whose units they step."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from manykin.spaces import Value

FULL = 1024
"""Entries up to which ``auto`` keeps the full covariance."""


class Reference(nn.Module):
    """The Gaussian N(m_c, L L^T) of the training rows over tensors (n, *shape), as the map z = m_c + L u from standard normal u (n, d).

    The means are those of the classes of a conditional model, each drawn towards the mean of all rows by one row's weight; the covariance is that
    within classes, common to all: what linear discriminant analysis assumes.

    The covariance of n rows in d entries is mixed with its own diagonal, d / (n + d) of it, so that L exists and its thin directions are not those of
    the sample alone (Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004, in spirit: theirs estimates the
    share).

    Args:
        shape: of one example in model space.
        covariance: ``full``, ``diagonal``, or ``auto``: full up to 1024 entries.
        classes: labels of a condition, 0 for none.
    """

    means: Tensor
    factor: Tensor

    def __init__(self, shape: tuple[int, ...], covariance: Literal["auto", "full", "diagonal"], classes: int = 0) -> None:
        super().__init__()
        self.shape, self.size = shape, math.prod(shape)
        self.full = covariance == "full" or (covariance == "auto" and self.size <= FULL)
        self.register_buffer("means", torch.zeros(max(1, classes), self.size))
        self.register_buffer("factor", torch.eye(self.size) if self.full else torch.ones(self.size))

    @torch.no_grad()
    def fit(self, z: Tensor, condition: Value | None) -> None:
        """Take means and covariance from rows (n, *shape) with their labels."""
        rows = z.flatten(1).double()
        labels = condition if isinstance(condition, Tensor) else torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        totals = torch.zeros(self.means.shape, dtype=rows.dtype, device=rows.device).index_add_(0, labels, rows)
        counts = torch.bincount(labels, minlength=len(self.means)).to(rows)[:, None]
        means = (totals + rows.mean(dim=0)) / (counts + 1)
        rows, n = rows - means[labels], len(rows)
        spread = rows.square().mean(dim=0)
        spread = spread + 1e-6 * spread.mean() + 1e-12
        self.means.copy_(means)
        if not self.full:
            self.factor.copy_(spread.sqrt())
            return
        share = self.size / (n + self.size)
        cover = (1 - share) * (rows.T @ rows) / n
        cover.diagonal().copy_(spread)
        self.factor.copy_(torch.linalg.cholesky(cover))

    def centre(self, condition: Value | None) -> Tensor:
        """The means of n labels, (n, d), or (1, d) for none."""
        return self.means[condition] if isinstance(condition, Tensor) else self.means

    def push(self, u: Tensor, condition: Value | None = None) -> Tensor:
        """z = m_c + L u, (n, d) to (n, *shape)."""
        z = self.centre(condition) + (u @ self.factor.T if self.full else u * self.factor)
        return z.view(len(u), *self.shape)

    def pull(self, z: Tensor, condition: Value | None = None) -> Tensor:
        """u = L^-1 (z - m_c), (n, *shape) to (n, d)."""
        rest = z.flatten(1) - self.centre(condition)
        if not self.full:
            return rest / self.factor
        solved: Tensor = torch.linalg.solve_triangular(self.factor, rest.T, upper=False).T
        return solved

    def log_volume(self) -> Tensor:
        """log|det L|."""
        return (self.factor.diagonal() if self.full else self.factor).log().sum()
