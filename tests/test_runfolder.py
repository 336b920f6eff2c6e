import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import manykin as mk
from manykin.errors import CheckpointMismatch, InvalidInput, TrainingFailed
from manykin.spaces import Vector
from manykin.training import RunFolder, TrainOptions, describe_model, load_weights, train
from manykin.training.layout import FORMAT
from training_models import blobs, build


def finished(path, name="TinyMixture"):
    data = blobs()
    model = build(name, data)
    train(model, data, TrainOptions(max_steps=3), run=RunFolder.create(path))
    return model, RunFolder(path)


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_layout_and_config(tmp_path):
    model, run = finished(tmp_path / "runs/deep/x")
    assert {path.name for path in run.path.iterdir()} == {"config.json", "model.safetensors", "checkpoints", "metrics.jsonl", "samples", ".lock"}
    assert {"0.safetensors", "3.safetensors"} <= {path.name for path in run.samples_dir.iterdir()}
    assert {path.name for path in run.checkpoints.iterdir()} == {"2", "3", "last"}
    config = run.read_config()
    assert (config["format"], config["seed"], config["sizes"]) == (FORMAT, 0, {"rows": 7})
    assert config["model"] == {"name": "TinyMixture", "config": model.config.to_json()}
    assert config["space"] == {"space": "Vector", "size": 2, "levels": None, "step": None, "low": None, "names": None}
    assert config["training"]["max_steps"] == 3
    assert config["versions"].keys() == {"manykin", "torch", "python"}
    assert config["result"].keys() == {"steps", "seconds", "stopped", "parameters", "peak_memory_bytes"}
    assert config["result"]["peak_memory_bytes"] > 1e6
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    assert run.begun
    assert run.finished
    assert run.model_file.stat().st_mode == (run.path / "config.json").stat().st_mode
    for path in run.path.rglob("*.safetensors"):
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert all(entry["dtype"] in ("F32", "F64", "I64") for name, entry in header.items() if name != "__metadata__")
    others = {path.name for path in run.path.rglob("*") if path.is_file() and path.suffix != ".safetensors"}
    assert others == {"config.json", "metrics.jsonl", "state.json", "last", ".lock"}


def test_loading_is_constructing_and_filling(tmp_path):
    model, run = finished(tmp_path / "run")
    again = build("TinyMixture", blobs(), seed=1)
    run.fill_model(again)
    assert again.sizes == {"rows": 7}
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(model.sample(5, seed=0), again.sample(5, seed=0))


def test_an_existing_run_is_refused_then_replaced_and_nothing_else_is_removed(tmp_path):
    _, run = finished(tmp_path / "run")
    (run.path / "notes.txt").write_text("mine")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("mine")
    shutil.rmtree(run.path / "samples")
    (run.path / "samples").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidInput, match="run exists; give another --out, --resume to go on, or --force to replace"):
        RunFolder.create(run.path)
    with pytest.raises(InvalidInput, match="expected one of them"):
        RunFolder.create(run.path, force=True, resume=True)
    RunFolder.create(run.path, force=True)
    assert {path.name for path in run.path.iterdir()} == {"notes.txt", ".lock"}
    assert (tmp_path / "outside/file").read_text() == "mine"


@pytest.mark.parametrize("option", ["force", "resume"])
@pytest.mark.parametrize("content", [{"photo.png": "x"}, {"config.json": "{}"}, {"config.json": "[1]"}, {"config.json": "{", "a": ""}])
def test_a_folder_of_something_else_is_never_touched(option, content, tmp_path):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    before = snapshot(tmp_path)
    with pytest.raises(InvalidInput, match="is not a run folder: it holds"):
        RunFolder.create(tmp_path, **{option: True})
    assert snapshot(tmp_path) == before


def test_a_file_and_an_unwritable_place_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInput, match="is a file; expected a folder"):
        RunFolder.create(tmp_path / "file")
    with pytest.raises(InvalidInput, match="cannot be written"):
        RunFolder.create(tmp_path / "file/run")
    with pytest.raises(InvalidInput, match="cannot be written"):
        RunFolder.create("/proc/run")


def test_an_empty_folder_is_used_whatever_is_said(tmp_path):
    for option in ({}, {"force": True}, {"resume": True}):
        RunFolder.create(tmp_path, **option).release()
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_two_writers_exclude_each_other(tmp_path):
    code = f"from manykin.training import RunFolder; r = RunFolder.create({str(tmp_path / 'run')!r}); print('has', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "has\n"
    with pytest.raises(InvalidInput, match=f"is being written by process {other.pid}"):
        RunFolder.create(tmp_path / "run", resume=True)
    other.kill()
    other.wait()
    run = RunFolder.create(tmp_path / "run", resume=True)
    assert run.locked
    with pytest.raises(InvalidInput, match=f"process {os.getpid()}"):
        RunFolder.create(tmp_path / "run", resume=True)
    run.release()
    RunFolder.create(tmp_path / "run", resume=True)
    other.stdin.close()
    other.stdout.close()


def edit(run, change):
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(format=FORMAT + 1), f"has format {FORMAT + 1}; this version reads up to {FORMAT}: install a newer manykin"),
        (lambda c: c.pop("space"), "key 'space' is missing"),
        (lambda c: c.pop("sizes"), "key 'sizes' is missing"),
        (lambda c: c.update(trainning={}), "key 'trainning' is unknown. Did you mean 'training'"),
        (lambda c: c.update(seed="x"), "key 'seed' is \"x\"; expected int"),
        (lambda c: c.update(model="gaussian"), "key 'model' is \"gaussian\"; expected dict"),
        (lambda c: c["model"].pop("config"), r"key 'model\.config' is missing"),
        (lambda c: c["model"]["config"].update(depth=3), r"key 'model\.config\.depth' is unknown to TinyMixture"),
        (lambda c: c["model"]["config"].update(components=4), r"key 'model\.config\.components' is 4; this model has 3"),
        (lambda c: c["model"]["config"].pop("epochs"), r"key 'model\.config\.epochs' is null"),
        (lambda c: c["space"].update(size=3), "key 'space' is .*this model has"),
        (lambda c: c.update(condition=3), "key 'condition' is 3; expected dict"),
        (lambda c: c.update(result=[1]), r"key 'result' is \[1\]; expected dict"),
        (lambda c: c.update(versions="1"), "key 'versions' is \"1\"; expected dict"),
        (lambda c: c.update(preset=1), "key 'preset' is 1; expected str"),
        (lambda c: c.update(transform=[1]), r"key 'transform' is \[1\]; expected a list of names"),
        (lambda c: c["sizes"].update(rows=-1), r"key 'sizes\.rows' is -1"),
        (lambda c: c["sizes"].update(rows=8), r"tensor 'start_rows' is \[7, 2\]; this model needs \[8, 2\]"),
        (lambda c: c["sizes"].update(rows=10**15), r"sizes\.rows = 1000000000000000 in config\.json does not fit"),
        (lambda c: c["training"].update(learning_rate=1), "train.learning_rate is not an option"),
        (lambda c: c["training"].update(lr=-1), "train.lr = -1 is not allowed"),
    ],
)
def test_a_foreign_config_is_refused_by_its_key(change, message, tmp_path):
    _, run = finished(tmp_path / "run")
    edit(run, change)
    with pytest.raises(CheckpointMismatch, match=message) as caught:
        run.fill_model(build("TinyMixture", blobs()))
    assert "\n" not in str(caught.value)


def test_a_config_too_large_for_the_weights_is_refused_before_memory_is_taken(tmp_path):
    model, run = finished(tmp_path / "run", "NoisyFlow")
    again = run.load_model(lambda: type(model)(model.config, model.space))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    huge = type(model.config)(width=10**13)
    with pytest.raises(CheckpointMismatch, match=r"tensor 'nets\.0\.0\.weight' is \[16, 1\]; this model needs \[10000000000000, 1\]"):
        run.load_model(lambda: type(model)(huge, model.space))


def test_notes_are_free(tmp_path):
    _, run = finished(tmp_path / "run")
    run.update_config({"note_author": "me"})
    assert run.read_config()["note_author"] == "me"
    with pytest.raises(InvalidInput, match="key 'author' is unknown"):
        run.update_config({"author": "me"})


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "is missing"),
        ("", "truncated or damaged"),
        ('{"a": 1', "truncated or damaged"),
        ("[]", "holds a list"),
        ("[" * 100_000, "truncated or damaged"),
    ],
)
def test_a_damaged_config_is_named(text, message, tmp_path):
    _, run = finished(tmp_path / "run")
    path = run.path / "config.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(CheckpointMismatch, match=rf"config\.json .*{message}"):
        run.read_config()


def test_damaged_and_tampered_weights_are_named(tmp_path):
    model, run = finished(tmp_path / "run")
    good, tensors = run.model_file.read_bytes(), load_file(run.model_file)
    model = build("TinyMixture", blobs())
    means = model.means.clone()
    for cut in (0, 5, 100, len(good) // 2, len(good) - 1):
        run.model_file.write_bytes(good[:cut])
        with pytest.raises(CheckpointMismatch, match="model.safetensors cannot be read: it is truncated or damaged"):
            run.fill_model(model)
    run.model_file.write_bytes((10**15).to_bytes(8, "little") + good[8:])
    with pytest.raises(CheckpointMismatch, match="truncated or damaged"):
        run.fill_model(model)
    changes = {
        "has no tensor 'means'": {key: value for key, value in tensors.items() if key != "means"},
        "holds the tensor 'extra'": {**tensors, "extra": torch.zeros(1)},
        r"tensor 'means' is float32\[3, 2\]; this model needs float64\[3, 2\]": {**tensors, "means": tensors["means"].float()},
        r"tensor 'means' is float64\[2, 3\]": {**tensors, "means": tensors["means"].T.contiguous()},
    }
    for message, changed in changes.items():
        save_file(changed, run.model_file)
        with pytest.raises(CheckpointMismatch, match=message):
            run.fill_model(model)
    run.model_file.unlink()
    with pytest.raises(CheckpointMismatch, match="model.safetensors is missing"):
        run.fill_model(model)
    assert torch.equal(model.means, means)


def test_a_model_of_another_space_is_refused(tmp_path):
    _, run = finished(tmp_path / "run")
    model = build("TinyMixture", blobs())
    other = type(model)(None, Vector(3))
    with pytest.raises(CheckpointMismatch, match="key 'space'"):
        run.fill_model(other)
    with pytest.raises(CheckpointMismatch, match=r"tensor 'counts'|tensor 'sums'|tensor"):
        load_weights(other, run.model_file, {"rows": 7})


def test_metrics_forgive_a_last_line_cut_short_only(tmp_path):
    _, run = finished(tmp_path / "run")
    lines = run.metrics_file.read_text()
    run.metrics_file.write_text(lines[:-5])
    assert [line["step"] for line in run.metrics()] == [1, 2]
    run.metrics_file.write_text("{\n" + lines)
    with pytest.raises(CheckpointMismatch, match="line 1 is damaged"):
        run.metrics()
    run.metrics_file.unlink()
    assert run.metrics() == []


def test_tied_and_strided_weights_are_written_whole(tmp_path):
    data = blobs()
    model = build("NoisyFlow", data)
    model.nets[1][0].weight = model.nets[0][0].weight
    with torch.no_grad():
        model.nets[0][3].weight.data = model.nets[0][3].weight.data.T.contiguous().T
    train(model, data, TrainOptions(max_steps=4, ema=0.5), run=RunFolder.create(tmp_path / "run"))
    again = build("NoisyFlow", data, seed=1)
    RunFolder(tmp_path / "run").fill_model(again)
    assert torch.equal(again.nets[1][0].weight, model.nets[0][0].weight)
    assert torch.equal(again.nets[0][3].weight, model.nets[0][3].weight)


def test_a_disk_that_refuses_is_one_line(tmp_path, monkeypatch):
    from manykin.training import files

    model, run = finished(tmp_path / "run")
    before = snapshot(run.path)

    def full(descriptor, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    for call in (lambda: run.update_config({"note": 1}), lambda: run.write_card("# card")):
        with pytest.raises(TrainingFailed, match="could not be written: No space left on device") as caught:
            call()
        assert "\n" not in str(caught.value)
    monkeypatch.undo()

    def broken(*args, **kwargs):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(files, "save_file", broken)
    with pytest.raises(TrainingFailed, match="Disk quota exceeded"):
        run.save_model(model)
    assert snapshot(run.path) == before


def test_description_is_json(tmp_path):
    model, run = finished(tmp_path / "run")
    described = describe_model(model)
    assert json.loads(json.dumps(described)) == described
    run.write_card("# A card\n")
    assert (run.path / "README.md").read_text() == "# A card\n"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained")
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    for name in ("gaussian", "realnvp", "kde", "gan", "independent"):
        mk.fit(name, x, preset="tiny", max_steps=2).save_pretrained(path / name)
    return path


def space(**values):
    return lambda config: config.update(space=values)


DAMAGED = [
    ("gaussian", space(space="Record"), "key 'space' .*expected 'fields' alone"),
    ("gaussian", space(space="Table", columns=[3]), r"key 'space' .*space\.columns\[0\] is 3"),
    ("gaussian", lambda c: c["space"].update(size="2"), r"key 'space' .*space\.size is '2'; expected an integer"),
    ("gaussian", lambda c: c["space"].update(size=10**40), r"key 'space' .*space\.size is 1000.*; expected an integer"),
    ("gaussian", lambda c: c["space"].pop("space"), "key 'space' .*None is not known"),
    ("gaussian", lambda c: c.update(condition=3), "key 'condition' is 3; expected dict"),
    ("gaussian", lambda c: c.update(condition={"space": "Labels"}), "key 'condition' .*condition has no key 'classes'"),
    ("gaussian", lambda c: c.update(condition={"space": "Labels", "classes": 10**12}), "key 'condition' asks for 1000000000000 entries"),
    ("gaussian", lambda c: c.update(result=[1]), "key 'result'"),
    ("gaussian", lambda c: c.update(form={"kind": "sculpture"}), "key 'form' .*'sculpture' is not known"),
    ("gaussian", lambda c: c["model"].update(name="gausian"), r"key 'model\.name' .*gausian"),
    ("gaussian", lambda c: c["model"]["config"].update(depth=3), r"key 'model\.config' .*depth is not an option"),
    ("kde", lambda c: c.update(sizes={}), "key 'sizes' in config.json has no 'rows'"),
    ("realnvp", lambda c: c["model"]["config"].update(layers=10**14), r"key 'model\.config\.layers' asks for 100000000000000 entries"),
    ("realnvp", lambda c: c["model"]["config"].update(layers=100_000), r"key 'model\.config' in config.json makes more than \d+ tensors"),
    ("realnvp", space(space="Image", size=[1, 3000, 3000]), "key 'space' asks for 9000000 entries; the .* stored numbers allow at most 1000000"),
    ("realnvp", space(space="Image", size=[3, 512, 512]), r"has no tensor 'transform\..*which this model needs"),
    ("gan", space(space="Image", size=[1, 300, 300]), r"tensor .* is \[.*this model needs"),
    ("independent", space(space="Vector", size=5_000_000, levels=4), "key 'space' asks for 5000000 entries"),
    ("independent", space(space="Image", size=[1, 9, 9], levels=10**9, ordinal=False), "key 'space' asks for 1000000000 entries"),
]


@pytest.mark.parametrize("name, change, message", DAMAGED)
def test_a_damaged_description_is_one_line_and_quick(name, change, message, pretrained, tmp_path):
    run = RunFolder(shutil.copytree(pretrained / name, tmp_path / "run"))
    mk.from_pretrained(run.path)
    edit(run, change)
    start = time.process_time()
    with pytest.raises(CheckpointMismatch, match=message) as caught:
        mk.from_pretrained(run.path)
    assert time.process_time() - start < 5
    assert "\n" not in str(caught.value)
