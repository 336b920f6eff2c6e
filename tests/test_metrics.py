"""Metrics: values with known answers, naive reference implementations, and what the numbers say about themselves."""

import json
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from manykin.config import Config
from manykin.contract import ESTIMATE, EXACT, LOWER_BOUND, UNNORMALISED, Density, GenerativeModel
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput, NoDensity, Unsupported
from manykin.metrics import Case, Estimate, Evaluation, default_draws, energy_distance, judge, likelihood, log_likelihoods, pairs
from manykin.metrics.estimate import number
from manykin.metrics.moments import Moments
from manykin.metrics.numbers import encoder
from manykin.spaces import Column, Image, Labels, Record, Table, Tokens, Vector
from manykin.transforms import Support

LOG_2PI = math.log(2 * math.pi)


class Normal(GenerativeModel):
    """Standard normal columns moved by a shift per class: every number about it is known."""

    shift = 3.0
    scale = 1.0
    declared: Density | None = EXACT

    @property
    def kind(self):
        return self.declared

    @property
    def accepts(self):
        return Support((Vector,), bounded="keep", standardise=False, condition=(Labels, Vector))

    def mean(self, condition):
        return 0.0 if condition is None else (self.shift * condition.double().view(len(condition), -1)[:, :1])

    def _sample(self, n, condition, sampler):
        return self.mean(condition) + self.scale * torch.randn(n, self.model_space.shape[0], dtype=torch.float64)

    def _log_prob(self, z, condition):
        d = z.shape[1]
        return -0.5 * (((z.double() - self.mean(condition)) / self.scale) ** 2).sum(1) - d * (0.5 * LOG_2PI + math.log(self.scale))


class Bound(Normal):
    """log of an unbiased, noisy estimate of the density: exp(s u - s^2 / 2) has mean 1."""

    declared = LOWER_BOUND
    noise = 1.0

    def _log_prob(self, z, condition):
        exact = super()._log_prob(z, condition)
        return exact + self.noise * torch.randn(len(z), dtype=torch.float64) - 0.5 * self.noise**2


class Weighed(Bound):
    """The same, with importance weights."""

    def log_weights(self, x, k, condition=None, *, seed=0):
        generator = torch.Generator().manual_seed(seed % 2**31)
        exact = Normal._log_prob(self, x, condition)
        return exact[:, None] + self.noise * torch.randn(len(x), k, generator=generator, dtype=torch.float64) - 0.5 * self.noise**2


class Estimated(Bound):
    """Unbiased in log p: draws are to be averaged."""

    declared = ESTIMATE

    def _log_prob(self, z, condition):
        return Normal._log_prob(self, z, condition) + self.noise * torch.randn(len(z), dtype=torch.float64)


class Boxed(Normal):
    """Uniform on [-1, 1]: minus infinity outside."""

    def _log_prob(self, z, condition):
        return torch.where((z.abs() <= 1).all(1), -z.shape[1] * math.log(2), -math.inf).double()


class Unnormalised(Normal):
    declared = UNNORMALISED


class Implicit(Normal):
    declared = None


class Uniform(GenerativeModel):
    """Every value of a finite space equally probable."""

    def __init__(self, config: Config | None, space, condition=None):
        super().__init__(config, space, condition)
        self.weight = nn.Parameter(torch.zeros(1))

    kind = EXACT  # type: ignore[assignment]

    @property
    def accepts(self):
        return Support((Tokens, Table), missing=True)

    def _sample(self, n, condition, sampler):
        return torch.zeros(n, *self.model_space.shape, dtype=torch.long)

    def _log_prob(self, z, condition):
        levels = self.space.vocab if isinstance(self.space, Tokens) else self.space.levels
        return -self.space.dims(z) * math.log(levels)


def normal(n: int, d: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_name(estimates: list[Estimate]) -> dict[str, Estimate]:
    return {estimate.name: estimate for estimate in estimates}


def test_nll_of_a_known_gaussian_within_standard_errors():
    entropy = 3 * 0.5 * (1 + LOG_2PI)
    gaps = []
    for seed in range(20):
        found = by_name(likelihood(Normal(None, Vector(3)), Rows(normal(2000, 3, seed)), entropy=entropy))
        assert found["nll"].strength == "exact"
        assert found["nll"].n == 2000
        gaps.append(found["kl_gap"].value / found["kl_gap"].stderr)
    scores = torch.tensor(gaps)
    assert scores.abs().max() < 4
    assert 0.6 < scores.std() < 1.5


def test_standard_error_is_that_of_the_mean():
    x = normal(500)
    found = likelihood(Normal(None, Vector(2)), Rows(x))[0]
    values = 0.5 * (x**2).sum(1) + LOG_2PI
    assert found.value == pytest.approx(float(values.mean()), abs=1e-12)
    assert found.stderr == pytest.approx(float(values.std()) / math.sqrt(500), rel=1e-12)


def test_chunks_give_the_same_as_the_whole(monkeypatch):
    x = normal(1000) + 1e6
    whole = likelihood(Normal(None, Vector(2)), Rows(x))[0]
    monkeypatch.setattr("manykin.metrics.draws.MAX_CHUNK", 7)
    parts = likelihood(Normal(None, Vector(2)), Rows(x))[0]
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    assert parts.stderr == pytest.approx(whole.stderr, rel=1e-9)


def test_bound_tightens_with_k_and_stays_above_the_exact_value():
    rows, exact = Rows(normal(4000)), likelihood(Normal(None, Vector(2)), Rows(normal(4000)))[0].value
    for kind in (Bound, Weighed):
        values = {k: likelihood(kind(None, Vector(2)), rows, k=k)[0] for k in (1, 4, 64)}
        assert values[1].value > values[4].value > values[64].value
        assert values[1].value == pytest.approx(exact + 0.5, abs=0.07)
        assert values[64].value == pytest.approx(exact + (math.e - 1) / 128, abs=0.012)
        assert "k=64" in values[64].note
        assert "bound, k=64" in str(values[64])


def test_log_mean_exp_over_k_draws_by_hand(monkeypatch):
    model, x = Bound(None, Vector(2)), normal(5)
    monkeypatch.setattr("manykin.metrics.draws.hash_seed", lambda *parts: parts[-1] if isinstance(parts[-1], int) else 0)
    draws = torch.stack([model.log_prob(x, seed=seed) for seed in range(8)])
    expected = -(draws.exp().mean(0).log()).mean()
    assert likelihood(model, Rows(x), k=8)[0].value == pytest.approx(float(expected), abs=1e-12)


def test_draws_of_an_unbiased_estimate_are_averaged():
    rows, exact = Rows(normal(4000)), likelihood(Normal(None, Vector(2)), Rows(normal(4000)))[0].value
    found = likelihood(Estimated(None, Vector(2)), rows, k=16)[0]
    assert found.strength == "estimate"
    assert found.value == pytest.approx(exact, abs=4 / math.sqrt(4000 * 16))


def test_default_draws_depend_on_size_and_kind():
    small, large = Rows(normal(100)), Rows(torch.zeros(200_000, 2, dtype=torch.float64))
    assert default_draws(Normal(None, Vector(2)), small) == 1
    assert default_draws(Bound(None, Vector(2)), large) == 16
    assert default_draws(Bound(None, Vector(2)), small) == 64
    assert default_draws(Weighed(None, Vector(2)), small) == 256


def test_unnormalised_and_implicit_models_are_refused_in_one_line():
    with pytest.raises(Unsupported, match="unnormalised") as refused:
        likelihood(Unnormalised(None, Vector(2)), Rows(normal(10)))
    assert "\n" not in str(refused.value)
    with pytest.raises(NoDensity, match="energy_distance"):
        likelihood(Implicit(None, Vector(2)), Rows(normal(10)))


def test_empty_rows_and_bad_k_are_refused():
    with pytest.raises(InvalidInput, match="k = 0"):
        likelihood(Normal(None, Vector(2)), Rows(normal(10)), k=0)
    with pytest.raises(InvalidInput, match="0 examples"):
        likelihood(Normal(None, Vector(2)), Rows(normal(0)))


def test_rows_outside_the_support_are_null_in_json_with_the_mean_of_the_others():
    x = torch.zeros(100, 2, dtype=torch.float64)
    x[[3, 50]] = 7.0
    found = likelihood(Boxed(None, Vector(2)), Rows(x), entropy=1.0)
    assert [estimate.value for estimate in found] == [math.inf, math.inf]
    data = json.loads(json.dumps(found[0].to_json(), allow_nan=False))
    assert data["value"] is None
    assert data["stderr"] is None
    assert "2 of 100 rows outside the support" in data["note"]
    assert "mean over the other 98: 1.386" in data["note"]
    assert str(found[0]).startswith("infinite nats (exact, 2 of 100")


def test_undefined_likelihood_is_said():
    class Broken(Normal):
        def _log_prob(self, z, condition):
            return torch.full((len(z),), math.nan, dtype=torch.float64)

    found = likelihood(Broken(None, Vector(2)), Rows(normal(10)))[0]
    assert math.isnan(found.value)
    assert "10 of 10 rows" in found.note
    assert found.to_json()["value"] is None


def test_a_model_that_beats_the_entropy_is_flagged():
    class Cheat(Normal):
        def _log_prob(self, z, condition):
            return super()._log_prob(z, condition) + 1.0

    entropy = 1 + LOG_2PI
    assert "impossible" in by_name(likelihood(Cheat(None, Vector(2)), Rows(normal(2000)), entropy=entropy))["kl_gap"].note
    assert by_name(likelihood(Normal(None, Vector(2)), Rows(normal(2000)), entropy=entropy))["kl_gap"].note == ""


def test_bits_per_dim_of_uniform_levels_is_the_logarithm_of_their_number():
    space = Image((1, 2, 3), levels=16)
    x = torch.randint(0, 16, (50, 1, 2, 3), dtype=torch.uint8)
    found = by_name(likelihood(Uniform(None, space), Rows(x)))
    assert found["bits_per_dim"].value == pytest.approx(4.0, abs=1e-12)
    assert found["nll"].value == pytest.approx(6 * math.log(16), abs=1e-12)
    assert found["bits_per_dim"].unit == "bits/dim"


def test_a_real_space_has_no_bits_per_dim():
    assert [estimate.name for estimate in likelihood(Normal(None, Vector(2)), Rows(normal(10)))] == ["nll"]


def test_text_counts_total_bits_over_total_symbols_and_bytes():
    space = Tokens(4, 4, end=3, symbols=("a", "é", "b", ""))
    x = torch.tensor([[0, 3, 3, 3], [1, 1, 0, 3], [3, 3, 3, 3]])
    found = by_name(likelihood(Uniform(None, space), Rows(x)))
    bits = 2.0 * (2 + 4 + 1)
    assert found["bits_per_dim"].value == pytest.approx(2.0)
    assert found["bits_per_byte"].value == pytest.approx(bits / (1 + 5))
    raw = Tokens(256, 3, symbols=tuple(chr(code) for code in range(256)))
    found = by_name(likelihood(Uniform(None, raw), Rows(torch.tensor([[200, 201, 10]]))))
    assert found["bits_per_byte"].value == pytest.approx(8.0)


def test_conditional_models_report_both_quantities():
    labels = torch.arange(2000) % 2
    x = normal(2000) + 3.0 * labels[:, None]
    found = by_name(likelihood(Normal(None, Vector(2), Labels(2)), Rows(x, labels), entropy=5.0))
    assert found["nll"].quantity == "log p(x | c)"
    assert found["marginal_nll"].quantity == "log p(x)"
    given = -0.5 * (normal(2000) ** 2).sum(1) - LOG_2PI
    other = -0.5 * ((x - 3.0 * (1 - labels[:, None])) ** 2).sum(1) - LOG_2PI
    assert found["nll"].value == pytest.approx(-float(given.mean()), abs=1e-10)
    assert found["marginal_nll"].value == pytest.approx(-float((torch.logaddexp(given, other) - math.log(2)).mean()), abs=1e-10)
    assert "kl_gap" not in found
    assert found["marginal_kl_gap"].value == pytest.approx(found["marginal_nll"].value - 5.0)
    assert found["nll"].to_json()["quantity"] == "log p(x | c)"
    assert "quantity" not in found["marginal_nll"].to_json()


def test_conditional_models_on_rows_without_labels_report_the_marginal_only():
    found = by_name(likelihood(Normal(None, Vector(2), Labels(2)), Rows(normal(50))))
    assert set(found) == {"marginal_nll"}


def test_real_conditions_have_no_marginal():
    c = normal(50, 1)
    found = likelihood(Normal(None, Vector(2), Vector(1)), Rows(normal(50), c))
    assert [(estimate.name, estimate.quantity) for estimate in found] == [("nll", "log p(x | c)")]


def test_moments_of_ratios_match_resampling():
    generator = torch.Generator().manual_seed(0)
    bottom = torch.randint(1, 20, (4000,), generator=generator).double()
    top = bottom * 2 + torch.randn(4000, generator=generator, dtype=torch.float64)
    moments = Moments(2)
    for part in torch.stack([top, bottom], 1).split(333):
        moments.add(part)
    value, stderr = moments.ratio(0, 1)
    assert value == pytest.approx(float(top.sum() / bottom.sum()), rel=1e-12)
    picks = torch.randint(0, 4000, (400, 4000), generator=generator)
    resampled = top[picks].sum(1) / bottom[picks].sum(1)
    assert stderr == pytest.approx(float(resampled.std()), rel=0.15)


def naive_energy(x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)
    cross = sum(float((x[i] - y[j]).norm()) for i in range(n) for j in range(m)) / (n * m)
    own_x = sum(float((x[i] - x[j]).norm()) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_y = sum(float((y[i] - y[j]).norm()) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return 2 * cross - own_x - own_y


def naive_variance(x: Tensor, y: Tensor) -> float:
    """Hoeffding's variance of the statistic with kernel -|x - y|, from whole matrices and their doubly centred forms."""
    (n, m), cross = (len(x), len(y)), -torch.cdist(x, y)
    residual = cross - cross.mean(1, keepdim=True) - cross.mean(0, keepdim=True) + cross.mean()
    between = float((residual**2).sum()) / ((n - 1) * (m - 1))
    first, second = 0.0, 4 * between / (n * m)
    for own, other, rest in ((-torch.cdist(x, x), cross, m), (-torch.cdist(y, y), cross.T, n)):
        size = len(own)
        sums = own.sum(1)
        centred = own - sums[:, None] / (size - 2) - sums[None] / (size - 2) + own.sum() / ((size - 1) * (size - 2))
        inside = float((centred.fill_diagonal_(0.0) ** 2).sum()) / (size * (size - 3))
        witness = sums / (size - 2) - other.mean(1)
        first += 4 * (float(witness.var()) - inside / (size - 2) - between / rest) / size
        second += 2 * inside / (size * (size - 1))
    return max(first, 0.0) + second


def test_energy_distance_and_its_error_against_naive_loops(monkeypatch):
    x, y = normal(13, 3, 1), normal(17, 3, 2) + 2.0
    y[4], x[2] = y[3], y[3]
    monkeypatch.setattr("manykin.metrics.pairs.TILE", (5, 4))
    found = energy_distance(x, y)
    assert found.value == pytest.approx(naive_energy(x, y), abs=1e-7)
    assert found.stderr == pytest.approx(math.sqrt(naive_variance(x, y)), rel=1e-6)


def test_fast_products_agree_with_exact_ones(monkeypatch):
    x, y = normal(200, 5, 1) + 1e3, normal(300, 5, 2) + 1e3
    direct = energy_distance(x, y)
    monkeypatch.setattr("manykin.metrics.pairs.SINGLE_WORK", 0.0)
    assert energy_distance(x, y).value == pytest.approx(direct.value, abs=0.01 * direct.stderr)


def test_energy_distance_of_one_law_is_zero_within_its_error():
    scores = []
    for seed in range(60):
        found = energy_distance(normal(150, 4, 2 * seed), normal(200, 4, 2 * seed + 1))
        scores.append(found.value / found.stderr)
    scores = torch.tensor(scores)
    assert scores.abs().max() < 4
    assert scores.mean().abs() < 4 / math.sqrt(60)
    assert 0.3 < scores.std() < 1.3


def test_energy_distance_error_under_equal_laws_is_the_spread_of_its_law():
    found = [energy_distance(normal(100, 2, 2 * seed), normal(100, 2, 2 * seed + 1)) for seed in range(300)]
    spread = float(torch.tensor([estimate.value for estimate in found]).std())
    assert all(estimate.stderr > 0.7 * spread for estimate in found)
    assert sum(estimate.stderr for estimate in found) / 300 < 1.7 * spread
    assert min(estimate.value / estimate.stderr for estimate in found) > -2


def test_energy_distance_of_a_shift_is_positive_and_its_error_honest():
    values = [energy_distance(normal(200, 2, 2 * seed), normal(200, 2, 2 * seed + 1) + 1.0) for seed in range(60)]
    centres = torch.tensor([value.value for value in values])
    errors = torch.tensor([value.stderr for value in values])
    assert all(value.value > 4 * value.stderr for value in values)
    assert 0.75 < float(errors.mean() / centres.std()) < 1.35
    many = energy_distance(normal(4000, 2, 100), normal(4000, 2, 101) + 1.0)
    assert abs(float(centres.mean()) - many.value) < 4 * (float(centres.std()) / math.sqrt(60) + many.stderr)


def test_energy_distance_in_one_dimension_has_a_known_value():
    uniform = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = energy_distance(uniform[:10_000], 1 + uniform[10_000:])
    assert found.value == pytest.approx(2 * 1.0 - 1 / 3 - 1 / 3, abs=4 * found.stderr)


def test_energy_distance_refuses_what_it_cannot_measure():
    with pytest.raises(InvalidInput, match="2 rows"):
        energy_distance(normal(2), normal(10))
    with pytest.raises(InvalidInput, match="entries a row"):
        energy_distance(normal(10, 2), normal(10, 3))
    broken = normal(10)
    broken[4, 1] = math.nan
    with pytest.raises(InvalidInput, match="row 4"):
        energy_distance(broken, normal(10))


def test_large_samples_are_cut_by_the_seed_and_say_so(monkeypatch):
    monkeypatch.setattr("manykin.metrics.energy.checked_rows", partial(pairs.checked_rows, most=100))
    monkeypatch.setattr("manykin.metrics.energy.cut_note", partial(pairs.cut_note, most=100))
    found = energy_distance(normal(300), normal(80, 2, 1), seed=3)
    assert found.n == 100
    assert "100 rows" in found.note
    assert found == energy_distance(normal(300), normal(80, 2, 1), seed=3)


def test_features_of_mixed_tables_are_standardised_indicators_with_missing_marks():
    space = Table((
        Column("income", missing=True),
        Column("kind", "categorical", categories=("a", "b"), missing=True),
        Column("flat"),
    ))  # fmt: skip
    nan = math.nan
    real = torch.tensor([[100.0, 0, 5], [300.0, 1, 5], [nan, 1, 5]], dtype=torch.float64)
    features = encoder(space, real)(real)
    half = 1 / math.sqrt(2)
    expected = torch.tensor([[-half, 0, 1, 0, 0, 0], [half, 0, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0]], dtype=torch.float64)
    assert torch.allclose(features, expected)
    missing = encoder(space, real)(torch.tensor([[0.0, nan, 6.0]], dtype=torch.float64))
    assert missing[0].tolist() == pytest.approx([-math.sqrt(2), 0, 0, 0, 1, 1])


def test_features_of_other_spaces():
    picture = torch.randint(0, 4, (5, 1, 2, 2), dtype=torch.uint8)
    assert encoder(Image((1, 2, 2), 4), picture)(picture).shape == (5, 4)
    assert encoder(Image((1, 2, 2), 4, ordinal=False), picture)(picture).shape == (5, 16)
    text = torch.tensor([[0, 1, 1, 2], [0, 2, 2, 2]])
    frequencies = encoder(Tokens(3, 4, end=2), text)(text)
    assert torch.allclose(frequencies, torch.tensor([[0.25, 0.5, 0.25], [0.5, 0, 0.5]], dtype=torch.float64))
    record = Record({"v": Vector(2), "y": Labels(3)})
    both = {"v": normal(4), "y": torch.tensor([0, 1, 2, 0])}
    assert encoder(record, both)(both).shape == (4, 5)


def judged(model: GenerativeModel, train: Rows, test: Rows, samples: Tensor) -> dict[str, Estimate]:
    return by_name(list(judge(Case(model.space, train, test, samples), ["energy"]).estimates))


def test_samples_of_the_right_and_a_wrong_model():
    train, test = Rows(normal(3000, 2, 1)), Rows(normal(1000, 2, 2))
    right = Normal(None, Vector(2))
    found = judged(right, train, test, right.sample(1000, seed=0))
    assert found["energy_distance"].quantity == "samples"
    assert abs(found["energy_distance"].value) < 4 * found["energy_distance"].stderr
    assert abs(found["energy_distance_floor"].value) < 4 * found["energy_distance_floor"].stderr
    wrong = Normal(None, Vector(2))
    wrong.scale = 2.0
    bad = judged(wrong, train, test, wrong.sample(1000, seed=0))["energy_distance"]
    assert bad.value > 10 * bad.stderr


def test_samples_of_conditional_models():
    labels = torch.arange(600) % 2
    rows = Rows(normal(600) + 3.0 * labels[:, None], labels)
    model = Normal(None, Vector(2), Labels(2))
    found = judged(model, rows, rows, model.sample(300, labels[:300], seed=0))["energy_distance"]
    assert found.value < 4 * found.stderr
    real = Rows(normal(600) + 3.0 * labels[:, None], labels[:, None].double())
    model = Normal(None, Vector(2), Vector(1))
    assert judged(model, real, real, model.sample(300, labels[:300, None].double(), seed=0))["energy_distance"].value < 0.2


def test_too_few_samples_are_a_warning_and_no_number():
    rows = Rows(normal(600))
    found = judge(Case(Vector(2), rows, rows, normal(2)), ["energy"])
    assert found.estimates == ()
    assert found.warnings[0].startswith("energy needs at least 4 rows")
    assert "there are 2" in found.warnings[0]


def test_estimates_print_what_they_are():
    assert str(Estimate("bits_per_dim", 2.31, 0.0101, "bits/dim", "bound", 360, "k=32")) == "2.310 ± 0.010 bits/dim (bound, k=32)"
    assert str(Estimate("nll", 5.0, None, "nats", "exact", 1)) == "5.000 nats (exact)"
    assert number(123456.7, 345.6) == "123457 ± 346"
    assert number(0.0, 0.0) == "0.000 ± 0.000"


def test_evaluations_survive_json():
    evaluation = Evaluation(
        "gaussian", "digits", (Estimate("nll", 1.5, 0.1, "nats", "exact", 10), Estimate("d", 0.1, None, "", "estimate", 3, "", "samples"))
    )
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation
    assert evaluation["nll"].value == 1.5
    with pytest.raises(KeyError, match="nll, d"):
        evaluation["nlll"]
    assert "gaussian on digits" in str(evaluation)
    assert "1.50 ± 0.10 nats (exact)" in str(evaluation)


def test_log_likelihoods_an_example_at_a_time():
    x = normal(200)
    exact = Normal(None, Vector(2)).log_prob(x)
    assert torch.equal(log_likelihoods(Normal(None, Vector(2)), x), exact)
    for kind in (Bound, Weighed, Estimated):
        many = log_likelihoods(kind(None, Vector(2)), x, draws=400)
        assert many.shape == (200,)
        assert float((many - exact).abs().mean()) < 0.1
    with pytest.raises(NoDensity):
        log_likelihoods(Implicit(None, Vector(2)), x)
