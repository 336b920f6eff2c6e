"""The metrics are tested: planted degradations are seen by every figure that claims to see them, and honest samples look like real rows."""

import math

import pytest
import torch

from manykin.metrics.judge import as_good_as_real, judge
from manykin.metrics.table import TABLE as METRICS
from manykin.metrics.table import metric
from manykin.testing import degradations
from manykin.testing.degradations import TABLE, digits_ground, survey, table_ground

JUDGES = [name for name in METRICS if metric(name).level != "full"]
CLAIMS = [(name, figure.name, what) for name in JUDGES for figure in metric(name).figures for what in figure.sees]


@pytest.fixture(scope="module")
def grounds():
    return {"digits": digits_ground(), "table": table_ground()}


@pytest.fixture(scope="module")
def cells(grounds):
    from manykin.metrics.features import choose_extractor

    extractor = choose_extractor("own", grounds["digits"].case(grounds["digits"].honest.all().x), "digits")
    return {
        "digits": survey(grounds["digits"], JUDGES, extractor=extractor),
        "table": survey(grounds["table"], JUDGES),
    }


@pytest.mark.parametrize("name,figure,what", CLAIMS)
def test_a_claimed_degradation_is_seen(cells, name, figure, what):
    seen = []
    for ground, found in cells.items():
        rows = sorted((cell.strength, cell.worse, cell.clear) for cell in found if cell.figure.name == figure and cell.degradation == what)
        if rows:
            (_, half, _), (_, whole, clear) = rows
            seen.append((ground, clear and whole >= half - 2, half, whole))
    assert any(good for _, good, _, _ in seen), f"{figure} claims to see {what!r}: {seen}"


@pytest.mark.parametrize("name", JUDGES)
def test_every_figure_claims_something_that_exists(name):
    assert all(set(figure.sees) <= set(TABLE) for figure in metric(name).figures)
    assert any(figure.sees for figure in metric(name).figures)


def test_every_degradation_is_seen_by_some_figure():
    assert {what for _, _, what in CLAIMS} == set(TABLE)


@pytest.mark.parametrize("ground", ["digits", "table"])
@pytest.mark.parametrize("what", list(TABLE))
def test_degraded_samples_are_valid_and_as_many(grounds, ground, what):
    place = grounds[ground]
    if not TABLE[what].applies(place):
        assert what == "blur"
        return
    x = TABLE[what].samples(place, 1.0)
    assert x.shape == (place.n, *place.space.shape)
    place.space.validate(x)
    honest = place.honest.all().x[: place.n]
    assert not torch.equal(x.double(), honest.double())
    none = TABLE[what].samples(place, 0.0)
    assert what == "collapse" or torch.equal(none.double().nan_to_num(-9), honest.double().nan_to_num(-9)) or what == "independent columns"


@pytest.mark.parametrize("ground", ["digits", "table"])
def test_honest_samples_look_as_good_as_real(grounds, ground):
    place = grounds[ground]
    found = {each.name: each for each in judge(place.case(place.honest.all().x[: place.n]), ["energy", "mmd", "prdc"]).estimates}
    for name in ("energy_distance", "mmd", "precision", "recall", "coverage"):
        value, floor = found[name], found[f"{name}_floor"]
        gap = abs(value.value - floor.value) / math.hypot(value.stderr, floor.stderr)
        assert gap < 4.5, f"{name}: {value} against {floor}"
        assert as_good_as_real(value, floor) or gap > 2


def test_a_metric_that_is_blind_is_found_out(grounds):
    blind = [cell for cell in survey(grounds["table"], ["energy"], degradations=["copied training data"]) if cell.strength == 1.0]
    assert not any(cell.clear for cell in blind), "the energy distance does not see copies, and must not claim to"


def test_ground_parts_are_disjoint(grounds):
    for place in grounds.values():
        parts = [part.x if part.index is None else part.index for part in (place.train, place.test, place.honest)]
        assert len({int(position) for part in parts for position in part}) == sum(len(part) for part in parts)


def test_degradations_are_repeatable(grounds):
    for what in degradations.TABLE.values():
        place = grounds["digits"]
        assert torch.equal(what.samples(place, 1.0, seed=3), what.samples(place, 1.0, seed=3))
