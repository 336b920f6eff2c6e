"""What chains say about themselves: whether they agree, how many independent draws they are worth, and whether they have run away.

Draws have shape (draws, chains, ...): one figure comes out for each of the trailing entries.
"""

import math
import warnings

import torch
from torch import Tensor

from manykin.errors import InvalidInput, ManykinWarning
from manykin.mcmc.kernel import Move

LEAST = 4
"""Draws a chain without which nothing can be said."""


def split_r_hat(draws: Tensor) -> Tensor:
    """The potential scale reduction of chains cut in two halves each: 1 where all halves agree, above 1.01 where they do not yet.

    ``sqrt(((m - 1) / m W + B / m) / W)`` with m draws a half, W the mean variance within halves and B m times the variance of their means
    (Gelman et al., Bayesian data analysis, third edition, 2013, section 11.4). Cutting in halves shows a drift that all chains share.

    Returns:
        Shape of the trailing entries; NaN for constant ones.

    Raises:
        InvalidInput: for less than four draws.
    """
    halves = _halves(draws)
    m = len(halves)
    within, between = halves.var(0).mean(0), m * halves.mean(0).var(0)
    return (((m - 1) / m * within + between / m) / within).sqrt()


def effective_sample_size(draws: Tensor) -> Tensor:
    """How many independent draws the mean of these is worth, over all chains together.

    Draws divided by ``1 + 2 sum_t rho_t``, where autocorrelations of all chains (cut in halves) are joined, ``rho_t = 1 - (W - mean_c C_ct) / V``,
    summed in pairs as long as a pair is positive and made non-increasing (Geyer, Practical Markov chain Monte Carlo, 1992, section 3.3; Vehtari
    et al., Rank-normalization, folding, and localization: an improved R-hat, 2021, section 3.2).

    Returns:
        Shape of the trailing entries, at most draws * log10(draws); NaN for constant ones.

    Raises:
        InvalidInput: for less than four draws.
    """
    halves = _halves(draws)
    m, total = len(halves), len(halves) * halves.shape[1]
    covariance = autocovariance(halves)
    within = (covariance[0] * m / (m - 1)).mean(0)
    pooled = (m - 1) / m * within + (halves.mean(0).var(0) if halves.shape[1] > 1 else 0.0)
    rho = 1 - (within - (covariance * m / (m - 1)).mean(1)) / pooled
    rho[0] = 1.0
    pairs = rho[: m - m % 2].reshape(m // 2, 2, *rho.shape[1:]).sum(1)
    alive = (pairs > 0).long().cumprod(0).to(pairs)
    time = (2 * (torch.cummin(pairs, 0).values * alive).sum(0) - 1).clamp_min(1 / math.log10(max(total, 11)))
    return torch.where(pooled > 0, total / time, math.nan)


def autocovariance(draws: Tensor) -> Tensor:
    """Autocovariances (lags, chains, ...) of each chain about its own mean, divided by the number of draws at every lag, by Fourier transform."""
    m = len(draws)
    centred = draws.double() - draws.double().mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * m, dim=0)
    covariance: Tensor = torch.fft.irfft(spectrum.abs().square(), n=2 * m, dim=0)[:m] / m
    return covariance


def acceptance(moves: list[Move]) -> Tensor:
    """Each chain's mean acceptance over some moves, shape (n,).

    Raises:
        InvalidInput: for no moves.
    """
    if not moves:
        raise InvalidInput("there are no moves; expected at least one to find an acceptance.")
    return torch.stack([move.accepted for move in moves]).mean(0)


def diverged(state: Tensor, reach: float = math.inf) -> Tensor:
    """Which chains hold NaN, infinity or an entry beyond ``reach`` in size, boolean of shape (n,)."""
    flat = state.detach().reshape(len(state), -1)
    return ~(flat.isfinite() & (flat.abs() <= reach)).all(dim=1)


def warn_of_divergence(state: Tensor, reach: float = math.inf, remedy: str = "take smaller steps") -> int:
    """One warning where chains have run away, and how many did.

    Args:
        state: states of the chains, (n, ...).
        reach: the largest size of an entry that makes sense.
        remedy: what to do, in the words of the caller's options.
    """
    lost = int(diverged(state, reach).sum())
    if lost:
        limit = "are not finite" if math.isinf(reach) else f"are not finite or beyond {reach:g}"
        warnings.warn(f"{lost} of {len(state)} Markov chains have diverged: their states {limit}; {remedy}.", ManykinWarning, stacklevel=2)
    return lost


def _halves(draws: Tensor) -> Tensor:
    """Chains cut in two: (draws / 2, 2 chains, ...), float64."""
    if draws.dim() < 2 or len(draws) < LEAST:
        raise InvalidInput(f"draws have shape {tuple(draws.shape)}; expected (draws, chains, ...) with at least {LEAST} draws.")
    half = len(draws) // 2
    return torch.cat([draws[:half], draws[-half:]], dim=1).double()
