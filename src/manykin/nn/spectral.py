"""Layers whose weights are divided by their largest singular value."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

SETTLE = 15
"""Power iterations at the start: enough for a few per cent of the singular value of a random matrix."""


class Spectral(nn.Module):
    r"""Base of the layers with spectral normalisation: :math:`\bar W = W / \sigma(W)`, so that the layer stretches no input.

    The weight is seen as a matrix (outputs, all else), and its largest singular value is :math:`\sigma = u^T W v`, with vectors u and v that one
    power iteration a pass in training keeps near the singular ones (Miyato, Kataoka, Koyama and Yoshida, Spectral normalization for generative
    adversarial networks, 2018, algorithm 1). They are buffers: saved with the weights, the same for all examples of a batch, and in evaluation
    neither changed nor improved. Gradients pass through sigma with u and v held (their equation 12); iterations run in the weight's own precision.
    """

    u: Tensor
    v: Tensor
    weight: Tensor

    def settle(self) -> None:
        """Draw u and v anew and bring them near the singular vectors of the weight: once after it is drawn."""
        rows, columns = self.weight.flatten(1).shape
        self.register_buffer("u", functional.normalize(torch.randn(rows), dim=0))
        self.register_buffer("v", torch.zeros(columns))
        for _ in range(0 if self.weight.is_meta else SETTLE):
            self.improve()

    @torch.no_grad()
    def improve(self) -> None:
        """One power iteration."""
        matrix = self.weight.flatten(1)
        with torch.autocast(matrix.device.type, enabled=False):
            self.v.copy_(functional.normalize(matrix.T @ self.u, dim=0))
            self.u.copy_(functional.normalize(matrix @ self.v, dim=0))

    def normalised(self) -> Tensor:
        """The weight that the layer uses; in training after a power iteration."""
        if self.training:
            self.improve()
        with torch.autocast(self.weight.device.type, enabled=False):
            # Copies: the next pass changes the buffers before this one's gradient is taken.
            sigma = self.u.clone() @ (self.weight.flatten(1) @ self.v.clone())
            return self.weight / sigma


class SpectralLinear(nn.Linear, Spectral):
    """:class:`torch.nn.Linear` with spectral normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.normalised(), self.bias)


class SpectralConv2d(nn.Conv2d, Spectral):
    """:class:`torch.nn.Conv2d` with spectral normalisation of its weight as a matrix (outputs, inputs * height * width)."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.normalised(), self.bias, self.stride, self.padding)


def linear(inputs: int, outputs: int, *, spectral: bool = False, bias: bool = True, gain: float = 1.0) -> nn.Linear:
    """A linear layer with orthogonal weights times ``gain`` and zero biases, spectrally normalised or not."""
    layer = (SpectralLinear if spectral else nn.Linear)(inputs, outputs, bias=bias)
    return _started(layer, gain)


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, spectral: bool = False, gain: float = 1.0) -> nn.Conv2d:
    """A convolution with orthogonal weights times ``gain`` and zero biases, spectrally normalised or not."""
    layer = (SpectralConv2d if spectral else nn.Conv2d)(inputs, outputs, kernel, stride=stride, padding=padding)
    return _started(layer, gain)


def _started(layer: Layer, gain: float) -> Layer:
    if layer.weight.numel():
        nn.init.orthogonal_(layer.weight, gain=gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if isinstance(layer, Spectral):
        layer.settle()
    return layer
