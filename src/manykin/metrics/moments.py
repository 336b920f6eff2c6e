"""Streaming moments: means, ratios of means and their standard errors in constant memory."""

import math

import torch
from torch import Tensor


class Moments:
    """Count, mean and co-moments of vectors, merged chunk by chunk in float64.

    The pairwise update of Chan, Golub and LeVeque (Algorithms for computing the sample variance, 1983, equation 1.5), for vectors.
    """

    def __init__(self, size: int) -> None:
        self.n = 0
        self.centre = torch.zeros(size, dtype=torch.float64)
        self.squares = torch.zeros(size, size, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Add rows, shape (n, size)."""
        new = len(values)
        if new == 0:
            return
        values = values.to("cpu", torch.float64)
        centre = values.mean(dim=0)
        shift, deviations = centre - self.centre, values - centre
        total = self.n + new
        self.squares += deviations.T @ deviations + torch.outer(shift, shift) * (self.n * new / total)
        self.centre = self.centre + shift * (new / total)
        self.n = total

    def mean(self, index: int) -> tuple[float, float | None]:
        """The mean of one entry and its standard error (None for fewer than two rows)."""
        if self.n == 0:
            return math.nan, None
        return float(self.centre[index]), self._error(torch.nn.functional.one_hot(torch.tensor(index), len(self.centre)).double())

    def ratio(self, top: int, bottom: int) -> tuple[float, float | None]:
        """The ratio of two means, and its standard error by the delta method: that of mean(top - ratio * bottom) / mean(bottom)."""
        if self.n == 0 or float(self.centre[bottom]) == 0.0:
            return math.nan, None
        value = float(self.centre[top] / self.centre[bottom])
        weights = torch.zeros_like(self.centre)
        weights[top], weights[bottom] = 1.0, -value
        error = self._error(weights)
        return value, None if error is None else error / abs(float(self.centre[bottom]))

    def _error(self, weights: Tensor) -> float | None:
        if self.n < 2:
            return None
        variance = float(weights @ self.squares @ weights) / (self.n - 1)
        return math.sqrt(max(variance, 0.0) / self.n)
