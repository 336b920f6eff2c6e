"""Fréchet and kernel distances and the Inception Score's formula: closed forms, naive references, bias, and errors that are honest."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import stats

from manykin.data.dataset import Rows
from manykin.errors import InvalidInput
from manykin.metrics import (
    Case,
    feature_moments,
    figure,
    frechet_distance,
    frechet_from_moments,
    frechet_infinity,
    inception_score,
    judge,
    kernel_distance,
)
from manykin.metrics.frechet import METRIC
from manykin.metrics.gaussians import gaussian_distance
from manykin.spaces import Image, Vector

P = 1e-4


def normal(seed, n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(seed, n, d):
    """Correlated rows with a mean, from a well-conditioned covariance."""
    mix = torch.eye(d, dtype=torch.float64) + 0.3 * normal(seed + 1000, d, d) / math.sqrt(d)
    return normal(seed, n, d) @ mix + normal(seed + 2000, 1, d)


def by_sqrtm(a, b):
    """The formula as it is written, through scipy's root of the product."""
    shift, first, second = (a.mean(0) - b.mean(0)).numpy(), np.cov(a.numpy().T), np.cov(b.numpy().T)
    return shift @ shift + np.trace(first) + np.trace(second) - 2 * np.trace(scipy.linalg.sqrtm(first @ second)).real


def within(z):
    return 2 * stats.norm.sf(abs(z)) > P


@pytest.mark.parametrize("n,m,d", [(300, 200, 5), (500, 500, 40), (900, 700, 128)])
def test_agrees_with_the_formula_through_sqrtm(n, m, d):
    a, b = mixed(0, n, d), mixed(1, m, d)
    found = frechet_distance(a, b)
    assert found.value == pytest.approx(by_sqrtm(a, b), rel=1e-6)
    assert (found.name, found.quantity, found.n) == ("frechet_distance", "samples", m)
    from_moments = frechet_from_moments(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert found.value == pytest.approx(from_moments, rel=1e-9)


@pytest.mark.parametrize("n,d", [(300, 7), (40, 40), (20, 64), (2, 5)])
def test_a_sample_is_at_no_distance_from_itself(n, d):
    x = mixed(0, n, d)
    assert frechet_distance(x, x).value == pytest.approx(0.0, abs=1e-10 * float(x.var(dim=0).sum()))


def test_closed_form_of_two_gaussians():
    """Covariances with common axes: the sum of squared differences of the standard deviations."""
    turn = torch.linalg.qr(normal(0, 6, 6)).Q
    first, second = torch.tensor([1.0, 2, 3, 0, 0.5, 7]).double(), torch.tensor([2.0, 2, 0, 0, 1, 3]).double()
    shift = normal(1, 1, 6)[0]
    found = frechet_from_moments(shift, turn.T @ torch.diag(first**2) @ turn, torch.zeros(6), turn.T @ torch.diag(second**2) @ turn)
    assert found == pytest.approx(float(shift @ shift + ((first - second) ** 2).sum()), rel=1e-9)


def test_fewer_rows_than_dimensions():
    """Rows in a subspace are as far from each other as the same rows without the other dimensions, which have a regular covariance."""
    a, b = mixed(0, 30, 6), mixed(1, 25, 6)
    frame = torch.linalg.qr(normal(2, 50, 6)).Q.T
    for some, others in ((a, b), (a, normal(3, 80, 6))):
        flat, embedded = frechet_distance(some, others), frechet_distance(some @ frame, others @ frame)
        assert embedded.value == pytest.approx(flat.value, rel=1e-9)
        assert embedded.stderr == pytest.approx(flat.stderr, rel=1e-6)


def test_turns_moves_and_scales():
    a, b = mixed(0, 200, 12), mixed(1, 150, 12)
    turn, plain = torch.linalg.qr(normal(2, 12, 12)).Q, frechet_distance(a, b)
    assert frechet_distance(a @ turn + 3, b @ turn + 3).value == pytest.approx(plain.value, rel=1e-9)
    assert frechet_distance(10 * a, 10 * b).value == pytest.approx(100 * plain.value, rel=1e-9)
    assert frechet_distance(b, a).value == pytest.approx(plain.value, rel=1e-9)


def test_constant_features_count_for_their_mean_only():
    a, b = mixed(0, 200, 5), mixed(1, 150, 5)
    wide = [torch.cat([x, torch.full((len(x), 2), value).double()], dim=1) for x, value in ((a, 1.0), (b, 3.0))]
    assert frechet_distance(*wide).value == pytest.approx(frechet_distance(a, b).value + 8, rel=1e-9)
    same = [torch.full((9, 3), value) for value in (0.0, 2.0)]
    for found in (frechet_distance(*same), frechet_infinity(*same)):
        assert (found.value, found.stderr) == (pytest.approx(12.0), pytest.approx(0.0, abs=1e-12))


@pytest.mark.parametrize("n,d", [(60, 4), (12, 30)])
def test_slopes_are_derivatives_in_the_weight_of_a_row(n, d):
    a, b = mixed(0, n, d), mixed(1, n + 5, d)
    slopes = gaussian_distance(a, b).first

    def weighted(row, step):
        weight = torch.full((n,), 1.0 / n).double()
        weight = (1 - step) * weight
        weight[row] += step
        mean = weight @ a
        covariance = (a - mean).T @ ((a - mean) * weight[:, None]) * n / (n - 1)
        return frechet_from_moments(mean, covariance, b.mean(0), torch.cov(b.T))

    for row in (0, 1, n - 1):
        assert (weighted(row, 1e-5) - weighted(row, -1e-5)) / 2e-5 == pytest.approx(float(slopes[row]), rel=1e-3)


def test_bias_under_one_law_is_what_theory_says():
    """In one dimension the expectation is 2 / n + 2 (1 - c4^2), with c4 the mean of the standard deviation of n standard normal numbers."""
    means = []
    for n in (20, 80):
        c4 = math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
        found = np.array([frechet_distance(normal(2 * seed, n, 1), normal(2 * seed + 1, n, 1)).value for seed in range(400)])
        truth = 2 / n + 2 * (1 - c4**2)
        assert within((found.mean() - truth) / (found.std(ddof=1) / 20)), f"{found.mean()} against {truth}"
        means.append(found.mean())
    assert means[1] < means[0] / 2


def test_extrapolation_is_nearer_to_the_truth():
    """500 rows of 32 features, the second sample wider by 0.2 and moved: the truth is in closed form."""
    truth, errors = 32 * 0.2**2 + 32 * 0.1**2, []
    for seed in range(12):
        a, b = normal(2 * seed, 500, 32), 1.2 * normal(2 * seed + 1, 500, 32) + 0.1
        plain, found = frechet_distance(a, b), frechet_infinity(a, b)
        assert abs(found.value - truth) < abs(plain.value - truth)
        errors.append((found.value - truth) / found.stderr)
    assert within(np.mean(errors) * math.sqrt(len(errors)))
    assert (np.array(errors) ** 2).sum() < stats.chi2.isf(P, len(errors))
    assert found.name == "frechet_distance_inf"
    assert found.note == "linear in 1/n over n = 500, 250, 166, 125"


def test_extrapolation_says_where_a_bias_remains():
    found = frechet_infinity(normal(0, 30, 40), normal(1, 50, 40))
    assert found.note == "linear in 1/n over n = 30, 15; a bias remains: halves of 15 rows do not fill 40 dimensions"
    assert frechet_infinity(normal(0, 30, 40), normal(1, 50, 40)) == found
    assert frechet_infinity(normal(0, 30, 40), normal(1, 50, 40), seed=1).value != found.value


@pytest.mark.parametrize("distance,low,high", [(frechet_distance, 1.0, 1.2), (frechet_infinity, 0.9, 1.12)])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_stated_errors_of_frechet_distances(distance, low, high, scale):
    """In units of the true spread they lie in the range that the docstrings state."""
    draws = [distance(normal(2 * seed, 150, 6), scale * normal(2 * seed + 1, 120, 6)) for seed in range(400)]
    spread, stated = np.var([each.value for each in draws], ddof=1), np.mean([each.stderr**2 for each in draws])
    assert stated / low**2 > spread * 399 / stats.chi2.isf(P, 399)
    assert stated / high**2 < spread * 399 / stats.chi2.ppf(P, 399)


def test_the_stated_error_is_that_of_the_jackknife_without_second_order_variance_counted_twice():
    a, b = mixed(0, 60, 4), mixed(1, 70, 4) + 1
    plain, whole = frechet_distance(a, b), gaussian_distance(a, b)
    assert whole.jackknife / 2 <= plain.stderr**2 <= whole.jackknife
    far = frechet_distance(a, b + 1000)
    assert far.stderr == pytest.approx(math.sqrt(gaussian_distance(a, b + 1000).jackknife), rel=0.05)
    assert frechet_distance(a[:3], b[:3]).stderr == pytest.approx(math.sqrt(gaussian_distance(a[:3], b[:3]).jackknife), rel=1e-12)
    both = {each.name: each for each in METRIC.compute(a, b, seed=5)}
    assert both == {"frechet_distance": frechet_distance(a, b, seed=5), "frechet_distance_inf": frechet_infinity(a, b, seed=5)}


def naive_kernel(a, b):
    d = a.shape[1]
    kaa, kbb, kab = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    return float((kaa.sum() - kaa.trace()) / (n * (n - 1)) + (kbb.sum() - kbb.trace()) / (m * (m - 1)) - 2 * kab.mean())


@pytest.mark.parametrize("n,m,d", [(4, 5, 3), (200, 150, 20), (1500, 1300, 512)])
def test_kernel_distance_agrees_with_the_plain_formula(n, m, d):
    a, b = mixed(0, n, d).relu(), mixed(1, m, d).relu()
    assert kernel_distance(a, b).value == pytest.approx(naive_kernel(a, b), rel=1e-9, abs=1e-12)


def test_kernel_distance_is_unbiased():
    """Two laws on a few points: the truth is a finite sum."""
    points, others = normal(0, 4, 3), normal(1, 3, 3)

    def kernel(x, y):
        return float((((x @ y.T) / 3 + 1) ** 3).mean())

    truth = kernel(points, points) + kernel(others, others) - 2 * kernel(points, others)
    found = []
    for seed in range(400):
        draw = torch.Generator().manual_seed(seed)
        found.append(kernel_distance(points[torch.randint(4, (20,), generator=draw)], others[torch.randint(3, (15,), generator=draw)]).value)
    assert within((np.mean(found) - truth) / (np.std(found, ddof=1) / 20))


def test_kernel_distance_of_one_law_is_calibrated():
    draws = [kernel_distance(normal(2 * seed, 60, 8), normal(2 * seed + 1, 80, 8)) for seed in range(300)]
    values, errors = (np.array([getattr(each, part) for each in draws]) for part in ("value", "stderr"))
    assert within(values.mean() / (values.std(ddof=1) / math.sqrt(300)))
    assert ((values / errors) ** 2).sum() < stats.chi2.isf(P, 300), "the stated errors are too small"
    assert (errors**2).mean() < 2 * values.var(), "the stated errors are too large"
    assert values.min() < 0
    assert {each.note for each in draws if each.value < 0} == {"unbiased: may be negative"}


def test_moments_in_batches():
    rows = mixed(0, 900, 7)
    mean, covariance, n = feature_moments(rows.float().split([500, 1, 0, 399]))
    assert n == 900
    torch.testing.assert_close(mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(covariance, torch.cov(rows.T), rtol=1e-4, atol=1e-5)
    other = mixed(1, 300, 7)
    whole = frechet_from_moments(*feature_moments([rows])[:2], *feature_moments(other.split(100))[:2])
    assert whole == pytest.approx(frechet_distance(rows, other).value, rel=1e-9)


def test_inception_score_of_known_cases():
    assert inception_score(torch.eye(10).repeat(20, 1)).value == pytest.approx(10.0)
    blurred = inception_score(torch.full((50, 4), 0.25))
    assert (blurred.value, blurred.stderr) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))


def test_inception_score_and_its_error_by_leaving_rows_out():
    rows = torch.softmax(2 * normal(0, 40, 5), dim=1)

    def plain(p):
        return float((p * (p / p.mean(0)).log()).sum(1).mean().exp())

    without = np.array([plain(torch.cat([rows[:i], rows[i + 1 :]])) for i in range(40)])
    found = inception_score(rows)
    assert found.value == pytest.approx(plain(rows), rel=1e-9)
    assert found.stderr == pytest.approx(math.sqrt(39 * without.var()), rel=1e-9)
    parts = [plain(part) for part in rows.split(10)]
    split = inception_score(rows, splits=4)
    assert (split.value, split.stderr) == (pytest.approx(np.mean(parts)), pytest.approx(np.std(parts, ddof=1) / 2))


def test_inception_score_is_biased_low_by_less_than_it_says():
    law = torch.softmax(2 * normal(0, 5000, 10), dim=1)
    truth = inception_score(law).value
    found = [inception_score(law[torch.randint(5000, (50,), generator=torch.Generator().manual_seed(seed))]).value for seed in range(200)]
    assert truth * (1 - 9 / 100) < np.mean(found) < truth


GOOD = normal(0, 50, 3)
BAD = {
    "too few": (torch.ones(1, 3), "fake has 1 rows; expected at least"),
    "other width": (normal(0, 50, 4), "real has 3 entries a row and fake 4"),
    "not finite": (torch.full((50, 3), math.nan), "fake holds a value that is not finite in row 0"),
    "no numbers": ([["a"]], "fake is list"),
}


@pytest.mark.parametrize("what,distance", list(itertools.product(BAD, [frechet_distance, frechet_infinity, kernel_distance])))
def test_bad_samples_are_one_line(what, distance):
    fake, message = BAD[what]
    with pytest.raises(InvalidInput, match=message) as caught:
        distance(GOOD, fake)
    assert "\n" not in str(caught.value)


EYE, ZERO = torch.eye(3), torch.zeros(3)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: inception_score(torch.ones(5, 3)), "row 0 sums to 3"),
        (lambda: inception_score(torch.tensor([[1.0, 0.0], [1.5, -0.5]])), "row 1 sums to 1, smallest entry -0.5"),
        (lambda: inception_score(torch.eye(3), splits=3), "splits = 3 of 3 rows"),
        (lambda: inception_score(torch.ones(1, 1)), "has 1 rows"),
        (lambda: frechet_from_moments(ZERO, EYE[:2], ZERO, EYE), r"covariance \(2, 3\)"),
        (lambda: frechet_from_moments(ZERO, EYE, torch.zeros(2), torch.eye(2)), "first mean has 3 entries and the second 2"),
        (lambda: frechet_from_moments(ZERO, EYE, ZERO, torch.arange(9.0).view(3, 3)), "second covariance is not symmetric"),
        (lambda: frechet_from_moments(ZERO, -EYE, ZERO, EYE), "first covariance has the eigenvalue -1"),
        (lambda: frechet_from_moments(ZERO, EYE * math.inf, ZERO, EYE), "first moments hold a value that is not finite"),
        (lambda: feature_moments([]), "0 rows of features have no covariance"),
        (lambda: feature_moments([EYE, torch.eye(2)]), "a batch has 2 entries a row and the first one 3"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


class Halves:
    """Means of both halves of a picture, and of their squares."""

    name, hash, inception = "halves", "0", False

    def features(self, x):
        flat = x.flatten(1).float()
        return torch.cat([flat[:, :8], flat[:, 8:] ** 2], dim=1)

    def probabilities(self, x):
        return None


class Named(Halves):
    name, inception = "Inception", True


def pictures(seed, n):
    return torch.randint(0, 17, (n, 1, 4, 4), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def case(extractor):
    space = Image((1, 4, 4), levels=17)
    return Case(space, Rows(pictures(0, 90)), Rows(pictures(1, 60)), pictures(2, 60), extractor=extractor)


def test_only_distances_over_inception_are_called_fid_and_kid():
    found = judge(case(Halves()), ["frechet", "kernel"])
    own = ["frechet_distance", "frechet_distance_inf", "kernel_distance"]
    assert [each.name for each in found.estimates] == [name + end for name in own for end in ("", "_floor")]
    assert {each.data for each in found.estimates} == {"halves"}
    named = judge(case(Named()), ["frechet", "kernel"])
    assert [each.name for each in named.estimates] == [name + end for name in ("fid", "fid_inf", "kid") for end in ("", "_floor")]
    assert [each.value for each in named.estimates] == [each.value for each in found.estimates]
    assert [figure(name).name for name in ("fid", "fid_inf_floor", "kid")] == own


def test_without_features_there_is_no_frechet_distance():
    table = Case(Vector(3), None, Rows(normal(0, 50, 3)), normal(1, 50, 3))
    for each in (case(None), table):
        assert judge(each, ["frechet", "kernel"]).estimates == ()
