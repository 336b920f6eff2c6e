import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from manykin.errors import CheckpointMismatch, InvalidInput, TrainingFailed
from manykin.training import Interrupted, RunFolder, TrainOptions, train
from manykin.training import trainer as loop
from manykin.training.checkpoint import last_step
from training_models import blobs, build

SCRIPT = str(Path(__file__).with_name("training_script.py"))
CASES = {
    "NoisyFlow": {
        "max_steps": 60,
        "ema": 0.9,
        "schedule": "cosine",
        "warmup": 5,
        "clip": 0.5,
        "patience": 9,
        "eval_every": 7,
        "val": 40,
        "save_every": 7,
    },
    "TinyGan": {"max_steps": 30, "save_every": 4, "batch_size": 50},
    "TinyMixture": {"batch_size": 50, "save_every": 4, "max_steps": 120},
    "CodedGaussian": {"max_steps": 40, "save_every": 6, "batch_size": 70, "ema": 0.9, "optimizer": "muon"},
}


def settle(spec):
    options = dict(spec)
    data = blobs(options.pop("rows", 300), options.pop("val", None))
    return data, TrainOptions.from_json(options)


def begin(name, path, spec, resume=False, **kwargs):
    data, options = settle(spec)
    run = RunFolder.create(path, resume=resume)
    model = build(name, data)
    return model, train(model, data, options, run=run, resume=resume, **kwargs)


def stop_at(step, kind=signal.SIGINT):
    def progress(state):
        if state.step >= step:
            os.kill(os.getpid(), kind)

    return progress


@pytest.fixture
def eager(monkeypatch):
    """Progress is told after every step."""
    from manykin.training import keeper

    class Clock:
        now = 0.0

        def perf_counter(self):
            self.now += 1.0
            return self.now

    monkeypatch.setattr(keeper, "time", Clock())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [1, 11, 23])
def test_interrupted_and_resumed_is_bit_identical(name, step, tmp_path, eager):
    whole, result = begin(name, tmp_path / "whole", CASES[name])
    with pytest.raises(Interrupted, match=rf"step {step} of \d+ and saved in .*--resume goes on from there"):
        begin(name, tmp_path / "parts", CASES[name], progress=stop_at(step))
    assert last_step(tmp_path / "parts" / "checkpoints") == step
    with pytest.raises(Interrupted):
        begin(name, tmp_path / "parts", CASES[name], resume=True, progress=stop_at(step + 2, signal.SIGTERM))
    parts, again = begin(name, tmp_path / "parts", CASES[name], resume=True)
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    assert (result.steps, result.stopped) == (again.steps, again.stopped)

    def plain(lines):
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    assert plain(result.history) == plain(again.history) == plain(RunFolder(tmp_path / "parts").metrics())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_killed_at_any_moment_and_resumed_is_bit_identical(name, tmp_path):
    begin(name, tmp_path / "whole", CASES[name])
    dice, folder, kills = random.Random(name), tmp_path / "killed", 0
    for attempt in range(40):
        # The first attempts are slow while saving, so that kills fall into a save.
        delay = "0.2" if attempt < 4 else "0"
        process = subprocess.Popen([sys.executable, SCRIPT, name, str(folder), json.dumps(CASES[name]), delay], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        if attempt < 4:
            time.sleep(dice.uniform(1.0, 4.0))
            kills += process.poll() is None
            process.kill()
        process.wait()
        process.stdout.close()
        if process.returncode == 0:
            break
    assert kills == 4
    assert process.returncode == 0
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


class Killed(BaseException):
    """Stands for the end of the process."""


def dying(operation, left):
    """The operation, until as many as ``left`` says were begun; all later ones fail like a process that is gone."""

    def wrapped(*args):
        left[0] -= 1
        if left[0] <= 0:
            raise Killed
        return operation(*args)

    return wrapped


@pytest.mark.parametrize(
    "name, stride",
    [("NoisyFlow", 9), ("TinyMixture", 13), *(pytest.param(name, 1, marks=pytest.mark.slow) for name in CASES)],
)
def test_dying_at_a_disk_operation_is_survived(name, stride, tmp_path, monkeypatch):
    spec = {**CASES[name], "max_steps": 12, "save_every": 5}
    begin(name, tmp_path / "whole", spec)
    expected = (tmp_path / "whole/model.safetensors").read_bytes()
    from manykin.training import checkpoint, files

    operations = {"fsync": os.fsync, "rename": os.rename, "replace": os.replace}
    for death in range(1, 1000, stride):
        folder, left = tmp_path / f"dies-{death}", [death]

        with monkeypatch.context() as patch:
            for key, operation in operations.items():
                patch.setattr(os, key, dying(operation, left))
            # A killed process cleans nothing up.
            patch.setattr(files, "remove", lambda path: None)
            patch.setattr(checkpoint, "remove", lambda path: None)
            patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
            try:
                begin(name, folder, spec)
                break
            except Killed:
                pass
        begin(name, folder, spec, resume=True)
        assert (folder / "model.safetensors").read_bytes() == expected, death
    assert death > 20


def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_intact(tmp_path, monkeypatch):
    from manykin.training import checkpoint

    write, calls = checkpoint.write_tensors, []

    def full(path, tensors, metadata=None):
        calls.append(path)
        if len(calls) > 8:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(path, tensors, metadata)

    begin("NoisyFlow", tmp_path / "whole", CASES["NoisyFlow"])
    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(TrainingFailed, match="No space left on device. What was saved before is intact") as caught:
        begin("NoisyFlow", tmp_path / "run", CASES["NoisyFlow"])
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert last_step(tmp_path / "run/checkpoints") == 7
    begin("NoisyFlow", tmp_path / "run", CASES["NoisyFlow"], resume=True)
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_a_file_size_limit_of_the_system_is_one_line(tmp_path):
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000));"
        f"sys.argv = ['x', 'NoisyFlow', {str(tmp_path / 'run')!r}, {json.dumps({'max_steps': 20, 'model': {'width': 200}})!r}];"
        f"runpy.run_path({SCRIPT!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "TrainingFailed" in done.stderr.splitlines()[-1]
    assert "could not be written" in done.stderr.splitlines()[-1]


def test_the_newest_checkpoints_stay(tmp_path):
    begin("TinyGan", tmp_path / "run", {"max_steps": 30, "save_every": 5, "keep_checkpoints": 3})
    assert sorted(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir() if path.is_dir()) == [20, 25, 30]
    assert (tmp_path / "run/checkpoints/last").read_text() == "30\n"


def test_step_zero_is_saved_and_max_time_is_decided_once(tmp_path, monkeypatch):
    spec = {"max_time": 2.0, "schedule": "linear"}
    monkeypatch.setattr(loop.Trainer, "_loop", lambda self: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        begin("NoisyFlow", tmp_path / "run", spec)
    monkeypatch.undo()
    decided = RunFolder(tmp_path / "run").read_config()["training"]["max_steps"]
    assert last_step(tmp_path / "run/checkpoints") == 0
    _, result = begin("NoisyFlow", tmp_path / "run", spec, resume=True)
    assert result.steps == decided > 10
    begin("NoisyFlow", tmp_path / "again", {"max_steps": decided, "schedule": "linear"})
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


def test_resume_on_nothing_starts_and_on_the_end_says_so(tmp_path):
    first, result = begin("TinyMixture", tmp_path / "run", {"max_steps": 5}, resume=True)
    again, told = begin("TinyMixture", tmp_path / "run", {"max_steps": 5}, resume=True)
    assert told.stopped == "finished before"
    assert (told.steps, told.history) == (result.steps, result.history)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("finished", [True, False])
def test_another_time_limit_is_refused_and_the_same_goes_on(finished, tmp_path, monkeypatch):
    spec, run = {"max_time": 20.0, "max_steps": 10}, tmp_path / "run"
    if finished:
        _, whole = begin("NoisyFlow", run, spec)
    else:
        monkeypatch.setattr(loop.Trainer, "_loop", lambda self: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            begin("NoisyFlow", run, spec)
        monkeypatch.undo()
    for change, message in (({"max_time": 30.0}, r"train\.max_time = 20\.0, now 30\.0"), ({"max_steps": 9}, r"train\.max_steps = 10, now 9")):
        with pytest.raises(CheckpointMismatch, match=message):
            begin("NoisyFlow", run, {**spec, **change}, resume=True)
    _, again = begin("NoisyFlow", run, spec, resume=True)
    assert again.steps == 10
    assert again.stopped == ("finished before" if finished else "max_steps")
    if finished:
        assert (again.steps, again.seconds) == (whole.steps, whole.seconds)


@pytest.mark.parametrize(
    "change, message", [({"lr": 0.5}, "train.lr = None, now 0.5"), ({"max_steps": 6}, "max_steps = 5, now 6"), ({"rows": 299}, "other data")]
)
def test_a_finished_run_is_checked_too(change, message, tmp_path):
    begin("NoisyFlow", tmp_path / "run", {"max_steps": 5})
    with pytest.raises(CheckpointMismatch, match=message):
        begin("NoisyFlow", tmp_path / "run", {"max_steps": 5, **change}, resume=True)


def interrupted(tmp_path, name="NoisyFlow"):
    with pytest.raises(Interrupted):
        begin(name, tmp_path / "run", CASES[name], progress=stop_at(10))
    return tmp_path / "run"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lr": 0.5}, "train.lr = None, now 0.5"),
        ({"max_steps": 61}, "train.max_steps = 60, now 61"),
        ({"rows": 299}, "other data"),
        ({"optimizer": "sgd"}, "train.optimizer"),
    ],
)
def test_another_run_is_refused_by_the_key(change, message, tmp_path, eager):
    folder = interrupted(tmp_path)
    with pytest.raises(CheckpointMismatch, match=message):
        begin("NoisyFlow", folder, {**CASES["NoisyFlow"], **change}, resume=True)
    begin("NoisyFlow", folder, {**CASES["NoisyFlow"], "log_every": 3, "keep_checkpoints": 1}, resume=True)


def test_another_seed_model_or_start_is_refused(tmp_path, eager):
    folder = interrupted(tmp_path)
    data, options = settle(CASES["NoisyFlow"])
    with pytest.raises(CheckpointMismatch, match="seed 0, now 1"):
        train(build("NoisyFlow", data), data, options, seed=1, run=RunFolder.create(folder, resume=True), resume=True)
    with pytest.raises(CheckpointMismatch, match="key 'model.config.width' is 16; this model has 8"):
        train(build("NoisyFlow", data, width=8), data, options, run=RunFolder.create(folder, resume=True), resume=True)
    with pytest.raises(CheckpointMismatch, match=r"model\.config\.width' is unknown to GradientGaussian"):
        train(build("GradientGaussian", data), data, options, run=RunFolder.create(folder, resume=True), resume=True)
    with pytest.raises(InvalidInput, match="holds a run already"):
        train(build("NoisyFlow", data), data, options, run=RunFolder(folder))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda c: (c / "last").write_text("11\n"), "names the checkpoint '11', which is not there"),
        (lambda c: (c / "last").write_bytes(b"\xff\xfe"), "last cannot be read"),
        (lambda c: (c / "10/state.json").write_text("{"), "state.json cannot be read"),
        (lambda c: (c / "10/state.json").unlink(), "state.json is missing"),
        (lambda c: (c / "10/state.json").write_text((c / "10/state.json").read_text().replace('"waited"', '"waits"')), "'waited' is missing"),
        (
            lambda c: (c / "10/weights.safetensors").write_bytes((c / "10/weights.safetensors").read_bytes()[:-9]),
            "weights.safetensors cannot be read",
        ),
        (lambda c: (c / "10/average.safetensors").unlink(), "average.safetensors is missing"),
        (lambda c: (c / "10/optimizer.safetensors").write_bytes(b""), "optimizer.safetensors cannot be read"),
        (lambda c: (c / "10/weights.safetensors").write_bytes((c / "10/average.safetensors").read_bytes()), "has no tensor 'running'|has no tensor"),
    ],
)
def test_a_damaged_checkpoint_is_named(damage, message, tmp_path, eager):
    folder = interrupted(tmp_path)
    damage(folder / "checkpoints")
    with pytest.raises(CheckpointMismatch, match=message) as caught:
        begin("NoisyFlow", folder, CASES["NoisyFlow"], resume=True)
    assert "\n" not in str(caught.value)


def test_without_a_folder_an_interruption_says_that_nothing_is_saved(eager):
    data = blobs()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="step 4 of 50; nothing is saved"):
        train(build("NoisyFlow", data), data, TrainOptions(max_steps=50), progress=stop_at(4))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interruption_is_obeyed_at_once():
    data = blobs()
    model = build("GradientGaussian", data)

    def loss(batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return type(model).loss(model, batch)

    model.loss = loss
    with pytest.raises(KeyboardInterrupt, match="at once"):
        train(model, data, TrainOptions(max_steps=50))
