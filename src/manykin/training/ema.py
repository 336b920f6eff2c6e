"""The exponential moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """avg <- d avg + (1 - d) w after every step, with d = min(decay, (1 + t) / (10 + t)) so that short runs are not averages of their start.

    Only parameters are averaged. Buffers (batch statistics, power iterates, replay buffers) are those of the weights at the time of use: the mean
    of two unit vectors or of two samples is neither.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._pairs = (list(self.values.values()), list(self.parameters.values()))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._pairs[0], self._pairs[1], 1 - decay)  # type: ignore[arg-type]

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model with the averaged weights, for a while."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Exchange the model's weights and the average, without copying."""
        for name, parameter in self.parameters.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
        self._pairs = (list(self.values.values()), self._pairs[1])

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Set the average."""
        for name, value in values.items():
            self.values[name].copy_(value)
