"""Likelihood on held-out data: nats, bits per dimension, bits per byte, and the gap to a known entropy."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manykin.contract import Batch, Density, GenerativeModel, Weighs
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput, NoDensity, Unsupported
from manykin.metrics.estimate import LOG_P, LOG_P_GIVEN_C, Estimate, number
from manykin.metrics.figures import Figure
from manykin.metrics.moments import Moments
from manykin.random import hash_seed
from manykin.spaces import Labels, Space, Tokens, Value, move, take

FIGURES: tuple[Figure, ...] = ()

CHUNK_ENTRIES = 2_000_000
MAX_CHUNK = 4096
CHEAP_ENTRIES = 200_000
MARGINAL_CLASSES = 100


def default_draws(model: GenerativeModel, rows: Rows) -> int:
    """How many draws an example a noisy likelihood takes: 16, or 64 where the data are small or the model draws importance weights; then 256."""
    density = model.density
    if density is None or not density.noisy:
        return 1
    cheap = len(rows) * torch.Size(model.space.shape).numel() <= CHEAP_ENTRIES
    return 16 * (4 if cheap else 1) * (4 if isinstance(model, Weighs) else 1)


@torch.no_grad()
def likelihood(model: GenerativeModel, rows: Rows, *, k: int | None = None, seed: int = 0, entropy: float | None = None) -> list[Estimate]:
    r"""Minus the mean log-likelihood of ``rows`` in data space, lower is better, in constant memory.

    - ``nll``: nats per example. Where :attr:`Density.noisy` holds of a lower bound, each example's value is the log-mean-exp of k draws,
      :math:`\log \frac1k \sum_j e^{w_j}` with :math:`E[e^{w_j}] \le p(x)`: a bound that tightens with k (Burda, Grosse and Salakhutdinov,
      Importance weighted autoencoders, 2016, equation 8). Draws of a noisy estimate of log p are averaged instead.
    - ``bits_per_dim`` where the space is discrete: total bits over total :meth:`Space.dims`.
    - ``bits_per_byte`` for texts whose symbols are known: total bits over the UTF-8 bytes of the text (ends cost bits and are no bytes).
    - ``kl_gap`` where the data's entropy H is known: nll - H, an estimate of KL(data || model) or of a bound on it.
    - For a model conditional on labels the above are of log p(x | c); ``marginal_nll`` and its kin are of log p(x), the sum over classes.

    Args:
        model: a fitted model with a normalised density.
        rows: held-out examples with their conditions.
        k: draws an example; None: :func:`default_draws`.
        seed: of the draws.
        entropy: the data's known differential entropy in nats.

    Raises:
        NoDensity: for an implicit model.
        Unsupported: for an unnormalised model, whose values cannot be compared.
        InvalidInput: for k < 1, no rows, or rows that do not fit the model.
    """
    density = _usable(model)
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise InvalidInput(f"k = {k!r} draws are not possible; expected an integer of at least 1, or none.")
    if len(rows) == 0:
        raise InvalidInput("there are no rows to evaluate on (0 examples); expected at least one held-out example.")
    draws = (k or default_draws(model, rows)) if density.noisy else 1
    own, marginal = _Tally(), _Tally()
    symbol_bytes = byte_lengths(model.space)
    for start, batch in _chunks(model, rows, draws):
        sizes = torch.stack([model.space.dims(batch.x), _bytes(model.space, batch.x, symbol_bytes)], dim=1).cpu()
        given, summed = _own_and_marginal(model, batch, draws, hash_seed(seed, "likelihood", start))
        for tally, values in ((own, given), (marginal, summed)):
            if values is not None:
                tally.add(values, sizes)
    note = f"k={draws}" if density.noisy else ""
    quantity = LOG_P if model.condition is None else LOG_P_GIVEN_C
    estimates = _estimates(own, model.space, density, note, "", quantity, entropy if model.condition is None else None) if own.n else []
    if marginal.n:
        estimates += _estimates(marginal, model.space, density, note, "marginal_", LOG_P, entropy)
    return estimates


def log_likelihoods(model: GenerativeModel, x: Value, condition: Value | None = None, *, draws: int = 1, seed: int = 0) -> Tensor:
    """The best value that the model's density allows from so many draws an example, in nats, shape (n,).

    Exact densities need one; draws of a noisy lower bound are joined by log-mean-exp, those of a noisy estimate averaged.

    Raises:
        NoDensity: for an implicit model.
        Unsupported: for an unnormalised one.
    """
    density = _usable(model)
    if not density.noisy:
        return model.log_prob(x, condition)
    x = move(x, model.device)
    if isinstance(model, Weighs) and density.bias == "lower":
        return _log_mean_exp(model.log_weights(x, draws, condition, seed=seed).double())
    combine: Callable[[Tensor], Tensor] = _log_mean_exp if density.bias == "lower" else _mean
    return combine(torch.stack([model.log_prob(x, condition, seed=hash_seed(seed, draw)) for draw in range(draws)], dim=1))


@dataclass
class _Tally:
    """Moments of (nll, dims, bytes) over the rows of finite likelihood, and counts of the others."""

    moments: Moments = field(default_factory=lambda: Moments(3))
    n: int = 0
    outside: int = 0
    unbounded: int = 0
    undefined: int = 0

    def add(self, log_likelihoods: Tensor, sizes: Tensor) -> None:
        values = log_likelihoods.detach().to("cpu", torch.float64)
        finite = torch.isfinite(values)
        self.n += len(values)
        self.outside += int((values == -math.inf).sum())
        self.unbounded += int((values == math.inf).sum())
        self.undefined += int(torch.isnan(values).sum())
        self.moments.add(torch.cat([-values[finite, None], sizes[finite]], dim=1))

    def verdict(self) -> tuple[float | None, str]:
        """The value that rows without a finite likelihood force on every mean, and why; None where all rows are finite."""
        if self.undefined:
            return math.nan, f"{self.undefined} of {self.n} rows have an undefined log-likelihood (NaN)"
        if self.outside:
            return math.inf, f"{self.outside} of {self.n} rows outside the support"
        if self.unbounded:
            return -math.inf, f"{self.unbounded} of {self.n} rows have unbounded density"
        return None, ""


def _estimates(
    tally: _Tally, space: Space, density: Density, note: str, prefix: str, quantity: str, entropy: float | None
) -> list[Estimate]:  # fmt: skip
    moments = tally.moments
    nats, bit = moments.mean(0), 1 / math.log(2)
    found: list[tuple[str, str, tuple[float, float | None], str]] = [("nll", "nats", nats, "")]
    if space.discrete:
        found.append(("bits_per_dim", "bits/dim", _scale(moments.ratio(0, 1), bit), ""))
    if not math.isnan(moments.ratio(0, 2)[0]):
        found.append(("bits_per_byte", "bits/byte", _scale(moments.ratio(0, 2), bit), ""))
    if entropy is not None:
        gap = (nats[0] - entropy, nats[1])
        found.append(("kl_gap", "nats", gap, _too_good(gap, entropy)))
    forced, reason = tally.verdict()
    estimates = []
    for name, unit, (value, stderr), remark in found:
        rest = f"{reason}; mean over the other {moments.n}: {number(value, stderr)}" if reason and moments.n else reason
        remarks = "; ".join(part for part in (note, rest, "" if reason else remark) if part)
        shown = (value, stderr) if forced is None else (forced, None)
        estimates.append(Estimate(prefix + name, *shown, unit, density.strength, tally.n, remarks, quantity))
    return estimates


def _too_good(gap: tuple[float, float | None], entropy: float) -> str:
    """No density, and no lower bound on one, beats the entropy of the data: a gap far below zero is a defect of the model or of the data."""
    margin = 4 * (gap[1] or 0.0) + 1e-4 * (1 + abs(entropy))
    return "impossible: better than the data's entropy allows, so the density does not integrate to one" if gap[0] < -margin else ""


def _scale(pair: tuple[float, float | None], factor: float) -> tuple[float, float | None]:
    return pair[0] * factor, None if pair[1] is None else pair[1] * factor


def _usable(model: GenerativeModel) -> Density:
    name, density = type(model).__name__, model.density
    if density is None:
        raise NoDensity(f"{name} has no density, so it has no likelihood to evaluate; compare its samples instead (energy_distance).")
    if not density.normalised:
        raise Unsupported(
            f"{name} is unnormalised: its log_prob lacks an unknown constant, so a likelihood would mean nothing; compare its samples instead "
            "(energy_distance), or estimate its normaliser first."
        )
    return density


def _chunks(model: GenerativeModel, rows: Rows, draws: int) -> Iterator[tuple[int, Batch]]:
    """Batches small enough that the importance weights of a whole batch fit in memory, with the number of their first row."""
    entries = torch.Size(model.space.shape).numel() * (draws if isinstance(model, Weighs) else 1)
    size, start = min(max(CHUNK_ENTRIES // max(entries, 1), 1), MAX_CHUNK), 0
    for batch in rows.batches(size):
        yield start, batch
        start += len(batch)


def _own_and_marginal(model: GenerativeModel, batch: Batch, draws: int, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """``(log p(x | c) or log p(x), marginal log p(x))``, each (n,) or None."""
    if model.condition is None:
        return log_likelihoods(model, batch.x, None, draws=draws, seed=seed), None
    known = batch.condition
    if not isinstance(model.condition, Labels) or model.condition.classes > MARGINAL_CLASSES:
        return log_likelihoods(model, batch.x, known, draws=draws, seed=seed), None
    terms = torch.stack([log_likelihoods(model, batch.x, torch.tensor([c]), draws=draws, seed=seed) for c in range(model.condition.classes)], dim=1)
    marginal = torch.logsumexp(terms + model.condition_frequencies.to(terms).log(), dim=1)
    if known is None:
        return None, marginal
    labels = model.check_condition(known, len(batch))
    assert isinstance(labels, Tensor)
    return terms.gather(1, labels.to(terms.device)[:, None])[:, 0], marginal


def _log_mean_exp(values: Tensor) -> Tensor:
    """log (1/k) sum_j exp(values_j) over the second axis: stable, and -inf where every value is."""
    return torch.logsumexp(values, dim=1) - math.log(values.shape[1])


def _mean(values: Tensor) -> Tensor:
    return values.mean(dim=1)


def byte_lengths(space: Space) -> Tensor | None:
    """UTF-8 bytes of each symbol of a text space, shape (vocab,); None where the space is no text or its symbols are unknown.

    A vocabulary whose first 256 symbols are the characters 0 to 255 is read as raw bytes, one each. The end code counts nothing.
    """
    if not isinstance(space, Tokens) or space.symbols is None:
        return None
    raw = [chr(code) for code in range(256)] == list(space.symbols[:256])
    lengths: list[Any] = [1.0 if raw else float(len(symbol.encode("utf-8", "surrogatepass"))) for symbol in space.symbols]
    if space.end is not None:
        lengths[space.end] = 0.0
    return torch.tensor(lengths, dtype=torch.float64)


def _bytes(space: Space, x: Value, lengths: Tensor | None) -> Tensor:
    if lengths is None or not isinstance(x, Tensor):
        return torch.zeros(len(space.dims(x)), dtype=torch.float64)
    codes = take(x, slice(None))
    assert isinstance(codes, Tensor)
    return lengths[codes.cpu().long()].sum(dim=1)
