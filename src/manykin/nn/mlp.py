"""The multilayer perceptron."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.errors import InvalidInput, suggest

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "leaky-relu": lambda x: functional.leaky_relu(x, 0.2),
    "tanh": torch.tanh,
    "gelu": functional.gelu,
}
"""Activation functions by name; ``leaky-relu`` has slope 0.2."""


class MLP(nn.Module):
    """Linear layers with an activation between them: (n, inputs) to (n, outputs).

    Hidden weights start orthogonal, scaled to keep the variance of a rectified signal (Saxe, McClelland and Ganguli, Exact solutions to the
    nonlinear dynamics of learning in deep linear neural networks, 2014); biases start at zero.

    Args:
        inputs: width of the input, 0 or more.
        hidden: width of each hidden layer; an empty list makes one linear map.
        outputs: width of the output.
        activation: a name in :data:`ACTIVATIONS`.
        dropout: share of hidden units that training silences.
        last: ``zero`` starts the network as the constant 0, ``small`` at a tenth of the usual weights, ``full`` at the usual weights.

    Shape: input (..., inputs), output (..., outputs).

    Raises:
        InvalidInput: for an unknown activation.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, *, activation: str = "silu", dropout: float = 0.0, last: str = "full"
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InvalidInput(f"activation {activation!r} is not known.{suggest(activation, ACTIVATIONS)}")
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.activation = activation
        self.dropout = dropout
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            if layer.in_features:
                nn.init.orthogonal_(layer.weight, gain=2**0.5 if layer is not self.last else 1.0)
            nn.init.zeros_(layer.bias)
        if last != "full":
            self.last.weight.data.mul_({"zero": 0.0, "small": 0.1}[last])

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.activation]
        for layer in self.layers[:-1]:
            x = activation(layer(x))
            if self.dropout and self.training:
                x = functional.dropout(x, self.dropout)
        return self.last(x)  # type: ignore[no-any-return]
