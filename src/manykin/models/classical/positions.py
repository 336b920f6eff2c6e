"""Texts position by position: which symbol stands where, whatever stands elsewhere."""

import torch
from torch import Tensor

from manykin.models.classical.columns import Part, pick
from manykin.spaces import Tokens


class Positions(Part):
    """Independent symbols: p(x) = product over t of p_t(x_t).

    Strings: p_t is the distribution among strings that have not ended before t, the end code absorbs, and at the last position only the end is
    possible, so that the probabilities of all strings sum to one. Streams: one distribution for all positions. With counts n_t and the position-free
    frequencies u(v) = (n(v) + alpha) / (n + alpha V), p_t(v) = (n_t(v) + alpha V u(v)) / (n_t + alpha V): late positions, which few strings reach,
    fall back on u.
    """

    statistics = ("counts",)
    counts: Tensor
    log_probs: Tensor

    def __init__(self, space: Tokens, components: int, alpha: float) -> None:
        super().__init__()
        self.space, self.alpha = space, alpha
        self.scored = 1 if space.end is None else space.length - 1
        for name in ("counts", "log_probs"):
            self.register_buffer(name, torch.zeros(components, self.scored, space.vocab, dtype=torch.float64))
        self.solve()

    def score(self, z: Tensor, block: slice) -> Tensor:
        symbols, alive = self._scored(z)
        places = torch.arange(symbols.shape[1], device=z.device) if self.space.end is not None else 0
        return (self.log_probs[block][:, places, symbols] * alive).sum(dim=-1).T

    def add(self, z: Tensor, weights: Tensor, block: slice) -> None:
        symbols, alive = self._scored(z)
        for component in range(weights.shape[1]):
            w = weights[:, component, None] * alive
            table = self.counts[block][component]
            if self.space.end is None:
                table[0].scatter_add_(0, symbols.flatten(), w.flatten())
            else:
                table.scatter_add_(1, symbols.T, w.T)

    def solve(self) -> None:
        prior = self.alpha * self.space.vocab
        pooled = self.counts.sum(dim=1, keepdim=True)
        overall = (pooled + self.alpha) / (pooled.sum(dim=-1, keepdim=True) + prior)
        total = self.counts + prior * overall
        p = overall if self.space.end is None else total / total.sum(dim=-1, keepdim=True)
        self.log_probs.copy_(p.log())

    def draw(self, component: Tensor, z: Tensor, known: Tensor) -> None:
        """Draw unknown positions given all known ones: forward, weighing each symbol by the chance of what is known behind it."""
        end = self.space.end
        if end is None:
            flat = component.repeat_interleave(z.shape[1])
            z.copy_(torch.where(known, z, pick(self.log_probs, flat).view_as(z)))
            return
        ended_later, alive_later = self._outlook(component, z, known)
        alive = torch.ones(len(z), dtype=torch.bool, device=z.device)
        for place in range(self.scored):
            logits = self.log_probs[component, place] + alive_later[:, place + 1, None]
            logits[:, end] = self.log_probs[component, place, end] + ended_later[:, place + 1]
            drawn = torch.multinomial(logits.softmax(dim=-1), 1)[:, 0]
            symbol = torch.where(known[:, place], z[:, place], torch.where(alive, drawn, end))
            alive = alive & (symbol != end)
            z[:, place] = symbol
        z[:, -1] = end

    def free(self) -> int:
        return self.scored * (self.space.vocab - 1)

    def _outlook(self, component: Tensor, z: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of the known symbols from each position on, if the string has ended before it, and if it is alive there (n, length)."""
        end = int(self.space.end or 0)
        bad = known & (z != end)
        ended = torch.zeros(z.shape, dtype=torch.float64, device=z.device)
        alive = torch.zeros(z.shape, dtype=torch.float64, device=z.device)
        ended[:, -1] = alive[:, -1] = torch.where(bad[:, -1], -torch.inf, 0.0)
        for place in range(self.scored - 1, -1, -1):
            p = self.log_probs[component, place]
            stop = p[:, end]
            go = torch.where(torch.arange(p.shape[1], device=z.device) == end, -torch.inf, p).logsumexp(dim=1)
            either = torch.logaddexp(stop + ended[:, place + 1], go + alive[:, place + 1])
            given = p.gather(1, z[:, place, None])[:, 0] + torch.where(z[:, place] == end, ended[:, place + 1], alive[:, place + 1])
            alive[:, place] = torch.where(known[:, place], given, either)
            ended[:, place] = torch.where(bad[:, place], -torch.inf, ended[:, place + 1])
        return ended, alive

    def _scored(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The symbols that count, and which of them stand in strings that have not ended before."""
        if self.space.end is None:
            return z, torch.ones_like(z, dtype=torch.float64)
        symbols = z[:, : self.scored]
        ended = (symbols == self.space.end).long()
        return symbols.contiguous(), (ended.cumsum(dim=1) - ended == 0).double()
