"""The whole way on real data: fit, sample, evaluate, complete, report, resume, compare, demo; and run folders that are damaged or foreign."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from manykin.cli.run import run


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a command line in this process, in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def go(*words):
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


@pytest.fixture
def works(call):
    """Run a command that has to succeed, and return what its JSON says."""

    def go(*words):
        code, out, err = call(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    return go


def refused(result, *fragments, code=2):
    found, out, err = result
    assert (found, out) == (code, ""), err
    assert err.splitlines()[-1].startswith("manykin: error: ")
    for fragment in fragments:
        assert str(fragment) in err.splitlines()[-1]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of the Gaussian on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "gaussian"
    assert run(["fit", "gaussian", "digits", "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def digits_run(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def table(tmp_path):
    """A small mixed table on disk."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 300)
    frame = pd.DataFrame({"height": rng.normal(170 + 8 * kind, 5), "kind": np.array(["cat", "dog"])[kind], "count": rng.integers(0, 4, 300)})
    frame.to_csv(tmp_path / "pets.csv", index=False)
    return tmp_path / "pets.csv"


def test_fit_leaves_a_run_folder_and_never_overwrites(call, works, tmp_path):
    first = works("fit", "gaussian", "digits")
    assert first["run"] == "runs/digits-gaussian"
    assert first["model"] == "gaussian"
    assert first["steps"] >= 1
    assert {"config.json", "model.safetensors", "metrics.jsonl", "README.md"} <= {path.name for path in (tmp_path / first["run"]).iterdir()}
    assert works("fit", "gaussian", "digits")["run"] == "runs/digits-gaussian-2"
    refused(call("fit", "gaussian", "digits", "--out", first["run"], "--quiet"), first["run"], "--force")
    assert works("fit", "gaussian", "digits", "--out", first["run"], "--force")["run"] == first["run"]


def test_human_words_of_fit_name_the_next_steps(call):
    code, out, err = call("fit", "gaussian", "digits")
    assert code == 0, err
    assert "run folder: runs/digits-gaussian" in out
    assert "manykin sample runs/digits-gaussian" in out
    assert "\x1b" not in out + err
    assert call("fit", "gaussian", "digits", "--quiet")[1:] == ("", "")


def test_one_seed_one_result_and_options_reach_the_run(works, tmp_path):
    words = ["fit", "gaussian-mixture", "digits", "--model.n_components", "3", "--max-steps", "5", "--seed", "4"]
    runs = [works(*words)["run"] for _ in range(2)]
    configs = [json.loads((tmp_path / each / "config.json").read_text()) for each in runs]
    assert configs[0]["model"]["config"]["n_components"] == 3
    assert configs[0]["seed"] == 4
    weights = [(tmp_path / each / "model.safetensors").read_bytes() for each in runs]
    assert weights[0] == weights[1]


def test_sample_writes_beside_the_run_under_free_names(call, works, digits_run):
    first = works("sample", digits_run, "-n", 5, "--seed", 1)
    second = works("sample", digits_run, "-n", 5, "--seed", 1)
    assert (first["n"], first["seed"]) == (5, 1)
    assert first["file"] != second["file"]
    assert Path(first["file"]).read_bytes() == Path(second["file"]).read_bytes()
    assert Path(first["file"]).is_relative_to(digits_run)


def test_sample_to_a_file(call, works, digits_run, tmp_path):
    works("sample", digits_run, "-n", 7, "--seed", 1, "--out", "drawn.npy")
    drawn = np.load(tmp_path / "drawn.npy")
    assert drawn.shape == (7, 8, 8)
    assert drawn.dtype == np.uint8
    refused(call("sample", digits_run, "--out", "drawn.npy"), "drawn.npy", "--force")
    works("sample", digits_run, "-n", 2, "--out", "drawn.npy", "--force")
    assert len(np.load(tmp_path / "drawn.npy")) == 2
    refused(call("sample", digits_run, "--out", "drawn.xyz"), "drawn.xyz")
    refused(call("sample", digits_run, "--out", tmp_path / "drawn.npy" / "inside.npy"), "inside.npy", code=2)


def test_sample_refuses_what_the_model_does_not_take(call, digits_run):
    refused(call("sample", digits_run, "--condition", "label=3"), "label=3", "without")
    refused(call("sample", digits_run, "--sampler", "heun"), "heun")
    refused(call("sample", digits_run, "--sampler.steps", "3"), "--sampler.steps", "only one way to sample")


def test_conditional_run(call, works, tmp_path):
    made = works("fit", "gaussian", "digits", "--condition", "label")["run"]
    works("sample", made, "-n", 50, "--condition", "label=0", "--seed", 0, "--out", "zeros.npy")
    works("sample", made, "-n", 50, "--condition", "1", "--seed", 0, "--out", "ones.npy")
    centre = [np.load(tmp_path / f"{name}.npy")[:, 3:5, 3:5].mean() for name in ("zeros", "ones")]
    assert centre[0] + 3 < centre[1], "a zero is hollow and a one is not"
    refused(call("sample", made, "--condition", "label=ten"), "'ten'", "0, 1, 2")
    assert works("evaluate", made)["model"] == "gaussian"


def test_small_tables_are_printed(call, works, table):
    made = works("fit", "mixture", table)["run"]
    rows = works("sample", made, "-n", 4, "--seed", 0)["rows"]
    assert len(rows) == 4
    assert set(rows[0]) == {"height", "kind", "count"}
    assert {row["kind"] for row in rows} <= {"cat", "dog"}
    code, out, err = call("sample", made, "-n", 4, "--seed", 0)
    assert (code, err) == (0, "seed 0\n")
    assert str(rows[0]["kind"]) in out
    assert max(map(len, out.splitlines())) <= 80


def test_complete_fills_gaps_and_keeps_the_rest(call, works, table, tmp_path):
    made = works("fit", "mixture", table)["run"]
    gaps = pd.DataFrame({"height": [180.0, None, 165.0], "kind": ["dog", "cat", None], "count": [1, 2, None]})
    gaps.to_csv(tmp_path / "gaps.csv", index=False)
    works("complete", made, "--known", "gaps.csv", "--seed", 0, "--out", "full.csv")
    full = pd.read_csv(tmp_path / "full.csv")
    assert not full.isna().any().any()
    assert full["height"][[0, 2]].tolist() == [180.0, 165.0]
    assert full["kind"][[0, 1]].tolist() == ["dog", "cat"]
    refused(call("complete", made, "--known", "none.csv"), "none.csv")
    (tmp_path / "x.docx").touch()
    refused(call("complete", made, "--known", "x.docx"), ".docx")
    (tmp_path / "half.npy").write_bytes(b"\x93NUMPY\x01")
    refused(call("complete", made, "--known", "half.npy"), "half.npy", "cannot be read")


def test_evaluate_with_and_without_data(call, works, digits_run, table):
    found = works("evaluate", digits_run)
    assert {"model", "data", "metrics"} <= set(found) <= {"model", "data", "metrics", "warnings", "details"}
    metrics = {each["name"]: each for each in found["metrics"]}
    assert {"nll", "bits_per_dim"} <= set(metrics)
    assert set(metrics["nll"]) >= {"name", "value", "stderr", "unit", "strength", "n", "note"}
    assert 2.4 < metrics["bits_per_dim"]["value"] < 4.1, "between the floor of independent columns and uniform noise"
    assert json.loads((digits_run / "evaluation.json").read_text()) == found
    assert works("evaluate", digits_run, "digits")["metrics"] == found["metrics"]
    code, out, err = call("evaluate", digits_run)
    assert (code, err) == (0, "")
    assert "bits_per_dim" in out
    assert max(map(len, out.splitlines())) <= 80
    own = works("fit", "mixture", table)["run"]
    refused(call("evaluate", own), "manykin evaluate RUN DATA")
    assert works("evaluate", own, table)["metrics"]
    refused(call("evaluate", digits_run, table))


def test_report_is_one_page(works, call, digits_run):
    page = Path(works("report", digits_run)["report"])
    assert page == digits_run / "report.html"
    assert "<html" in page.read_text()[:2000].lower()
    code, out, _ = call("report", digits_run)
    assert code == 0
    assert page.as_uri() in out
    (digits_run.parent / "empty").mkdir()
    refused(call("report", digits_run.parent / "empty"), "empty", code=call("report", digits_run.parent / "empty")[0])


def test_resume_of_a_finished_run_says_so_and_changes_nothing(call, digits_run):
    before = (digits_run / "model.safetensors").read_bytes()
    code, _, err = call("fit", "gaussian", "digits", "--out", digits_run, "--resume")
    assert code == 0, err
    assert (digits_run / "model.safetensors").read_bytes() == before


def test_resume_refuses_another_model_seed_or_data(call, digits_run):
    refused(call("fit", "box", "digits", "--out", digits_run, "--resume", "--quiet"), "model", code=1)
    refused(call("fit", "gaussian", "digits", "--seed", 1, "--out", digits_run, "--resume", "--quiet"), "seed", code=1)
    refused(call("fit", "gaussian", "two-moons", "--out", digits_run, "--resume", "--quiet"), "space", code=1)


def test_force_leaves_folders_alone_that_are_no_runs(call, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    assert call("fit", "gaussian", "digits", "--out", "thesis", "--force", "--quiet")[0] == 2
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


@pytest.mark.parametrize("verb", [["sample"], ["evaluate"], ["check"], ["complete", "--known", "gaps.npy"]], ids=lambda verb: verb[0])
@pytest.mark.parametrize(
    "damage", ["truncated weights", "no weights", "half a config", "unknown option", "unknown model", "newer format", "key gone", "other model"]
)
def test_damaged_run(call, digits_run, verb, damage, tmp_path):
    np.save(tmp_path / "gaps.npy", np.zeros((1, 8, 8)))
    weights, config = digits_run / "model.safetensors", digits_run / "config.json"
    content = json.loads(config.read_text())
    fragment = {
        "truncated weights": "model.safetensors", "no weights": "model.safetensors", "half a config": "config.json", "unknown option": "colour",
        "unknown model": "oracle", "newer format": "format", "key gone": "space", "other model": "",
    }[damage]  # fmt: skip
    if damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "half a config":
        config.write_text(config.read_text()[:50])
    elif damage == "unknown option":
        content["model"]["config"]["colour"] = 1
    elif damage == "unknown model":
        content["model"]["name"] = "oracle"
    elif damage == "newer format":
        content["format"] = 1000
    elif damage == "key gone":
        del content["space"]
    else:
        content["model"] = {"name": "box", "config": {}}
    if damage not in ("truncated weights", "no weights", "half a config"):
        config.write_text(json.dumps(content))
    refused(call(verb[0], digits_run, *verb[1:]), fragment, code=1)


def test_no_permission_to_write(call, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    code, out, err = call("fit", "gaussian", "digits", "--out", "locked", "--quiet")
    assert (code in (1, 2), out) == (True, "")
    assert err.startswith("manykin: error: ")
    assert err.count("\n") == 1
    assert "locked" in err
    assert "ermission denied" in err


def test_out_below_a_file(call, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = call("fit", "gaussian", "digits", "--out", "file/run", "--quiet")
    assert code in (1, 2)
    assert err.startswith("manykin: error: ")
    assert "file" in err


def test_check_of_a_model_and_of_a_run(call, works, digits_run):
    found = works("check", "gaussian")
    assert found["passed"] is True
    assert len(found["checks"]) > 20
    code, out, _ = call("check", digits_run)
    assert code == 0, out
    assert " 0 failed" in out
    assert max(map(len, out.splitlines())) <= 80


def test_check_that_fails_exits_with_one(call, monkeypatch):
    import manykin.testing
    from manykin.testing.core import CheckReport, Row

    rows = (
        Row("mass-is-one", "density", False, 0.1, "the mass is 1.2", None, "vector"),
        Row("seeds-decide", "sampling", True, 0.2, "", None, "vector"),
    )
    monkeypatch.setattr(manykin.testing, "check", lambda model, level, waive: CheckReport(model, rows))
    code, out, _ = call("check", "gaussian")
    assert code == 1
    assert "FAILED mass-is-one on vector: the mass is 1.2" in out
    assert json.loads(call("check", "gaussian", "--json")[1])["passed"] is False


def test_compare(call, works, tmp_path):
    words = ["compare", "independent", "gaussian", "gan", "--data", "two-moons", "--preset", "tiny", "--max-steps", 5, "--metrics", "quick"]
    found = works(*words, "--out", "race")
    assert [each["model"] for each in found] == ["independent", "gaussian", "gan"]
    assert all({"data", "metrics", "seconds", "parameters", "peak_memory_bytes", "error"} <= set(each) for each in found)
    assert json.loads((tmp_path / "race" / "compare.json").read_text()) == found
    assert {"nll", "kl_gap"} <= {metric["name"] for metric in found[0]["metrics"]}
    refused(call(*words, "--out", "race"), "race", "--force")
    code, out, _ = call(*words, "--out", "race", "--force")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert (tmp_path / "race" / "gan" / "model.safetensors").is_file()


def test_a_model_that_cannot_take_the_data_becomes_a_row_with_its_error(works, table):
    found = {
        each["model"]: each
        for each in works("compare", "mixture", "realnvp", "--data", table, "--max-steps", 5, "--preset", "tiny", "--metrics", "quick")
    }
    assert found["mixture"]["error"] is None
    assert "realnvp" in found["realnvp"]["error"] or "Vector" in found["realnvp"]["error"]


def test_demo(works, tmp_path):
    found = works("demo", "--max-time", "3s", "--out", "show", "--metrics", "quick")
    families = {each["model"] for each in found["models"] if each["error"] is None}
    assert {"independent", "gaussian-mixture", "realnvp", "vae", "gan"} <= families
    assert Path(found["report"]).is_file()
    assert found["folder"] == "show"


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)


def logged_steps(run_folder):
    path = run_folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n") and "step" in json.loads(line)]


def test_interrupted_run_is_saved_and_goes_on(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ["fit", "vae", "digits", "--max-steps", "1000000", "--out", "run", "--preset", "tiny", "--train.log_every", "5"]
    reached = 0
    for resume in ([], ["--resume"]):
        call = [sys.executable, "-m", "manykin", *words, *resume]
        process = subprocess.Popen(call, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: max(logged_steps(tmp_path / "run"), default=0) > reached, 60)  # noqa: B023
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, ""), err
        last = err.splitlines()[-1]
        assert last.startswith("manykin: Interrupted at step ")
        assert "saved in run" in last
        assert last.endswith(f"Go on with: manykin {shlex.join(words)} --resume")
        saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit())
        assert saved > reached
        reached = saved


def test_evaluation_of_nothing_fails_in_one_line(call, tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(50, 2)))
    result = call("evaluate", "a.npy", "a.npy", "--metrics", "likelihood")
    refused(result, "nothing could be computed", "likelihood does not apply: samples have no density", code=1)
