"""Networks that know the time: what diffusion models ask for their guesses."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.errors import InvalidInput
from manykin.nn.waves import waves

FREQUENCIES = 16


class TimeFeatures(nn.Module):
    """Times in [0, 1] and a context as one vector: (n,) and (n, context) or None to (n, width).

    Sines and cosines of 16 frequencies from a quarter to 64 turns, so that neighbouring times differ a little in the slow ones and distant times
    in all (Vaswani et al., Attention is all you need, 2017, section 3.5), through two layers, with the context beside them.
    """

    frequencies: Tensor

    def __init__(self, width: int, context: int = 0) -> None:
        super().__init__()
        turns = torch.logspace(math.log10(0.25), math.log10(64.0), FREQUENCIES, dtype=torch.float64)
        self.register_buffer("frequencies", (2 * math.pi * turns).float(), persistent=False)
        self.first = nn.Linear(2 * FREQUENCIES + 1 + context, width)
        self.second = nn.Linear(width, width)

    def forward(self, t: Tensor, context: Tensor | None) -> Tensor:
        angles = t[:, None] * self.frequencies.to(t.dtype)
        parts = [angles.sin(), angles.cos(), 2 * t[:, None] - 1, *([] if context is None else [context])]
        return functional.silu(self.second(functional.silu(self.first(torch.cat(parts, dim=1)))))


class TimedMLP(nn.Module):
    """Residual layers whose hidden units are scaled and shifted by the time: x (n, size), t (n,), context to (n, size).

    Each block adds ``W2 silu((1 + s) W1 h + b)`` with s and b linear in the time features (Perez et al., FiLM, 2018, equation 1). The output is
    scaled by the time, and x itself is added to it with weights that are linear in the time features: what a target holds of the noise then passes
    by the hidden layers, which are left with the data. The last map of each block and of the network starts at zero.

    Args:
        size: entries of x.
        hidden: width of each block.
        context: features of a condition.
        dropout: share of hidden units that training silences.
        waves: octaves of sines and cosines of each entry that stand beside it, the slowest with four units of length a turn, so that sharp edges
            are learnt soon (Tancik et al., Fourier features let networks learn high frequency functions in low dimensional domains, 2020).

    Raises:
        InvalidInput: without a block.
    """

    def __init__(self, size: int, hidden: Sequence[int], context: int = 0, dropout: float = 0.0, waves: int = 0) -> None:
        super().__init__()
        if not hidden:
            raise InvalidInput("hidden = () leaves a network without blocks; expected the width of at least one.")
        width = hidden[0]
        self.time = TimeFeatures(width, context)
        self.waves = waves
        self.enter = nn.Linear(size * (1 + 2 * waves), width)
        self.inner = nn.ModuleList(nn.Linear(width, each) for each in hidden)
        self.modulate = nn.ModuleList(nn.Linear(width, 2 * each) for each in hidden)
        self.outer = nn.ModuleList(nn.Linear(each, width) for each in hidden)
        self.leave = nn.Linear(width, size)
        self.past = nn.Linear(width, 2 * size)
        self.dropout = dropout
        for layer in (*self.outer, self.leave, self.past):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        time, h = self.time(t, context), self.enter(waves(x, self.waves))
        for inner, modulate, outer in zip(self.inner, self.modulate, self.outer, strict=True):
            scale, shift = modulate(time).chunk(2, dim=1)
            hidden = functional.silu(inner(functional.silu(h)) * (1 + scale) + shift)
            if self.dropout and self.training:
                hidden = functional.dropout(hidden, self.dropout)
            h = h + outer(hidden)
        scale, share = self.past(time).chunk(2, dim=1)
        return self.leave(functional.silu(h)) * (1 + scale) + share * x  # type: ignore[no-any-return]
