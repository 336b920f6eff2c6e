"""Comparisons: prepared data, runs in processes of their own, resuming, repeating, seeds, the table; and evaluation on the command line."""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import manykin as mk
from manykin.cli.compare import show_comparison
from manykin.cli.output import Output, Settings
from manykin.cli.run import run
from manykin.comparison.children import WATCH
from manykin.comparison.rows import Comparison, Row, Run, revived
from manykin.comparison.setup import candidates, seeds_of
from manykin.comparison.splits import with_test
from manykin.comparison.summary import Ruler, mean_over_seeds, row_of, run_of
from manykin.comparison.table import deduplicated, table_of
from manykin.comparison.trust import is_plain
from manykin.data import load_data
from manykin.data.dataset import Dataset, Rows
from manykin.data.prepared import hash_of, read_dataset, write_dataset
from manykin.errors import CheckpointMismatch, InvalidInput, ManykinWarning
from manykin.metrics import Estimate
from manykin.metrics.estimate import SAMPLES
from manykin.models.classical.gaussian import Gaussian
from manykin.models.classical.gaussian_mixture import GaussianMixture
from manykin.spaces import Image, Labels, Vector

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]]) + 5
FRAME = pd.DataFrame({"height": RNG.normal(170, 10, 200).round(1), "town": RNG.choice(["Bern", "Basel"], 200), "children": RNG.poisson(1.5, 200)})
FRAME.loc[::9, "height"] = np.nan


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a command line in this process, in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def go(*words):
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


def interpreter(monkeypatch, tmp_path, body):
    """Put a shell script in the place of the interpreter that runs are started with."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    return path


# Prepared data.


def labelled():
    picture = torch.arange(2 * 9 * 4).reshape(18, 1, 2, 2).to(torch.uint8)
    base = Rows(picture, None, None, torch.arange(18) % 3 - (torch.arange(18) == 17).long())
    return Dataset(
        "tiny", Image((1, 2, 2)), base.select(torch.arange(12).flip(0)), test=base.select(torch.arange(12, 18)), classes=Labels(3, ("a", 2, True))
    )


def texts():
    return ["abc", "de", "fgh", "a"] * 10


SOURCES = {
    "array": lambda: load_data(X.astype(np.float32)),
    "grid": lambda: load_data(X.round(1)),
    "tensor of bfloat16": lambda: Dataset("half", Vector(3), Rows(torch.as_tensor(X).bfloat16())),
    "pictures": lambda: load_data("digits", condition=True),
    "labels and rows of a base": labelled,
    "table": lambda: load_data(FRAME, condition="town"),
    "conditions that are vectors": lambda: load_data(X, condition=X[:, :2] * 2),
    "strings": lambda: load_data(texts()),
    "record": lambda: load_data({"x/x": X[:, :2], "y.": (X[:, 2] > 5).astype(np.int64)}),
    "toy": lambda: load_data("two-moons"),
}


def values(value):
    return {"": value} if isinstance(value, torch.Tensor) else dict(value or {})


@pytest.mark.parametrize("kind", SOURCES)
def test_a_prepared_data_set_is_the_data_set(kind, tmp_path):
    data = SOURCES[kind]()
    path = tmp_path / "data.safetensors"
    sha256 = write_dataset(data, path)
    assert [each.name for each in tmp_path.iterdir()] == ["data.safetensors"]
    assert sha256 == hash_of(data) == write_dataset(data, path)
    found = load_data(path)
    assert (found.name, found.space, found.condition, found.classes, found.form) == (data.name, data.space, data.condition, data.classes, data.form)
    assert {**data.provenance, "sha256": data.provenance.get("sha256", sha256)} == found.provenance
    assert found.entropy == data.entropy
    for split in ("train", "val", "test"):
        before, after = getattr(data, split), getattr(found, split)
        assert (before is None) == (after is None)
        if before is not None:
            assert after.index is None
            batch, same = before.all(), after.all()
            for old, new in ((batch.x, same.x), (batch.condition, same.condition), (before.labels, after.labels)):
                assert values(old).keys() == values(new).keys()
                for key, part in values(old).items():
                    assert part.dtype == values(new)[key].dtype
                    assert torch.equal(torch.nan_to_num(part.float(), nan=-7.5), torch.nan_to_num(values(new)[key].float(), nan=-7.5))


@pytest.mark.parametrize(("words", "epochs"), [(["gaussian"], []), (["realnvp"], ["--max-steps", "4", "--preset", "tiny"])])
def test_fitting_a_prepared_file_is_fitting_the_data(call, tmp_path, words, epochs):
    np.save(tmp_path / "x.npy", X)
    write_dataset(load_data(tmp_path / "x.npy"), tmp_path / "x.safetensors")
    found = []
    for name in ("x.npy", "x.safetensors"):
        code, out, err = call("fit", *words, name, *epochs, "--out", f"run-{name}", "--evaluate", "likelihood,energy", "--seed", 3, "--json")
        assert code == 0, err
        found.append(json.loads(out))
    assert found[0]["evaluation"] == found[1]["evaluation"]
    assert found[0]["evaluation"]["metrics"]
    assert found[0]["sampling"]["n"] == 256
    assert (tmp_path / "run-x.npy" / "model.safetensors").read_bytes() == (tmp_path / "run-x.safetensors" / "model.safetensors").read_bytes()
    configs = [json.loads((tmp_path / f"run-{name}" / "config.json").read_text())["data"] for name in ("x.npy", "x.safetensors")]
    assert configs[0] == configs[1]
    assert call("evaluate", "run-x.npy", "x.safetensors", "--metrics", "quick", "--seed", 3)[0] == 0
    again = json.loads((tmp_path / "run-x.npy" / "evaluation.json").read_text())["metrics"]
    assert again[0]["value"] == found[0]["evaluation"]["metrics"][0]["value"], "the test split of the prepared file is that of the original"


def test_files_that_hold_no_data_set_are_refused(tmp_path):
    path = tmp_path / "data.safetensors"
    save_file({"x": torch.zeros(3, 2)}, path)
    with pytest.raises(InvalidInput, match="no data set that manykin prepared"):
        load_data(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InvalidInput, match="truncated or no safetensors file"):
        load_data(path)
    write_dataset(load_data(X), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(InvalidInput, match="truncated"):
        load_data(path)
    for old, new, message in [
        (b'\\"format\\": 1', b'\\"format\\": 9', "format 9; this version reads up to 1"),
        (b'\\"space\\": \\"Vector\\"', b'\\"space\\": \\"Vektor\\"', "space 'Vektor' is not known"),
        (b'\\"size\\": 3', b'\\"size\\": 4', r"expected \(n, 4\)"),
        (b"train/x", b"frain/x", "no training rows"),
    ]:
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(InvalidInput, match=message) as caught:
            load_data(path)
        assert "\n" not in str(caught.value)
    broken = load_data(X.copy())
    broken.train.x[5, 1] = math.nan
    write_dataset(broken, path)
    with pytest.raises(InvalidInput, match="row 5"):
        load_data(path)
    with pytest.raises(InvalidInput, match="could not be written"):
        write_dataset(load_data(X), tmp_path / "nowhere" / "data.safetensors")


def test_what_was_prepared_cannot_be_asked_for_otherwise(tmp_path):
    plain, conditional = tmp_path / "plain.safetensors", tmp_path / "towns.safetensors"
    write_dataset(load_data(FRAME), plain)
    write_dataset(load_data(FRAME, condition="town"), conditional)
    assert load_data(conditional, condition="town").condition == load_data(conditional, condition=True).condition == load_data(conditional).condition
    with pytest.raises(InvalidInput, match="prepared without one"):
        load_data(plain, condition="town")
    with pytest.raises(InvalidInput, match="prepared with label or town"):
        load_data(conditional, condition="children")
    with pytest.raises(InvalidInput, match=r"data\.val does not apply"):
        load_data(plain, options={"val": 0.3})
    assert len(load_data(plain, options={"max_rows": 50}).train) < 200


# Comparisons.


class Own(Gaussian):
    """A model that is in no table."""


class Failing(Gaussian):
    """A model of nobody's table whose learning ends at once."""

    def phases(self):
        raise TypeError("no phases\nat all")


class Mute(Gaussian):
    """A density that cannot draw, and does not say why."""

    def _sample(self, n, condition, sampler):
        raise ValueError


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A small comparison: a classical model, a config, a network, a refusal."""
    folder = tmp_path_factory.mktemp("compare") / "first"
    models = ["gaussian", GaussianMixture.config_class(n_components=2), "realnvp"]
    lines = []
    result = mk.compare(models, X, metrics="quick", preset="tiny", max_steps=20, out=folder, seed=1, progress=lines.append)
    return result, folder, lines


def test_a_comparison_and_its_folder(compared):
    result, folder, lines = compared
    assert [row.model for row in result.rows] == ["gaussian", "gaussian-mixture", "realnvp"]
    assert [line.split(":")[0] for line in lines] == ["gaussian", "gaussian-mixture", "realnvp"]
    assert json.loads((folder / "compare.json").read_text()) == json.loads(json.dumps(result.to_json()))
    asked = json.loads((folder / "comparison.json").read_text())
    assert asked["models"][1]["options"]["n_components"] == 2
    assert asked["data"]["sha256"] == write_dataset(read_dataset(folder / "data.safetensors"), folder.parent / "again.safetensors")
    assert asked["threads"] == torch.get_num_threads()
    assert load_file(folder / "real.safetensors")["x"].shape == (30, 3)
    for row in result.rows:
        assert row.error is None
        assert {"nll", "energy_distance", "energy_distance_floor"} <= {metric.name for metric in row.metrics}
        assert row.metric("energy_distance_floor").value == result.rows[0].metric("energy_distance_floor").value, "one ruler for all"
        assert (row.runs[0].folder, row.runs[0].seed, row.seeds) == (row.model, 1, (1,))
        assert row.seconds > 0
        assert row.sampling_seconds > 0
        assert row.sampling_n == 256
        assert 1e7 < row.peak_memory_bytes < 1e11
        assert (folder / row.model / "model.safetensors").is_file()
        assert json.loads((folder / row.model / "evaluation.json").read_text())["model"] == row.model
    assert result.row("gaussian-mixture").parameters < 40
    assert result.row("realnvp").steps == 20
    config = json.loads((folder / "gaussian-mixture" / "config.json").read_text())
    assert config["model"]["config"]["n_components"] == 2


def test_runs_of_a_comparison_are_the_runs_that_fit_makes(compared):
    _, folder, _ = compared
    fitted = mk.fit("realnvp", folder / "data.safetensors", preset="tiny", max_steps=20, seed=1)
    stored = mk.from_pretrained(folder / "realnvp")
    assert torch.equal(fitted.model.sample(5, seed=0), stored.model.sample(5, seed=0))


def test_the_flat_table(compared):
    result, _, _ = compared
    frame = result.to_frame()
    assert set(frame["model"]) == {"gaussian", "gaussian-mixture", "realnvp"}
    line = frame[(frame["model"] == "realnvp") & (frame["metric"] == "nll")].iloc[0]
    nll = result.row("realnvp").metric("nll")
    assert (line["value"], line["stderr"], line["strength"], line["n"], line["steps"]) == (nll.value, nll.stderr, nll.strength, nll.n, 20)
    failed = Comparison("x", (Row("kde", "x", error="too few rows"),)).to_frame()
    assert failed["error"].tolist() == ["too few rows"]
    assert "realnvp" in str(result)


def test_resuming_keeps_what_is_done_and_refuses_another_setup(compared):
    result, folder, _ = compared
    mixture = GaussianMixture.config_class(n_components=2)
    models = ["gaussian", mixture, "realnvp"]
    before = {path: path.stat().st_mtime_ns for path in (folder / "logs").glob("*.txt")}
    again = mk.compare(models, X, metrics="quick", preset="tiny", max_steps=20, out=folder, seed=1, resume=True)
    assert json.loads(json.dumps(again.to_json())) == json.loads(json.dumps(result.to_json()))
    assert {path: path.stat().st_mtime_ns for path in (folder / "logs").glob("*.txt")} == before, "no run was started again"
    same = {"metrics": "quick", "preset": "tiny", "max_steps": 20, "seed": 1}
    for changes, given, data, key in [
        ({"max_steps": 21}, models, X, "budget.max_steps = 20, now 21"),
        ({"seed": 2}, models, X, "seeds"),
        ({"preset": "default"}, models, X, "preset"),
        ({"metrics": "energy"}, models, X, "metrics"),
        ({}, models, X + 1e-9, "data.sha256"),
        ({}, ["gaussian", "gaussian-mixture", "realnvp"], X, "models"),
    ]:
        with pytest.raises(CheckpointMismatch, match=key):
            mk.compare(given, data, **{**same, **changes}, out=folder, resume=True)
    with pytest.raises(InvalidInput, match="--resume to go on, or --force"):
        mk.compare(models, X, out=folder)


def test_repeating_gives_the_same_numbers(compared, tmp_path):
    result, folder, _ = compared
    again = mk.compare(like=folder, out=tmp_path / "again")
    for row, other in zip(result.rows, again.rows, strict=True):
        assert row.metrics == other.metrics
        assert row.steps == other.steps
    assert again.row("realnvp").curve[0]["energy_distance"] == result.row("realnvp").curve[0]["energy_distance"]
    with pytest.raises(InvalidInput, match="leave models and data out"):
        mk.compare(["gaussian"], X, like=folder)
    with pytest.raises(CheckpointMismatch, match="is missing"):
        mk.compare(like=tmp_path)


def test_a_script_without_a_guard_works_and_leaves_nothing(tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('the folder of a script is no place to import from')")
    script = tmp_path / "folder" / "script.py"
    script.parent.mkdir()
    script.write_text(
        "import numpy as np\nimport manykin as mk\nprint('began')\nX = np.random.default_rng(0).normal(size=(100, 2))\n"
        "result = mk.compare(['box'], X, metrics='quick')\nprint(result.rows[0].error, len(result.rows[0].metrics) > 2, result.folder)\n"
    )
    (tmp_path / "scratch").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["began", "None True None"], done.stderr
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_class_that_no_process_can_build_is_fitted_here(tmp_path):
    result = mk.compare([Own, Failing, Own], X, metrics="quick", out=tmp_path / "c")
    assert [row.model for row in result.rows] == ["Own", "Failing", "Own-2"]
    assert "in the process of the comparison" in result.row("Own").warnings[0]
    assert result.row("Own").metric("nll").value == result.row("Own-2").metric("nll").value
    assert result.row("Failing").error == "no phases"
    with pytest.raises(InvalidInput, match="'Own' is in no table"):
        mk.compare(like=tmp_path / "c")
    again = mk.compare([Own, Failing, Own], X, metrics="quick", out=tmp_path / "c", resume=True)
    assert again.row("Own").metrics == result.row("Own").metrics


def test_a_model_that_cannot_draw_keeps_its_likelihood(tmp_path):
    with pytest.warns(ManykinWarning, match="is fitted, but cannot draw samples: ValueError"):
        result = mk.compare([Mute, Own], X, metrics="quick", out=tmp_path / "c")
    row, own = result.rows
    assert row.error is None
    assert row.metric("nll").value == own.metric("nll").value
    assert row.metric("energy_distance") is None
    assert (row.sampling_seconds, row.sampling_n) == (None, None)
    assert own.sampling_n == 256
    told = "the speed of sampling is not known, for the model cannot draw: ValueError. Test it with: manykin check."
    assert told in row.warnings
    assert told in json.loads((tmp_path / "c" / "Mute" / "evaluation.json").read_text())["warnings"]
    assert [line["draws/s"] for line in shown(table_of(result)) if line["model"] == "Mute"] == [""]
    assert json.loads((tmp_path / "c" / "compare.json").read_text())[0]["sampling_seconds"] is None


def shown(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def tampered(folder, out, file="comparison.json", **changes):
    """A copy of a comparison with other values in one of its JSON files; a key holds its path with two underscores."""
    shutil.copytree(folder, out)
    content = json.loads((out / file).read_text())
    for key, value in changes.items():
        *path, last = [int(part) if part.isdecimal() else part for part in key.strip("_").split("__")]
        inner = content
        for part in path:
            inner = inner[part]
        inner[last] = value
    (out / file).write_text(json.dumps(content))
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models__0__label": "../escaped"}, r"models\[0\]\.label = \"\.\./escaped\""),
        ({"models__2__label": ".."}, r"models\[2\]\.label"),
        ({"models__0__label": ""}, r"models\[0\]\.label"),
        ({"models__0__label": 3}, r"models\[0\]\.label"),
        ({"models__0__label": "realnvp"}, "different labels"),
        ({"models": {}}, "models = {}"),
        ({"models__1__options": [1]}, r"models\[1\]\.options"),
        ({"seeds": [0, "../1"]}, "seeds = "),
        ({"seeds": [True]}, "seeds = "),
        ({"steps": {"realnvp": "20"}}, "steps = "),
        ({"budget__max_steps": "20"}, "budget = "),
        ({"metrics": "quick"}, "metrics = "),
        ({"n": 0}, "n = 0"),
        ({"threads": 10**9}, "threads = 1000000000"),
        ({"format": "1"}, "format = "),
        ({"data__sha256": None}, "data = "),
        ({"data__sha256": "0" * 64}, r"data\.sha256 = \"0000"),
    ],
)
def test_a_folder_that_was_changed_is_not_repeated(compared, tmp_path, changes, message):
    like = tampered(compared[1], tmp_path / "like", **changes)
    with pytest.raises(CheckpointMismatch, match=message) as caught:
        mk.compare(like=like, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert {entry.name for entry in tmp_path.iterdir()} == {"like"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models__0__name": "os"}, "'os' is not known"),
        ({"models__1__options": {"n_componnents": 2}}, "Did you mean 'n_components'"),
        ({"metrics": ["standart"]}, "standart"),
        ({"budget__max_time": -1.0}, r"train\.max_time"),
        ({"features": "net.pt"}, r'asks for features = "net\.pt".* --features net\.pt'),
        ({"features": "owner/net"}, "--features owner/net"),
        ({"features": "own:3; x"}, "--features 'own:3; x'"),
    ],
)
def test_a_folder_that_asks_for_what_cannot_be_is_not_repeated(compared, tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=message):
        mk.compare(like=tampered(compared[1], tmp_path / "like", **changes), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_features_of_a_folder_are_loaded_only_where_they_are_named_again(compared, tmp_path, monkeypatch, call):
    interpreter(monkeypatch, tmp_path, "exit 1")
    like = tampered(compared[1], tmp_path / "like", features="net.pt")
    code, out, err = call("compare", "--like", "like", "--out", "out")
    assert (code, out, "--features net.pt" in err) == (2, "", True)
    assert call("compare", "--like", "like", "--out", "out", "--features", "other.pt")[0] == 2
    code, _, err = call("compare", "--like", "like", "--out", "out", "--features", "net.pt")
    assert (code, "no model could be compared" in err) == (1, True), "it went on to fit"
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["features"] == "net.pt"
    with pytest.raises(InvalidInput, match="leave them out to repeat it"):
        mk.compare(like=compared[1], features="net.pt")
    models = ["gaussian", GaussianMixture.config_class(n_components=2), "realnvp"]
    with pytest.raises(CheckpointMismatch, match='features = "net.pt", now "own"'):
        mk.compare(models, X, metrics="quick", preset="tiny", max_steps=20, out=like, seed=1, resume=True)


def test_data_that_were_exchanged_are_not_used(compared, tmp_path):
    like = tampered(compared[1], tmp_path / "like")
    write_dataset(with_test(load_data(X + 1), 1), like / "data.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"data\.sha256"):
        mk.compare(like=like, out=tmp_path / "out")
    models = ["gaussian", GaussianMixture.config_class(n_components=2), "realnvp"]
    with pytest.raises(CheckpointMismatch, match=r"data\.sha256"):
        mk.compare(models, X, metrics="quick", preset="tiny", max_steps=20, out=like, seed=1, resume=True)
    steps = tampered(compared[1], tmp_path / "steps", "compare.json", **{"_2__runs__0__max_steps": "20"})
    with pytest.raises(CheckpointMismatch, match='max_steps = "20"'):
        mk.compare(like=steps, out=tmp_path / "out")


def test_replacing_a_comparison_removes_nothing_outside_of_it(compared, tmp_path, monkeypatch):
    interpreter(monkeypatch, tmp_path, "exit 1")
    shutil.copytree(compared[1] / "gaussian", tmp_path / "run")
    inner = tampered(compared[1], tmp_path / "run" / "c", "compare.json", **{"_0__model": "..", "_1__model": ""})
    mk.compare(["box"], X, out=inner, force=True)
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert not (inner / "realnvp").exists()
    assert [name for name in ("a", "a-2", "", ".", "..", "../a", "/a", "a/b", "a\\b", "a\0", None) if is_plain(name)] == ["a", "a-2"]


def test_a_run_notices_that_its_comparison_is_gone():
    wait = "print('ready', flush=True)\nwhile True:\n    time.sleep(0.01)"
    code = f"import time\nfrom manykin.comparison.children import end_with_parent\nend_with_parent()\n{wait}"
    environment = {**os.environ, WATCH: "1"}
    words = [sys.executable, "-c", code]
    run = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    try:
        assert run.stdout.readline() == "ready\n"
        time.sleep(0.2)
        assert run.poll() is None, "it runs on while the pipe is open"
        assert "KeyboardInterrupt" in run.communicate(timeout=30)[1]
    finally:
        run.kill()
        run.wait()


def test_an_interpreter_without_a_path_fits_here(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    row = mk.compare(["box"], X, metrics="quick").rows[0]
    assert row.error is None
    assert "in the process of the comparison" in row.warnings[0]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("kill -9 $$", "killed (SIGKILL), by the system for lack of memory or by hand"),
        ("kill -SEGV $$", "crashed (SIGSEGV)"),
        ("echo 'manykin: error: Training diverged.' >&2; echo noise >&2; exit 1", "Training diverged."),
        ("echo Traceback >&2; echo 'ZeroDivisionError: x' >&2; exit 3", "ended with code 3: ZeroDivisionError: x"),
        ("echo '{\"half\":'; exit 0", "it left no result"),
    ],
)
def test_whatever_ends_a_run_is_a_row(monkeypatch, tmp_path, body, error):
    interpreter(monkeypatch, tmp_path, body)
    result = mk.compare(["gaussian", "box"], X, out=tmp_path / "c")
    assert [error in row.error for row in result.rows] == [True, True]
    assert not any("\n" in row.error for row in result.rows)
    assert [row["error"] for row in json.loads((tmp_path / "c" / "compare.json").read_text())] == [row.error for row in result.rows]
    assert "failed: gaussian" in str(result)


def test_where_all_fail_the_command_shows_them_and_fails(monkeypatch, tmp_path, call):
    interpreter(monkeypatch, tmp_path, "echo 'manykin: error: no memory.' >&2; exit 1")
    code, out, err = call("compare", "gaussian", "box", "--data", "two-moons", "--out", "c")
    assert code == 1
    assert "failed: gaussian: no memory." in out
    assert err.splitlines()[-1] == "manykin: error: no model could be compared; the first reason is no memory. All logs are in c/logs."
    code, out, err = call("compare", "gaussian", "--data", "two-moons", "--out", "c", "--force", "--json", "--csv", "c.csv")
    assert (code, json.loads(out)[0]["error"]) == (1, "no memory.")
    assert "no memory." in (tmp_path / "c.csv").read_text()
    assert not (tmp_path / "c" / "logs" / "box.txt").exists()


def test_an_interruption_ends_the_run_and_says_how_to_go_on(monkeypatch, tmp_path, call):
    interpreter(monkeypatch, tmp_path, f"trap 'touch {tmp_path}/saved; exit 130' INT\ntouch {tmp_path}/began\nwhile true; do sleep 0.05; done")

    def interrupt():
        while not (tmp_path / "began").exists():
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, out, err = call("compare", "gaussian", "box", "--data", "two-moons", "--out", "c")
    thread.join()
    assert (code, out) == (130, "")
    assert (tmp_path / "saved").exists()
    assert "Interrupted at gaussian, with 0 of 2 models done" in err
    assert err.splitlines()[-1].endswith("Go on with: manykin compare gaussian box --data two-moons --out c --resume")
    interpreter(monkeypatch, tmp_path, "exit 1")
    assert call("compare", "gaussian", "box", "--data", "two-moons", "--out", "c", "--resume")[0] == 1


def test_folders_that_are_no_comparison_are_left_alone(tmp_path, monkeypatch):
    interpreter(monkeypatch, tmp_path, "exit 1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for more in ({"force": True}, {"resume": True}):
        with pytest.raises(InvalidInput, match="left alone"):
            mk.compare(["gaussian"], X, out=tmp_path / "mine", **more)
    assert (tmp_path / "mine" / "letter.txt").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot be made|exists and is not empty"):
        mk.compare(["gaussian"], X, out=tmp_path / "file" / "c")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"max_time": -1.0}, r"train\.max_time"),
        ({"max_steps": 0}, r"train\.max_steps"),
        ({"metrics": "standart"}, "standart"),
        ({"seeds": 0}, "seeds = 0"),
        ({"seeds": [1, 1]}, "different seeds"),
        ({"seeds": [-1]}, "seed -1"),
        ({"n": 0}, "n = 0"),
        ({"features": print}, "features is a builtin_function_or_method"),
        ({"resume": True}, "give out"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_fitted(more, message):
    with pytest.raises(InvalidInput, match=message):
        mk.compare(["gaussian"], X, **more)


def test_wrong_models_and_data():
    for models in ([], None):
        with pytest.raises(InvalidInput, match="no models"):
            mk.compare(models, X)
    with pytest.raises(InvalidInput, match="no data"):
        mk.compare(["gaussian"])
    assert [each.label for each in candidates(["box", "box", Gaussian, "gaussian", Own])] == ["box", "box-2", "gaussian", "gaussian-2", "Own"]
    assert [each.name for each in candidates([Gaussian, Own])] == ["gaussian", None]
    assert (seeds_of(5, None), seeds_of(5, 3), seeds_of(5, [2, 9])) == ((5,), (5, 6, 7), (2, 9))


# Numbers.


def estimate(value, stderr=0.3, name="nll", **more):
    return Estimate(name, value, stderr, "nats", more.pop("strength", "exact"), 100, **more)


def test_means_over_seeds_combine_both_sources_of_chance():
    found = mean_over_seeds([estimate(1.0, 0.3, note="k = 5"), estimate(2.0, 0.4, note="k = 5"), estimate(3.0, 0.5, note="k = 5")], 3)
    assert found.value == pytest.approx(2.0)
    assert found.stderr == pytest.approx(math.sqrt((0.09 + 0.16 + 0.25) / 3 + 1.0 / 3))
    assert found.note == "k = 5; mean of 3 seeds, standard deviation 1 between them"
    assert mean_over_seeds([estimate(1.0), estimate(math.inf, None, note="2 of 100 rows outside the support")], 2).value == math.inf
    assert mean_over_seeds([estimate(1.0, None), estimate(1.5, None)], 3).stderr == pytest.approx(math.sqrt(0.125 / 2))
    assert mean_over_seeds([estimate(1.0)], 3).note == "1 of 3 seeds only"


def p_value(value, tells=True):
    return Estimate("mmd_p", value, None, "p-value", "estimate", 100, quantity=SAMPLES, tells=tells)


def test_p_values_of_several_seeds_become_one_that_is_valid():
    found = mean_over_seeds([p_value(0.001), p_value(0.002), p_value(0.4)], 3)
    assert found.value == pytest.approx(0.003)
    assert found.stderr is None
    assert found.note == "the smallest of the p-values of 3 seeds, 0.001, times 3: a p-value again"
    assert mean_over_seeds([p_value(0.7), p_value(0.9)], 2).value == 1.0
    assert mean_over_seeds([p_value(0.03)], 2).value == 0.03
    assert mean_over_seeds([p_value(0.7), p_value(0.9, False)], 2).tells is False
    u, n, level = np.random.default_rng(0).uniform(size=4000), 4000, 0.1
    for other in (u, 1 - u, np.where(u <= level, level - u, u)):
        merged = np.array([mean_over_seeds([p_value(float(a)), p_value(float(b))], 2).value for a, b in zip(u, other, strict=True)])
        assert np.mean(merged <= level) < level + 4 * math.sqrt(level * (1 - level) / n)


def test_one_seed_that_is_told_apart_is_enough():
    def row(values):
        runs = [Run(f"m-{seed}", seed, 1.0, 1, 1, (p_value(value),)) for seed, value in enumerate(values)]
        merged = mean_over_seeds([each.metrics[0] for each in runs], len(runs))
        return Row("m", "x", (merged, dataclasses.replace(p_value(0.5), name="mmd_p_floor")), runs=tuple(runs))

    found = {values: row(values).standing(row(values).metrics[0]) for values in [(0.4, 0.3, 0.2), (0.001, 0.001, 0.4), (0.06,)]}
    assert list(found.values()) == ["as good", "worse", "as good"]


def test_the_error_of_a_mean_over_seeds_is_honest():
    """Simulated: k seeds share their test rows; the mean's true spread is what the formula says on average."""
    rng, k, test, between = np.random.default_rng(0), 3, 0.2, 0.5
    means, squares = [], []
    for _ in range(4000):
        shared = test * rng.normal()
        found = mean_over_seeds([estimate(float(shared + between * rng.normal()), test) for _ in range(k)], k)
        means.append(found.value)
        squares.append(found.stderr**2)
    expected = test**2 + between**2 / k
    error = expected * math.sqrt(2 / 4000)
    assert abs(np.var(means) - expected) < 4 * error
    assert abs(np.mean(squares) - expected) < 4 * np.std(squares) / math.sqrt(4000)


def outcome(value, steps=10, **more):
    metrics = [estimate(value).to_json()]
    return {
        "seconds": 2.0, "steps": steps, "max_steps": 20, "parameters": 7, "peak_memory_bytes": 100 + steps, "density": "exact",
        "evaluation": {"metrics": metrics, "warnings": ["few rows: get more."]}, "sampling": {"n": 256, "seconds": 0.5}, **more,
    }  # fmt: skip


def test_a_row_of_several_seeds_survives_a_seed_that_fails():
    outcomes = [outcome(1.0), None, outcome(3.0, 30)]
    runs = [run_of(f"m-seed{seed}", seed, found, "it diverged.") for seed, found in enumerate(outcomes)]
    row = row_of("m", "x", runs, outcomes, ["a note"], "classical")
    assert (row.error, row.metric("nll").value, row.steps, row.peak_memory_bytes, row.seeds) == (None, 2.0, 20, 130, (0, 1, 2))
    assert row.warnings == ("a note", "seed 1 failed and is left out of the means: it diverged.", "few rows: get more.")
    assert [run.error for run in row.runs] == [None, "it diverged.", None]
    assert row_of("m", "x", runs[1:2], [None], [], "").error == "it diverged."
    mute = [{**outcome(1.0), "sampling": None}, outcome(3.0)]
    row = row_of("m", "x", [run_of("m", seed, each, None) for seed, each in enumerate(mute)], mute, [], "")
    assert (row.sampling_seconds, row.sampling_n) == (0.5, 256)


def test_infinite_losses_come_back_from_json():
    for value, note in ((math.inf, "2 of 360 rows outside the support"), (math.inf, "")):
        assert revived(estimate(value, None, note=note).to_json()).value == math.inf
    assert math.isnan(revived(estimate(math.nan, None).to_json()).value)


def test_quality_against_time_reads_what_training_left(tmp_path):
    data = dataclasses.replace(load_data(X), test=Rows(torch.as_tensor(X[:100])))
    (tmp_path / "samples").mkdir()
    good, bad = torch.as_tensor(X[100:164]), torch.as_tensor(X[100:164] + 5)
    for step, x in ((0, bad), (10, good), (15, torch.full((64, 3), math.nan, dtype=torch.float64)), (20, good)):
        save_file({"x": x}, tmp_path / "samples" / f"{step}.safetensors")
    save_file({"x": good}, tmp_path / "samples" / "final.safetensors")
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps({"step": step, "seconds": step / 10}) for step in (5, 10, 18)) + "\n")
    curve = Ruler(data, 0).curve(tmp_path)
    assert [(point["step"], point["seconds"]) for point in curve] == [(0, 0.0), (10, 1.0), (20, 1.8)]
    assert curve[0]["energy_distance"] > 1 > curve[1]["energy_distance"] == curve[2]["energy_distance"]
    assert Ruler(data, 0).curve(tmp_path / "nowhere") == ()


def drawn(value, name="energy_distance", stderr=0.01, tells=None):
    return Estimate(name, value, stderr, "", "estimate", 100, quantity=SAMPLES, tells=tells)


EXACT = "Exact likelihood of log p(x)"
BOUND = "Bound on log p(x): the true value is at least as good as the number"
WITHOUT = "No comparable likelihood: judged by samples only"


def claiming():
    """Rows of three groups, among them an impossible and an infinite claim, a tie, and one that failed."""
    floor = drawn(0.0, "energy_distance_floor")
    return Comparison("x", (
        Row("vae", "x", (estimate(1.0, strength="bound"), drawn(0.5), floor)),
        Row("broken", "x", (estimate(0.0), estimate(-5.0, name="kl_gap"), drawn(0.01), drawn(0.0, "energy_distance_floor", tells=False))),
        Row("box", "x", (estimate(math.inf, None, note="2 rows outside the support"),)),
        Row("flow", "x", (estimate(2.4),)),
        Row("kde", "x", (estimate(2.0), drawn(0.01), floor)),
        Row("slow", "x", (estimate(9.0),)),
        Row("gan", "x", (drawn(0.9), floor)),
        Row("dead", "x", error="too few rows."),
    ))  # fmt: skip


def test_each_row_says_what_it_may_claim(tmp_path):
    comparison = dataclasses.replace(claiming(), folder=tmp_path)
    comparison.write()
    rows = {row["model"]: row["claims"] for row in json.loads((tmp_path / "compare.json").read_text())}
    flagged = rows["broken"].pop("flags")
    assert len(flagged) == 1
    assert flagged[0].startswith("impossible: ")
    assert rows == {
        "vae": {"group": BOUND, "rank_in_group": 1, "tied_with_best": False, "flags": []},
        "broken": {"group": EXACT, "rank_in_group": None, "tied_with_best": False},
        "box": {"group": EXACT, "rank_in_group": None, "tied_with_best": False, "flags": []},
        "flow": {"group": EXACT, "rank_in_group": 2, "tied_with_best": True, "flags": []},
        "kde": {"group": EXACT, "rank_in_group": 1, "tied_with_best": False, "flags": []},
        "slow": {"group": EXACT, "rank_in_group": 3, "tied_with_best": False, "flags": []},
        "gan": {"group": WITHOUT, "rank_in_group": 1, "tied_with_best": False, "flags": []},
        "dead": {"group": None, "rank_in_group": None, "tied_with_best": False, "flags": []},
    }
    raw = Comparison("x", (Row("a", "x", (estimate(1.0, strength="unnormalised"),)), Row("b", "x", (estimate(2.0, strength="unnormalised"),))))
    assert [row["claims"]["rank_in_group"] for row in raw.to_json()] == [None, None]
    frame = comparison.to_frame()
    distances = frame[frame["metric"] == "energy_distance"].set_index("model")["as_good_as_real"]
    assert distances.to_dict() == {"vae": "no", "broken": "cannot tell", "kde": "yes", "gan": "no"}
    assert set(frame[frame["metric"] == "nll"]["as_good_as_real"]) == {""}
    assert set(frame[frame["model"] == "broken"]["flags"]) == {flagged[0]}


def test_the_terminal_shows_each_group_by_itself(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    table = table_of(claiming())
    assert [(section.title.split(";")[0], [row[0] for row in section.rows]) for section in table.sections] == [
        (EXACT, ["kde", "flow", "slow", "box", "broken"]), (BOUND, ["vae"]), (WITHOUT, ["gan"]),
    ]  # fmt: skip
    marked = {line["model"]: line["energy distance"] for line in shown(table)}
    assert (marked["kde"], marked["broken"], marked["vae"]) == ("0.01 ± 0.01*", "0.01 ± 0.01?", "0.50 ± 0.01")
    below = "\n".join(table.below)
    assert "* as good as real: " in below
    assert "? cannot be told: at this size" in below
    assert "vae (bound 1.00 ± 0.30) is better than kde (exact 2.00 ± 0.30): a bound that beats" in below
    assert "? cannot be told" not in "\n".join(table_of(Comparison("x", claiming().rows[4:])).below)
    show_comparison(Output(Settings(), sys.stdout), claiming())
    lines = capsys.readouterr().out.splitlines()
    heads = [place for place, line in enumerate(lines) if line.startswith("model ")]
    assert len(heads) == 3
    assert len({lines[place] for place in heads}) == 1, "the columns of all groups stand below each other"
    assert lines.index(f"{BOUND}:") < heads[1] < lines.index(f"{WITHOUT}:") < heads[2]
    text = str(claiming()).splitlines()
    assert text.index(BOUND) < next(place for place, line in enumerate(text) if line.startswith("vae"))


def test_the_table_groups_by_strength_and_marks_what_is_as_good_as_real():
    floor = drawn(0.0, "energy_distance_floor")
    rows = (
        Row("vae", "x", (estimate(1.0, strength="bound"), drawn(0.5), floor), seconds=3.0, sampling_seconds=0.1, sampling_n=256, parameters=10),
        Row("kde", "x", (estimate(2.0), drawn(0.01), floor), seconds=1.0, warnings=("same",), family="classical"),
        Row("gan", "x", (drawn(0.9), floor), seconds=1.0, warnings=("same", "other")),
        Row("box", "x", error="too few rows."),
    )
    table = table_of(Comparison("x", rows))
    assert [line[0] for line in table.rows] == ["kde", "vae", "gan"]
    assert table.columns[:4] == ("model", "likelihood, nats", "strength", "energy distance")
    assert table.rows[0][1:4] == ("2.0 ± 0.3", "exact", "0.01 ± 0.01*")
    assert table.rows[1][2:4] == ("bound", "0.50 ± 0.01")
    assert table.rows[2][1] == "none"
    below = "\n".join(table.below)
    assert "failed: box: too few rows." in below
    assert "not ranked against each other" in below
    assert below.count("same") == 1
    assert "warning (kde, gan): same" in below
    assert deduplicated([("a", "x"), ("b", "x"), ("a", "x")]) == ["warning (a, b): x"]
    assert deduplicated([("a", "x 1.5 %"), ("b", "x 20 %")]) == ["warning (a; with other numbers b): x 1.5 %"]
    assert max(sum(map(len, line)) + 2 * len(line) for line in table_of(Comparison("x", rows), 100).rows) <= 100
    assert "draws/s" not in table_of(Comparison("x", rows), 80).columns


# Evaluation on the command line.


def test_samples_of_another_generator_are_judged_beside_data(call, tmp_path):
    np.save(tmp_path / "real.npy", X)
    np.save(tmp_path / "drawn.npy", X[:100] + 3)
    code, out, err = call("evaluate", "drawn.npy", "real.npy", "--metrics", "quick", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["model"] == "samples (drawn.npy)"
    metrics = {each["name"]: each["value"] for each in found["metrics"]}
    assert metrics["energy_distance"] > 1
    assert metrics["energy_distance_floor"] < 0.3
    code, _, err = call("evaluate", "drawn.npy")
    assert code == 2
    assert "real data too" in err
    code, out, err = call("evaluate", "drawn.npy", "real.npy", "--metrics", "quick")
    assert (code, err) == (0, "")
    line = next(line for line in out.splitlines() if line.startswith("energy_distance"))
    assert " worse" in line
    assert "energy_distance_floor" not in out


def test_evaluating_on_other_data_leaves_the_runs_own_evaluation_alone(call, tmp_path):
    np.save(tmp_path / "own.npy", X)
    np.save(tmp_path / "other set.npy", X[:60] + 0.5)
    assert call("fit", "gaussian", "own.npy", "--out", "run", "--quiet", "--evaluate", "quick")[0] == 0
    before = (tmp_path / "run" / "evaluation.json").read_text()
    assert call("evaluate", "run", "own.npy", "--metrics", "quick")[0] == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"] == json.loads(before)["metrics"]
    assert call("evaluate", "run", "other set.npy", "--metrics", "energy")[0] == 0
    other = json.loads((tmp_path / "run" / "evaluation-other-set.json").read_text())
    assert other["data"] == "other set.npy"
    assert "nll" not in {each["name"] for each in other["metrics"]}
    code, _, err = call("evaluate", "run", "own.npy", "--sampler", "heun")
    assert (code, "heun" in err) == (2, True)
    code, _, err = call("evaluate", "run", "own.npy", "--metrics", "enrgy")
    assert (code, "Did you mean 'energy'?" in err) == (2, True)


def test_options_of_a_file_reach_the_model_exactly(call, tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "options.json").write_text(json.dumps({"model": {"n_components": 3, "tol": 0.1 + 0.2}, "train": {"max_steps": 4}}))
    code, out, err = call("fit", "gaussian-mixture", "x.npy", "--options", "options.json", "--model.n_components", "2", "--dry-run", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["model"]["config"]["n_components"] == 2
    assert found["model"]["config"]["tol"] == 0.1 + 0.2
    assert found["training"]["max_steps"] == 4
    for text, fragment in (("{", "cannot be read"), ("[1]", "no object"), ('{"modle": {}}', "Did you mean 'model'?")):
        (tmp_path / "options.json").write_text(text)
        code, _, err = call("fit", "gaussian-mixture", "x.npy", "--options", "options.json", "--dry-run")
        assert (code, fragment in err) == (2, True), err
    code, _, err = call("fit", "gaussian", "x.npy", "--evaluate.n", "5", "--dry-run")
    assert (code, "--evaluate.n needs --evaluate LEVEL" in err) == (2, True)
    code, _, err = call("fit", "gaussian", "x.npy", "--evaluate", "quick", "--evaluate.n", "0", "--dry-run")
    assert (code, "evaluate.n" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["gaussian", "--data", "digits", "--like", "x"], "leave"),
        (["--like", "x", "--max-steps", "3"], "leave --max-steps out"),
        (["gaussian", "--data", "digits", "--resume"], "--out"),
        (["gaussian", "--data", "digits", "--resume", "--force", "--out", "x"], "--force"),
        (["gaussian", "--data", "digits", "--seeds", "three"], "'three'"),
        (["gaussian", "--data", "digits", "--seeds", "0"], "'0'"),
        (["gaussian", "--data", "digits", "--csv", "."], "--csv"),
        (["--like", "nowhere"], "comparison.json is missing"),
    ],
)
def test_wrong_calls_of_compare(call, words, fragment):
    code, out, err = call("compare", *words)
    assert code in (1, 2)
    assert out == ""
    assert fragment in err.splitlines()[-1]


# Slow.


def killed_child(folder, label):
    """Kill the process that writes a run, once it has logged a few steps."""
    path = folder / label / ".lock"
    log = folder / label / "metrics.jsonl"
    end = time.monotonic() + 300
    while not (log.exists() and len(log.read_text().splitlines()) > 8):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(int(path.read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_goes_on_from_its_checkpoint(tmp_path):
    options = {"metrics": "quick", "preset": "tiny", "max_steps": 3000}
    thread = threading.Thread(target=killed_child, args=(tmp_path / "c", "realnvp"))
    thread.start()
    first = mk.compare(["realnvp", "gaussian"], X, **options, out=tmp_path / "c")
    thread.join()
    assert "SIGKILL" in first.row("realnvp").error
    assert first.row("gaussian").error is None
    second = mk.compare(["realnvp", "gaussian"], X, **options, out=tmp_path / "c", resume=True)
    whole = mk.compare(["realnvp", "gaussian"], X, **options)
    assert second.row("realnvp").error is None
    assert [row.metrics for row in second.rows] == [row.metrics for row in whole.rows]
    assert second.row("realnvp").steps == 3000
    assert (tmp_path / "c" / "logs" / "realnvp.txt").read_text().count("$ manykin fit") == 2


@pytest.mark.slow
def test_three_seeds_and_a_repetition_by_steps_give_equal_numbers(tmp_path):
    first = mk.compare(["realnvp", "gan"], "two-moons", preset="tiny", max_time=2.0, metrics="quick", seeds=3, out=tmp_path / "a")
    assert [run.error for row in first.rows for run in row.runs] == [None] * 6
    again = mk.compare(like=tmp_path / "a", out=tmp_path / "b")
    assert [run.error for row in again.rows for run in row.runs] == [None] * 6
    for row, other in zip(first.rows, again.rows, strict=True):
        assert row.seeds == (0, 1, 2)
        assert [one.steps for one in row.runs] == [one.steps for one in other.runs]
        assert [one.metrics for one in row.runs] == [one.metrics for one in other.runs]
        assert row.metrics == other.metrics
        assert "mean of 3 seeds" in row.metric("energy_distance").note
        values = [one.metrics for one in row.runs]
        assert values[0] != values[1]
        assert row.curve[0]["step"] == 0
        assert row.curve[-1]["energy_distance"] < row.curve[0]["energy_distance"]


ENDLESS = ["compare", "vae", "--data", "digits", "--max-steps", "1000000", "--preset", "tiny", "--metrics", "quick", "--out", "c"]


@pytest.mark.slow
def test_children_stop_where_the_comparison_is_killed(tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "manykin", *ENDLESS], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "c" / "vae" / "metrics.jsonl"
    end = time.monotonic() + 300
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.kill()
    process.communicate(timeout=60)
    log = tmp_path / "c" / "logs" / "vae.txt"
    while "Go on with" not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.1)
    assert any(path.name.isdigit() and int(path.name) > 0 for path in (tmp_path / "c" / "vae" / "checkpoints").iterdir())


@pytest.mark.slow
def test_children_stop_where_the_comparison_is_terminated(tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "manykin", *ENDLESS], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "c" / "vae" / "metrics.jsonl"
    end = time.monotonic() + 300
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.1)
    child = int((tmp_path / "c" / "vae" / ".lock").read_text())
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in err
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert any(path.name.isdigit() and int(path.name) > 0 for path in (tmp_path / "c" / "vae" / "checkpoints").iterdir())
