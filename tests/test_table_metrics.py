"""Distances of columns and pairs: parity with scipy, known answers, honest errors, missing values, and tables of awkward shapes."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from manykin.data.dataset import Rows
from manykin.errors import InvalidInput
from manykin.metrics import Case, judge
from manykin.metrics.columns import MOST_PAIRS, chosen_pairs, column_distances
from manykin.metrics.gaps import Binning, column_gaps, kolmogorov_smirnov, pair_gaps, total_variation
from manykin.spaces import Column, Image, Labels, Record, Table, Vector

NAN = math.nan


def numbers(n, seed=0, d=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(n, seed, shift=0.0, tied=True):
    """Two dependent numbers and a category that depends on them, with missing values."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(n, generator=draw, dtype=torch.float64) + shift
    second = 0.9 * first + 0.5 * torch.randn(n, generator=draw, dtype=torch.float64)
    colour = (first > 0).double() + (second > 1).double()
    x = torch.stack([first, second, colour], dim=1)
    x[torch.rand(n, generator=draw) < 0.1, 1] = NAN
    if not tied:
        for index in range(3):
            x[:, index] = x[torch.randperm(n, generator=draw), index]
    return x


SPACE = Table((Column("first"), Column("second", missing=True), Column("colour", "categorical", ("blue", "green", "red"))))


def case(samples, n=1000, space=SPACE, train=None, test=None, **extra):
    train = table(n, 1) if train is None else train
    test = table(n, 2) if test is None else test
    return Case(space, Rows(train), Rows(test), samples, **extra)


def found(case):
    finding = column_distances(case)
    return {each.name: each for each in finding.estimates}, finding.details


@pytest.mark.parametrize("seed", range(5))
def test_kolmogorov_smirnov_is_scipys(seed):
    x, y = numbers(37, seed)[:, 0], 1.3 * numbers(53, seed + 100)[:, 0] + 0.2
    for a, b in ((x, y), (y, x), ((3 * x).round(), (3 * y).round()), (x, x), (x, y + 100)):
        gap = kolmogorov_smirnov(a, b)
        assert gap.value == pytest.approx(ks_2samp(a.numpy(), b.numpy()).statistic, abs=1e-12)
        assert float(gap.x.double().mean() - gap.y.double().mean()) == pytest.approx(gap.value, abs=1e-12)


def test_missing_numbers_are_an_outcome_of_their_own():
    x, y = numbers(100)[:, 0], numbers(100)[:, 0]
    x[:30] = NAN
    assert kolmogorov_smirnov(y[30:], y[30:]).value == 0
    gap = kolmogorov_smirnov(x, y)
    assert gap.value >= 0.3
    filled = torch.where(x.isnan(), 1e9, x)
    assert gap.value == pytest.approx(ks_2samp(filled.numpy(), y.numpy()).statistic, abs=1e-12)
    everything = kolmogorov_smirnov(torch.full((5,), NAN), torch.full((9,), NAN))
    assert everything.value == 0


def test_total_variation_is_half_the_sum_of_differences():
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 5, 200), draw.choice(7, 300, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
    shares = [np.bincount(each, minlength=7) / len(each) for each in (a, b)]
    gap = total_variation(torch.tensor(a), torch.tensor(b), 7)
    assert gap.value == pytest.approx(0.5 * np.abs(shares[0] - shares[1]).sum(), abs=1e-12)
    assert float(gap.x.double().mean() - gap.y.double().mean()) == pytest.approx(gap.value, abs=1e-12)
    assert total_variation(torch.tensor([0, 0]), torch.tensor([1]), 2).value == 1


def test_empty_columns_are_refused_in_one_line():
    with pytest.raises(InvalidInput, match=r"x has shape \(0,\); expected the values of one column") as refusal:
        kolmogorov_smirnov(torch.zeros(0), torch.zeros(3))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("shift,low,high", [(0.0, 0.0, 1.1), (0.5, 0.82, 1.2)])
def test_standard_errors_are_the_scatter_of_the_value(shift, low, high):
    """With 200 repetitions a standard deviation is known to 5 percent, 3.9 of which are 20 percent; under equal laws the error may be larger."""
    values, errors = [], []
    for seed in range(200):
        x, y = numbers(150, 3 * seed, 2), numbers(200, 3 * seed + 1, 2) + shift
        x[:, 1], y[:, 1] = x[:, 0] + 0.1 * x[:, 1], y[:, 0] + 0.1 * (y[:, 1] - shift)
        value, error = column_gaps((Column("a"), Column("b")), x, y).mean
        values.append(value)
        errors.append(error)
    assert low < np.std(values) / np.mean(errors) < high


def test_a_gap_of_known_laws_is_found():
    """Normals half a unit apart: the distance is 2 Phi(1/4) - 1."""
    truth = math.erf(0.25 / math.sqrt(2))
    gaps = column_gaps((Column("a"),), numbers(20_000), numbers(20_000, 1) + 0.5)
    assert abs(gaps.mean[0] - truth) < 4 * gaps.mean[1]


def test_dependence_of_two_categories_has_its_exact_distance():
    columns = (Column("a", "categorical", (0, 1)), Column("b", "categorical", (0, 1)))
    bits = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat(100, 1).double()
    same = torch.tensor([[0, 0], [1, 1]]).repeat(200, 1).double()
    gaps = pair_gaps(Binning.of(columns, bits, 5), [(0, 1)], same, bits)
    assert gaps.mean[0] == pytest.approx(0.5, abs=1e-12)
    assert column_gaps(columns, same, bits).mean[0] == 0


def test_dependence_of_two_numbers_has_its_exact_distance():
    """Equal against independent uniform columns in b quantile bins: 1 - 1/b of the probability moves."""
    grid = torch.arange(40, dtype=torch.float64)
    independent, equal = torch.cartesian_prod(grid, grid), torch.stack([grid, grid], dim=1).repeat(40, 1)
    for bins in (4, 5, 10):
        gaps = pair_gaps(Binning.of((Column("a"), Column("b")), independent, bins), [(0, 1)], equal, independent)
        assert gaps.mean[0] == pytest.approx(1 - 1 / bins, abs=1e-12)


def test_a_spike_has_a_bin_of_its_own():
    """Mostly zeros: what lies above zero must not share the cell of zero."""
    x = torch.zeros(1000, 1, dtype=torch.float64)
    x[:80] = torch.arange(80)[:, None] + 1.0
    binning = Binning.of((Column("gain"),), x, 5)
    codes = binning.code(0, torch.tensor([-1.0, 0.0, 3.0, NAN]))
    assert len(set(codes.tolist())) == 4
    assert int(codes.max()) < binning.cells(0)


def test_categories_beyond_the_frequent_share_a_cell():
    column = Column("city", "categorical", tuple(range(50)), missing=True)
    x = torch.arange(50, dtype=torch.float64).repeat_interleave(torch.arange(50, 0, -1))[:, None]
    binning = Binning.of((column,), x, 5)
    codes = binning.code(0, torch.tensor([0.0, 19.0, 20.0, 49.0, NAN]))
    assert codes.tolist() == [0, 19, 20, 20, 21]
    assert binning.cells(0) == 22


def test_an_honest_sample_lies_at_the_floor():
    values, _ = found(case(table(1000, 3)))
    for name in ("column_distance", "worst_column_distance", "pair_distance"):
        value, floor = values[name], values[f"{name}_floor"]
        assert abs(value.value - floor.value) < 3.9 * math.hypot(value.stderr, floor.stderr)
        assert (value.unit, value.strength, value.quantity, value.n) == ("probability", "estimate", "samples", 1000)


def test_independent_columns_show_in_pairs_only():
    values, details = found(case(table(1000, 3, tied=False)))
    margins, joint, floor = values["column_distance"], values["pair_distance"], values["pair_distance_floor"]
    assert abs(margins.value - values["column_distance_floor"].value) < 3.9 * math.hypot(margins.stderr, values["column_distance_floor"].stderr)
    assert joint.value > floor.value + 10 * math.hypot(joint.stderr, floor.stderr)
    assert {(row["a"], row["b"]) for row in details["pairs"]} == {("first", "second"), ("first", "colour"), ("second", "colour")}


def test_the_worst_column_is_named_and_details_are_json():
    spoiled = table(1000, 3)
    spoiled[:, 1] += 5
    spoiled[:500, 1] = NAN
    values, details = found(case(spoiled))
    assert values["worst_column_distance"].note == "column 'second'"
    rows = {row["name"]: row for row in json.loads(json.dumps(details))["columns"]}
    assert rows["second"]["distance"] == pytest.approx(values["worst_column_distance"].value)
    assert rows["second"]["missing_samples"] > 0.5
    assert rows["second"]["missing_real"] == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 1000))
    assert set(rows["first"]) == {"name", "kind", "distance", "stderr", "floor"}
    assert np.mean([row["distance"] for row in rows.values()]) == pytest.approx(values["column_distance"].value)


def test_without_training_rows_there_is_no_floor():
    finding = column_distances(Case(SPACE, None, Rows(table(200, 2)), table(200, 3)))
    assert [each.name for each in finding.estimates] == ["column_distance", "worst_column_distance", "pair_distance"]
    assert all(row["floor"] is None for row in [*finding.details["columns"], *finding.details["pairs"]])


def test_a_wide_table_has_some_of_its_pairs_drawn_by_seed():
    pairs = chosen_pairs(60, 0)
    assert len(pairs) == len(set(pairs)) == MOST_PAIRS
    assert all(0 <= a < b < 60 for a, b in pairs)
    assert pairs == chosen_pairs(60, 0) != chosen_pairs(60, 1)
    assert len(chosen_pairs(25, 0)) == 300
    wide = [numbers(50, seed, 60) for seed in range(3)]
    values, details = found(case(wide[0], space=Vector(60), train=wide[1], test=wide[2]))
    assert "300 of 1770 pairs" in values["pair_distance"].note
    assert len(details["pairs"]) == 300


def test_constant_and_empty_columns_are_no_trouble():
    space = Table((Column("flat"), Column("gone", missing=True), Column("one", "categorical", ("only",))))
    x = torch.tensor([[2.0, NAN, 0.0]]).double().repeat(50, 1)
    values, _ = found(case(x, space=space, train=x, test=x))
    assert [values[name].value for name in ("column_distance", "worst_column_distance", "pair_distance")] == [0.0, 0.0, 0.0]
    moved = x.clone()
    moved[:, 0] = 3.0
    values, _ = found(case(moved, space=space, train=x, test=x))
    assert values["column_distance"].value == pytest.approx(1 / 3)
    assert values["pair_distance"].value == pytest.approx(2 / 3)


def test_one_column_has_no_pairs():
    values, details = found(case(numbers(50), space=Vector(1), train=numbers(50, 1), test=numbers(50, 2)))
    assert "pair_distance" not in values
    assert "pairs" not in details


def test_records_of_columns_count_and_pictures_do_not():
    space = Record({"row": SPACE, "label": Labels(2)})
    parts = [{"row": table(100, seed), "label": (table(100, seed)[:, 0] > 0).long()} for seed in range(3)]
    values, details = found(case(parts[0], space=space, train=parts[1], test=parts[2]))
    assert [row["name"] for row in details["columns"]] == ["row.first", "row.second", "row.colour", "label.label"]
    assert values["pair_distance"].note.startswith("mean over 6 pairs")
    pictures = torch.zeros(20, 1, 2, 2, dtype=torch.uint8)
    assert judge(case(pictures, space=Image((1, 2, 2)), train=pictures, test=pictures), ["columns"]).estimates == ()


def test_too_few_rows_are_a_line():
    finding = judge(case(table(5, 3)), ["columns"])
    assert finding.estimates == ()
    assert finding.warnings == ("columns needs at least 10 rows of samples and of held-out data; there are 5.",)


def test_the_sampler_is_named_in_values_and_not_in_floors():
    values, _ = found(case(table(100, 3), sampler="Tempered"))
    assert values["column_distance"].sampler == values["pair_distance"].sampler == "Tempered"
    assert values["column_distance_floor"].sampler is None
