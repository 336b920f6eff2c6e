import sys
from pathlib import Path

import pytest
import torch

import manykin as mk

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import _kept


def counting():
    calls = []

    def compute():
        calls.append(len(calls))
        return {"value": calls[-1]}

    return calls, compute


def test_without_a_key_a_result_is_read_again(tmp_path):
    calls, compute = counting()
    assert [_kept.kept(tmp_path / "a" / "x.json", compute) for _ in range(2)] == [{"value": 0}] * 2
    assert calls == [0]


def test_another_key_or_none_is_computed_again(tmp_path):
    calls, compute = counting()
    file, key = tmp_path / "x.json", {"seconds": 5.5, "options": {"hidden": (8, 8)}, "draws": 64}
    _kept.kept(file, compute)
    assert [_kept.kept(file, compute, key=key) for _ in range(2)] == [{"value": 1}] * 2
    assert _kept.kept(file, compute, key={**key, "seconds": 110.0}) == {"value": 2}
    assert _kept.kept(file, compute, key=key) == {"value": 3}
    assert len(calls) == 4


def test_tasks_that_need_data_are_left_out_of_all_alone(monkeypatch, capsys):
    monkeypatch.delenv("MANYKIN_DATA", raising=False)
    assert list(_kept.tasks(None, ("toys", "mnist"), needing=("mnist",))) == ["toys"]
    assert "mnist is left out" in capsys.readouterr().out
    assert list(_kept.tasks("mnist", ("toys", "mnist"), needing=("mnist",))) == ["mnist"]
    monkeypatch.setenv("MANYKIN_DATA", "somewhere")
    assert list(_kept.tasks(None, ("toys", "mnist"), needing=("mnist",))) == ["toys", "mnist"]


@pytest.mark.parametrize("shift, verdict", [(0.01, "yes"), (0.0005, "no"), (-0.01, "no")])
def test_worse_is_judged_by_the_paired_difference(shift, verdict):
    generator = torch.Generator().manual_seed(0)
    whole = 100 * torch.rand(400, generator=generator, dtype=torch.float64)
    values = whole + shift + 0.01 * torch.randn(400, generator=generator, dtype=torch.float64)
    said = _kept.worse(values.tolist(), whole.tolist())
    assert said.startswith(f"worse by {float((values - whole).mean()):.4f} ± 0.0005: ")
    assert said.endswith(verdict)


def test_losses_are_what_evaluate_tells():
    fitted = mk.fit("independent", "digits")
    values, draws = _kept.losses(fitted.model, fitted.test_rows())
    found = {each.name: each for each in mk.evaluate(fitted, metrics="likelihood").metrics}["nll"]
    assert draws == 1
    assert _kept.mean_and_error(values) == pytest.approx((found.value, found.stderr), rel=1e-6)
