"""Flow matching."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from manykin.contract import Preset
from manykin.diffusion import Prediction, Rectified, Schedule
from manykin.models.diffusion.base import Diffusion, DiffusionConfig
from manykin.models.diffusion.presets import default, picture, tiny


@dataclass(frozen=True)
class FlowMatchingConfig(DiffusionConfig):
    """Options of :class:`FlowMatching`."""


class FlowMatching(Diffusion):
    """Learns the velocity of straight lines from data to noise, and draws by following its mean back.

    ``x_t = (1 - t) x_0 + t eps``; the network is trained by ``E |(eps - x_0) - network(x_t, t)|^2`` (Lipman et al., Flow matching for generative
    modeling, 2023, equation 23, with time reversed; Liu, Gong and Liu, Flow straight and fast, 2023, equation 1). The rectified schedule with
    velocity prediction, and otherwise the same machine as diffusion.
    """

    config_class = FlowMatchingConfig
    paper = "Lipman, Chen, Ben-Hamu, Nickel and Le, Flow matching for generative modeling, 2023"
    presets: ClassVar[Mapping[str, Preset | Callable[..., Preset]]] = {
        "default": default,
        "cpu": picture,
        "tiny": tiny,
    }

    def schedule(self) -> Schedule:
        return Rectified()

    def prediction(self) -> Prediction:
        return "velocity"
