"""How the command line reads calls, and how it refuses them: one line, the right exit code, nothing on standard output."""

import json
import os
import signal
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from manykin.cli import options as cli_options
from manykin.cli.run import run
from manykin.config import options
from manykin.data import DataOptions
from manykin.errors import InvalidInput, ManykinWarning
from manykin.models import get, names
from manykin.training import TrainOptions


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a command line in this process, in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def go(*words):
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


def refused(result, *fragments, code=2):
    """A refusal is one line on standard error that holds the fragments."""
    found, out, err = result
    assert (found, out) == (code, ""), err
    assert err.startswith("manykin: error: ")
    assert err.count("\n") == 1
    for fragment in fragments:
        assert str(fragment) in err
    return err


def parts(annotation):
    return get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)


def bad_values(info):
    """Texts that an option must refuse, from its own metadata."""
    kinds = parts(info.type)
    if not any(kind is str or (get_origin(kind) is tuple and get_args(kind)[0] is str) for kind in kinds):
        yield "no such value"
    if int in kinds and float not in kinds and not any(get_origin(kind) in (tuple, Literal) for kind in kinds):
        yield "1.5"
    if (int in kinds or float in kinds) and not any(get_origin(kind) in (tuple, Literal) for kind in kinds):
        yield "nan"
    step = {"ge": -1.0, "gt": 0.0, "le": 1.0, "lt": 0.0}
    for bound, limit in info.bounds.items():
        value = limit + step[bound]
        yield str(int(value)) if value == int(value) and int in kinds else str(value)


def cases(label, config):
    return [(label, info.name, bad) for info in options(config) for bad in bad_values(info)]


@pytest.mark.parametrize("name", names())
def test_wrong_type_or_range_of_every_model_option(call, name):
    tried = cases("model", get(name).config_class)
    for label, field, bad in tried:
        refused(call("fit", name, "digits", f"--{label}.{field}={bad}", "--dry-run"), f"{label}.{field}", "expected")
    assert tried or not options(get(name).config_class)


@pytest.mark.parametrize(("label", "config"), [("train", TrainOptions), ("data", DataOptions)])
def test_wrong_type_or_range_of_every_shared_option(call, label, config):
    for _, field, bad in cases(label, config):
        refused(call("fit", "gaussian", "digits", f"--{label}.{field}", bad, "--dry-run"), f"{label}.{field}", "expected")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["fitt"], ["'fitt'", "Did you mean 'fit'?"]),
        (["fit"], ["MODEL", "manykin fit --help"]),
        (["fit", "gaussian"], ["DATA"]),
        (["fit", "gausian", "digits"], ["'gausian'", "Did you mean 'gaussian'?"]),
        (["fit", "gaussian", "digts"], ["'digts'", "digits"]),
        (["fit", "gaussian", "digits", "--max-stps", "3"], ["--max-stps", "Did you mean '--max-steps'?"]),
        (["fit", "gaussian-mixture", "digits", "--model.component", "3"], ["model.component", "Did you mean"]),
        (["fit", "gaussian", "digits", "--train.max_step", "3"], ["train.max_step", "Did you mean 'max_steps'?"]),
        (["fit", "gaussian", "digits", "--data.nonsense", "3"], ["data.nonsense"]),
        (["fit", "gaussian", "digits", "--model.x"], ["--model.x", "no value"]),
        (["fit", "gaussian", "digits", "--preset", "defalt"], ["'defalt'", "Did you mean 'default'?"]),
        (["fit", "gaussian", "digits", "--max-steps", "0"], ["--max-steps", "0"]),
        (["fit", "gaussian", "digits", "--max-steps", "many"], ["--max-steps", "many"]),
        (["fit", "gaussian", "digits", "--seed", "-1"], ["--seed"]),
        (["fit", "gaussian", "digits", "--seed", "x"], ["--seed"]),
        (["fit", "gaussian", "digits", "--device", "toaster", "--quiet"], ["device", "toaster"]),
        (["fit", "gaussian", "digits", "--precision", "7", "--quiet"], ["precision", "7"]),
        (["fit", "gaussian", "digits", "--condition", "nonsense", "--dry-run"], ["nonsense"]),
        (["fit", "gaussian", "digits", "extra"], ["extra"]),
        (["fit", "gaussian", "digits", "--resume"], ["--out"]),
        (["fit", "gaussian", "digits", "--resume", "--force", "--out", "x"], ["--force"]),
        (["sample", "nowhere"], ["'nowhere'", "run folder"]),
        (["evaluate", "nowhere"], ["'nowhere'"]),
        (["complete", "nowhere", "--known", "x.csv"], ["'nowhere'"]),
        (["complete", "nowhere"], ["--known"]),
        (["report", "nowhere"], ["'nowhere'"]),
        (["check", "gausian"], ["'gausian'", "Did you mean 'gaussian'?"]),
        (["check", "gaussian", "--level", "slow"], ["slow", "fast"]),
        (["check", "gaussian", "--waive", "mass"], ["mass", "CHECK=REASON"]),
        (["compare", "--data", "digits"], ["MODEL"]),
        (["compare", "gaussian"], ["--data"]),
        (["compare", "gausian", "--data", "digits"], ["Did you mean 'gaussian'?"]),
        (["compare", "gaussian", "--data", "digts"], ["'digts'"]),
        (["sample", "nowhere", "-n", "0"], ["-n"]),
        (["demo", "--max-time", "soon"], ["'soon'"]),
    ],
    ids=" ".join,
)
def test_wrong_call(call, words, fragments):
    refused(call(*words), *fragments)


@pytest.mark.parametrize("text", ["", "0", "-5", "0s", "5x", "1h30", "nan", "inf", "s", "1e3"])
def test_nonsense_as_time(call, text):
    refused(call("fit", "gaussian", "digits", f"--max-time={text}"), repr(text), "60s")


@pytest.mark.parametrize(("text", "expected"), [("90", 90.0), ("60s", 60.0), ("1.5m", 90.0), ("2min", 120.0), ("1h", 3600.0), (" 5 s ", 5.0)])
def test_time(text, expected):
    import click

    assert cli_options.duration(click.Context(click.Command("x")), click.Option(["--max-time"]), text) == expected


def test_prefixed_options_are_taken_out_in_both_spellings():
    words = ["realnvp", "--model.hidden-size", "64", "digits", "--train.lr=1e-3", "--seed", "1", "--", "--model.x"]
    rest, fields = cli_options.split_fields(words, ("model", "train", "data"))
    assert rest == ["realnvp", "digits", "--seed", "1", "--", "--model.x"]
    assert fields == {"model": {"hidden_size": "64"}, "train": {"lr": "1e-3"}, "data": {}}


def test_prefixed_option_takes_negative_numbers_and_empty_text():
    assert cli_options.split_fields(["--model.x", "-1", "--model.y="], ("model",)) == ([], {"model": {"x": "-1", "y": ""}})
    with pytest.raises(InvalidInput, match="no value"):
        cli_options.split_fields(["--model.x", "--force"], ("model",))


@pytest.mark.parametrize("name", names())
def test_help_of_fit_lists_the_options_of_the_model(call, name):
    code, out, err = call("fit", name, "--help")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    for config in (get(name).config_class, TrainOptions, DataOptions):
        for info in options(config):
            assert f"--{config.label}.{info.name}" in text


def test_help_comes_without_arguments_and_with_each_verb(call):
    assert call()[1] == call("--help")[1]
    assert "gaussian-mixture" in call("-h")[1]
    assert call("--version")[1].startswith("manykin 0.")


def test_models_as_json(call):
    code, out, err = call("models", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert [each["name"] for each in found] == names()
    for each in found:
        assert set(each) == {"name", "family", "density", "conditional", "spaces", "optional", "paper"}
        assert each["density"] in ("exact", "bound", "estimate", "unnormalised", None)
        assert isinstance(each["conditional"], bool)
        assert each["spaces"]
    by_name = {each["name"]: each for each in found}
    assert by_name["gaussian"]["density"] == "exact"
    assert by_name["gan"]["density"] is None
    assert by_name["vae"]["density"] == "bound"
    assert "complete" in by_name["gaussian-mixture"]["optional"]
    assert "Table with missing values" in by_name["mixture"]["spaces"]


def test_data_as_json(call):
    code, out, err = call("data", "--json")
    found = {each["name"]: each for each in json.loads(out)}
    assert (code, err) == (0, "")
    assert all(set(each) == {"name", "kind", "shape", "n", "available"} for each in found.values())
    assert found["digits"]["n"] == 1797
    assert found["digits"]["available"] is True


@pytest.mark.parametrize("verb", ["models", "data"])
def test_lists_are_readable_in_eighty_columns(call, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call(verb)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    assert call(verb, "--quiet")[1] == ""


def test_a_model_refuses_data_and_names_those_that_can(call, tmp_path):
    (tmp_path / "songs.txt").write_text("one\ntwo\nthree\n" * 20)
    refused(call("fit", "realnvp", "songs.txt"), "realnvp")


def test_dry_run_resolves_and_stops(call, tmp_path):
    code, out, err = call("fit", "realnvp", "digits", "--dry-run", "--json", "--max-steps", "7", "--seed", "3")
    found = json.loads(out)
    assert code == 0, err
    assert found["model"]["name"] == "realnvp"
    assert found["space"]["space"] == "Image"
    assert found["training"]["max_steps"] == 7
    assert found["seed"] == 3
    assert found["parameters"] > 0
    assert found["memory_bytes"] > 4 * found["parameters"]
    assert found["out"] == "runs/digits-realnvp"
    assert call("fit", "realnvp", "digits", "--dry-run")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_free_names_never_collide(tmp_path):
    (tmp_path / "a-b").mkdir()
    (tmp_path / "a-b-2").touch()
    assert cli_options.free_folder("a b", tmp_path) == tmp_path / "a-b-3"
    assert cli_options.free_folder("../..", tmp_path) == tmp_path / "run"
    assert cli_options.data_label("/somewhere/wine.csv") == "wine"
    assert cli_options.data_label("two-moons") == "two-moons"


@pytest.fixture
def fail(monkeypatch):
    """Let the verb ``data`` raise or do something else."""
    import manykin.data

    def install(action):
        monkeypatch.setattr(manykin.data, "data_sets", action)

    return install


def raising(error):
    def action():
        raise error

    return action


def test_unexpected_error_is_one_line_and_a_file(call, fail, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fail(raising(ZeroDivisionError("a\nb")))
    err = refused(call("data"), "unexpected ZeroDivisionError: a b", str(tmp_path), code=1)
    path = err.rstrip(".\n").rsplit(" ", 1)[1]
    assert "ZeroDivisionError" in Path(path).read_text()
    code, _, err = call("data", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_errors_of_the_machine_are_one_line(call, fail):
    fail(raising(PermissionError(13, "Permission denied", "runs/x")))
    refused(call("data"), "'runs/x'", "Permission denied", code=1)
    fail(raising(OSError(28, "No space left on device")))
    refused(call("data"), "No space left on device", code=1)
    fail(raising(MemoryError("cannot allocate")))
    refused(call("data"), "out of memory", code=1)


def test_interrupt_is_silent_and_exits_130(call, fail):
    fail(raising(KeyboardInterrupt()))
    assert call("data") == (130, "", "\nmanykin: interrupted\n")


def test_warnings_are_notes(call, fail):
    def warn():
        warnings.warn("two\nlines", ManykinWarning, stacklevel=1)
        warnings.warn("of a library", UserWarning, stacklevel=1)
        return []

    fail(warn)
    assert call("data", "--json") == (0, "[]\n", "note: two lines\n")
    assert call("data", "--json", "--quiet")[2] == ""
    assert "of a library" in call("data", "--json", "--debug")[2]


def test_json_stands_alone_on_standard_output(call, fail):
    def chatter():
        print("a library talks")
        return []

    fail(chatter)
    assert call("data", "--json") == (0, "[]\n", "a library talks\n")


def test_closed_pipe_is_silent():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "manykin", "data", "--json"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "manykin", "data", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "manykin: error: No space left on device.\n")
