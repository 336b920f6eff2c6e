"""Two-sample metrics: pairs, energy distance, MMD, sliced Wasserstein, classifier test; against references, known values and their own spread."""

import math
import time
import warnings
from itertools import combinations

import numpy as np
import ot
import pytest
import scipy.stats
import torch
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from torch import Tensor

from manykin.data import load_data
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput
from manykin.metrics import (
    Case,
    Estimate,
    as_good_as_real,
    chosen,
    classifier_two_sample,
    energy_distance,
    figure,
    judge,
    mmd,
    mmd_test,
    sliced_wasserstein,
    wasserstein_1d,
)  # fmt: skip
from manykin.metrics import classifier as classifier_module
from manykin.metrics.kernels import KERNELS, median_distance
from manykin.metrics.pairs import blocks, checked_rows, cut_note, pair_sums, same_width, squared_distances, unbiased
from manykin.spaces import Vector

NAMES = ["energy", "mmd", "sliced_wasserstein", "c2st"]
REFERENCE = 1e-6
"""Relative difference from reference packages."""
P = 1e-4


def normal(n: int, d: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(n: int, m: int, d: int = 5, shift: float = 0.4) -> tuple[Tensor, Tensor]:
    return normal(n, d, 1) * 1.2, normal(m, d, 2) + shift


def plain_unbiased(kernel, x: np.ndarray, y: np.ndarray) -> float:
    n, m = len(x), len(y)
    own_x, own_y = kernel(x, x), kernel(y, y)
    inside = (own_x.sum() - np.trace(own_x)) / (n * (n - 1)) + (own_y.sum() - np.trace(own_y)) / (m * (m - 1))
    return float(inside - 2 * kernel(x, y).mean())


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=2))


# pairs


def test_rows_of_tensors_and_arrays_are_checked_alike():
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    for each in (x, torch.from_numpy(x), torch.from_numpy(x).requires_grad_()):
        rows = checked_rows(each, "x", 4)
        assert rows.shape == (4, 6)
        assert rows.dtype == torch.float64
        assert not rows.requires_grad
        assert rows.flatten().tolist() == list(range(24))
    assert checked_rows([1.0, 2.0], "x", 2).shape == (2, 1)


@pytest.mark.parametrize("bad, told", [
    (normal(3), "x has 3 rows; expected at least 4"),
    (torch.tensor(1.0), "x has 0 rows"),
    (torch.zeros(5, 0), "without entries"),
    (torch.tensor([[0.0], [1.0], [math.nan], [2.0]]), "not finite in row 2"),
    (np.array([[0.0], [1.0], [1.0], [-math.inf]]), "not finite in row 3"),
    (["a", "b", "c", "d"], "no array of numbers"),
    ([[1.0], [2.0, 3.0], [1.0], [1.0]], "no array of numbers"),
])  # fmt: skip
def test_rows_that_cannot_be_compared_are_refused_in_one_line(bad, told):
    with pytest.raises(InvalidInput, match=told) as refusal:
        checked_rows(bad, "x", 4)
    assert "\n" not in str(refusal.value)


def test_rows_beyond_the_most_are_drawn_by_the_seed():
    x = torch.arange(1000.0)[:, None]
    first, again, other = (checked_rows(x, "x", 1, seed, most=100) for seed in (0, 0, 1))
    assert len(first.unique()) == 100
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert cut_note(x, first, most=100) == "on 100 rows of each sample"
    assert cut_note(x, first) == ""


def test_widths_must_agree():
    same_width(normal(3, 2), normal(5, 2))
    with pytest.raises(InvalidInput, match="real has 2 entries a row and fake 3"):
        same_width(normal(3, 2), normal(5, 3), "real", "fake")


@pytest.mark.parametrize("n, m, most", [(10, 7, 20), (10, 7, 1), (1, 1, 1), (5, 100_000_000, 10), (1000, 50_000, 4_000_000)])
def test_blocks_cover_all_rows_and_keep_to_their_size(n, m, most):
    found = list(blocks(n, m, most))
    assert [row for block in found for row in range(block.start, block.stop)] == list(range(n))
    assert all((block.stop - block.start) * m <= most or block.stop - block.start == 1 for block in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_squared_distances_are_as_accurate_as_they_say(dtype):
    x, y = normal(60, 40, 1).to(dtype), normal(70, 40, 2).to(dtype)
    y[:5] = x[:5]
    exact = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    found = squared_distances(x, y)
    norms = (x.double() ** 2).sum(1)[:, None] + (y.double() ** 2).sum(1)
    assert found.dtype == dtype
    assert float(found.min()) >= 0
    assert float(((found - exact).abs() / norms).max()) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("single", [False, True])
def test_sums_over_tiles_are_those_of_the_whole_matrix(monkeypatch, single):
    monkeypatch.setattr("manykin.metrics.pairs.TILE", (7, 16))
    monkeypatch.setattr("manykin.metrics.pairs.SINGLE_WORK", 0.0 if single else 1e18)
    x, y = normal(50, 6, 1), normal(37, 6, 2)
    x[20:30], y[0] = x[3], x[3]
    # Distances of coinciding rows are 1e-8 of their norm in float64.
    tolerance = 3e-6 if single else 1e-8
    for other in (None, y):
        found = pair_sums(x, other, torch.sqrt_)
        whole = torch.from_numpy(distances(x.numpy(), (x if other is None else other).numpy()))
        assert torch.allclose(found.rows, whole.sum(dim=1), rtol=tolerance)
        assert torch.allclose(found.columns, whole.sum(dim=0), rtol=tolerance)
        assert found.squares == pytest.approx(float((whole**2).sum()), rel=tolerance)
        inner = pair_sums(x, other, lambda tile: tile * 1.0, products=True)
        gram = x @ (x if other is None else other).T
        assert torch.allclose(inner.rows, gram.sum(dim=1) - (gram.diagonal() if other is None else 0.0), atol=1e-4 if single else 1e-10)


def test_variance_is_unbiased_where_laws_differ_and_large_enough_where_they_do_not():
    for shift, widest in ((1.0, 1.1), (0.0, 1.6)):
        values, variances = [], []
        for seed in range(400):
            x, y = normal(30, 2, 2 * seed), normal(45, 2, 2 * seed + 1) + shift
            value, stderr = unbiased(*(pair_sums(a, b, torch.sqrt_) for a, b in ((x, None), (y, None), (x, y))))
            values.append(value)
            variances.append(stderr**2)
        # The relative standard error of a variance from 400 values, whose law is skewed under equal laws, is about 0.1.
        ratio = np.mean(variances) / np.var(values, ddof=1)
        assert 0.7 < ratio < widest**2 + 0.4, f"shift {shift}"


# the energy distance


def test_energy_distance_against_whole_matrices_and_scipy():
    x, y = pair(31, 45)
    found = energy_distance(x, y)
    assert found.value == pytest.approx(-plain_unbiased(distances, x.numpy(), y.numpy()), rel=1e-10)
    one, two = x[:, 0].numpy(), y[:, 0].numpy()
    # scipy's is the root of the statistic over all pairs, a row with itself among them; those pairs add mean / n.
    inside = sum(distances(each[:, None], each[:, None]).sum() / (len(each) ** 2 * (len(each) - 1)) for each in (one, two))
    assert scipy.stats.energy_distance(one, two) ** 2 == pytest.approx(energy_distance(x[:, :1], y[:, :1]).value + inside, rel=REFERENCE)


def test_energy_distance_has_a_known_value():
    uniform = torch.rand(10_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = energy_distance(uniform[:5000], 1 + uniform[5000:])
    assert found.value == pytest.approx(2 * 1.0 - 1 / 3 - 1 / 3, abs=4 * found.stderr)


def test_float32_distances_move_the_energy_distance_by_nothing_to_speak_of(monkeypatch):
    x, y = normal(700, 64, 1) + 1e3, normal(600, 64, 2) + 1e3
    collapsed = x[:20].repeat(30, 1)
    direct = [energy_distance(x, y), energy_distance(x, collapsed), mmd(x, y), mmd(x, collapsed)]
    monkeypatch.setattr("manykin.metrics.pairs.SINGLE_WORK", 0.0)
    for one, two in zip(direct, [energy_distance(x, y), energy_distance(x, collapsed), mmd(x, y), mmd(x, collapsed)], strict=True):
        assert two.value == pytest.approx(one.value, abs=0.01 * one.stderr)
        assert two.stderr == pytest.approx(one.stderr, rel=0.01)


def test_energy_distance_refuses_what_it_cannot_measure():
    for x, y, told in ((normal(2), normal(10), "2 rows"), (normal(10, 2), normal(10, 3), "entries a row"), (normal(4) / 0, normal(10), "row 0")):
        with pytest.raises(InvalidInput, match=told):
            energy_distance(x, y)


# MMD


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_mmd_against_kernels_of_scikit_learn_and_by_hand(kernel):
    x, y = pair(33, 47)
    s = 1.7
    by_hand = {
        "gaussian": lambda a, b: rbf_kernel(a, b, gamma=1 / (2 * s**2)),
        "laplacian": lambda a, b: np.exp(-distances(a, b) / s),
        "imq": lambda a, b: 1 / np.sqrt(1 + distances(a, b) ** 2 / s**2),
        "multiscale": lambda a, b: np.mean([rbf_kernel(a, b, gamma=1 / (2 * (s * scale) ** 2)) for scale in (4, 2, 1, 0.5, 0.25)], axis=0),
        "polynomial": lambda a, b: polynomial_kernel(a, b, degree=3, gamma=1 / 5, coef0=1),
    }[kernel]
    found = mmd(x, y, kernel=kernel, bandwidth=None if kernel == "polynomial" else s)
    assert found.value == pytest.approx(plain_unbiased(by_hand, x.numpy(), y.numpy()), rel=REFERENCE)
    assert kernel in found.note


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_mmd_error_is_the_spread_of_its_values(kernel):
    found = [mmd(normal(80, 3, 2 * seed), normal(60, 3, 2 * seed + 1) + 0.8, kernel=kernel, bandwidth=None) for seed in range(100)]
    spread = float(np.std([each.value for each in found], ddof=1))
    # A standard deviation from 100 values is known to about 7 %; the polynomial kernel's values have a long tail.
    assert 0.7 < math.sqrt(np.mean([each.stderr**2 for each in found])) / spread < 1.4


def test_gaussian_mmd_has_a_known_value():
    shift, s = 1.0, 1.5
    x, y = normal(3000, 2, 1), normal(3000, 2, 2) + torch.tensor([shift, 0.0], dtype=torch.float64)
    found = mmd(x, y, bandwidth=s)
    same = s**2 / (s**2 + 2)
    exact = 2 * same * (1 - math.exp(-(shift**2) / (2 * (s**2 + 2))))
    assert found.value == pytest.approx(exact, abs=4 * found.stderr)


def test_median_distance_is_the_median_and_leaves_zeros_out():
    x, y = normal(40, 3, 1), normal(50, 3, 2)
    pooled = torch.cat([x, y]).numpy()
    every = distances(pooled, pooled)[np.triu_indices(90, 1)]
    assert median_distance(x, y) == pytest.approx(float(torch.from_numpy(every).median()), rel=1e-10)
    assert median_distance(x[:2].repeat(50, 1)) == pytest.approx(float((x[0] - x[1]).norm()), rel=1e-8)
    assert median_distance(normal(3000, 2, 1), seed=1) == median_distance(normal(3000, 2, 1), seed=1)


def test_mmd_refuses_what_it_cannot_measure():
    x = normal(10)
    for call, told in (
        (lambda: mmd(x, x, kernel="gausian"), "Did you mean 'gaussian'"),
        (lambda: mmd(x, x, bandwidth=0.0), "no width"),
        (lambda: mmd(x, x, bandwidth=math.nan), "no width"),
        (lambda: mmd(x, x, kernel="polynomial", bandwidth=1.0), "has none"),
        (lambda: mmd(torch.ones(5, 2), torch.ones(6, 2)), "all 11 rows are equal"),
        (lambda: mmd_test(torch.ones(5, 2), torch.ones(6, 2)), "all 11 rows are equal"),
        (lambda: mmd(x[:3], x), "3 rows"),
        (lambda: mmd_test(x, normal(10, 3)), "entries a row"),
    ):
        with pytest.raises(InvalidInput, match=told):
            call()
    assert math.isfinite(mmd(x * torch.tensor([1.0, 0.0]), x * torch.tensor([1.0, 0.0])).value)


def test_permutation_p_values_of_equal_laws_are_uniform():
    found = [mmd_test(normal(40, 3, 2 * seed), normal(30, 3, 2 * seed + 1), permutations=199, seed=seed) for seed in range(200)]
    assert scipy.stats.kstest([each.value for each in found], "uniform").pvalue > 0.01
    assert min(each.value for each in found) >= 1 / 200


def test_permutation_p_value_counts_what_relabelling_by_hand_counts():
    x, y = pair(5, 4, 2, 1.0)
    kernel = lambda a, b: rbf_kernel(a, b, gamma=1 / 8)  # noqa: E731
    pooled = torch.cat([x, y]).numpy()
    values = []
    for first in combinations(range(9), 5):
        rest = [row for row in range(9) if row not in first]
        values.append(plain_unbiased(kernel, pooled[list(first)], pooled[rest]))
    exact = np.mean(np.array(values) >= plain_unbiased(kernel, x.numpy(), y.numpy()) - 1e-12)
    found = mmd_test(x, y, kernel="gaussian", bandwidth=2.0, permutations=4999)
    assert found.value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4999) + 1 / 5000)


def test_different_laws_get_the_smallest_p_value():
    found = mmd_test(normal(100, 3, 1), normal(100, 3, 2) * 2)
    assert found.value == pytest.approx(1 / 1000)
    assert found == mmd_test(normal(100, 3, 1), normal(100, 3, 2) * 2)


# Wasserstein


@pytest.mark.parametrize("n, m", [(30, 30), (30, 47), (64, 16), (1, 9)])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_wasserstein_in_one_dimension_against_pot_and_scipy(n, m, p):
    x, y = pair(n, m, 3)
    x[0], y[-1] = 0.5, 0.5
    found = wasserstein_1d(x, y, p=p)
    assert found.numpy() == pytest.approx(ot.wasserstein_1d(x.numpy(), y.numpy(), p=p) ** (1 / p), rel=REFERENCE)
    assert wasserstein_1d(x[:, 1], y[:, 1], p=p).shape == ()
    assert wasserstein_1d(x.tolist(), y.tolist(), p=p).shape == (3,)
    if p == 1:
        assert float(wasserstein_1d(x[:, 0].numpy(), y[:, 0].numpy())) == pytest.approx(
            scipy.stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()), rel=REFERENCE
        )


@pytest.mark.parametrize("n, m, p", [(50, 50, 2.0), (50, 71, 2.0), (50, 71, 1.0)])
def test_sliced_wasserstein_against_pot(n, m, p):
    x, y = pair(n, m, 6)
    unit = torch.nn.functional.normalize(normal(6, 40, 3), dim=0)
    reference = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=unit.numpy(), p=p)
    assert sliced_wasserstein(x, y, directions=unit, p=p).value == pytest.approx(float(reference), rel=REFERENCE)


def test_sliced_wasserstein_of_a_shift_is_known_and_batches_do_not_matter(monkeypatch):
    x = normal(100, 4, 1)
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    unit = torch.nn.functional.normalize(normal(4, 60, 3), dim=0)
    found = sliced_wasserstein(x, x + shift, directions=unit)
    assert found.value == pytest.approx(float((unit.T @ shift).pow(2).mean().sqrt()), rel=1e-10)
    many = sliced_wasserstein(x, x + shift, projections=4000, seed=5)
    assert many.value == pytest.approx(float(shift.norm()) / 2, abs=4 * many.stderr)
    monkeypatch.setattr("manykin.metrics.sliced.BATCH_ENTRIES", 1000)
    again = sliced_wasserstein(x, x + shift, directions=unit)
    assert (again.value, again.stderr) == pytest.approx((found.value, found.stderr), rel=1e-10)
    assert sliced_wasserstein(x, x).value == sliced_wasserstein(x, x).stderr == 0


@pytest.mark.parametrize("shift, low, high", [(0.8, 0.75, 1.3), (0.0, 0.9, 2.2)])
def test_sliced_wasserstein_error_is_the_spread_of_its_values(shift, low, high):
    found = [sliced_wasserstein(normal(90, 3, 2 * s), normal(70, 3, 2 * s + 1) + shift, projections=32, seed=s) for s in range(120)]
    spread = float(np.std([each.value for each in found], ddof=1))
    assert low < math.sqrt(np.mean([each.stderr**2 for each in found])) / spread < high


def test_wasserstein_refuses_what_it_cannot_measure():
    x = normal(10)
    for call, told in (
        (lambda: wasserstein_1d(x, x, p=0.5), "no order"),
        (lambda: wasserstein_1d(x[:0], x), "0 rows"),
        (lambda: sliced_wasserstein(x, x, p=math.inf), "no order"),
        (lambda: sliced_wasserstein(x, x, projections=1), "too few"),
        (lambda: sliced_wasserstein(x, x, projections=True), "too few"),
        (lambda: sliced_wasserstein(x, x, directions=normal(3, 5)), r"shape \(3, 5\)"),
        (lambda: sliced_wasserstein(x, normal(10, 3)), "entries a row"),
        (lambda: sliced_wasserstein(x / 0, x), "not finite"),
    ):
        with pytest.raises(InvalidInput, match=told):
            call()


# the classifier test


def named(found: list[Estimate]) -> dict[str, Estimate]:
    return {each.name: each for each in found}


def test_classifier_p_values_of_equal_laws_are_uniform():
    found = [named(classifier_two_sample(normal(60, 3, 2 * seed), normal(60, 3, 2 * seed + 1), seed=seed)) for seed in range(200)]
    assert scipy.stats.kstest([each["c2st_p"].value for each in found], "uniform").pvalue > 0.01
    for name in ("c2st_accuracy", "c2st_auc"):
        values, errors = ([getattr(each[name], part) for each in found] for part in ("value", "stderr"))
        assert np.mean(values) == pytest.approx(0.5, abs=4 * np.std(values) / math.sqrt(200))
        assert np.std(values) == pytest.approx(np.mean(errors), rel=4 / math.sqrt(400))


def test_classifier_reaches_what_is_possible_and_no_more():
    found = named(classifier_two_sample(normal(8000, 1, 1), normal(8000, 1, 2) + 1, classifiers=["logistic"]))
    for name, best in (("c2st_accuracy", scipy.stats.norm.cdf(0.5)), ("c2st_auc", scipy.stats.norm.cdf(1 / math.sqrt(2)))):
        assert found[name].value == pytest.approx(best, abs=4 * found[name].stderr)
        assert found[name].stderr < 0.01
    assert found["c2st_p"].value < P


def test_gradient_boosting_is_chosen_where_only_the_spread_differs_and_the_note_names_features():
    x, y = normal(600, 5, 1), normal(600, 5, 2)
    spread = named(classifier_two_sample(x, y * 2))
    assert spread["c2st_auc"].note == "gradient boosting"
    assert spread["c2st_p"].value < P
    y[:, 3] += 1.5
    moved = named(classifier_two_sample(x, y))["c2st_accuracy"].note
    assert "feature 3 (counted from 0)" in moved
    assert "logistic regression 0." in moved
    assert "feature" not in named(classifier_two_sample(x, normal(600, 5, 7)))["c2st_accuracy"].note


def test_area_and_its_error_are_those_of_references():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 60])
    scores = np.round(random.normal(size=100) + labels, 1)
    area, error, p = classifier_module._area(scores, labels)
    assert area == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)
    wins = (scores[labels == 1][:, None] > scores[labels == 0]) + 0.5 * (scores[labels == 1][:, None] == scores[labels == 0])
    assert error**2 == pytest.approx(wins.mean(axis=1).var(ddof=1) / 60 + wins.mean(axis=0).var(ddof=1) / 40, rel=1e-9)
    assert p == scipy.stats.mannwhitneyu(scores[labels == 1], scores[labels == 0], alternative="greater", method="asymptotic").pvalue
    balanced = np.repeat([0, 1], 50)
    assert classifier_module._accuracy(scores, balanced)[0] == pytest.approx(accuracy_score(balanced, scores > 0))


def test_samples_without_any_difference_and_with_every_difference():
    same = named(classifier_two_sample(torch.ones(30, 2), torch.ones(40, 2)))
    assert (same["c2st_accuracy"].value, same["c2st_auc"].value, same["c2st_p"].value) == (0.5, 0.5, 1.0)
    assert "on 30 rows of each sample" in same["c2st_accuracy"].note
    apart = named(classifier_two_sample(torch.zeros(200, 2), torch.ones(200, 2)))
    assert apart["c2st_accuracy"].value == apart["c2st_auc"].value == 1
    assert 0 < apart["c2st_accuracy"].stderr < 0.05
    assert apart["c2st_p"].value < P


def test_classifier_test_refuses_what_it_cannot_measure():
    x = normal(30)
    for call, told in (
        (lambda: classifier_two_sample(x[:19], x), "19 rows"),
        (lambda: classifier_two_sample(x, normal(30, 3)), "entries a row"),
        (lambda: classifier_two_sample(x, x / 0), "not finite"),
        (lambda: classifier_two_sample(x, x, classifiers=["forest"]), "'forest' is not known"),
        (lambda: classifier_two_sample(x, x, classifiers=[]), "not known"),
    ):
        with pytest.raises(InvalidInput, match=told):
            call()


def test_classifier_test_is_repeatable_quick_and_silent():
    x, y = normal(360, 64, 1), normal(360, 64, 2)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = classifier_two_sample(x, y, seed=3)
    assert time.process_time() - began < 3
    assert found == classifier_two_sample(x, y, seed=3)
    assert found != classifier_two_sample(x, y, seed=4)


# in the table


def test_honest_and_spoiled_digits_by_every_two_sample_metric():
    data = load_data("digits")
    rows = data.train.all().x
    case = Case(data.space, data.train, data.test, rows[:300])
    assert set(NAMES) <= set(chosen("standard"))
    honest = named(list(judge(case, NAMES).estimates))
    broken = (rows[:300].long() + torch.randint(0, 9, rows[:300].shape, generator=torch.Generator().manual_seed(0))).clamp(max=16)
    found = judge(Case(data.space, data.train, data.test, broken.to(rows.dtype)), NAMES)
    spoiled = named(list(found.estimates))
    assert found.warnings == ()
    names = ["energy_distance", "mmd", "mmd_p", "sliced_wasserstein", "c2st_accuracy", "c2st_auc", "c2st_p"]
    assert [name for name in honest if not name.endswith("_floor")] == names
    for name in names:
        assert figure(name) is not None
        assert f"{name}_floor" in spoiled
        assert honest[name].data == "pixels"
        assert as_good_as_real(honest[name], honest[f"{name}_floor"])
        assert not as_good_as_real(spoiled[name], spoiled[f"{name}_floor"])


def test_samples_that_are_all_one_row_are_a_value_and_constant_data_a_line():
    data = load_data("digits")
    rows = data.train.all().x
    collapsed = judge(Case(data.space, data.train, data.test, rows[:1].expand(100, *rows.shape[1:])), NAMES)
    assert collapsed.warnings == ()
    assert named(list(collapsed.estimates))["mmd"].value > 0.1
    assert all(math.isfinite(each.value) for each in collapsed.estimates)
    flat = Rows(torch.full((100, 2), 3.0))
    constant = judge(Case(Vector(2), flat, flat, flat.all().x + 1), NAMES)
    assert len(constant.warnings) == 1
    assert "mmd could not be computed: all 100 rows are equal" in constant.warnings[0]
    assert {"energy_distance", "sliced_wasserstein", "c2st_accuracy"} <= set(named(list(constant.estimates)))
    assert named(list(constant.estimates))["energy_distance"].value == pytest.approx(2 * math.sqrt(2), rel=1e-6)
