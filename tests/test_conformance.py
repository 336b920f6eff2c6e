"""Every model of the table keeps every promise of the contract, on each space that it takes."""

import json

import pytest
import torch

import manykin as mk
from manykin.errors import InvalidInput
from manykin.models import TABLE
from manykin.testing import all_checks, check, run_checks, subjects_of
from manykin.testing.context import Context
from manykin.testing.oracles import GaussianOracle, oracle
from manykin.testing.statistics import axes_of, chi_square, integrate

SUBJECTS = [(name, number, subject.label) for name in TABLE for number, subject in enumerate(subjects_of(name))]


@pytest.mark.parametrize("name, number", [pytest.param(name, number, id=f"{name}-{label}") for name, number, label in SUBJECTS])
def test_model_conforms(name, number):
    failures = [f"{row.name}: {row.message}" for row in run_checks(Context(subjects_of(name)[number], "fast")) if not row.passed]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("name, number", [pytest.param(name, number, id=f"{name}-{label}") for name, number, label in SUBJECTS])
def test_model_conforms_at_full_level(name, number):
    failures = [f"{row.name}: {row.message}" for row in run_checks(Context(subjects_of(name)[number], "full")) if not row.passed]
    assert not failures, "\n".join(failures)


def test_report_reads_as_table_and_json():
    report = check(oracle("table"))
    assert str(report).count("\n") == len(report.rows)
    assert all(row.name in str(report) for row in report.rows)
    data = json.loads(json.dumps(report.to_json()))
    assert data["passed"] is True
    assert len(data["checks"]) == len(report.rows)


class Narrow(GaussianOracle):
    def _sample(self, n, condition, sampler):
        return self.push(0.7 * torch.randn(n, self.size), condition)


REASON = "the sampler is narrow on purpose"


def test_waiver_lets_a_failure_pass():
    failing = [row.name for row in check(Narrow(None, mk.Vector(2))).failures]
    assert "samples-match-density" in failing
    report = check(Narrow(None, mk.Vector(2)), waive=dict.fromkeys(failing, REASON))
    assert report.passed
    assert {row.name for row in report.rows if row.waived == REASON} == set(failing)


def test_waiver_of_a_check_that_passes_is_an_error():
    report = check(oracle("table"), waive={"samples-match-density": "it might fail"})
    assert [row.name for row in report.failures] == ["samples-match-density"]
    assert "remove the waiver" in report.failures[0].message


def test_wrong_calls_are_refused():
    with pytest.raises(InvalidInput, match="'quick' is not known"):
        check(oracle("table"), level="quick")
    with pytest.raises(InvalidInput, match="Did you mean 'mass-is-one'"):
        check(oracle("table"), waive={"mass-is-on": "reason"})
    with pytest.raises(InvalidInput, match="no reason"):
        check(oracle("table"), waive={"mass-is-one": " "})
    with pytest.raises(InvalidInput, match="'realnv' is not known"):
        check("realnv")
    with pytest.raises(InvalidInput, match="was given a int"):
        check(3)


def test_target_is_left_alone():
    model = oracle("gaussian")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_checks_are_chosen_by_capability():
    names = {each.name for each in all_checks() if each.applies(oracle("gan"))}
    assert "implicit-says-so" in names
    assert not names & {"mass-is-one", "metropolis-keeps-samples", "known-entries-stay", "closed-form-monotone"}


def test_linear_vae_bound_is_below_the_exact_marginal_and_its_weights_reach_it():
    ctx = Context(subjects_of(oracle("linear-vae"))[0])
    model, x = ctx.model, ctx.x[:8]
    exact = model.exact_log_prob(x)
    weights = model.log_weights(x, 20_000, seed=0)
    bound, error = weights.mean(1), weights.std(1) / 20_000**0.5
    assert (bound < exact + 5 * error).all()
    tight = weights.logsumexp(1) - torch.tensor(20_000.0).log()
    assert (tight - exact).abs().max() < 0.05


def test_quadrature_of_a_known_density():
    normal = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 1.0)
    reference = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masses = integrate(lambda x, seed: normal.log_prob(x).sum(1), mk.Vector(2), axes_of(mk.Vector(2), reference, 12, 8))
    assert abs(masses.total - 1) < max(6 * masses.error, 1e-3)


def test_chi_square_rejects_at_its_level():
    g = torch.Generator().manual_seed(0)
    chances = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    values = [torch.bincount(torch.multinomial(chances, 1000, replacement=True, generator=g), minlength=4) for _ in range(200)]
    p = torch.tensor([chi_square(observed.double(), 1000 * chances)[1] for observed in values])
    assert 0.02 < (p < 0.1).double().mean() < 0.2
    assert chi_square(values[0].double(), 1000 * chances.flip(0))[1] < 1e-10
