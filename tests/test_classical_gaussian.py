"""Gaussian and Gaussian mixture: agreement with scikit-learn and scipy, EM, bad data, completion, sampling, mass."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture as Peer

from manykin.contract import Batch, Completes, Encodes, Inspects
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput
from manykin.models.classical import em
from manykin.models.classical.gaussian import Gaussian, GaussianConfig
from manykin.models.classical.gaussian_mixture import GaussianMixture, GaussianMixtureConfig
from manykin.models.classical.shapes import SHAPES
from manykin.spaces import Image, Labels, Vector
from manykin.training import TrainOptions, train

TYPES = ["full", "tied", "diag", "spherical"]
NAN = float("nan")


def fit(model, x, condition=None, batch=4096, passes=None):
    """What the trainer does for a closed-form phase, by the contract alone; returns the figures of each pass."""

    def batches():
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            yield Batch(x[rows], None if condition is None else condition[rows])

    model.start(batches, Batch(x, condition), 0)
    (phase,) = model.phases()
    figures = []
    with torch.no_grad():
        for _ in range(passes or phase.max_epochs):
            for part in batches():
                getattr(model, phase.accumulate)(part)
            progress = getattr(model, phase.solve)()
            for name in phase.statistics:
                model.get_buffer(name).zero_()
            figures.append(dict(progress.metrics))
            if progress.converged and passes is None:
                break
    return figures


def blobs(n=600, d=3, k=3, seed=0):
    """Correlated clusters, float64 (n, d), and their labels."""
    rng = np.random.default_rng(seed)
    centres, shapes = rng.normal(size=(k, d)) * 3, rng.normal(size=(k, d, d)) / 2 + np.eye(d)
    labels = rng.integers(0, k, n)
    rows = centres[labels] + np.einsum("nij,nj->ni", shapes[labels], rng.normal(size=(n, d)))
    return torch.from_numpy(rows), torch.from_numpy(labels)


def mixture(d, condition=None, **options):
    return GaussianMixture(GaussianMixtureConfig(**options), Vector(d), condition)


def start_of(x, k, covariance_type):
    """A start for both sides: some rows as means, the covariance of everything."""
    covariance = torch.cov(x.T)
    pooled = covariance.diag().mean()
    given = {
        "full": covariance.expand(k, -1, -1), "tied": covariance, "diag": covariance.diag().expand(k, -1), "spherical": pooled.expand(k),
    }[covariance_type]  # fmt: skip
    precisions = np.linalg.inv(given.numpy()) if covariance_type in ("full", "tied") else 1 / given.numpy()
    return torch.full((k,), 1 / k, dtype=torch.float64), x[:k].clone(), given, precisions


def small_mixture(covariance_type="full", seed=0):
    """A fitted 2-D mixture of 3 components."""
    x, _ = blobs(400, 2, 3, seed)
    model = mixture(2, n_components=3, covariance_type=covariance_type, n_init=1)
    fit(model, x)
    return model, x


# Agreement.


@pytest.mark.parametrize("covariance_type", TYPES)
def test_mixture_agrees_with_scikit_learn_from_the_same_start(covariance_type):
    x, _ = blobs(800, 4, 3)
    weights, means, covariances, precisions = start_of(x, 3, covariance_type)
    peer = Peer(3, covariance_type=covariance_type, weights_init=weights, means_init=means, precisions_init=precisions, tol=1e-5, max_iter=200)
    peer.fit(x.numpy())
    model = mixture(4, n_components=3, covariance_type=covariance_type, tol=1e-5, max_iter=200)
    model.set_start(weights, means, covariances)
    figures = fit(model, x, batch=97)
    table = model.parameters_table()
    assert len(figures) == peer.n_iter_
    assert figures[-1]["lower_bound"] == pytest.approx(peer.lower_bound_, rel=1e-9)
    np.testing.assert_allclose(table["weights"], peer.weights_, rtol=1e-7)
    np.testing.assert_allclose(table["means"], peer.means_, rtol=1e-6, atol=1e-8)
    assert table["covariances"].shape == peer.covariances_.shape
    np.testing.assert_allclose(table["covariances"], peer.covariances_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.log_prob(x), peer.score_samples(x.numpy()), rtol=1e-8)
    np.testing.assert_allclose(model.encode(x).probs, peer.predict_proba(x.numpy()), atol=1e-7)
    assert model.bic(x) == pytest.approx(peer.bic(x.numpy()), rel=1e-9)
    assert model.aic(x) == pytest.approx(peer.aic(x.numpy()), rel=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_single_precision_blocks_keep_six_digits(covariance_type):
    x, _ = blobs(6000, 8, 4)
    bounds = {}
    for precision in ("single", "double"):
        model = mixture(8, n_components=4, covariance_type=covariance_type, precision=precision, tol=0.0)
        model.set_start(*start_of(x, 4, covariance_type)[:3])
        bounds[precision] = fit(model, x, passes=15)[-1]["lower_bound"]
    assert bounds["single"] == pytest.approx(bounds["double"], rel=1e-6)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_gaussian_is_the_scipy_normal_of_mean_and_covariance(covariance_type):
    x, _ = blobs(500, 4, 1)
    model = Gaussian(GaussianConfig(covariance_type=covariance_type, reg_covar=0.0), Vector(4))
    fit(model, x, batch=7)
    covariance = np.cov(x.numpy().T, bias=True)
    covariance = {"full": covariance, "diag": np.diag(np.diag(covariance)), "spherical": np.eye(4) * np.diag(covariance).mean()}[covariance_type]
    expected = stats.multivariate_normal(x.numpy().mean(axis=0), covariance).logpdf(x.numpy())
    np.testing.assert_allclose(model.log_prob(x), expected, rtol=1e-10)
    np.testing.assert_allclose(model.parameters_table()["means"][0], x.numpy().mean(axis=0), rtol=1e-10)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_gradient_reaches_the_closed_form(covariance_type):
    scales = torch.tensor([1e6, 1e-3, 1.0], dtype=torch.float64)
    x = blobs(300, 3, 1)[0] * (1.0 if covariance_type == "spherical" else scales) + 5.0
    closed = Gaussian(GaussianConfig(covariance_type=covariance_type, reg_covar=0.0), Vector(3))
    fit(closed, x)
    model = Gaussian(GaussianConfig(covariance_type=covariance_type, fit="gradient"), Vector(3))
    model.start(lambda: [Batch(x)], Batch(x), 0)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = model.loss(Batch(x)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert all(parameter.grad is not None for parameter in model.parameters())
    expected, reached = closed.parameters_table(), model.parameters_table()
    unit = closed.parameters_table()["covariances"].view(-1).abs().max() if covariance_type != "full" else torch.outer(x.std(0), x.std(0))
    assert float(((reached["covariances"] - expected["covariances"]) / unit).abs().max()) < 1e-5
    np.testing.assert_allclose(model.log_prob(x).detach(), closed.log_prob(x), rtol=1e-4)


def test_gradient_phase_of_the_trainer_reaches_the_closed_form():
    x, _ = blobs(512, 3, 1)
    closed, model = (Gaussian(GaussianConfig(fit=kind), Vector(3)) for kind in ("closed-form", "gradient"))
    fit(closed, x)
    train(model, Dataset("blob", Vector(3), Rows(x)), TrainOptions(max_steps=600, batch_size=512), seed=0)
    gap = float((closed.log_prob(x) - model.log_prob(x).detach()).mean())
    assert 0 <= gap + 1e-6 < 1e-3


def test_the_trainer_fits_the_mixture_until_it_converges():
    x, _ = blobs(2000, 3, 2)
    model = mixture(3, n_components=2)
    result = train(model, Dataset("blobs", Vector(3), Rows(x)), TrainOptions(), seed=0)
    assert result.stopped == "converged"
    assert float(model.log_prob(x).mean()) == pytest.approx(Peer(2, n_init=3, random_state=0).fit(x.numpy()).score(x.numpy()), abs=2e-3)


# EM.


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("covariance_type", TYPES)
def test_em_never_lowers_the_likelihood(covariance_type, seed):
    x, _ = blobs(300, 3, 4, seed)
    model = mixture(3, n_components=4, covariance_type=covariance_type, reg_covar=0.0, tol=0.0, n_init=1)
    bounds = [each["lower_bound"] for each in fit(model, x, passes=25)]
    assert min(np.diff(bounds)) > -1e-8
    assert bounds[-1] > bounds[0]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_do_not_depend_on_the_batches(covariance_type):
    x, _ = blobs(350, 3, 3)
    tables = []
    for batch in (7, 350):
        model = mixture(3, n_components=3, covariance_type=covariance_type, n_init=1)
        fit(model, x, batch=batch, passes=4)
        tables.append(model.parameters_table())
    for name in tables[0]:
        np.testing.assert_allclose(tables[0][name], tables[1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_em_is_equivariant_to_units_and_offset(covariance_type, offset):
    x, _ = blobs(1500, 3, 3)
    scale = torch.tensor([1e6, 1e-3, 1.0] if covariance_type != "spherical" else [1e3, 1e3, 1e3], dtype=torch.float64)
    results = []
    for rows in (x, x * scale + offset * scale):
        model = mixture(3, n_components=3, covariance_type=covariance_type, reg_covar=0.0, n_init=1, precision="single", tol=1e-7)
        if covariance_type == "spherical":
            model.set_start(*start_of(rows, 3, covariance_type)[:3])
        fit(model, rows, passes=20)
        results.append(model.log_prob(rows))
    np.testing.assert_allclose(results[1] + scale.log().sum(), results[0], atol=2e-3)


def test_reg_covar_is_in_the_units_of_the_data():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64) * 1e-3
    model = mixture(1, n_components=1, reg_covar=0.5, n_init=1)
    fit(model, x)
    assert float(model.parameters_table()["covariances"]) == pytest.approx(0.5 + 1.25e-6, rel=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_duplicates_and_a_tiny_cluster_do_not_collapse(covariance_type):
    x, _ = blobs(200, 2, 2)
    x = torch.cat([x, x[:1].expand(60, -1), torch.tensor([[40.0, 40.0]]).double()])
    model = mixture(2, n_components=6, covariance_type=covariance_type)
    fit(model, x)
    covariances = model.shape.dense(model.factors[0], 6) @ model.shape.dense(model.factors[0], 6).mT
    assert float(torch.linalg.eigvalsh(covariances).min()) >= 1e-6 * (1 - 1e-6)
    assert torch.isfinite(model.log_prob(blobs(50, 2, 2, seed=1)[0])).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_empty_component_keeps_its_place(covariance_type):
    x, _ = blobs(100, 2, 2)
    weights, means, covariances, _ = start_of(x, 3, covariance_type)
    means[2] = 1e9
    model = mixture(2, n_components=3, covariance_type=covariance_type)
    model.set_start(weights, means, covariances)
    fit(model, x)
    table = model.parameters_table()
    assert all(torch.isfinite(value).all() for value in table.values())
    assert float(table["means"][2, 0]) == 1e9
    assert float(table["weights"][2]) < 1e-12
    assert torch.isfinite(model.log_prob(x)).all()
    assert torch.isfinite(model.sample(50, seed=0)).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_exactly_repeated_columns_survive_without_regularisation(covariance_type):
    x, _ = blobs(200, 2, 2)
    model = mixture(3, n_components=2, covariance_type=covariance_type, reg_covar=0.0)
    fit(model, torch.cat([x, x[:, :1]], dim=1))
    assert torch.isfinite(model.log_prob(torch.cat([x, x[:, :1]], dim=1))).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_points_at_a_thousand_sigma_are_finite(covariance_type):
    model, x = small_mixture(covariance_type)
    far = x[:5] + 1e3 * x.std(dim=0)
    table = model.parameters_table()
    dense = model.shape.dense(model.factors[0], 3)
    parts = [
        math.log(float(w)) + stats.multivariate_normal(mean.numpy(), (tril @ tril.T).numpy()).logpdf(far.numpy())
        for w, mean, tril in zip(table["weights"], table["means"], dense, strict=True)
    ]
    values = model.log_prob(far)
    assert torch.isfinite(values).all()
    np.testing.assert_allclose(values, np.logaddexp.reduce(parts, axis=0), rtol=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_expanded_squares_equal_residuals(covariance_type):
    torch.manual_seed(0)
    shape = SHAPES[covariance_type](3)
    x, means, r = torch.randn(3, 40).double(), torch.randn(4, 3).double(), torch.rand(4, 40).double().softmax(dim=0)
    factor = shape.factorise(shape.regularise(shape.expand(shape.from_std(torch.tensor([1.0, 2.0, 3.0]).double(), 4)), 0.1))
    for method in (shape.residuals, shape.expanded):
        squares, collect = method(x, means, shape.invert(factor))
        y = torch.linalg.solve_triangular(shape.dense(factor, 4), (x - means.unsqueeze(2)), upper=False)
        np.testing.assert_allclose(squares, y.square().sum(dim=1), rtol=1e-10)
        first, second = collect(r, r.sum(dim=1))
        np.testing.assert_allclose(first, (y * r.unsqueeze(1)).sum(dim=2), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(second, shape.moment(y, r), rtol=1e-9, atol=1e-9)


def test_double_precision_where_single_would_lose_digits():
    shape = SHAPES["full"](1)
    near = em.Component(torch.ones(2) / 2, torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1))
    narrow = em.Component(torch.ones(2) / 2, torch.tensor([[-1.0], [1.0]]), torch.full((2, 1, 1), 1e-5))
    assert em.single_suffices(shape, near)
    assert not em.single_suffices(shape, narrow)


def test_several_starts_escape_a_bad_one():
    centres = torch.tensor([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 9.0], [4.5, 4.5]]).double()
    torch.manual_seed(0)
    x = centres.repeat_interleave(80, dim=0) + 0.4 * torch.randn(400, 2).double()
    model = mixture(2, n_components=5, n_init=5)
    fit(model, x)
    found = model.parameters_table()["means"]
    assert float(torch.cdist(centres, found).min(dim=1).values.max()) < 0.3


# Conditional models.


def test_each_class_has_its_own_gaussian():
    x, y = blobs(400, 3, 3)
    model = Gaussian(GaussianConfig(reg_covar=0.0), Vector(3), Labels(3))
    fit(model, x, y, batch=31)
    for label in range(3):
        own = x[y == label]
        alone = Gaussian(GaussianConfig(reg_covar=0.0), Vector(3))
        fit(alone, own)
        np.testing.assert_allclose(model.log_prob(own, y[y == label]), alone.log_prob(own), rtol=1e-9)
    np.testing.assert_allclose(
        model.log_prob(x, y), torch.stack([model.log_prob(row[None], label[None])[0] for row, label in zip(x, y, strict=True)])
    )
    assert model.sample(5, torch.tensor([1]), seed=0).shape == (5, 3)
    assert model.parameters_table()["means"].shape == (3, 3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_each_class_has_its_own_mixture(covariance_type):
    x, y = blobs(600, 2, 4)
    y = y % 2
    model = mixture(2, Labels(3), n_components=2, covariance_type=covariance_type)
    fit(model, x, y, batch=50)
    assert bool((model.log_prob(x, y) > model.log_prob(x, 1 - y)).double().mean() > 0.8)
    samples = model.sample(600, y, seed=1)
    assert float((model.log_prob(samples, y) - model.log_prob(x, y)).mean().abs()) < 0.2
    absent = torch.full((len(x),), 2)
    assert torch.isfinite(model.log_prob(x, absent)).all()
    assert torch.isfinite(model.marginal_log_prob(x)).all()
    assert model.parameters_table()["weights"].shape == (3, 2)


def test_gradient_gaussian_is_conditional_too():
    x, y = blobs(300, 2, 2)
    model = Gaussian(GaussianConfig(fit="gradient"), Vector(2), Labels(2))
    train(model, Dataset("blobs", Vector(2), Rows(x, y), condition=Labels(2)), TrainOptions(max_steps=300, batch_size=300), seed=0)
    closed = Gaussian(None, Vector(2), Labels(2))
    fit(closed, x, y)
    assert float((closed.log_prob(x, y) - model.log_prob(x, y).detach()).mean().abs()) < 0.02


# Mass, samples, completion.


@pytest.mark.parametrize("covariance_type", TYPES)
def test_mass_is_one(covariance_type):
    model, x = small_mixture(covariance_type)
    low, high = x.min() - 12, x.max() + 12
    axis = torch.linspace(float(low), float(high), 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    assert float(model.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_samples_follow_the_density(covariance_type):
    model, _ = small_mixture(covariance_type)
    samples = model.sample(8000, seed=3)
    assert torch.equal(samples[:300], model.sample(300, seed=3))
    table, dense = model.parameters_table(), model.shape.dense(model.factors[0], 3)
    for axis in range(2):
        deviations = (dense @ dense.mT)[:, axis, axis].sqrt()
        cdf = sum(
            w * stats.norm(m, s).cdf(samples[:, axis].numpy())
            for w, m, s in zip(table["weights"].tolist(), table["means"][:, axis].tolist(), deviations.tolist())
        )
        counts = np.histogram(cdf, bins=20, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("covariance_type", TYPES)
def test_completion_draws_from_the_analytic_conditional(covariance_type):
    model, x = small_mixture(covariance_type)
    row = x[:1].repeat(6000, 1)
    row[:, 1] = NAN
    known = torch.tensor([True, False]).expand_as(row)
    drawn = model.complete(row, known, seed=0)
    assert torch.equal(drawn[:, 0], row[:, 0])
    axis = torch.linspace(float(x[:, 1].min()) - 15, float(x[:, 1].max()) + 15, 4001, dtype=torch.float64)
    density = model.log_prob(torch.stack([x[0, 0].expand_as(axis), axis], dim=1)).exp()
    cdf = torch.cumulative_trapezoid(density, axis)
    cdf = torch.cat([torch.zeros(1).double(), cdf]) / cdf[-1]
    ranks = np.interp(drawn[:, 1].numpy(), axis.numpy(), cdf.numpy())
    assert stats.chisquare(np.histogram(ranks, bins=20, range=(0, 1))[0]).pvalue > 1e-4
    mean = float(torch.trapezoid(axis * density, axis) / torch.trapezoid(density, axis))
    assert float(model.predict(row[:3], known[:3])[0, 1]) == pytest.approx(mean, abs=1e-4)
    assert torch.equal(model.complete(row[:9], known[:9], seed=5), model.complete(row[:9], known[:9], seed=5))


def test_gaussian_prediction_is_linear_regression():
    x, _ = blobs(300, 4, 1)
    model = Gaussian(GaussianConfig(reg_covar=0.0), Vector(4))
    fit(model, x)
    known = torch.tensor([True, False, True, True]).expand_as(x)
    design = torch.cat([x[:, [0, 2, 3]], torch.ones(300, 1).double()], dim=1)
    fitted = design @ torch.linalg.lstsq(design, x[:, 1:2]).solution
    np.testing.assert_allclose(model.predict(x, known)[:, 1:2], fitted, rtol=1e-8, atol=1e-8)
    residuals = (model.complete(x.repeat(20, 1), known.repeat(20, 1), seed=0)[:, 1] - fitted.repeat(20, 1)[:, 0]).std()
    assert float(residuals) == pytest.approx(float((x[:, 1:2] - fitted).square().mean().sqrt()), rel=0.05)


def test_completion_takes_any_pattern_and_any_class():
    x, y = blobs(60, 3, 2)
    model = mixture(3, Labels(2), n_components=2)
    fit(model, x, y)
    known = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    known[0], known[1] = True, False
    out = model.complete(torch.where(known, x, NAN), known, y, seed=0)
    assert torch.isfinite(out).all()
    assert torch.equal(out[known], x[known])
    with pytest.raises(InvalidInput, match="boolean tensor of shape"):
        model.complete(x, known[:, :2], y)


# Pictures, protocols, persistence of state.


def test_pictures_are_dequantised_and_completed_as_pictures():
    x = torch.from_numpy(load_digits().images[:300]).to(torch.uint8).unsqueeze(1)
    model = GaussianMixture(GaussianMixtureConfig(n_components=5, covariance_type="diag", max_iter=10), Image((1, 8, 8), 17))
    fit(model, x)
    samples = model.sample(10, seed=0)
    assert samples.dtype == torch.uint8
    assert int(samples.max()) <= 16
    assert str(model.density) == "bound"
    known = torch.zeros_like(x, dtype=torch.bool)
    known[..., :4, :] = True
    out = model.complete(x[:6], known[:6], seed=0)
    assert out.dtype == torch.uint8
    assert torch.equal(out[known[:6]], x[:6][known[:6]])


def test_em_on_dequantised_data_stops_though_every_pass_differs():
    x = torch.from_numpy(load_digits().images[:400]).to(torch.uint8).unsqueeze(1)
    model = GaussianMixture(GaussianMixtureConfig(n_components=3, covariance_type="diag", n_init=1), Image((1, 8, 8), 17))
    bounds = [each["lower_bound"] for each in fit(model, x)]
    assert len(bounds) < 60
    assert max(bounds[-5:]) <= max(bounds[:-5]) + 1e-3


def test_protocols_and_loading_by_construct_and_fill():
    model, x = small_mixture()
    assert isinstance(model, Encodes)
    assert isinstance(model, Completes)
    assert isinstance(model, Inspects)
    again = mixture(2, n_components=3, n_init=1)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.log_prob(x), model.log_prob(x))
    assert torch.equal(again.sample(9, seed=1), model.sample(9, seed=1))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_prob_is_differentiable(covariance_type):
    model, x = small_mixture(covariance_type)
    assert torch.autograd.gradcheck(model.log_prob, (x[:3].clone().requires_grad_(),))


# Bad input.


def test_fewer_rows_than_components():
    with pytest.raises(InvalidInput, match=r"3 rows, fewer than n_components = 5; lower --model.n_components"):
        fit(mixture(2, n_components=5), blobs(3, 2)[0])


def test_a_class_with_fewer_rows_than_components():
    x, y = blobs(100, 2, 2)
    y[:] = 0
    y[:2] = 1
    with pytest.raises(InvalidInput, match="class 1 has 2 rows"):
        fit(mixture(2, Labels(2), n_components=3), x, y)


@pytest.mark.parametrize("model", [mixture(2, n_components=1), Gaussian(None, Vector(2))])
def test_one_row(model):
    with pytest.raises(InvalidInput, match="1 row; expected at least 2"):
        fit(model, torch.zeros(1, 2).double())


@pytest.mark.parametrize("model", [mixture(2, n_components=1), Gaussian(None, Vector(2))])
def test_a_constant_column_is_named(model):
    x, _ = blobs(50, 2)
    x[:, 1] = 3.25
    with pytest.raises(InvalidInput, match=r"column 'x1' is constant \(always 3.25\)"):
        fit(model, x)


def test_a_singular_covariance_says_what_to_do():
    x, _ = blobs(50, 2)
    with pytest.raises(InvalidInput, match="raise --model.reg_covar"):
        fit(Gaussian(GaussianConfig(reg_covar=0.0), Vector(3)), torch.cat([x, x[:, :1]], dim=1))


@pytest.mark.parametrize("bad", ["weights", "means", "covariances", "sum", "indefinite"])
def test_a_start_of_another_shape_is_refused(bad):
    x, _ = blobs(50, 2)
    given = dict(zip(("weights", "means", "covariances"), start_of(x, 3, "full"), strict=False))
    if bad in given:
        given[bad] = given[bad][:2]
    elif bad == "sum":
        given["weights"] = given["weights"] * 2
    else:
        given["covariances"] = -given["covariances"]
    with pytest.raises(InvalidInput):
        mixture(2, n_components=3).set_start(**given)
