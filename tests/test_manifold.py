"""Precision, recall, density and coverage: the reference package's counts, exact expectations, ties, and errors that are honest."""

import math

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy import stats

from manykin.data.dataset import Rows
from manykin.errors import InvalidInput
from manykin.metrics import Case, judge, manifold, prdc
from manykin.metrics.numbers import flat
from manykin.spaces import Column, Table, Vector

P = 1e-4


def normal(seed, n, d, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def whole(seed, n, d, levels):
    return torch.randint(levels, (n, d), generator=torch.Generator().manual_seed(seed)).double()


def copies(x, seed, n):
    return x[torch.randint(len(x), (n,), generator=torch.Generator().manual_seed(seed))]


PAIRS = {
    "plain": lambda: (normal(0, 500, 20), normal(1, 400, 20)),
    "far from 0": lambda: (normal(0, 500, 20) + 1000, 1.1 * normal(1, 400, 20) + 1000),
    "float32": lambda: (normal(0, 600, 64, torch.float32), 0.9 * normal(1, 500, 64, torch.float32)),
    "heavy tails": lambda: (normal(0, 500, 8) / normal(1, 500, 8), normal(2, 500, 8) / normal(3, 500, 8)),
    "integers full of ties": lambda: (whole(0, 500, 12, 2), whole(1, 400, 12, 2)),
    "integers full of copies": lambda: (whole(0, 500, 4, 4), whole(1, 400, 4, 4)),
    "real rows thrice": lambda: (normal(0, 200, 8).repeat(3, 1), normal(1, 300, 8)),
    "few distinct samples": lambda: (normal(0, 300, 8), normal(1, 30, 8).repeat_interleave(10, 0)),
    "samples copied from real rows": lambda: (whole(0, 400, 6, 8), copies(whole(0, 400, 6, 8), 1, 400)),
    "one point": lambda: (normal(0, 300, 8), torch.ones(200, 8)),
    "huge": lambda: (1e20 * normal(0, 200, 4), 1e20 * normal(1, 200, 4)),
    "tiny": lambda: (1e-30 * normal(0, 200, 4), 1e-30 * normal(1, 200, 4)),
    "a thousand dimensions": lambda: (normal(0, 600, 1000), normal(1, 600, 1000)),
}


def values(estimates):
    return {each.name: each.value for each in estimates}


def reference(real, fake, k, capsys):
    found = compute_prdc(real.numpy(), fake.numpy(), k)
    capsys.readouterr()
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("pair", list(PAIRS))
def test_counts_equal_those_of_the_reference_package(pair, k, capsys):
    real, fake = PAIRS[pair]()
    assert values(prdc(real, fake, k=k)) == pytest.approx(reference(real, fake, k, capsys), rel=0, abs=1e-12)


def brute(real, fake, k):
    """The definition from differences in float64, without matrix products."""
    inner = torch.cdist(real, real, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf).sort(dim=1).values[:, k - 1]
    other = torch.cdist(fake, fake, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf).sort(dim=1).values[:, k - 1]
    across = torch.cdist(real, fake, compute_mode="donot_use_mm_for_euclid_dist")
    held, holding = across < inner[:, None], across < other
    found = {"precision": held.any(0), "recall": holding.any(1), "density": held.double().sum(0) / k, "coverage": held.any(1)}
    return {name: float(each.double().mean()) for name, each in found.items()}


def test_distances_that_float32_cannot_tell_apart_are_decided_in_float64():
    direction = normal(0, 1, 30)
    real, fake = (1e-4 * normal(seed, 300, 30) + 50 * direction * (torch.arange(300) % 2)[:, None] for seed in (1, 2))
    first, second = manifold._points(real, fake)
    assert (first.slack * first.norms.max()) > float(torch.cdist(real[::2], fake[::2]).max() / first.scale) ** 2
    assert values(prdc(real, fake)) == pytest.approx(brute(real, fake, 5), abs=1e-12)
    assert len(second.rows) == 300


def test_blocks_do_not_change_a_count(monkeypatch):
    real, fake = PAIRS["integers full of ties"]()
    expected = prdc(real, fake)
    monkeypatch.setattr(manifold, "ENTRIES", 1700)
    monkeypatch.setattr(manifold, "GATHERED", 40)
    assert prdc(real, fake) == expected


def test_coarser_products_of_the_user_do_not_change_a_count():
    real, fake = PAIRS["float32"]()
    expected = prdc(real, fake)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert prdc(real, fake) == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_sample_beside_itself():
    found = values(prdc(normal(0, 200, 5), normal(0, 200, 5)))
    assert found == {"precision": 1.0, "recall": 1.0, "density": 1.0, "coverage": 1.0}


def test_roles_swap():
    real, fake = PAIRS["plain"]()
    ahead, back = values(prdc(real, fake)), values(prdc(fake, real))
    assert (ahead["precision"], ahead["recall"]) == (back["recall"], back["precision"])


def test_moves_and_turns_change_nothing():
    real, fake = PAIRS["plain"]()
    turn = torch.linalg.qr(normal(5, 20, 20)).Q
    assert values(prdc(real, fake)) == values(prdc(3 * real @ turn + 2, 3 * fake @ turn + 2))


@pytest.mark.parametrize("n,m,k,d", [(120, 120, 5, 2), (150, 60, 3, 6)])
def test_expectations_under_one_law(n, m, k, d):
    """Density 1 and coverage 1 - C(n - 1, k) / C(n + m - 1, k): all orders of the other rows by distance are equally likely."""
    draws = [values(prdc(normal(2 * seed, n, d), normal(2 * seed + 1, m, d), k=k)) for seed in range(120)]
    expected = {"density": 1.0, "coverage": 1 - math.comb(n - 1, k) / math.comb(n + m - 1, k)}
    for name, truth in expected.items():
        found = np.array([draw[name] for draw in draws])
        z = (found.mean() - truth) / (found.std(ddof=1) / math.sqrt(len(found)))
        assert 2 * stats.norm.sf(abs(z)) > P, f"{name}: {found.mean()} against {truth}"


@pytest.mark.parametrize("shift,scale", [(0.0, 1.0), (0.3, 1.0), (0.0, 0.7)])
def test_stated_errors_are_not_too_small(shift, scale):
    draws = [prdc(normal(2 * seed, 200, 10), scale * normal(2 * seed + 1, 200, 10) + shift) for seed in range(60)]
    for index, name in enumerate(("precision", "recall", "density", "coverage")):
        found, stated = (np.array([getattr(draw[index], part) for draw in draws]) for part in ("value", "stderr"))
        bound = stats.chi2.isf(P, len(draws) - 1) / (len(draws) - 1)
        # Radii count as fixed: the docstring owns up to errors of density down to 0.7 of the true one.
        own = 0.7 if name == "density" else 1.0
        assert found.var(ddof=1) * own**2 <= bound * (stated**2).mean(), f"{name}: {found.std()} against {stated.mean()}"


def test_collapse_is_seen_and_costs_little():
    found = prdc(normal(0, 2000, 64), normal(1, 3, 64).repeat(700, 1))
    assert found[1].value == 0.0
    assert found[3].value < 0.05
    assert "2100 of 2100 fake rows occur more than 5 times" in found[1].note


def test_a_sample_too_large_is_cut_by_seed(monkeypatch):
    monkeypatch.setattr(manifold, "checked_rows", lambda x, name, minimum, seed: flat(x)[:100])
    monkeypatch.setattr(manifold, "cut_note", lambda *samples: "on 100 rows of each sample")
    found = prdc(normal(0, 300, 3), normal(1, 300, 3))
    assert [each.n for each in found] == [100] * 4
    assert found[0].note == "k = 5; on 100 rows of each sample"


@pytest.mark.parametrize(
    "real,fake,k,message",
    [
        (normal(0, 6, 3), normal(1, 50, 3), 5, "real has 6 rows; expected at least 7"),
        (normal(0, 50, 3), normal(1, 2, 3), 1, "fake has 2 rows; expected at least 3"),
        (normal(0, 50, 3), normal(1, 50, 4), 5, "real has 3 entries a row and fake 4"),
        (normal(0, 50, 3), torch.full((50, 3), math.nan), 5, "fake holds a value that is not finite in row 0"),
        (normal(0, 50, 3), normal(1, 50, 3), 0, "k = 0 neighbours"),
        (normal(0, 50, 3), normal(1, 50, 3), 2.5, "k = 2.5 neighbours"),
        (normal(0, 50, 3), 1e200 * normal(1, 50, 3), 5, "so large that squared distances overflow"),
        ("rows", normal(1, 50, 3), 5, "real is str"),
    ],
)
def test_bad_input_is_one_line(real, fake, k, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        prdc(real, fake, k=k)
    assert "\n" not in str(caught.value)


def test_in_the_table_with_floors():
    space = Vector(3)
    case = Case(space, Rows(normal(0, 200, 3)), Rows(normal(1, 80, 3)), normal(2, 90, 3))
    found = judge(case, ["prdc"])
    names = [each.name for each in found.estimates]
    assert names == [name + end for name in ("precision", "recall", "density", "coverage") for end in ("", "_floor")]
    assert {each.data for each in found.estimates} == {"standardised columns"}
    assert found.warnings == ()


def test_equal_rows_of_a_table_say_that_their_balls_are_empty():
    space = Table((Column("colour", "categorical", ("blue", "green")),))
    case = Case(space, None, Rows(whole(0, 40, 1, 2)), whole(1, 40, 1, 2))
    assert "their balls are empty" in judge(case, ["prdc"]).estimates[0].note
