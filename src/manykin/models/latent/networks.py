"""Encoders and decoders of rows: multilayer perceptrons, or convolutions where the rows are pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manykin.config import Config, option
from manykin.contract import Batch, GenerativeModel
from manykin.errors import InvalidInput
from manykin.models.columns import ColumnLikelihood
from manykin.models.conditions import join
from manykin.nn import MLP, ConvDecoder, ConvEncoder
from manykin.spaces import Image, Space, Value, take

LARGE = 16
"""``auto`` takes convolutions for pictures with both sides of at least so many pixels."""

ROWS = 1024
"""Rows that a closing pass encodes at once."""


@dataclass(frozen=True)
class CodingConfig(Config):
    """The options that all models with an encoder and a decoder share."""

    latent: int = option(16, "entries of the latent", ge=1)
    network: Literal["auto", "mlp", "conv"] = option("auto", "kind of both networks; auto: conv for pictures of at least 16 x 16, else mlp")
    hidden: tuple[int, ...] = option((256, 256), "mlp only: width of each hidden layer of the encoder; the decoder has them in reverse", ge=1)
    widths: tuple[int, ...] = option((32, 64), "conv only: channels of each level, the finest first; each level has half the sides", ge=1)
    activation: Literal["silu", "relu", "tanh", "gelu"] = option("silu", "activation of the networks")
    dropout: float = option(0.0, "share of hidden units (conv: channels) that training silences, against overfitting", ge=0, lt=1)
    condition_width: int = option(16, "features of a label condition", ge=1)


class CodingModel(GenerativeModel):
    """Base of models that encode and decode rows of columns as they are. A subclass sets :attr:`likelihood`."""

    likelihood: ColumnLikelihood

    def to_model_space(self, x: Value) -> tuple[Tensor, Tensor]:
        """Columns stay in float64 until they are standardised, so that large numbers keep their digits; levels and categories need no digits."""
        if self.likelihood.small and isinstance(x, Tensor):
            return x.reshape(len(x), -1).to(self.dtype), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return self.transform(x)  # type: ignore[no-any-return]

    def parts(self, batch: Batch) -> Iterator[tuple[Tensor, Value | None]]:
        """The rows of a closing pass and their conditions, a thousand at a time, in model space."""
        for begin in range(0, len(batch), ROWS):
            part = slice(begin, begin + ROWS)
            yield self.to_model_space(take(batch.x, part))[0], None if batch.condition is None else take(batch.condition, part)


def picture_of(space: Space, config: CodingConfig) -> Image | None:
    """The pictures that convolutions shall work on; None for a multilayer perceptron.

    Raises:
        InvalidInput: for convolutions on data that are no pictures, or without a level.
    """
    if config.network == "mlp" or (config.network == "auto" and not (isinstance(space, Image) and min(space.size[1:]) >= LARGE)):
        return None
    if not isinstance(space, Image):
        raise InvalidInput(f"model.network = 'conv' does not fit {space}; expected pictures: choose mlp or auto.")
    if not config.widths:
        raise InvalidInput(
            "model.widths = () leaves convolutions without a level; expected at least one width: give one, or choose model.network mlp."
        )
    return space


def convolutional(space: Space) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the model and of training that a default preset changes where ``auto`` takes convolutions: some minutes on two cores."""
    if not (isinstance(space, Image) and min(space.size[1:]) >= LARGE):
        return {}, {}
    large = min(space.size[1:]) > 2 * LARGE
    return {"latent": 32, "widths": (32, 64, 128) if large else (32, 64)}, {"max_steps": 1000 if large else 2000}


def few_or_large(space: Space, n: int) -> bool:
    """Whether data are no pictures, fewer than 20,000, or of more than 1024 entries: the preset ``cpu`` is the default one there."""
    return not isinstance(space, Image) or n < 20_000 or torch.Size(space.shape).numel() > 1024


class RowEncoder(nn.Module):
    """Features of rows (n, inputs) and of conditions (n, context) to (n, outputs); starts small, so that codes begin near zero."""

    def __init__(self, likelihood: ColumnLikelihood, picture: Image | None, context: int, outputs: int, config: CodingConfig) -> None:
        super().__init__()
        activation, dropout = config.activation, config.dropout
        self.size = None if picture is None else picture.size
        self.net: MLP | ConvEncoder
        if picture is None:
            self.net = MLP(likelihood.inputs + context, config.hidden, outputs, activation=activation, dropout=dropout, last="small")
        else:
            self.channels = likelihood.inputs // torch.Size(picture.size).numel()
            channels, height, width = picture.size
            size = (channels * self.channels, height, width)
            self.net = ConvEncoder(size, config.widths, outputs, activation=activation, dropout=dropout, context=context)
            self.net.last.weight.data.mul_(0.1)

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        return self.net.last

    def forward(self, features: Tensor, context: Tensor | None) -> Tensor:
        if self.size is None:
            return self.net(join(features, context))  # type: ignore[no-any-return]
        channels, height, width = self.size
        pictures = features.view(-1, channels, height, width, self.channels).permute(0, 1, 4, 2, 3).flatten(1, 2)
        return self.net(pictures, context)  # type: ignore[no-any-return]


class RowDecoder(nn.Module):
    """Latents (..., latent) and features of conditions (..., context) to the parameters of the columns, (..., outputs).

    ``footprint``: numbers that one example needs at once, from which callers choose their chunks.
    """

    def __init__(self, likelihood: ColumnLikelihood, picture: Image | None, context: int, config: CodingConfig) -> None:
        super().__init__()
        activation, dropout = config.activation, config.dropout
        self.size = None if picture is None else picture.size
        self.footprint = likelihood.outputs
        self.net: MLP | ConvDecoder
        if picture is None:
            self.net = MLP(config.latent + context, config.hidden[::-1], likelihood.outputs, activation=activation, dropout=dropout)
        else:
            pixels = torch.Size(picture.size).numel()
            channels, height, width = picture.size
            self.parameters_each = likelihood.outputs // pixels
            size = (channels * self.parameters_each, height, width)
            self.net = ConvDecoder(config.latent + context, config.widths, size, activation=activation, dropout=dropout)
            self.base = nn.Parameter(torch.zeros(likelihood.outputs))
            self.footprint = max(likelihood.outputs, 2 * config.widths[0] * height * width)

    @property
    def last(self) -> nn.Linear | nn.Conv2d:
        """The output layer."""
        return self.net.last

    def start(self, outputs: Tensor) -> None:
        """Let outputs (width,) be what the decoder says before it has seen a latent: of convolutions a number a pixel, beside its bias."""
        place = self.base if self.size is not None else self.net.last.bias
        assert place is not None
        place.data.copy_(outputs)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        joined = join(h, context)
        if self.size is None:
            return self.net(joined)  # type: ignore[no-any-return]
        channels, height, width = self.size
        pictures: Tensor = self.net(joined.flatten(0, -2))
        each = pictures.view(-1, channels, self.parameters_each, height, width).permute(0, 1, 3, 4, 2)
        return each.reshape(*joined.shape[:-1], -1) + self.base
