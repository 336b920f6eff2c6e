"""From values on a grid to real numbers: dequantisation."""

import math

import torch
from torch import Tensor

from manykin.errors import Unsupported
from manykin.spaces import Image, Space, Table, Value, Vector, columns_of
from manykin.transforms.base import Transform, no_ldj, representative
from manykin.transforms.continuous import restore


class Dequantise(Transform):
    """z = x + u s with u uniform on [0, 1) and s the grid's step; continuous entries pass unchanged.

    The density p(x) = P(cell of x) / s obeys log p(x) >= E_u[log p(z)] (Theis, van den Oord and Bethge, A note on the evaluation of generative
    models, 2016, section 3.1), so the log-determinant is zero and the result a lower bound. ``inverse`` returns the grid point below z.

    Raises:
        Unsupported: for categories, which have no order, and for missing values.
    """

    exact = False

    def __init__(self, space: Space) -> None:
        columns = representative(space)
        unordered = [column.name for column in columns if column.kind == "categorical" or column.missing]
        if unordered:
            raise Unsupported(
                f"real-valued models need ordered columns without missing values; {unordered[0]!r} is categorical or has missing values."
            )
        super().__init__(space, _real(space))
        shape = (1,) * len(space.shape) if len(columns) == 1 else space.shape
        self.step = torch.tensor([column.grid or 0.0 for column in columns], dtype=torch.float64).view(shape)
        self.low = torch.tensor([column.origin for column in columns], dtype=torch.float64).view(shape)
        high = [column.origin + (column.cardinality - 1) * (column.grid or 0.0) if column.cardinality else float("inf") for column in columns]
        self.high = torch.tensor(high, dtype=torch.float64).view(shape)
        self.bottom = torch.where(self.high.isfinite(), self.low, float("-inf"))

    def forward(self, x: Value) -> tuple[Tensor, Tensor]:
        assert isinstance(x, Tensor)
        real = x if x.is_floating_point() else x.to(torch.float32 if x.dtype == torch.uint8 else torch.float64)
        step = self.step.to(real)
        return real + step * torch.rand_like(real), no_ldj(x)

    def inverse(self, z: Tensor) -> Value:
        z = z.double()
        step, low = self.step.to(z.device), self.low.to(z.device)
        safe = torch.where(step > 0, step, 1.0)
        on_grid = low + ((z - low) / safe).floor() * safe
        x = torch.where(step > 0, torch.minimum(torch.maximum(on_grid, self.bottom.to(z.device)), self.high.to(z.device)), z)
        return restore(x, self.source)


def _real(space: Space) -> Space:
    """The space of the same shape and names whose entries are real numbers."""
    if isinstance(space, Image):
        return Image(space.size, None)
    names = space.names if isinstance(space, Vector) else tuple(column.name for column in columns_of(space))
    return Vector(math.prod(space.shape), names=names)


def on_grid(space: Space) -> bool:
    """Whether any entry of the space lies on a grid, so that a real-valued model needs dequantisation."""
    return isinstance(space, (Vector, Image, Table)) and any(column.grid is not None for column in representative(space))
