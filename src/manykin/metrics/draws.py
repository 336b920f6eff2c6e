"""Log-likelihoods an example from many draws, in memory that depends neither on the number of draws nor on that of rows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.contract import Density, GenerativeModel, Weighs
from manykin.data.dataset import Rows
from manykin.errors import NoDensity, Unsupported
from manykin.random import hash_seed
from manykin.spaces import Value, count, move, take

CHUNK_ENTRIES = 2_000_000
"""Entries of a block: rows times draws times the entries of one example."""
MAX_CHUNK = 4096
"""Rows of a block."""
BLOCK_DRAWS = 64
"""Importance weights that are drawn at once; behind a stochastic transform, SHARED_DRAWS, since one call transforms the data once."""
SHARED_DRAWS = 16
CHEAP_ENTRIES = 200_000


@dataclass(frozen=True)
class Drawn:
    """Log-likelihoods of n examples.

    ``values`` (n,) float64. ``variance`` (n,): of the estimate of p(x) relative to p(x)^2 where draws are joined by log-mean-exp, so that half of
    it is how far the bound is expected to lie below log p; None where nothing is drawn; NaN where one draw does not tell. ``count``: the draws that
    it was estimated from.
    """

    values: Tensor
    variance: Tensor | None = None
    count: int = 1


def default_draws(model: GenerativeModel, rows: Rows) -> int:
    """How many draws an example a noisy likelihood takes: 16, or 64 where the data are small or the model draws importance weights; then 256."""
    density = model.density
    if density is None or not density.noisy:
        return 1
    cheap = len(rows) * torch.Size(model.space.shape).numel() <= CHEAP_ENTRIES
    return 16 * (4 if cheap else 1) * (4 if isinstance(model, Weighs) else 1)


def block_draws(model: GenerativeModel) -> int:
    """Draws that are held at once: 1, or for importance weights a number that depends on the space alone."""
    if not isinstance(model, Weighs):
        return 1
    most = BLOCK_DRAWS if model.transform.exact else SHARED_DRAWS
    return min(max(CHUNK_ENTRIES // _entries(model), 1), most)


def block_rows(model: GenerativeModel) -> int:
    """Rows that are looked at together: as many as fit with their draws."""
    return min(max(CHUNK_ENTRIES // (_entries(model) * block_draws(model)), 1), MAX_CHUNK)


def transforms_drawn(model: GenerativeModel, draws: int) -> int:
    """How many times the data are dequantised: once a call of the model."""
    return -(-draws // block_draws(model))


@torch.no_grad()
def log_likelihoods(model: GenerativeModel, x: Value, condition: Value | None = None, *, draws: int = 1, seed: int = 0) -> Tensor:
    """The best value that the model's density allows from so many draws an example, in nats, shape (n,).

    Exact densities need one; draws of a noisy lower bound are joined by log-mean-exp, those of a noisy estimate averaged. Rows and draws are taken
    in blocks whose sizes depend on the space alone, never on the machine, and each block is seeded by its place: equal seeds give equal numbers,
    the first rows (in whole blocks) do not depend on how many follow, and a larger number of draws begins with those of a smaller one (in whole
    blocks of them). Other block sizes draw other numbers of the same law.

    Raises:
        NoDensity: for an implicit model.
        Unsupported: for an unnormalised one.
    """
    normalised(model)
    size, parts = block_rows(model), []
    for start in range(0, count(x), size):
        rows = slice(start, start + size)
        inner = condition if condition is None or count(condition) == 1 else take(condition, rows)
        parts.append(drawn(model, take(x, rows), inner, draws, hash_seed(seed, "rows", start)).values)
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def drawn(model: GenerativeModel, x: Value, condition: Value | None, draws: int, seed: int) -> Drawn:
    """The likelihoods of one block of rows, from any number of draws: only running sums are kept, in float64."""
    density = model.density
    assert density is not None
    if not density.noisy:
        return Drawn(model.log_prob(x, condition))
    x = move(x, model.device)
    if density.bias != "lower":
        total = torch.zeros(count(x), dtype=torch.float64, device=model.device)
        for draw in range(draws):
            total += model.log_prob(x, condition, seed=hash_seed(seed, draw))
        return Drawn(total / draws, None, draws)
    sums = _LogSums(count(x), model.device)
    if not isinstance(model, Weighs):
        for draw in range(draws):
            sums.add(model.log_prob(x, condition, seed=hash_seed(seed, draw))[:, None])
        return sums.drawn(draws)
    size = block_draws(model)
    for block in range(-(-draws // size)):
        weights = model.log_weights(x, min(size, draws - block * size), condition, seed=hash_seed(seed, block)).double()
        sums.add(weights, together=not model.transform.exact)
    return sums.drawn(draws)


class _LogSums:
    """log of running sums of exp(w) and of the squares of independent terms; ``together``: all columns of a call are one such term."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.total = torch.full((n,), -math.inf, dtype=torch.float64, device=device)
        self.squares = self.total.clone()
        self.terms = 0

    def add(self, weights: Tensor, *, together: bool = False) -> None:
        """Add log-weights (n, b)."""
        once = torch.logsumexp(weights, dim=1)
        self.total = torch.logaddexp(self.total, once)
        self.squares = torch.logaddexp(self.squares, 2 * once if together else torch.logsumexp(2 * weights, dim=1))
        self.terms += 1 if together else weights.shape[1]

    def drawn(self, draws: int) -> Drawn:
        """The log-mean-exp of all weights, and the relative variance of that mean: (m sum w^2 / (sum w)^2 - 1) / (m - 1) for m terms."""
        values = self.total - math.log(draws)
        if self.terms < 2:
            return Drawn(values, torch.full_like(values, math.nan), self.terms)
        spread = torch.exp(self.squares - 2 * self.total + math.log(self.terms)) - 1
        variance = torch.where(torch.isfinite(values), spread.clamp_min(0.0) / (self.terms - 1), torch.nan)
        return Drawn(values, variance, self.terms)


def mixed(parts: list[Drawn], log_shares: Tensor) -> Drawn:
    """The likelihoods of a mixture of laws with these log-shares (k,): log p(x) of a model conditional on labels."""
    terms = torch.stack([part.values for part in parts], dim=1) + log_shares
    values = torch.logsumexp(terms, dim=1)
    known = [part.variance for part in parts if part.variance is not None]
    if len(known) < len(parts):
        return Drawn(values, None, parts[0].count)
    share = torch.exp(terms - values[:, None])
    squares = torch.where(share > 0, share.square() * torch.stack(known, dim=1), 0.0)
    return Drawn(values, squares.sum(dim=1), parts[0].count)


def normalised(model: GenerativeModel) -> Density:
    """The model's density.

    Raises:
        NoDensity: for an implicit model.
        Unsupported: for an unnormalised one.
    """
    name, density = type(model).__name__, model.density
    if density is None:
        raise NoDensity(f"{name} has no density, so it has no likelihood to evaluate; compare its samples instead (energy_distance).")
    if not density.normalised:
        raise Unsupported(
            f"{name} is unnormalised: its log_prob lacks an unknown constant, so a likelihood would mean nothing; compare its samples instead "
            "(energy_distance), or give its log_normaliser."
        )
    return density


def _entries(model: GenerativeModel) -> int:
    return max(torch.Size(model.space.shape).numel(), 1)
