"""Learned vectors of runs of symbols."""

import torch
from torch import Tensor, nn
from torch.nn import functional

MIX = 6364136223846793005
"""An odd multiplier of 64 bits that spreads small changes over all of them (Knuth, The art of computer programming, volume 2, section 3.3.4)."""


class Grams(nn.Module):
    """A vector for the last 2, 3, ... symbols at each position: codes (n, t) to (n, t, width), causal.

    For each length k from 2 to ``longest`` a run of k symbols has a row in a table of its own, found by hashing, so that rare runs may share one; the
    rows of all lengths are put side by side and mapped linearly to the width. What stands before the first code counts as a symbol of its own.
    Where the runs of a length are fewer than the rows, none share.

    Pagnoni et al., Byte latent transformer: patches scale better than tokens, 2024, section 3.2.1, there the sum over lengths 3 to 8.

    Cost: a step reads one row a position and length, whatever the size of the tables; an optimizer passes through all of them.

    Args:
        vocab: symbols.
        longest: symbols of the longest run, at least 2.
        buckets: rows of each table.
        size: entries of a row.
        width: features of a position.
        dropout: share of positions at which training hides the vector of a length, each length by itself: what long runs recall of the training
            text then does not make short ones, and the layers behind, superfluous.
    """

    def __init__(self, vocab: int, longest: int, buckets: int, size: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.vocab, self.longest, self.dropout = vocab, longest, dropout
        self.tables = nn.ModuleList(nn.Embedding(min(buckets, (vocab + 1) ** k), size) for k in range(2, longest + 1))
        self.mix = nn.Linear(size * (longest - 1), width, bias=False)
        for table in self.tables:
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=0.02)
        nn.init.normal_(self.mix.weight, std=0.3)

    def forward(self, codes: Tensor) -> Tensor:
        padded = functional.pad(codes, (self.longest - 1, 0), value=self.vocab)
        run, t, found = codes, codes.shape[1], []
        for k, table in enumerate(self.tables, start=2):
            assert isinstance(table, nn.Embedding)
            earlier, rows = padded[:, self.longest - k : self.longest - k + t], table.num_embeddings
            run = run + _wrapped((self.vocab + 1) ** (k - 1)) * earlier
            found.append(table(run if rows == (self.vocab + 1) ** k else ((run * MIX) >> 24) % rows))
        vectors = torch.stack(found, dim=2)
        if self.training and self.dropout:
            kept = torch.rand(vectors.shape[:3], device=codes.device) >= self.dropout
            vectors = vectors * (kept / (1 - self.dropout)).to(vectors.dtype).unsqueeze(-1)
        return self.mix(vectors.flatten(2))  # type: ignore[no-any-return]


def _wrapped(value: int) -> int:
    """The integer of 64 bits that a product wraps around to, which a hash may."""
    return (value + 2**63) % 2**64 - 2**63
