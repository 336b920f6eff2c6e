"""Independent columns and mixtures of products of columns: mass, sampling, completion, missing values, EM."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats
from sklearn.datasets import load_digits

import manykin as mk
from manykin.contract import Batch, Completes, Encodes, Inspects
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput
from manykin.models.classical.cells import log_mass, moments
from manykin.models.classical.independent import Independent, IndependentConfig
from manykin.models.classical.mixture import Mixture, MixtureConfig
from manykin.spaces import Column, Image, Labels, Record, Table, Tokens, Vector, count, take
from manykin.training import TrainOptions, train

NAN = float("nan")
P_MIN = 1e-4


def fit(model, x, condition=None):
    """Fit by the library's own trainer."""
    train(model, Dataset("toy", model.space, Rows(x, condition), condition=model.condition), TrainOptions(), seed=0)


def passes(model, x, epochs, batch=4096):
    """So many passes of a closed-form phase as the contract tells them, without a trainer; the figures of each pass."""

    def batches():
        for start in range(0, count(x), batch):
            yield Batch(take(x, slice(start, start + batch)))

    model.start(batches, Batch(x), 0)
    (phase,) = model.phases()
    figures = []
    for _ in range(epochs):
        with torch.no_grad():
            for part in batches():
                getattr(model, phase.accumulate)(part)
            progress = getattr(model, phase.solve)()
        for name in phase.statistics:
            model.get_buffer(name).zero_()
        figures.append(dict(progress.metrics))
    return figures


SMALL = Table(
    (
        Column("colour", "categorical", categories=("red", "green", "blue"), missing=True),
        Column("stars", "integer", levels=4, low=1.0),
        Column("dose", "real", step=0.5, levels=3, low=-0.5),
        Column("flag", "categorical", categories=("no", "yes")),
    )
)


def small_rows(n=400, seed=0):
    """Dependent columns, a fifth of the colours missing."""
    rng = np.random.default_rng(seed)
    hidden = rng.integers(0, 2, n)
    colour = np.where(rng.random(n) < 0.8, hidden, 2).astype(float)
    colour[rng.random(n) < 0.2] = NAN
    stars = 1 + np.minimum(3, rng.poisson(0.5 + 1.5 * hidden))
    dose = -0.5 + 0.5 * rng.binomial(2, 0.2 + 0.6 * hidden)
    flag = (rng.random(n) < 0.1 + 0.8 * hidden).astype(float)
    return torch.tensor(np.stack([colour, stars, dose, flag], 1))


def all_small_rows():
    values = [[0, 1, 2, NAN], [1, 2, 3, 4], [-0.5, 0, 0.5], [0, 1]]
    return torch.tensor(list(itertools.product(*values)), dtype=torch.float64)


def models(space, condition=None):
    yield Independent(None, space, condition)
    yield Mixture(MixtureConfig(n_components=3, n_init=2), space, condition)
    yield Mixture(MixtureConfig(n_components=2, missingness="informative", n_init=1), space, condition)


def test_small_tables_sum_to_one_and_are_sampled_as_they_are_scored():
    grid = all_small_rows()
    for model in models(SMALL):
        fit(model, small_rows())
        mass = (model.log_prob(grid) + math.log(0.5)).exp()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
        drawn = model.sample(20_000, seed=1)
        SMALL.validate(drawn)
        key = {tuple(row): index for index, row in enumerate(grid.nan_to_num(nan=-9).tolist())}
        found = np.bincount([key[tuple(row)] for row in drawn.nan_to_num(nan=-9).tolist()], minlength=len(grid))
        assert chi_square(found, mass.numpy()) > P_MIN


def chi_square(found, p):
    """p-value of counts against probabilities, rare cells pooled."""
    expected = p * found.sum()
    rare = expected < 5
    f, e = np.append(found[~rare], found[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    keep = e > 0
    assert not found[p == 0].any()
    return stats.chi2.sf(((f - e)[keep] ** 2 / e[keep]).sum(), keep.sum() - 1)


def test_completion_is_exact_bayes():
    grid = all_small_rows()
    full = grid[~grid.isnan().any(1)]
    for model in models(SMALL):
        fit(model, small_rows())
        x = torch.tensor([[2.0, 4.0, NAN, 1.0]]).double()
        known = torch.tensor([[False, True, False, True]])
        possible = full[(full[:, 1] == 4) & (full[:, 3] == 1)]
        posterior = model.log_prob(possible).softmax(0)
        filled = model.complete(x.repeat(20_000, 1), known.repeat(20_000, 1), seed=0)
        assert bool((filled[:, [1, 3]] == torch.tensor([4.0, 1.0])).all())
        key = {tuple(row): index for index, row in enumerate(possible.tolist())}
        found = np.bincount([key[tuple(row)] for row in filled.tolist()], minlength=len(possible))
        assert chi_square(found, posterior.numpy()) > P_MIN
        wrong = found.copy()
        wrong[:] = np.roll(found, 3)
        assert chi_square(wrong, posterior.numpy()) < P_MIN


def test_a_missing_entry_is_integrated_out_times_its_rate():
    others = torch.tensor([[1.0, 2.0, 0.0, 1.0], [0.0, 4.0, 0.5, 0.0]]).double()
    for model in models(SMALL):
        fit(model, small_rows())
        missing = others.clone()
        missing[:, 0] = NAN
        by_value = []
        for value in range(3):
            row = others.clone()
            row[:, 0] = value
            by_value.append(model.log_prob(row))
        present = torch.logsumexp(torch.stack(by_value), 0)
        rates = model.parameters_table()["missing"]
        ratio = (model.log_prob(missing) - present).exp()
        if model.config.__class__ is MixtureConfig and model.config.missingness == "informative":
            assert float((ratio[0] - ratio[1]).abs()) > 1e-6
        else:
            rate = float(rates.flatten()[0])
            torch.testing.assert_close(ratio, torch.full((2,), rate / (1 - rate)).double())
            assert 0.15 < rate < 0.25


def numbers(step=None, kind="real", n=600, missing=False):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(-3, 0.5, n // 2), rng.gamma(2.0, 2.0, n - n // 2)])
    if step:
        x = np.round(x / step) * step
    if missing:
        x[::7] = NAN
    return Table((Column("x", kind, step=step if kind == "real" else None, missing=missing),)), torch.tensor(x)[:, None]


def univariate():
    for options in ({}, {"real": "gaussian"}, {"bins": 5}):
        yield lambda space, options=options: Independent(IndependentConfig(**options), space)
    yield lambda space: Mixture(MixtureConfig(n_components=3, n_init=1), space)


@pytest.mark.parametrize("kind, step", [("integer", 1.0), ("real", 0.25)])
@pytest.mark.parametrize("missing", [False, True])
def test_all_grid_points_sum_to_one(kind, step, missing):
    space, x = numbers(step, kind, missing=missing)
    for build in univariate():
        model = build(space)
        fit(model, x)
        points = torch.arange(-4000, 4001, dtype=torch.float64)[:, None] * step
        total = float((model.log_prob(points).exp() * step).sum())
        if missing:
            total += float(model.log_prob(torch.tensor([[NAN]]).double()).exp())
        assert total == pytest.approx(1, abs=1e-9)
        assert bool(model.log_prob(points).isfinite().all())
        drawn = model.sample(5000, seed=2)
        space.validate(drawn)
        seen = drawn[~drawn.isnan()]
        edges = torch.arange(-12, 13, dtype=torch.float64) * 2 + step / 2
        chances = [float((model.log_prob(points[(points > a) & (points <= b)][:, None]).exp() * step).sum()) for a, b in itertools.pairwise(edges)]
        found = np.histogram(seen.numpy(), bins=edges.numpy())[0]
        rest = 5000 - found.sum()
        assert chi_square(np.append(found, rest), np.append(chances, 1 - sum(chances)).clip(0)) > P_MIN


def test_continuous_columns_integrate_to_one_and_are_sampled_as_they_are_scored():
    space, x = numbers()
    for build in univariate():
        model = build(space)
        fit(model, x)
        table = model.parameters_table()
        breaks = table["edges"][0].unique().tolist() if "edges" in table else []
        cuts = sorted({-60.0, *np.linspace(-10, 30, 81).tolist(), 200.0, *breaks})

        def density(t, model=model):
            return float(model.log_prob(torch.tensor([[t]], dtype=torch.float64)).exp())

        pieces = [integrate.fixed_quad(np.vectorize(density), a, b, n=12)[0] for a, b in itertools.pairwise(cuts)]
        assert sum(pieces) == pytest.approx(1, abs=2e-6)
        drawn = model.sample(4000, seed=0)[:, 0].numpy()
        cdf = np.concatenate([[0.0], np.cumsum(pieces)])
        uniform = np.interp(drawn, cuts, cdf)
        found = np.histogram(drawn, bins=cuts)[0]
        assert chi_square(found, np.asarray(pieces) / sum(pieces)) > P_MIN
        assert 0.4 < uniform.mean() < 0.6


def test_mixed_rows_integrate_to_one():
    space = Table((Column("x"), Column("n", "integer"), Column("c", "categorical", categories=("a", "b"), missing=True)))
    rng = np.random.default_rng(0)
    hidden = rng.integers(0, 2, 500)
    c = hidden.astype(float)
    c[::5] = NAN
    x = torch.tensor(np.stack([rng.normal(4 * hidden, 1), rng.poisson(1 + 4 * hidden), c], 1))
    for model in models(space):
        fit(model, x)
        t = torch.linspace(-15, 20, 4001, dtype=torch.float64)
        total = 0.0
        for n in range(-20, 45):
            rows = torch.stack([t, torch.full_like(t, n), torch.zeros_like(t)], 1)
            for value in (0.0, 1.0, NAN):
                rows[:, 2] = value
                total += float(torch.trapezoid(model.log_prob(rows).exp(), t))
        assert total == pytest.approx(1, abs=2e-3)
        assert torch.equal(model.sample(300, seed=3).nan_to_num(nan=-1), model.sample(300, seed=3).nan_to_num(nan=-1))


def digits(levels=17):
    x = torch.tensor(load_digits().images)[:, None]
    return ((x >= 8) if levels == 2 else x).to(torch.uint8), torch.tensor(load_digits().target)


def test_em_never_lowers_its_objective():
    space, x = numbers(0.25, missing=True)
    pictures, _ = digits()
    mixed = Table((Column("x"), Column("n", "integer"), *SMALL.columns))
    rng = np.random.default_rng(0)
    rows = torch.cat([torch.tensor(np.stack([rng.normal(size=400), rng.poisson(3, 400)], 1)), small_rows()], 1)
    wide = Table((Column("level", "integer", levels=400),))
    levels = torch.tensor(rng.binomial(399, rng.choice([0.0, 0.4, 0.999], 500)).astype(float))[:, None]
    for kind, data in ((space, x), (Image((1, 8, 8), 17), pictures[:600]), (mixed, rows), (wide, levels)):
        for missingness in ("ignorable", "informative"):
            model = Mixture(MixtureConfig(n_components=4, n_init=1, init_iter=0, reg=0.01, missingness=missingness), kind)
            values = [line["objective"] for line in passes(model, data, 25)]
            assert values[-1] > values[0]
            assert min(np.diff(values)) >= -1e-10 * abs(values[0])


def test_batch_size_and_row_order_do_not_change_the_fit():
    space = Table((*SMALL.columns, Column("x"), Column("y", step=0.1)))
    rng = np.random.default_rng(5)
    x = torch.cat([small_rows(), torch.tensor(rng.normal(size=(400, 2))).mul(10).round() / 10], 1)
    for index in range(3):
        results = []
        for batch in (400, 37):
            model = list(models(space))[index]
            passes(model, x, 3, batch)
            results.append(model.log_prob(x))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-9)


def test_labels_are_respected():
    pictures, labels = digits(2)
    space, condition = Image((1, 8, 8), 2), Labels(10)
    for model in (Independent(None, space, condition), Mixture(MixtureConfig(n_components=20, n_init=1), space, condition)):
        fit(model, pictures, labels)
        drawn = model.sample(4000, torch.tensor([3]), seed=0).double().mean(0)
        three = pictures[labels == 3].double().mean(0)
        seven = pictures[labels == 7].double().mean(0)
        assert float((drawn - three).abs().max()) < 0.06
        assert float((drawn - seven).abs().max()) > 0.5
        per_label = torch.stack([model.log_prob(pictures, torch.tensor([label])) for label in range(10)], 1)
        assert float((per_label.argmax(1) == labels).double().mean()) > 0.85
        frequencies = model.condition_frequencies
        torch.testing.assert_close(model.marginal_log_prob(pictures[:50]), torch.logsumexp(per_label[:50] + frequencies.log(), 1))


@pytest.mark.parametrize("end", [0, 2])
def test_strings_sum_to_one(end):
    space = Tokens(3, 4, end)
    strings = []
    for size in range(4):
        for symbols in itertools.product([s for s in range(3) if s != end], repeat=size):
            strings.append([*symbols] + [end] * (4 - size))
    rows = torch.tensor(strings)
    space.validate(rows)
    rng = np.random.default_rng(0)
    data = rows[torch.tensor(rng.choice(len(rows), 300, p=rng.dirichlet(np.full(len(rows), 0.3))))]
    model = Independent(None, space)
    fit(model, data)
    mass = model.log_prob(rows).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    key = {tuple(row): index for index, row in enumerate(rows.tolist())}
    drawn = model.sample(20_000, seed=0)
    found = np.bincount([key[tuple(row)] for row in drawn.tolist()], minlength=len(rows))
    assert chi_square(found, mass.numpy()) > P_MIN
    symbol = 1
    for position, value in ((2, symbol), (1, end), (0, symbol)):
        known = torch.zeros(20_000, 4, dtype=torch.bool)
        known[:, position] = True
        x = torch.zeros(20_000, 4, dtype=torch.long)
        x[:, position] = value
        filled = model.complete(x, known, seed=0)
        space.validate(filled)
        found = np.bincount([key[tuple(row)] for row in filled.tolist()], minlength=len(rows))
        allowed = (rows[:, position] == value).double() * mass
        assert chi_square(found, (allowed / allowed.sum()).numpy()) > P_MIN


def test_streams_are_position_free():
    space = Tokens(3, 4)
    data = torch.tensor(np.random.default_rng(0).choice(3, (200, 4), p=[0.6, 0.3, 0.1]))
    model = Independent(None, space)
    fit(model, data)
    rows = torch.tensor(list(itertools.product(range(3), repeat=4)))
    assert float(model.log_prob(rows).exp().sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(model.log_prob(rows), model.log_prob(rows.flip(1)))
    assert abs(float((model.sample(2000, seed=0) == 0).double().mean()) - 0.6) < 0.05


@pytest.mark.parametrize(
    "space, make",
    [
        (Vector(3, levels=5), lambda g: torch.randint(5, (200, 3), generator=g)),
        (Vector(2, step=(0.0, 0.5)), lambda g: torch.stack([torch.randn(200, generator=g), torch.randint(9, (200,), generator=g) / 2], 1)),
        (Image((1, 3, 3), 256), lambda g: torch.randint(256, (200, 1, 3, 3), generator=g).to(torch.uint8)),
        (Image((2, 2, 2), 300), lambda g: torch.randint(300, (200, 2, 2, 2), generator=g).to(torch.int32)),
        (Image((1, 3, 3), None), lambda g: torch.randn(200, 1, 3, 3, generator=g)),
        (Labels(4), lambda g: torch.randint(4, (200,), generator=g)),
        (
            Record({"a": Vector(2), "b": Labels(3)}),
            lambda g: {"a": torch.randn(200, 2, generator=g), "b": torch.randint(3, (200,), generator=g)},
        ),
    ],
    ids=lambda value: str(value) if not callable(value) else "",
)
def test_every_space_with_columns_fits_samples_and_completes(space, make):
    x = make(torch.Generator().manual_seed(0))
    for model in (Independent(None, space), Mixture(MixtureConfig(n_components=3, n_init=1, max_iter=10), space)):
        fit(model, x)
        assert isinstance(model, Completes)
        assert isinstance(model, Inspects)
        assert bool(model.log_prob(x).isfinite().all())
        drawn = model.sample(50, seed=0)
        space.validate(drawn)
        width = torch.Size(space.shape).numel()
        known = torch.rand(200, width, generator=torch.Generator().manual_seed(1)) < 0.5
        known = known if isinstance(space, Record) else known.view(200, *space.shape)
        filled = model.complete(x, known, seed=0)
        assert torch.equal(as_columns(filled), as_columns(model.complete(x, known, seed=0)))
        space.validate(filled)
        if isinstance(space, Record):
            assert torch.equal(filled["a"][known[:, :2]], x["a"].double()[known[:, :2]])
        else:
            assert torch.equal(filled[known].double(), x[known].double())
            assert not torch.equal(filled.double(), x.double())


def as_columns(x):
    return x if torch.is_tensor(x) else torch.cat([part.double().view(len(part), -1) for part in x.values()], 1)


def test_sparse_and_dense_tables_agree():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(40, (300, 2), generator=g).double()
    x[:, 1] = (x[:, 0] + torch.randint(3, (300,), generator=g)) % 40
    x[::9, 0] = NAN
    space = Table(tuple(Column(name, "integer", levels=40, missing=name == "a") for name in "ab"))
    model = Mixture(MixtureConfig(n_components=3, n_init=1), space)
    fit(model, x)
    level = next(part for _, part in model.own_parts())
    codes = x.nan_to_num(nan=-1).long()
    scores = torch.zeros(300, 3, dtype=torch.float64)
    for column in range(2):
        block = level.log_probs.unflatten(1, (2, 40))[:, column]
        scores += torch.where(codes[:, column, None] >= 0, block[:, codes[:, column].clamp(min=0)].T, 0.0)
    torch.testing.assert_close(level.score(x, slice(0, 3)), scores)
    weights = torch.rand(300, 3, generator=g, dtype=torch.float64)
    model.clear()
    level.add(x, weights, slice(0, 3))
    expected = torch.zeros(3, 2, 40, dtype=torch.float64)
    for column in range(2):
        for row in range(300):
            if codes[row, column] >= 0:
                expected[:, column, codes[row, column]] += weights[row]
    torch.testing.assert_close(level.counts.unflatten(1, (2, 40)), expected)


def test_cell_masses_and_moments_match_quadrature():
    cells = [(-1.0, 0.5), (2.0, 2.001), (-9.0, -8.5), (6.0, 9.0), (0.3, 0.3 + 1e-6), (-0.2, 0.029), (30.0, 30.0005), (-np.inf, -12.0), (5.0, np.inf)]
    for a, b in cells:
        ends = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
        log_z = log_mass(*ends)
        low, high = max(a, min(b, 0) - 12), min(b, max(a, 0) + 12)
        peak = stats.norm.logpdf(min(max(0.0, low), high))

        def raw(power, low=low, high=high, peak=peak):
            return integrate.quad(lambda u: u**power * np.exp(stats.norm.logpdf(u) - peak), low, high, epsabs=0, epsrel=1e-12)[0]

        assert float(log_z) == pytest.approx(math.log(raw(0)) + peak, rel=1e-9, abs=1e-9)
        mean, square = moments(*ends, log_z)
        assert float(mean) == pytest.approx(raw(1) / raw(0), rel=1e-7, abs=1e-9)
        assert float(square) == pytest.approx(raw(2) / raw(0), rel=1e-7, abs=1e-9)


def test_a_known_mixture_is_recovered_and_encoded():
    g = torch.Generator().manual_seed(0)
    hidden = torch.randint(2, (4000,), generator=g)
    x = torch.stack([torch.randn(4000, generator=g) + 6 * hidden, (torch.randn(4000, generator=g) * 2 - 8 * hidden).round()], 1).double()
    model = Mixture(MixtureConfig(n_components=2, tol=1e-6), Table((Column("x"), Column("n", "integer"))))
    fit(model, x)
    table = model.parameters_table()
    order = table["means"][:, 0].argsort()
    torch.testing.assert_close(table["means"][order], torch.tensor([[0.0, 0.0], [6.0, -8.0]]).double(), atol=0.15, rtol=0)
    torch.testing.assert_close(table["variances"][order], torch.tensor([[1.0, 4.0], [1.0, 4.0]]).double(), atol=0.3, rtol=0)
    assert isinstance(model, Encodes)
    responsibilities = model.encode(x).probs[:, order]
    torch.testing.assert_close(responsibilities.sum(1), torch.ones(4000).double())
    assert float((responsibilities.argmax(1) == hidden).double().mean()) > 0.99
    assert model.n_parameters() == 2 * 4 + 1
    assert model.bic(x) == pytest.approx(-2 * float(model.log_prob(x).sum()) + 9 * math.log(4000))
    assert model.aic(x) < model.bic(x)
    single = Mixture(MixtureConfig(n_components=1), model.space)
    fit(single, x)
    assert model.bic(x) < single.bic(x)


def test_digits_reach_the_known_floor():
    pictures, _ = digits()
    order = np.random.RandomState(0).permutation(1797)
    train, test = pictures[order[:1437]], pictures[order[1437:]]
    space = Image((1, 8, 8), 17)
    floor = Independent(None, space)
    fit(floor, train)
    bits = float(space.dims(test).double().reciprocal() @ -floor.log_prob(test)) / len(test) / math.log(2)
    assert 2.41 < bits < 2.44
    preset = Mixture.presets["default"](space, len(train))
    model = Mixture(MixtureConfig(**preset.model), space)
    fit(model, train)
    assert float(-model.log_prob(test).mean()) / 64 / math.log(2) < bits - 0.2


def test_units_shift_the_density_by_the_scale():
    space, x = numbers()
    for build in univariate():
        one, two = build(space), build(space)
        fit(one, x)
        fit(two, 5 + 100 * x)
        torch.testing.assert_close(two.log_prob(5 + 100 * x), one.log_prob(x) - math.log(100), atol=1e-5, rtol=0)


def test_extreme_values_stay_finite_and_constant_columns_are_refused():
    space, x = numbers(0.25)
    for build in univariate():
        model = build(space)
        fit(model, x)
        far = model.log_prob(torch.tensor([[1e6], [-1e6], [0.25]]).double())
        assert bool(far.isfinite().all())
        assert far[:2].max() < far[2]
    constant = torch.tensor([[1.0, 3.5], [2.0, 3.5], [2.5, 3.5]]).double()
    pair = Table((Column("a"), Column("b")))
    for model in (Independent(None, pair), Independent(IndependentConfig(real="gaussian"), pair), Mixture(MixtureConfig(n_components=2), pair)):
        with pytest.raises(InvalidInput, match=r"'b' is constant \(always 3.5\)"):
            fit(model, constant)
    with pytest.raises(InvalidInput, match="3 rows cannot support 10 components"):
        fit(Mixture(None, pair), constant + torch.rand(3, 2))
    model = Independent(None, SMALL)
    fit(model, small_rows())
    with pytest.raises(InvalidInput, match="known is"):
        model.complete(small_rows(), torch.ones(3, 4, dtype=torch.bool))


def spiked(n=900, missing=True):
    """An unbounded integer that is mostly 0, sometimes -300, else in the thousands; and a colour that goes with it."""
    rng = np.random.default_rng(4)
    kind = rng.choice(3, n, p=[0.7, 0.1, 0.2])
    gain = np.choose(kind, [np.zeros(n), np.full(n, -300.0), np.round(rng.normal(3000, 400, n))])
    if missing:
        gain[::11] = NAN
    colour = np.where(rng.random(n) < 0.8, kind, rng.integers(0, 3, n)).astype(float)
    space = Table((Column("gain", "integer", missing=missing), Column("colour", "categorical", categories=("a", "b", "c"))))
    return space, torch.tensor(np.stack([gain, colour], 1))


def spike_models(space, condition=None):
    for missingness in ("ignorable", "informative"):
        yield Mixture(MixtureConfig(n_components=4, n_init=2, missingness=missingness), space, condition)


def test_frequent_values_get_mass_of_their_own_and_everything_sums_to_one():
    space, x = spiked()
    values = torch.cat([torch.arange(-20_000, 20_001).double(), torch.tensor([NAN]).double()])
    grid = torch.cartesian_prod(values, torch.arange(3).double())
    for model in spike_models(space):
        fit(model, x)
        mass = model.log_prob(grid).exp()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
        zero, below = (float(mass[grid[:, 0] == value].sum()) for value in (0, -300))
        seen = float((~x[:, 0].isnan()).double().mean())
        assert zero == pytest.approx(0.7 * seen, abs=0.05)
        assert below == pytest.approx(0.1 * seen, abs=0.04)
        assert float(mass[(grid[:, 0] > 0) & (grid[:, 0] < 1000)].sum()) < 1e-3
        drawn = model.sample(20_000, seed=1)
        space.validate(drawn)
        gain = drawn[:, 0].nan_to_num(nan=1e9)
        cells = (gain * 0 + 4).masked_fill(gain == 0, 0).masked_fill(gain == -300, 1).masked_fill((gain > 0) & (gain <= 3000), 2)
        cells = cells.masked_fill(gain > 3000, 3).masked_fill(gain == 1e9, 4).masked_fill((gain < 0) & (gain != -300), 5)
        key = grid[:, 0]
        parts = [key == 0, key == -300, (key > 0) & (key <= 3000), key > 3000, key.isnan(), (key < 0) & (key != -300)]
        p = np.array([[float(mass[part & (grid[:, 1] == c)].sum()) for c in range(3)] for part in parts])
        found = np.bincount((cells * 3 + drawn[:, 1]).long(), minlength=18)
        assert chi_square(found, p.flatten()) > P_MIN
        table = model.parameters_table()
        weights = table["weights"] * (1 - table["missing"][:, 0])
        here = ~key.isnan()
        assert float(weights @ table["means"][:, 0]) == pytest.approx(float(mass[here] @ key[here]), abs=1e-6)
        second = float(weights @ (table["variances"][:, 0] + table["means"][:, 0] ** 2))
        assert second == pytest.approx(float(mass[here] @ key[here] ** 2), rel=1e-3)


def test_frequent_values_are_completed_by_bayes():
    space, x = spiked()
    for model in spike_models(space):
        fit(model, x)
        rows = torch.tensor([[NAN, 1.0]]).double().repeat(20_000, 1)
        filled = model.complete(rows, torch.tensor([[False, True]]).repeat(20_000, 1), seed=0)
        values = torch.arange(-20_000, 20_001).double()
        p = model.log_prob(torch.stack([values, torch.ones_like(values)], 1)).softmax(0)
        gain = filled[:, 0]
        found = np.array([int((gain == 0).sum()), int((gain == -300).sum()), int((gain > 1000).sum())])
        chances = np.array([float(p[values == 0]), float(p[values == -300]), float(p[values > 1000].sum())])
        assert chi_square(np.append(found, 20_000 - found.sum()), np.append(chances, 1 - chances.sum()).clip(0)) > P_MIN


def test_frequent_values_keep_em_monotone_summable_repeatable_and_loadable():
    space, x = spiked()
    for missingness in ("ignorable", "informative"):
        config = MixtureConfig(n_components=4, n_init=1, init_iter=0, reg=0.01, borrow=0.05, missingness=missingness)
        model = Mixture(config, space)
        values = [line["objective"] for line in passes(model, x, 25)]
        assert values[-1] > values[0]
        assert min(np.diff(values)) >= -1e-10 * abs(values[0])
        other, again, copy = Mixture(config, space), Mixture(config, space), Mixture(config, space)
        passes(other, x, 25, batch=37)
        passes(again, x, 25)
        torch.testing.assert_close(other.log_prob(x), model.log_prob(x), rtol=0, atol=1e-8)
        assert torch.equal(again.log_prob(x), model.log_prob(x))
        copy.allocate(model.sizes)
        copy.load_state_dict(model.state_dict())
        assert torch.equal(copy.log_prob(x), model.log_prob(x))
        assert torch.equal(copy.sample(50, seed=1).nan_to_num(), model.sample(50, seed=1).nan_to_num())


def test_frequent_values_under_labels_and_alone():
    space, x = spiked()
    labels = x[:, 1].long()
    model = Mixture(MixtureConfig(n_components=3, n_init=1), space, Labels(3))
    fit(model, x, labels)
    x0 = x[~x[:, 0].isnan()]
    assert bool(model.log_prob(x0, x0[:, 1].long()).isfinite().all())
    values = torch.arange(-20_000, 20_001).double()
    rows = torch.cartesian_prod(torch.cat([values, torch.tensor([NAN]).double()]), torch.arange(3).double())
    for label in range(3):
        assert float(model.log_prob(rows, torch.full((len(rows),), label)).exp().sum()) == pytest.approx(1, abs=1e-9)
    alone = Table((Column("n", "integer"),))
    only = torch.tensor([0.0, 1000.0]).repeat(50)[:, None].double()
    model = Mixture(MixtureConfig(n_components=2, n_init=1), alone)
    fit(model, only)
    assert bool(model.log_prob(torch.cat([only, only + 17])).isfinite().all())
    assert float(model.log_prob(values[:, None]).exp().sum()) == pytest.approx(1, abs=1e-9)
    assert float(model.log_prob(only).mean()) == pytest.approx(-math.log(2), abs=0.1)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("condition", [None, Labels(2)])
def test_columns_of_one_value_are_ordinary_columns(missing, condition):
    columns = (
        Column("same", "categorical", categories=("x",), missing=missing),
        Column("seven", "integer", low=7.0, levels=1, missing=missing),
        Column("half", "real", step=0.5, low=0.5, levels=1),
        Column("other", "categorical", categories=("u", "v")),
    )
    for space in (Table(columns), Table(columns[:2]), Table(columns[:1])):
        rng = np.random.default_rng(0)
        width = len(space.columns)
        x = torch.tensor([[0.0, 7.0, 0.5, 0.0]]).double().repeat(200, 1)[:, :width]
        if width > 3:
            x[:, 3] = torch.tensor(rng.integers(0, 2, 200).astype(float))
        if missing:
            x[:, :2][torch.tensor(rng.random((200, min(width, 2))) < 0.2)] = NAN
        c = None if condition is None else torch.tensor(rng.integers(0, 2, 200))
        for model in models(space, condition):
            fit(model, x, c)
            possible = [[v] + [NAN] * (missing and j < 2) for j, v in enumerate([0.0, 7.0, 0.5][:width])] + [[0.0, 1.0]] * (width > 3)
            grid = torch.tensor(list(itertools.product(*possible))).double()
            one = None if c is None else torch.ones(len(grid), dtype=torch.long)
            total = float(model.log_prob(grid, one).exp().sum()) * (0.5 if width > 2 else 1)
            assert total == pytest.approx(1, abs=1e-12)
            drawn = model.sample(200, c, seed=0)
            space.validate(drawn)
            assert bool(drawn[:, :2].isnan().any()) == missing
            filled = model.complete(x, torch.zeros(x.shape, dtype=torch.bool), c, seed=0)
            space.validate(filled)
            assert bool((filled[:, :3] == torch.tensor([0.0, 7.0, 0.5])[:width]).all())


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("name", ["mixture", "independent", "vae"])
def test_data_frames_with_columns_of_one_value_go_all_the_way(name, gaps):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=120), "k": ["x"] * 120, "i": np.full(120, 7), "g": rng.choice(["u", "v"], 120)})
    if gaps:
        frame["i"] = frame["i"].astype("Int64")
        frame.loc[::5, "k"], frame.loc[::7, "i"] = None, pd.NA
    fitted = mk.fit(name, frame, preset="tiny")
    assert bool(np.isfinite(np.asarray(fitted.log_prob(frame))).all())
    drawn = fitted.sample(40)
    assert set(drawn["k"].dropna()) == {"x"}
    assert set(drawn["i"].dropna()) == {7}
    assert gaps or not drawn.isna().any().any()
    if name != "vae":
        filled = fitted.complete(frame)
        assert set(filled["k"]) == {"x"}
        assert set(filled["i"]) == {7}
        assert np.array_equal(filled["g"], frame["g"])


def test_columns_that_are_always_missing_are_survived():
    space = Table((Column("x", missing=True), Column("n", "integer", missing=True), Column("c", "categorical", categories=(0, 1), missing=True)))
    rows = torch.full((40, 3), NAN).double()
    for model in models(space):
        fit(model, rows)
        assert bool(model.log_prob(torch.cat([rows, torch.zeros(2, 3)])).isfinite().all())
        space.validate(model.sample(20, seed=0))


def test_loading_is_constructing_and_filling():
    space, x = numbers(missing=True)
    for build in univariate():
        model = build(space)
        fit(model, x)
        copy = build(space)
        copy.allocate(model.sizes)
        copy.load_state_dict(model.state_dict())
        assert torch.equal(copy.log_prob(x), model.log_prob(x))
        assert torch.equal(copy.sample(50, seed=1).nan_to_num(), model.sample(50, seed=1).nan_to_num())
