"""Generators and discriminators: multilayer perceptrons for columns, convolutions for pictures."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.models.conditions import ConditionFeatures, join
from manykin.nn import MLP
from manykin.nn.conv import halved
from manykin.nn.mlp import ACTIVATIONS
from manykin.nn.spectral import convolution, linear
from manykin.nn.unet import ChannelNorm
from manykin.spaces import Labels, Space, Value, Vector

GAIN = 2**0.5
"""Scale of the weights before a rectifier."""


class Generator(nn.Module):
    """Latents (n, latent) to vectors of ``size`` (d,), shape (n, d), squashed to [-1, 1] where all data are bounded there.

    A condition stands beside the latent: a label as a learned vector, a vector standardised.
    """

    def __init__(
        self,
        latent: int,
        hidden: Sequence[int],
        size: Sequence[int],
        *,
        bounded: bool,
        activation: str,
        condition: Space | None,
        condition_width: int,
    ) -> None:
        super().__init__()
        self.bounded = bounded
        self.features = ConditionFeatures(condition, condition_width)
        self.net = MLP(latent + self.features.width, hidden, size[0], activation=activation)

    def forward(self, h: Tensor, condition: Value | None) -> Tensor:
        out = self.net(join(h, self.features(condition, h.dtype)))
        return torch.tanh(out) if self.bounded else out


class ConvGenerator(nn.Module):
    """Latents (n, latent) to pictures (n, c, h, w), squashed to [-1, 1] where the data are bounded there.

    As in Radford, Metz and Chintala (Unsupervised representation learning with deep convolutional generative adversarial networks, 2016, figure 1):
    a linear map to the coarsest level, then 4 x 4 transposed convolutions with stride 2, the last one straight to the pixels. Odd sides are made one
    pixel too long and cropped. In the place of batch normalisation, which would make a picture depend on its batch, each pixel's channels are
    normalised, then scaled and shifted by functions of the latent and the condition (Chen, Lucic, Houlsby and Gelly, On self modulation for
    generative adversarial networks, 2019, equation 2).

    Args:
        widths: channels of each level, the finest first; the finest has half the sides of the picture.
    """

    def __init__(
        self,
        latent: int,
        widths: Sequence[int],
        size: Sequence[int],
        *,
        bounded: bool,
        activation: str,
        condition: Space | None,
        condition_width: int,
    ) -> None:
        super().__init__()
        self.bounded, self.activation = bounded, activation
        self.sizes = halved((size[1], size[2]), len(widths))
        self.features = ConditionFeatures(condition, condition_width)
        known, (height, width) = latent + self.features.width, self.sizes[-1]
        self.first = linear(known, widths[-1] * height * width, gain=GAIN)
        down = [*reversed(widths), size[0]]
        self.grow = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, stride=2, padding=1) for i, o in pairwise(down))
        self.norms = nn.ModuleList(ChannelNorm(channels) for channels in down[:-1])
        self.modulate = nn.ModuleList(linear(known, 2 * channels, gain=0.3) for channels in down[:-1])
        for layer in self.grow:
            assert isinstance(layer, nn.ConvTranspose2d) and layer.bias is not None
            # Each output pixel is reached by 2 x 2 of the 4 x 4 weights.
            nn.init.normal_(layer.weight, std=(GAIN if layer is not self.grow[-1] else 0.5) / (4 * layer.in_channels) ** 0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor, condition: Value | None) -> Tensor:
        known = join(h, self.features(condition, h.dtype))
        height, width = self.sizes[-1]
        x = self.first(known).view(len(h), height, width, -1).permute(0, 3, 1, 2)
        for norm, modulate, grow, (height, width) in zip(self.norms, self.modulate, self.grow, reversed(self.sizes[:-1]), strict=True):
            scale, shift = modulate(known)[:, :, None, None].chunk(2, dim=1)
            x = grow(ACTIVATIONS[self.activation](norm(x) * (1 + scale) + shift))[:, :, :height, :width]
        return torch.tanh(x) if self.bounded else x


class Verdict(nn.Module):
    r"""Features :math:`\phi` (n, width) to a score (n,): :math:`a^T \phi + b`, and :math:`v_y^T \phi` beside it for a label y.

    The inner product with a learned vector a label is what the optimal discriminator asks for where classes are log-linear in the features (Miyato
    and Koyama, cGANs with projection discriminator, 2018, equation 3). Computed in the weights' own precision.
    """

    def __init__(self, width: int, condition: Space | None, spectral: bool) -> None:
        super().__init__()
        self.plain = linear(width, 1, spectral=spectral)
        self.classes = condition.classes if isinstance(condition, Labels) else 0
        self.by_label = linear(self.classes, width, spectral=spectral, bias=False, gain=1.0 if spectral else 0.1) if self.classes else None

    def forward(self, features: Tensor, condition: Value | None) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.plain.weight.dtype)
            score = self.plain(features).squeeze(1)
            if self.by_label is not None:
                assert isinstance(condition, Tensor)
                asked = self.by_label(functional.one_hot(condition, self.classes).to(features.dtype))
                score = score + (asked * features).sum(dim=1)
            return score  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """Vectors of ``size`` (d,), shape (n, d), to scores (n,), large for what looks real.

    A label is judged by projection, a vector condition stands beside the input.
    """

    def __init__(
        self, size: Sequence[int], hidden: Sequence[int], *, activation: str, condition: Space | None, spectral: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.features = ConditionFeatures(condition if isinstance(condition, Vector) else None, 0)
        widths = [size[0] + self.features.width, *hidden]
        self.layers = nn.ModuleList(linear(i, o, spectral=spectral, gain=GAIN) for i, o in pairwise(widths))
        self.verdict = Verdict(widths[-1], condition, spectral)
        self.activation, self.dropout = activation, dropout

    def forward(self, z: Tensor, condition: Value | None) -> Tensor:
        x = join(z, self.features(condition, z.dtype))
        for layer in self.layers:
            x = ACTIVATIONS[self.activation](layer(x))
            if self.dropout and self.training:
                x = functional.dropout(x, self.dropout)
        return self.verdict(x, condition)  # type: ignore[no-any-return]


class ConvDiscriminator(nn.Module):
    """Pictures (n, c, h, w) to scores (n,), large for what looks real: the mirror of :class:`ConvGenerator`.

    4 x 4 convolutions with stride 2, whose windows reach every pixel of odd sides too, then a hidden layer that sees all of the coarsest level and
    a vector condition. No normalisation but that of the weights, so that no picture sees another.

    Args:
        widths: channels of each level, the finest first; the hidden layer has twice the last.
    """

    def __init__(
        self, size: Sequence[int], widths: Sequence[int], *, activation: str, condition: Space | None, spectral: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.features = ConditionFeatures(condition if isinstance(condition, Vector) else None, 0)
        channels = [size[0], *widths]
        self.shrink = nn.ModuleList(convolution(i, o, 4, stride=2, padding=1, spectral=spectral, gain=GAIN) for i, o in pairwise(channels))
        flat = widths[-1] * (size[1] >> len(widths)) * (size[2] >> len(widths))
        self.hidden = linear(flat + self.features.width, 2 * widths[-1], spectral=spectral, gain=GAIN)
        self.verdict = Verdict(2 * widths[-1], condition, spectral)
        self.activation, self.dropout = activation, dropout

    def forward(self, z: Tensor, condition: Value | None) -> Tensor:
        activation, x = ACTIVATIONS[self.activation], z.contiguous(memory_format=torch.channels_last)
        for layer in self.shrink:
            x = activation(layer(x))
            if self.dropout and self.training:
                x = functional.dropout2d(x, self.dropout)
        flat = x.permute(0, 2, 3, 1).flatten(1)
        return self.verdict(activation(self.hidden(join(flat, self.features(condition, flat.dtype)))), condition)  # type: ignore[no-any-return]
