"""Drawing pixel after pixel with a PixelCNN: the reading order of pictures, the cache, and the rules of choice."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.decoding import Decoding
from manykin.errors import InvalidInput
from manykin.models.autoregressive.outputs import LevelFeatures, LevelOutput
from manykin.nn.masked import ChannelHead, PixelStacks


def reading_order(x: Tensor) -> Tensor:
    """Pictures (n, c, h, w) as rows (n, h * w * c): line by line, the channels of a pixel one after the other."""
    return x.permute(0, 2, 3, 1).flatten(1)


def checked_mask(known: Tensor, z: Tensor) -> Tensor:
    """``known`` on the device of z.

    Raises:
        InvalidInput: where it is no boolean tensor of the shape of z.
    """
    if isinstance(known, Tensor) and known.shape == z.shape and known.dtype == torch.bool:
        return known.to(z.device)
    shown = f"{str(known.dtype)[6:]} of shape {tuple(known.shape)}" if isinstance(known, Tensor) else f"a {type(known).__name__}"
    raise InvalidInput(f"known is {shown}; expected a tensor of dtype bool and of the shape of x, {tuple(z.shape)}.")


@dataclass(frozen=True)
class Palette:
    """The parts of a model that drawing needs.

    ``start`` (..., h, w, 2 width) enters the stacks, ``context`` (n, ...) or None the head, ``bias`` (h, w, channels, numbers) is added to what the
    head says; ``everything`` computes that for all pixels of pictures (n, h, w, channels) at once.
    """

    encode: LevelFeatures
    stacks: PixelStacks
    head: ChannelHead
    output: LevelOutput
    start: Tensor
    context: Tensor | None
    bias: Tensor
    everything: Callable[[Tensor], Tensor]


class Painter:
    """Fills pictures pixel by pixel.

    With the cache each layer computes a row of the vertical stack once, and of the horizontal stack the pixel at hand: O(1) a pixel where the plain
    way computes the whole picture again. Both draw the same number of random numbers in the same order, hence the same pictures.

    Args:
        palette: the model's parts.
        rules: how a level is chosen from its logits.
    """

    def __init__(self, palette: Palette, rules: Decoding) -> None:
        self.palette, self.rules = palette, rules

    @torch.inference_mode()
    def paint(self, x: Tensor, known: Tensor) -> Tensor:
        """Replace what is not known in x (n, h, w, channels), int64, by draws in reading order and in place; ``known`` holds prefixes."""
        flat = known.flatten(1)
        first = int(flat.sum(dim=1).min())
        ragged = bool(flat[:, first:].any())
        if first == flat.shape[1]:
            return x
        (self._cached if self.rules.use_cache else self._plain)(x, known, first, ragged)
        return x

    def _choose(self, x: Tensor, known: Tensor, place: tuple[int, int, int], numbers: Tensor, ragged: bool) -> None:
        row, column, channel = place
        numbers = numbers + self.palette.bias[row, column, channel]
        chosen = self.rules.choose(self.palette.output.logits(numbers))
        cell = x[:, row, column, channel]
        cell.copy_(torch.where(known[:, row, column, channel], cell, chosen) if ragged else chosen)

    def _plain(self, x: Tensor, known: Tensor, first: int, ragged: bool) -> None:
        _, _, columns, channels = x.shape
        for place in range(first, known[0].numel()):
            row, column, channel = place // (columns * channels), place // channels % columns, place % channels
            self._choose(x, known, (row, column, channel), self.palette.everything(x)[:, row, column, channel], ragged)

    def _cached(self, x: Tensor, known: Tensor, first: int, ragged: bool) -> None:
        parts = self.palette
        n, rows, columns, channels = x.shape
        cache = parts.stacks.cache(n, columns)
        encoded = parts.encode(x, cache.entered.dtype).flatten(3)
        for row in range(rows):
            free = first - row * columns * channels
            parts.stacks.begin_row(cache, parts.start[..., row, :, :])
            for column in range(columns):
                place = column * channels
                if free < columns * channels:
                    features = parts.stacks.pixel(cache, column, parts.start[..., row, column, :])
                    if free < place + channels:
                        self._pixel(x, known, encoded, (row, column, max(free - place, 0)), features, ragged)
                parts.stacks.put(cache, column, encoded[:, row, column])
            parts.stacks.end_row(cache)

    def _pixel(self, x: Tensor, known: Tensor, encoded: Tensor, place: tuple[int, int, int], features: Tensor, ragged: bool) -> None:
        """Choose the channels of one pixel from the first unknown one on, and encode them."""
        row, column, begin = place
        parts = self.palette
        base, cell, width = parts.head.base(features, parts.context), encoded[:, row, column], parts.encode.width
        for channel in range(begin, x.shape[3]):
            self._choose(x, known, (row, column, channel), parts.head.channel(base, cell, channel), ragged)
            cell[:, channel * width : (channel + 1) * width] = parts.encode(x[:, row, column, channel], cell.dtype)
