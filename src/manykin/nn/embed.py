"""Conditions as features: what a network sees of a label or of a vector."""

import torch
from torch import Tensor, nn


class LabelFeatures(nn.Module):
    """A learned vector for each of ``classes`` labels: int64 codes (n,) to features (n, width)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(classes, width)

    def fit(self, labels: Tensor) -> None:
        """Labels need no statistics."""

    def forward(self, labels: Tensor) -> Tensor:
        return self.table(labels)  # type: ignore[no-any-return]


class VectorFeatures(nn.Module):
    """Real conditions brought to mean 0 and variance 1 by the statistics of the training rows: (n, size) to (n, size)."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.width = size
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("std", torch.ones(size, dtype=torch.float64))

    def fit(self, values: Tensor) -> None:
        """Take mean and standard deviation from training rows (n, size); a constant entry keeps the scale 1."""
        std, mean = torch.std_mean(values.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std
