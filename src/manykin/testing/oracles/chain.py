"""A Markov chain with everything that autoregressive models offer: conditionals, decoding rules, continuation."""

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from manykin.contract import Sampler
from manykin.decoding import Decoding
from manykin.errors import InvalidInput, ManykinWarning
from manykin.random import fresh_seed, seeded
from manykin.spaces import Value
from manykin.testing.oracles.discrete import MarkovOracle
from manykin.testing.oracles.support import check_mask


class ChainOracle(MarkovOracle):
    """The Markov chain of :class:`MarkovOracle`, whose every factor is known and which goes on for ever given its last symbol."""

    samplers: ClassVar[tuple[type[Sampler], ...]] = (Decoding,)

    def terms(self, z: Tensor) -> Tensor:
        """log p of each symbol given those before it, shape (n, length)."""
        return torch.cat([self.logits(z, t).log_softmax(1).gather(1, z[:, t : t + 1]) for t in range(self.tokens.length)], dim=1)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return self.terms(z).sum(1)

    def log_conditionals(self, x: Value, condition: Value | None = None) -> Tensor:
        """log p of each symbol given those before it, shape (n, length)."""
        with torch.no_grad():
            return self.terms(self.prepare(x, condition)[0]).double()

    def fill(self, z: Tensor, known: Tensor, sampler: Sampler | None) -> Tensor:
        """Draw what is not known, from left to right."""
        rules = sampler if isinstance(sampler, Decoding) else Decoding()
        for position in range(z.shape[1]):
            seen = torch.zeros(len(z), self.tokens.vocab, dtype=torch.bool).scatter_(1, z[:, :position], True)
            fresh = rules.choose(self.next_logits(z, position), seen)
            z[:, position] = torch.where(known[:, position], z[:, position], fresh)
        return z

    def next_logits(self, z: Tensor, position: int) -> Tensor:
        """Logits at any position of a text; beyond the context those of a position inside it."""
        if self.tokens.end is None and position >= self.tokens.length:
            return self.next[z[:, position - 1]]
        if self.tokens.end is not None and position >= self.tokens.length:
            return self.logits(z[:, -1:].expand(-1, self.tokens.length), self.tokens.length - 1)
        return self.logits(z, position)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = torch.zeros(n, self.tokens.length, dtype=torch.long)
        return self.fill(z, torch.zeros_like(z, dtype=torch.bool), sampler)

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """Continue each row after its known prefix."""
        z, _, _ = self.prepare(x, condition)
        check_mask(known, z)
        with seeded(fresh_seed() if seed is None else seed):
            return self.fill(z.clone(), known, sampler)

    @torch.no_grad()
    def continuation(
        self, prompt: Tensor, n: int, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None
    ) -> Tensor:
        """n further symbols; of a prompt only the last symbol counts."""
        self.check_condition(condition, max(len(prompt), 1))
        if n < 1:
            raise InvalidInput(f"n = {n} symbols are not possible; expected at least 1.")
        self.check_prompt(prompt)
        prompt = self.cut(prompt)
        z = torch.cat([prompt, torch.zeros(len(prompt), n, dtype=torch.long)], dim=1)
        known = torch.zeros_like(z, dtype=torch.bool)
        known[:, : prompt.shape[1]] = True
        with seeded(fresh_seed() if seed is None else seed):
            return self.fill(z, known, sampler)[:, prompt.shape[1] :]

    def check_prompt(self, prompt: Tensor) -> None:
        """Validate codes (b, m).

        Raises:
            InvalidInput: for another rank or dtype, and for codes out of range.
        """
        if prompt.dim() != 2 or prompt.dtype != torch.long:
            raise InvalidInput(f"prompt is {str(prompt.dtype)[6:]} of shape {tuple(prompt.shape)}; expected int64 codes of shape (b, m).")
        if prompt.numel() and not 0 <= int(prompt.min()) <= int(prompt.max()) < self.tokens.vocab:
            raise InvalidInput(f"prompt holds codes from {int(prompt.min())} to {int(prompt.max())}; expected 0 to {self.tokens.vocab - 1}.")

    def cut(self, prompt: Tensor) -> Tensor:
        """The last part of a prompt that is longer than the context, with a warning."""
        most = self.tokens.length - 1
        if prompt.shape[1] <= most or self.tokens.end is not None:
            return prompt
        warnings.warn(f"the prompt has {prompt.shape[1]} symbols; only its last {most} are used.", ManykinWarning, stacklevel=4)
        return prompt[:, -most:] if most else prompt[:, :0]
