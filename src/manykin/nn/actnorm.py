"""Activation normalisation."""

import torch
from torch import Tensor, nn


class ActNorm(nn.Module):
    """h = (x + shift) * exp(log_scale) per entry, started from data so that h has mean 0 and variance 1.

    After its start the layer learns like any other and holds no statistics of a batch (Kingma and Dhariwal, Glow: generative flow with
    invertible 1x1 convolutions, 2018, section 3.1). The buffer ``started`` makes the start happen once in the life of the weights.

    Shape: (n, size) to (n, size).
    """

    started: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Normalise the batch x (n, size); a layer that has been started before, or loaded, keeps its values."""
        if bool(self.started):
            return
        std, mean = torch.std_mean(x.double(), dim=0, correction=0)
        self.shift.copy_(-mean)
        self.log_scale.copy_(-std.clamp(min=1e-6).log())
        self.started.fill_(True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h and its log-determinant, one number for all examples."""
        return (x + self.shift) * self.log_scale.exp(), self.log_scale.sum()

    def inverse(self, h: Tensor) -> Tensor:
        """The x that :meth:`forward` maps to h."""
        return h * (-self.log_scale).exp() - self.shift
