"""Neural spline flows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from manykin.config import Config, option
from manykin.contract import Preset, Support
from manykin.errors import InvalidInput
from manykin.models.flows.base import SMALLEST, Flow
from manykin.models.flows.couplings import AutoregressiveSplines, RowFlow, SplineCoupling, sides
from manykin.models.flows.lattices import Lattices
from manykin.models.flows.presets import nsf_cpu, nsf_default, nsf_tiny
from manykin.models.flows.splines import Spline
from manykin.spaces import Image, Labels, Space, Vector


@dataclass(frozen=True)
class NSFConfig(Config):
    """Options of :class:`NSF`."""

    layers: int = option(6, "spline layers; of pictures the couplings of the first lattice", ge=1)
    bins: int = option(16, "bins of each spline", ge=2)
    histogram: int = option(0, "bins of a learned histogram in front of each spline of a picture's pixels, with edges between levels; 0: none", ge=0)
    bound: float = option(4.0, "splines map from minus to plus this, outside they are the identity; unused for pictures with levels", gt=0)
    conditioner: Literal["coupling", "autoregressive"] = option(
        "coupling", "what splines see: the other half of the entries, or all earlier ones; of pictures in the first lattice, then one layer"
    )
    hidden: tuple[int, ...] = option((64, 64), "width of each hidden layer of a network of rows", ge=1)
    activation: Literal["relu", "silu", "tanh", "gelu"] = option("relu", "activation of the networks of rows")
    dropout: float = option(0.0, "share of hidden units or channels that training silences, against overfitting", ge=0, lt=1)
    pictures: Literal["auto", "lattices", "rows"] = option(
        "auto", "pictures lattice after lattice, or as rows of numbers; auto: lattices from 4 x 4 pixels on"
    )
    channels: int = option(32, "channels of a network of lattices", ge=1)
    blocks: int = option(2, "residual blocks of a network of lattices", ge=1)
    condition_width: int = option(16, "features of a label condition", ge=1)


class NSF(Flow):
    """A flow of monotone rational-quadratic splines whose parameters networks compute, between the data and a simple base.

    Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019. Exact density. On rows of numbers: ``layers`` couplings (sampled in one pass)
    or autoregressive layers (more flexible a layer, sampled in a pass for each entry), with ActNorm between them and a standard normal base.

    On pictures: groups of pixels in order, coarse to fine, each mapped by splines that see all earlier groups (:class:`Lattices`), with a uniform
    base where pixels have levels. Cost: one pass of each network in both directions, but for an ``autoregressive`` first lattice, which is sampled in
    a pass of its network for each of its entries (49 of 28 x 28 grey pixels); memory grows with pixels times ``bins``.

    Raises:
        InvalidInput: for ``pictures = "lattices"`` with data that are no pictures of at least 4 x 4, and a ``histogram`` where pixels have no levels.
    """

    config_class = NSFConfig
    paper = "Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {"default": nsf_default, "cpu": nsf_cpu, "tiny": nsf_tiny}

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        wanted = "auto" if config is None else getattr(config, "pictures", "auto")
        if wanted == "lattices" and not (isinstance(space, Image) and min(space.size[1:]) >= SMALLEST):
            raise InvalidInput(
                f"model.pictures = 'lattices' does not fit {space}; expected pictures of at least {SMALLEST} x {SMALLEST}: choose rows or auto."
            )
        super().__init__(config, space, condition)
        options: NSFConfig = self.config
        if options.histogram and not (isinstance(self.model_space, Image) and self.levels is not None):
            raise InvalidInput(f"model.histogram = {options.histogram} does not fit {space} here; expected pictures with levels as lattices: give 0.")
        context, net = self.features.width, (options.hidden, options.activation, options.dropout)
        if isinstance(self.model_space, Image):
            self.base = "normal" if self.model_space.levels is None and self.levels is None else "uniform"
            self.flow = Lattices(
                self.model_space.size, self.levels, bins=options.bins, bound=options.bound, histogram=options.histogram,
                conditioner=options.conditioner, layers=options.layers, hidden=options.hidden, activation=options.activation,
                channels=options.channels, blocks=options.blocks, context=context, dropout=options.dropout,
            )  # fmt: skip
            return
        spline = Spline(options.bins, -options.bound, options.bound)
        if options.conditioner == "coupling":
            steps = [SplineCoupling(kept, moved, context, spline, *net) for kept, moved in sides(self.size, options.layers)]
            self.flow = RowFlow(self.size, steps, "halves")
        else:
            layers = [AutoregressiveSplines(self.size, context, spline, *net) for _ in range(options.layers)]
            self.flow = RowFlow(self.size, layers, "turns")

    @property
    def levels(self) -> int | None:
        """Levels of the pixels; None for data that are no pictures, or real-valued ones."""
        return self.space.levels if isinstance(self.space, Image) else None

    @property
    def accepts(self) -> Support:
        wanted = self.config.pictures
        large = isinstance(self.space, Image) and min(self.space.size[1:]) >= SMALLEST
        if wanted != "rows" and large:
            return Support((Image,), bounded="scale", condition=(Labels, Vector))
        return Support((Vector,), bounded="logit", condition=(Labels, Vector))
