"""Denoisers around denoisers: classifier-free guidance, and what is known of the answer."""

from itertools import pairwise

import torch
from torch import Tensor

from manykin.diffusion.denoiser import Denoiser, Guess
from manykin.diffusion.grids import grid
from manykin.diffusion.solvers import Heun, State


class Guided:
    """Classifier-free guidance: ``x0 = x0_without + scale (x0_with - x0_without)``, and the noise alike.

    Ho and Salimans, Classifier-free diffusion guidance, 2022, equation 6 with scale = 1 + w. Scale 1 is the conditional model, 0 the unconditional
    one. Above 1 samples are more typical of their condition and less varied, and no longer follow the model's density. Two evaluations a guess.
    """

    def __init__(self, with_condition: Denoiser, without: Denoiser, scale: float) -> None:
        self.with_condition, self.without, self.scale, self.schedule = with_condition, without, scale, with_condition.schedule

    def __call__(self, x: Tensor, t: Tensor) -> Guess:
        """The guided guess."""
        if self.scale == 1:
            return self.with_condition(x, t)
        base = self.without(x, t)
        if self.scale == 0:
            return base
        own = self.with_condition(x, t)
        return Guess(torch.lerp(base.x0, own.x0, self.scale), torch.lerp(base.eps, own.eps, self.scale))


class Known:
    """Inpainting: the denoiser of points of which some entries are known.

    Known entries of each guess are the truth. :meth:`solve` takes each step ``repeats`` times, putting the step's noise back in between and drawing
    the noise of known entries anew, so that what is unknown can adapt to what is known (Lugmayr et al., RePaint, 2022, algorithm 1, with a step
    of the probability-flow ODE in the place of the ancestral one: Xu et al., Restart sampling, 2023, equation 3). An approximation that gets better
    with ``repeats`` for a perfect denoiser; for a learned one few steps with several repeats are better than many, because each repeat adds its
    error. For two normal entries of correlation 0.8, 16 repeats of 12 steps bring the mean of one given
    the other to within a third of its standard deviation.

    Args:
        denoiser: of whole points.
        x0: the truth (n, ...); what it holds at unknown entries does not matter.
        mask: which entries are known, of x0's shape.
        repeats: how often each step is taken, two evaluations each time.
    """

    def __init__(self, denoiser: Denoiser, x0: Tensor, mask: Tensor, repeats: int = 6) -> None:
        self.denoiser, self.x0, self.mask, self.repeats, self.schedule = denoiser, x0, mask, repeats, denoiser.schedule

    def __call__(self, x: Tensor, t: Tensor) -> Guess:
        """The guess, with known entries in their place."""
        guess = self.denoiser(x, t)
        alpha, sigma = (part(t).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1)) for part in (self.schedule.alpha, self.schedule.sigma))
        x0 = torch.where(self.mask, self.x0, guess.x0)
        return Guess(x0, torch.where(self.mask, (x - alpha * self.x0) / sigma, guess.eps))

    def solve(self, steps: int, noise: Tensor) -> Tensor:
        """Walk from noise to completed points in so many steps."""
        solver = Heun(num_inference_steps=steps)
        times = grid(self.schedule, steps)
        x = self._renew(solver.init(noise, self.schedule).x, times[0])
        for t, s in pairwise(times[:-1]):
            ratio = float(self.schedule.alpha(t) / self.schedule.alpha(s))
            variance = max(float(self.schedule.sigma(t)) ** 2 - (ratio * float(self.schedule.sigma(s))) ** 2, 0.0)
            for again in range(self.repeats):
                if again:
                    x = self._renew(ratio * x + variance**0.5 * torch.randn_like(x), t)
                x = self._renew(solver.step(State(x), t, s, self).x, s)
        return solver.finish(State(x), times[-2], self)

    def _renew(self, x: Tensor, t: Tensor) -> Tensor:
        """Known entries drawn anew given the truth."""
        fresh = float(self.schedule.alpha(t)) * self.x0 + float(self.schedule.sigma(t)) * torch.randn_like(x)
        return torch.where(self.mask, fresh, x)
