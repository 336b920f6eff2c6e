"""The U-Net of picture models that know the time."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.errors import InvalidInput
from manykin.nn.timed import TimeFeatures


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, (n, c, h, w); in channels_last memory it needs no copy."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, 1e-5)
        return normed.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Two 3 x 3 convolutions around a residual, the second scaled and shifted by the time: (n, c, h, w) to (n, d, h, w)."""

    def __init__(self, inputs: int, outputs: int, time: int, dropout: float) -> None:
        super().__init__()
        self.norm_in, self.norm_out = ChannelNorm(inputs), ChannelNorm(outputs)
        self.conv_in, self.conv_out = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.modulate = nn.Linear(time, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.dropout = dropout
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(_bias(self.conv_out))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulate(time)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_in(functional.silu(self.norm_in(x)))
        h = functional.silu(self.norm_out(h) * (1 + scale) + shift)
        if self.dropout and self.training:
            h = functional.dropout2d(h, self.dropout)
        return self.skip(x) + self.conv_out(h)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention with one wide head over all pixels, around a residual: (n, c, h, w) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.inward = nn.Linear(channels, 3 * channels)
        self.outward = nn.Linear(channels, channels)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(n, height * width, c)
        q, k, v = self.inward(pixels).chunk(3, dim=2)
        weights = torch.softmax(q @ k.transpose(1, 2) * (1 / math.sqrt(c)), dim=2)
        mixed = self.outward(weights @ v).reshape(n, height, width, c).permute(0, 3, 1, 2)
        return x + mixed  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Pictures in, pictures out, at several resolutions: x (n, c, h, w), t (n,), context to (n, c, h, w).

    Ronneberger, Fischer and Brox, U-Net, 2015, with residual blocks, time modulation and attention at the lowest resolution as in Ho, Jain and
    Abbeel, Denoising diffusion probabilistic models, 2020, appendix B; normalisation over channels instead of groups, which a CPU computes several
    times faster in bfloat16 and channels_last. As in :class:`~manykin.nn.timed.TimedMLP` the output is scaled by the time, and x itself is added
    to it with weights that depend on the time. Pictures are padded to a multiple of the down-sampling by their edge, and cropped back.

    Args:
        channels: of the pictures.
        widths: channels of each resolution, the finest first; each next one has half the size.
        blocks: residual blocks a resolution and direction.
        context: features of a condition.
        patch: side of the squares of pixels that are folded into channels at the entrance.
        attention: whether the lowest resolution attends.
        dropout: share of channels that training silences.

    Raises:
        InvalidInput: without a width.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], *, blocks: int = 1, context: int = 0, patch: int = 1, attention: bool = True,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not widths:
            raise InvalidInput("widths = () leaves a network without levels; expected the channels of at least one.")
        time = 2 * widths[0]
        self.patch, self.multiple = patch, patch * 2 ** (len(widths) - 1)
        self.time = TimeFeatures(time, context)
        self.enter = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, self.shrink, self.up, self.grow = nn.ModuleList(), nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(Block(width, width, time, dropout) for _ in range(blocks)))
            self.up.append(nn.ModuleList(Block(2 * width, width, time, dropout) for _ in range(blocks)))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 2, stride=2))
                self.grow.append(nn.Conv2d(widths[level + 1], 4 * width, 1))
        self.middle = nn.ModuleList(Block(widths[-1], widths[-1], time, dropout) for _ in range(2))
        self.attention = Attention(widths[-1]) if attention else nn.Identity()
        self.norm = ChannelNorm(widths[0])
        self.leave = nn.Conv2d(widths[0], channels * patch**2, 3, padding=1)
        self.past = nn.Linear(time, 2 * channels)
        for layer in (self.leave, self.past):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(_bias(layer))

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        height, width = x.shape[2:]
        time = self.time(t, context)
        h = self.enter(self._fold(x).contiguous(memory_format=torch.channels_last))
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, time)
                kept.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
        h = self.middle[1](self.attention(self.middle[0](h, time)), time)
        for level in reversed(range(len(self.up))):
            if level < len(self.grow):
                h = functional.pixel_shuffle(self.grow[level](h), 2)
            for block in self.up[level]:  # type: ignore[attr-defined]
                h = block(torch.cat([h, kept.pop()], dim=1), time)
        out = self.leave(functional.silu(self.norm(h)))
        if self.patch > 1:
            out = functional.pixel_shuffle(out, self.patch)
        scale, share = self.past(time)[:, :, None, None].chunk(2, dim=1)
        return out[:, :, :height, :width] * (1 + scale) + share * x  # type: ignore[no-any-return]

    def _fold(self, x: Tensor) -> Tensor:
        right, below = (-side % self.multiple for side in (x.shape[3], x.shape[2]))
        if right or below:
            x = functional.pad(x, (0, right, 0, below), mode="replicate")
        return functional.pixel_unshuffle(x, self.patch) if self.patch > 1 else x


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias
