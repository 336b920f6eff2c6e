"""The autoencoder: principal components where it is linear, the density of its codes, denoising, columns of every kind."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

import manykin as mk
from manykin.contract import Batch, ClosedForm, Decodes, Encodes, Weighs
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput, NoDensity, Unsupported
from manykin.models.latent.autoencoder import Autoencoder, AutoencoderConfig
from manykin.models.latent.codes import STATISTICS, CodeDensity
from manykin.random import seeded
from manykin.spaces import Column, Image, Labels, Table, Vector
from manykin.testing import checks_for, run_checks
from manykin.testing.context import Context, Subject
from manykin.training import TrainOptions, train

QUICK = {"batch_size": 128, "lr": 1e-2, "schedule": "cosine"}


def fitted(space, x, config, *, steps=300, condition=None, c=None, **options) -> Autoencoder:
    torch.manual_seed(0)
    model = Autoencoder(config, space, condition)
    train(model, Dataset("rows", space, Rows(x, c), condition=condition), TrainOptions.from_json({**QUICK, "max_steps": steps, **options}), seed=0)
    return model


def ellipsoid(n=1500):
    torch.manual_seed(1)
    return torch.randn(n, 2).double() @ torch.randn(2, 5).double() + 0.3 * torch.randn(n, 5).double() + 10


# Linear networks find the principal components (Baldi and Hornik, 1989).


def test_linear_networks_span_the_principal_components():
    x = ellipsoid()
    model = fitted(Vector(5), x, AutoencoderConfig(latent=2, hidden=(), penalty=0.0), steps=800, lr=2e-2)
    t = (x - x.mean(0)) / x.std(0, correction=0)
    vectors = torch.linalg.eigh(torch.cov(t.T, correction=0))[1][:, -2:]
    decoder = model.decoder.last.weight.detach().double()
    own = torch.linalg.qr(decoder)[0]
    cosines = torch.linalg.svdvals(own.T @ vectors)
    assert float(cosines.min()) > 0.999
    back = model.decode(model.encode(x).mean)
    error = ((back - x) / x.std(0, correction=0)).square().sum(1).mean()
    best = torch.linalg.eigvalsh(torch.cov(t.T, correction=0))[:3].sum()
    assert float(best) <= float(error) < 1.01 * float(best)


def test_the_suite_compares_linear_codes_with_principal_components():
    config = AutoencoderConfig(latent=2, hidden=(), penalty=0.0, prior="gaussian")
    options = {"max_steps": 600, "lr": 2e-2, "batch_size": 64, "schedule": "cosine"}
    rows = run_checks(Context(Subject(Autoencoder(config, Vector(5)), "linear", options)), ["linear-codes-are-principal", "latents-are-like-codes"])
    assert [row.passed for row in rows] == [True, True], rows


@pytest.mark.parametrize(("hidden", "latent"), [((8,), 2), ((), 5)])
def test_the_suite_leaves_bent_codes_and_full_ones_alone(hidden, latent):
    model = Autoencoder(AutoencoderConfig(latent=latent, hidden=hidden), Vector(5))
    assert "linear-codes-are-principal" not in {each.name for each in checks_for(model)}


# The density of codes.


def two_clusters(n):
    torch.manual_seed(2)
    side = (torch.rand(n) < 0.3).double()[:, None]
    return torch.randn(n, 2).double() * torch.tensor([0.3, 1.0]) + 4 * side, side.squeeze(1).long()


def passes(density, h, labels, most):
    for _ in range(most):
        for part in range(0, len(h), 100):
            density.accumulate(h[part : part + 100], None if labels is None else labels[part : part + 100])
        with seeded(0):
            done = density.solve().converged
        for name in STATISTICS:
            density.get_buffer(name).zero_()
        if done:
            return True
    return False


def test_one_component_is_the_gaussian_of_the_moments():
    h, _ = two_clusters(500)
    density = CodeDensity(2, 1, 1)
    assert passes(density, h, None, 1)
    expected = torch.distributions.MultivariateNormal(h.mean(0), torch.cov(h.T, correction=0))
    torch.testing.assert_close(density.log_prob(h, None), expected.log_prob(h))


def test_the_mixture_is_as_likely_as_scikit_learns_and_its_samples_follow_it():
    h, _ = two_clusters(2000)
    density = CodeDensity(2, 2, 1)
    assert passes(density, h, None, 60)
    theirs = GaussianMixture(2, random_state=0, n_init=3).fit(h.numpy()).score(h.numpy())
    assert float(density.log_prob(h, None).mean()) == pytest.approx(theirs, abs=0.03)
    with seeded(0):
        drawn = density.sample(20_000, None)
    assert (drawn.mean(0) - h.mean(0)).abs().max() < 0.1
    assert float((drawn[:, 0] > 2).double().mean()) == pytest.approx(float((h[:, 0] > 2).double().mean()), abs=0.03)


def test_each_class_has_a_density_of_its_own_and_a_rare_class_that_of_all():
    h, c = two_clusters(600)
    c = torch.where(torch.arange(600) < 2, 2, c)
    density = CodeDensity(2, 1, 3)
    passes(density, h, c, 1)
    for label in (0, 1):
        torch.testing.assert_close(density.means[label, 0], h[c == label].mean(0))
    torch.testing.assert_close(density.means[2, 0], h.mean(0))
    with seeded(0):
        low, high = density.sample(500, torch.zeros(500).long()), density.sample(500, torch.ones(500).long())
    assert float(high.mean() - low.mean()) > 3


def test_few_rows_leave_few_components_and_finite_factors():
    h, _ = two_clusters(20)
    density = CodeDensity(2, 10, 1)
    passes(density, h, None, 10)
    assert int((density.weights > 0.01).sum()) <= 2
    assert torch.isfinite(density.factors).all()
    alone = CodeDensity(2, 10, 1)
    passes(alone, h[:1], None, 3)
    assert torch.isfinite(alone.log_prob(h, None)).all()


def test_the_density_is_fitted_when_training_has_ended_on_all_rows():
    x = ellipsoid(700)
    for prior, most in (("gaussian", 1), ("mixture", 21)):
        model = fitted(Vector(5), x, AutoencoderConfig(latent=2, hidden=(16,), prior=prior), steps=60)
        phase = model.phases()[1]
        assert isinstance(phase, ClosedForm)
        assert (phase.when, phase.max_epochs) == ("end", most)
        codes = model.encode(x).mean.double()
        drawn = model.latents(20_000, seed=0).double()
        assert ((drawn.mean(0) - codes.mean(0)) / codes.std(0)).abs().max() < 0.05
        torch.testing.assert_close(torch.cov(drawn.T), torch.cov(codes.T), rtol=0.1, atol=0.05)


# What it is, and what it does with data.


def test_it_encodes_to_points_decodes_and_has_no_density():
    x = ellipsoid(300)
    model = fitted(Vector(5), x, AutoencoderConfig(latent=2, hidden=(16,)), steps=30)
    assert isinstance(model, Encodes)
    assert isinstance(model, Decodes)
    assert not isinstance(model, Weighs)
    code = model.encode(x)
    assert (code.variance == 0).all()
    with pytest.raises(NoDensity):
        model.log_prob(x)
    with pytest.raises(InvalidInput, match=r"expected latents of shape \(n, 2\)"):
        model.decode(torch.zeros(3, 5))
    h = model.latents(3, seed=0).requires_grad_()
    model.decode(h).sum().backward()
    assert bool((h.grad != 0).all())


def test_labels_steer_samples():
    torch.manual_seed(0)
    c = torch.randint(0, 3, (900,))
    x = torch.randn(900, 2).double() + 6.0 * c[:, None]
    model = fitted(Vector(2), x, AutoencoderConfig(latent=1, hidden=(32,)), steps=200, condition=Labels(3), c=c)
    means = [float(model.sample(300, torch.tensor([label]), seed=0).mean()) for label in range(3)]
    assert means == pytest.approx([0, 6, 12], abs=0.7)
    with pytest.raises(Unsupported, match="expected Labels"):
        Autoencoder(None, Vector(2), Vector(1))


def test_mixed_columns_with_gaps_come_back_valid():
    columns = (
        Column("height"), Column("count", "integer"), Column("stars", "integer", low=1, levels=5, missing=True),
        Column("colour", "categorical", categories=("red", "green", "blue"), missing=True), Column("member", "categorical", categories=(False, True)),
        Column("price", low=0.25, step=0.5),
    )  # fmt: skip
    torch.manual_seed(0)
    n, colour = 600, torch.randint(0, 3, (600,)).double()
    x = torch.stack(
        [170 + 10 * colour + torch.randn(n), (30 * colour).round(), 1 + colour, colour, (colour > 0).double(), 0.25 + 0.5 * colour], dim=1
    )
    x = x.double()
    x[torch.rand(n) < 0.2, 2] = float("nan")
    model = fitted(Table(columns), x, AutoencoderConfig(latent=3, hidden=(64,)), steps=400)
    back = model.decode(model.encode(x).mean)
    Table(columns).validate(back)
    assert float((back[:, 3] == x[:, 3]).double().mean()) > 0.95
    assert float((back[:, 1] - x[:, 1]).abs().mean()) < 4
    drawn = model.sample(400, seed=0)
    Table(columns).validate(drawn)
    # What one colour decides stays together in a new row.
    agree = (drawn[:, 4] == (drawn[:, 3] > 0)).double().mean()
    assert float(agree) > 0.9


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_digits_come_back_and_new_ones_are_near_real_ones(network):
    x = torch.tensor(load_digits().images).to(torch.uint8)[:, None]
    config = AutoencoderConfig(latent=10, hidden=(64,), network=network, widths=(16, 32), noise=0.2)
    model = fitted(Image((1, 8, 8), 17), x, config, steps=250, lr=5e-3)
    back = model.decode(model.encode(x[:300]).mean).double()
    error, spread = (back - x[:300]).square().mean(), x.double().var(0).mean()
    assert float(error) < 0.35 * float(spread)
    drawn = model.sample(200, seed=0)
    assert drawn.dtype == torch.uint8
    distances = torch.cdist(drawn.double().flatten(1), x.double().flatten(1)).min(dim=1).values
    pixels = torch.stack([x[torch.randperm(len(x)), 0, i, j] for i in range(8) for j in range(8)], dim=1)[:200].double()
    blind = torch.cdist(pixels, x.double().flatten(1)).min(dim=1).values
    assert float(distances.mean()) < 0.75 * float(blind.mean())


def test_two_levels_have_cross_entropy_and_other_levels_squares():
    binary = Autoencoder(AutoencoderConfig(latent=2), Image((1, 4, 4), 2))
    x = torch.randint(0, 2, (64, 1, 4, 4)).to(torch.uint8)
    binary.start(lambda: [Batch(x)], Batch(x), seed=0)
    with torch.no_grad():
        binary.decoder.last.weight.zero_()
        binary.decoder.last.bias.zero_()
    loss = binary.loss(Batch(x)) - 0.5 * 0.001 * binary.notes["code_norm"]
    torch.testing.assert_close(loss, torch.full((64,), 16 * math.log(2)))
    grey = Autoencoder(AutoencoderConfig(latent=2), Image((1, 4, 4), 256))
    y = torch.randint(0, 256, (64, 1, 4, 4)).to(torch.uint8)
    grey.start(lambda: [Batch(y)], Batch(y), seed=0)
    with torch.no_grad():
        grey.decoder.last.weight.zero_()
    centred = y.flatten(1).double() - y.flatten(1).double().mean(0)
    expected = 0.5 * (centred.square() / centred.square().mean()).sum(1)
    found = grey.loss(Batch(y)) - 0.5 * 0.001 * grey.notes["code_norm"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_noise_is_added_in_training_only():
    x = ellipsoid(200)
    model = fitted(Vector(5), x, AutoencoderConfig(latent=2, hidden=(16,), noise=0.5), steps=20)
    model.train()
    assert not torch.equal(model.loss(Batch(x)), model.loss(Batch(x)))
    model.eval()
    assert torch.equal(model.loss(Batch(x)), model.loss(Batch(x)))


def test_a_fit_by_name_survives_saving(tmp_path):
    model = mk.fit("autoencoder", "digits", preset="tiny", max_steps=40, options={"network": "conv"})
    model.save_pretrained(tmp_path / "run")
    again = mk.from_pretrained(tmp_path / "run")
    assert (again.sample(5, seed=0) == model.sample(5, seed=0)).all()
