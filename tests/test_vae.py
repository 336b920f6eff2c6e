"""The VAE: its bound against a closed form, its likelihoods against quadrature and enumeration, missing values, collapse."""

import math
import warnings

import pytest
import torch
from sklearn.datasets import load_digits

import manykin as mk
from manykin.contract import Batch, Decodes, Encodes, Weighs
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput, ManykinWarning, Unsupported
from manykin.models import get
from manykin.models.columns import ColumnLikelihood
from manykin.models.latent.vae import VAE, VAEConfig
from manykin.random import seeded
from manykin.spaces import Column, Image, Labels, Table, Vector
from manykin.testing import run_checks
from manykin.testing.context import Context, Subject
from manykin.training import TrainOptions
from manykin.training import train as package_train

LINEAR = VAEConfig(latent=2, hidden=(), variance="column")

MIXED = Table(
    (
        Column("real", missing=True),
        Column("count", "integer"),
        Column("stars", "integer", low=1, levels=5, missing=True),
        Column("grey", "integer", levels=40),
        Column("colour", "categorical", categories=("red", "green", "blue"), missing=True),
        Column("member", "categorical", categories=(False, True)),
        Column("price", low=0.25, step=0.5),
    )
)


def mixed_rows(n: int, missing: float = 0.3) -> torch.Tensor:
    x = torch.stack(
        [
            1e6 + 5 * torch.randn(n), torch.randint(-50, 90, (n,)), 1 + torch.randint(0, 5, (n,)), torch.randint(0, 40, (n,)),
            torch.randint(0, 3, (n,)), torch.randint(0, 2, (n,)), 0.25 + 0.5 * torch.randint(-4, 8, (n,)),
        ],
        dim=1,
    ).double()  # fmt: skip
    x[:, 0] = 1e6 + 5 * torch.randn(n, dtype=torch.float64)
    for index, column in enumerate(MIXED.columns):
        if column.missing:
            x[torch.rand(n) < missing, index] = float("nan")
    return x


def started(space, x, config=None, condition=None, c=None) -> VAE:
    torch.manual_seed(0)
    model = VAE(config or VAEConfig(latent=3, hidden=(16,)), space, condition)
    model.start(lambda: [Batch(x, c)], Batch(x, c), seed=0)
    return model


def train(model, x, steps, lr=5e-3, batch=128):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        model.loss(Batch(x[torch.randint(len(x), (batch,))])).mean().backward()
        optimizer.step()
    return model.eval()


# The linear VAE is probabilistic PCA (Tipping and Bishop, 1999): p(x) = N(b, W W' + sigma^2 I), and its posterior is known.


def linear_vae(perturb: float = 0.0):
    torch.manual_seed(3)
    model = VAE(LINEAR, Vector(4)).double().eval()
    weight, bias, log_sigma = torch.randn(4, 2).double(), torch.randn(4).double(), math.log(0.6)
    head = model.likelihood.heads[0]
    with torch.no_grad():
        model.likelihood.centre.copy_(torch.randn(4))
        model.likelihood.scale.copy_(torch.tensor([1.0, 2.0, 0.5, 3.0]))
        model.decoder.last.weight.copy_(weight)
        model.decoder.last.bias.copy_(bias)
        head.log_scale.fill_(log_sigma)
        sigma = float(head.split(torch.zeros(1, 4, 1).double())[1][0, 0].exp())
        precision = torch.eye(2).double() + weight.T @ weight / sigma**2
        gain = torch.linalg.solve(precision, weight.T) / sigma**2
        model.encoder.last.weight[:2] = gain + perturb * torch.randn(2, 4)
        model.encoder.last.bias[:2] = -gain @ bias
        model.encoder.last.weight[2:] = 0.0
        model.encoder.last.bias[2:] = -0.5 * precision.diagonal().log() + perturb
    scale = torch.diag(model.likelihood.scale)
    exact = torch.distributions.MultivariateNormal(
        model.likelihood.centre + scale @ bias, scale @ (weight @ weight.T + sigma**2 * torch.eye(4).double()) @ scale
    )
    return model, exact, precision


def test_importance_weights_average_to_the_exact_marginal_of_ppca():
    model, exact, precision = linear_vae(perturb=0.1)
    with torch.no_grad():
        # As wide as the posterior in its widest direction, so that the weights have a finite variance.
        model.encoder.last.bias[2:] = 0.1 - 0.5 * torch.linalg.eigvalsh(precision).min().log()
    x = exact.sample((40,))
    weights = model.log_weights(x, 5000, seed=1)
    assert weights.shape == (40, 5000)
    ratio = (weights - exact.log_prob(x)[:, None]).exp()
    deviations = (ratio.mean(dim=1) - 1) / (ratio.std(dim=1) / math.sqrt(5000))
    assert deviations.abs().max() < 5
    assert abs(float(deviations.mean())) < 4 / math.sqrt(40)


def test_a_linear_model_knows_its_marginal_and_others_refuse():
    model, exact, _ = linear_vae(perturb=0.1)
    x = exact.sample((40,))
    assert model.knows_marginal
    assert torch.allclose(model.exact_log_prob(x), exact.log_prob(x), atol=1e-8)
    for config, space in ((VAEConfig(variance="column"), Vector(4)), (VAEConfig(hidden=()), Vector(4)), (LINEAR, Vector(2, levels=5))):
        other = VAE(config, space)
        assert not other.knows_marginal
        with pytest.raises(Unsupported, match="no closed form.*use log_weights"):
            other.exact_log_prob(torch.zeros(2, space.size, dtype=torch.float64))


@pytest.mark.parametrize("condition", [None, Labels(3)])
def test_the_suite_compares_weights_of_a_linear_model_with_its_marginal(condition):
    subject = Subject(VAE(LINEAR, Vector(3), condition), "linear", {"max_steps": 60, "batch_size": 128, "lr": 1e-2})
    rows = run_checks(Context(subject), ["weights-meet-the-closed-form"])
    assert [(row.passed, row.message) for row in rows] == [(True, "")]


class OneTermMissing(VAE):
    """Leaves a constant out of the importance weights."""

    def _weights(self, x, context, k):
        return super()._weights(x, context, k) + 0.3


def test_the_suite_notices_wrong_weights_of_a_linear_model():
    subject = Subject(OneTermMissing(LINEAR, Vector(3)), "wrong", {"max_steps": 60, "batch_size": 128, "lr": 1e-2})
    rows = run_checks(Context(subject), ["weights-meet-the-closed-form"])
    assert [row.passed for row in rows] == [False]


@pytest.mark.parametrize("k", [0, -1, 2.5, True])
def test_a_wrong_number_of_weights_is_refused(k):
    model, exact, _ = linear_vae()
    with pytest.raises(InvalidInput, match=r"importance samples are not possible; expected an integer of at least 1\.") as raised:
        model.log_weights(exact.sample((3,)), k)
    assert str(raised.value).startswith(f"k = {k!r} ")


def test_elbo_is_below_log_p_by_the_known_gap():
    """With the posterior's mean and the best diagonal covariance the gap is (sum log diag(P) - log det P) / 2."""
    model, exact, precision = linear_vae()
    x = exact.sample((4000,))
    gap = exact.log_prob(x) - torch.stack([model.log_prob(x, seed=seed) for seed in range(20)]).mean(dim=0).detach()
    expected = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert expected > 0
    assert abs(float(gap.mean() - expected)) < 4 * float(gap.std()) / math.sqrt(4000)
    with torch.no_grad():
        loss = torch.stack([model.loss(Batch(x)) for _ in range(20)]).mean(dim=0)
    analytic = exact.log_prob(x) + loss
    assert abs(float(analytic.mean() - expected)) < 4 * float(analytic.std()) / math.sqrt(4000)


def test_bound_tightens_with_k():
    model, exact, _ = linear_vae(perturb=0.2)
    x = exact.sample((2000,))
    weights = model.log_weights(x, 64)
    bounds = [weights[:, :k].logsumexp(dim=1).mean() - math.log(k) for k in (1, 4, 16, 64)]
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] <= exact.log_prob(x).mean() + 0.02


def test_one_weight_is_log_prob_and_chunks_do_not_matter(monkeypatch):
    model, exact, _ = linear_vae()
    x = exact.sample((50,))
    assert torch.allclose(model.log_weights(x, 1, seed=7)[:, 0], model.log_prob(x, seed=7).detach())
    monkeypatch.setattr("manykin.models.latent.vae.CHUNK", 2000)
    weights = model.log_weights(x, 300, seed=0)
    assert weights.shape == (50, 300)
    assert len(weights.unique()) == weights.numel()
    ratio = (weights - exact.log_prob(x)[:, None]).exp().mean(dim=1)
    assert (ratio - 1).abs().max() < 0.5


def test_learned_linear_vae_reaches_the_maximum_likelihood_of_ppca():
    torch.manual_seed(0)
    mixing = torch.randn(5, 2)
    x = torch.randn(3000, 2) @ mixing.T + 0.5 * torch.randn(3000, 5)
    z = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    model = started(Vector(5), x, LINEAR)
    train(model, x, 700, lr=2e-2, batch=256)
    # Factor analysis with free noise is at least as good as PPCA of the standardised columns, whose optimum is the eigenvalues' formula.
    values = torch.linalg.eigvalsh(torch.cov(z.T, correction=0)).flip(0)
    noise = values[2:].mean()
    best = -0.5 * (values[:2].log().sum() + 3 * noise.log() + 5 * math.log(2 * math.pi) + 5) - x.std(dim=0, correction=0).log().sum()
    reached = (model.log_weights(x, 64).logsumexp(dim=1) - math.log(64)).mean()
    assert float(best) - 0.05 < float(reached) < float(best) + 0.5


# Likelihoods.


@pytest.mark.parametrize("likelihood", ["auto", "categorical", "discretised-logistic", "gaussian"])
@pytest.mark.parametrize("levels", [1, 2, 3, 17, 256])
@pytest.mark.parametrize("shared", [False, True])
def test_masses_of_finite_columns_sum_to_one(likelihood, levels, shared):
    torch.manual_seed(0)
    columns = (Column("a", "integer", levels=levels), Column("b", "integer", low=-3, levels=levels))
    module = ColumnLikelihood(columns, likelihood, shared).double()
    module.start(torch.stack([torch.randint(levels, (100,)), torch.randint(levels, (100,)) - 3], dim=1).double())
    outputs = 3 * torch.randn(20, module.outputs, dtype=torch.float64)
    codes = torch.arange(levels, dtype=torch.float64)
    rows = torch.cartesian_prod(codes, codes - 3) if levels < 20 else torch.stack([codes, torch.full_like(codes, -3.0)], dim=1)
    log_p = module.log_prob(outputs[:, None, :].expand(-1, len(rows), -1), rows)
    if levels < 20:
        assert torch.allclose(log_p.logsumexp(dim=1), torch.zeros(20, dtype=torch.float64), atol=1e-9)
    else:
        fixed = module.log_prob(outputs[:, None, :].expand(-1, levels, -1), torch.stack([torch.zeros(levels).double(), codes - 3], dim=1))
        joint = log_p.logsumexp(dim=1) + fixed.logsumexp(dim=1) - log_p[:, 0]
        assert torch.allclose(joint, torch.zeros(20, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("likelihood", ["discretised-logistic", "gaussian"])
def test_masses_of_an_unbounded_grid_sum_to_one(likelihood):
    torch.manual_seed(0)
    module = ColumnLikelihood((Column("a", low=0.1, step=0.25),), likelihood).double()
    data = 0.1 + 0.25 * torch.randint(-20, 20, (200, 1)).double()
    module.start(data)
    outputs = torch.randn(10, module.outputs, dtype=torch.float64)
    grid = 0.1 + 0.25 * torch.arange(-20_000, 20_000, dtype=torch.float64)[:, None]
    density = module.log_prob(outputs[:, None, :].expand(-1, len(grid), -1), grid)
    assert torch.allclose((density + math.log(0.25)).logsumexp(dim=1), torch.zeros(10, dtype=torch.float64), atol=1e-6)


def test_gaussian_columns_integrate_to_one():
    torch.manual_seed(0)
    module = ColumnLikelihood((Column("a"),)).double()
    module.start(3 + 2 * torch.randn(200, 1).double())
    grid = torch.linspace(-200, 200, 400_001, dtype=torch.float64)[:, None]
    for outputs in torch.randn(5, 1, module.outputs, dtype=torch.float64):
        mass = module.log_prob(outputs.expand(len(grid), -1), grid).exp().sum() * 1e-3
        assert abs(float(mass) - 1) < 1e-9


@pytest.mark.parametrize("likelihood", ["discretised-logistic", "gaussian"])
def test_narrow_cells_and_far_tails_stay_finite_in_single_precision(likelihood):
    """A grid of a millionth of the spread tends to a density; a value a thousand deviations away keeps a finite value and gradient."""
    module = ColumnLikelihood((Column("a", "integer"),), likelihood)
    module.start(1e6 * torch.randn(1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round())
    outputs = torch.zeros(1, module.outputs, requires_grad=True)
    centre, scale = float(module.centre), float(module.scale)
    near = module.log_prob(outputs, torch.tensor([[round(centre)]], dtype=torch.float64))
    peak = -math.log(4 * scale) if likelihood == "discretised-logistic" else -math.log(math.sqrt(2 * math.pi) * scale)
    assert abs(float(near.detach()) - peak) < 1e-3
    far = module.log_prob(outputs, torch.tensor([[round(centre + 1000 * scale)]], dtype=torch.float64))
    far.sum().backward()
    assert torch.isfinite(far).all()
    assert torch.isfinite(outputs.grad).all()


def test_draws_follow_the_masses():
    torch.manual_seed(0)
    columns = (Column("a", "integer", levels=4), Column("b", "integer", levels=12), Column("c", "integer"), Column("d", "integer", levels=2))
    module = ColumnLikelihood(columns).double()
    module.start(torch.stack([torch.randint(k, (500,)) for k in (4, 12, 9, 2)], dim=1).double())
    outputs, n = torch.randn(1, module.outputs, dtype=torch.float64), 40_000
    with seeded(0):
        x = module.sample(outputs.expand(n, -1))
    base = torch.zeros(1, 4, dtype=torch.float64)
    for index, low, high in ((0, 0, 4), (1, 0, 12), (2, -400, 400), (3, 0, 2)):
        rows = base.repeat(high - low, 1)
        rows[:, index] = torch.arange(low, high)
        p = torch.softmax(module.log_prob(outputs.expand(len(rows), -1), rows), dim=0)
        seen = torch.bincount((x[:, index] - low).long().clamp(0, high - low - 1), minlength=high - low) / n
        # Five standard errors of a frequency, and half a count for cells of almost no mass.
        assert ((seen - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 2 / n).all()


def test_decoder_starts_from_the_marginals():
    x = torch.tensor(load_digits().images).to(torch.uint8)[:, None]
    model = started(Image((1, 8, 8), 17), x, VAEConfig(latent=4, hidden=(16,), likelihood="categorical"))
    with torch.no_grad():
        model.decoder.last.weight.zero_()
        model.encoder.last.weight.zero_()
    bits = -model.log_prob(x).detach().mean() / (64 * math.log(2))
    # Independent categorical pixels on these rows.
    counts = torch.stack([torch.bincount(pixel.long(), minlength=17) for pixel in x.flatten(1).T]).double()
    p = counts / counts.sum(dim=1, keepdim=True)
    floor = -(torch.xlogy(p, p).sum() / (64 * math.log(2)))
    assert 0 < float(bits - floor) < 0.01


def test_binary_pictures_become_certain():
    """Pure 0/1 data that a latent explains: reconstruction near zero, which confused logits and probabilities would not reach."""
    torch.manual_seed(0)
    x = torch.randint(0, 2, (1000, 1)).repeat(1, 20).to(torch.uint8).view(1000, 1, 4, 5)
    model = started(Image((1, 4, 5), 2), x, VAEConfig(latent=2, hidden=(32,)))
    assert model.likelihood.outputs == 20
    train(model, x, 300, lr=1e-2)
    model.loss(Batch(x))
    assert float(model.notes["reconstruction"].mean()) < 0.3
    bound = -float(model.log_weights(x[:200], 64).logsumexp(dim=1).mean() - math.log(64))
    # The entropy is ln 2; independent pixels would cost 20 ln 2 = 13.9.
    assert math.log(2) - 0.05 < bound < 1.5


@pytest.mark.parametrize("name", ["vae", "autoencoder"])
def test_of_few_or_large_pictures_the_preset_for_minutes_is_the_default(name):
    presets = get(name).presets
    for space, n in ((Image((1, 8, 8), 17), 1400), (Image((1, 28, 28), 2), 19_999), (Image((3, 32, 32), 256), 50_000), (Vector(5), 50_000)):
        assert presets["cpu"](space, n) == presets["default"](space, n)
    many = Image((1, 28, 28), 2), 60_000
    assert presets["cpu"](*many) != presets["default"](*many)


def test_the_preset_for_minutes_ends_by_the_clock():
    assert TrainOptions.from_json(VAE.presets["cpu"](Image((1, 28, 28), 2), 60_000).train).max_time == 590


def test_likelihoods_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="'bernoulli' does not fit column 'x0' of 5 values; expected 2"):
        VAE(VAEConfig(likelihood="bernoulli"), Vector(3, levels=5))
    with pytest.raises(InvalidInput, match="'categorical' does not fit.*expected a finite list"):
        VAE(VAEConfig(likelihood="categorical"), Vector(3, step=(1.0, 1.0, 1.0)))
    with pytest.raises(InvalidInput, match="column 'x1' is constant"):
        started(Vector(2), torch.tensor([[1.0, 2.0], [3.0, 2.0]]))


# Mixed tables with missing values.


def test_mixed_table_round_trip_and_valid_samples():
    x = mixed_rows(600)
    model = started(MIXED, x)
    train(model, x, 30)
    values = model.log_prob(x)
    assert torch.isfinite(values).all()
    samples = model.sample(700, seed=0)
    MIXED.validate(samples)
    share = torch.isnan(samples).double().mean(dim=0)
    assert ((share > 0) == torch.tensor([column.missing for column in MIXED.columns])).all()
    assert (share[share > 0] - 0.3).abs().max() < 0.15
    assert isinstance(model, Encodes)
    assert isinstance(model, Decodes)
    assert isinstance(model, Weighs)
    MIXED.validate(model.decode(model.encode(x).mean))
    MIXED.validate(model.decode(model.latents(10, seed=0)))


def test_missing_entries_do_not_count():
    """The bound of a row depends on what is observed and on the marks of what is missing, and its gradient is finite."""
    columns = (Column("a", missing=True), Column("b", "integer", levels=3, missing=True))
    torch.manual_seed(0)
    module = ColumnLikelihood(columns).double()
    module.start(torch.stack([torch.randn(50), torch.randint(3, (50,))], dim=1).double())
    outputs = torch.randn(1, module.outputs, dtype=torch.float64, requires_grad=True)
    nan = float("nan")
    both, neither = module.log_prob(outputs, torch.tensor([[nan, nan]]).double()), outputs[:, -2:]
    assert torch.allclose(both, torch.nn.functional.logsigmoid(neither).sum(dim=1))
    both.sum().backward()
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad[:, :-2] == 0).all()
    features = module.features(torch.tensor([[nan, 1.0], [0.0, nan]]).double(), torch.float64)
    assert torch.isfinite(features).all()
    assert features[:, -2:].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_mixed_density_with_missing_values_sums_to_one():
    columns = (Column("a", missing=True), Column("b", "integer", levels=3, missing=True), Column("c", "categorical", categories=("u", "v", "w")))
    torch.manual_seed(0)
    module = ColumnLikelihood(columns).double()
    module.start(torch.stack([4 * torch.randn(50), torch.randint(3, (50,)), torch.randint(3, (50,))], dim=1).double())
    outputs = torch.randn(1, module.outputs, dtype=torch.float64)
    axis, codes, nan = torch.linspace(-150, 150, 30_001, dtype=torch.float64), torch.arange(3).double(), torch.tensor([float("nan")]).double()
    finite = torch.cartesian_prod(axis, torch.cat([codes, nan]), codes)
    gaps = torch.cartesian_prod(nan, torch.cat([codes, nan]), codes)
    mass = module.log_prob(outputs, finite).exp().sum() * 0.01 + module.log_prob(outputs, gaps).exp().sum()
    assert abs(float(mass) - 1) < 1e-6


def test_large_numbers_keep_their_digits():
    """Seconds since 1970 with a spread of one: single precision alone would round them to multiples of 128."""
    torch.manual_seed(0)
    x = 1.7e9 + torch.randn(500, 2, dtype=torch.float64)
    near, far = started(Vector(2), x - 1.7e9), started(Vector(2), x)
    assert torch.allclose(near.log_prob(x - 1.7e9), far.log_prob(x), atol=1e-3)


# Learning.


def test_collapse_is_visible_in_the_notes():
    torch.manual_seed(0)
    x = torch.randn(512, 4)
    collapsed = started(Vector(4), x, VAEConfig(latent=3, hidden=(16,), beta=100.0))
    train(collapsed, x, 100, lr=1e-2)
    collapsed.loss(Batch(x))
    assert int(collapsed.notes["active_units"]) == 0
    assert float(collapsed.notes["kl"].mean()) < 0.05
    structured = torch.randn(512, 1) @ torch.ones(1, 4) + 0.05 * torch.randn(512, 4)
    awake = started(Vector(4), structured, VAEConfig(latent=3, hidden=(16,)))
    train(awake, structured, 100, lr=1e-2)
    awake.loss(Batch(structured))
    assert int(awake.notes["active_units"]) >= 1
    assert float(awake.notes["kl"].mean()) > 0.5


def test_warmup_is_a_function_of_the_share_of_training():
    x = torch.randn(64, 2)
    model = started(Vector(2), x, VAEConfig(latent=2, hidden=(8,), warmup=0.5))
    model.train()
    seen = []
    for model.progress in (0.0, 0.125, 0.25, 0.5, 1.0):
        with seeded(0):
            total = model.loss(Batch(x))
        seen.append(float(((total - model.notes["reconstruction"]) / model.notes["kl"]).mean().detach()))
    assert seen == pytest.approx([0.0, 0.25, 0.5, 1.0, 1.0], abs=1e-3)


def test_the_trainer_tells_the_share_of_training(monkeypatch):
    seen = []
    original = VAE.loss
    monkeypatch.setattr(VAE, "loss", lambda self, batch: seen.append(self.progress) or original(self, batch))
    fitted = mk.fit("vae", "two-moons", options={"latent": 2, "hidden": (8,)}, train={"patience": None}, max_steps=4)
    assert seen == [0.0, 0.25, 0.5, 0.75]
    assert fitted.model.progress == 1.0


def test_labels_condition_samples_and_density():
    torch.manual_seed(0)
    c = torch.randint(0, 2, (1000,))
    x = torch.randn(1000, 2) + 8.0 * c[:, None]
    model = started(Vector(2), x, VAEConfig(latent=2, hidden=(16,)), Labels(2), c)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(Batch(x, c)).mean().backward()
        optimizer.step()
    low, high = model.sample(300, torch.tensor([0]), seed=0), model.sample(300, torch.tensor([1]), seed=0)
    assert abs(float(low.mean())) < 1
    assert abs(float(high.mean()) - 8) < 1
    right, wrong = model.log_prob(x, c).detach(), model.log_prob(x, 1 - c).detach()
    assert ((right > wrong).double().mean()) > 0.95


def test_digits_beat_independent_pixels():
    """Half a minute of training would reach 1.9 bits per dimension; 300 steps are enough to pass the independent floor of 2.43."""
    x = torch.tensor(load_digits().images).to(torch.uint8)[:, None]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    fit, test = x[order[:1437]], x[order[1437:]]
    model = started(Image((1, 8, 8), 17), fit, VAEConfig(latent=10, hidden=(64, 64)))
    train(model, fit, 300)
    bits = -(model.log_weights(test, 16).logsumexp(dim=1) - math.log(16)) / (64 * math.log(2))
    assert float(bits.mean()) < 2.3
    assert model.sample(3, seed=0).dtype == torch.uint8
    assert model.decode(model.encode(test[:5]).mean).shape == (5, 1, 8, 8)


def test_collapse_is_told_when_training_ends():
    x = torch.randn(512, 4)
    collapsed = VAE(VAEConfig(latent=3, hidden=(16,), beta=100.0), Vector(4))
    data = Dataset("rows", Vector(4), Rows(x))
    with pytest.warns(ManykinWarning, match=r"none of the 3 latents is active.*now 100"):
        result = package_train(collapsed, data, TrainOptions.from_json({"max_steps": 60, "lr": 1e-2}), seed=0)
    assert result is not None
    structured = torch.randn(512, 1) @ torch.ones(1, 4) + 0.05 * torch.randn(512, 4)
    awake = VAE(VAEConfig(latent=3, hidden=(16,)), Vector(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ManykinWarning)
        package_train(awake, Dataset("rows", Vector(4), Rows(structured)), TrainOptions.from_json({"max_steps": 100, "lr": 1e-2}), seed=0)
    means = awake.encode(structured).mean.double()
    torch.testing.assert_close(awake.activity, means.var(dim=0, correction=0), rtol=1e-4, atol=1e-6)
    assert int((awake.activity > 0.01).sum()) >= 1


# More than one latent an example in the loss.


def test_several_samples_train_the_importance_weighted_bound():
    """In evaluation the loss has the mean of minus the bound with so many weights, which is tighter than with one."""
    model, exact, _ = linear_vae(perturb=0.2)
    tight = VAE(VAEConfig(latent=2, hidden=(), variance="column", samples=8), Vector(4)).double().eval()
    tight.load_state_dict(model.state_dict())
    x = exact.sample((3000,))
    with torch.no_grad(), seeded(0):
        loss = tight.loss(Batch(x))
    bound = -(model.log_weights(x, 8, seed=1).logsumexp(dim=1) - math.log(8))
    gap = loss - bound
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(len(x))
    assert float(loss.mean()) < float(model.loss(Batch(x)).mean().detach()) - 0.01


def test_beta_weighs_the_ratio_in_every_loss():
    x = torch.randn(64, 4)
    for samples in (1, 3):
        losses = []
        for beta in (0.0, 1.0, 2.0):
            model = started(Vector(4), x, VAEConfig(latent=2, hidden=(8,), beta=beta, samples=samples))
            with torch.no_grad():
                model.encoder.last.bias[:2] = 2.0
                with seeded(0):
                    losses.append(float(model.loss(Batch(x)).mean()))
        # Posteriors far from the prior: each unit of beta costs about their divergence.
        assert losses[0] < losses[1] < losses[2]
        assert float(model.notes["bound"].mean()) == pytest.approx(float((model.notes["kl"] + model.notes["reconstruction"]).mean()), rel=1e-5)


# Convolutions.


@pytest.mark.parametrize("space", [Image((1, 5, 7), 2), Image((3, 8, 8), 17), Image((2, 6, 5), 4, ordinal=False), Image((1, 9, 8), None)], ids=str)
def test_convolutions_take_pictures_of_any_kind_and_size(space):
    torch.manual_seed(0)
    pairs = torch.randint(0, space.levels, (2, *space.size)).to(space.dtype) if space.levels else torch.rand(2, *space.size)
    x = pairs[torch.randint(0, 2, (60,))] if space.levels else pairs[torch.randint(0, 2, (60,))] + 0.1 * torch.randn(60, *space.size)
    model = started(space, x, VAEConfig(latent=3, network="conv", widths=(8, 12)))
    values = model.log_prob(x[:10])
    assert torch.isfinite(values).all()
    space.validate(model.sample(5, seed=0))
    weights = model.log_weights(x[:4], 6, seed=3)
    assert torch.allclose(model.log_weights(x[:4], 1, seed=3)[:, 0], model.log_prob(x[:4], seed=3).detach(), rtol=1e-4)
    assert weights.shape == (4, 6)
    losses = [float(model.loss(Batch(x)).mean().detach())]
    train(model, x, 120, lr=1e-2, batch=32)
    losses.append(float(model.loss(Batch(x)).mean().detach()))
    assert losses[1] < losses[0] - 1


def test_convolutions_see_pixels_where_they_are():
    """A decoder of the parameters in the layout of the columns: one bright pixel in the marginals is bright at its place in the samples."""
    x = torch.zeros(64, 2, 5, 6, dtype=torch.uint8)
    x[:, 1, 3, 2] = 3
    model = started(Image((2, 5, 6), 4), x, VAEConfig(latent=2, network="conv", widths=(8,)))
    with torch.no_grad():
        model.decoder.last.weight.zero_()
    mean = model.sample(400, seed=0).double().mean(dim=0)
    assert float(mean[1, 3, 2]) > 2.9
    mean[1, 3, 2] = 0
    assert float(mean.max()) < 0.2


def test_auto_takes_convolutions_for_larger_pictures_only():
    kinds = {
        space: type(VAE(VAEConfig(), space).encoder.net).__name__
        for space in (Image((1, 8, 8), 17), Image((1, 16, 16), 2), Image((1, 28, 28), 2), Vector(3))
    }
    assert list(kinds.values()) == ["MLP", "ConvEncoder", "ConvEncoder", "MLP"]
    with pytest.raises(InvalidInput, match="network = 'conv' does not fit.*expected pictures"):
        VAE(VAEConfig(network="conv"), Vector(3))
    with pytest.raises(InvalidInput, match=r"widths = \(\)"):
        VAE(VAEConfig(network="conv", widths=()), Image((1, 8, 8), 17))


def test_small_whole_numbers_need_no_double_precision():
    x = torch.randint(0, 2, (30, 1, 4, 4)).to(torch.uint8)
    model = started(Image((1, 4, 4), 2), x)
    z, ldj = model.to_model_space(x)
    assert z.dtype == torch.float32
    assert (model.likelihood.inputs, model.likelihood.outputs) == (16, 16)
    assert torch.equal(z, x.flatten(1).float())
    assert not ldj.any()
