"""The distribution of a latent that is a function of the data."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


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
