"""Decoding rules: from the logits of a next symbol to other logits, and to a draw.

Each rule is a pure function of logits (n, vocabulary); -inf marks what cannot be drawn. :class:`Decoding` composes them in the order of the
ecosystem: repetition penalty, temperature, top-k, top-p. With its defaults a model is sampled as it is; everything else changes the law, so that
``log_prob`` is then not that of the samples.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manykin.config import option
from manykin.contract import Sampler
from manykin.errors import InvalidInput

__all__ = ["Decoding", "draw", "repetition_penalty", "temperature", "top_k", "top_p"]


def temperature(logits: Tensor, value: float) -> Tensor:
    """``logits / value``: below 1 sharper, above 1 flatter; 0 leaves the first of the most probable symbols alone (greedy decoding).

    Raises:
        InvalidInput: for a temperature below 0.
    """
    _check("temperature", value, value >= 0, "a number ≥ 0 (0 is greedy)")
    if value == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -math.inf).scatter_(-1, best, 0.0)
    return logits if value == 1 else logits / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Only the k most probable symbols, and those equal to the last of them (Fan, Lewis and Dauphin, Hierarchical neural story generation, 2018).

    Raises:
        InvalidInput: for k < 1.
    """
    _check("top_k", k, k >= 1, "an integer ≥ 1")
    if k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """The smallest set of most probable symbols that together have probability p or more.

    Holtzman et al., The curious case of neural text degeneration, 2020, equation 2. The most probable symbol always stays.

    Raises:
        InvalidInput: for p outside (0, 1].
    """
    _check("top_p", p, 0 < p <= 1, "a number in (0, 1]")
    if p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    chances = ordered.softmax(dim=-1)
    before = chances.cumsum(dim=-1) - chances
    before[..., 0] = 0.0
    out = (before >= p).scatter(-1, order, before >= p)
    return logits.masked_fill(out, -math.inf)


def repetition_penalty(logits: Tensor, penalty: float, seen: Tensor) -> Tensor:
    """Make symbols that were ``seen`` (boolean, shape of logits) less probable: positive logits divided by the penalty, negative multiplied.

    Keskar et al., CTRL: a conditional transformer language model, 2019, section 4.1, in the form that the ecosystem gave it.

    Raises:
        InvalidInput: for a penalty of 0 or less.
    """
    _check("repetition_penalty", penalty, penalty > 0, "a number > 0 (1 is none)")
    if penalty == 1:
        return logits
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(logits: Tensor) -> Tensor:
    """One symbol a row by the softmax of its logits, int64 of shape (n,), from the global generator.

    The argmax of logits plus Gumbel noise has that law (Gumbel, Statistical theory of extreme values, 1954), needs no normalisation and does not
    wait for an accelerator.
    """
    noise = torch.empty_like(logits).exponential_().log_()
    return (logits - noise).argmax(dim=-1)


@dataclass(frozen=True)
class Decoding(Sampler):
    """How the next symbol is chosen from a model's logits, symbol after symbol."""

    temperature: float = option(1.0, "below 1 more probable texts, above 1 more varied ones; 0 always takes the most probable symbol", ge=0)
    top_k: int | None = option(None, "choose among so many most probable symbols", ge=1)
    top_p: float = option(1.0, "choose among the most probable symbols that together have this probability", gt=0, le=1)
    repetition_penalty: float = option(1.0, "above 1 symbols that occurred before become less probable", gt=0)
    use_cache: bool = option(True, "keep what was computed for earlier symbols; false computes it again for every symbol, for comparison")
    precision: Literal["32", "bf16", "int8"] = option(
        "32", "numbers of the weights while drawing: bf16 is faster where the hardware has it, int8 on CPUs for few texts at a time"
    )

    @property
    def greedy(self) -> bool:
        """Whether nothing is random."""
        return self.temperature == 0

    def apply(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """All rules in order; ``seen`` is needed where there is a repetition penalty."""
        if seen is not None:
            logits = repetition_penalty(logits, self.repetition_penalty, seen)
        logits = temperature(logits, self.temperature)
        if self.top_k is not None and not self.greedy:
            logits = top_k(logits, self.top_k)
        return top_p(logits, self.top_p)

    def choose(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """One symbol a row, int64 of shape (n,): drawn from the global generator, or the most probable one."""
        if self.greedy:
            return (logits if seen is None else repetition_penalty(logits, self.repetition_penalty, seen)).argmax(dim=-1)
        return draw(self.apply(logits, seen))


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise InvalidInput(f"{name} = {value!r} is not possible; expected {expected}.")
