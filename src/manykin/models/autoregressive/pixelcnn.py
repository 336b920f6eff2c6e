"""PixelCNN: pictures pixel by pixel, each level given all pixels above and to the left."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from manykin.config import Config, option
from manykin.contract import EXACT, Batch, Density, GenerativeModel, Gradient, Optim, Phase, Preset, Sampler, Support
from manykin.decoding import Decoding
from manykin.errors import InvalidInput, Unsupported
from manykin.models.autoregressive.outputs import BernoulliOutput, CategoricalOutput, LevelFeatures, LevelOutput, LogisticMixtureOutput
from manykin.models.autoregressive.painter import Painter, Palette, checked_mask, reading_order
from manykin.models.autoregressive.picture_presets import PRESETS
from manykin.models.conditions import ConditionFeatures
from manykin.nn.masked import ChannelHead, PixelStacks
from manykin.random import fresh_seed, hash_seed
from manykin.spaces import Image, Labels, Space, Value

PIXELS = 65_536
"""Pixels that likelihoods work on at a time."""

ROWS = 64
"""Pictures that are completed at a time."""

FEW = 32
"""Up to so many ordered levels each gets a logit of its own; above it they are cells of a mixture of logistics."""


@dataclass(frozen=True)
class PixelCNNConfig(Config):
    """Options of :class:`PixelCNN`."""

    likelihood: Literal["auto", "bernoulli", "categorical", "logistic-mixture"] = option(
        "auto", "distribution of a level: for two levels; a logit each; a mixture over ordered levels. auto chooses by their number"
    )
    components: int = option(5, "logistics that the logistic-mixture likelihood mixes", ge=1)
    layers: int = option(8, "gated layers of both stacks", ge=1)
    width: int = option(32, "features of each stack", ge=1)
    first: int = option(3, "how far the first convolutions see, in pixels", ge=1)
    kernel: int = option(3, "side of the other convolutions, odd", ge=3)
    hidden: int = option(64, "hidden units a channel between the stacks and the output", ge=1)
    dropout: float = option(0.0, "share of features that training silences, against overfitting", ge=0, lt=1)


class PixelCNN(GenerativeModel):
    r"""A convolutional network that predicts each pixel from those above and to the left of it.

    .. math:: \log p(x \mid c) = \sum_{i} \log p(x_i \mid x_{<i}, c)

    in reading order: line by line, the channels of a pixel one after the other (red, green, blue). Exact: the factors of all pixels are computed at
    once, because no convolution sees what comes later. Two stacks see every earlier pixel within reach, without the blind spot of masked convolutions
    (:class:`manykin.nn.masked.PixelStacks`), and the later channels of a pixel see the earlier ones through a small network. A level is a Bernoulli
    variable, a categorical one, or a cell of a mixture of logistics, which sums to one over the levels. A label's learned vector enters both stacks
    and the output.

    Van den Oord et al., Conditional image generation with PixelCNN decoders, 2016; Salimans, Karpathy, Chen and Kingma, PixelCNN++, 2017, for the
    mixture. The stacks differ from the first: both are residual, and the gate is linear times sigmoid.

    Ordered levels enter as thermometers, others as learned vectors. Each pixel's output starts at the log of its levels' shares in the training data.

    Cost: training and scoring :math:`O(P L w^2)` operations for P pixels, L layers of width w; drawing a pixel :math:`O(L w^2)` with the cache, and
    :math:`O(P L w^2)` without.

    Raises:
        InvalidInput: for an even kernel, or a likelihood that does not fit the levels.
        Unsupported: for pictures of real values.
    """

    config_class = PixelCNNConfig
    family = "autoregressive"
    paper = "van den Oord et al., Conditional image generation with PixelCNN decoders, 2016"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = PRESETS
    samplers: ClassVar[tuple[type[Sampler], ...]] = (Decoding,)
    sample_block: ClassVar[int] = 64
    completes: ClassVar[Literal["any", "prefix"]] = "prefix"

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        options: PixelCNNConfig = self.config
        if options.kernel % 2 == 0:
            raise InvalidInput(
                f"model.kernel = {options.kernel} has no middle; expected an odd number: choose {options.kernel - 1} or {options.kernel + 1}."
            )
        self.picture = cast(Image, self.model_space)
        channels, height, width = self.picture.size
        self.output = self._output(options)
        self.inputs = LevelFeatures(self._levels, self.picture.ordinal)
        self.stacks = PixelStacks(
            channels * self.inputs.width, options.width, options.layers, first=options.first, kernel=options.kernel, dropout=options.dropout
        )
        self.head = ChannelHead(options.width, options.hidden, channels, self.inputs.width, self.output.width)
        self.rows, self.columns = nn.Embedding(height, 2 * options.width), nn.Embedding(width, 2 * options.width)
        self.features = ConditionFeatures(condition, 2 * options.width + channels * options.hidden)
        for table in (self.rows, self.columns, *(part for part in self.features.modules() if isinstance(part, nn.Embedding))):
            nn.init.normal_(table.weight, std=0.1)
        self.bias = nn.Parameter(torch.zeros(height * width * channels * self.output.width))

    @property
    def _levels(self) -> int:
        assert self.picture.levels is not None
        return self.picture.levels

    def _output(self, options: PixelCNNConfig) -> LevelOutput:
        wanted, levels, ordinal = options.likelihood, self._levels, self.picture.ordinal
        if wanted == "auto":
            wanted = "bernoulli" if levels == 2 else "categorical" if levels <= FEW or not ordinal else "logistic-mixture"
        if wanted == "bernoulli" and levels != 2:
            raise InvalidInput(f"model.likelihood = 'bernoulli' does not fit {levels} levels; expected 2 of them: choose auto or categorical.")
        if wanted == "logistic-mixture" and not ordinal:
            raise InvalidInput(
                f"model.likelihood = 'logistic-mixture' does not fit {self.picture}; expected levels with an order: choose auto or categorical."
            )
        if wanted == "logistic-mixture":
            return LogisticMixtureOutput(levels, options.components)
        return BernoulliOutput(levels) if wanted == "bernoulli" else CategoricalOutput(levels)

    @property
    def kind(self) -> Density:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Image,), bounded="levels", condition=(Labels,))

    def phases(self) -> list[Phase]:
        return [Gradient("main", optimizer=Optim("muon", lr=3e-3, betas=(0.9, 0.99)))]

    def initialise(self, sample: Batch) -> None:
        """Start each pixel's output at the marginals of its levels."""
        z, _ = self.to_model_space(sample.x)
        self.bias.copy_(self.output.start(reading_order(z)).flatten())

    # Likelihood.

    def _start(self, condition: Value | None) -> tuple[Tensor, Tensor | None]:
        """What enters the stacks at each place, (..., h, w, 2 width), and what enters the head, (n, 1, 1, hidden) or None."""
        place = self.rows.weight[:, None] + self.columns.weight
        context = self.features(condition, place.dtype)
        if context is None:
            return place, None
        below, beside = context[:, None, None].split([place.shape[-1], context.shape[1] - place.shape[-1]], dim=-1)
        return place + below, beside

    def _biases(self) -> Tensor:
        channels, height, width = self.picture.size
        return self.bias.view(height, width, channels, self.output.width)

    def _numbers(self, x: Tensor, start: Tensor, context: Tensor | None) -> Tensor:
        """What the network says of each level of pictures x (n, h, w, channels), without the biases: (n, h, w, channels, numbers)."""
        encoded = self.inputs(x, self.dtype).flatten(3)
        found: Tensor = self.head(self.stacks(encoded, start), encoded, context)
        return found

    def _terms(self, z: Tensor, condition: Value | None) -> Tensor:
        """log p(x_i | x_<i, c) of each entry of z, (n, channels, h, w)."""
        x = z.permute(0, 2, 3, 1)
        numbers = self._numbers(x, *self._start(condition)).to(self.dtype) + self._biases()
        return self.output.log_prob(numbers, x).permute(0, 3, 1, 2)

    def _all_terms(self, z: Tensor, condition: Value | None) -> Tensor:
        """The terms in blocks of pictures, so that memory does not grow with their number; at once where a gradient is needed."""
        rows = len(z) if torch.is_grad_enabled() else max(1, PIXELS // z[0].numel())
        parts = []
        for start in range(0, len(z), rows):
            c = condition[start : start + rows] if isinstance(condition, Tensor) else None
            parts.append(self._terms(z[start : start + rows], c))
        return torch.cat(parts)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return self._all_terms(z, condition).double().sum(dim=(1, 2, 3))

    def loss(self, batch: Batch) -> Tensor:
        """Minus the log-likelihood in nats per entry, shape (n,)."""
        z, _ = self.to_model_space(batch.x)
        return -self._terms(z, batch.condition).mean(dim=(1, 2, 3))

    def log_conditionals(self, x: Value, condition: Value | None = None) -> Tensor:
        """log p(x_i | x_<i, c) of every entry in nats, shape of x, float64: its sum over a picture is ``log_prob``."""
        with torch.no_grad(), self.evaluating(None):
            z, _, c = self.prepare(x, condition)
            return self._all_terms(z, c).double()

    # Drawing.

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = torch.zeros(n, *self.picture.size, dtype=self.picture.dtype, device=self.device)
        return self._painted(z, torch.zeros_like(z, dtype=torch.bool), condition, self._rules(sampler))

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """x with what follows the known beginning of each picture replaced by draws given that beginning: a lower half given the upper one.

        Args:
            x: pictures of the space; entries that are not known may be of any level.
            known: boolean, shape of x; in each picture True up to some entry in reading order (line by line, channels innermost), then False.
            condition: one label, or one a picture.
            seed: for repeatable draws.
            sampler: a :class:`~manykin.decoding.Decoding`.

        Raises:
            InvalidInput: for a mask that is no boolean tensor of the shape of x.
            Unsupported: for a picture with an unknown entry before a known one.
        """
        z, _, c = self.prepare(x, condition)
        known, rules = checked_mask(known, z), self._rules(sampler)
        flat = reading_order(known)
        gaps = flat[:, 1:] & ~flat[:, :-1]
        if bool(gaps.any()):
            row, place = gaps.nonzero()[0].tolist()
            line, column = divmod((place + 1) // self.picture.size[0], self.picture.size[2])
            raise Unsupported(
                f"known, picture {row}, knows line {line}, column {column} but not the entry before it; pixelcnn goes on from a beginning in reading "
                "order only, as the upper lines of a picture: for other gaps choose a model such as ddpm."
            )
        with self.evaluating(hash_seed(fresh_seed() if seed is None else seed, "complete")):
            parts = []
            for start in range(0, len(z), ROWS):
                rows = slice(start, start + ROWS)
                parts.append(self._painted(z[rows], known[rows], c[rows] if isinstance(c, Tensor) else None, rules))
            return self.finish(torch.cat(parts))

    def _painted(self, z: Tensor, known: Tensor, condition: Value | None, rules: Decoding) -> Tensor:
        """Pictures z (n, channels, h, w) with what is not known drawn anew."""
        start, context = self._start(condition)
        palette = Palette(
            self.inputs, self.stacks, self.head, self.output, start, None if context is None else context[:, 0, 0], self._biases(),
            lambda x: self._numbers(x, start, context),
        )  # fmt: skip
        filled = Painter(palette, rules).paint(z.permute(0, 2, 3, 1).long().contiguous(), known.permute(0, 2, 3, 1))
        return filled.permute(0, 3, 1, 2).to(self.picture.dtype).contiguous()

    def _rules(self, sampler: Sampler | None) -> Decoding:
        rules = Decoding() if sampler is None else sampler
        if not isinstance(rules, Decoding):
            raise InvalidInput(f"sampler {type(rules).__name__} does not fit PixelCNN; expected one of: Decoding.")
        if rules.repetition_penalty != 1:
            raise InvalidInput(
                f"repetition_penalty = {rules.repetition_penalty:g} is for texts: every picture repeats its levels; leave it at 1 for pixelcnn."
            )
        if rules.precision != "32":
            raise InvalidInput(f"precision = {rules.precision!r} is for gpt; pixelcnn draws in 32 bits: leave it out.")
        return rules
