"""Markov chains on known targets: kernels, annealed importance sampling, diagnostics."""

import itertools
import math

import pytest
import torch

from manykin.errors import InvalidInput, ManykinWarning
from manykin.mcmc import (
    BlockGibbs,
    LogPartition,
    Move,
    Path,
    SiteGibbs,
    acceptance,
    annealed,
    diverged,
    effective_sample_size,
    effective_size,
    log_partition,
    run,
    split_r_hat,
    steps,
    trace,
    warn_of_divergence,
)
from manykin.mcmc.ais import temperatures
from manykin.testing.statistics import chi_square

STATES = torch.tensor(list(itertools.product(range(3), repeat=3)), dtype=torch.float64)


def coupled(x, beta=1.0):
    """A ring of three entries with three values: neighbours like to agree, the first entry likes 2."""
    return -beta * (0.8 * (x == x.roll(1, dims=1)).sum(1) + 0.5 * x[:, 0])


def law(beta=1.0):
    return torch.softmax(-coupled(STATES, beta), 0)


def places(x):
    return (x * torch.tensor([9.0, 3.0, 1.0], dtype=x.dtype)).sum(1).long()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class TestGibbs:
    def test_site_sweeps_leave_an_enumerated_law_unchanged(self):
        kernel = SiteGibbs(coupled, torch.arange(3.0, dtype=torch.float64))
        start = STATES[torch.multinomial(law(), 20_000, replacement=True)]
        moved = kernel.step(start).state
        observed = torch.bincount(places(moved), minlength=27).double()
        assert chi_square(observed, law() * len(moved))[1] > 1e-4

    def test_site_sweeps_reach_it_from_anywhere(self):
        kernel = SiteGibbs(coupled, torch.arange(3.0, dtype=torch.float64))
        moved = run(kernel, torch.zeros(20_000, 3, dtype=torch.float64), 30).state
        assert chi_square(torch.bincount(places(moved), minlength=27).double(), law() * 20_000)[1] > 1e-4

    def test_the_wrong_law_is_noticed(self):
        kernel = SiteGibbs(lambda x: 1.1 * coupled(x), torch.arange(3.0, dtype=torch.float64))
        moved = run(kernel, torch.zeros(20_000, 3, dtype=torch.float64), 30).state
        assert chi_square(torch.bincount(places(moved), minlength=27).double(), law() * 20_000)[1] < 1e-6

    def test_blocks_and_held_entries(self):
        # v and h standard normals with correlation r: given each other normal with mean r times the other.
        r, scale = 0.8, math.sqrt(1 - 0.64)
        kernel = BlockGibbs(lambda v: r * v + scale * torch.randn_like(v), lambda h: r * h + scale * torch.randn_like(h))
        v = run(kernel, torch.full((20_000, 1), 5.0), 40).state
        assert abs(float(v.mean())) < 5 / math.sqrt(20_000)
        assert abs(float(v.var()) - 1) < 5 * math.sqrt(2 / 20_000)
        known = torch.tensor([True, False])
        held = BlockGibbs(lambda v: v, lambda h: h + 1, known.expand(3, 2))
        assert torch.equal(held.step(torch.zeros(3, 2)).state, torch.tensor([0.0, 1.0]).expand(3, 2))

    def test_input_is_left_alone_and_nothing_is_refused(self):
        kernel, x = SiteGibbs(coupled, torch.arange(3.0, dtype=torch.float64)), torch.zeros(5, 3, dtype=torch.float64)
        move = kernel.step(x)
        assert not x.any()
        assert torch.equal(move.accepted, torch.ones(5, dtype=torch.float64))

    def test_bad_calls(self):
        with pytest.raises(InvalidInput, match="at least two values"):
            SiteGibbs(coupled, torch.zeros(1))
        with pytest.raises(InvalidInput, match="0 steps"):
            list(steps(SiteGibbs(coupled, torch.arange(2.0)), torch.zeros(1, 3), 0))


def ring(rise=None):
    kernel = lambda beta: SiteGibbs(lambda x: coupled(x, beta), torch.arange(3.0, dtype=torch.float64))  # noqa: E731
    return Path(lambda n: STATES[torch.randint(27, (n,))], math.log(27), coupled, kernel, rise)


class TestAnnealing:
    exact = float(torch.logsumexp(-coupled(STATES), 0))

    @pytest.mark.parametrize("count", [5, 40, 200])
    def test_finds_the_constant(self, count):
        found = log_partition(ring(), 2000, count)
        assert abs(found.value - self.exact) < 5 * found.stderr + 1e-3
        assert found.lower <= self.exact <= found.upper

    def test_mean_weight_is_unbiased_even_with_two_temperatures(self):
        _, w = annealed(ring(), 200_000, 2)
        relative = (w + math.log(27) - self.exact).exp()
        assert abs(float(relative.mean()) - 1) < 5 * float(relative.std()) / math.sqrt(200_000)
        assert float((w + math.log(27)).mean()) < self.exact

    def test_more_temperatures_even_out_the_weights(self):
        sizes = [log_partition(ring(), 1000, count).ess for count in (3, 30, 300)]
        assert sizes[0] < sizes[1] < sizes[2] <= 1000

    def test_last_states_follow_the_target_by_weight(self):
        state, w = annealed(ring(), 20_000, 30)
        share = torch.zeros(27, dtype=torch.float64).index_add_(0, places(state), torch.softmax(w, 0))
        assert float((share - law()).abs().max()) < 0.015

    def test_wrong_direction_and_forgotten_base_are_seen(self):
        backwards = ring(lambda x, before, after: coupled(x, before) - coupled(x, after))
        assert abs(log_partition(backwards, 500, 100).value - self.exact) > 1
        forgotten = Path(ring().start, 0.0, coupled, ring().kernel)
        assert log_partition(forgotten, 500, 100).value == pytest.approx(self.exact - math.log(27), abs=0.1)

    def test_temperatures_go_from_zero_to_one(self):
        for count in (2, 3, 10, 1000):
            path = list(temperatures(count))
            assert len(path) == count
            assert path[0] == 0
            assert path[-1] == pytest.approx(1)
            assert all(a < b for a, b in itertools.pairwise(path))
        assert sum(beta > 0.9 for beta in temperatures(1000)) > 700

    def test_interval_opens_where_weights_are_uneven(self):
        uneven = LogPartition.of_weights(torch.tensor([0.0, -50.0, -50.0, -50.0]), 1.0, 10)
        assert uneven.lower == -math.inf
        assert uneven.ess == pytest.approx(1)
        assert effective_size(torch.zeros(7)) == pytest.approx(7)
        assert "effective sample size 1 of 4" in str(uneven)
        assert str(LogPartition.exactly(2.0)) == "2.00 (exact)"

    def test_bad_calls(self):
        with pytest.raises(InvalidInput, match="1 temperatures"):
            annealed(ring(), 10, 1)
        with pytest.raises(InvalidInput, match="0 chains"):
            annealed(ring(), 0, 10)


def autoregressive(coefficient, draws=4000, chains=4):
    x = torch.zeros(draws, chains, dtype=torch.float64)
    noise = torch.randn(draws, chains, dtype=torch.float64)
    x[0] = noise[0] / math.sqrt(1 - coefficient**2)
    for t in range(1, draws):
        x[t] = coefficient * x[t - 1] + noise[t]
    return x


class TestDiagnostics:
    @pytest.mark.parametrize("coefficient", [-0.3, 0.0, 0.5, 0.9])
    def test_effective_size_of_autoregressive_chains(self, coefficient):
        expected = 16_000 * (1 - coefficient) / (1 + coefficient)
        assert float(effective_sample_size(autoregressive(coefficient))) == pytest.approx(expected, rel=0.2)

    def test_r_hat_sees_other_means_spreads_and_drifts(self):
        agree = torch.randn(1000, 4, 2, dtype=torch.float64)
        assert (split_r_hat(agree) < 1.01).all()
        assert split_r_hat(agree).shape == (2,)
        apart = agree + torch.tensor([0.0, 0.0, 0.0, 2.0])[None, :, None]
        assert (split_r_hat(apart) > 1.1).all()
        drift = agree + torch.linspace(0, 3, 1000)[:, None, None]
        assert (split_r_hat(drift) > 1.1).all()

    def test_constant_draws_have_no_figure(self):
        assert split_r_hat(torch.ones(10, 2)).isnan()
        assert effective_sample_size(torch.ones(10, 2)).isnan()

    def test_short_draws_are_refused(self):
        for figure in (split_r_hat, effective_sample_size):
            with pytest.raises(InvalidInput, match="at least 4 draws"):
                figure(torch.zeros(3, 2))

    def test_divergence_is_one_warning(self):
        state = torch.tensor([[0.0, 1.0], [math.nan, 0.0], [500.0, 0.0], [math.inf, 1.0]])
        assert diverged(state).tolist() == [False, True, False, True]
        with pytest.warns(ManykinWarning, match=r"3 of 4 Markov chains have diverged.*beyond 100; take smaller steps") as caught:
            assert warn_of_divergence(state, 100.0) == 3
        assert len(caught) == 1
        assert warn_of_divergence(torch.zeros(3, 2)) == 0

    def test_trace_and_acceptance(self):
        kernel = SiteGibbs(coupled, torch.arange(3.0, dtype=torch.float64))
        draws = trace(kernel, torch.zeros(6, 3, dtype=torch.float64), 5, thin=2, warm_up=3, observe=coupled)
        assert draws.shape == (5, 6)
        moves = [Move(torch.zeros(2, 1), torch.tensor([0.0, 1.0])), Move(torch.zeros(2, 1), torch.tensor([1.0, 1.0]))]
        assert acceptance(moves).tolist() == [0.5, 1.0]
        with pytest.raises(InvalidInput, match="no moves"):
            acceptance([])
