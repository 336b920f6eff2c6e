"""What is kept of the log-likelihoods of held-out rows: running moments, counts, and the mass that they add up to."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from manykin.metrics.claims import IMPOSSIBLE
from manykin.metrics.draws import Drawn
from manykin.metrics.moments import Moments
from manykin.spaces import Value, take

MOST_DISTINCT = 100_000
"""Rows whose probabilities are added up in search of a mass above one."""
NEGLIGIBLE = -40.0
"""log-probability of a row that adds nothing to the mass: 1e9 of them weigh 4e-9."""
THIN = 10.0
"""Effective draws below which a bound's looseness is underestimated."""
SHARE_THIN = 0.01
"""Share of such rows from which on that is said."""


class Tally:
    """Moments of (nll, dims, bytes) over the rows of finite likelihood, counts of the others, and what the draws say of themselves.

    ``discrete``: add up the probabilities of distinct rows; ``exact``: without a margin for noise.
    """

    def __init__(self, discrete: bool, exact: bool) -> None:
        self.moments = Moments(3)
        self.n = self.outside = self.unbounded = self.undefined = 0
        self.looseness = 0.0
        self.thin = 0
        self.mass = Mass(exact) if discrete else None

    def add(self, found: Drawn, sizes: Tensor, x: Value, log_normaliser: float = 0.0) -> None:
        """Add a block of rows ``x`` with their (dims, bytes), shape (n, 2)."""
        values = found.values.detach().to("cpu", torch.float64) - log_normaliser
        finite = torch.isfinite(values)
        self.n += len(values)
        self.outside += int((values == -math.inf).sum())
        self.unbounded += int((values == math.inf).sum())
        self.undefined += int(torch.isnan(values).sum())
        self.moments.add(torch.cat([-values[finite, None], sizes[finite]], dim=1))
        variance = None if found.variance is None else found.variance.cpu()
        if variance is not None:
            effective = found.count / (1 + (found.count - 1) * variance[finite])
            self.thin += int((~(effective >= THIN)).sum())
            self.looseness += float(variance[finite].nan_to_num(0.0).sum()) / 2
        if self.mass is not None:
            self.mass.add(values, variance, x)

    def verdict(self) -> tuple[float | None, str]:
        """The value that rows without a finite likelihood force on every mean, and why; None where all rows are finite."""
        if self.undefined:
            return math.nan, f"{self.undefined} of {self.n} rows have an undefined log-likelihood (NaN)"
        if self.outside:
            return math.inf, f"{self.outside} of {self.n} rows outside the support"
        if self.unbounded:
            return -math.inf, f"{self.unbounded} of {self.n} rows have unbounded density"
        return None, ""

    def loose(self, stderr: float | None) -> str:
        """How far a bound is expected to lie from the truth, where that is more than half the standard error over examples or hard to tell.

        Half the relative variance of the mean weight is plugged in; where few draws carry all weight it comes out too small.
        """
        if self.moments.n == 0 or self.looseness == self.thin == 0:
            return ""
        if self.looseness == 0:
            return "looseness unknown, raise k"
        mean, thin = self.looseness / self.moments.n, self.thin > SHARE_THIN * self.moments.n
        return f"{'at least ' if thin else ''}about {mean:.2g} nats loose" if thin or mean > 0.5 * (stderr or 0.0) else ""


@dataclass
class Mass:
    """The probabilities of distinct rows, which sum to one at most. Rows of equal hash count once, so a collision hides mass and makes up none."""

    exact: bool
    seen: set[int] = field(default_factory=set)
    total: float = 0.0
    variance: float = 0.0

    def add(self, values: Tensor, variance: Tensor | None, x: Value) -> None:
        """Add the log-probabilities of rows ``x``, and their relative variances where they are noisy; without those noisy ones are left out."""
        if len(self.seen) >= MOST_DISTINCT or not (self.exact or variance is not None):
            return
        likely = (values > NEGLIGIBLE).nonzero()[:, 0]
        if len(likely) == 0:
            return
        fresh = []
        for index, row in zip(likely.tolist(), _numbers(take(x, likely)).numpy(), strict=True):
            key = hash(row.tobytes())
            if key not in self.seen:
                self.seen.add(key)
                fresh.append(index)
        probabilities = values[fresh].exp()
        self.total += float(probabilities.sum())
        if variance is not None:
            self.variance += float((probabilities.square() * variance[fresh].nan_to_num(math.inf)).nan_to_num(0.0).sum())

    def note(self) -> str:
        """Why the probabilities are impossible; empty where they are not."""
        slack = 1e-6 + (0.0 if self.exact else IMPOSSIBLE * math.sqrt(self.variance))
        return f"impossible: distinct rows have probabilities that sum to {self.total:.4g}, more than 1" if self.total > 1 + slack else ""


def _numbers(x: Value) -> Tensor:
    """Rows as (n, entries) float64, whatever their space."""
    parts = [x] if isinstance(x, Tensor) else [x[name] for name in sorted(x)]
    return torch.cat([part.detach().cpu().double().reshape(len(part), -1) for part in parts], dim=1)
