"""Convolutional encoder and decoder: pictures to a vector and back, halving and doubling the sides."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.errors import InvalidInput, suggest
from manykin.nn.mlp import ACTIVATIONS

NORMS = ("none", "group")
"""Normalisations by name. ``group`` brings each picture to mean 0 and variance 1 over all channels and pixels together: group normalisation with
one group (Wu and He, Group normalization, 2018, equation 7), which in channels_last memory is several times faster than with more groups. No
picture sees another one of its batch."""


def halved(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Height and width at each level, the picture's own first; an odd side is halved upwards, and 1 stays 1."""
    sizes = [size]
    for _ in range(levels):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


class ConvEncoder(nn.Module):
    """Pictures to vectors: x (n, c, h, w) and context (n, context) to (n, out).

    Each level is a 3 x 3 convolution with stride 2, so that its sides are half of those above, rounded up. All pixels of the coarsest level and the
    context then meet in one linear map, :attr:`last`. Cost: h * w / 4 times 9 * c * widths[0] products for the first level, and so on down.

    Args:
        size: channels, height and width of the pictures.
        widths: channels of each level, the finest first.
        out: width of the output.
        activation: a name in :data:`~manykin.nn.mlp.ACTIVATIONS`.
        norm: a name in :data:`NORMS`; the first level has none, and so keeps the brightness.
        dropout: share of channels that training silences at each level.
        spectral: whether every weight is divided by its largest singular value, by one power iteration a pass in training (Miyato et al., Spectral
            normalization for generative adversarial networks, 2018).
        context: features of a condition, 0 for none.

    Raises:
        InvalidInput: for an unknown activation or norm, no levels, or a size below 1.
    """

    def __init__(
        self, size: tuple[int, int, int], widths: Sequence[int], out: int, *, activation: str = "silu", norm: str = "none", dropout: float = 0.0,
        spectral: bool = False, context: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        _check(size, widths, activation, norm)
        height, width = halved(size[1:], len(widths))[-1]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairwise([size[0], *widths]))
        self.norms = _norms([widths[0], *widths[1:]], norm, skip_first=True)
        self.last = nn.Linear(widths[-1] * height * width + context, out)
        self.activation, self.dropout = activation, dropout
        for layer in self.convolutions:
            _start(layer, 2**0.5)
        _start(self.last, 1.0)
        if spectral:
            for layer in [*self.convolutions, self.last]:
                nn.utils.parametrizations.spectral_norm(layer)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        activation, h = ACTIVATIONS[self.activation], x
        for layer, norm in zip(self.convolutions, self.norms, strict=True):
            h = activation(norm(layer(h.contiguous(memory_format=torch.channels_last))))
            if self.dropout and self.training:
                h = functional.dropout2d(h, self.dropout)
        flat = h.permute(0, 2, 3, 1).flatten(1)
        return self.last(flat if context is None else torch.cat([flat, context.to(flat.dtype)], dim=1))  # type: ignore[no-any-return]


class ConvDecoder(nn.Module):
    """Vectors to pictures: (n, inputs) to (n, c, h, w), the mirror of :class:`ConvEncoder`.

    A linear map to the coarsest level; then at each level every pixel becomes 2 x 2 equal ones, cropped to the sides of the encoder's level, and a
    3 x 3 convolution follows: no checkerboard as from strided transposes (Odena, Dumoulin and Olah, Deconvolution and checkerboard artifacts,
    2016). The last convolution, :attr:`last`, starts at a tenth of the usual weights.

    Args:
        inputs: width of the vectors, the features of a condition among them.
        widths: channels of each level in the encoder's order, the finest first.
        size: channels, height and width of the pictures.
        activation: a name in :data:`~manykin.nn.mlp.ACTIVATIONS`.
        norm: a name in :data:`NORMS`; after each layer but the last.
        dropout: share of channels that training silences at each level.

    Raises:
        InvalidInput: for an unknown activation or norm, no levels, or a size below 1.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], size: tuple[int, int, int], *, activation: str = "silu", norm: str = "none", dropout: float = 0.0
    ) -> None:
        super().__init__()
        _check(size, widths, activation, norm)
        self.sizes = halved(size[1:], len(widths))
        height, width = self.sizes[-1]
        down = [*reversed(widths), widths[0]]
        self.first = nn.Linear(inputs, widths[-1] * height * width)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(down))
        self.norms = _norms(down, norm, skip_first=False)
        self.last = nn.Conv2d(widths[0], size[0], 3, padding=1)
        self.activation, self.dropout = activation, dropout
        for layer in (self.first, *self.convolutions):
            _start(layer, 2**0.5)
        _start(self.last, 0.1)

    def forward(self, h: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.activation]
        height, width = self.sizes[-1]
        x = self.first(h).view(len(h), height, width, -1).permute(0, 3, 1, 2)
        x = activation(self.norms[0](x))
        for layer, norm, (height, width) in zip(self.convolutions, self.norms[1:], reversed(self.sizes[:-1]), strict=True):
            x = activation(norm(layer(doubled(x, height, width))))
            if self.dropout and self.training:
                x = functional.dropout2d(x, self.dropout)
        return self.last(x)  # type: ignore[no-any-return]


def doubled(x: Tensor, height: int, width: int) -> Tensor:
    """Each pixel of x (n, c, h, w) as 2 x 2 equal ones, cropped to (n, c, height, width), in channels_last memory."""
    x = functional.interpolate(x, scale_factor=2)
    if x.shape[2:] != (height, width):
        x = x[:, :, :height, :width]
    return x.contiguous(memory_format=torch.channels_last)


def _norms(channels: Sequence[int], norm: str, skip_first: bool) -> nn.ModuleList:
    plain = [norm == "none" or (skip_first and index == 0) for index in range(len(channels))]
    return nn.ModuleList(nn.Identity() if none else nn.GroupNorm(1, c) for none, c in zip(plain, channels, strict=True))


def _start(layer: nn.Module, gain: float) -> None:
    """Orthogonal weights as in the multilayer perceptron, and zero biases."""
    assert isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None
    if layer.weight.numel():
        nn.init.orthogonal_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)


def _check(size: tuple[int, int, int], widths: Sequence[int], activation: str, norm: str) -> None:
    if len(size) != 3 or min(size) < 1:
        raise InvalidInput(f"size = {tuple(size)} is no picture; expected channels, height and width of at least 1 each.")
    if not widths or min(widths) < 1:
        raise InvalidInput(f"widths = {tuple(widths)} is not possible; expected the channels of at least one level, each at least 1.")
    if activation not in ACTIVATIONS:
        raise InvalidInput(f"activation {activation!r} is not known.{suggest(activation, ACTIVATIONS)}")
    if norm not in NORMS:
        raise InvalidInput(f"norm {norm!r} is not known.{suggest(norm, NORMS)}")
