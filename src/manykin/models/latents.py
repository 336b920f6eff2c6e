"""Latents: what a user may decode, and the distribution of a latent that is a function of the data."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from manykin.errors import InvalidInput


def check_latents(h: Tensor, size: int) -> Tensor:
    """Latents (n, size) that are finite numbers.

    Raises:
        InvalidInput: for another shape or dtype, no rows, or NaN and infinity.
    """
    if not isinstance(h, Tensor) or not h.is_floating_point():
        raise InvalidInput(f"h is a {getattr(h, 'dtype', type(h).__name__)}; expected a floating tensor of latents of shape (n, {size}).")
    if h.dim() != 2 or h.shape[1] != size or len(h) == 0:
        raise InvalidInput(f"h has shape {tuple(h.shape)}; expected latents of shape (n, {size}) with at least one row.")
    if not bool(torch.isfinite(h.detach()).all()):
        row, column = (~torch.isfinite(h.detach())).nonzero()[0].tolist()
        raise InvalidInput(f"h holds {h[row, column].item()} in row {row}, entry {column}; expected finite latents, such as latents(n) draws.")
    return h


class Point(Distribution):
    """All mass on one point an example: what ``encode`` returns for a bijection.

    Args:
        value: the points, shape (n, ...); batch shape (n,), the rest is the event.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, value: Tensor) -> None:
        self.value = value
        super().__init__(value.shape[:1], value.shape[1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Real vectors."""
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        """The points."""
        return self.value

    @property
    def mode(self) -> Tensor:
        """The points."""
        return self.value

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.value)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """The points, repeated over ``sample_shape``."""
        return self.value.expand(*sample_shape, *self.value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero at the point and minus infinity elsewhere: the logarithm of a mass, since a point has no density."""
        same = (value == self.value).flatten(len(value.shape) - len(self.event_shape)).all(dim=-1)
        return torch.where(same, 0.0, float("-inf"))
