"""Which rows are identical, entry by entry, in any space."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from manykin.spaces import Value


def digests(x: Value, like: Value | None = None) -> list[bytes]:
    """A key of 128 bits for each row: equal for rows that are equal entry by entry, and different otherwise but for chance (1 in 10^38 a pair).

    Missing values (NaN) are equal to each other, and -0 to 0. ``like`` names rows that these will be compared with: numbers of unlike precision
    are compared in the lower one, in which most models compute.
    """
    parts = [_bytes(part, other) for part, other in _parts(x, like)]
    return [hashlib.blake2b(b"".join(row), digest_size=16).digest() for row in zip(*parts, strict=True)]


def occur(wanted: Iterable[bytes], batches: Iterable[list[bytes]]) -> set[bytes]:
    """Those of the keys wanted that occur in any batch of keys."""
    looked_for = set(wanted)
    return {key for batch in batches for key in batch if key in looked_for}


def distinct(x: Tensor) -> Tensor:
    """Positions of the first of each kind of row, ascending, (distinct rows,) int64."""
    first: dict[bytes, int] = {}
    for position, key in enumerate(digests(x)):
        first.setdefault(key, position)
    return torch.tensor(list(first.values()), dtype=torch.int64)


def _parts(x: Value, like: Value | None) -> list[tuple[Tensor, Tensor]]:
    other = x if like is None else like
    if isinstance(x, Tensor):
        assert isinstance(other, Tensor)
        return [(x, other)]
    assert isinstance(other, Mapping)
    return [(x[name], other[name]) for name in sorted(x)]


def _bytes(x: Tensor, like: Tensor) -> list[bytes]:
    rows = x.detach().cpu().reshape(len(x), -1)
    kind = _common(rows.dtype, like.dtype)
    rows = rows.to(torch.float32 if kind in (torch.float16, torch.bfloat16) else kind)
    if rows.is_floating_point():
        rows = torch.where(rows.isnan(), torch.nan, rows + 0.0)
    return [row.tobytes() for row in rows.contiguous().numpy()]


def _common(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The type in which two tensors are compared."""
    if a == b:
        return a
    if a.is_floating_point and b.is_floating_point:
        return a if a.itemsize < b.itemsize else b
    return torch.float64
