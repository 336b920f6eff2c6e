"""The tests are tested: each check catches a model that is deliberately wrong, and passes all sound ones."""

import pytest

from manykin.testing import all_checks, check, checks_for, run_checks
from manykin.testing.broken import BROKEN
from manykin.testing.context import Context, Subject
from manykin.testing.oracles import ORACLES, oracle

LEVELS = {each.name: each.level for each in all_checks()}
CAUGHT = [pytest.param(name, each, id=f"{name}-caught-by-{each}") for name, broken in BROKEN.items() for each in broken.caught_by]


def test_every_check_has_a_broken_model():
    caught = {name for broken in BROKEN.values() for name in broken.caught_by}
    assert set(LEVELS) == caught


def test_check_names_are_unique_and_described():
    checks = all_checks()
    assert len({each.name for each in checks}) == len(checks)
    assert all(each.promise.endswith(".") for each in checks)


def test_broken_models_name_their_mistake():
    assert all(broken.mistake.endswith(".") for broken in BROKEN.values())


@pytest.mark.parametrize("name, check_name", CAUGHT)
def test_broken_model_is_caught(name, check_name):
    subject = Subject(BROKEN[name].make(), name)
    rows = run_checks(Context(subject, LEVELS[check_name]), [check_name])
    assert [row.name for row in rows] == [check_name], f"{check_name} does not apply to {name}"
    assert not rows[0].passed, f"{check_name} does not notice: {BROKEN[name].mistake}"
    assert "the tiny fit failed" not in rows[0].message, rows[0].message


@pytest.mark.parametrize("name", ORACLES)
def test_sound_model_passes_everything(name):
    report = check(oracle(name), level="fast")
    assert report.passed, str(report)
    assert len(report.rows) == len(checks_for(oracle(name), "fast"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ORACLES)
def test_sound_model_passes_everything_at_full_level(name):
    report = check(oracle(name), level="full")
    assert report.passed, str(report)
