"""Data of any space as points between which distances mean something."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.spaces import Column, Image, Record, Space, Tokens, Value, columns_of


@dataclass(frozen=True)
class Encoder:
    """A function from a batch to (n, d) float64; ``name`` says what the points are, in a few words."""

    name: str
    function: Callable[[Value], Tensor]

    def __call__(self, x: Value) -> Tensor:
        """The points of a batch."""
        return self.function(x)


def encoder(space: Space, real: Value) -> Encoder:
    """How data of a space become points.

    Columns of vectors and tables are divided by their standard deviation among ``real`` rows, after their mean is taken off; categories become
    indicators, and so does "is missing" wherever a column may lack values (its number is then the mean of the others). Pictures are pixels
    divided by the largest level. Texts become the frequencies of their symbols.
    """
    if isinstance(space, Record):
        assert not isinstance(real, Tensor)
        parts = {name: encoder(field, real[name]) for name, field in space.fields}
        return Encoder("standardised fields", lambda x: torch.cat([part(_field(x, name)) for name, part in parts.items()], dim=1))
    if isinstance(space, Tokens):
        return Encoder("symbol frequencies", lambda x: _frequencies(space, x))
    if isinstance(space, Image) and space.ordinal:
        scale = 1.0 if space.levels is None else 1.0 / (space.levels - 1)
        return Encoder("pixels", lambda x: flat(x) * scale)
    reference = flat(real)
    encoders = [_column(column, reference[:, index]) for index, column in enumerate(columns_of(space))]

    def encode(x: Value) -> Tensor:
        values = flat(x)
        return torch.cat([one(values[:, index]) for index, one in enumerate(encoders)], dim=1)

    return Encoder("standardised columns", encode)


def flat(x: Value) -> Tensor:
    """A batch as (n, entries) float64 on the CPU."""
    assert isinstance(x, Tensor)
    return x.detach().to("cpu", torch.float64).reshape(len(x), -1)


def _column(column: Column, real: Tensor) -> Callable[[Tensor], Tensor]:
    if column.kind == "categorical":
        size = len(column.categories)

        def indicators(values: Tensor) -> Tensor:
            codes = torch.where(values.isnan(), float(size), values).long()
            return torch.nn.functional.one_hot(codes, size + 1).double()[:, : size + int(column.missing)]

        return indicators
    known = real[~real.isnan()]
    centre = float(known.mean()) if len(known) else 0.0
    spread = float(known.std()) if len(known) > 1 else 0.0
    scale = spread if spread > 0 else 1.0

    def standardised(values: Tensor) -> Tensor:
        missing = values.isnan()
        number = torch.where(missing, 0.0, (values - centre) / scale)[:, None]
        return torch.cat([number, missing.double()[:, None]], dim=1) if column.missing else number

    return standardised


def _frequencies(space: Tokens, x: Value) -> Tensor:
    assert isinstance(x, Tensor)
    counts = torch.zeros(len(x), space.vocab, dtype=torch.float64)
    counts.scatter_add_(1, x.cpu().long(), torch.ones(x.shape, dtype=torch.float64))
    if space.end is not None:
        counts[:, space.end] = 1.0
    return counts / counts.sum(dim=1, keepdim=True)


def _field(x: Value, name: str) -> Tensor:
    assert not isinstance(x, Tensor)
    return x[name]
