"""Noise floors are fair, and a mark is given only where a metric could have told a forgery."""

import dataclasses

import numpy as np
import pytest
import torch

import manykin as mk
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput, ManykinError
from manykin.metrics import Case, Estimate, as_good_as_real, judge, standing
from manykin.metrics.floors import fair, forgeries
from manykin.spaces import Record, Table, Vector
from manykin.testing.degradations import digits_ground, table_ground


def correlated(n, seed):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 1, generator=draw, dtype=torch.float64)
    return torch.cat([z, z + 0.3 * torch.randn(n, 1, generator=draw, dtype=torch.float64)], dim=1)


def case_of(train, test, samples, **more):
    return Case(Vector(2), None if train is None else Rows(train), Rows(test), samples, **more)


def by_name(found):
    return {each.name: each for each in found.estimates}


def test_floor_has_as_many_rows_as_samples():
    found = judge(case_of(correlated(50, 0), correlated(300, 1), correlated(400, 2)), ["energy", "prdc"])
    assert {each.n for each in found.estimates} == {50}
    assert any("only 50 of 400 samples" in told for told in found.warnings)
    assert all(each.n == 300 for each in judge(case_of(correlated(400, 0), correlated(200, 1), correlated(300, 2)), ["energy"]).estimates)


def test_without_training_rows_one_half_of_the_real_rows_is_the_floor():
    case, remark = fair(case_of(None, correlated(200, 1), correlated(500, 2)))
    assert len(case.test) == len(case.stand_in) == len(case.seen) == 100
    assert case.n == 101
    assert not set(case.test.index.tolist()) & set(case.stand_in.index.tolist())
    assert "one half" in remark.warnings[0]
    found = by_name(judge(case_of(None, correlated(200, 1), correlated(200, 2)), ["energy", "memorisation"]))
    assert set(found) == {"energy_distance", "energy_distance_floor"}


def test_mark_needs_a_metric_that_tells_forgeries():
    few = by_name(judge(case_of(correlated(100, 0), correlated(6, 1), correlated(6, 2)), ["mmd"]))
    assert few["mmd_p_floor"].tells is False, "of 924 ways to part 12 rows none has a p-value below 1 in 1,000"
    assert standing(few["mmd_p"], few["mmd_p_floor"]) == "cannot tell"
    many = by_name(judge(case_of(correlated(2000, 0), correlated(800, 1), correlated(800, 2)), ["energy"]))
    assert many["energy_distance_floor"].tells is True
    assert standing(many["energy_distance"], many["energy_distance_floor"]) == "as good"
    assert as_good_as_real(many["energy_distance"], many["energy_distance_floor"])


def test_standing_of_other_numbers():
    def estimate(name, value, stderr, unit="share", tells=True):
        return Estimate(name, value, stderr, unit, "estimate", 100, quantity="samples", tells=tells)

    floor = estimate("precision_floor", 0.9, 0.01)
    assert standing(estimate("precision", 0.5, 0.01), floor) == "worse"
    assert standing(estimate("precision", 0.95, 0.01), floor) == "as good"
    assert standing(estimate("precision", 0.95, 0.01), dataclasses.replace(floor, tells=False)) == "cannot tell"
    assert standing(estimate("precision", 0.95, 0.01), None) == ""
    assert standing(estimate("precision", float("nan"), None), floor) == ""
    assert standing(estimate("unheard of", 1.0, 0.1), floor) == ""
    p_floor = estimate("mmd_p_floor", 0.01, None, "p-value")
    assert standing(estimate("mmd_p", 0.2, None, "p-value"), p_floor) == "as good"
    assert standing(estimate("mmd_p", 0.04, None, "p-value"), p_floor) == "worse"


@pytest.mark.parametrize("ground", [digits_ground, table_ground], ids=["digits", "table"])
def test_forgeries_keep_margins_or_half_of_the_rows(ground):
    place = ground()
    case = place.case(place.honest.all().x[: place.n])
    permuted, half = forgeries(case)
    rows = case.seen.all().x
    assert permuted.shape == half.shape == rows.shape
    assert torch.equal(permuted.sort(dim=0).values, rows.sort(dim=0).values)
    assert not torch.equal(permuted, rows)
    assert len({tuple(row.flatten().tolist()) for row in half}) <= len(rows) // 2
    again = forgeries(place.case(place.honest.all().x[: place.n]))
    assert torch.equal(permuted, again[0])
    assert torch.equal(half, again[1])


def test_forgeries_of_records():
    space = Record({"place": Vector(2), "size": Vector(1)})
    rows = {"place": correlated(60, 0), "size": correlated(60, 1)[:, :1]}
    found = judge(Case(space, Rows(rows), Rows(rows), rows), ["energy"])
    assert by_name(found)["energy_distance_floor"].tells is not None


class Mute(mk.GenerativeModel):
    kind = property(lambda self: __import__("manykin.contract", fromlist=["EXACT"]).EXACT)
    accepts = property(lambda self: __import__("manykin.contract", fromlist=["Support"]).Support((Vector,)))
    failure = RuntimeError()

    def __init__(self, config, space, condition=None):
        super().__init__(config, space, condition)
        self.shift = torch.nn.Parameter(torch.zeros(2))

    def _log_prob(self, z, condition):
        return torch.distributions.Normal(0.0, 1.0).log_prob(z - self.shift).sum(dim=1)

    def _sample(self, n, condition, sampler):
        raise self.failure


@pytest.mark.parametrize("failure", [RuntimeError(), ManykinError("broken"), mk.InvalidInput("it refuses"), NotImplementedError(), ValueError("no")])
def test_model_that_cannot_draw_keeps_its_likelihood(failure, monkeypatch):
    monkeypatch.setattr(Mute, "failure", failure)
    fitted = mk.fit(Mute, correlated(60, 0).numpy(), max_steps=2, train={"sample_every": 0})
    found = mk.evaluate(fitted, correlated(30, 1).numpy(), metrics="quick")
    assert found["nll"].value > 0
    assert "no samples could be drawn" in found.warnings[0]
    assert "\n" not in found.warnings[0]


def test_evaluation_says_why_it_says_nothing():
    fitted = mk.fit("gaussian", correlated(60, 0).numpy())
    assert "too few" in mk.evaluate(fitted, correlated(5, 1).numpy()).warnings[0]
    own = mk.evaluate(fitted, metrics="energy,memorisation")
    assert any("memorisation does not apply" in told for told in own.warnings)
    assert any("one half" in told for told in own.warnings)
    implicit = mk.fit("gan", correlated(60, 0).numpy(), preset="tiny", max_steps=3)
    assert "gan has no density" in mk.evaluate(implicit, correlated(30, 1).numpy(), metrics="likelihood").warnings[0]


def test_mistyped_target_is_refused():
    table = np.random.default_rng(0).normal(size=(80, 2))
    labels = np.arange(80) % 2
    fitted = mk.fit("gaussian", table, condition=labels)
    with pytest.raises(InvalidInput, match="target 'typo' is no column"):
        mk.evaluate(fitted, table, condition=labels, metrics="usefulness", target="typo")
    assert isinstance(fitted.space, (Vector, Table))
