"""The likelihood of a denoiser by its probability-flow ODE."""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from manykin.diffusion.denoiser import Denoiser
from manykin.diffusion.solvers import velocity
from manykin.errors import InvalidInput
from manykin.random import seeded


def flow_log_prob(
    denoiser: Denoiser, x: Tensor, *, steps: int = 24, trace: Literal["exact", "hutchinson"] = "exact", differentiable: bool = False
) -> Tensor:  # fmt: skip
    r"""log p(x) in nats, shape (n,): the log density of the noise that x is carried to, plus the integral of the divergence on the way.

    .. math:: \log p(x) = d \log \alpha_0 + \log p_1(x_1) + \int_{t_0}^{t_1} \nabla \cdot v(x_t, t) \, dt,
        \quad \dot x = v(x, t), \quad x_{t_0} = \alpha_0 x

    (Chen et al., Neural ordinary differential equations, 2018, equation 8; Song et al., Score-based generative modeling through stochastic
    differential equations, 2021, equation 39), from the schedule's first trained time to its last, by Runge-Kutta's fourth-order method with
    steps that are even in the square root of time. What the noise of the first time, a thousandth of the data's scale, hides stays hidden.
    ``exact``: the divergence from one backward pass an entry; ``hutchinson``: from one random direction of signs, kept during the whole solve,
    which is unbiased for log p (Grathwohl et al., FFJORD, 2019, equation 8).

    Args:
        denoiser: asked four times a step.
        x: points, shape (n, ...).
        steps: of the integrator; the error falls with their fourth power for a smooth denoiser, slower for networks (:func:`flow_error`).
        trace: how the divergence is computed.
        differentiable: whether the result may be differentiated by x.
    """
    schedule = denoiser.schedule
    times = torch.linspace(schedule.first**0.5, schedule.last**0.5, steps + 1, dtype=torch.float64) ** 2
    times[0], times[-1] = schedule.first, schedule.last
    shrunk = float(schedule.alpha(times[0]))
    x = shrunk * x
    direction = None if trace == "exact" else torch.randint(0, 2, x.shape, device=x.device).to(x.dtype) * 2 - 1
    total = torch.full((len(x),), x[0].numel() * math.log(shrunk), dtype=torch.float64, device=x.device)

    def slope(points: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return _divergence(denoiser, points, t, direction, differentiable)

    for t, s in pairwise(times):
        h, middle = float(s - t), 0.5 * (t + s)
        k1, d1 = slope(x, t)
        k2, d2 = slope(x + 0.5 * h * k1, middle)
        k3, d3 = slope(x + 0.5 * h * k2, middle)
        k4, d4 = slope(x + h * k3, s)
        x = x + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)
        total = total + (h / 6) * (d1 + 2 * d2 + 2 * d3 + d4).double()
    variance = float(schedule.alpha(times[-1]) ** 2 + schedule.sigma(times[-1]) ** 2)
    points = x.flatten(1).double()
    return total - 0.5 * (points.square().sum(dim=1) / variance + points.shape[1] * math.log(2 * math.pi * variance))


def flow_error(denoiser: Denoiser, x: Tensor, *, steps: int = 24, trace: Literal["exact", "hutchinson"] = "exact") -> Tensor:
    """How far the steps of the integrator carry :func:`flow_log_prob` off, in nats, shape (n,): its difference to half as many steps.

    An estimate, not a bound. Of a smooth denoiser the error is a fifteenth of it (Richardson's extrapolation at order four). It is not divided here:
    a network that knows the time by waves finer than the steps does not come near order four, and then the difference is about the error itself, to
    a factor of three where it was tried on toys. Costs half as much again as the value, and the value.

    Args:
        denoiser: as above.
        x: points, shape (n, ...).
        steps: at least 2.
        trace: as above; both values take the same random direction.

    Raises:
        InvalidInput: for fewer than two steps.
    """
    if steps < 2:
        raise InvalidInput(f"steps = {steps} cannot be halved; expected at least 2 (of a model: ode_steps).")
    seed = int(torch.randint(2**31, ()))
    values = []
    for count in (steps, steps // 2):
        with seeded(seed):
            values.append(flow_log_prob(denoiser, x, steps=count, trace=trace))
    return (values[0] - values[1]).abs()


def _divergence(denoiser: Denoiser, x: Tensor, t: Tensor, direction: Tensor | None, differentiable: bool) -> tuple[Tensor, Tensor]:
    """The velocity and its divergence, shapes of x and (n,)."""
    with torch.enable_grad():
        leaf = x if differentiable and x.requires_grad else x.detach().requires_grad_()
        v = velocity(denoiser, leaf, t)
        flat = v.flatten(1)
        if direction is not None:
            (grad,) = torch.autograd.grad(v, leaf, direction, create_graph=differentiable, retain_graph=differentiable)
            found = (grad * direction).flatten(1).sum(dim=1)
        else:
            units = torch.eye(flat.shape[1], dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x), -1)
            (rows,) = torch.autograd.grad(flat, leaf, units, create_graph=differentiable, is_grads_batched=True)
            found = rows.flatten(2).diagonal(dim1=0, dim2=2).sum(dim=1)
    return (v, found) if differentiable else (v.detach(), found.detach())
