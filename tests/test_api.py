import json
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

import manykin as mk
from manykin.cli.values import parse_condition
from manykin.errors import CheckpointMismatch, InvalidInput, ManykinWarning, Unsupported
from manykin.models.classical.gaussian import Gaussian
from manykin.models.classical.gaussian_mixture import GaussianMixture

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]]) + 5
FRAME = pd.DataFrame(
    {
        "height": RNG.normal(170, 10, 200).round(1),
        "children": RNG.poisson(1.5, 200),
        "town": RNG.choice(["Bern", "Basel", "Chur"], 200),
        "member": RNG.random(200) < 0.3,
    }
)
FRAME.loc[::9, "height"] = np.nan


def test_arrays_come_back_as_arrays():
    fitted = mk.fit("gaussian", X.astype(np.float32))
    assert fitted.sample(4, seed=0).dtype == np.float32
    assert fitted.log_prob(X[:5]).shape == (5,)
    assert isinstance(fitted.log_prob(torch.as_tensor(X[:5])), torch.Tensor)
    assert str(fitted.density) == "exact"


def test_a_real_condition_is_asked_for_and_never_called_a_label(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = mk.fit("vae", X, condition=X[:, :1] + 1.0, preset="tiny", max_steps=3, out=tmp_path / "run", seed=0)
        with pytest.raises(InvalidInput, match=r"the condition is missing.*--condition NAME=VALUE"):
            fitted.sample(2, seed=0)
    assert fitted.sample(2, condition=X[:2, :1], seed=0).shape == (2, 3)


def test_model_by_class_and_by_config():
    by_class = mk.fit(Gaussian, X)
    config = GaussianMixture.config_class(n_components=2)
    by_config = mk.fit(config, X)
    assert by_class.name == "gaussian"
    assert by_config.name == "gaussian-mixture"
    assert by_config.parameters_table()["means"].shape == (2, 3)
    with pytest.raises(InvalidInput, match="model is a int"):
        mk.fit(3, X)


def test_frames_come_back_with_their_dtypes_and_gaps():
    fitted = mk.fit("mixture", FRAME, options={"n_components": 3})
    drawn = fitted.sample(200, seed=0)
    assert list(drawn.dtypes) == list(FRAME.dtypes)
    assert 0 < drawn["height"].isna().mean() < 0.3
    assert set(drawn["town"]) <= {"Bern", "Basel", "Chur"}
    assert np.isfinite(fitted.log_prob(FRAME)).all()


def test_completion_of_a_frame_fills_the_gaps_and_leaves_the_rest():
    fitted = mk.fit("mixture", FRAME, options={"n_components": 3})
    part = FRAME.head(20).copy()
    part["town"] = part["town"].where(part.index % 2 == 0, other=None)
    filled = fitted.complete(part, seed=0)
    assert filled["town"].notna().all()
    pd.testing.assert_frame_equal(filled[["children", "member"]], part[["children", "member"]])
    assert (filled["town"][::2] == part["town"][::2]).all()


def test_completion_of_an_array_by_mask():
    fitted = mk.fit("gaussian", X)
    known = np.ones((10, 3), dtype=bool)
    known[:, 1] = False
    filled = fitted.complete(X[:10], known, seed=1)
    np.testing.assert_array_equal(filled[:, [0, 2]], X[:10][:, [0, 2]])
    assert (filled[:, 1] != X[:10, 1]).all()
    with_gaps = X[:10].copy()
    with_gaps[:, 1] = np.nan
    np.testing.assert_array_equal(fitted.complete(with_gaps, seed=1), filled)
    for bad, message in [(known[:, :2], "shape"), (known.astype(float), "booleans")]:
        with pytest.raises(InvalidInput, match=message):
            fitted.complete(X[:10], bad)


def test_pictures_by_label():
    fitted = mk.fit("independent", "digits", condition=True)
    ones = fitted.sample(5, 1, seed=0)
    assert ones.shape == (5, 8, 8)
    assert ones.dtype == np.uint8
    assert fitted.log_prob(ones, 1).sum() > fitted.log_prob(ones, 0).sum()
    with pytest.raises(InvalidInput, match="condition 11 is not a label"):
        fitted.sample(2, 11)
    assert fitted.marginal_log_prob(ones).shape == (5,)


def test_labels_by_the_users_own_names():
    fitted = mk.fit("gaussian", X, condition=np.array(["lo", "hi"])[(X[:, 0] > 5).astype(int)])
    assert fitted.sample(50, "hi", seed=0)[:, 0].mean() > fitted.sample(50, "lo", seed=0)[:, 0].mean()
    with pytest.raises(InvalidInput, match="'mid' is not a label.*hi, lo"):
        fitted.sample(1, "mid")


def test_spaces_that_a_model_cannot_take_name_those_that_can():
    with pytest.raises(Unsupported, match="realnvp: .*Models that can: .*mixture") as caught:
        mk.fit("realnvp", FRAME)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput, match="preset 'defalt' is not known"):
        mk.fit("realnvp", X, preset="defalt")


def test_saving_and_loading(tmp_path):
    fitted = mk.fit("mixture", FRAME, options={"n_components": 2})
    fitted.save_pretrained(tmp_path / "model")
    loaded = mk.from_pretrained(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.sample(20, seed=3), fitted.sample(20, seed=3))
    np.testing.assert_array_equal(loaded.log_prob(FRAME), fitted.log_prob(FRAME))
    with pytest.raises(InvalidInput, match="exists"):
        fitted.save_pretrained(tmp_path / "model")
    fitted.save_pretrained(tmp_path / "model", force=True)


def test_foreign_folders_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="not a run folder"):
        mk.from_pretrained(tmp_path / "nowhere")
    mk.fit("gaussian", X).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["model"]["name"] = "os:system"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointMismatch, match="'os:system' is not known"):
        mk.from_pretrained(tmp_path / "model")
    config["model"] = {"name": "ppca", "config": {"n_components": 2}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointMismatch):
        mk.from_pretrained(tmp_path / "model")


def test_resuming_a_finished_run_loads_it_and_another_is_refused(tmp_path):
    first = mk.fit("gaussian", X, out=tmp_path / "run")
    again = mk.fit("gaussian", X, out=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(first.sample(3, seed=0), again.sample(3, seed=0))
    with pytest.raises(InvalidInput, match="exists"):
        mk.fit("gaussian", X, out=tmp_path / "run")
    with pytest.raises(CheckpointMismatch, match="another model"):
        mk.fit("ppca", X, out=tmp_path / "run", resume=True)
    with pytest.raises(CheckpointMismatch, match="other data"):
        mk.fit("gaussian", X + 1e-3, out=tmp_path / "run", resume=True)


def test_one_seed_one_model():
    a, b, c = (mk.fit("realnvp", X, max_steps=5, seed=seed).sample(4, seed=0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_evaluate_says_on_what():
    fitted = mk.fit("gaussian", X)
    own = mk.evaluate(fitted)
    assert "training data" in own.metrics[0].note
    other = mk.evaluate(fitted, X[:100] + 0.01)
    assert {metric.name for metric in other.metrics} >= {"nll", "energy_distance"}
    assert "training data" not in other.metrics[0].note


def test_evaluate_a_loaded_run_on_its_named_data(tmp_path):
    mk.fit("gaussian", "two-moons", out=tmp_path / "run")
    names = {metric.name for metric in mk.evaluate(mk.from_pretrained(tmp_path / "run")).metrics}
    assert names >= {"nll", "kl_gap"}
    mk.fit("gaussian", X, out=tmp_path / "own")
    with pytest.raises(InvalidInput, match="not a named data set"):
        mk.evaluate(mk.from_pretrained(tmp_path / "own"))


def test_comparison_keeps_going_past_a_model_that_fails(tmp_path):
    result = mk.compare(["gaussian", "realnvp", "gaussian"], FRAME[["children", "town"]], out=tmp_path / "c", max_steps=2)
    assert all("Models that can" in (row.error or "") for row in result.rows)
    result = mk.compare(["gaussian", "gan", "gaussian"], X, max_steps=3, out=tmp_path / "d")
    assert [row.model for row in result.rows] == ["gaussian", "gan", "gaussian-2"]
    saved = json.loads((tmp_path / "d" / "compare.json").read_text())
    assert saved == json.loads(json.dumps(result.to_json()))
    assert result.row("gan").metric("nll") is None
    assert result.row("gaussian").metric("nll").value == result.row("gaussian-2").metric("nll").value
    with pytest.raises(InvalidInput, match="exists and is not empty"):
        mk.compare(["gaussian"], X, out=tmp_path / "d")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InvalidInput, match="left alone"):
        mk.compare(["gaussian"], X, out=tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_records_are_modelled_as_one(tmp_path):
    data = {"x": X[:, :2], "y": (X[:, 2] > 5).astype(np.int64)}
    fitted = mk.fit("mixture", data, options={"n_components": 2})
    drawn = fitted.sample(10, seed=0)
    assert set(drawn) == {"x", "y"}
    assert fitted.log_prob(data).shape == (300,)
    fitted.save_pretrained(tmp_path / "record")
    again = mk.from_pretrained(tmp_path / "record").sample(10, seed=0)
    np.testing.assert_array_equal(again["x"], drawn["x"])


def test_cards_say_what_the_model_is(tmp_path):
    fitted = mk.fit("kde", X, out=tmp_path / "run")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "holds training rows" in card
    assert "library_name" in card
    assert fitted.folder == tmp_path / "run"


def test_evaluating_a_conditional_table_finds_its_column_again():
    fitted = mk.fit("independent", FRAME, condition="town")
    assert np.isfinite(mk.evaluate(fitted, FRAME).metrics[0].value)
    with pytest.raises(InvalidInput, match="'town' is not in the table"):
        mk.evaluate(fitted, FRAME.drop(columns="town"))


def test_evaluating_on_the_training_file_takes_its_test_split(tmp_path):
    FRAME.to_csv(tmp_path / "people.csv", index=False)
    fitted = mk.fit("independent", tmp_path / "people.csv", out=tmp_path / "run")
    expected = mk.evaluate(fitted).metrics[0]
    loaded = mk.evaluate(mk.from_pretrained(tmp_path / "run"), tmp_path / "people.csv")
    assert loaded.metrics[0].value == expected.value
    assert loaded.data == "people.csv, test split"
    FRAME.sample(100, random_state=0).to_csv(tmp_path / "others.csv", index=False)
    assert mk.evaluate(mk.from_pretrained(tmp_path / "run"), tmp_path / "others.csv").metrics[0].n == 100


class Hub:
    """Stands in for the hub's client and keeps what it was given."""

    calls: ClassVar[list] = []

    def create_repo(self, repo_id, private, exist_ok):
        self.calls.append(("create", repo_id, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, commit_message):
        files = {path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*") if path.is_file()}
        self.calls.append(("upload", repo_id, files, commit_message))
        return f"https://hub.example/{repo_id}"


def test_pushing_to_the_hub_sends_the_run_folder_and_warns_of_training_rows(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    address = mk.fit("gaussian", X).push_to_hub("me/gaussian", private=True)
    assert address.endswith("me/gaussian")
    assert Hub.calls[0] == ("create", "me/gaussian", True, True)
    assert {"config.json", "model.safetensors", "README.md"} <= Hub.calls[1][2]
    with pytest.warns(ManykinWarning, match="keeps training rows"):
        mk.fit("kde", X).push_to_hub("me/kde")
    with pytest.warns(ManykinWarning, match="'town'"):
        mk.fit("independent", FRAME).push_to_hub("me/towns")


def test_a_hub_model_that_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidInput, match="'nobody/nothing' is neither a folder here nor a model on the hub") as caught:
        mk.from_pretrained("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_replacing_a_comparison_leaves_foreign_files_alone(tmp_path):
    mk.compare(["gaussian"], X, out=tmp_path / "c")
    (tmp_path / "c" / "precious.txt").write_text("mine")
    (tmp_path / "c" / "gaussian" / "notes.txt").write_text("mine too")
    (tmp_path / "link").symlink_to(tmp_path / "c")
    mk.compare(["ppca"], X, out=tmp_path / "link", force=True)
    assert (tmp_path / "c" / "precious.txt").read_text() == "mine"
    assert (tmp_path / "c" / "gaussian" / "notes.txt").read_text() == "mine too"
    assert not (tmp_path / "c" / "gaussian" / "config.json").exists()
    assert [row["model"] for row in json.loads((tmp_path / "c" / "compare.json").read_text())] == ["ppca"]


def test_resuming_a_finished_run_under_other_options_is_refused(tmp_path):
    mk.fit("realnvp", X, max_steps=3, out=tmp_path / "run")
    with pytest.raises(CheckpointMismatch, match="max_steps = 3, now 6"):
        mk.fit("realnvp", X, max_steps=6, out=tmp_path / "run", resume=True)
    with pytest.raises(CheckpointMismatch, match=r"train\.lr"):
        mk.fit("realnvp", X, max_steps=3, train={"lr": 0.5}, out=tmp_path / "run", resume=True)
    assert mk.fit("realnvp", X, max_steps=3, out=tmp_path / "run", resume=True).result["steps"] == 3


@pytest.mark.parametrize("name", ["box", "independent", "mixture", "vae", "gaussian", "realnvp"])
def test_colour_pictures(name):
    pictures = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3)).astype(np.uint8)
    fitted = mk.fit(name, pictures, preset="tiny", max_steps=3)
    assert fitted.sample(3, seed=0).shape == (3, 5, 4, 3)
    assert fitted.log_prob(pictures[:2]).shape == (2,)


def test_labels_of_a_conditional_run_are_drawn_and_said():
    fitted = mk.fit("independent", FRAME, condition="town")
    with pytest.warns(ManykinWarning, match="training frequencies"):
        fitted.sample(3, seed=0)
    with pytest.raises(InvalidInput, match="was fitted without one"):
        mk.evaluate(mk.fit("gaussian", X), X, condition=np.zeros(300, dtype=int))


def test_the_name_of_a_typed_condition_is_checked():
    fitted = mk.fit("independent", FRAME, condition="town")
    assert parse_condition(fitted, "town=Bern") == "Bern"
    assert parse_condition(fitted, "label=Bern") == "Bern"
    assert parse_condition(fitted, "Bern") == "Bern"
    with pytest.raises(InvalidInput, match="'city' is not the condition of this run; expected label or town=VALUE"):
        parse_condition(fitted, "city=Bern")


def test_texts_have_a_floor_and_other_models_name_it(tmp_path):
    (tmp_path / "text.txt").write_text("hello world\nthis is text\n" * 40)
    with pytest.raises(Unsupported, match="mixture: .*Models that can: independent"):
        mk.fit("mixture", tmp_path / "text.txt")
    fitted = mk.fit("independent", tmp_path / "text.txt")
    names = {metric.name for metric in mk.evaluate(fitted).metrics}
    assert "nll" in names
    assert "energy_distance" not in names
    assert isinstance(fitted.sample(1, seed=0)[0], str)


def test_parameters_count_what_was_learned_and_no_statistics(tmp_path):
    fitted = mk.fit("gaussian-mixture", X, options={"n_components": 2}, out=tmp_path / "run")
    learned = sum(value.size for value in fitted.parameters_table().values())
    assert learned <= fitted.result["parameters"] <= learned + 10
    assert f"| parameters | {fitted.result['parameters']:,} |" in (tmp_path / "run" / "README.md").read_text()
