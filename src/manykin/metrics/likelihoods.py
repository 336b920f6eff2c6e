"""Likelihood on held-out data: nats, bits per dimension, bits per byte, perplexity, and the gap to a known entropy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manykin.contract import Batch, Density, GenerativeModel
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput, Unsupported
from manykin.metrics.claims import beats_entropy, beats_zero
from manykin.metrics.draws import Drawn, block_rows, default_draws, drawn, log_likelihoods, mixed, normalised, transforms_drawn
from manykin.metrics.estimate import LOG_P, LOG_P_GIVEN_C, Estimate, number
from manykin.metrics.figures import Figure
from manykin.metrics.tally import Tally
from manykin.random import hash_seed
from manykin.spaces import Labels, Space, Tokens, Value, take

__all__ = ["FIGURES", "byte_lengths", "default_draws", "likelihood", "log_likelihoods"]

MARGINAL_CLASSES = 100
STEPS = {"dequantise": "uniform dequantisation", "logit": "logit", "scale": "scaled to [-1, 1]", "standardise": "standardised"}
"""Steps of a transform in the words of :attr:`Estimate.data`; steps that only reshape are left out."""
RESHAPES = ("flatten", "ascolumns")
FIGURES = (
    Figure(
        name="nll",
        title="negative log-likelihood",
        better="lower",
        range="unbounded on both sides for real-valued data, where it depends on the units; at least 0 for discrete data",
        meaning="How many nats it takes on average to say a held-out example with the model: the lower, the more probable the model finds new data.",
        formula=r"-\frac1n \sum_i \log p(x_i); of a bound, \log p(x_i) is replaced by \log \frac1k \sum_j e^{w_{ij}}",
        source="Y. Burda, R. Grosse and R. Salakhutdinov, Importance weighted autoencoders, 2016, equation 8 (bounds); "
        "L. Theis, A. van den Oord and M. Bethge, A note on the evaluation of generative models, 2016, section 3.1 (dequantisation)",
        pitfalls="A bound depends on k, and a worse bound does not mean a worse model. In real units it moves when the units do. A good value does "
        "not mean good samples, nor the reverse. With an estimated log Z it is mostly too good, since such estimates fall short of log Z on average.",
    ),
    Figure(
        name="bits_per_dim",
        title="bits per dimension",
        better="lower",
        range="0 to log2 of the number of levels for a model no worse than uniform; no upper end",
        meaning="How many bits a perfect compressor that believes the model needs for one pixel, column or symbol of held-out data.",
        formula=r"\sum_i -\log_2 P(x_i) / \sum_i d_i, with d_i the dimensions of example i",
        source="L. Theis, A. van den Oord and M. Bethge, A note on the evaluation of generative models, 2016, section 3.1",
        pitfalls="Comparable only on the same data at the same number of levels, after the same lossy steps. Dominated by fine texture and noise. "
        "Negative values are a defect, not a success.",
    ),
    Figure(
        name="bits_per_byte",
        title="bits per byte",
        better="lower",
        range="0 to 8 for a model no worse than uniform bytes; no upper end",
        meaning="How many bits a perfect compressor that believes the model needs for one byte of held-out text; an uncompressed file has 8.",
        formula=r"\sum_i -\log_2 P(x_i) / \sum_i b_i, with b_i the UTF-8 bytes of text i",
        source="L. Gao et al., The Pile: an 800GB dataset of diverse text for language modeling, 2020, section 3.1",
        pitfalls="Comparable across alphabets, unlike bits per symbol; not across sub-word tokenisers, which only bound the likelihood of a text.",
    ),
    Figure(
        name="perplexity",
        title="perplexity",
        better="lower",
        range="1 to the size of the vocabulary for a model no worse than uniform; no upper end",
        meaning="Among how many equally probable symbols the model hesitates on average at each place of a held-out text.",
        formula=r"\exp(\sum_i -\log P(x_i) / \sum_i d_i), with d_i the symbols of text i and its end",
        source="F. Jelinek, R. L. Mercer, L. R. Bahl and J. K. Baker, Perplexity: a measure of the difficulty of speech recognition tasks, 1977",
        pitfalls="Depends on the alphabet: values of different vocabularies say nothing about each other. Use bits per byte across them.",
    ),
    Figure(
        name="kl_gap",
        title="gap to the known entropy",
        better="lower",
        range="0 for the true law, unbounded above; below 0 only by the noise of the held-out sample",
        meaning="The nats that the model loses against the law that the data were drawn from: 0 cannot be beaten.",
        formula=r"-\frac1n \sum_i \log p(x_i) - H, an estimate of KL(data || model)",
        source="T. M. Cover and J. A. Thomas, Elements of information theory, 2nd edition, 2006, theorem 2.6.3",
        pitfalls="Only for data whose law is known. Of a bound it includes the looseness of the bound. Clearly below 0 the density does not "
        "integrate to one.",
        ideal=0.0,
    ),
)


@torch.no_grad()
def likelihood(
    model: GenerativeModel,
    rows: Rows,
    *,
    k: int | None = None,
    seed: int = 0,
    entropy: float | None = None,
    log_normaliser: Estimate | float | None = None,
    lossy: Sequence[str] = (),
) -> list[Estimate]:
    r"""Minus the mean log-likelihood of ``rows`` in data space, lower is better, in constant memory.

    - ``nll``: nats per example. Where :attr:`Density.noisy` holds of a lower bound, each example's value is the log-mean-exp of k draws,
      :math:`\log \frac1k \sum_j e^{w_j}` with :math:`E[e^{w_j}] \le p(x)`: a bound that tightens with k (Burda, Grosse and Salakhutdinov,
      Importance weighted autoencoders, 2016, equation 8 and theorem 1), whether the draws are latents or dequantisations. Draws of a noisy estimate
      of log p are averaged instead. Any k is allowed: memory does not grow with it, time does. The note tells how loose the bound still is where
      that shows: half the relative variance of the mean weight (Nowozin, Debiasing evidence approximations, 2018, proposition 1), called a least
      value where more than one row in a hundred rests on fewer than ten effective draws.
    - ``bits_per_dim`` where the space is discrete: total bits over total :meth:`Space.dims`.
    - ``perplexity`` for texts: exp of the nats per symbol, the end of a text counted as a symbol; standard error by the delta method.
    - ``bits_per_byte`` for texts whose symbols are known: total bits over the UTF-8 bytes of the text (ends cost bits and are no bytes).
    - ``kl_gap`` where the data's entropy H is known: nll - H, an estimate of KL(data || model) or of a bound on it.
    - For a model conditional on labels the above are of log p(x | c); ``marginal_nll`` and its kin are of log p(x), the sum over classes.

    A value that no density can reach is noted as impossible: below the data's entropy, fewer than 0 bits per dimension, or probabilities of distinct
    rows of discrete data that sum to more than one. Standard errors are over examples and include the noise of the draws.

    Args:
        model: a fitted model with a normalised density, or an unnormalised one with its ``log_normaliser``.
        rows: held-out examples with their conditions.
        k: draws an example; None: :func:`default_draws`.
        seed: of the draws; see :func:`log_likelihoods` for what it fixes.
        entropy: the data's known differential entropy in nats.
        log_normaliser: log Z of an unnormalised, unconditional model, in nats: log p(x) = log_prob(x) - log Z. Its standard error is added to that
            over examples. Strength is then ``estimate``, unless the normaliser is an exact :class:`Estimate` and the model draws nothing.
        lossy: what was done to the data beforehand and cannot be undone, for :attr:`Estimate.data`.

    Raises:
        NoDensity: for an implicit model.
        Unsupported: for an unnormalised model without a normaliser, or conditional with one.
        InvalidInput: for k < 1, no rows, rows that do not fit the model, or a normaliser that is not finite or not needed.
    """
    density, constant = _usable(model, log_normaliser)
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise InvalidInput(f"k = {k!r} draws are not possible; expected an integer of at least 1, or none.")
    if len(rows) == 0:
        raise InvalidInput("there are no rows to evaluate on (0 examples); expected at least one held-out example.")
    draws = (k or default_draws(model, rows)) if density.noisy else 1
    exact = density.strength == "exact"
    own, marginal = Tally(model.space.discrete and model.condition is None, exact), Tally(model.space.discrete, exact)
    symbol_bytes = byte_lengths(model.space)
    start = 0
    for batch in rows.batches(block_rows(model)):
        sizes = torch.stack([model.space.dims(batch.x).cpu(), _bytes(model.space, batch.x, symbol_bytes)], dim=1)
        given, summed = _own_and_marginal(model, batch, draws, hash_seed(seed, "likelihood", start))
        for tally, found in ((own, given), (marginal, summed)):
            if found is not None:
                tally.add(found, sizes, batch.x, constant.value)
        start += len(batch)
    data = _done_to_data(model, density, draws, lossy)
    told = _Told(model.space, _strength(density, constant), f"k={draws}" if density.noisy else "", constant, data, density)
    estimates = told.estimates(own, "", LOG_P if model.condition is None else LOG_P_GIVEN_C, entropy if model.condition is None else None)
    return estimates + told.estimates(marginal, "marginal_", LOG_P, entropy)


@dataclass(frozen=True)
class _Normaliser:
    """log Z with its standard error, and whose it is."""

    value: float = 0.0
    stderr: float = 0.0
    strength: str = "exact"
    note: str = ""


@dataclass(frozen=True)
class _Told:
    """What all estimates of one model share."""

    space: Space
    strength: str
    note: str
    normaliser: _Normaliser
    data: str
    density: Density

    def estimates(self, tally: Tally, prefix: str, quantity: str, entropy: float | None) -> list[Estimate]:
        """Every figure of one tally; none where it holds no rows."""
        if tally.n == 0:
            return []
        forced, reason = tally.verdict()
        found = []
        for name, unit, (value, stderr), remark in self._figures(tally, entropy):
            rest = f"{reason}; mean over the other {tally.moments.n}: {number(value, stderr)}" if reason and tally.moments.n else reason
            upper = "an upper bound on log p: the model is at most that good" if self.density.bias == "upper" else ""
            remarks = "; ".join(part for part in (self.note, self.normaliser.note, upper, rest, "" if reason else remark) if part)
            shown = (value, stderr) if forced is None else (_exp(forced) if name == "perplexity" else forced, None)
            found.append(Estimate(prefix + name, *shown, unit, self.strength, tally.n, remarks, quantity, None, self.data))
        return found

    def _figures(self, tally: Tally, entropy: float | None) -> list[tuple[str, str, tuple[float, float | None], str]]:
        """``(name, unit, (value, stderr), remark)`` of every figure that the space allows."""
        moments, bit = tally.moments, 1 / math.log(2)
        nats = self._widened(moments.mean(0), 1.0)
        mass = "" if tally.mass is None else tally.mass.note()
        found = [("nll", "nats", nats, "; ".join(filter(None, [tally.loose(nats[1]), mass])))]
        ratio = self._widened(moments.ratio(0, 1), moments.mean(1)[0])
        if self.space.discrete:
            bits = _scale(ratio, bit)
            found.append(("bits_per_dim", "bits/dim", bits, beats_zero(*bits, self.strength)))
        if isinstance(self.space, Tokens):
            value = _exp(ratio[0])
            found.append(("perplexity", "per symbol", _scale((1.0, ratio[1]), value), ""))
        if not math.isnan(moments.ratio(0, 2)[0]):
            found.append(("bits_per_byte", "bits/byte", _scale(self._widened(moments.ratio(0, 2), moments.mean(2)[0]), bit), ""))
        if entropy is not None:
            gap = (nats[0] - entropy, nats[1])
            found.append(("kl_gap", "nats", gap, beats_entropy(*gap, entropy, self.strength)))
        return found

    def _widened(self, pair: tuple[float, float | None], per: float) -> tuple[float, float | None]:
        """A mean over examples with the standard error of log Z, which all examples share: each has ``per`` units."""
        return pair[0], None if pair[1] is None else math.hypot(pair[1], self.normaliser.stderr / per)


def _scale(pair: tuple[float, float | None], factor: float) -> tuple[float, float | None]:
    return pair[0] * factor, None if pair[1] is None else pair[1] * factor


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf if value == value else math.nan


def _usable(model: GenerativeModel, log_normaliser: Estimate | float | None) -> tuple[Density, _Normaliser]:
    """The density and the constant to take off, after the refusals that :func:`likelihood` promises."""
    name, density = type(model).__name__, model.density
    if log_normaliser is None or density is None:
        return normalised(model), _Normaliser()
    if density.normalised:
        raise InvalidInput(f"a log_normaliser was given, but {name} is normalised already; leave it out.")
    if model.condition is not None:
        raise Unsupported(f"{name} is conditional, so its normaliser differs by condition; one log_normaliser cannot serve. Compare its samples.")
    if isinstance(log_normaliser, Estimate):
        own = _Normaliser(log_normaliser.value, log_normaliser.stderr or 0.0, log_normaliser.strength)
        whose = f"{log_normaliser.name}: {str(log_normaliser).replace('; ', ', ')}"
    else:
        own, whose = _Normaliser(float(log_normaliser), 0.0, "estimate"), f"{number(float(log_normaliser))}, without a standard error"
    if not math.isfinite(own.value) or not math.isfinite(own.stderr):
        raise InvalidInput(f"log_normaliser = {own.value} ± {own.stderr} is not finite; expected log Z in nats.")
    return density, _Normaliser(own.value, own.stderr, own.strength, f"log Z as given ({whose})")


def _strength(density: Density, normaliser: _Normaliser) -> str:
    """What the numbers are. An upper bound on log p is none in the sense of the ledger, where a bound means at least that good."""
    if density.normalised:
        return "estimate" if density.bias == "upper" else density.strength
    return "exact" if normaliser.strength == "exact" and not density.noisy and density.bias == "none" else "estimate"


def _done_to_data(model: GenerativeModel, density: Density, draws: int, lossy: Sequence[str]) -> str:
    """The sentence of :attr:`Estimate.data`: lossy steps, then the model's own transform, which is undone in the numbers."""
    steps = [STEPS.get(step, step) for step in model.transform.describe() if step not in RESHAPES]
    parts = [f"lossy: {', '.join(lossy)}" if lossy else "", ", ".join(steps)]
    if density.noisy and not model.transform.exact:
        times = transforms_drawn(model, draws)
        parts.append(f"{times} draw{'s' if times > 1 else ''}")
    return "; ".join(part for part in parts if part) or "as given"


def _own_and_marginal(model: GenerativeModel, batch: Batch, draws: int, seed: int) -> tuple[Drawn | None, Drawn | None]:
    """``(log p(x | c) or log p(x), marginal log p(x))``, each of n examples or None."""
    known = batch.condition
    if not isinstance(model.condition, Labels) or model.condition.classes > MARGINAL_CLASSES:
        return drawn(model, batch.x, None if model.condition is None else known, draws, seed), None
    parts = [drawn(model, batch.x, torch.tensor([c]), draws, seed) for c in range(model.condition.classes)]
    marginal = mixed(parts, model.condition_frequencies.to(parts[0].values).log())
    if known is None:
        return None, marginal
    labels = model.check_condition(known, len(batch))
    assert isinstance(labels, Tensor)

    def chosen(columns: list[Tensor]) -> Tensor:
        stacked = torch.stack(columns, dim=1)
        return stacked.gather(1, labels.to(stacked.device)[:, None])[:, 0]

    variances = [part.variance for part in parts if part.variance is not None]
    own = Drawn(chosen([part.values for part in parts]), chosen(variances) if variances else None, parts[0].count)
    return own, marginal


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
