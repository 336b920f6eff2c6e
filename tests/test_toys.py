"""Toys: normalised densities, entropies by independent means, and samplers that follow the density."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from manykin.data import load_data, names, toys
from manykin.data.catalogue import TOYS
from manykin.data.toys import NoisyDisc, TwoMoons, toy
from manykin.errors import InvalidInput

FLAT = ("box", "circle", "checkerboard")


def density_on_cells(name, bins, order):
    """Mass and -p log p of each cell of a grid over the bounds, by a Gauss-Legendre product rule in every cell."""
    source = toy(name)
    x0, x1, y0, y1 = source.bounds
    nodes, weights = np.polynomial.legendre.leggauss(order)
    at = (nodes + 1) / 2
    xs = (x0 + (x1 - x0) / bins * (np.arange(bins)[:, None] + at)).ravel()
    ys = (y0 + (y1 - y0) / bins * (np.arange(bins)[:, None] + at)).ravel()
    grid = torch.from_numpy(np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1).reshape(-1, 2))
    log_p = source.log_prob(grid).numpy()
    p = np.exp(log_p)
    area = (x1 - x0) * (y1 - y0) / bins**2 / 4
    weight = np.outer(weights, weights) * area

    def cells(values):
        return np.einsum("iajb,ab->ij", values.reshape(bins, order, bins, order), weight)

    return cells(p), cells(-p * np.where(p > 0, log_p, 0.0))


ORDERS = {"25-gaussians": (120, 6), "two-spirals": (40, 6)}


@pytest.mark.parametrize("name", [name for name in TOYS if name != "circle"])
def test_mass_and_entropy_by_another_quadrature(name):
    # bins of the checkerboard and the box end on their edges, so that the rule is exact there
    bins, order = ORDERS.get(name, (32, 8))
    mass, entropy = density_on_cells(name, bins, order)
    assert mass.sum() == pytest.approx(1.0, abs=1e-6)
    assert entropy.sum() == pytest.approx(toy(name).entropy, abs=1e-6)


def test_closed_entropies():
    assert toy("box").entropy == math.log(8)
    assert toy("circle").entropy == pytest.approx(math.log(4 * math.pi))
    assert toy("checkerboard").entropy == math.log(32)
    separate = math.log(25) + 1 + math.log(2 * math.pi) + 2 * math.log(0.05 / math.sqrt(8))
    assert toy("25-gaussians").entropy == pytest.approx(separate, abs=1e-9)
    apart = math.log(8) + 1 + math.log(2 * math.pi) + 2 * math.log(0.5 / math.sqrt(2))
    assert apart - 0.02 < toy("eight-gaussians").entropy < apart, "overlap lowers the entropy of separate modes a little"


@pytest.mark.parametrize("name", TOYS)
def test_entropy_is_the_mean_of_minus_log_prob(name):
    source = toy(name)
    log_p = source.log_prob(source.sample(20_000, seed=3))
    assert torch.isfinite(log_p).all()
    error = float(log_p.std()) / math.sqrt(len(log_p))
    assert abs(-float(log_p.mean()) - source.entropy) <= 4 * error + 1e-9


@pytest.mark.parametrize("name", TOYS)
def test_samples_follow_the_density(name):
    source = toy(name)
    bins = 24 if name == "25-gaussians" else 16
    order = 20 if name == "25-gaussians" else 40 if name == "circle" else 12
    mass, _ = density_on_cells(name, bins, order)
    n = 40_000
    x0, x1, y0, y1 = source.bounds
    x = source.sample(n, seed=1).numpy()
    counts, _, _ = np.histogram2d(x[:, 0], x[:, 1], bins=bins, range=[[x0, x1], [y0, y1]])
    expected = n * mass / mass.sum()
    common = expected >= 5
    observed = np.append(counts[common], n - counts[common].sum())
    wanted = np.append(expected[common], n - expected[common].sum())
    keep = wanted > 1
    statistic = (((observed - wanted) ** 2)[keep] / wanted[keep]).sum()
    assert stats.chi2.sf(statistic, keep.sum() - 1) > 1e-4


def test_noisy_disc_is_the_noncentral_chi_square_probability_of_the_disc():
    # |x + noise|² / σ² of a point at distance r is noncentral chi-square with 2 degrees of freedom
    disc = NoisyDisc()
    r = np.array([0.0, 0.7, 1.8, 2.0, 2.3, 3.0])
    inside = stats.ncx2.cdf((disc.radius / disc.sigma) ** 2, 2, (r / disc.sigma) ** 2)
    expected = np.log(inside / (math.pi * disc.radius**2))
    found = disc.log_prob(torch.tensor(np.stack([r, 0 * r], axis=1)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)


def test_far_tails_are_finite_and_differentiable():
    x = torch.tensor([[30.0, 0.0], [0.0, -30.0]], dtype=torch.float64, requires_grad=True)
    for name in set(TOYS) - set(FLAT):
        log_p = toy(name).log_prob(x)
        assert torch.isfinite(log_p).all(), name
        (gradient,) = torch.autograd.grad(log_p.sum(), x)
        assert torch.isfinite(gradient).all(), name
        assert (toy(name).log_prob(2 * x) < log_p).all(), name


def test_two_moons_is_the_convolution_of_its_arcs():
    moons = TwoMoons()
    for x, y in [(0.3, 0.9), (1.5, -0.2), (-1.0, 0.0), (0.5, 0.25)]:

        def integrand(t, x=x, y=y):
            upper = ((x - math.cos(t)) ** 2 + (y - math.sin(t)) ** 2) / 0.02
            lower = ((x - 1 + math.cos(t)) ** 2 + (y - 0.5 + math.sin(t)) ** 2) / 0.02
            return (math.exp(-upper) + math.exp(-lower)) / (2 * math.pi) / (2 * math.pi * 0.01)

        value, _ = integrate.quad(integrand, 0, math.pi, epsabs=1e-13, limit=200)
        assert float(moons.log_prob(torch.tensor([[x, y]], dtype=torch.float64))) == pytest.approx(math.log(value), abs=1e-9)


def test_two_spirals_is_the_convolution_of_its_arms():
    for x, y in [(0.0, 0.0), (2.9, 0.4), (-1.0, 1.0)]:

        def integrand(t, x=x, y=y):
            cx, cy = t / 3 * math.cos(t), t / 3 * math.sin(t)
            near = math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.02) + math.exp(-((x + cx) ** 2 + (y + cy) ** 2) / 0.02)
            return t / (3 * math.pi) ** 2 * near / (2 * math.pi * 0.01)

        value, _ = integrate.quad(integrand, 0, 3 * math.pi, epsabs=1e-14, limit=400, points=list(np.linspace(0.1, 9.4, 40)))
        assert float(toy("two-spirals").log_prob(torch.tensor([[x, y]], dtype=torch.float64))) == pytest.approx(math.log(value), abs=1e-8)


def test_flat_toys_have_the_area_they_claim():
    area = {"box": 8.0, "circle": 4 * math.pi, "checkerboard": 32.0}
    for name in FLAT:
        source = toy(name)
        assert float(source.log_prob(source.sample(10)).exp()[0]) == pytest.approx(1 / area[name])
        assert float(source.log_prob(torch.tensor([[9.0, 9.0]]))[0]) == -math.inf


@pytest.mark.parametrize("name", TOYS)
def test_loaded_toy_sets(name):
    data = load_data(name)
    assert (len(data.train), len(data.val), len(data.test)) == (10_000, 2_000, 5_000)
    assert data.entropy == toy(name).entropy
    rows = torch.cat([data.train.all().x, data.val.all().x, data.test.all().x])
    assert len(torch.unique(rows, dim=0)) == len(rows), "the splits share rows"
    assert torch.equal(load_data(name).train.all().x, data.train.all().x)
    assert not torch.equal(load_data(name, seed=1).train.all().x, data.train.all().x)
    assert data.provenance["rows"] == {"train": 10_000, "val": 2_000, "test": 5_000}
    assert data.provenance["sha256"] == load_data(name).provenance["sha256"]


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    toy("pinwheel").sample(100)
    assert torch.equal(torch.rand(3), expected)


def test_unknown_toy_and_wrong_shape():
    assert set(TOYS) < set(names())
    assert toys.names() == list(TOYS)
    with pytest.raises(InvalidInput, match=r"'two-moon' is not a toy. Did you mean 'two-moons'\?"):
        toy("two-moon")
    with pytest.raises(InvalidInput, match=r"x has shape \(3, 3\); expected a tensor of shape \(n, 2\) for box"):
        toy("box").log_prob(torch.zeros(3, 3))
    with pytest.raises(InvalidInput, match="two-moons has no labels"):
        load_data("two-moons", condition=True)


def test_noisy_disc_at_the_centre_is_a_rayleigh_probability():
    # P(|noise| <= R) = 1 - exp(-R² / 2σ²), R = 2 and σ = 0.25
    u, weights = NoisyDisc()._rule
    at = torch.zeros(1, 2, dtype=torch.float64)
    direct = float(torch.logsumexp(weights - (u / 0.25) ** 2 / 2, dim=0))
    assert float(toy("noisy-disc").log_prob(at)) == pytest.approx(direct)
    assert math.exp(direct) == pytest.approx((1 - math.exp(-32)) / (4 * math.pi), rel=1e-10)
