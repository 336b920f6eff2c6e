"""Batches as a function of (seed, epoch, index): no loader, no workers, no state.

Small data are shuffled whole, once an epoch. Data beyond :data:`LARGE` bytes (memory-mapped files) are shuffled by blocks: blocks of neighbouring
rows in random order, and the rows of each window of blocks in random order, so that an epoch reads each part of the file once.
"""

import itertools

import torch
from torch import Tensor

from manykin.contract import Batch
from manykin.data.dataset import Chances, Rows
from manykin.random import generator
from manykin.spaces import Value, move, take

LARGE = 1 << 30
BLOCK = 1024
WINDOW = 256
PASS = 16_384
"""Rows a batch of a closed-form pass."""


class Order:
    """Which rows batch number ``k`` holds. Every epoch is a new permutation; a last batch that is not full is left out."""

    def __init__(self, rows: int, batch: int, seed: int, blocks: bool, index: Tensor | None = None) -> None:
        self.rows = rows
        self.batch = min(batch, rows)
        self.seed = seed
        self.blocks = blocks
        self.index = index
        self.per_epoch = rows // self.batch
        self._window: tuple[tuple[int, int], Tensor] | None = None
        self._plan: tuple[int, Tensor, list[int]] | None = None

    def positions(self, number: int) -> Tensor:
        """The positions of batch ``number`` in the base, int64 of shape (batch,)."""
        epoch, place = divmod(number, self.per_epoch)
        start = place * self.batch
        if not self.blocks:
            return self._rows_of(epoch, 0)[start : start + self.batch]
        starts = self._starts(epoch)[1]
        parts, stop = [], start + self.batch
        for window, (low, high) in enumerate(itertools.pairwise(starts)):
            if low < stop and high > start:
                parts.append(self._rows_of(epoch, window)[max(start - low, 0) : stop - low])
        return torch.cat(parts)

    def _rows_of(self, epoch: int, window: int) -> Tensor:
        """All rows of a window (of the whole data set, without blocks) in their random order; the last one asked for is kept."""
        if self._window is None or self._window[0] != (epoch, window):
            source = generator(self.seed, "window", epoch, window)
            if self.blocks:
                blocks = self._starts(epoch)[0][window * WINDOW : (window + 1) * WINDOW]
                rows = (blocks[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
                rows = rows[rows < self.rows]
                rows = rows[torch.randperm(len(rows), generator=source)]
            else:
                rows = torch.randperm(self.rows, generator=source)
            self._window = ((epoch, window), rows if self.index is None else self.index[rows])
        return self._window[1]

    def _starts(self, epoch: int) -> tuple[Tensor, list[int]]:
        """The epoch's order of blocks, and at which place each window begins (and the last one ends)."""
        if self._plan is None or self._plan[0] != epoch:
            order = torch.randperm(-(-self.rows // BLOCK), generator=generator(self.seed, "blocks", epoch))
            sizes = (self.rows - order * BLOCK).clamp(max=BLOCK)
            ends = sizes.cumsum(0)[WINDOW - 1 :: WINDOW].tolist()
            self._plan = (epoch, order, [0, *(end for end in ends if end < self.rows), self.rows])
        return self._plan[1], self._plan[2]


class Source:
    """The training rows on their way to the device: shuffled batches for gradients, all rows in order for closed forms."""

    def __init__(self, rows: Rows, batch: int, seed: int, device: torch.device) -> None:
        self.device = device
        self.rows = _resident(rows, device)
        self.moving = _device_of(self.rows.x) != device
        self.order = Order(len(rows), batch, seed, _bytes(rows.x) > LARGE, rows.index)

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, positions: Tensor) -> Batch:
        """The rows at these positions of the base, on the device; see :meth:`~manykin.data.dataset.Rows.anew`."""
        at = positions if self.moving else positions.to(self.device)
        condition = self.rows.condition
        batch = Batch(self.rows.anew(at), None if condition is None else take(condition, at))
        return batch.to(self.device) if self.moving else batch

    def slice(self, start: int, stop: int) -> Batch:
        """Rows from start to stop in their own order, on the device."""
        batch = self.rows.slice(start, min(stop, len(self.rows)))
        return batch.to(self.device) if self.moving else batch


def shares(size: int, parts: int) -> list[tuple[int, int]]:
    """``size`` rows as so many neighbouring parts, as equal as can be: (start, stop) of each."""
    return [(size * part // parts, size * (part + 1) // parts) for part in range(parts)]


def _device_of(x: Value) -> torch.device:
    return (x if isinstance(x, Tensor) else next(iter(x.values()))).device


def _bytes(x: Value) -> int:
    return sum(part.numel() * part.element_size() for part in ([x] if isinstance(x, Tensor) else x.values()))


def _resident(rows: Rows, device: torch.device) -> Rows:
    """Rows whose base lies on the device already, where it is small: then a batch needs no copy over the bus."""
    if device.type == "cpu" or _bytes(rows.x) > LARGE:
        return rows
    return Rows(
        move(rows.x, device),
        None if rows.condition is None else move(rows.condition, device),
        None if rows.index is None else rows.index.to(device),
        chances=None if rows.chances is None else Chances(rows.chances.levels.to(device), rows.chances.top),
        stream=rows.stream,
    )
