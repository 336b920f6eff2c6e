"""Convolutions that see only what lies above and to the left: the stacks of a gated PixelCNN, for whole pictures and pixel by pixel.

All pictures here have their channels last, (n, height, width, channels): what happens at a pixel is then a matrix product without copies.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.nn.dropout import Dropout


class Matrix(nn.Module):
    """A linear map of the last axis without bias, (..., inputs) to (..., outputs); ``zero``: starts at 0."""

    def __init__(self, inputs: int, outputs: int, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs) if zero else torch.randn(outputs, inputs) / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


class CausalConv(nn.Module):
    """A convolution of a picture that is padded, or cropped by a negative padding, on some sides only: (n, h, w, inputs) to (n, h, w, outputs).

    What a pixel does not see has no weights at all, so no mask has to be kept. The weights are a matrix (outputs, rows * columns * inputs): for
    optimizers of matrices, and as such one matrix product for one pixel.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        rows: height of the kernel.
        columns: width of the kernel.
        padding: zeros on the left, right, top and bottom; together with the kernel they must keep the size.
    """

    def __init__(self, inputs: int, outputs: int, rows: int, columns: int, padding: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.shape = (outputs, rows, columns, inputs)
        self.padding = (0, 0, *padding)
        size = rows * columns * inputs
        self.weight = nn.Parameter(torch.randn(outputs, size) / math.sqrt(size))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def kernel(self) -> Tensor:
        """The weights as a convolution takes them, (outputs, inputs, rows, columns)."""
        return self.weight.view(self.shape).permute(0, 3, 1, 2)

    def valid(self, x: Tensor) -> Tensor:
        """The convolution of what is padded already."""
        found: Tensor = functional.conv2d(x.permute(0, 3, 1, 2), self.kernel(), self.bias)
        return found.permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.valid(functional.pad(x, self.padding))


def gate(x: Tensor) -> Tensor:
    """``a sigmoid(b)`` for x = (a, b) along the last axis (Dauphin et al., Language modeling with gated convolutional networks, 2017, equation 1).

    The half is copied first: in bfloat16 a CPU computes sigmoids of strided memory several times slower, and so does ``glu``.
    """
    a, b = x.chunk(2, dim=-1)
    return a * torch.sigmoid(b.contiguous())


class Layer(nn.Module):
    """One layer of both stacks, each beside an identity: v sees the rows above, h what is above and to the left."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        reach = kernel // 2
        self.down = CausalConv(width, 2 * width, reach + 1, kernel, (reach, reach, reach, 0))
        self.across = CausalConv(width, 2 * width, 1, reach + 1, (reach, 0, 0, 0))
        self.bridge = Matrix(width, 2 * width)
        self.mix = Matrix(width, width, zero=True)
        self.drop = Dropout(dropout)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        v = v + self.drop(gate(self.down(v)))
        return v, h + self.mix(self.drop(gate(self.across(h) + self.bridge(v))))


class StackCache:
    """What the stacks remember of pictures that grow pixel by pixel: rows above, and the pixels to the left in the row at hand."""

    def __init__(self, stacks: "PixelStacks", n: int, columns: int, like: Tensor) -> None:
        first, reach, width = stacks.first, stacks.reach, stacks.width
        self.above = like.new_zeros(n, first, columns + 2 * first, stacks.inputs)
        self.entered = like.new_zeros(n, (columns + first) * stacks.inputs)
        self.rows = [like.new_zeros(n, reach + 1, columns + 2 * reach, width) for _ in stacks.layers]
        self.left = [like.new_zeros(n, (columns + reach) * width) for _ in range(len(stacks.layers) + 1)]
        self.bridges: list[Tensor] = []


class PixelStacks(nn.Module):
    """The vertical and the horizontal stack of a gated PixelCNN: x (n, h, w, inputs) to features (n, h, w, width) of all earlier pixels.

    Van den Oord et al., Conditional image generation with PixelCNN decoders, 2016, section 2.2 and figure 2. The vertical stack sees all rows above,
    the horizontal one the pixels to the left and, at its own place, the vertical one: together every earlier pixel within reach, which a stack of
    masked convolutions does not (its blind spot). Both stacks are residual here, and the gate is ``a sigmoid(b)``.

    The reach is ``first + layers * (kernel // 2)`` pixels upwards, to the left and, above, to the right.

    Args:
        inputs: channels of x.
        width: features of each stack.
        layers: after the first convolutions.
        first: reach of the first convolutions, which see neighbours but not the pixel itself.
        kernel: side of the others, odd.
        dropout: share of gated features that training silences.
    """

    def __init__(self, inputs: int, width: int, layers: int, *, first: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inputs, self.width, self.first, self.reach = inputs, width, first, kernel // 2
        self.enter_down = CausalConv(inputs, width, first, 2 * first + 1, (first, first, first, -1))
        self.enter_across = CausalConv(inputs, width, 1, first, (first, -1, 0, 0))
        self.layers = nn.ModuleList(Layer(width, kernel, dropout) for _ in range(layers))

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        """The features; ``start`` (..., h, w, 2 width) is added to what enters the vertical and the horizontal stack."""
        v: Tensor = self.enter_down(x)
        h: Tensor = self.enter_across(x)
        below, beside = start.to(v.dtype).chunk(2, dim=-1)
        v, h = v + below, h + beside
        for layer in self.layers:
            v, h = layer(v, h)
        return h

    # Pixel by pixel, without gradients.

    def cache(self, n: int, columns: int) -> StackCache:
        """An empty cache for n pictures of so many columns."""
        return StackCache(self, n, columns, self.enter_down.weight.detach())

    def begin_row(self, cache: StackCache, start: Tensor) -> None:
        """Bring the vertical stack to the next row; ``start`` (..., w, 2 width) is that row's."""
        columns = start.shape[-2]
        v = self.enter_down.valid(cache.above)[:, 0] + start[..., : self.width]
        cache.bridges = []
        for layer, rows in zip(self.layers, cache.rows, strict=True):
            assert isinstance(layer, Layer)
            rows[:, :-1] = rows[:, 1:].clone()
            rows[:, -1, self.reach : self.reach + columns] = v
            v = v + functional.glu(layer.down.valid(rows)[:, 0])
            cache.bridges.append((layer.bridge(v) + layer.across.bias).transpose(0, 1).contiguous())

    def pixel(self, cache: StackCache, column: int, start: Tensor) -> Tensor:
        """Features (n, width) of the next pixel of the row; ``start`` (..., 2 width) is that pixel's."""
        size, width, enter = self.inputs, self.width, self.enter_across
        seen = cache.entered[:, column * size : (column + self.first) * size]
        here = slice((column + self.reach) * width, (column + self.reach + 1) * width)
        seeing = slice(column * width, (column + self.reach + 1) * width)
        h = cache.left[0][:, here]
        torch.add(functional.linear(seen, enter.weight, enter.bias), start[..., width:], out=h)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            left, following = cache.left[number], cache.left[number + 1][:, here]
            gated = functional.glu(torch.addmm(cache.bridges[number][column], left[:, seeing], layer.across.weight.t()))
            h = torch.addmm(h, gated, layer.mix.weight.t(), out=following)
        return h

    def put(self, cache: StackCache, column: int, x: Tensor) -> None:
        """Tell what the pixel of the row at hand became, x (n, inputs)."""
        cache.entered[:, (column + self.first) * self.inputs : (column + self.first + 1) * self.inputs] = x

    def end_row(self, cache: StackCache) -> None:
        """Close the row at hand, all of whose pixels were put."""
        row = cache.entered[:, self.first * self.inputs :].view(len(cache.entered), -1, self.inputs)
        cache.above[:, :-1] = cache.above[:, 1:].clone()
        cache.above[:, -1, self.first : self.first + row.shape[1]] = row


class ChannelHead(nn.Module):
    """From features of earlier pixels to numbers for each channel, which also see the channels before it at the same pixel.

    Features (..., inputs) and encoded channels (..., channels * encoding) to (..., channels, outputs), by one hidden layer a channel. The last
    matrices start at 0.
    """

    mask: Tensor

    def __init__(self, inputs: int, hidden: int, channels: int, encoding: int, outputs: int) -> None:
        super().__init__()
        self.hidden, self.channels, self.encoding = hidden, channels, encoding
        self.enter = Matrix(inputs, channels * hidden)
        self.bias = nn.Parameter(torch.zeros(channels * hidden))
        self.earlier = Matrix(channels * encoding, channels * hidden) if channels > 1 else None
        # One axis, so that optimizers of hidden matrices leave the last layer alone.
        self.leave = nn.Parameter(torch.zeros(channels * hidden * outputs))
        mask = torch.ones(channels, channels).tril(-1).repeat_interleave(hidden, 0).repeat_interleave(encoding, 1)
        self.register_buffer("mask", mask, persistent=False)

    def base(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Hidden units before the earlier channels are added, (..., channels * hidden); ``context`` broadcasts against them."""
        found: Tensor = functional.linear(functional.silu(features), self.enter.weight, self.bias)
        return found if context is None else found + context.to(found.dtype)

    def forward(self, features: Tensor, encoded: Tensor, context: Tensor | None = None) -> Tensor:
        units = self.base(features, context)
        if self.earlier is not None:
            units = units + functional.linear(encoded, self.earlier.weight * self.mask)
        units = functional.silu(units)
        if self.channels == 1:
            return (units @ self._last()[0]).unsqueeze(-2)
        units = units.reshape(-1, self.channels, self.hidden)
        return torch.bmm(units.transpose(0, 1), self._last()).transpose(0, 1).reshape(*features.shape[:-1], self.channels, -1)

    def _last(self) -> Tensor:
        return self.leave.view(self.channels, self.hidden, -1)

    def channel(self, base: Tensor, encoded: Tensor, channel: int) -> Tensor:
        """The numbers of one channel, (n, outputs), where ``encoded`` (n, channels * encoding) holds the channels before it."""
        own = slice(channel * self.hidden, (channel + 1) * self.hidden)
        units = base[:, own]
        if self.earlier is not None and channel:
            size = channel * self.encoding
            units = torch.addmm(units, encoded[:, :size], self.earlier.weight[own, :size].t())
        return functional.silu(units) @ self._last()[channel]
