"""Networks that give one number an example: energies."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.errors import InvalidInput
from manykin.nn.conv import ConvEncoder
from manykin.nn.mlp import MLP
from manykin.nn.waves import waves


class VectorEnergy(nn.Module):
    """A multilayer perceptron from x (n, size) and context (n, context) to (n,), with smooth activations.

    Args:
        size: entries of x.
        hidden: width of each hidden layer.
        context: features of a condition, 0 for none.
        waves: octaves of sines and cosines of each entry that stand beside it, the slowest with four units of length a turn, for sharp edges
            (Tancik et al., Fourier features let networks learn high frequency functions in low dimensional domains, 2020).
    """

    def __init__(self, size: int, hidden: Sequence[int], context: int = 0, waves: int = 0) -> None:
        super().__init__()
        self.waves = waves
        self.net = MLP(size * (1 + 2 * waves) + context, hidden, 1, last="small")

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        seen = waves(x, self.waves)
        return self.net(seen if context is None else torch.cat([seen, context], dim=1)).squeeze(1)  # type: ignore[no-any-return]


class PictureEnergy(nn.Module):
    """Convolutions, then a multilayer perceptron: x (n, c, h, w) and context (n, context) to (n,). No normalisation: it would tie energies to it.

    Args:
        size: channels, height and width.
        widths: channels of each level of the convolutions, the finest first.
        hidden: width of each layer after them.
        context: features of a condition, 0 for none.

    Raises:
        InvalidInput: for no level of convolutions, or no layer after them.
    """

    def __init__(self, size: tuple[int, int, int], widths: Sequence[int], hidden: Sequence[int], context: int = 0) -> None:
        super().__init__()
        if not widths or not hidden:
            raise InvalidInput(
                f"widths = {tuple(widths)} and hidden = {tuple(hidden)} leave a part of conv empty; expected at least one width in each."
            )
        self.encoder = ConvEncoder(size, widths, hidden[0], context=context)
        self.net = MLP(hidden[0], hidden[1:], 1, last="small")

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(functional.silu(self.encoder(x, context))).squeeze(1)  # type: ignore[no-any-return]
