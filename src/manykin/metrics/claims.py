"""What a single number claims, what two numbers prove of two models, and which claims are impossible."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from manykin.metrics.estimate import FLOOR, SAMPLES, Estimate, number
from manykin.metrics.judge import figure

MARGIN = 2.0
"""Combined standard errors below which two numbers are not told apart."""
IMPOSSIBLE = 4.0
"""Standard errors beyond a limit that no density can pass, from which on a claim is flagged."""
Claim = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Key:
    """What two estimates must share to be ranked against each other. ``data`` counts for metrics of samples only; "" everywhere: no estimate."""

    quantity: str = ""
    strength: str = ""
    unit: str = ""
    sampler: str | None = None
    data: str = ""

    @classmethod
    def of(cls, estimate: Estimate | None) -> "Key":
        """The key of an estimate. What was done to the data before a likelihood is part of the model, that before a distance part of the metric."""
        if estimate is None:
            return cls()
        data = estimate.data if estimate.quantity == SAMPLES else ""
        return cls(estimate.quantity, estimate.strength, estimate.unit, estimate.sampler, data)


def compare_claims(a: Estimate, b: Estimate) -> Claim:
    r"""What two numbers prove of two models: whether that of ``a`` is better or worse than that of ``b``, or neither.

    For a likelihood (lower is better), an exact value is the truth up to its standard error, and a bound is on one side of it: the model is at
    least as good as its bound says. Hence, beyond two combined standard errors,

    - exact against exact: the smaller is better;
    - a bound that beats an exact value proves that its model is better;
    - a bound that is worse than an exact value proves nothing, and neither does one bound against another;
    - an estimate (on neither side for sure) and an unnormalised value prove nothing, and log p(x) is never held against log p(x | c);
    - an exact value that is infinite is worse than any finite exact value or bound; an undefined one, or one of minus infinity, proves nothing.

    Metrics of samples of one name, sampler and data are compared in their figure's direction beyond two combined standard errors.

    The errors are combined as if independent. On the same held-out rows they are mostly positively correlated, so this errs towards "undecided".
    Nothing is corrected for the number of comparisons made.
    """
    if (_measured(a), a.unit, a.quantity) != (_measured(b), b.unit, b.quantity) or _wild(a) or _wild(b):
        return "undecided"
    if a.quantity == SAMPLES:
        told = figure(a.name)
        if Key.of(a) != Key.of(b) or told is None:
            return "undecided"
        loss_a, loss_b = loss(a), loss(b)
        return "better" if _clearly(loss_a, a, loss_b, b) else "worse" if _clearly(loss_b, b, loss_a, a) else "undecided"
    if a.strength in ("exact", "bound") and b.strength == "exact" and _clearly(a.value, a, b.value, b):
        return "better"
    if b.strength in ("exact", "bound") and a.strength == "exact" and _clearly(b.value, b, a.value, a):
        return "worse"
    return "undecided"


def _measured(estimate: Estimate) -> str:
    """The name, where the marginal likelihood of a conditional model counts as what it is: a likelihood of log p(x)."""
    return estimate.name.removeprefix("marginal_")


def _wild(estimate: Estimate) -> bool:
    """Whether a value is undefined, or claims a density without bound."""
    return math.isnan(estimate.value) or (estimate.quantity != SAMPLES and estimate.value == -math.inf)


def flags(metrics: Iterable[Estimate]) -> tuple[str, ...]:
    """Why a model's claims are impossible, one line each; empty for claims that a density can make.

    - A gap below zero to the data's known entropy, by more than four standard errors: no density and no lower bound on one beats it.
    - Negative bits per dimension of discrete data: a probability above one.
    - Whatever was found an example at a time: probabilities of distinct rows that sum to more than one.
    """
    known = list(metrics)
    by_name = {(each.name, each.quantity): each for each in known}
    found = []
    for each in known:
        if each.name.endswith("kl_gap"):
            nll = by_name.get((each.name.replace("kl_gap", "nll"), each.quantity))
            found.append(beats_entropy(each.value, each.stderr, None if nll is None else nll.value - each.value, each.strength))
        elif each.name.endswith("bits_per_dim"):
            found.append(beats_zero(each.value, each.stderr, each.strength))
        found += [part for part in each.note.split("; ") if part.startswith("impossible: distinct")]
    return tuple(dict.fromkeys(text for text in found if text))


def beats_entropy(gap: float, stderr: float | None, entropy: float | None, strength: str) -> str:
    """The flag of nll - entropy, empty where the gap is possible.

    The margin is four standard errors and 1e-4 of the entropy, which covers rounding and a toy's numerical entropy.
    """
    slack = IMPOSSIBLE * (stderr or 0.0) + 1e-4 * (1 + abs(entropy or 0.0))
    if not gap < -slack:
        return ""
    by = f"{number(gap, stderr)} nats from the best possible"
    if strength == "estimate":
        return f"impossible: {by}, better than the data's entropy allows, so the estimate of the density is biased or does not integrate to one"
    return f"impossible: {by}, better than the data's entropy allows, so the density does not integrate to one"


def beats_zero(bits: float, stderr: float | None, strength: str) -> str:
    """The flag of bits per dimension of discrete data, empty where they are possible: a probability is at most one.

    An exact value needs no margin but rounding, since every example alone obeys the limit; others have four standard errors.
    """
    slack = 1e-9 + (0.0 if strength == "exact" else IMPOSSIBLE * (stderr or 0.0))
    return f"impossible: {number(bits, stderr)} bits/dim of discrete data is below 0, so probabilities exceed one" if bits < -slack else ""


def loss(estimate: Estimate) -> float:
    """The value as something to be small."""
    if estimate.quantity != SAMPLES:
        return estimate.value
    told = figure(estimate.name.removesuffix(FLOOR))
    if told is None or told.better in ("lower", "none"):
        return estimate.value
    return -estimate.value if told.better == "higher" else abs(estimate.value - (told.ideal or 0.0))


def margin(a: Estimate, b: Estimate) -> float:
    """The difference below which two estimates are not told apart; an unknown standard error counts nothing."""
    return MARGIN * math.hypot(a.stderr or 0.0, b.stderr or 0.0)


def _clearly(small: float, a: Estimate, large: float, b: Estimate) -> bool:
    """Whether the loss of a is below that of b beyond the margin; an infinite loss is above any finite one."""
    return small < large and (large - small > margin(a, b) or math.isinf(large - small))
