"""Bijections of real numbers: standardise, logit, scale, flatten."""

import math
from typing import cast

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.spaces import Column, Image, Space, Table, Value, Vector, columns_of
from manykin.transforms.base import Batches, Transform, no_ldj, sum_event


class Standardise(Transform):
    """z = (x - mean) / std per entry (per channel for pictures), with mean and standard deviation of the training split.

    Statistics are accumulated in float64 by the pairwise update of Chan, Golub and LeVeque (Algorithms for computing the sample variance, 1983).

    Raises:
        InvalidInput: where an entry is constant, since a density is unbounded there.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__(space, space)
        self._axes = (0, 2, 3) if isinstance(space, Image) else (0,)
        shape = (space.shape[0], 1, 1) if isinstance(space, Image) else space.shape
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("std", torch.ones(shape, dtype=torch.float64))

    def fit(self, batches: Batches) -> None:
        total, mean, squares = 0.0, torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        for batch in batches():
            x = cast(Tensor, batch).double()
            weight = float(x.numel() // self.mean.numel())
            centre = x.mean(dim=self._axes).view_as(mean)
            shift = centre - mean
            squares += ((x - centre) ** 2).sum(dim=self._axes).view_as(mean) + shift**2 * (total * weight / (total + weight))
            mean += shift * (weight / (total + weight))
            total += weight
        std = (squares / max(total, 1.0)).sqrt()
        flat = std.flatten() <= 1e-12 * (1 + mean.flatten().abs())
        if flat.any():
            index = int(flat.nonzero()[0])
            name = columns_of(self.source)[index].name if not isinstance(self.source, Image) else f"channel {index}"
            value = float(mean.flatten()[index])
            raise InvalidInput(
                f"column {name!r} is constant (always {value:g}): its density is unbounded; drop it, or declare it an integer or a category."
            )
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, x: Value) -> tuple[Tensor, Tensor]:
        assert isinstance(x, Tensor)
        z = (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)
        per_entry = z[0].numel() // self.std.numel()
        return z, no_ldj(x) - self.std.double().log().sum() * per_entry

    def inverse(self, z: Tensor) -> Value:
        return z.double() * self.std.double() + self.mean.double()


class Bounded(Transform):
    """Base of the maps that act on entries of finite range, low to high, and leave all other entries alone.

    ``bounds``: one for each entry, or a single one for all.
    """

    low: Tensor
    width: Tensor

    def __init__(self, space: Space, bounds: list[tuple[float, float] | None]) -> None:
        super().__init__(space, space)
        entries = bounds if not isinstance(space, Image) else bounds[:1]
        shape = (1,) * len(space.shape) if len(entries) == 1 else space.shape
        self.register_buffer(
            "low", torch.tensor([bound[0] if bound else 0.0 for bound in entries], dtype=torch.float64).view(shape), persistent=False
        )
        widths = [bound[1] - bound[0] if bound else 1.0 for bound in entries]
        self.register_buffer("width", torch.tensor(widths, dtype=torch.float64).view(shape), persistent=False)
        self.mask = None if all(bound is not None for bound in entries) else torch.tensor([bound is not None for bound in entries]).view(shape)

    def _select(self, mapped: Tensor, x: Tensor) -> Tensor:
        return mapped if self.mask is None else torch.where(self.mask.to(x.device), mapped, x)

    def _count(self, ldj: Tensor) -> Tensor:
        return sum_event(ldj if self.mask is None else ldj * self.mask.to(ldj.device))


class Logit(Bounded):
    """z = logit(alpha + (1 - 2 alpha) y) with y = (x - low) / (high - low) in [0, 1] (Dinh, Sohl-Dickstein and Bengio, RealNVP, 2017, section 4.1).

    Model mass beyond logit(1 - alpha), about 14 at the default, has no counterpart in the data; ``inverse`` clamps it to the ends.
    """

    def __init__(self, space: Space, bounds: list[tuple[float, float] | None], alpha: float = 1e-6) -> None:
        super().__init__(space, bounds)
        self.alpha = alpha

    def forward(self, x: Value) -> tuple[Tensor, Tensor]:
        assert isinstance(x, Tensor)
        y = (x - self.low.to(x.dtype)) / self.width.to(x.dtype)
        p = (self.alpha + (1 - 2 * self.alpha) * y).clamp(self.alpha, 1 - self.alpha)
        log_p, log_q = p.log(), torch.log1p(-p)
        slope = torch.log((1 - 2 * self.alpha) / self.width.to(x.dtype))
        return self._select(log_p - log_q, x), self._count(slope - log_p - log_q)

    def inverse(self, z: Tensor) -> Value:
        y = ((torch.sigmoid(z.double()) - self.alpha) / (1 - 2 * self.alpha)).clamp(0, 1)
        return self._select(self.low.double() + y * self.width.double(), z.double())


class Scale(Bounded):
    """z = 2 (x - low) / (high - low) - 1, from the known range to [-1, 1]."""

    def forward(self, x: Value) -> tuple[Tensor, Tensor]:
        assert isinstance(x, Tensor)
        z = 2 * (x - self.low.to(x.dtype)) / self.width.to(x.dtype) - 1
        return self._select(z, x), self._count(torch.log(2 / self.width.to(x.dtype)).expand_as(z))

    def inverse(self, z: Tensor) -> Value:
        x = self.low.double() + (z.double().clamp(-1, 1) + 1) / 2 * self.width.double()
        return self._select(x, z.double())


class Flatten(Transform):
    """Pictures (n, c, h, w) as vectors (n, c * h * w)."""

    def __init__(self, space: Image) -> None:
        super().__init__(space, Vector(torch.Size(space.shape).numel()))

    def forward(self, x: Value) -> tuple[Tensor, Tensor]:
        assert isinstance(x, Tensor)
        return x.flatten(1), no_ldj(x)

    def inverse(self, z: Tensor) -> Value:
        return z.reshape(len(z), *self.source.shape)


class AsColumns(Transform):
    """Any space with columns as a :class:`~manykin.spaces.Table`, in float64: vectors, pictures, labels, tables and records, without loss."""

    def __init__(self, space: Space) -> None:
        super().__init__(space, Table(columns_of(space)))

    def forward(self, x: Value) -> tuple[Tensor, Tensor]:
        if isinstance(x, Tensor):
            return self._flat(x), no_ldj(x)
        fields = [name for name, _ in getattr(self.source, "fields")]  # noqa: B009
        z = torch.cat([self._flat(x[name]) for name in fields], dim=1)
        return z, no_ldj(z)

    def _flat(self, x: Tensor) -> Tensor:
        return x.double().reshape(len(x), -1)

    def inverse(self, z: Tensor) -> Value:
        from manykin.spaces import Record

        if not isinstance(self.source, Record):
            return restore(z, self.source)
        parts, start = {}, 0
        for name, space in self.source.fields:
            width = math.prod(space.shape)
            parts[name] = restore(z[:, start : start + width], space)
            start += width
        return parts


def restore(z: Tensor, space: Space) -> Tensor:
    """Columns (n, d) as a tensor of the space's own shape and dtype."""
    x = z.reshape(len(z), *space.shape)
    if isinstance(space, Image) and space.levels is not None:
        return x.round().clamp(0, space.levels - 1).to(space.dtype)
    return x.long() if not isinstance(space, (Image, Vector, Table)) else x


def bounds_of(columns: tuple[Column, ...]) -> list[tuple[float, float] | None]:
    """The range of each dequantised column of finitely many levels, None for the others."""
    return [
        (column.origin, column.origin + column.cardinality * (column.grid or 1.0)) if column.cardinality is not None else None for column in columns
    ]
