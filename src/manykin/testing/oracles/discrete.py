"""Countable spaces: a table of probabilities, and a Markov chain over tokens."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from manykin.contract import (
    EXACT,
    Batch,
    ClosedForm,
    Config,
    Density,
    GenerativeModel,
    Gradient,
    Phase,
    Progress,
    Sampler,
    Support,
)
from manykin.errors import Unsupported
from manykin.random import fresh_seed, seeded
from manykin.spaces import Labels, Space, Table, Tokens, Value
from manykin.testing.oracles.support import FAST, check_mask


class TableOracle(GenerativeModel):
    """One probability for each of the K possible rows, fitted by counting; that a value is missing is one more possibility."""

    counts: Tensor
    weights: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        columns = cast(Table, self.model_space).columns
        if any(column.cardinality is None for column in columns) or math.prod(column.cardinality or 1 for column in columns) > 4096:
            raise Unsupported(f"{type(self).__name__} lists every row; {space} has too many.")
        values = [column.origin + (column.grid or 1.0) * torch.arange(column.cardinality or 1).double() for column in columns]
        nan = torch.tensor([math.nan], dtype=torch.float64)
        values = [torch.cat([each, nan]) if column.missing else each for each, column in zip(values, columns, strict=True)]
        self.register_buffer("rows", torch.cartesian_prod(*values).view(-1, len(columns)), persistent=False)
        shape = (condition.classes if isinstance(condition, Labels) else 1, len(cast(Tensor, self.rows)))
        self.register_buffer("weights", torch.full(shape, 1.0 / shape[1], dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.float64))

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Table,), missing=True, condition=(Labels,))

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("count", statistics=("counts",), max_epochs=3)]

    def matches(self, z: Tensor, free: Tensor | None = None) -> Tensor:
        """Which of the K rows agree with each example, shape (n, K); in ``free`` entries every value agrees, missing ones excepted."""
        rows = cast(Tensor, self.rows)
        agree = (z[:, None] == rows) | (z[:, None].isnan() & rows.isnan())
        return (agree if free is None else torch.where(free[:, None], ~rows.isnan(), agree)).all(-1)

    def chances(self, condition: Value | None, n: int) -> Tensor:
        """The table of each example's condition, shape (n, K)."""
        return self.weights[condition] if isinstance(condition, Tensor) else self.weights.expand(n, -1)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return (self.chances(condition, len(z)) * self.matches(z)).sum(1).log()

    def initialise(self, sample: Batch) -> None:
        self.weights.fill_(1.0 / self.weights.shape[1])

    def accumulate(self, batch: Batch) -> None:
        """Count the rows."""
        z, _ = self.to_model_space(batch.x)
        which = batch.condition if isinstance(batch.condition, Tensor) else torch.zeros(len(z), dtype=torch.long)
        self.counts.index_add_(0, which, self.matches(z).double())

    def solve(self) -> Progress:
        """The shares, as new probabilities."""
        fresh = (self.counts + 1e-6) / (self.counts + 1e-6).sum(1, keepdim=True)
        change = float((fresh - self.weights).abs().max())
        self.weights.copy_(fresh)
        return Progress({"change": change}, change < 1e-7)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return cast(Tensor, self.rows)[torch.multinomial(self.chances(condition, n), 1)[:, 0]]

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """Draw a row among those that agree with what is known."""
        z, _, c = self.prepare(x, condition)
        free = ~check_mask(known, cast(Tensor, x)).view(z.shape) | z.isnan()
        chance = (self.chances(c, len(z)) + 1e-12) * self.matches(z, free)
        with seeded(fresh_seed() if seed is None else seed):
            draw = cast(Tensor, self.rows)[torch.multinomial(chance, 1)[:, 0]]
        return self.finish(torch.where(free, draw, z))

    def parameters_table(self) -> dict[str, Tensor]:
        return {"weights": self.weights[0]}


class MarkovOracle(GenerativeModel):
    """A Markov chain over tokens: a table of first symbols and one of next symbols, by gradient."""

    completes = "prefix"

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.tokens = cast(Tokens, self.model_space)
        self.first = nn.Parameter(0.1 * torch.randn(self.tokens.vocab))
        self.next = nn.Parameter(0.1 * torch.randn(self.tokens.vocab, self.tokens.vocab))

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Tokens,))

    def phases(self) -> Sequence[Phase]:
        return [Gradient("main", optimizer=FAST)]

    def logits(self, z: Tensor, position: int) -> Tensor:
        """Logits of the symbol at a position given the one before; after ``end``, and at the last position, only ``end`` is possible."""
        logits = self.first.expand(len(z), -1) if position == 0 else self.next[z[:, position - 1]]
        end = self.tokens.end
        if end is None:
            return logits
        closed = torch.full((len(z),), position == self.tokens.length - 1)
        if position > 0:
            closed = closed | (z[:, position - 1] == end)
        only = torch.where(torch.arange(self.tokens.vocab) == end, 0.0, -math.inf).to(logits.dtype)
        return torch.where(closed[:, None], only, logits)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        terms = [self.logits(z, t).log_softmax(1).gather(1, z[:, t : t + 1]) for t in range(self.tokens.length)]
        return torch.cat(terms, dim=1).sum(1)

    def _draw(self, z: Tensor, known: Tensor) -> Tensor:
        for position in range(self.tokens.length):
            fresh = torch.multinomial(self.logits(z, position).softmax(1), 1)[:, 0]
            z[:, position] = torch.where(known[:, position], z[:, position], fresh)
        return z

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = torch.zeros(n, self.tokens.length, dtype=torch.long)
        return self._draw(z, torch.zeros_like(z, dtype=torch.bool))

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """Continue each row after its known prefix."""
        z, _, _ = self.prepare(x, condition)
        check_mask(known, z)
        with seeded(fresh_seed() if seed is None else seed):
            return self._draw(z.clone(), known)
