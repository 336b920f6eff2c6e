"""Memorisation and diversity: exact neighbours, calibrated tests under the null, planted copies and collapse, and what stands in their way."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, chi2, fisher_exact, kstest, mannwhitneyu, norm
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

import manykin as mk
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput
from manykin.metrics import Case, judge
from manykin.metrics.cells import centres, members
from manykin.metrics.copying import Reach, authenticity, ct_test, different, holdout_share, near_duplicates
from manykin.metrics.diversity import _mean_distance, diversity, histogram_distance
from manykin.metrics.identical import digests, distinct
from manykin.metrics.memorisation import _copying, _Test, memorisation
from manykin.metrics.neighbours import nearest, others
from manykin.random import generator
from manykin.spaces import Column, Image, Record, Table, Tokens, Vector

P = 1e-4
PICTURES = torch.tensor(load_digits().images, dtype=torch.uint8)[:, None]
DIGITS = PICTURES.reshape(len(PICTURES), -1).double() / 16
SPACE = Image((1, 8, 8), 17)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "test"), dtype=torch.float64)


def thirds(seed, train=600, test=400, n=400):
    order = torch.randperm(len(DIGITS), generator=generator(seed, "thirds"))
    return order[:train], order[train : train + test], order[train + test : train + test + n]


def digits_case(samples, seed=0, **more):
    train, test, _ = thirds(seed)
    return Case(SPACE, Rows(PICTURES[train]), Rows(PICTURES[test]), samples, seed=seed, **more)


def by_name(finding):
    return {each.name: each for each in finding.estimates}


class Halves:
    """An extractor that averages each picture's halves and quarters; no network, features of known meaning."""

    name, hash, inception = "quarters", "0", False

    def features(self, x):
        return torch.nn.functional.avg_pool2d(x.float(), 2).reshape(len(x), -1) / 16

    def probabilities(self, x):
        return None


@pytest.mark.parametrize("n,m,d,k", [(300, 700, 3, 1), (1500, 9000, 20, 5), (200, 60, 64, 3), (50, 12, 2, 12), (400, 500, 1, 2)])
@pytest.mark.parametrize("offset,scale", [(0.0, 1.0), (1e4, 1e-3)])
def test_nearest_is_that_of_scikit_learn(n, m, d, k, offset, scale):
    queries, reference = offset + scale * normal(n, d), offset + scale * normal(m, d, seed=1)
    distances, indices = nearest(queries, reference, k)
    theirs, where = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(reference - offset).kneighbors(queries - offset)
    torch.testing.assert_close(distances, torch.tensor(theirs), rtol=1e-6, atol=1e-9 * scale)
    assert torch.equal(indices, torch.tensor(where))
    assert torch.equal(distances, (reference[indices] - queries[:, None]).norm(dim=2))


@pytest.mark.parametrize("d", [4, 20])
def test_ties_go_to_the_lowest_index_and_copies_have_distance_zero(d):
    reference = (normal(9000, d) > 0).double()
    queries = torch.cat([reference[-50:], (normal(50, d, seed=1) > 0).double()])
    distances, indices = nearest(queries, reference, 4)
    full = torch.cdist(queries, reference, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1, stable=True)
    assert torch.equal(indices, full.indices[:, :4])
    torch.testing.assert_close(distances, full.values[:, :4])
    assert (distances[:50, 0] == 0).all()


def test_nearest_stays_exact_beside_an_outlier_that_swallows_single_precision():
    reference = normal(9000, 32)
    reference[17] = 1e9
    distances, indices = nearest(normal(40, 32, seed=1), reference, 3)
    full = torch.cdist(normal(40, 32, seed=1), reference, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1, stable=True)
    assert torch.equal(indices, full.indices[:, :3])
    torch.testing.assert_close(distances, full.values[:, :3], rtol=1e-12, atol=0)


def test_a_row_is_not_its_own_neighbour_but_its_twin_is():
    rows = normal(500, 3)
    rows[7] = rows[3]
    distances, indices = nearest(rows, rows, 2, exclude_self=True)
    assert not (indices == torch.arange(500)[:, None]).any()
    assert (distances[3, 0], indices[3, 0], indices[7, 0]) == (0, 7, 3)
    theirs = NearestNeighbors(n_neighbors=2).fit(rows).kneighbors()[0]
    torch.testing.assert_close(distances, torch.tensor(theirs))
    same = torch.zeros(30, 2)
    distances, indices = nearest(same, same, 2, exclude_self=True)
    assert (distances == 0).all()
    assert indices[0].tolist() == [1, 2]
    assert indices[5].tolist() == [0, 1]
    assert torch.equal(others(rows, torch.tensor([7, 2]), 2)[0], nearest(rows, rows, 2, exclude_self=True)[0][[7, 2]])


@pytest.mark.parametrize(
    "call,told",
    [
        (lambda: nearest(normal(3, 2), normal(4, 3), 1), "2 entries a row and reference 3"),
        (lambda: nearest(normal(3, 2), normal(4, 2), 5), "k = 5 neighbours among 4 rows"),
        (lambda: nearest(normal(3, 2), normal(4, 2), 0), "k = 0"),
        (lambda: nearest(normal(3, 2), torch.tensor([[0.0, math.nan]]), 1), "not finite in row 0"),
        (lambda: nearest(normal(3, 2), normal(4, 2), 1, exclude_self=True), "expects the same rows"),
        (lambda: others(normal(1, 2), torch.tensor([0]), 1), "k = 1 other neighbours among 1 rows"),
        (lambda: ct_test(normal(50, 2), normal(5, 2), normal(50, 2)), "no cell of the C_T test has 10 of the 5 held-out rows"),
        (lambda: ct_test(normal(50, 2), normal(50, 2), normal(50, 3)), "train has 2 entries"),
        (lambda: ct_test(torch.zeros(20, 2), torch.zeros(20, 2), torch.zeros(20, 2)), "distances that differ"),
        (lambda: Reach.of(normal(5, 2), torch.zeros(1, 2)), "1 different training rows"),
        (lambda: holdout_share(normal(5, 2), normal(1, 2), normal(5, 2)), "1 held-out rows"),
    ],
)
def test_bad_input_is_one_line(call, told):
    with pytest.raises(InvalidInput, match=told) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_neighbours_of_many_rows_take_little_memory():
    code = (
        "import resource, torch; torch.set_num_threads(1); from manykin.metrics.neighbours import nearest\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "a = torch.randn(30_000, 64); before = peak(); nearest(a[:6000], a, 3); print(peak() - before)"
    )
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 400, f"{grown} MB; the distance matrix alone would be 1440 MB"


def test_cells_are_the_clusters_of_the_data():
    place = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]).double()
    label = torch.arange(300) % 3
    rows = place[label] + 0.1 * normal(300, 2)
    found = centres(rows, 3, seed=1)
    cell = members(rows, found)
    assert all(len(cell[label == each].unique()) == 1 for each in range(3))
    assert len(cell.unique()) == 3
    for each in range(3):
        torch.testing.assert_close(found[each], rows[cell == each].mean(dim=0))
    assert len(centres(torch.zeros(9, 2), 4)) == 1, "no more cells than distinct rows"


@pytest.fixture(scope="module")
def null():
    """Held-out rows in the place of samples, 200 times."""
    found = []
    for seed in range(200):
        train, test, fake = (DIGITS[part] for part in thirds(seed))
        rows = different(train)
        reach = Reach.of(fake, rows), Reach.of(test, rows)
        found.append(
            (ct_test(train, test, fake, seed=seed), holdout_share(train, test, fake, seed=seed), near_duplicates(*reach), authenticity(*reach))
        )
    return list(zip(*found, strict=True))


def test_ct_is_standard_normal_for_honest_samples(null):
    assert kstest([each.value for each in null[0]], "norm").pvalue > 0.01
    assert all(each.dropped < 0.2 and len(each.cells) == 10 for each in null[0])


def test_holdout_share_of_honest_samples_is_half_with_the_error_it_says(null):
    assert kstest([(each.value - 0.5) / each.stderr for each in null[1]], "norm").pvalue > 0.01
    assert kstest([each.p for each in null[1]], "uniform").pvalue > 0.01


def test_honest_samples_are_near_duplicates_as_often_as_held_out_rows(null):
    gaps = [each.value - each.floor for each in null[2]]
    assert abs(np.mean(gaps)) < norm.isf(P / 2) * np.std(gaps) / math.sqrt(200)
    for level in (0.01, 0.1):
        assert binomtest(sum(each.p < level for each in null[2]), 200, level, alternative="greater").pvalue > P
    gaps = [each.value - each.floor for each in null[3]]
    assert abs(np.mean(gaps)) < norm.isf(P / 2) * np.std(gaps) / math.sqrt(200)


def test_the_p_value_of_near_duplicates_is_fishers_and_holds_its_level_with_ties():
    """r on five values, the first with a probability of 5 %: ties reach the threshold in every draw."""

    def reach(n, chance):
        ratio = torch.multinomial(torch.tensor([0.05, 0.05, 0.05, 0.05, 0.8]), n, replacement=True, generator=chance).double()
        return Reach(ratio, torch.arange(n), torch.ones(n, dtype=torch.float64))

    chance, found = generator(0, "ties"), []
    for _ in range(3000):
        fake, real = reach(400, chance), reach(100, chance)
        found.append(near_duplicates(fake, real))
    fake_count, real_count = (int((each.ratio <= found[-1].threshold).sum()) for each in (fake, real))
    theirs = fisher_exact([[fake_count, 400 - fake_count], [real_count, 100 - real_count]], alternative="greater")
    assert found[-1].p == pytest.approx(theirs.pvalue, rel=1e-9)
    for level in (0.1, 0.05, 0.01, 0.001):
        assert binomtest(sum(each.p < level for each in found), 3000, level, alternative="greater").pvalue > 0.01


def test_honest_rows_that_repeat_raise_no_alarm_of_copies():
    """Whole numbers of which held-out rows repeat training rows: 100 evaluations, of which 0.1 should raise one."""

    def draw(seed, part, n):
        return (2 * normal(n, 4, seed=10 * seed + part)).round()

    alarms = 0
    for seed in range(100):
        case = Case(Vector(4), Rows(draw(seed, 0, 300)), Rows(draw(seed, 1, 200)), draw(seed, 2, 200), seed=seed)
        alarms += any("copies training data" in line for line in memorisation(case).warnings)
    assert alarms <= binom.isf(P, 100, 1e-3)
    copies = memorisation(Case(Vector(4), Rows(draw(0, 0, 300)), Rows(draw(0, 1, 200)), draw(0, 0, 300)[:200]))
    assert "copies training data" in copies.warnings[0]


def test_tests_are_joined_at_their_share_of_the_level():
    near = _Test("near-duplicates", "near_duplicates", 2e-4, "5 %", "held-out rows 1 %")
    assert _copying([near], 7) == []
    (line,) = _copying([near, dataclasses.replace(near, name="near_duplicates_features", value="7 %")], 4)
    assert line.startswith("near-duplicates 5 % (near_duplicates; held-out rows 1 %) and 7 % (near_duplicates_features; held-out rows 1 %): samples")


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.4])
def test_errors_of_diversity_and_near_duplicates_are_their_spread(scale):
    """Honest samples, and shrunk ones: also the threshold, an order statistic of real rows, is left to chance."""
    found = []
    for seed in range(120):
        train, test, fake = (normal(200, 3, seed=7 * seed + part) for part in range(3))
        case = Case(Vector(3), Rows(train), Rows(test), scale * fake, seed=seed)
        found.append(by_name(diversity(case)) | by_name(memorisation(case)))
    high = {"duplicated_samples": 1.3, "sample_spread": 1.3, "mode_coverage": 1.2, "near_duplicates": 1.5}
    for name, most in high.items():
        spread = np.var([each[name].value for each in found], ddof=1) * 119
        stated = np.mean([each[name].stderr ** 2 for each in found])
        assert stated > spread / chi2.isf(P, 119), f"{name}: too small"
        assert stated < most**2 * spread / chi2.ppf(P, 119), f"{name}: too large"


def test_mean_distance_to_the_nearest_and_its_jackknife_by_leaving_rows_out():
    rows = torch.cat([normal(30, 2), normal(4, 2)])
    value, error = _mean_distance(*nearest(rows, rows, 2, exclude_self=True))
    without = [float(nearest(part, part, 1, exclude_self=True)[0].mean()) for part in (torch.cat([rows[:i], rows[i + 1 :]]) for i in range(34))]
    assert value == pytest.approx(float(nearest(rows, rows, 1, exclude_self=True)[0].mean()))
    assert error == pytest.approx(math.sqrt(33 * np.var(without)), rel=1e-9)


def test_ct_of_one_cell_is_the_mann_whitney_test_also_with_ties():
    train, test, fake = ((2 * normal(size, 2, seed=seed)).round() / (1 + (seed == 2)) for seed, size in enumerate((80, 50, 70)))
    found = ct_test(train, test, fake, cells=1)
    real, drawn = (torch.cdist(rows, train, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1) for rows in (test, fake))
    theirs = mannwhitneyu(drawn, real, use_continuity=False, method="asymptotic")
    assert 2 * norm.sf(abs(found.value)) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.farther == pytest.approx(theirs.statistic / (50 * 70), rel=1e-12)
    assert found.average == pytest.approx(found.value)


def test_ct_weighs_cells_and_leaves_small_ones_out():
    place = torch.tensor([[0.0, 0.0], [99.0, 0.0], [0.0, 99.0]]).double()

    def draw(sizes, seed):
        return torch.cat([where + normal(size, 2, seed=seed + index) for index, (where, size) in enumerate(zip(place, sizes, strict=True))])

    train, test, fake = draw((60, 60, 60), 0), draw((30, 90, 5), 10), draw((40, 40, 20), 20)
    found = ct_test(train, test, fake, cells=3)
    cells = {cell.test: cell for cell in found.cells}
    assert cells[5].z is None
    assert found.dropped == pytest.approx(0.2)
    a, b = cells[30].z, cells[90].z
    assert found.average == pytest.approx(0.25 * a + 0.75 * b)
    assert found.value == pytest.approx((0.25 * a + 0.75 * b) / math.hypot(0.25, 0.75))
    alone = ct_test(train[60:120], test[30:120], fake[40:80], cells=1)
    assert alone.value == pytest.approx(b)


def test_standard_error_of_ct_is_its_spread_also_where_samples_are_not_honest():
    train, values, errors = normal(200, 2), [], []
    for seed in range(200):
        found = ct_test(train, normal(200, 2, seed=1000 + seed), 1.5 * normal(200, 2, seed=5000 + seed), cells=4)
        values.append(found.value)
        errors.append(found.stderr)
    ratio = np.var(values, ddof=1) / np.mean(np.square(errors))
    assert chi2.ppf(P / 2, 199) / 199 < ratio < chi2.isf(P / 2, 199) / 199
    assert np.mean(values) > 3


def test_authenticity_by_its_definition():
    train, test, fake = normal(90, 3), normal(40, 3, seed=1), 0.5 * normal(50, 3, seed=2)
    train = torch.cat([train, train[:5]])
    found = authenticity(Reach.of(fake, different(train)), Reach.of(test, different(train)))
    tree = NearestNeighbors(n_neighbors=1).fit(train[:90])
    own = tree.kneighbors()[0][:, 0]
    for rows, value in ((fake, found.value), (test, found.floor)):
        distance, index = (each[:, 0] for each in tree.kneighbors(rows))
        assert value == pytest.approx((distance > own[index]).mean())
    assert len(different(train)) == 90


def test_all_copies_and_pure_noise():
    train, test, _ = (DIGITS[part] for part in thirds(0))
    rows = different(train)
    copies = train[:400] + 0.02 * normal(400, 64)
    found = ct_test(train, test, copies)
    assert found.value < -10
    assert found.farther == 0
    near = near_duplicates(Reach.of(copies, rows), Reach.of(test, rows))
    assert near.value > 0.95
    assert near.p < 1e-50
    assert near.floor < 0.02
    assert authenticity(Reach.of(copies, rows), Reach.of(test, rows)).value < 0.05
    share = holdout_share(train, test, copies)
    assert share.value > 0.8
    assert share.p < 1e-10
    assert ct_test(train, test, torch.rand(400, 64, generator=generator(0))).value > 10


def test_standard_errors_know_that_repeated_samples_are_few():
    train, test, fake = (DIGITS[part] for part in thirds(0))
    share = holdout_share(train, test, fake[:5].repeat(80, 1))
    assert share.stderr > 0.1
    assert share.p > 1e-3


def test_identical_rows():
    x = torch.tensor([[1.0, math.nan], [1.0, math.nan], [0.0, 2.0], [-0.0, 2.0], [1.0, 0.0]])
    keys = digests(x)
    assert [keys[0] == keys[1], keys[2] == keys[3], len(set(keys))] == [True, True, 3]
    assert distinct(x).tolist() == [0, 2, 4]
    precise = normal(5, 2)
    assert digests(precise, precise.float()) == digests(precise.float())
    assert digests(precise) != digests(precise.float().double())
    both = {"a": torch.tensor([[1], [1]]), "b": torch.tensor([[2.0], [3.0]])}
    assert len(set(digests(both))) == 2
    assert digests(torch.tensor([[3, 1]]), torch.tensor([[3.0, 1.0]])) == digests(torch.tensor([[3.0, 1.0]]), torch.tensor([[3, 1]]))


@pytest.mark.parametrize("seed", [0, 1])
def test_honest_pictures_raise_no_alarm(seed):
    fake = PICTURES[thirds(seed)[2]]
    case = digits_case(fake, seed)
    copies, spread = memorisation(case), diversity(case)
    assert copies.warnings == spread.warnings == ()
    found = by_name(copies) | by_name(spread)
    assert found["exact_copies"].value == found["exact_copies_floor"].value == 0
    assert found["distinct_share"].value == 1
    assert abs(found["sample_spread"].value - 1) < norm.isf(P / 2) * found["sample_spread"].stderr
    assert abs(found["mode_distance"].value) < norm.isf(P / 2) * found["mode_distance"].stderr
    assert all(each.stderr is not None and math.isfinite(each.value) and each.quantity == "samples" for each in found.values())


@pytest.mark.parametrize("share,seen", [(0.05, ["near_duplicates", "exact_copies"]), (1.0, ["ct_score", "near_duplicates", "exact_copies"])])
def test_planted_copies_are_counted_and_warned_of(share, seen):
    train, _, honest = thirds(0)
    copied = round(share * 400)
    found = memorisation(digits_case(PICTURES[torch.cat([train[:copied], honest[copied:]])]))
    values = by_name(found)
    assert values["exact_copies"].value == pytest.approx(share)
    assert share <= values["near_duplicates"].value < share + 0.04
    assert len(found.warnings) == 1
    assert all(name in found.warnings[0] for name in seen)
    assert "the model copies training data; use a larger bandwidth" in found.warnings[0]
    assert (found.tensors["neighbours.distance"][:, 0] == 0).all()
    assert torch.equal(found.tensors["neighbours.samples"], found.tensors["neighbours.train"][:, 0])


def test_pictures_of_the_nearest_neighbours():
    train, _, honest = thirds(0)
    fake = PICTURES[honest].clone()
    fake[1] = fake[0] = PICTURES[train[0]]
    found = memorisation(digits_case(fake)).tensors
    assert found["neighbours.samples"].shape == (8, 1, 8, 8)
    assert found["neighbours.train"].shape == (8, 3, 1, 8, 8)
    assert found["neighbours.samples"].dtype == torch.uint8
    assert torch.equal(found["neighbours.samples"][0], fake[0])
    assert len(distinct(found["neighbours.samples"])) == 8, "each kind of sample once"
    gap = (found["neighbours.samples"][:, None].double() - found["neighbours.train"].double()).flatten(2).norm(dim=2) / 16
    torch.testing.assert_close(gap, found["neighbours.distance"])
    assert (gap.diff(dim=1) >= 0).all()
    assert (gap[:, 0].diff() >= 0).all()


def test_features_are_judged_beside_pixels():
    train, _, _ = thirds(0)
    fake = (PICTURES[train[:400]].int() + (torch.rand(400, 1, 8, 8, generator=generator(0)) < 0.05)).clamp(max=16).to(torch.uint8)
    found = memorisation(digits_case(fake, extractor=Halves()))
    values = by_name(found)
    assert values["ct_score_features"].value < -10
    assert values["ct_score_features"].data == "quarters"
    assert values["near_duplicates_features"].value > 0.5
    assert set(found.details["memorisation"]) == {"rows", "view", "view_features"}
    (warning,) = found.warnings
    assert "(near_duplicates_features; held-out rows" in warning
    assert warning.count("the C_T test") == 1
    assert "(ct_score) and -" in warning
    assert "(ct_score_features)" in warning
    told = {each.name for name in ("memorisation", "diversity") for each in mk_metric(name).figures}
    assert {name.removesuffix("_floor") for name in [*values, *by_name(diversity(digits_case(fake)))]} <= told


def mk_metric(name):
    from manykin.metrics.table import metric

    return metric(name)


def test_noise_is_warned_of_as_underfitting():
    noise = torch.randint(17, (400, 1, 8, 8), generator=generator(0), dtype=torch.uint8)
    found = memorisation(digits_case(noise))
    assert by_name(found)["ct_score"].value > 10
    assert len(found.warnings) == 1
    assert "farther from the training rows than a held-out row with probability 100 %" in found.warnings[0]
    assert "underfits" in found.warnings[0]
    assert found.warnings[0].startswith("the C_T test ")
    both = memorisation(digits_case(noise, extractor=Halves())).warnings
    assert len(both) == 1, "one line for pixels and features"
    assert all(name in both[0] for name in ("(ct_score) and ", "(ct_score_features): a sample", "probability 100 % and "))


def test_collapse_is_warned_of():
    fake = PICTURES[thirds(0)[2]]
    few = fake[:10].repeat(40, 1, 1, 1)
    found = diversity(digits_case(few))
    assert "only 10 distinct samples of 400; of as many real rows 100% are distinct: the model has collapsed" in found.warnings[0]
    values = by_name(found)
    assert values["distinct_share"].value == pytest.approx(10 / 400)
    assert values["duplicated_samples"].value == 1
    assert values["sample_spread"].value == 0
    assert values["mode_coverage"].value < 0.2 < values["mode_coverage_floor"].value
    assert "parts of the data are missing" in found.warnings[1]
    pictures = DIGITS.float().reshape(-1, 1, 8, 8)
    noisy = pictures[1000:1010].repeat(40, 1, 1, 1) + 0.01 * normal(400, 1, 8, 8).float()
    nearly = Case(Image((1, 8, 8), None), Rows(pictures[:600]), Rows(pictures[600:1000]), noisy)
    told = diversity(nearly)
    assert by_name(told)["distinct_share"].value == 1
    assert "100% of samples have a near-identical twin" in told.warnings[0]


def test_a_class_that_is_missing_shows_in_the_mode_histogram():
    place = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]]).double()
    train, test, fake = (place[torch.arange(400) % 4] + normal(400, 2, seed=seed) for seed in range(3))
    space = Vector(2)
    whole, part = (
        by_name(diversity(Case(space, Rows(train), Rows(test), rows)))["mode_distance"] for rows in (fake, fake[torch.arange(400) % 4 > 0])
    )
    assert abs(whole.value) < norm.isf(P / 2) * whole.stderr
    assert part.value > norm.isf(P) * part.stderr


def test_histogram_distance_is_unbiased_and_one_for_disjoint_histograms():
    chance = torch.rand(30, generator=generator(1)) + 0.1
    draws = [torch.multinomial(chance, 2000, replacement=True, generator=generator(seed, "bins")) for seed in range(400)]
    found = [histogram_distance(*(torch.bincount(each, minlength=30) for each in draws[at : at + 2])) for at in range(0, 400, 2)]
    values, errors = zip(*found, strict=True)
    assert abs(np.mean(values)) < norm.isf(P / 2) * np.std(values) / math.sqrt(200)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=norm.isf(P / 2) / math.sqrt(400) + 0.35), "the error is that of either case, at most"
    value, _ = histogram_distance(torch.tensor([500, 500, 0, 0]), torch.tensor([0, 0, 500, 500]))
    assert value == pytest.approx(1, abs=2e-3)


def test_duplicated_training_rows_do_not_hide_copies():
    train, test, honest = thirds(0)
    case = Case(SPACE, Rows(PICTURES[train].repeat(2, 1, 1, 1)), Rows(PICTURES[test]), PICTURES[torch.cat([train[:200], honest[:200]])])
    assert 0.5 <= by_name(memorisation(case))["near_duplicates"].value < 0.55


def test_tables_with_missing_values_and_rows_that_repeat():
    space = Table((
        Column("size", "integer", missing=True), Column("colour", "categorical", ("red", "green"), missing=True),
        Column("taste", "categorical", ("sweet", "sour", "none")),
    ))  # fmt: skip

    def draw(n, seed):
        chance = generator(seed, "table")
        size, colour = torch.randint(6, (n,), generator=chance).double(), torch.randint(2, (n,), generator=chance).double()
        size[torch.rand(n, generator=chance) < 0.2] = math.nan
        colour[torch.rand(n, generator=chance) < 0.1] = math.nan
        return torch.stack([size, colour, torch.randint(3, (n,), generator=chance).double()], dim=1)

    train, test, fake = draw(100, 0), draw(300, 1), draw(300, 2)
    found = memorisation(Case(space, Rows(train), Rows(test), fake))
    values = by_name(found)
    held = {digests(train)[index] for index in range(100)}
    assert values["exact_copies"].value == pytest.approx(sum(key in held for key in digests(fake)) / 300)
    assert values["exact_copies"].value > 0.5
    assert values["exact_copies_floor"].value > 0.5
    assert found.warnings == (), "rows that repeat by nature are no copies"
    assert diversity(Case(space, Rows(train), Rows(test), fake)).warnings == ()
    copied = memorisation(Case(space, Rows(train), Rows(test), train.repeat(3, 1)))
    assert "exact copies 100 % (exact_copies; held-out rows" in copied.warnings[0]


def test_a_round_trip_in_single_precision_leaves_a_copy_a_copy():
    train, test = normal(300, 3), normal(300, 3, seed=1)
    fake = train.float().double() * (1 + 1e-7)
    assert by_name(memorisation(Case(Vector(3), Rows(train), Rows(test), fake)))["exact_copies"].value == 1
    assert by_name(memorisation(Case(Vector(3), Rows(train), Rows(test), normal(300, 3, seed=2))))["exact_copies"].value == 0


def test_texts_are_judged_by_exact_copies_alone():
    chance = generator(0, "texts")
    train, test, fake = (torch.cat([torch.randint(1, 9, (60, 5), generator=chance), torch.zeros(60, 1, dtype=torch.int64)], dim=1) for _ in range(3))
    fake[:30] = train[:30]
    case = Case(Tokens(9, 6, end=0), Rows(train), Rows(test), fake)
    found = judge(case, ["memorisation", "diversity"])
    assert {each.name for each in found.estimates} == {"exact_copies", "exact_copies_floor", "distinct_share", "distinct_share_floor"}
    assert by_name(found)["exact_copies"].value >= 0.5
    assert found.warnings[0].startswith("exact copies")
    assert found.tensors == {}


def test_records_have_numbers_but_no_pictures():
    space = Record((("a", Vector(2)), ("b", Vector(1))))

    def draw(seed):
        rows = normal(100, 3, seed=seed)
        return {"a": rows[:, :2], "b": rows[:, 2:]}

    found = judge(Case(space, Rows(draw(0)), Rows(draw(1)), draw(0)), ["memorisation", "diversity"])
    assert by_name(found)["exact_copies"].value == 1
    assert by_name(found)["near_duplicates"].value == 1
    assert found.tensors == {}


def test_without_training_rows_diversity_remains():
    case = Case(Vector(3), None, Rows(normal(100, 3)), normal(100, 3, seed=1))
    assert mk_metric("memorisation").needs(case) == "the training rows are not at hand"
    found = judge(case, ["memorisation", "diversity"])
    assert {each.name.removesuffix("_floor") for each in found.estimates} == {"distinct_share", "duplicated_samples", "sample_spread"}


@pytest.mark.parametrize(
    "train,test,fake,told",
    [
        (normal(50, 3), normal(9, 3), normal(50, 3), "memorisation needs at least 10 rows of samples and of held-out data; there are 9"),
        (normal(50, 3), normal(50, 3), normal(5, 3), "there are 5"),
        (torch.zeros(50, 3), torch.zeros(50, 3), torch.zeros(50, 3), "there are 1 different training rows; expected at least 2"),
    ],
)
def test_too_few_rows_are_one_line(train, test, fake, told):
    found = judge(Case(Vector(3), Rows(train), Rows(test), fake), ["memorisation", "diversity"])
    assert any(told in line and "\n" not in line for line in found.warnings)


def test_a_constant_column_disturbs_nothing():
    train, test, fake = (torch.cat([normal(100, 2, seed=seed), torch.ones(100, 1)], dim=1) for seed in range(3))
    found = judge(Case(Vector(3), Rows(train), Rows(test), fake), ["memorisation", "diversity"])
    assert found.warnings == ()
    assert all(math.isfinite(each.value) for each in found.estimates)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_kernel_density_of_tiny_bandwidth_is_found_out(conditional):
    data = load_digits()
    condition = data.target[:900] if conditional else None
    fitted = mk.fit("kde", data.data[:900] + 0.1 * normal(900, 64).numpy(), condition=condition, options={"bandwidth": 0.05})
    held = data.data[900:1300] + 0.1 * normal(400, 64, seed=1).numpy()
    found = mk.evaluate(fitted, held, condition=data.target[900:1300] if conditional else None, metrics="memorisation,diversity", n=400)
    assert found["ct_score"].value < -3
    assert found["near_duplicates"].value > 0.9
    assert any("the model copies training data" in line for line in found.warnings)
    assert found.tensors["neighbours.train"].shape == (8, 3, 64)
