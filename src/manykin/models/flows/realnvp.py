"""RealNVP: a normalizing flow of affine coupling layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from manykin.config import Config, option
from manykin.contract import Preset, Support
from manykin.errors import InvalidInput, Unsupported
from manykin.models.flows.base import SMALLEST, Flow
from manykin.models.flows.couplings import AffineCoupling, RowFlow, sides
from manykin.models.flows.multiscale import MultiScale
from manykin.models.flows.presets import realnvp_default, realnvp_tiny
from manykin.spaces import Image, Labels, Space, Vector


@dataclass(frozen=True)
class RealNVPConfig(Config):
    """Options of :class:`RealNVP`."""

    layers: int = option(8, "coupling layers of rows; from 4 on, every output depends on every input", ge=2)
    hidden: tuple[int, ...] = option((64, 64), "width of each hidden layer of a coupling's network", ge=1)
    activation: Literal["relu", "silu", "tanh", "gelu"] = option("relu", "activation of the networks: relu parts modes best, the others are smooth")
    dropout: float = option(0.0, "share of hidden units that training silences, against overfitting", ge=0, lt=1)
    pictures: Literal["rows", "multiscale"] = option(
        "rows", "pictures as rows of numbers, or by convolutions at several scales, which have no use for layers, hidden and activation"
    )
    channels: int = option(32, "channels of a network of convolutions", ge=1)
    blocks: int = option(2, "residual blocks of a network of convolutions", ge=1)
    condition_width: int = option(16, "features of a label condition", ge=1)


class RealNVP(Flow):
    """A flow of alternating affine couplings and ActNorm layers between the data and a standard normal.

    ``log p(z | c) = log N(f(z, c); 0, I) + log|det df/dz|``: exact, and sampled in one pass of the inverse. Each pair of couplings moves both
    halves of one partition of the entries: even and odd for the first pair, first and second half for the second, then random ones. On pictures
    ``pictures = "multiscale"`` couples pixels in checkerboards and channels at several resolutions (:class:`MultiScale`).

    Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio, Density estimation using Real NVP, 2017. Cost of either direction: ``layers`` network passes.

    Warning:
        A coupling needs at least two entries. With a single one the flow could only be a Gaussian, so it is refused. Affine couplings stretch
        one connected blob: between well separated modes thin bridges of density remain.

    Raises:
        InvalidInput: for ``pictures = "multiscale"`` with data that are no pictures of at least 4 x 4.
        Unsupported: for data with a single entry.
    """

    config_class = RealNVPConfig
    paper = "Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2017"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {"default": realnvp_default, "tiny": realnvp_tiny}

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        wanted = "rows" if config is None else getattr(config, "pictures", "rows")
        if wanted == "multiscale" and not (isinstance(space, Image) and min(space.size[1:]) >= SMALLEST):
            raise InvalidInput(
                f"model.pictures = 'multiscale' does not fit {space}; expected pictures of at least {SMALLEST} x {SMALLEST}: choose rows."
            )
        super().__init__(config, space, condition)
        if self.size < 2:
            raise Unsupported(f"realnvp couples entries with each other, and {space} has a single one; it needs at least two.")
        options: RealNVPConfig = self.config
        context = self.features.width
        if isinstance(self.model_space, Image):
            self.flow = MultiScale(
                self.model_space.size, width=options.channels, blocks=options.blocks, context=context, dropout=options.dropout
            )  # fmt: skip
            return
        net = (options.hidden, options.activation, options.dropout)
        couplings = [AffineCoupling(kept, moved, context, *net) for kept, moved in sides(self.size, options.layers)]
        self.flow = RowFlow(self.size, couplings, "halves")

    @property
    def accepts(self) -> Support:
        kind = Image if self.config.pictures == "multiscale" else Vector
        return Support((kind,), bounded="logit", condition=(Labels, Vector))
