"""Box, kernel density estimate and probabilistic PCA: agreement, mass, sampling, completion, classes, bad data."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity

from manykin.contract import Batch, Completes, Decodes, Encodes, Inspects
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput, Unsupported
from manykin.models.classical.box import Box, BoxConfig
from manykin.models.classical.kde import KDE, KDEConfig
from manykin.models.classical.kernels import KERNELS
from manykin.models.classical.kmeans import kmeans
from manykin.models.classical.ppca import PPCA, PPCAConfig
from manykin.spaces import Column, Image, Labels, Table, Vector
from manykin.training import TrainOptions, train

KINDS = ["gaussian", "tophat", "epanechnikov"]
NAN = float("nan")


def fit(model, x, condition=None, batch=4096):
    """What the trainer does for a closed-form phase of one pass, by the contract alone."""

    def batches():
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            yield Batch(x[rows], None if condition is None else condition[rows])

    model.start(batches, Batch(x, condition), 0)
    (phase,) = model.phases()
    with torch.no_grad():
        for part in batches():
            getattr(model, phase.accumulate)(part)
        progress = getattr(model, phase.solve)()
    for name in phase.statistics:
        model.get_buffer(name).zero_()
    assert progress.converged
    return model


def rows(n=300, d=3, seed=0):
    """Correlated columns of different scales, float64 (n, d)."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.arange(1, d + 1)
    return torch.from_numpy(rng.normal(size=(n, d)) @ mixing + 4)


def labels(n=300, classes=2):
    return torch.arange(n) % classes


def kde(d=2, condition=None, **options):
    return KDE(KDEConfig(**options), Vector(d), condition)


def ppca(d=3, condition=None, **options):
    return PPCA(PPCAConfig(**options), Vector(d), condition)


def uniform_ranks(ranks):
    """The p-value of a chi-square test that ranks in [0, 1] are uniform."""
    return stats.chisquare(np.histogram(ranks, bins=20, range=(0, 1))[0]).pvalue


def conditional_cdf(model, value, axis):
    """The conditional distribution function of column 1 given column 0, by quadrature of the joint density."""
    density = model.log_prob(torch.stack([torch.full_like(axis, value), axis], dim=1)).exp().numpy()
    return integrate.cumulative_trapezoid(density, axis.numpy(), initial=0) / integrate.trapezoid(density, axis.numpy())


# Box.


def test_box_is_the_bounding_box_whatever_the_batches():
    x = rows()
    model = fit(Box(None, Vector(3)), x, batch=7)
    table = model.parameters_table()
    assert torch.equal(table["low"], x.amin(dim=0))
    assert torch.equal(table["high"], x.amax(dim=0))
    np.testing.assert_allclose(model.log_prob(x), float(-(x.amax(0) - x.amin(0)).log().sum()))


def test_box_gives_new_rows_outside_no_density_until_it_has_a_margin():
    x, fresh = rows(300, 2), rows(300, 2) + 1e-3 * torch.tensor([1.0, -1.0]).double()
    tight, wide = (fit(Box(BoxConfig(margin=margin), Vector(2)), x) for margin in (0.0, 0.1))
    assert torch.isneginf(tight.log_prob(fresh)).any()
    assert torch.isfinite(wide.log_prob(fresh)).all()
    np.testing.assert_allclose(tight.log_prob(x) - wide.log_prob(x), 2 * math.log(1.1))


def test_box_of_whole_numbers_holds_whole_cells():
    x = torch.tensor([[0.0], [3.0], [5.0]]).double()
    model = fit(Box(None, Vector(1, levels=10)), x)
    np.testing.assert_allclose(model.log_prob(torch.arange(6.0).double()[:, None]), -math.log(6))
    assert torch.isneginf(model.log_prob(torch.tensor([[6.0]]).double())).all()
    assert sorted(set(model.sample(400, seed=0).flatten().tolist())) == [0, 1, 2, 3, 4, 5]


def test_box_of_a_table_is_uniform_on_what_its_columns_can_be():
    columns = (Column("height"), Column("rating", "integer", levels=9), Column("colour", "categorical", categories=("a", "b", "c")))
    x = torch.tensor([[0.0, 2, 1], [2.0, 4, 1]]).double()
    model = fit(Box(None, Table(columns)), x)
    assert str(model.density) == "exact"
    np.testing.assert_allclose(model.log_prob(torch.tensor([[1.0, 3, 0]]).double()), -math.log(2 * 3 * 3))
    assert torch.isneginf(model.log_prob(torch.tensor([[1.0, 5, 0]]).double())).all()
    samples = model.sample(500, seed=0)
    assert set(samples[:, 1].tolist()) == {2, 3, 4}
    assert set(samples[:, 2].tolist()) == {0, 1, 2}
    wide = fit(Box(BoxConfig(margin=20.0), Table(columns)), x)
    assert set(wide.sample(500, seed=0)[:, 1].tolist()) == set(range(9))


def test_box_sums_over_processes_and_survives_a_checkpoint_in_between():
    x = rows()
    whole, halves = fit(Box(None, Vector(3)), x), [Box(None, Vector(3)) for _ in range(2)]
    for slot, (model, part) in enumerate(zip(halves, (x[:150], x[150:]), strict=True)):
        model.accumulate(Batch(part[:100]))
        for name in ("extremes", "counts"):
            model.get_buffer(name).copy_(model.get_buffer(name).roll(slot, 0))
    first = halves[0]
    for name in ("extremes", "counts"):
        first.get_buffer(name).add_(halves[1].get_buffer(name))
    first.accumulate(Batch(torch.cat([x[100:150], x[250:]])))
    first.solve()
    assert torch.equal(first.low, whole.low)
    assert torch.equal(first.high, whole.high)


def test_box_keeps_its_boundary_in_single_precision():
    x = rows()
    assert torch.isfinite(fit(Box(None, Vector(3)), x).log_prob(x.float())).all()


def test_box_samples_and_completes_uniformly():
    x = rows(300, 2)
    model = fit(Box(None, Vector(2)), x)
    table, samples = model.parameters_table(), model.sample(4000, seed=0)
    assert all(uniform_ranks(column) > 1e-4 for column in ((samples - table["low"]) / (table["high"] - table["low"])).T.numpy())
    known = torch.tensor([True, False]).expand_as(samples)
    drawn = model.complete(torch.where(known, samples, NAN), known, seed=0)
    assert torch.equal(drawn[:, 0], samples[:, 0])
    assert uniform_ranks(((drawn - table["low"]) / (table["high"] - table["low"]))[:, 1].numpy()) > 1e-4


def test_box_of_each_class():
    x, y = rows(), labels()
    model = fit(Box(None, Vector(3), Labels(3)), x, y, batch=11)
    table = model.parameters_table()
    assert torch.equal(table["low"][0], x[y == 0].amin(dim=0))
    assert torch.equal(table["low"][2], x.amin(dim=0))
    assert torch.isfinite(model.log_prob(x, y)).all()


# Kernel density estimate.


@pytest.mark.parametrize("kernel", KINDS)
@pytest.mark.parametrize("bandwidth", [1.7, "scott", "silverman"])
def test_kde_agrees_with_scikit_learn(kernel, bandwidth):
    x, fresh = rows(200, 3), rows(50, 3, seed=0) + 0.3
    scale = 1.0 if isinstance(bandwidth, float) else 4.0
    model = fit(kde(3, kernel=kernel, bandwidth=bandwidth, scale_columns=False), x / scale)
    peer = KernelDensity(kernel=kernel, bandwidth=bandwidth).fit(x.numpy() / scale)
    assert float(model.parameters_table()["bandwidth"]) == pytest.approx(float(peer.bandwidth_))
    np.testing.assert_allclose(model.log_prob(fresh / scale), peer.score_samples(fresh.numpy() / scale), rtol=1e-7, atol=1e-9)
    assert torch.isfinite(model.log_prob(x / scale)).all()


@pytest.mark.parametrize("kernel", KINDS)
@pytest.mark.parametrize("d", [1, 2])
def test_kde_mass_is_one(kernel, d):
    x = rows(40, d)
    model = fit(kde(d, kernel=kernel, bandwidth=0.5), x)
    pad, points = 4 * x.std(dim=0), (20001 if d == 1 else 601)
    axes = [torch.linspace(float(x[:, j].min() - pad[j]), float(x[:, j].max() + pad[j]), points, dtype=torch.float64) for j in range(d)]
    grid = torch.cartesian_prod(*axes).view(-1, d)
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    assert float(model.log_prob(grid).exp().sum()) * cell == pytest.approx(1, abs=1e-6 if kernel == "gaussian" else 4e-3)


@pytest.mark.parametrize("kernel", KINDS)
def test_kde_samples_follow_the_density(kernel):
    x = rows(30, 1)
    model = fit(kde(1, kernel=kernel, bandwidth=0.4), x)
    axis = torch.linspace(float(x.min()) - 8, float(x.max()) + 8, 20001, dtype=torch.float64)
    cdf = integrate.cumulative_trapezoid(model.log_prob(axis[:, None]).exp().numpy(), axis.numpy(), initial=0)
    assert uniform_ranks(np.interp(model.sample(6000, seed=0)[:, 0].numpy(), axis.numpy(), cdf)) > 1e-4


@pytest.mark.parametrize("kernel", KINDS)
def test_kernels_in_several_dimensions_draw_their_own_radius(kernel):
    torch.manual_seed(0)
    radius = KERNELS[kernel].draw(8000, 3, torch.zeros(1).double()).square().sum(dim=1).sqrt().numpy()
    axis = np.linspace(0, 8, 8001)
    density = KERNELS[kernel].log_density(torch.from_numpy(axis) ** 2, 3).exp().numpy() * 4 * math.pi * axis**2
    cdf = integrate.cumulative_trapezoid(density, axis, initial=0)
    assert cdf[-1] == pytest.approx(1, abs=2e-3)
    assert uniform_ranks(np.interp(radius, axis, cdf)) > 1e-4


@pytest.mark.parametrize("kernel", KINDS)
def test_kde_completion_draws_from_the_analytic_conditional(kernel):
    x = rows(25, 2)
    model = fit(kde(2, kernel=kernel, bandwidth=0.9), x)
    axis = torch.linspace(float(x[:, 1].min()) - 15, float(x[:, 1].max()) + 15, 8001, dtype=torch.float64)
    value = float(x[0, 0]) + 0.2
    cdf = conditional_cdf(model, value, axis)
    row = torch.tensor([[value, NAN]]).double().repeat(6000, 1)
    known = torch.tensor([True, False]).expand_as(row)
    drawn = model.complete(row, known, seed=0)
    assert torch.equal(drawn[:, 0], row[:, 0])
    assert uniform_ranks(np.interp(drawn[:, 1].numpy(), axis.numpy(), cdf)) > 1e-4
    mean = integrate.trapezoid(1 - cdf, axis.numpy()) + float(axis[0])
    assert float(model.predict(row[:2], known[:2])[0, 1]) == pytest.approx(mean, abs=1e-2)


@pytest.mark.parametrize("kernel", KINDS)
def test_kde_completes_where_no_kernel_reaches(kernel):
    x = rows(25, 2)
    model = fit(kde(2, kernel=kernel, bandwidth=0.5), x)
    row = torch.tensor([[1e6, NAN]]).double()
    out = model.complete(row, ~row.isnan(), seed=0)
    assert float(out[0, 0]) == 1e6
    assert float((out[0, 1] - x[x[:, 0].argmax(), 1]).abs()) < 20


@pytest.mark.parametrize("kernel", KINDS)
def test_leave_one_out_leaves_the_row_and_its_copies_out(kernel):
    x = rows(60, 2)
    x = torch.cat([x, x[:20]])
    model = kde(2, kernel=kernel)
    every = torch.arange(len(x))
    widths = torch.tensor([1e-3, 0.5, 3.0]).double()
    scores = model.leave_one_out(x, every, widths)
    by_hand = []
    for h in widths:
        logs = []
        for i in range(len(x)):
            others = x[(x != x[i]).any(dim=1)]
            terms = KERNELS[kernel].log_density((others - x[i]).square().sum(dim=1) / h**2, 2)
            logs.append(float(torch.logsumexp(terms, dim=0)) - math.log(len(x) - 1) - 2 * math.log(h))
        by_hand.append(np.mean(logs))
    np.testing.assert_allclose(scores, by_hand, rtol=1e-7)
    assert scores[0] < scores[2]


def test_cross_validated_bandwidth_is_near_the_best_held_out_one():
    x, fresh = rows(400, 2), rows(4000, 2)[400:]
    chosen = float(fit(kde(), x).parameters_table()["bandwidth"])
    grid = np.exp(np.linspace(-2.5, 1, 36))
    held_out = [float(fit(kde(bandwidth=float(h)), x).log_prob(fresh).mean()) for h in grid]
    assert float(fit(kde(bandwidth=chosen), x).log_prob(fresh).mean()) > max(held_out) - 0.02
    assert 0.5 < chosen / grid[int(np.argmax(held_out))] < 2


@pytest.mark.parametrize("bandwidth", ["scott", "cross-validation"])
def test_kde_follows_the_units_of_the_columns(bandwidth):
    x = rows(200, 2)
    scale = torch.tensor([1e6, 1e-3]).double()
    plain, scaled = fit(kde(bandwidth=bandwidth), x), fit(kde(bandwidth=bandwidth), x * scale + 1e3)
    np.testing.assert_allclose(scaled.log_prob(x * scale + 1e3) + scale.log().sum(), plain.log_prob(x), rtol=1e-5)


def test_kde_keeps_at_most_max_rows_and_is_refilled_from_sizes():
    x = rows(300, 2)
    model = fit(kde(max_rows=100), x)
    assert model.sizes == {"rows": 100}
    assert KDE.stores_rows
    again = kde(max_rows=100)
    again.allocate(model.sizes)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.log_prob(x), model.log_prob(x))
    assert torch.equal(again.sample(9, seed=0), model.sample(9, seed=0))


def test_kde_of_each_class():
    x, y = rows(300, 2), labels()
    x[y == 1] += 30
    model = fit(kde(2, Labels(3), bandwidth=0.5), x, y, batch=13)
    alone = fit(kde(2, bandwidth=0.5, scale_columns=False), (x / model.scale)[y == 1])
    np.testing.assert_allclose(model.log_prob(x, torch.ones(300).long()), alone.log_prob(x / model.scale) - model.scale.log().sum(), rtol=1e-9)
    assert torch.isfinite(model.log_prob(x, torch.full((300,), 2))).all()
    samples = model.sample(300, y, seed=0)
    assert float((model.log_prob(samples, y) > model.log_prob(samples, 1 - y)).double().mean()) > 0.99


def test_kde_is_finite_at_a_thousand_sigma_and_differentiable():
    x = rows(50, 2)
    model = fit(kde(), x)
    assert torch.isfinite(model.log_prob(x + 1e3 * x.std(dim=0))).all()
    assert torch.autograd.gradcheck(model.log_prob, (x[:3].clone().requires_grad_(),))


# Probabilistic PCA.


@pytest.mark.parametrize("batch", [7, 300])
def test_ppca_agrees_with_scikit_learn(batch):
    x = rows(300, 5)
    model = fit(ppca(5, n_components=2), x, batch=batch)
    peer = PCA(2).fit(x.numpy())
    table, ratio = model.parameters_table(), 299 / 300
    np.testing.assert_allclose(table["mean"], peer.mean_, rtol=1e-9)
    np.testing.assert_allclose(table["explained_variance"], peer.explained_variance_ * ratio, rtol=1e-9)
    np.testing.assert_allclose(table["noise_variance"], peer.noise_variance_ * ratio, rtol=1e-9)
    np.testing.assert_allclose((table["components"] * torch.from_numpy(peer.components_)).sum(dim=1).abs(), 1, rtol=1e-9)
    # scikit-learn divides by n - 1: its density is ours of rows pulled towards the mean.
    pulled = table["mean"] + math.sqrt(ratio) * (x - table["mean"])
    np.testing.assert_allclose(model.log_prob(pulled) + 2.5 * math.log(ratio), peer.score_samples(x.numpy()), rtol=1e-9)
    np.testing.assert_allclose(model.log_prob(x), stats.multivariate_normal(peer.mean_, peer.get_covariance() * ratio).logpdf(x.numpy()), rtol=1e-9)


def test_ppca_posterior_is_bayes_rule():
    x = rows(200, 4)
    model = fit(ppca(4, n_components=2), x)
    posterior, loadings, noise = model.encode(x), model._loadings(0), float(model.noise[0])
    precision = loadings.T @ loadings + noise * torch.eye(2).double()
    np.testing.assert_allclose(posterior.mean, (x - model.mean[0]) @ loadings @ torch.linalg.inv(precision), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(posterior.variance, noise * torch.linalg.inv(precision).diagonal().expand(200, -1), rtol=1e-8)
    h = posterior.mean
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(h).sum(dim=1)
    given = stats.multivariate_normal(np.zeros(4), noise * np.eye(4)).logpdf((x - model.decode(h)).numpy())
    np.testing.assert_allclose(prior + torch.from_numpy(given) - posterior.log_prob(h), model.log_prob(x), rtol=1e-8)


def test_ppca_latents_decode_to_the_subspace():
    model = fit(ppca(4, n_components=2), rows(200, 4))
    h = model.latents(50, seed=0)
    assert torch.equal(h, model.latents(50, seed=0))
    centred = model.decode(h) - model.mean[0]
    np.testing.assert_allclose(centred, centred @ model.basis[0] @ model.basis[0].T, atol=1e-10)
    with pytest.raises(InvalidInput, match=r"expected \(n, 2\)"):
        model.decode(h[:, :1])
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        model.decode(h * NAN)


def test_ppca_samples_have_its_covariance():
    model = fit(ppca(3, n_components=1), rows())
    samples = model.sample(8000, seed=0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(model._covariance(0)), (samples - model.mean[0]).T, upper=False)
    assert all(uniform_ranks(stats.norm.cdf(column)) > 1e-4 for column in white.numpy())
    assert float((torch.cov(white) - torch.eye(3)).abs().max()) < 0.06


def test_ppca_mass_is_one_and_completion_is_exact():
    model = fit(ppca(2, n_components=1), rows(100, 2))
    axis = torch.linspace(-40, 50, 1501, dtype=torch.float64)
    assert float(model.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * 0.06**2) == pytest.approx(1, abs=1e-4)
    row = torch.tensor([[5.0, NAN]]).double().repeat(6000, 1)
    drawn = model.complete(row, ~row.isnan(), seed=0)[:, 1].numpy()
    assert uniform_ranks(np.interp(drawn, axis.numpy(), conditional_cdf(model, 5.0, axis))) > 1e-4
    assert float(model.predict(row[:1], ~row[:1].isnan())[0, 1]) == pytest.approx(drawn.mean(), abs=5 * drawn.std() / math.sqrt(6000))


def test_ppca_of_each_class():
    x, y = rows(), labels()
    model = fit(ppca(3, Labels(3), n_components=1), x, y, batch=17)
    alone = fit(ppca(3, n_components=1), x[y == 1])
    np.testing.assert_allclose(model.log_prob(x[y == 1], y[y == 1]), alone.log_prob(x[y == 1]), rtol=1e-9)
    np.testing.assert_allclose(model.encode(x[y == 1], y[y == 1]).mean.abs(), alone.encode(x[y == 1]).mean.abs(), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(model.log_prob(x, torch.full((300,), 2)), fit(ppca(3, n_components=1), x).log_prob(x), rtol=1e-9)
    assert model.decode(model.latents(4, seed=0), torch.tensor([1])).shape == (4, 3)


def test_ppca_class_with_too_few_rows_takes_the_pooled_solution():
    x, y = rows(), labels()
    y[:] = 0
    y[:2] = 1
    model = fit(ppca(3, Labels(2), n_components=1), x, y)
    np.testing.assert_allclose(model.log_prob(x, torch.ones(300).long()), fit(ppca(3, n_components=1), x).log_prob(x), rtol=1e-9)


def test_ppca_far_offset_keeps_its_digits():
    x = rows()
    near, far = fit(ppca(n_components=1), x), fit(ppca(n_components=1), x + 1e6)
    np.testing.assert_allclose(far.log_prob(x + 1e6), near.log_prob(x), rtol=1e-6)
    assert torch.isfinite(near.log_prob(x + 1e3 * x.std(dim=0))).all()
    assert torch.autograd.gradcheck(near.log_prob, (x[:3].clone().requires_grad_(),))


# All of them.

MODELS = {
    "box": lambda space, c=None: Box(None, space, c),
    "kde": lambda space, c=None: KDE(None, space, c),
    "ppca": lambda space, c=None: PPCA(None, space, c),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_trainer_fits_it(name):
    x = rows()
    model, by_hand = MODELS[name](Vector(3)), fit(MODELS[name](Vector(3)), x)
    result = train(model, Dataset("rows", Vector(3), Rows(x)), TrainOptions(), seed=0)
    assert result.stopped == "converged"
    np.testing.assert_allclose(model.log_prob(x), by_hand.log_prob(x), rtol=0.05 if name == "kde" else 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_pictures_go_in_and_come_out(name):
    x = torch.from_numpy(load_digits().images[:200]).to(torch.uint8).unsqueeze(1)
    model = fit(MODELS[name](Image((1, 8, 8), 17)), x)
    samples = model.sample(12, seed=0)
    assert samples.dtype == torch.uint8
    assert int(samples.max()) <= 16
    known = torch.zeros_like(x[:5], dtype=torch.bool)
    known[..., :4, :] = True
    out = model.complete(x[:5], known, seed=0)
    assert torch.equal(out[known], x[:5][known])
    assert out.dtype == torch.uint8


@pytest.mark.parametrize("name", MODELS)
def test_protocols(name):
    model = MODELS[name](Vector(3))
    assert isinstance(model, Completes)
    assert isinstance(model, Inspects)
    assert isinstance(model, Encodes) == isinstance(model, Decodes) == (name == "ppca")


@pytest.mark.parametrize("name", MODELS)
def test_one_row(name):
    with pytest.raises(InvalidInput, match="1 row; expected at least 2"):
        fit(MODELS[name](Vector(3)), rows(1))


@pytest.mark.parametrize("name", MODELS)
def test_a_constant_column_is_named(name):
    x = rows()
    x[:, 1] = -2.5
    with pytest.raises(InvalidInput, match=r"column 'x1' is constant \(always -2.5\)"):
        fit(MODELS[name](Vector(3)), x)


def test_ppca_refuses_what_leaves_no_noise():
    with pytest.raises(InvalidInput, match="n_components = 3 is not allowed"):
        ppca(3, n_components=3)
    with pytest.raises(Unsupported, match="Use gaussian"):
        ppca(1)
    x = rows(200, 2)
    with pytest.raises(InvalidInput, match="leaves no noise"):
        fit(ppca(3, n_components=2), torch.cat([x, x[:, :1]], dim=1))


def test_kmeans_splits_what_is_apart_and_leaves_no_cluster_empty():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 50]).double()
    assigned = kmeans(x, 2)
    assert len(set(assigned[:50].tolist())) == len(set(assigned[50:].tolist())) == 1
    assert assigned[0] != assigned[50]
    assert kmeans(torch.zeros(4, 2).double(), 4).bincount(minlength=4).tolist() == [1, 1, 1, 1]
