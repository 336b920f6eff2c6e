"""A small residual network of convolutions that keeps the grid of its input."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class GridNet(nn.Module):
    """Pictures (n, inputs, h, w) and a context (n, context) to (n, outputs, h, w), through residual blocks of a 3 x 3 and a 1 x 1 convolution.

    It knows where on the grid it is: a learned vector for each place is added behind the first convolution, and one to the outputs. Works in
    channels_last; the outputs are small in the beginning but for their own vector, :attr:`bias` (flat, of shape (outputs, h, w)), which starts
    at zero.

    Args:
        inputs: channels, at least 1.
        size: height and width of the grid.
        outputs: channels.
        width: channels of the hidden layers.
        blocks: residual blocks.
        context: features of a condition; each block is shifted by a linear map of them.
        dropout: share of channels that training silences in each block.
    """

    def __init__(self, inputs: int, size: tuple[int, int], outputs: int, *, width: int, blocks: int, context: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.enter = nn.Conv2d(inputs, width, 3, padding=1)
        self.size = size
        # Flat: an optimizer that turns matrices must take tables of places for vectors.
        self.place = nn.Parameter(torch.zeros(width * size[0] * size[1]))
        self.wide = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.mix = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(blocks))
        self.shift = nn.Linear(context, blocks * width) if context else None
        self.leave = nn.Conv2d(width, outputs, 1)
        self.bias = nn.Parameter(torch.zeros(outputs * size[0] * size[1]))
        for layer in (self.enter, *self.wide, *self.mix, self.leave):
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)
            for mix in self.mix:
                assert isinstance(mix, nn.Conv2d)
                mix.weight.mul_(0.3)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.enter(x.contiguous(memory_format=torch.channels_last)) + self.place.view(-1, *self.size)
        shifts = [0.0] * len(self.wide) if self.shift is None else self.shift(context)[:, :, None, None].chunk(len(self.wide), dim=1)
        for wide, mix, shift in zip(self.wide, self.mix, shifts, strict=True):
            inner = wide(functional.relu(h))
            if self.shift is not None:
                inner = inner + shift
            inner = functional.relu(inner)
            if self.dropout and self.training:
                inner = functional.dropout2d(inner, self.dropout)
            h = h + mix(inner)
        return self.leave(functional.relu(h)) + self.bias.view(-1, *self.size)  # type: ignore[no-any-return]
