"""Langevin and Hamiltonian kernels on targets whose answers are known."""

import math

import pytest
import torch

from manykin.errors import InvalidInput, ManykinWarning
from manykin.mcmc.chains import walk
from manykin.mcmc.hmc import HMC, HMCKernel, leapfrog
from manykin.mcmc.independence import IndependenceKernel
from manykin.mcmc.langevin import BEST_LANGEVIN, Langevin, LangevinKernel, adapted
from manykin.mcmc.points import look

COVER = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)


def tilted(x):
    """A correlated normal in two entries."""
    rest = x - MEAN
    return 0.5 * (rest @ torch.linalg.inv(COVER) * rest).sum(1)


def unit(x):
    return 0.5 * x.flatten(1).square().sum(1)


def well(x):
    """Two wells at -1 and 1, four nats deep."""
    return 4 * (x.square() - 1).square().sum(1)


def start(n, d=2):
    return torch.zeros(n, d, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("kernel", [LangevinKernel(tilted, 0.5), HMCKernel(tilted, 0.35, 6)], ids=lambda each: type(each).__name__)
def test_exact_kernels_reach_a_correlated_normal(kernel):
    ends = kernel.run(start(6000), 80)
    assert torch.allclose(ends.state.mean(0), MEAN, atol=0.05)
    assert torch.allclose(torch.cov(ends.state.T), COVER, rtol=0.1)
    assert 0.3 < float(ends.accepted.mean()) <= 1


@pytest.mark.parametrize("step", [0.3, 0.8, 1.2])
def test_unadjusted_chains_have_the_variance_that_theory_says(step):
    ends = LangevinKernel(unit, step, metropolis=False).run(torch.randn(8000, 3, dtype=torch.float64), 200)
    assert float(ends.state.var()) == pytest.approx(1 / (1 - step**2 / 4), rel=0.04)
    assert (ends.accepted == 1).all()


@pytest.mark.parametrize("step", [0.3, 0.8, 1.2])
def test_metropolis_removes_the_bias(step):
    ends = LangevinKernel(unit, step).run(torch.randn(8000, 3, dtype=torch.float64), 100)
    assert float(ends.state.var()) == pytest.approx(1, rel=0.04)


def test_temperature_scales_the_variance():
    ends = LangevinKernel(unit, 0.4, temperature=0.25).run(torch.randn(8000, 2, dtype=torch.float64), 200)
    assert float(ends.state.var()) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    "kernel", [LangevinKernel(well, 0.3), HMCKernel(well, 0.2, 5), LangevinKernel(well, 0.3, clip=2.0)], ids=["langevin", "hmc", "clipped"]
)
def test_double_well_keeps_its_shares_and_its_detailed_balance(kernel):
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    density = torch.softmax(-well(x[:, None]), 0)
    begin = x[torch.multinomial(density, 40_000, replacement=True)][:, None]
    ends = kernel.run(begin, 20).state
    for low, high in ((-2.0, -1.0), (-1.0, 0.0), (-0.3, 0.3), (0.0, 1.0)):
        expected = float(density[(x > low) & (x < high)].sum())
        share = float(((ends > low) & (ends < high)).double().mean())
        assert abs(share - expected) < 4.5 * math.sqrt(expected / len(ends))
    forth = ((begin < -0.8) & (ends > -0.4)).sum() - ((begin > -0.4) & (ends < -0.8)).sum()
    assert abs(float(forth)) < 4.5 * math.sqrt(float(((begin < -0.8) & (ends > -0.4)).sum() * 2) + 1)


def test_leaps_join_modes_that_steps_cannot():
    def far(x):
        return -torch.logsumexp(torch.stack([-50 * (x[:, 0] - 2).square(), math.log(3) - 50 * (x[:, 0] + 2).square()]), 0)

    begin = torch.full((4000, 1), 2.0, dtype=torch.float64)
    kernel, leap = LangevinKernel(far, 0.1), IndependenceKernel(far)
    assert float((walk(kernel, leap, begin, 100, 0).state < 0).double().mean()) == 0
    assert float((walk(kernel, leap, begin, 120, 1).state < 0).double().mean()) == pytest.approx(0.75, abs=0.04)


def test_leaps_keep_the_temperature_of_their_sampler():
    cold = Langevin(steps=100, leap_every=1, temperature=0.25)
    ends = cold.walk(unit, torch.randn(8000, 2, dtype=torch.float64), 0.4)
    assert float(ends.state.var()) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("sampler, looks", [(Langevin(steps=10, leap_every=5), 13), (HMC(steps=4, leap_every=2, leapfrog=3), 15)])
def test_points_are_carried_across_leaps(sampler, looks):
    seen = []

    def counted(x):
        seen.append(len(x))
        return unit(x)

    sampler.walk(counted, start(8), 0.3)
    assert len(seen) == looks


def test_leapfrog_runs_backwards_and_nearly_keeps_the_energy():
    here, momentum = look(well, torch.randn(50, 3, dtype=torch.float64)), torch.randn(50, 3, dtype=torch.float64)
    there, after = leapfrog(well, here, momentum, torch.tensor(0.01), 50)
    drift = there.energy + 0.5 * after.square().sum(1) - here.energy - 0.5 * momentum.square().sum(1)
    assert float(drift.abs().median()) < 0.01
    back, turned = leapfrog(well, there, -after, torch.tensor(0.01), 50)
    assert torch.allclose(back.state, here.state, atol=1e-9)
    assert torch.allclose(turned, -momentum, atol=1e-9)


def test_a_step_is_a_run_of_one_and_leaves_its_input_alone():
    x = torch.randn(6, 2, dtype=torch.float64)
    kept = x.clone()
    for kernel in (LangevinKernel(tilted, 0.4), HMCKernel(tilted, 0.3)):
        torch.manual_seed(1)
        once = kernel.step(x).state
        torch.manual_seed(1)
        assert torch.equal(once, kernel.run(x, 1).state)
        assert torch.equal(x, kept)
        assert not once.requires_grad


def test_chains_give_no_gradient_to_parameters():
    weight = torch.tensor(2.0, requires_grad=True)
    ends = LangevinKernel(lambda x: weight * unit(x), 0.3).run(start(4).float(), 5).state
    assert weight.grad is None
    assert weight.requires_grad
    assert not ends.requires_grad


def test_proposals_without_a_number_are_refused():
    def wall(x):
        return torch.where(x.abs().amax(1) < 1, unit(x), math.nan)

    for kernel in (LangevinKernel(wall, 0.5), HMCKernel(wall, 0.5)):
        ends = kernel.run(start(500), 50)
        assert (ends.state.abs() < 1).all()
        assert 0 < float(ends.accepted.mean()) < 1


def test_step_size_settles_at_the_wanted_acceptance():
    state, step = torch.randn(400, 20, dtype=torch.float64), torch.tensor(0.05)
    for _ in range(200):
        moved = LangevinKernel(unit, float(step)).run(state, 2)
        state, step = moved.state, adapted(step, moved.accepted, BEST_LANGEVIN, 0.1)
    assert float(LangevinKernel(unit, float(step)).run(state, 50).accepted.mean()) == pytest.approx(BEST_LANGEVIN, abs=0.03)


@pytest.mark.parametrize("make", [lambda: LangevinKernel(unit, 0.0), lambda: HMCKernel(unit, -1.0), lambda: LangevinKernel(unit, math.nan)])
def test_step_size_must_be_positive(make):
    with pytest.raises(InvalidInput, match="step_size"):
        make()


def test_other_wrong_options_are_refused():
    for make, named in (
        (lambda: LangevinKernel(unit, 0.1, temperature=0.0), "temperature"),
        (lambda: LangevinKernel(unit, 0.1, clip=-1.0), "clip"),
        (lambda: HMCKernel(unit, 0.1, leapfrog=0), "leapfrog"),
        (lambda: HMCKernel(unit, 0.1, jitter=1.0), "jitter"),
        (lambda: LangevinKernel(unit, 0.1).run(start(2), 0), "0 steps"),
        (lambda: HMCKernel(unit, 0.1).run(start(2), 0), "0 steps"),
        (lambda: Langevin(steps=0), "steps"),
        (lambda: Langevin(step_size=0.0), "step_size"),
        (lambda: HMC(leapfrog=0), "leapfrog"),
    ):
        with pytest.raises(InvalidInput, match=named):
            make()


def test_diverging_chains_say_so():
    with pytest.raises(InvalidInput, match=r"chains diverged with Langevin and step_size = 3; lower step_size"):
        Langevin(metropolis=False, step_size=3.0, leap_every=0).walk(unit, torch.randn(16, 2), 0.1)


def test_chains_that_never_move_are_reported():
    with pytest.warns(ManykinWarning, match="accepted 0.00% of its proposals"):
        Langevin(step_size=50.0, leap_every=0).walk(unit, torch.randn(16, 20), 0.1)
