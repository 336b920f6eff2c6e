"""Transforms: lossless maps between data space and the space in which a model works, with their log-determinants.

For a bijection z = f(x), ``p(x) = p(z) |det df/dx|``. A stochastic transform (dequantisation) draws z given x such that x follows from z; then
E[log p(z) + ldj] is at most log p(x) (Nielsen, Jaini, Hoogeboom, Winther and Welling, SurVAE Flows, 2020), and :attr:`Transform.exact` is False.
Lossy steps are no transforms: they belong to the definition of a data set.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from manykin.spaces import Column, Image, Space, Value, Vector, columns_of

Batches = Callable[[], Iterable[Value]]
"""Makes a fresh pass over the training split, in batches of the transform's source space."""


class Transform(nn.Module, ABC):
    """A map from :attr:`source` to :attr:`target` space. State lives in buffers and is fitted on the training split only."""

    exact: bool = True

    def __init__(self, source: Space, target: Space) -> None:
        super().__init__()
        self.source = source
        self.target = target

    @abstractmethod
    def forward(self, x: Value) -> tuple[Tensor, Tensor]:
        """Map x to ``(z, ldj)``: z in the target space and ``log|det dz/dx|`` per example, shape (n,), float64. May draw random numbers."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Value:
        """Map z back to valid data: integers in range, categories that exist."""

    def fit(self, batches: Batches) -> None:
        """Learn the state from the training split. Stateless transforms keep this default."""

    def describe(self) -> list[str]:
        """The steps by name, for run folders and model cards."""
        return [type(self).__name__.lower()]


class Identity(Transform):
    """Data space and model space are the same."""

    def __init__(self, space: Space) -> None:
        super().__init__(space, space)

    def forward(self, x: Value) -> tuple[Tensor, Tensor]:
        assert isinstance(x, Tensor)
        return x, no_ldj(x)

    def inverse(self, z: Tensor) -> Value:
        return z

    def describe(self) -> list[str]:
        return []


class Chain(Transform):
    """Transforms one after the other; exact where every step is."""

    def __init__(self, steps: Sequence[Transform]) -> None:
        super().__init__(steps[0].source, steps[-1].target)
        self.steps = nn.ModuleList(steps)
        self.exact = all(step.exact for step in steps)

    def forward(self, x: Value) -> tuple[Tensor, Tensor]:
        total: Tensor | None = None
        for step in self.steps:
            x, ldj = step(x)
            total = ldj if total is None else total + ldj
        assert isinstance(x, Tensor) and total is not None
        return x, total

    def inverse(self, z: Tensor) -> Value:
        x: Value = z
        for step in reversed(self.steps):
            assert isinstance(step, Transform) and isinstance(x, Tensor)
            x = step.inverse(x)
        return x

    def fit(self, batches: Batches) -> None:
        for position, step in enumerate(self.steps):
            assert isinstance(step, Transform)
            step.fit(lambda position=position: (self._before(x, position) for x in batches()))  # type: ignore[misc]

    def _before(self, x: Value, position: int) -> Value:
        with torch.no_grad():
            for index in range(position):
                x, _ = self.steps[index](x)
        return x

    def describe(self) -> list[str]:
        return [name for step in self.steps if isinstance(step, Transform) for name in step.describe()]


def no_ldj(x: Tensor) -> Tensor:
    """A log-determinant of zero for each example."""
    return torch.zeros(len(x), dtype=torch.float64, device=x.device)


def sum_event(x: Tensor) -> Tensor:
    """Sum over all axes but the first, in float64, shape (n,)."""
    return x.flatten(1).sum(dim=1, dtype=torch.float64)


def representative(space: Space) -> tuple[Column, ...]:
    """As :func:`~manykin.spaces.columns_of`, but one column for all where all are alike but for their names: pictures, and vectors without steps.

    What is made of it takes no memory or time by the pixel, and broadcasts against the space's tensors.
    """
    if isinstance(space, Image):
        return Image((1, 1, 1), space.levels, space.ordinal).columns
    if isinstance(space, Vector) and space.step is None:
        return Vector(1, levels=space.levels).columns
    return columns_of(space)
