"""The restricted Boltzmann machine: energies, gradients and constants against enumeration, and what users meet."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch

import manykin as mk
from manykin.cli.run import run as command
from manykin.contract import EXACT, UNNORMALISED, Batch
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput, ManykinWarning, TrainingFailed, Unsupported
from manykin.mcmc import run
from manykin.models.energy.rbm import RBM
from manykin.models.energy.rbm_options import Gibbs, RBMConfig
from manykin.models.energy.visible import Bernoulli, Gaussian, Ordinal
from manykin.spaces import Column, Image, Labels, Table, Tokens, Vector
from manykin.testing import run_checks, subjects_of
from manykin.testing.context import Context
from manykin.testing.examples import example_rows
from manykin.training import TrainOptions, train

BITS = Vector(6, levels=2)


def bits(n=400, d=6, seed=0):
    """Rows of d bits that tend to agree."""
    g = torch.Generator().manual_seed(seed)
    common = torch.rand(n, 1, generator=g) < 0.5
    return (common ^ (torch.rand(n, d, generator=g) < 0.15)).double()


def machine(space, hidden=5, condition=None, weights=0.7, **options):
    """An untrained model with weights that matter, and rows of its space."""
    torch.manual_seed(0)
    model = RBM(RBMConfig(hidden=hidden, **options), space, condition)
    rows = example_rows(space, condition, 64)
    with torch.no_grad():
        model.start(lambda: [rows], rows, 0)
        for parameter in (model.machine.weights, model.machine.hidden_bias):
            parameter.copy_(weights * torch.randn_like(parameter))
    return model, rows


def hidden_states(units):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)


SPACES = {
    "bernoulli": (BITS, Bernoulli),
    "ordinal": (Vector(3, levels=4), Ordinal),
    "mixed": (Table((Column("a", "integer", levels=3, low=2.0), Column("b", "categorical", ("no", "yes")))), Ordinal),
    "gaussian": (Vector(3), Gaussian),
}


class TestEnergies:
    @pytest.mark.parametrize("name", SPACES)
    def test_free_energy_sums_the_joint_energy_over_hidden_states(self, name):
        space, kind = SPACES[name]
        model, rows = machine(space)
        model = model.double()
        assert isinstance(model.visible, kind)
        m, v = model.machine, model.visible
        with torch.no_grad():
            t = v.encode(model.to_model_space(rows.x)[0]).double()
            h = hidden_states(5)
            scaled = (t - v.centre) * v.scale
            joint = v.log_base(t, v.base())[:, None] + (scaled @ v.bias)[:, None] + scaled @ m.weights @ h.T + h @ m.hidden_bias
            expected = -torch.logsumexp(joint, 1)
            assert torch.allclose(m.tempered(None).energy(t), expected, atol=1e-9)

    @pytest.mark.parametrize("name", SPACES)
    def test_rise_is_the_difference_of_energies(self, name):
        model, rows = machine(SPACES[name][0])
        model = model.double()
        with torch.no_grad():
            t = model.visible.encode(model.to_model_space(rows.x)[0]).double()
            tempered = model.machine.tempered(None)
            for before, after in ((0.0, 0.3), (0.3, 0.9), (0.9, 1.0)):
                expected = tempered.energy(t, after) - tempered.energy(t, before)
                assert torch.allclose(tempered.rise(t, before, after), expected, atol=1e-9)

    def test_gradient_of_the_loss_is_that_of_free_energies(self):
        model, rows = machine(BITS, centred=False)
        loss = model.train().loss(rows).mean()
        loss.backward()
        t = model.visible.encode(rows.x).float()
        own = model.machine
        with torch.no_grad():
            stats = []
            for states in (t, model.chains):
                p = torch.sigmoid((states - model.visible.centre) @ own.weights + own.hidden_bias)
                stats.append(((states - model.visible.centre).T @ p / len(states), states.mean(0), p.mean(0)))
        for parameter, positive, negative in zip((own.weights, model.visible.bias, own.hidden_bias), *stats):
            assert torch.allclose(parameter.grad, negative - positive, atol=1e-5)

    @pytest.mark.parametrize("name", ["bernoulli", "ordinal"])
    def test_log_z_by_hidden_and_by_visible_states(self, name):
        space = {"bernoulli": BITS, "ordinal": Vector(3, levels=4)}[name]
        model, _ = machine(space)
        x = torch.tensor(list(itertools.product(range(space.levels), repeat=space.size)), dtype=torch.float64)
        assert float(torch.logsumexp(-model.free_energy(x), 0).detach()) == pytest.approx(model.log_partition().value, abs=1e-4)
        assert float(model.log_prob(x).exp().sum().detach()) == pytest.approx(1, abs=1e-5)


class TestGradients:
    def exact(self, model, rows):
        """The gradient of the mean log-likelihood by weights: enumerated expectations."""
        x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
        own = model.machine
        tempered = own.tempered(None)
        mean = -tempered.energy(model.visible.encode(rows.x).float()).mean()
        constant = torch.logsumexp(-tempered.energy(x.float()), 0)
        return torch.autograd.grad(mean - constant, own.weights)[0]

    def contrastive(self, model, rows, k, repeats=60):
        """Minus the mean gradient of CD-k over many draws."""
        total = torch.zeros_like(model.machine.weights)
        tempered = model.machine.tempered(None)
        t = model.visible.encode(rows.x).float().repeat(repeats, 1)
        ends = run(tempered.kernel(), t, k).state
        loss = tempered.energy(t).mean() - tempered.energy(ends).mean()
        return total - torch.autograd.grad(loss, model.machine.weights)[0]

    def test_cd_k_turns_to_the_exact_gradient_as_k_grows(self):
        model, _ = machine(BITS, weights=1.2)
        rows = Batch(bits(200))
        exact = self.exact(model, rows)
        torch.manual_seed(1)
        cosines = [float(torch.cosine_similarity(self.contrastive(model, rows, k).flatten(), exact.flatten(), 0)) for k in (1, 5, 100)]
        assert cosines[0] < cosines[2]
        assert cosines[2] > 0.995
        assert float((self.contrastive(model, rows, 100) - exact).norm() / exact.norm()) < 0.1

    def test_centred_gradient_is_that_of_the_centred_machine(self):
        model, rows = machine(BITS)
        model.machine.offset.uniform_(0.1, 0.9)
        own, offset = model.machine, model.machine.offset.clone()
        t = model.visible.encode(rows.x).float()
        own.tempered(None, centred=True).energy(t).mean().backward()
        found = own.weights.grad.clone(), model.visible.bias.grad.clone()
        # The same machine written with h - offset: b' = b + W offset, and its plain gradient carried back.
        weights = own.weights.detach().clone().requires_grad_()
        shifted = (model.visible.bias + own.weights @ offset).detach().clone().requires_grad_()
        bias = shifted - weights @ offset
        centred = t - model.visible.centre
        energy = -(centred @ bias) - torch.nn.functional.softplus(centred @ weights + own.hidden_bias).sum(1)
        energy.mean().backward()
        assert torch.allclose(found[0], weights.grad, atol=1e-6)
        assert torch.allclose(found[1], shifted.grad - weights.grad @ offset, atol=1e-6)

    @pytest.mark.parametrize("options", [{"method": "cd"}, {"method": "cd", "steps": 5}, {"centred": False}, {"steps": 3}])
    def test_every_way_of_learning_raises_the_likelihood(self, options):
        x = bits()
        data = Dataset("bits", BITS, Rows(x, None))
        torch.manual_seed(0)
        model = RBM(RBMConfig(hidden=6, chains=50, **options), BITS)
        train(model, data, TrainOptions.from_json({"max_steps": 400, "batch_size": 50, "lr": 0.5, "schedule": "linear"}), seed=0)
        independent = torch.distributions.Bernoulli(x.mean(0)).log_prob(x).sum(1).mean()
        assert float(model.log_prob(x).mean().detach()) > float(independent) + 0.5


class TestConstant:
    @pytest.mark.parametrize("name", SPACES)
    def test_annealing_agrees_with_enumeration(self, name):
        model, _ = machine(SPACES[name][0], hidden=8)
        exact = model.log_partition().value
        for count in (200, 1000):
            found = model.log_partition(temperatures=count, chains=200, estimate=True, seed=count)
            assert abs(found.value - exact) < 0.1
            assert found.lower - 0.02 <= exact <= found.upper + 0.02

    def test_twenty_units_are_exact_and_twenty_one_are_not(self):
        assert RBM(RBMConfig(hidden=20), BITS).kind == EXACT
        assert RBM(RBMConfig(hidden=21), BITS).kind == UNNORMALISED

    def test_two_temperature_counts_agree_where_nothing_can_be_added_up(self):
        model, _ = machine(Vector(40, levels=2), hidden=30, weights=0.4)
        few, many = (model.log_partition(temperatures=count, chains=100, seed=1) for count in (400, 2000))
        assert abs(few.value - many.value) < 0.1 + 4 * few.stderr
        assert many.ess > 20

    def test_each_class_has_its_own(self):
        model, _ = machine(BITS, condition=Labels(3), chains=30)
        values = [model.log_partition(label).value for label in range(3)]
        assert len({round(value, 3) for value in values}) == 3
        for label, value in enumerate(values):
            assert model.log_partition(label, temperatures=500, chains=100, estimate=True).value == pytest.approx(value, abs=0.1)
        with pytest.raises(InvalidInput, match="condition is missing"):
            model.log_partition()
        with pytest.raises(InvalidInput, match="at least 2 of each"):
            model.log_partition(0, chains=1)

    def test_density_is_an_estimate_until_weights_change(self):
        fitted = mk.fit("rbm", bits(), options={"hidden": 24, "chains": 50, "ais_temperatures": 300}, max_steps=200, data_options={"levels": 2})
        assert str(fitted.density) == "estimate"
        table = fitted.parameters_table()
        assert float(table["log_partition_lower"][0]) <= float(table["log_partition"][0]) <= float(table["log_partition_upper"][0])
        assert float(table["effective_sample_size"][0]) > 50
        x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
        assert float(fitted.model.log_prob(x).exp().sum().detach()) == pytest.approx(1, abs=0.1)
        names = ["estimated-mass-near-one", "saved-is-all", "metropolis-keeps-samples", "free-energy-is-minus-log-prob", "loss-is-the-free-energy"]
        rows = run_checks(Context(subjects_of(fitted)[0]), names)
        assert {row.name for row in rows} == set(names) - {"metropolis-keeps-samples"}
        assert all(row.passed for row in rows), rows
        with torch.no_grad():
            fitted.model.machine.weights.mul_(1.01)
        assert str(fitted.density) == "unnormalised"

    def test_no_temperatures_leave_it_unnormalised(self):
        fitted = mk.fit("rbm", bits(), options={"hidden": 24, "ais_temperatures": 0}, max_steps=5, data_options={"levels": 2})
        assert str(fitted.density) == "unnormalised"

    def test_poor_estimates_are_said_to_be(self):
        model, rows = machine(Vector(60, levels=2), hidden=40, weights=1.5, ais_temperatures=3, ais_chains=50)
        model.accumulate(rows)
        with pytest.warns(ManykinWarning, match="log Z is unreliable: effective sample size"):
            model.solve()


class TestSamples:
    def test_chains_stay_in_an_enumerated_law(self):
        model, _ = machine(BITS, weights=1.0)
        x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)), dtype=torch.float64)
        law = model.log_prob(x).exp().detach()
        powers = 2.0 ** torch.arange(5, -1, -1, dtype=torch.float64)
        for sampler in (None, Gibbs(steps=60), Gibbs(steps=60, annealing=0.0)):
            drawn = model.sample(8192, seed=0, sampler=sampler)
            counts = torch.bincount((drawn @ powers).long(), minlength=64).double()
            statistic = float(((counts - 8192 * law).square() / (8192 * law)).sum())
            assert statistic < 63 + 5 * math.sqrt(2 * 63)

    def test_fresh_and_buffer_chains_differ(self):
        fitted = mk.fit("rbm", bits(), options={"hidden": 30, "chains": 40, "ais_temperatures": 0}, max_steps=50, data_options={"levels": 2})
        fresh, buffer = (fitted.sample(100, seed=0, sampler=Gibbs(steps=5, chains=chains)) for chains in ("fresh", "buffer"))
        assert not np.array_equal(fresh, buffer)
        assert {"note.data_energy", "note.chain_energy"} <= set(fitted.history[-2])

    def test_contrastive_divergence_keeps_no_chains(self):
        model, _ = machine(BITS, method="cd")
        assert len(model.chains) == 0
        with pytest.raises(InvalidInput, match="method cd keeps none"):
            model.sample(3, sampler=Gibbs(chains="buffer"))

    def test_classes_get_chains_by_frequency(self):
        torch.manual_seed(0)
        model = RBM(RBMConfig(hidden=4, chains=50), BITS, Labels(3))
        labels = torch.tensor([0] * 90 + [1] * 9 + [2])
        rows = Batch(bits(100), labels)
        model.start(lambda: [rows], rows, 0)
        assert torch.bincount(model.chain_labels, minlength=3).tolist() == [43, 6, 1]

    @pytest.mark.parametrize("condition", [None, Labels(3)])
    def test_chains_move_in_training_only(self, condition):
        model, rows = machine(BITS, condition=condition, chains=30)
        for training in (False, True):
            before = model.chains.clone()
            model.train(training).loss(rows)
            assert torch.equal(before, model.chains) is not training

    def test_completion_keeps_to_what_is_known(self):
        fitted = mk.fit("rbm", bits(1000), options={"hidden": 8}, train={"lr": 0.2}, max_steps=400, data_options={"levels": 2}, seed=0)
        known = np.zeros((200, 6), dtype=bool)
        known[:, :4] = True
        filled = fitted.complete(np.ones((200, 6), dtype=np.int64), known, seed=0)
        assert (filled[:, :4] == 1).all()
        assert filled[:, 4:].mean() > 0.75

    def test_diverged_chains_are_one_warning(self):
        model, rows = machine(Vector(3), hidden=4)
        model.chains.fill_(1e4)
        model.accumulate(rows)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.solve()
        assert [str(each.message)[:36] for each in caught] == ["100 of 100 Markov chains have diverg"]


class TestUsers:
    def test_a_rare_outlier_in_a_nearly_constant_column_is_taken(self):
        x = np.zeros((300, 12))
        x += np.random.default_rng(0).normal(size=x.shape) * np.r_[np.ones(11), 0.01]
        x[:2, -1] = 5.0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fitted = mk.fit("rbm", x, options={"hidden": 40, "chains": 50, "ais_temperatures": 200}, max_steps=60, seed=0)
        assert np.isfinite(fitted.log_prob(x)).all()

    def test_chains_that_run_away_in_training_end_it(self):
        x = np.random.default_rng(0).normal(size=(200, 12)) ** 5
        told = r"50 Markov chains ran beyond 100 standard deviations.*down to 125"
        with pytest.warns(ManykinWarning, match="learning rate times 0.5"), pytest.raises(TrainingFailed, match=told):
            mk.fit("rbm", x, options={"hidden": 40, "chains": 50}, train={"lr": 1e3, "clip": None}, max_steps=60, seed=0)

    def test_kinds_of_data_choose_their_units(self):
        for space, kind in (
            (Image((1, 4, 4), 2), Bernoulli),
            (Image((1, 4, 4), 17), Ordinal),
            (Image((1, 4, 4), 256), Gaussian),
            (Image((1, 4, 4), None), Gaussian),
            (Vector(2), Gaussian),
        ):
            assert isinstance(RBM(RBMConfig(hidden=3), space).visible, kind)
        assert isinstance(RBM(RBMConfig(hidden=3, visible="gaussian"), BITS).visible, Gaussian)

    @pytest.mark.parametrize(
        "space, options, message",
        [
            (Vector(2), {"visible": "bernoulli"}, "'bernoulli' needs columns of two values"),
            (Vector(2), {"visible": "ordinal"}, "'ordinal' needs columns of finitely many ordered values"),
            (Table((Column("a", missing=True),)), {}, "missing values"),
            (Tokens(3, 4), {}, "cannot be seen as columns"),
        ],
    )
    def test_wrong_kinds_are_refused_in_one_line(self, space, options, message):
        with pytest.raises(InvalidInput, match=message) as caught:
            RBM(RBMConfig(hidden=3, **options), space)
        assert "\n" not in str(caught.value)

    def test_bad_calls(self):
        with pytest.raises(InvalidInput, match="fewer chains than the 5 classes.*--model.chains") as caught:
            RBM(RBMConfig(chains=3), BITS, Labels(5))
        assert not isinstance(caught.value, Unsupported)  # another model is no remedy: the option is
        with pytest.raises(InvalidInput, match="sampler.steps = 0"):
            Gibbs(steps=0)
        with pytest.raises(InvalidInput, match="model.hidden = 0"):
            RBMConfig(hidden=0)
        model, _ = machine(BITS)
        with pytest.raises(InvalidInput, match="expected booleans of the shape of x"):
            model.complete(torch.zeros(2, 6, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.bool))
        with pytest.raises(InvalidInput, match="nothing to watch"):
            mk.fit("rbm", bits(100), options={"hidden": 30}, train={"patience": 2}, max_steps=5, data_options={"levels": 2})

    def test_ten_rows_are_learnt(self):
        fitted = mk.fit("rbm", bits(10), preset="tiny", max_steps=20, data_options={"levels": 2}, seed=0)
        assert torch.isfinite(torch.as_tensor(fitted.log_prob(fitted.sample(5, seed=0)))).all()

    def test_codes_of_scikit_learn_fit_in(self):
        model, rows = machine(BITS)
        table = model.parameters_table()
        p = torch.sigmoid(rows.x.float() @ table["components"].T + table["intercept_hidden"])
        assert torch.allclose(model.encode(rows.x).base_dist.probs, p, atol=1e-5)

    def test_digits_by_label_beat_their_floor(self):
        options = {"hidden": 32, "ais_temperatures": 100, "ais_chains": 50}
        fitted = mk.fit("rbm", "digits", condition=True, options=options, max_steps=200, seed=0)
        bits_per_dim = {each.name: each for each in mk.evaluate(fitted, metrics="likelihood").metrics}["bits_per_dim"]
        assert bits_per_dim.strength == "estimate"
        assert bits_per_dim.value < 2.35
        assert fitted.sample(4, condition=3, seed=0, sampler=Gibbs(steps=20)).shape == (4, 8, 8)

    def test_command_line(self, tmp_path, capsys):
        np.save(tmp_path / "bits.npy", bits(100).numpy().astype(np.int64))
        folder = tmp_path / "run"
        call = ["fit", "rbm", str(tmp_path / "bits.npy"), "--preset", "tiny", "--max-steps", "5", "--out", str(folder), "--quiet"]
        assert command([*call, "--model.hidden", "4"]) == 0
        capsys.readouterr()
        drawn = ["sample", str(folder), "-n", "3", "--sampler", "gibbs", "--sampler.steps", "3", "--out", str(tmp_path / "x.npy"), "--json"]
        assert command(drawn) == 0
        assert json.loads(capsys.readouterr().out)["n"] == 3
