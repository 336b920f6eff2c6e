"""Schedules, denoisers, grids, solvers, guidance, inpainting and likelihoods, against the exact denoiser of a Gaussian mixture."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from manykin.diffusion import (
    DDIM,
    SCHEDULES,
    Ancestral,
    DPMSolver,
    Euler,
    GaussianMixtureDenoiser,
    Guess,
    Guided,
    Heun,
    Known,
    NetworkDenoiser,
    Rectified,
    flow_error,
    flow_log_prob,
    grid,
    solve,
)
from manykin.errors import InvalidInput
from manykin.nn import TimedMLP, UNet

NAMES = sorted(SCHEDULES)
SOLVERS = (Heun, DPMSolver, DDIM, Euler, Ancestral)
DETERMINISTIC = (Heun, DPMSolver, DDIM, Euler)
SPACINGS = ("uniform", "quadratic", "log-snr")


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def times_of(schedule, n=41):
    return torch.linspace(schedule.first, schedule.last, n, dtype=torch.float64)


def mixture(schedule):
    """Two tilted normals with a total second moment near one."""
    means = double([[0.8, -0.6], [-0.7, 0.5]])
    covariances = double([[[0.3, 0.12], [0.12, 0.2]], [[0.2, -0.1], [-0.1, 0.4]]])
    return GaussianMixtureDenoiser(double([0.4, 0.6]), means, covariances, schedule)


def moments(denoiser):
    mean = denoiser.weights @ denoiser.means
    second = torch.einsum("k,kij->ij", denoiser.weights, denoiser.covariances + denoiser.means[:, :, None] * denoiser.means[:, None])
    return mean, second - mean[:, None] * mean


def quiet_noise(n=4096):
    """Standard normal points whose first two moments are exact, so that a sampler's own error shows."""
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.cat([noise, -noise])
    return noise @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(noise.T, correction=0)).T)


class Counted:
    """A denoiser that writes down when it is asked."""

    def __init__(self, denoiser):
        self.denoiser, self.schedule, self.asked = denoiser, denoiser.schedule, []

    def __call__(self, x, t):
        self.asked.append(float(t[0]))
        return self.denoiser(x, t)


@pytest.mark.parametrize("name", NAMES)
class TestSchedules:
    def test_signal_falls_and_noise_rises(self, name):
        schedule = SCHEDULES[name]()
        t = times_of(schedule)
        assert (schedule.alpha(t).diff() < 0).all()
        assert (schedule.sigma(t).diff() > 0).all()
        assert (schedule.log_snr(t).diff() < 0).all()

    def test_ends_are_data_and_noise(self, name):
        schedule = SCHEDULES[name]()
        first, last = double(schedule.first), double(schedule.last)
        assert schedule.alpha(double(0.0)) == 1
        assert schedule.sigma(double(0.0)) == 0
        assert schedule.sigma(first) < 0.02
        assert (schedule.alpha(last) / schedule.sigma(last)) ** 2 < 1e-3
        assert abs(schedule.alpha(last) ** 2 + schedule.sigma(last) ** 2 - 1) < 6e-3

    def test_variance_is_preserved_or_lines_are_straight(self, name):
        schedule = SCHEDULES[name]()
        t = times_of(schedule)
        total = schedule.alpha(t) + schedule.sigma(t) if name == "rectified" else schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
        assert torch.allclose(total, torch.ones_like(t), atol=1e-12)

    def test_slopes_are_derivatives(self, name):
        schedule = SCHEDULES[name]()
        t = times_of(schedule).requires_grad_()
        for part, slope in zip((schedule.alpha, schedule.sigma), schedule.slopes(t.detach()), strict=True):
            assert torch.allclose(torch.autograd.grad(part(t).sum(), t)[0], slope, rtol=1e-9, atol=1e-9)

    def test_time_of_inverts_log_snr(self, name):
        schedule = SCHEDULES[name]()
        t = times_of(schedule)
        expected = 2 * torch.log(schedule.alpha(t) / schedule.sigma(t))
        assert torch.allclose(schedule.log_snr(t), expected, rtol=1e-9, atol=1e-9)
        assert torch.allclose(schedule.time_of(schedule.log_snr(t)), t, atol=1e-10)

    def test_float32_is_precise_at_the_first_time(self, name):
        schedule = SCHEDULES[name]()
        first = torch.tensor([schedule.first])
        assert torch.allclose(schedule.sigma(first).double(), schedule.sigma(first.double()), rtol=1e-4)


class Fixed(nn.Module):
    """A network that answers with a given tensor and remembers what it saw."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.seen = answer, None

    def forward(self, x, t, context=None):
        self.seen = x
        return self.answer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "velocity"])
class TestPredictions:
    def test_guess_recovers_both_parts(self, name, prediction):
        schedule = SCHEDULES[name]()
        t = times_of(schedule, 30)
        x0, eps = torch.randn(2, 30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        slopes = [part[:, None] for part in schedule.slopes(t)]
        target = {"epsilon": eps, "x0": x0, "v": alpha * eps - sigma * x0, "velocity": slopes[0] * x0 + slopes[1] * eps}[prediction]
        network = Fixed(target)
        denoiser = NetworkDenoiser(network, schedule, prediction)
        guess = denoiser(alpha * x0 + sigma * eps, t)
        assert torch.allclose(guess.x0, x0, atol=1e-7)
        assert torch.allclose(guess.eps, eps, atol=1e-7)
        assert torch.allclose(network.seen, (alpha * x0 + sigma * eps) / (alpha**2 + sigma**2).sqrt())
        assert float(denoiser.loss(x0, t, eps).max()) < 1e-20

    def test_loss_is_the_mean_square_of_each_example(self, name, prediction):
        schedule = SCHEDULES[name]()
        t = times_of(schedule, 5)
        x0, eps = torch.randn(2, 5, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        zero = NetworkDenoiser(Fixed(torch.zeros_like(x0)), schedule, prediction)
        one = NetworkDenoiser(Fixed(torch.ones_like(x0)), schedule, prediction)
        losses = zero.loss(x0, t, eps)
        assert losses.shape == (5,)
        parts = {"epsilon": eps, "x0": x0}
        if prediction in parts:
            assert torch.allclose(losses, parts[prediction].square().flatten(1).mean(1))
        assert not torch.allclose(losses, one.loss(x0, t, eps))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 20, 2500])
def test_grid_falls_within_the_trained_times(name, spacing, steps):
    schedule = SCHEDULES[name]()
    times = grid(schedule, steps, spacing)
    assert times.shape == (steps + 1,)
    assert times[-1] == 0
    assert abs(float(times[0]) - schedule.last) < 1e-9
    assert float(times[-2]) >= schedule.first
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("steps", [0, -3, True, 2.0])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(InvalidInput, match="expected an integer"):
        grid(Rectified(), steps)


def test_zero_steps_are_refused_as_an_option():
    with pytest.raises(InvalidInput, match="num_inference_steps = 0"):
        Heun(num_inference_steps=0)


STEPS = {Heun: 25, DPMSolver: 40, DDIM: 300, Euler: 300, Ancestral: 250}
"""Steps after which moments are right to 2 %."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SOLVERS)
def test_solver_reproduces_the_moments(name, kind):
    denoiser = mixture(SCHEDULES[name]())
    torch.manual_seed(0)
    x = solve(kind(num_inference_steps=STEPS[kind]), denoiser, quiet_noise())
    mean, covariance = moments(denoiser)
    scale = covariance.diagonal().sqrt()
    noise = 3 / math.sqrt(len(x)) if kind is Ancestral else 0.0
    assert ((x.mean(0) - mean).abs() < (0.02 + noise) * scale).all()
    assert ((torch.cov(x.T) - covariance).abs() < (0.02 + 1.5 * noise) * scale[:, None] * scale).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_order_of_convergence(name, kind):
    """The error against a fine solution falls with the number of steps to the power that the solver promises (regression of logarithms)."""
    denoiser, noise = mixture(SCHEDULES[name]()), quiet_noise(32)
    spacing = "log-snr" if kind is DPMSolver else kind().spacing
    exact = solve(kind(num_inference_steps=4096 // kind.order**2, spacing=spacing), denoiser, noise)
    counts = double([32, 64, 128, 256])
    errors = torch.stack([(solve(kind(num_inference_steps=int(n), spacing=spacing), denoiser, noise) - exact).square().mean().sqrt() for n in counts])
    slope = torch.linalg.lstsq(torch.stack([counts.log(), torch.ones(4, dtype=torch.float64)], dim=1), errors.log()[:, None]).solution[0]
    assert abs(-float(slope) - kind.order) < 0.35, f"order {-float(slope):.2f}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SOLVERS)
def test_evaluations_are_counted_and_within_the_trained_times(name, kind):
    counted = Counted(mixture(SCHEDULES[name]()))
    solve(kind(num_inference_steps=12), counted, quiet_noise(8))
    assert len(counted.asked) == (23 if kind is Heun else 12)
    assert min(counted.asked) >= counted.schedule.first
    assert max(counted.asked) <= counted.schedule.last + 1e-12


@pytest.mark.parametrize("kind", SOLVERS)
def test_last_step_adds_no_noise(kind):
    denoiser = mixture(SCHEDULES["cosine"]())
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        ends.append(solve(kind(num_inference_steps=1), denoiser, quiet_noise(8)))
    assert torch.equal(*ends)


def test_ddim_with_full_noise_is_the_ancestral_sampler():
    denoiser, noise = mixture(SCHEDULES["cosine"]()), quiet_noise(64)
    torch.manual_seed(0)
    ancestral = solve(Ancestral(num_inference_steps=20), denoiser, noise)
    torch.manual_seed(0)
    full = solve(DDIM(num_inference_steps=20, eta=1.0), denoiser, noise)
    assert torch.allclose(ancestral, full, atol=1e-9)
    assert not torch.allclose(full, solve(DDIM(num_inference_steps=20), denoiser, noise), atol=1e-2)


def test_ancestral_mean_is_the_posterior_mean():
    """With the truth as guess, many transitions from t to s have the mean and variance of q(x_s | x_t, x0)."""
    schedule = SCHEDULES["cosine"]()
    t, s, x0, xt = double(0.6), double(0.4), 0.7, 0.2

    class Oracle:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x, time):
            return Guess(torch.full_like(x, x0), (x - schedule.alpha(t) * x0) / schedule.sigma(t))

    from manykin.diffusion.solvers import State

    torch.manual_seed(0)
    drawn = Ancestral().step(State(torch.full((200_000, 1), xt, dtype=torch.float64)), t, s, Oracle()).x
    ratio = schedule.alpha(t) / schedule.alpha(s)
    step = schedule.sigma(t) ** 2 - ratio**2 * schedule.sigma(s) ** 2
    variance = 1 / (1 / schedule.sigma(s) ** 2 + ratio**2 / step)
    mean = variance * (schedule.alpha(s) * x0 / schedule.sigma(s) ** 2 + ratio * xt / step)
    assert abs(float(drawn.mean() - mean)) < 5 * float(variance.sqrt()) / math.sqrt(200_000)
    assert abs(float(drawn.var() / variance) - 1) < 0.02


def test_guidance_is_linear_between_none_and_own():
    schedule = SCHEDULES["cosine"]()
    own, without = mixture(schedule), GaussianMixtureDenoiser(double([1.0]), double([[0.0, 0.0]]), torch.eye(2, dtype=torch.float64)[None], schedule)
    x, t = quiet_noise(8), torch.full((16,), 0.5, dtype=torch.float64)
    a, b = own(x, t), without(x, t)
    for scale in (0.0, 1.0, 3.0):
        guess = Guided(own, without, scale)(x, t)
        assert torch.allclose(guess.x0, b.x0 + scale * (a.x0 - b.x0))
        assert torch.allclose(schedule.alpha(t)[:, None] * guess.x0 + schedule.sigma(t)[:, None] * guess.eps, x)


def test_guidance_asks_once_where_once_is_enough():
    own, without = Counted(mixture(Rectified())), Counted(mixture(Rectified()))
    for scale in (1, 0):
        Guided(own, without, scale)(quiet_noise(8), torch.full((16,), 0.5, dtype=torch.float64))
    assert (len(own.asked), len(without.asked)) == (1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_by_the_flow_is_that_of_the_mixture(name):
    denoiser = mixture(SCHEDULES[name]())
    x = quiet_noise(64)
    exact = denoiser.log_prob(x, double(0.0))
    errors = [float((flow_log_prob(denoiser, x, steps=steps) - exact).abs().max()) for steps in (4, 8, 16, 32)]
    assert all(after < 0.5 * before or after < 1e-2 for before, after in pairwise(errors)), errors
    assert errors[-1] < 1e-2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [12, 17, 24])
def test_the_integrators_error_is_told_from_half_its_steps(name, steps):
    denoiser, x = mixture(SCHEDULES[name]()), quiet_noise(64)
    told, true = flow_error(denoiser, x, steps=steps), (flow_log_prob(denoiser, x, steps=steps) - flow_log_prob(denoiser, x, steps=400)).abs()
    assert told.shape == (len(x),)
    assert 8 < float(told.mean() / true.mean()) < 30


def test_the_integrators_error_holds_one_random_direction():
    denoiser, x = mixture(SCHEDULES["cosine"]()), quiet_noise(64)
    torch.manual_seed(0)
    first, again = (flow_error(denoiser, x, steps=24, trace="hutchinson") for _ in range(2))
    assert float(first.max()) < 0.1
    assert not torch.equal(first, again)
    with pytest.raises(InvalidInput, match="steps = 1 cannot be halved"):
        flow_error(denoiser, x, steps=1)


def test_hutchinson_is_unbiased_and_has_one_direction_a_solve():
    denoiser = mixture(SCHEDULES["cosine"]())
    x = double([[0.3, -0.4]]).expand(4000, 2)
    torch.manual_seed(0)
    values = flow_log_prob(denoiser, x, steps=12, trace="hutchinson")
    exact = float(denoiser.log_prob(x[:1], double(0.0)))
    assert abs(float(values.mean()) - exact) < 5 * float(values.std()) / math.sqrt(len(values)) + 2e-3
    assert 1 < len(set(values.round(decimals=6).tolist())) <= 4


def test_log_prob_is_differentiable():
    denoiser = mixture(SCHEDULES["cosine"]())
    x = quiet_noise(4).requires_grad_()
    slope = torch.autograd.grad(flow_log_prob(denoiser, x, steps=16, differentiable=True).sum(), x)[0]
    exact = torch.autograd.grad(denoiser.log_prob(x, double(0.0)).sum(), x)[0]
    assert torch.allclose(slope, exact, atol=2e-2)


@pytest.mark.parametrize("name", NAMES)
def test_inpainting_approaches_the_conditional_of_a_gaussian(name):
    rho, given, n = 0.8, 1.2, 3000
    covariance, spread = double([[[1.0, rho], [rho, 1.0]]]), math.sqrt(1 - rho**2)
    denoiser = GaussianMixtureDenoiser(double([1.0]), double([[0.0, 0.0]]), covariance, SCHEDULES[name]())
    truth, mask = double([[given, 99.0]]).expand(n, 2), torch.tensor([[True, False]]).expand(n, 2)
    gaps = []
    for repeats in (1, 4, 16):
        torch.manual_seed(0)
        counted = Counted(denoiser)
        filled = Known(counted, truth, mask, repeats).solve(12, torch.randn(n, 2, dtype=torch.float64))
        assert torch.equal(filled[:, 0], truth[:, 0])
        assert min(counted.asked) >= counted.schedule.first
        assert max(counted.asked) <= counted.schedule.last + 1e-12
        gaps.append(abs(float(filled[:, 1].mean()) - rho * given) / spread)
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.3
    assert abs(float(filled[:, 1].std()) / spread - 1) < 0.1


class TestUNet:
    def test_networks_without_a_width_are_refused(self):
        with pytest.raises(InvalidInput, match=r"widths = \(\)"):
            UNet(1, ())
        with pytest.raises(InvalidInput, match=r"hidden = \(\)"):
            TimedMLP(2, ())

    @pytest.mark.parametrize("size", [(5, 7), (8, 8), (4, 4), (28, 28)])
    @pytest.mark.parametrize("patch", [1, 2])
    def test_pictures_of_any_size_keep_their_shape(self, size, patch):
        net = UNet(2, (8, 12, 16), blocks=2, context=3, patch=patch)
        x, t = torch.randn(3, 2, *size), torch.rand(3)
        assert net(x, t, torch.randn(3, 3)).shape == x.shape

    def test_every_parameter_learns_and_every_pixel_counts(self):
        torch.manual_seed(0)
        net = UNet(1, (8, 8), blocks=1, context=2)
        for parameter in net.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        x = torch.randn(2, 1, 5, 7, requires_grad=True)
        out = net(x, torch.rand(2), torch.randn(2, 2))
        out.square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
        slope = torch.autograd.grad(net(x, torch.rand(2), torch.randn(2, 2))[0, 0, 0, 0], x)[0]
        assert (slope[0] != 0).all()
        assert (slope[1] == 0).all()

    def test_dropout_sleeps_in_evaluation(self):
        net = UNet(1, (8, 8), dropout=0.5).eval()
        for parameter in net.parameters():
            parameter.data += 0.05
        x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
        assert torch.equal(net(x, t), net(x, t))
        assert not torch.equal(net.train()(x, t), net(x, t))
