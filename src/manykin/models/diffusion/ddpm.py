"""The denoising diffusion probabilistic model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from manykin.config import option
from manykin.contract import Preset
from manykin.models.diffusion.base import Diffusion, DiffusionConfig
from manykin.models.diffusion.presets import default, picture, tiny


@dataclass(frozen=True)
class DDPMConfig(DiffusionConfig):
    """Options of :class:`DDPM`."""

    schedule: Literal["cosine", "linear"] = option("cosine", "how noise is added")
    prediction: Literal["v", "epsilon", "x0"] = option("v", "what the network predicts: noise, data, or a mixture of both that suits all times")


class DDPM(Diffusion):
    """Learns to remove Gaussian noise of every strength, and draws by removing it from noise alone.

    ``x_t = alpha_t x_0 + sigma_t eps`` with alpha^2 + sigma^2 = 1, in continuous time; the network is trained by
    ``E |target - network(x_t, t)|^2``, the simple objective (Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020, equation 14).
    """

    config_class = DDPMConfig
    paper = "Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020"
    presets: ClassVar[Mapping[str, Preset | Callable[..., Preset]]] = {
        "default": default,
        "cpu": picture,
        "tiny": tiny,
    }
