"""State outside the file, options that nobody checks, and models tied to one place."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor

from manykin.config import option
from manykin.contract import Batch, Config, Sampler
from manykin.spaces import Space, Value
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles import GaussianOracle, KernelOracle, OracleConfig


@caught_by("saved-is-all")
class UnregisteredBuffer(GaussianOracle):
    """Keeps a learnt tensor as a plain attribute."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.shift = torch.zeros(self.size)

    def initialise(self, sample: Batch) -> None:
        self.shift = torch.ones(self.size)

    def push(self, h: Tensor, condition: Value | None) -> Tensor:
        return super().push(h, condition) + self.shift

    def code(self, z: Tensor, condition: Value | None) -> Tensor:
        return super().code(z - self.shift, condition)


@caught_by("saved-is-all")
class RandomFeatures(GaussianOracle):
    """Depends on a random matrix that is drawn anew at each construction and not saved."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.turn = torch.randn(self.size)

    def centre(self, condition: Value | None, n: int) -> Tensor:
        return super().centre(condition, n) + self.turn


@caught_by("shapes-follow-config")
class LateBuffer(GaussianOracle):
    """Registers a buffer of the data's size when it sees the data."""

    def initialise(self, sample: Batch) -> None:
        self.register_buffer("seen", torch.zeros(len(sample), dtype=torch.float64))


@caught_by("shapes-follow-config")
class ForgetsSize(KernelOracle):
    """Keeps as many rows as it finds and does not write their number down."""

    def initialise(self, sample: Batch) -> None:
        super().initialise(sample)
        self.sizes.clear()


@caught_by("state-is-tensors")
class ExtraState(GaussianOracle):
    """Keeps an object in its state that only pickle could store."""

    def get_extra_state(self) -> object:
        return {"epoch": 3}

    def set_extra_state(self, state: object) -> None:
        pass


@caught_by("damage-is-noticed", "saved-is-all")
class HiddenParameter(GaussianOracle):
    """Leaves a parameter out of its state."""

    def state_dict(self, *args: Any, **kwargs: Any) -> OrderedDict[str, Tensor]:  # type: ignore[override]
        state = cast(OrderedDict[str, Tensor], super().state_dict(*args, **kwargs))
        return OrderedDict((name, tensor) for name, tensor in state.items() if not name.endswith("raw"))


@caught_by("resume-is-identical")
class PythonCounter(GaussianOracle):
    """Anneals by a counter that is no buffer."""

    steps = 0

    def loss(self, batch: Batch) -> Tensor:
        self.steps += 1
        return super().loss(batch) * (1 + self.steps)


@dataclass(frozen=True)
class ForgetfulConfig(OracleConfig):
    """A config whose JSON leaves an option out."""

    extra: int = option(1, "an option that is lost", ge=0)

    def to_json(self) -> dict[str, Any]:
        return {"slack": 0.1}


@caught_by("spaces-survive-json")
class ForgetsOptions(GaussianOracle):
    """Its config does not survive JSON."""

    config_class = ForgetfulConfig


@dataclass(frozen=True)
class LooseConfig(OracleConfig):
    """A config that is not validated."""

    def __post_init__(self) -> None:
        pass

    @classmethod
    def from_json(cls, values: Any) -> Self:
        return cls(**{key: value for key, value in values.items() if key == "slack"})


@caught_by("options-validated")
class AnyOptions(GaussianOracle):
    """Takes any value of any option."""

    config_class = LooseConfig


@caught_by("foreign-config-refused")
class IgnoresConfig(GaussianOracle):
    """Throws the config away that it is given."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(None, space, condition)


@caught_by("loaded-state-counts")
class StaleCache(GaussianOracle):
    """Computes its covariance factor once and keeps it."""

    cached: Tensor | None = None

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        if self.cached is None:
            self.cached = self.factor().detach().clone()
        h = torch.randn(n, self.size, dtype=self.dtype)
        return self.centre(condition, n) + h @ self.cached.T


@caught_by("copies-are-independent")
class SharedWeights(GaussianOracle):
    """A copy shares its weights with the original."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedWeights":
        twin = type(self)(self.config, self.space, self.condition)
        twin.load_state_dict(self.state_dict())
        twin._parameters = self._parameters
        return twin


@caught_by("works-in-double")
class HardFloat(GaussianOracle):
    """Has a dtype written into the code."""

    def push(self, h: Tensor, condition: Value | None) -> Tensor:
        return self.centre(condition, len(h)) + h @ self.factor().float().T


@caught_by("moves-to-devices")
class ForgetsOnMove(GaussianOracle):
    """Draws its weights anew when it is moved."""

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.mean.add_(1.0)
        return self


@caught_by("built-without-memory")
class NeedsValues(GaussianOracle):
    """Looks at the value of a tensor in its constructor."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.scale = float(torch.ones(()).item())


@caught_by("compiled-loss-agrees")
class OtherWhenCompiled(GaussianOracle):
    """Takes a short cut when compiled."""

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        return loss * 1.1 if torch.compiler.is_compiling() else loss
