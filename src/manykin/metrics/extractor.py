"""What turns pictures into features: the interface between extractors and the metrics that work on features."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Extractor(Protocol):
    """A frozen network. ``name`` goes into every result that rests on it; ``hash`` identifies its weights; ``inception`` only for FID's own."""

    name: str
    hash: str
    inception: bool

    def features(self, x: Tensor) -> Tensor:
        """Features of pictures in data space: (n, *space.shape) to (n, d) float32 on the CPU."""

    def probabilities(self, x: Tensor) -> Tensor | None:
        """Class probabilities of pictures in data space, (n, classes) float32; None for a network that is no classifier."""
