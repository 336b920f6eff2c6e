"""What the networks of a conditional model see of its condition."""

import torch
from torch import Tensor, nn

from manykin.nn import LabelFeatures, VectorFeatures
from manykin.spaces import Labels, Space, Value, Vector


class ConditionFeatures(nn.Module):
    """Labels as learned vectors, real vectors standardised by the training rows, nothing for an unconditional model.

    Args:
        condition: the space of conditions, ``Labels`` or ``Vector``, or None.
        width: features of a label; a vector keeps its own size.
    """

    def __init__(self, condition: Space | None, width: int) -> None:
        super().__init__()
        self.net: LabelFeatures | VectorFeatures | None = None
        if isinstance(condition, Labels):
            self.net = LabelFeatures(condition.classes, width)
        elif isinstance(condition, Vector):
            self.net = VectorFeatures(condition.size)
        self.width = 0 if self.net is None else self.net.width

    def fit(self, condition: Value | None) -> None:
        """Take the statistics of the training conditions, where any are needed."""
        if self.net is not None:
            assert isinstance(condition, Tensor)
            self.net.fit(condition)

    def forward(self, condition: Value | None, dtype: torch.dtype) -> Tensor | None:
        """The features of n conditions, shape (n, width), in the network's dtype; None for an unconditional model."""
        return None if self.net is None else self.net(condition).to(dtype)


def join(x: Tensor, context: Tensor | None) -> Tensor:
    """x (n, d) with features (n, width) beside it, shape (n, d + width)."""
    return x if context is None else torch.cat([x, context], dim=-1)
