"""Writing symbol after symbol with a transformer: the window over the text, the cache, and the rules of choice."""

from collections.abc import Callable

import torch
from torch import Tensor

from manykin.decoding import Decoding
from manykin.nn.attention import Cache, Transformer
from manykin.nn.packed import PackedTransformer
from manykin.spaces import Tokens, Value

Embed = Callable[[Tensor, Value | None, bool], Tensor]


class Writer:
    """Fills texts from left to right.

    The transformer sees a start vector and the symbols of a window over the text. The window begins at the text's beginning (or so late that the
    known part just fits), and whenever it holds as many symbols as the context has positions, it moves on so that the last half of them, rounded
    down, remain. Where it begins depends on the position only, and positions count from its beginning: with the cache or without, each symbol is
    drawn from the same logits.

    Args:
        tokens: vocabulary, context and end.
        rules: how a symbol is chosen from its logits.
        body: the transformer, perhaps packed.
        embed: codes (n, t) and condition to its inputs, the start vector's first; or, if so asked, to that of the last code only.
        logits: hidden states to logits.
    """

    def __init__(
        self, tokens: Tokens, rules: Decoding, body: Transformer | PackedTransformer, embed: Embed, logits: Callable[[Tensor], Tensor]
    ) -> None:
        self.tokens, self.rules, self.body, self.embed, self.logits = tokens, rules, body, embed, logits

    @torch.inference_mode()
    def write(self, text: Tensor, known: Tensor, condition: Value | None) -> Tensor:
        """Replace what is not known in text (n, t) by draws, from left to right and in place; ``known`` (n, t) holds prefixes."""
        first = int(known.sum(dim=1).min())
        ragged = bool(known[:, first:].any())
        cache = self.body.cache(len(text)) if self.rules.use_cache else None
        penalised = self.rules.repetition_penalty != 1
        seen = self._seen(text[:, :first]) if penalised else None
        ended = self._ended(text[:, :first])
        begin = max(0, first - self.tokens.length + 1)
        for place in range(first, text.shape[1]):
            if place - begin >= self.tokens.length:
                begin = place - self.tokens.length // 2
                if cache is not None:
                    cache.clear()
            if ended is not None and bool(ended.all()) and not (ragged and bool(known[:, place:].any())):
                text[:, place:] = self._end()
                break
            chosen = self.rules.choose(self.next_logits(text[:, begin:place], condition, cache), seen)
            if ended is not None:
                over = ended | (place - begin == self.tokens.length - 1)
                chosen = chosen.masked_fill(over, self._end())
            text[:, place] = torch.where(known[:, place], text[:, place], chosen) if ragged else chosen
            if ended is not None:
                ended = ended | (text[:, place] == self._end())
            if seen is not None:
                seen.scatter_(1, text[:, place : place + 1], True)
        return text

    def next_logits(self, window: Tensor, condition: Value | None, cache: Cache | None) -> Tensor:
        """Logits of the symbol after a window (n, w), shape (n, vocabulary); a cache that is not empty holds all but its last symbol."""
        if cache is None or cache.filled == 0:
            inputs = self.embed(window, condition, False)
        else:
            inputs = self.embed(window, condition, True)
        return self.logits(self.body(inputs, cache)[:, -1])

    def _seen(self, text: Tensor) -> Tensor:
        return torch.zeros(len(text), self.tokens.vocab, dtype=torch.bool, device=text.device).scatter_(1, text, True)

    def _ended(self, text: Tensor) -> Tensor | None:
        return None if self.tokens.end is None else (text == self.tokens.end).any(dim=1)

    def _end(self) -> int:
        assert self.tokens.end is not None
        return self.tokens.end
