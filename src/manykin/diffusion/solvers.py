"""Solvers: from noise to data in a number of steps, exchangeable values whose state is explicit."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from manykin.config import option
from manykin.contract import Sampler
from manykin.diffusion.denoiser import Denoiser, Guess
from manykin.diffusion.grids import grid
from manykin.diffusion.schedule import Schedule


@dataclass(frozen=True)
class State:
    """Where a walk is: the points, and what a solver remembers of its last step (the guess and the log-SNR then)."""

    x: Tensor
    guess: Guess | None = None
    log_snr: float | None = None


@dataclass(frozen=True)
class Solver(Sampler):
    """Base of the solvers. Fields have the names that the ecosystem uses.

    ``guidance_scale``: 1 is the conditional model as it is, 0 the unconditional one, above 1 exaggerates the condition.
    """

    num_inference_steps: int = option(50, "steps from noise to data", ge=1)
    guidance_scale: float = option(1.0, "how strongly a condition is exaggerated; 1 is the model as it is", ge=0)
    spacing: Literal["uniform", "log-snr", "quadratic"] = option("uniform", "where the steps are placed")

    order: ClassVar[int] = 1

    def init(self, noise: Tensor, schedule: Schedule) -> State:
        """The state at the last time: noise of the schedule's size there (for data of unit variance)."""
        last = torch.tensor(schedule.last, dtype=torch.float64)
        spread = (schedule.alpha(last) ** 2 + schedule.sigma(last) ** 2).sqrt()
        return State(noise * float(spread))

    def step(self, state: State, t: Tensor, s: Tensor, denoiser: Denoiser) -> State:
        """From time t to the earlier time s > 0."""
        raise NotImplementedError

    def finish(self, state: State, t: Tensor, denoiser: Denoiser) -> Tensor:
        """From the last trained time to data: the guess, without noise."""
        return _ask(denoiser, state.x, t).x0


@dataclass(frozen=True)
class Ancestral(Solver):
    """Draw from ``q(x_s | x_t, x0)`` with the guess in the place of x0: the sampler of the original model.

    Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020, equations 6, 7 and 11, for any schedule (Kingma et al., Variational
    diffusion models, 2021, equation 25). One evaluation a step; wants many steps.
    """

    num_inference_steps: int = option(250, "steps from noise to data", ge=1)

    def step(self, state: State, t: Tensor, s: Tensor, denoiser: Denoiser) -> State:
        guess = _ask(denoiser, state.x, t)
        alpha, _, sigma_s, sigma_t, variance = _transition(denoiser.schedule, t, s)
        mean = (alpha * sigma_s**2 / sigma_t**2) * state.x + float(denoiser.schedule.alpha(s)) * (variance / sigma_t**2) * guess.x0
        return State(mean + (variance**0.5 * sigma_s / sigma_t) * torch.randn_like(state.x))


@dataclass(frozen=True)
class DDIM(Solver):
    """``x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c noise`` with c = eta times the ancestral deviation; deterministic for eta = 0.

    Song, Meng and Ermon, Denoising diffusion implicit models, 2021, equations 12 and 16. One evaluation a step; first order.
    """

    eta: float = option(0.0, "share of the ancestral sampler's noise", ge=0, le=1)

    def step(self, state: State, t: Tensor, s: Tensor, denoiser: Denoiser) -> State:
        guess = _ask(denoiser, state.x, t)
        _, alpha_s, sigma_s, sigma_t, variance = _transition(denoiser.schedule, t, s)
        loud = self.eta * variance**0.5 * sigma_s / sigma_t
        x = alpha_s * guess.x0 + max(sigma_s**2 - loud**2, 0.0) ** 0.5 * guess.eps
        return State(x + loud * torch.randn_like(x) if loud > 0 else x)


@dataclass(frozen=True)
class Euler(Solver):
    """``x_s = x_t + (s - t) dx/dt`` along the probability-flow ODE ``dx/dt = alpha' x0 + sigma' eps``.

    Song et al., Score-based generative modeling through stochastic differential equations, 2021, equation 13. One evaluation a step; first order.
    """

    def step(self, state: State, t: Tensor, s: Tensor, denoiser: Denoiser) -> State:
        return State(state.x + float(s - t) * velocity(denoiser, state.x, t))


@dataclass(frozen=True)
class Heun(Solver):
    """Euler's step, and a second one from its end with the mean of both velocities.

    Karras et al., Elucidating the design space of diffusion-based generative models, 2022, algorithm 1. Two evaluations a step and one in the last:
    2 n - 1 for n steps; second order.
    """

    num_inference_steps: int = option(25, "steps from noise to data", ge=1)
    spacing: Literal["uniform", "log-snr", "quadratic"] = option("quadratic", "where the steps are placed")
    order: ClassVar[int] = 2

    def step(self, state: State, t: Tensor, s: Tensor, denoiser: Denoiser) -> State:
        here = velocity(denoiser, state.x, t)
        there = velocity(denoiser, state.x + float(s - t) * here, s)
        return State(state.x + float(s - t) * 0.5 * (here + there))


@dataclass(frozen=True)
class DPMSolver(Solver):
    """DPM-Solver++(2M): an exponential integrator in log-SNR that reuses the guess of the step before.

    Lu et al., DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models, 2022, algorithm 2. One evaluation a step; second
    order. With ``h`` the step in half log-SNR and r the ratio of the last step to this one,
    ``x_s = (sigma_s / sigma_t) x_t - alpha_s (exp(-h) - 1) ((1 + 1 / (2 r)) x0_t - x0_before / (2 r))``.
    """

    num_inference_steps: int = option(20, "steps from noise to data", ge=1)
    order: ClassVar[int] = 2

    def step(self, state: State, t: Tensor, s: Tensor, denoiser: Denoiser) -> State:
        guess = _ask(denoiser, state.x, t)
        schedule = denoiser.schedule
        here, there = (0.5 * float(schedule.log_snr(time)) for time in (t, s))
        h, mixed = there - here, guess.x0
        if state.guess is not None and state.log_snr is not None:
            r = (here - state.log_snr) / h
            mixed = (1 + 0.5 / r) * guess.x0 - (0.5 / r) * state.guess.x0
        shrink = float(schedule.sigma(s) / schedule.sigma(t))
        x = shrink * state.x - float(schedule.alpha(s)) * float(torch.expm1(torch.tensor(-h, dtype=torch.float64))) * mixed
        return State(x, guess, here)


def solve(solver: Solver, denoiser: Denoiser, noise: Tensor) -> Tensor:
    """Walk from standard normal noise (n, ...) to data along the solver's grid."""
    times = grid(denoiser.schedule, solver.num_inference_steps, solver.spacing)
    state = solver.init(noise, denoiser.schedule)
    for t, s in pairwise(times[:-1]):
        state = solver.step(state, t, s, denoiser)
    return solver.finish(state, times[-2], denoiser)


def velocity(denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """``dx/dt = alpha'(t) x0 + sigma'(t) eps`` of the probability-flow ODE at one time for all points."""
    guess = _ask(denoiser, x, t)
    alpha, sigma = denoiser.schedule.slopes(t)
    return float(alpha) * guess.x0 + float(sigma) * guess.eps


def _ask(denoiser: Denoiser, x: Tensor, t: Tensor) -> Guess:
    return denoiser(x, t.to(x.dtype).to(x.device).expand(len(x)))


def _transition(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[float, float, float, float, float]:
    """alpha_t / alpha_s, alpha_s, sigma_s, sigma_t, and the variance of x_t given x_s."""
    alpha_t, alpha_s, sigma_t, sigma_s = (float(part) for part in (schedule.alpha(t), schedule.alpha(s), schedule.sigma(t), schedule.sigma(s)))
    ratio = alpha_t / alpha_s
    return ratio, alpha_s, sigma_s, sigma_t, max(sigma_t**2 - ratio**2 * sigma_s**2, 0.0)
