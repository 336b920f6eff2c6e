"""The ledger: what may be ranked, what a number proves, which claims are impossible; and likelihoods with known answers."""

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor

from manykin.contract import EXACT, LOWER_BOUND, UNNORMALISED, Batch, Density, GenerativeModel
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput, Unsupported
from manykin.metrics import Estimate, compare_claims, figure, flags, ledger, likelihood, log_likelihoods
from manykin.metrics import draws as drawing
from manykin.metrics.estimate import LOG_P, LOG_P_GIVEN_C, SAMPLES
from manykin.metrics.ledger import Row, likelihood_groups, metric_groups, verdict
from manykin.metrics.likelihoods import FIGURES
from manykin.spaces import Column, Image, Labels, Table, Tokens, Vector
from manykin.testing.broken.laws import CountsAreChances, ForgottenJacobian, UnnormalisedLogits
from manykin.testing.oracles import GaussianOracle, LinearVAE, MarkovOracle, TableOracle
from manykin.testing.oracles.latent import LogisticVAE
from manykin.transforms import Support

LOG_2PI = math.log(2 * math.pi)


def nll(value: float, strength: str = "exact", stderr: float | None = 0.1, quantity: str = LOG_P, **more) -> Estimate:
    return Estimate("nll", value, stderr, "nats", strength, 100, quantity=quantity, **more)


def distance(value: float, sampler: str | None = None, data: str = "pixels", stderr: float = 0.01) -> Estimate:
    return Estimate("energy_distance", value, stderr, "standard units", "estimate", 100, quantity=SAMPLES, sampler=sampler, data=data)


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_name(estimates: list[Estimate]) -> dict[str, Estimate]:
    return {estimate.name: estimate for estimate in estimates}


class Flat(GenerativeModel):
    """Uniform on the range of levels, as a density in model space: exactly log2(levels) bits an entry."""

    bounded = "keep"

    @property
    def kind(self) -> Density:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Vector,), bounded=self.bounded, standardise=False)

    def _sample(self, n, condition, sampler):
        return torch.zeros(n, self.model_space.shape[0], dtype=torch.float64)

    def _log_prob(self, z, condition):
        if self.bounded == "scale":
            return torch.full((len(z),), -z.shape[1] * math.log(2.0), dtype=torch.float64)
        if self.bounded == "logit":
            return (torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)).double().sum(1)
        return torch.full((len(z),), -z.shape[1] * math.log(self.space.columns[0].cardinality), dtype=torch.float64)


class Scaled(Flat):
    bounded = "scale"


class Squashed(Flat):
    bounded = "logit"


class Noisy(Flat):
    """Standard normal columns, through log-weights whose exponentials have mean 1 and relative variance exp(s^2) - 1; keeps a log of its calls."""

    noise = 0.5
    calls: list[tuple[int, int]]

    @property
    def kind(self) -> Density:
        return LOWER_BOUND

    @property
    def accepts(self) -> Support:
        return Support((Vector, Image), bounded="keep", standardise=False)

    def exact(self, x: Tensor) -> Tensor:
        return -0.5 * (x.double().flatten(1) ** 2).sum(1) - 0.5 * LOG_2PI * x[0].numel()

    def _log_prob(self, z, condition):
        return self.exact(z) + self.noise * torch.randn(len(z), dtype=torch.float64) - 0.5 * self.noise**2

    def log_weights(self, x, k, condition=None, *, seed=0):
        self.calls = [*getattr(self, "calls", []), (len(x), k)]
        noise = torch.randn(len(x), k, generator=torch.Generator().manual_seed(seed % 2**31), dtype=torch.float64)
        return self.exact(x)[:, None] + self.noise * noise - 0.5 * self.noise**2


class Energy(Flat):
    """A standard normal without its constant."""

    @property
    def kind(self) -> Density:
        return UNNORMALISED

    def _log_prob(self, z, condition):
        return -0.5 * (z.double() ** 2).sum(1)


# What numbers prove.


@pytest.mark.parametrize(
    ("a", "b", "claim"),
    [
        (nll(1.0), nll(2.0), "better"),
        (nll(2.0), nll(1.0), "worse"),
        (nll(1.0), nll(1.2), "undecided"),
        (nll(1.0, "bound"), nll(2.0), "better"),
        (nll(2.0), nll(1.0, "bound"), "worse"),
        (nll(2.0, "bound"), nll(1.0), "undecided"),
        (nll(1.0), nll(2.0, "bound"), "undecided"),
        (nll(1.0, "bound"), nll(2.0, "bound"), "undecided"),
        (nll(1.0, "estimate"), nll(2.0), "undecided"),
        (nll(1.0, "unnormalised"), nll(2.0), "undecided"),
        (nll(1.0, quantity=LOG_P_GIVEN_C), nll(2.0), "undecided"),
        (nll(1.0, quantity=LOG_P_GIVEN_C), nll(2.0, quantity=LOG_P_GIVEN_C), "better"),
        (nll(math.inf, stderr=None), nll(2.0, "bound"), "worse"),
        (nll(math.inf, "bound", None), nll(2.0), "undecided"),
        (nll(-math.inf, stderr=None), nll(2.0), "undecided"),
        (nll(math.nan), nll(2.0), "undecided"),
        (dataclasses.replace(nll(1.0), name="marginal_nll"), nll(2.0), "better"),
        (dataclasses.replace(nll(1.0), unit="bits/dim"), nll(2.0), "undecided"),
        (distance(0.1), distance(0.2), "better"),
        (distance(0.1), distance(0.12), "undecided"),
        (distance(0.1, sampler="DDIM"), distance(0.2), "undecided"),
        (distance(0.1, data="features"), distance(0.2), "undecided"),
    ],
)  # fmt: skip
def test_claims_are_one_sided(a, b, claim):
    assert compare_claims(a, b) == claim
    assert compare_claims(b, a) == {"better": "worse", "worse": "better", "undecided": "undecided"}[claim]


def test_claims_within_two_combined_standard_errors_are_undecided():
    assert compare_claims(nll(0.0, stderr=0.3), nll(0.99, stderr=0.4)) == "undecided"
    assert compare_claims(nll(0.0, stderr=0.3), nll(1.01, stderr=0.4)) == "better"


# What may be ranked.


def table() -> list[Row]:
    return [
        Row("realnvp", (nll(2.0), distance(0.05))),
        Row("kde", (nll(2.3, stderr=0.2),), "classical"),
        Row("gaussian", (nll(3.0), distance(0.2)), "classical"),
        Row("vae", (nll(1.5, "bound"), distance(0.04))),
        Row("weak-vae", (nll(4.0, "bound"),)),
        Row("diffusion", (nll(1.0, "estimate"), distance(0.01), distance(0.005, "Guided"))),
        Row("class-flow", (nll(0.5, quantity=LOG_P_GIVEN_C),)),
        Row("gan", (distance(0.03),)),
        Row("dcgan", (distance(0.02),)),
    ]


def test_groups_never_mix_what_is_not_comparable():
    groups = likelihood_groups(table())
    assert [[entry.row.model for entry in group.entries] for group in groups] == [
        ["realnvp", "kde", "gaussian"], ["vae", "weak-vae"], ["diffusion"], ["class-flow"], ["dcgan", "gan"],
    ]  # fmt: skip
    for group in groups[:-1]:
        assert {ledger.Key.of(entry.estimate) for entry in group.entries} == {group.key}
    assert [group.sentence.split()[0] for group in groups] == ["Exact", "Bound", "Estimate", "Exact", "No"]
    assert "not comparable with log p(x)" in groups[3].sentence


def test_ties_are_marked_within_two_combined_standard_errors():
    marks = {entry.row.model: entry.mark for group in likelihood_groups(table()) for entry in group.entries}
    assert marks["realnvp"] == "best"
    assert marks["kde"] == "not distinguishable from the best"
    assert marks["gaussian"] == marks["weak-vae"] == ""
    assert marks["diffusion"] == ""


def test_a_conditional_model_with_a_marginal_stands_with_log_p():
    both = Row("mixture", (nll(0.5, quantity=LOG_P_GIVEN_C), dataclasses.replace(nll(1.8), name="marginal_nll")))
    first = likelihood_groups([*table(), both])[0]
    assert first.entries[0].row.model == "mixture"
    assert first.entries[0].estimate.name == "marginal_nll"


def test_samples_of_other_samplers_stand_apart_and_say_so():
    groups = metric_groups(table(), "energy_distance")
    assert [entry.row.model for entry in groups[0].entries] == ["diffusion", "dcgan", "gan", "vae", "realnvp", "gaussian"]
    assert [entry.row.model for entry in groups[1].entries] == ["diffusion"]
    assert "Guided" in groups[1].sentence
    assert "not comparable" in groups[1].sentence
    features = Row("other", (distance(0.001, data="own features"),))
    assert [[entry.row.model for entry in group.entries] for group in metric_groups([table()[0], features], "energy_distance")] == [
        ["realnvp"], ["other"],
    ]  # fmt: skip


def test_values_that_are_not_finite_and_impossible_claims_stand_last_and_are_never_best():
    cheat = Row("cheat", (nll(-9.0), Estimate("kl_gap", -10.0, 0.1, "nats", "exact", 100)))
    group = likelihood_groups([cheat, Row("box", (nll(math.inf, stderr=None),)), *table()[:2]])[0]
    assert [entry.row.model for entry in group.entries] == ["realnvp", "kde", "box", "cheat"]
    assert [entry.mark for entry in group.entries] == ["best", "not distinguishable from the best", "", "impossible"]
    assert "does not integrate to one" in group.entries[-1].flags[0]


def test_units_and_numbers_of_rows_that_differ_are_said():
    bits = Row("bits", (Estimate("bits_per_dim", 1.0, 0.1, "bits/dim", "exact", 100),))
    groups = likelihood_groups([table()[0], bits])
    assert all("not comparable with other units" in group.sentence for group in groups)
    fewer = Row("fewer", (dataclasses.replace(nll(1.0), n=50),))
    assert any("different numbers of rows (50 to 100)" in remark for remark in likelihood_groups([table()[0], fewer])[0].remarks)
    lone = Row("lone", (nll(1.0, stderr=None),))
    assert any("no standard error for lone" in remark for remark in likelihood_groups([table()[0], lone])[0].remarks)


def test_the_verdict_says_who_is_proven_to_beat_the_floor():
    text = verdict(likelihood_groups(table()))
    assert text.startswith("The best classical model is kde at 2.30 ± 0.20 nats (exact): any other model has to beat that.")
    assert "vae beats it too: even a bound" in text
    assert "Undecided: realnvp, weak-vae and diffusion" in text
    assert "class-flow" not in text
    assert verdict(likelihood_groups([table()[0]])) == ""


def test_across_groups_only_proofs_are_said():
    told = ledger.across(likelihood_groups(table()))
    assert told[0].startswith("vae (bound 1.50 ± 0.10) is better than realnvp (exact 2.00 ± 0.10): a bound that beats")
    assert any("diffusion (estimate 1.00 ± 0.10) the numbers decide nothing" in each for each in told)
    worse = ledger.across(likelihood_groups([table()[0], table()[4]]))
    assert worse == ("Between realnvp (exact 2.00 ± 0.10) and weak-vae (bound 4.00 ± 0.10) the numbers decide nothing.",)


def test_the_ledger_is_plain_json():
    data = json.loads(json.dumps(ledger.as_json([*table(), Row("box", (nll(math.inf, stderr=None),))]), allow_nan=False))
    assert data["groups"][0]["entries"][0] == {"model": "realnvp", "value": 2.0, "stderr": 0.1, "mark": "best", "flags": []}
    assert data["groups"][0]["entries"][-1]["value"] is None
    assert data["verdict"].startswith("The best classical model")
    assert data["flags"] == {}


# Impossible claims.


def test_a_density_whose_mass_is_not_one_is_flagged_by_the_entropy():
    x = 1000 * rows(500, 2)
    entropy = 1 + LOG_2PI + 2 * math.log(1000)
    for kind, flagged in ((ForgottenJacobian, True), (GaussianOracle, False)):
        torch.manual_seed(0)
        model = kind(None, Vector(2))
        model.start(lambda: [Batch(x)], Batch(x), 0)
        found = likelihood(model, Rows(x), entropy=entropy)
        assert any("data's entropy" in told for told in flags(found)) is flagged
        assert ("impossible" in by_name(found)["kl_gap"].note) is flagged


def test_a_bound_that_beats_the_entropy_is_flagged_and_a_good_one_is_not():
    entropy, x = 1 + LOG_2PI, Rows(rows(2000, 2))
    model = Noisy(None, Vector(2))
    assert flags(likelihood(model, x, k=64, entropy=entropy)) == ()
    assert len(flags(likelihood(model, x, k=64, entropy=entropy + 0.5))) == 1


def test_probabilities_above_one_are_flagged_below_zero_bits_and_by_their_sum():
    x = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).double().repeat(4, 1)
    labels = torch.arange(len(x)) % 2
    found = likelihood(CountsAreChances(None, Vector(2, levels=3), Labels(2)), Rows(x, labels))
    assert by_name(found)["marginal_bits_per_dim"].value < 0
    told = flags(found)
    assert any("is below 0" in each for each in told)
    assert any(f"sum to {math.exp(4):.4g}, more than 1" in each for each in told)


def test_mass_is_caught_where_bits_are_possible():
    space = Tokens(3, 4)
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    torch.manual_seed(0)
    bad, good = UnnormalisedLogits(None, space), MarkovOracle(None, space)
    assert any("distinct rows" in told for told in flags(likelihood(bad, Rows(x))))
    assert flags(likelihood(good, Rows(x.repeat(3, 1)))) == ()
    assert flags(likelihood(TableOracle(None, Vector(2, levels=3)), Rows(torch.cartesian_prod(*[torch.arange(3.0)] * 2).double()))) == ()


def test_noise_of_a_bound_on_all_rows_of_a_finite_space_is_no_flag():
    space = Table(tuple(Column(name, "integer", levels=2) for name in "abc"))
    x = torch.cartesian_prod(*[torch.arange(2.0)] * 3).double()
    for seed in range(20):
        torch.manual_seed(seed)
        assert flags(likelihood(LogisticVAE(None, space), Rows(x), k=16, seed=seed)) == ()


def test_more_than_one_in_bits_per_dim_is_no_flag_within_noise_but_one_below_zero_is():
    bits = Estimate("bits_per_dim", -0.01, 0.01, "bits/dim", "bound", 100)
    assert flags([bits]) == ()
    assert len(flags([dataclasses.replace(bits, value=-0.05)])) == 1
    assert len(flags([dataclasses.replace(bits, strength="exact")])) == 1


# Known answers.


def test_importance_weights_approach_the_exact_marginal_from_below():
    torch.manual_seed(0)
    model, x = LinearVAE(None, Vector(3)), rows(200, 3)
    exact = model.exact_log_prob(x).detach()
    gaps = {k: exact - log_likelihoods(model, x, draws=k) for k in (1, 16, 256, 5000)}
    means = {k: float(gap.mean()) for k, gap in gaps.items()}
    errors = {k: float(gap.std()) / math.sqrt(len(x)) for k, gap in gaps.items()}
    assert means[1] > means[16] > means[256] > means[5000] - 2 * errors[5000]
    assert all(means[k] > -4 * errors[k] for k in means)
    assert abs(means[5000]) < 0.02 * means[1]


def test_the_looseness_of_a_bound_is_half_its_relative_variance():
    model, x, k = Noisy(None, Vector(2)), rows(4000, 2), 64
    relative = (math.exp(model.noise**2) - 1) / k
    found = drawing.drawn(model, x, None, k, 0)
    spread = float(found.variance.std()) / math.sqrt(len(x))
    assert float(found.variance.mean()) == pytest.approx(relative, abs=4 * spread + 0.05 * relative)
    gap = model.exact(x) - found.values
    assert float(gap.mean()) == pytest.approx(relative / 2, abs=4 * float(gap.std()) / math.sqrt(len(x)))


def test_a_loose_bound_says_how_loose_or_that_it_cannot_be_told():
    model, x = Noisy(None, Vector(2)), torch.zeros(4000, 2, dtype=torch.float64)
    relative = (math.exp(model.noise**2) - 1) / 64
    note = by_name(likelihood(model, Rows(x), k=64))["nll"].note
    assert note.startswith("k=64; about 0.00")
    assert note.endswith(" nats loose")
    assert float(note.split()[2]) == pytest.approx(relative / 2, rel=0.1)
    model.noise = 3.0
    assert "at least about" in by_name(likelihood(model, Rows(x), k=16))["nll"].note
    assert "looseness unknown, raise k" in by_name(likelihood(model, Rows(x), k=1))["nll"].note


def test_thousands_of_weights_on_pictures_take_blocks_of_constant_size():
    model, x = Noisy(None, Image((3, 16, 16), None)), rows(100, 768).float().view(100, 3, 16, 16)
    found = likelihood(model, Rows(x), k=5000)[0]
    assert all(n * k * 768 <= drawing.CHUNK_ENTRIES for n, k in model.calls)
    assert sum(n * k for n, k in model.calls) == 100 * 5000
    assert found.note == "k=5000"
    assert found.value == pytest.approx(-float(model.exact(x).mean()), abs=1e-3)
    assert drawing.block_draws(Noisy(None, Image((3, 1024, 1024), None))) == 1


def test_rows_and_draws_do_not_depend_on_what_follows_them(monkeypatch):
    monkeypatch.setattr(drawing, "MAX_CHUNK", 16)
    model, x = Noisy(None, Vector(2)), rows(40, 2)
    whole = log_likelihoods(model, x, draws=192, seed=3)
    assert torch.equal(whole[:32], log_likelihoods(model, x[:32], draws=192, seed=3))
    assert torch.equal(whole, log_likelihoods(model, x, draws=192, seed=3))
    assert not torch.equal(whole, log_likelihoods(model, x, draws=192, seed=4))
    first = drawing.drawn(model, x, None, 64, 7).values
    more = drawing.drawn(model, x, None, 128, 7).values
    second = model.log_weights(x, 64, seed=drawing.hash_seed(7, 1)).logsumexp(1)
    assert torch.allclose(more, torch.logaddexp(first + math.log(64), second) - math.log(128), atol=1e-12)


def test_other_block_sizes_draw_the_same_law(monkeypatch):
    model, x = Noisy(None, Vector(2)), rows(1000, 2)
    usual = log_likelihoods(model, x, draws=64)
    monkeypatch.setattr(drawing, "BLOCK_DRAWS", 7)
    monkeypatch.setattr(drawing, "MAX_CHUNK", 33)
    other = log_likelihoods(model, x, draws=64)
    difference = usual - other
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(len(x))
    assert not torch.equal(usual, other)


def test_conditional_bounds_choose_and_mix_their_classes():
    class Two(Noisy):
        @property
        def accepts(self):
            return Support((Vector,), bounded="keep", standardise=False, condition=(Labels,))

        def exact(self, x, condition=None):
            moved = x if condition is None else x - 2.0 * condition.double()[:, None]
            return -0.5 * (moved**2).sum(1) - LOG_2PI

        def log_weights(self, x, k, condition=None, *, seed=0):
            return super().log_weights(x - 2.0 * condition.double().expand(len(x))[:, None], k, None, seed=seed)

    model, labels = Two(None, Vector(2), Labels(2)), torch.arange(2000) % 2
    x = rows(2000, 2) + 2.0 * labels[:, None]
    found = by_name(likelihood(model, Rows(x, labels), k=256))
    terms = torch.stack([Two.exact(model, x, torch.full((2000,), c)) for c in range(2)])
    own = terms.gather(0, labels[None])[0]
    assert found["nll"].value == pytest.approx(-float(own.mean()), abs=4 * 0.5 / math.sqrt(2000 * 256) + 0.002)
    assert found["marginal_nll"].value == pytest.approx(-float((terms.logsumexp(0) - math.log(2)).mean()), abs=0.005)
    assert found["nll"].quantity == LOG_P_GIVEN_C


@pytest.mark.parametrize("kind", [Flat, Scaled, Squashed])
def test_a_uniform_model_of_bytes_has_eight_bits_however_it_scales_them(kind):
    x = torch.randint(0, 256, (50, 4), generator=torch.Generator().manual_seed(0)).double()
    found = by_name(likelihood(kind(None, Vector(4, levels=256)), Rows(x)))
    assert found["bits_per_dim"].value == pytest.approx(8.0, abs=1e-4 if kind is Squashed else 1e-9)
    assert found["bits_per_dim"].strength == "bound"


def test_bits_per_dim_do_not_move_with_the_data_and_nats_move_with_their_unit():
    codes = torch.randint(0, 16, (60, 3), generator=torch.Generator().manual_seed(0)).double()

    def bits(low: float) -> float:
        space = Table(tuple(Column(name, "integer", low=low, levels=16) for name in "abc"))
        return by_name(likelihood(Scaled(None, space), Rows(codes + low)))["bits_per_dim"].value

    assert bits(0.0) == pytest.approx(4.0, abs=1e-9)
    assert bits(-1000.0) == pytest.approx(4.0, abs=1e-9)

    def nats(step: float) -> dict[str, Estimate]:
        space = Table(tuple(Column(name, low=0.0, step=step, levels=16) for name in "abc"))
        return by_name(likelihood(Scaled(None, space), Rows(codes * step)))

    assert nats(0.25)["nll"].value == pytest.approx(nats(1.0)["nll"].value + 3 * math.log(0.25), abs=1e-9)
    assert "bits_per_dim" not in nats(0.25)


def test_perplexity_of_a_uniform_model_is_its_vocabulary():
    class Even(GenerativeModel):
        kind = EXACT  # type: ignore[assignment]

        @property
        def accepts(self):
            return Support((Tokens,))

        def _sample(self, n, condition, sampler):
            return torch.zeros(n, *self.model_space.shape, dtype=torch.long)

        def _log_prob(self, z, condition):
            return -self.space.dims(z) * math.log(self.space.vocab)

    x = torch.tensor([[0, 3, 4, 4], [1, 4, 4, 4], [0, 1, 2, 4]])
    found = by_name(likelihood(Even(None, Tokens(5, 4, end=4)), Rows(x)))["perplexity"]
    assert found.value == pytest.approx(5.0, rel=1e-12)
    assert found.stderr == pytest.approx(0.0, abs=1e-9)
    assert (found.unit, found.strength) == ("per symbol", "exact")


def test_the_error_of_perplexity_is_that_of_resampled_texts():
    torch.manual_seed(0)
    model = MarkovOracle(None, Tokens(4, 6, end=0))
    x = model.sample(1500, seed=1)
    found = by_name(likelihood(model, Rows(x)))["perplexity"]
    nats, dims = -model.log_prob(x).detach(), model.space.dims(x)
    picks = torch.randint(0, len(x), (400, len(x)), generator=torch.Generator().manual_seed(0))
    resampled = torch.exp(nats[picks].sum(1) / dims[picks].sum(1))
    assert found.value == pytest.approx(float(torch.exp(nats.sum() / dims.sum())), rel=1e-9)
    assert found.stderr == pytest.approx(float(resampled.std()), rel=0.15)


# What was done to the data, and unnormalised models.


def test_numbers_say_what_was_done_to_the_data():
    x = Rows(torch.randint(0, 16, (20, 4), generator=torch.Generator().manual_seed(0)).double())
    space = Vector(4, levels=16)
    assert likelihood(Squashed(None, space), x, k=64)[0].data == "uniform dequantisation, logit; 64 draws"
    assert likelihood(Scaled(None, space), x, k=1)[0].data == "uniform dequantisation, scaled to [-1, 1]; 1 draw"
    assert likelihood(Noisy(None, space), x, k=64)[0].data == f"uniform dequantisation; {64 // drawing.SHARED_DRAWS} draws"
    assert likelihood(Noisy(None, Vector(4)), x, k=64)[0].data == "as given"
    resized = likelihood(Noisy(None, Vector(4)), x, lossy=("resized from 32x32 to 8x8",))
    assert resized[0].data == "lossy: resized from 32x32 to 8x8"
    assert Estimate.from_json(resized[0].to_json()).data == resized[0].data


def test_an_unnormalised_model_needs_its_normaliser():
    x, model = Rows(rows(500, 2)), Energy(None, Vector(2))
    with pytest.raises(Unsupported, match="log_normaliser"):
        likelihood(model, x)
    truth = by_name(likelihood(model, x, log_normaliser=LOG_2PI))["nll"]
    expected = 0.5 * (x.x**2).sum(1) + LOG_2PI
    assert truth.value == pytest.approx(float(expected.mean()), abs=1e-12)
    assert truth.stderr == pytest.approx(float(expected.std()) / math.sqrt(500), rel=1e-9)
    assert truth.strength == "estimate"
    assert "log Z as given (1.838, without a standard error)" in truth.note


def test_the_error_of_a_normaliser_adds_to_that_over_examples():
    x, model = Rows(rows(500, 2)), Energy(None, Vector(2))
    given = Estimate("log_z", LOG_2PI, 0.3, "nats", "estimate", 1000, "annealed importance sampling; 1000 chains")
    found = by_name(likelihood(model, x, log_normaliser=given, entropy=1 + LOG_2PI))
    plain = by_name(likelihood(model, x, log_normaliser=LOG_2PI))["nll"].stderr
    assert found["nll"].stderr == pytest.approx(math.hypot(plain, 0.3), rel=1e-9)
    assert found["kl_gap"].stderr == found["nll"].stderr
    assert "log_z: 1.84 ± 0.30 nats (estimate, annealed importance sampling, 1000 chains)" in found["nll"].note
    assert by_name(likelihood(model, x, log_normaliser=dataclasses.replace(given, strength="exact", stderr=None)))["nll"].strength == "exact"


def test_the_error_of_a_normaliser_is_shared_by_all_dimensions():
    class Counted(Energy):
        def _log_prob(self, z, condition):
            return torch.zeros(len(z), dtype=torch.float64)

        @property
        def accepts(self):
            return Support((Table,))

    space = Table(tuple(Column(name, "integer", levels=4) for name in "ab"))
    x = Rows(torch.randint(0, 4, (50, 2), generator=torch.Generator().manual_seed(0)).double())
    given = Estimate("log_z", math.log(16), 0.1, "nats", "estimate", 10)
    found = by_name(likelihood(Counted(None, space), x, log_normaliser=given))["bits_per_dim"]
    assert found.value == pytest.approx(2.0, abs=1e-12)
    assert found.stderr == pytest.approx(0.1 / 2 / math.log(2), rel=1e-9)


def test_normalisers_that_cannot_serve_are_refused():
    x = Rows(rows(10, 2))
    with pytest.raises(InvalidInput, match="normalised already"):
        likelihood(Noisy(None, Vector(2)), x, log_normaliser=1.0)
    with pytest.raises(InvalidInput, match="not finite"):
        likelihood(Energy(None, Vector(2)), x, log_normaliser=math.nan)

    class Both(Energy):
        @property
        def accepts(self):
            return Support((Vector,), standardise=False, condition=(Labels,))

    with pytest.raises(Unsupported, match="differs by condition"):
        likelihood(Both(None, Vector(2), Labels(2)), x, log_normaliser=1.0)


def test_every_figure_of_a_likelihood_is_explained():
    x = Rows(torch.tensor([[0, 1], [1, 1]]))
    torch.manual_seed(0)
    names = {each.name for each in likelihood(MarkovOracle(None, Tokens(2, 2, symbols=("a", "b"))), x, entropy=0.0)}
    assert names == {each.name for each in FIGURES} == {"nll", "bits_per_dim", "perplexity", "bits_per_byte", "kl_gap"}
    for told in FIGURES:
        assert figure(f"marginal_{told.name}") == told
        assert all((told.meaning, told.formula, told.source, told.range, told.pitfalls))
        assert told.better == "lower"
