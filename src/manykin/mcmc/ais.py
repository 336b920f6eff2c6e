"""Annealed importance sampling: the normalising constant of a target, from a path of targets that begins where it is known.

Neal, Annealed importance sampling, 2001; for restricted Boltzmann machines Salakhutdinov and Murray, On the quantitative analysis of deep belief
networks, 2008.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from manykin.errors import InvalidInput, ManykinWarning
from manykin.mcmc.kernel import Kernel, TemperedEnergy

CORNERS = ((0.0, 0.0), (0.05, 0.5), (0.25, 0.9), (1.0, 1.0))
"""(share of the steps, inverse temperature): straight lines between these corners make the path, so that most of the steps are near the target."""


TRUSTED = 0.1
"""Share of the chains that the effective sample size has where an estimate can be trusted."""


@dataclass(frozen=True)
class Path:
    """Targets ``exp(-E(x, beta))`` for beta from 0, where draws are exact and the constant is known, to 1, the target itself.

    Attributes:
        start: n exact draws of the target at beta 0, shape (n, ...).
        log_base: log of the normalising constant at beta 0.
        energy: states and beta to energies (n,).
        kernel: the kernel for a beta, which leaves ``exp(-E(., beta))`` unchanged.
        rise: ``E(x, to) - E(x, from)`` for states, from and to, where that is cheaper than two energies.
    """

    start: Callable[[int], Tensor]
    log_base: float
    energy: TemperedEnergy
    kernel: Callable[[float], Kernel]
    rise: Callable[[Tensor, float, float], Tensor] | None = None

    def increase(self, state: Tensor, before: float, after: float) -> Tensor:
        """``E(x, after) - E(x, before)`` of each state, shape (n,)."""
        if self.rise is not None:
            return self.rise(state, before, after)
        return self.energy(state, after) - self.energy(state, before)


@dataclass(frozen=True)
class LogPartition:
    """An estimate of log Z, in nats.

    Attributes:
        value: log of the mean weight. The mean weight is unbiased for Z, so by Jensen's inequality this is too small on average, and likelihoods
            that subtract it are too high on average.
        stderr: its standard error by the delta method.
        lower: log of the mean weight minus three of its standard errors; minus infinity where the weights are too uneven.
        upper: log of the mean weight plus three of its standard errors. Neither bound sees a mode that no chain has found.
        ess: effective sample size of the weights, from 1 to the number of chains (Kong, 1992): below a tenth of the chains do not trust it.
        chains: how many chains; 0 where the value is exact.
        temperatures: how many targets the path had; 0 where the value is exact.
    """

    value: float
    stderr: float
    lower: float
    upper: float
    ess: float
    chains: int
    temperatures: int

    @classmethod
    def exactly(cls, value: float) -> "LogPartition":
        """A constant that was added up, not estimated."""
        return cls(value, 0.0, value, value, math.inf, 0, 0)

    @classmethod
    def of_weights(cls, log_weights: Tensor, log_base: float, temperatures: int) -> "LogPartition":
        """The estimate from log weights (n,) and the constant of the path's beginning."""
        w, n = log_weights.detach().double(), len(log_weights)
        mean = float(torch.logsumexp(w, 0)) - math.log(n)
        relative = (w - mean).exp()
        error = float(relative.std() / math.sqrt(n)) if n > 1 else math.inf
        low = math.log(1 - 3 * error) if 3 * error < 1 else -math.inf
        value = log_base + mean
        return cls(value, error, value + low, value + math.log1p(3 * error), effective_size(w), n, temperatures)

    def __str__(self) -> str:
        if not self.chains:
            return f"{self.value:.2f} (exact)"
        interval = f"{self.lower:.2f} to {self.upper:.2f}"
        return f"{self.value:.2f} ({interval}; effective sample size {self.ess:.0f} of {self.chains}, {self.temperatures} temperatures)"


def effective_size(log_weights: Tensor) -> float:
    """``(sum w)^2 / sum w^2`` of weights given by their logarithms: n for equal ones, 1 where one outweighs all others."""
    w = log_weights.detach().double()
    return float((2 * torch.logsumexp(w, 0) - torch.logsumexp(2 * w, 0)).exp())


def temperatures(count: int) -> Iterator[float]:
    """``count`` inverse temperatures from 0 to 1, in three even parts: a twentieth of the steps to 0.5, a fifth to 0.9, the rest to 1.

    The spacing grows finer towards the target, where its modes part, in the manner of Salakhutdinov and Murray, 2008, section 4.

    Raises:
        InvalidInput: for less than two.
    """
    if count < 2:
        raise InvalidInput(f"{count} temperatures make no path; expected at least 2, and some thousands for a good estimate.")
    for step in range(count):
        share = step / (count - 1)
        (left, low), (right, high) = next(pair for pair in pairwise(CORNERS) if share <= pair[1][0])
        yield low + (share - left) / (right - left) * (high - low)


@torch.no_grad()
def annealed(path: Path, chains: int, count: int) -> tuple[Tensor, Tensor]:
    """Chains carried along a path: their last states (chains, ...) and log importance weights (chains,), float64.

    ``log w = sum_k E(x_k, beta_k) - E(x_k, beta_k+1)``, where x_k is drawn at beta_k; ``exp(log_base) * mean(w)`` is unbiased for Z. Each
    target but the first costs one step of its kernel.

    Raises:
        InvalidInput: for less than one chain or two temperatures.
    """
    if chains < 1:
        raise InvalidInput(f"{chains} chains are not possible; expected at least 1.")
    state = path.start(chains)
    weights = torch.zeros(chains, dtype=torch.float64, device=state.device)
    before: float | None = None
    for beta in temperatures(count):
        if before is not None:
            weights -= path.increase(state, before, beta).double()
            if beta < 1:
                state = path.kernel(beta).step(state).state
        before = beta
    return path.kernel(1.0).step(state).state, weights


def log_partition(path: Path, chains: int = 100, count: int = 1000) -> LogPartition:
    """Estimate the log of the normalising constant at the end of a path."""
    return LogPartition.of_weights(annealed(path, chains, count)[1], path.log_base, count)


def warn_of_poor_weights(found: Sequence[LogPartition], remedy: str) -> None:
    """One warning where the weights of an estimate are so uneven that it cannot be trusted.

    Args:
        found: estimates, of which the poorest is named; exact ones are never poor.
        remedy: what to do, in the words of the caller's options.
    """
    poor = [each for each in found if each.chains and each.ess < TRUSTED * each.chains]
    if poor:
        worst = min(poor, key=lambda each: each.ess)
        warnings.warn(
            f"the estimate of log Z is unreliable: effective sample size {worst.ess:.1f} of {worst.chains} chains, so likelihoods are too high; "
            f"{remedy}.", ManykinWarning, stacklevel=3,
        )  # fmt: skip


def require_two(temperatures: int, chains: int) -> None:
    """Refuse numbers of temperatures or chains from which no estimate with an error can be made.

    Raises:
        InvalidInput: with both numbers.
    """
    if min(temperatures, chains) < 2:
        raise InvalidInput(f"{temperatures} temperatures and {chains} chains give no estimate with an error; expected at least 2 of each.")
