import numpy as np
import pytest
import torch

import manykin as mk
from manykin.data import load_data, load_rows
from manykin.data.dataset import Chances
from manykin.data.prepared import hash_of, read_dataset, write_dataset
from manykin.errors import InvalidInput
from manykin.random import seed_all
from manykin.spaces import Image
from manykin.training.batches import Source


def digits(rule, **options):
    return load_data("digits", options={"binarise": rule, **options})


def test_a_pixel_is_one_with_its_level_as_the_chance():
    levels = torch.tensor([0, 1, 8, 15, 16], dtype=torch.uint8).repeat(200_000, 1)
    drawn = Chances(levels, 16).draw(torch.Generator().manual_seed(0)).double().mean(dim=0)
    expected = torch.tensor([0, 1, 8, 15, 16]) / 16
    error = (expected * (1 - expected) / 200_000).sqrt()
    assert drawn[0] == 0
    assert drawn[4] == 1
    assert ((drawn - expected).abs() <= 4.5 * error).all()


def test_the_whole_range_of_eight_bits_is_used():
    levels = torch.arange(256, dtype=torch.uint8).repeat(4000, 1)
    drawn = Chances(levels, 255).draw(torch.Generator().manual_seed(1)).double().mean(dim=0)
    assert drawn[0] == 0
    assert drawn[255] == 1
    assert drawn[1:].mean().item() == pytest.approx(128 / 255, abs=2e-3)


@pytest.mark.parametrize("rule", ["dynamic", "static", "threshold"])
def test_pictures_have_two_levels_and_the_provenance_says_how(rule):
    data, grey = digits(rule), load_data("digits")
    assert data.space == Image((1, 8, 8), 2)
    assert data.test is not None
    assert set(data.train.all().x.unique().tolist()) == {0, 1}
    assert any("binarised" in each for each in data.provenance["lossy"])
    assert (data.train.chances is not None) == (rule == "dynamic")
    assert data.test.chances is None
    if rule == "threshold":
        assert torch.equal(data.train.all().x, (grey.train.all().x > 8).to(torch.uint8))
    else:
        assert torch.equal(digits(rule).test.all().x, data.test.all().x)
        gap = data.train.all().x.double().mean() - grey.train.all().x.double().mean() / 16
        assert abs(gap) < 0.005


def test_the_test_pictures_do_not_depend_on_the_seed_of_the_fit():
    a, b = (load_data("digits", options={"binarise": "dynamic"}, seed=seed) for seed in (0, 1))
    assert torch.equal(a.test.all().x, b.test.all().x)
    assert not torch.equal(a.test.all().x, digits("dynamic", split_seed=3).test.all().x)


def test_a_training_step_draws_its_pictures_anew_and_repeatably():
    source = Source(digits("dynamic").train, 64, 0, torch.device("cpu"))
    positions = source.order.positions(0)

    def drawn(seed):
        seed_all(seed)
        return source.gather(positions).x

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert not torch.equal(drawn(1), source.rows.x[positions])
    assert torch.equal(source.slice(0, 64).x, source.rows.x[:64])
    mean = torch.stack([drawn(seed) for seed in range(2000)]).double().mean(dim=0)
    assert (mean - source.rows.chances.levels[positions] / 16).abs().max() < 0.06


def test_dynamic_and_static_pictures_train_different_models_from_one_seed():
    fits = {rule: mk.fit("vae", "digits", preset="tiny", max_steps=20, data_options={"binarise": rule}) for rule in ("dynamic", "static")}
    weights = [torch.cat([p.flatten() for p in fit.model.parameters()]) for fit in fits.values()]
    assert not torch.equal(*weights)
    again = mk.fit("vae", "digits", preset="tiny", max_steps=20, data_options={"binarise": "dynamic"})
    assert torch.equal(torch.cat([p.flatten() for p in again.model.parameters()]), weights[0])


def test_a_fitted_model_is_evaluated_on_the_binary_test_pictures(tmp_path):
    fitted = mk.fit("independent", "digits", data_options={"binarise": "static"}, out=tmp_path / "run")
    found = mk.evaluate(mk.from_pretrained(tmp_path / "run"), metrics="likelihood")
    nats = next(each.value for each in found.metrics if each.name == "nll")
    x = digits("static").test.all().x
    assert nats == pytest.approx(-fitted.model.log_prob(x).mean().item(), rel=1e-9)
    named = mk.evaluate(mk.from_pretrained(tmp_path / "run"), "digits", metrics="likelihood")
    assert next(each.value for each in named.metrics if each.name == "nll") == nats
    assert set(np.unique(fitted.sample(50, seed=0))) <= {0, 1}


def test_own_grey_pictures_are_read_by_the_rule_of_the_fit():
    grey = np.random.default_rng(0).integers(0, 256, (300, 8, 8)).astype(np.uint8)
    fitted = mk.fit("independent", grey, data_options={"binarise": "threshold"})
    rows = load_rows(grey[:50], fitted.space, fitted.form, options={"binarise": "threshold"})
    assert torch.equal(rows.all().x[:, 0], torch.from_numpy((grey[:50] > 127).astype(np.uint8)))


def test_a_prepared_data_set_keeps_its_chances(tmp_path):
    data = digits("dynamic", max_rows=100)
    write_dataset(data, tmp_path / "data.safetensors")
    again = read_dataset(tmp_path / "data.safetensors")
    assert again.train.chances is not None
    assert again.train.chances.top == 16
    assert torch.equal(again.train.chances.levels, data.train.chances.levels[data.train.index])
    assert torch.equal(again.train.all().x, data.train.all().x)
    assert hash_of(again) == hash_of(data)


@pytest.mark.parametrize("source", ["two-moons", "binary", "floats"])
def test_data_that_are_no_grey_pictures_are_refused(source):
    found = {
        "two-moons": "two-moons", "binary": np.eye(8, dtype=np.uint8)[None].repeat(9, 0), "floats": np.random.default_rng(0).random((20, 6, 6, 1)),
    }[source]  # fmt: skip
    with pytest.raises(
        InvalidInput, match="data.binarise = 'static' does not fit .*; expected (pictures of more than 2 ordered levels|data.levels = 2)"
    ):
        load_data(found, options={"binarise": "static"})
