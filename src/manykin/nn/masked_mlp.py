"""The masked multilayer perceptron: outputs of an entry see earlier entries only."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.errors import InvalidInput, suggest
from manykin.nn.mlp import ACTIVATIONS


class MaskedLinear(nn.Linear):
    """A linear layer in which the connections where ``mask`` (outputs, inputs) is 0 do not exist."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """All outputs, or those of the given rows."""
        if rows is None:
            return functional.linear(x, self.mask * self.weight, self.bias)
        return functional.linear(x, self.mask[rows] * self.weight[rows], self.bias[rows])


class MaskedMLP(nn.Module):
    """Entries x (n, entries * features) and a context (n, context) to (n, entries, outputs), where output i sees entries 0 to i - 1 and all context.

    Every hidden unit has a degree, the number of entries that it may see; degrees go round from the smallest that carries anything to
    ``entries - 1`` (Germain, Gregor, Murray and Larochelle, MADE: masked autoencoder for distribution estimation, 2015, equations 8 to 13).

    Args:
        entries: of x.
        hidden: width of each hidden layer; at least ``entries - 1`` each lets every degree occur.
        outputs: for each entry.
        features: inputs that stand for one entry.
        context: inputs that every output sees.
        activation: a name in :data:`~manykin.nn.mlp.ACTIVATIONS`.
        dropout: share of hidden units that training silences.

    Raises:
        InvalidInput: for an unknown activation.
    """

    def __init__(
        self, entries: int, hidden: Sequence[int], outputs: int, *, features: int = 1, context: int = 0, activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InvalidInput(f"activation {activation!r} is not known.{suggest(activation, ACTIVATIONS)}")
        self.entries, self.outputs, self.activation, self.dropout = entries, outputs, activation, dropout
        first = 0 if context or entries == 1 else 1
        seen = torch.cat([torch.arange(1, entries + 1).repeat_interleave(features), torch.zeros(context, dtype=torch.int64)])
        degrees = [seen, *(first + torch.arange(width) % (entries - first) for width in hidden)]
        masks = [after[:, None] >= before for before, after in pairwise(degrees)]
        masks.append(torch.arange(entries).repeat_interleave(outputs)[:, None] >= degrees[-1])
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in masks)
        for layer, mask in zip(self.layers, masks, strict=True):
            assert isinstance(layer, MaskedLinear)
            scale = (2.0 if layer is not self.last else 0.01) / mask.sum(dim=1, keepdim=True).clamp_min(1)
            nn.init.normal_(layer.weight)
            layer.weight.data.mul_(scale.sqrt())
            nn.init.zeros_(layer.bias)

    @property
    def last(self) -> MaskedLinear:
        """The output layer; its rows are those of entry 0, then of entry 1, and so on."""
        layer = self.layers[-1]
        assert isinstance(layer, MaskedLinear)
        return layer

    def forward(self, x: Tensor, context: Tensor | None = None, entry: int | None = None) -> Tensor:
        """The outputs of all entries, shape (n, entries, outputs), or those of one of them, (n, outputs)."""
        activation = ACTIVATIONS[self.activation]
        h = x if context is None else torch.cat([x, context], dim=1)
        for layer in self.layers[:-1]:
            h = activation(layer(h))
            if self.dropout and self.training:
                h = functional.dropout(h, self.dropout)
        if entry is None:
            return self.last(h).unflatten(1, (self.entries, self.outputs))  # type: ignore[no-any-return]
        return self.last(h, slice(entry * self.outputs, (entry + 1) * self.outputs))  # type: ignore[no-any-return]
