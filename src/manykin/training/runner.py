"""What all runners share: the phase's surroundings, and what the trainer knows of a runner."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from manykin.contract import GenerativeModel
from manykin.training.batches import PASS, Source
from manykin.training.optim import Stepper

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Diverged(Exception):
    """A loss or gradient is not finite; the trainer decides what follows."""

    def __init__(self, phase: str, what: str) -> None:
        super().__init__(f"phase {phase!r}: {what}")
        self.phase = phase
        self.what = what


@dataclass
class Context:
    """What all runners of a run share."""

    model: GenerativeModel
    source: Source
    fabric: "Fabric"
    seed: int
    parts: int
    """Micro-batches a batch, over all processes."""
    mine: range
    """The micro-batches of this process."""
    clip: float | None = None
    steppers: dict[str, Stepper] = field(default_factory=dict)
    batches: int = 1
    """Batches that a step takes from the order: the largest ``repeat``."""
    stepwise: bool = False
    """Whether the training steps are batches of closed-form passes, because there is no gradient phase."""
    pass_size: int = PASS
    awake: Stepper | None = None
    """The parameters that are not frozen; None before the first phase."""

    @property
    def parallel(self) -> bool:
        """Whether several processes train together."""
        return self.fabric.world_size > 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        result = self.fabric.all_reduce(tensor, reduce_op="sum")
        assert isinstance(result, Tensor)
        return result


class Runner(Protocol):
    """What the trainer knows of a phase."""

    name: str
    finished: bool
    """Whether the phase asks for no more steps."""
    converged: bool
    epochs: int

    def advance(self, step: int) -> bool:
        """Do this phase's part of a training step; True where that ended a pass over the data."""

    def check(self) -> None:
        """Raise :class:`Diverged` where a number since the last check was not finite."""

    def report(self) -> dict[str, float]:
        """Figures since the last report, for a line of the log."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, as JSON."""

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
