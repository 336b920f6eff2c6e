"""Two processes give the result of one: the same micro-batches, drawn from the same seeds, summed in another order."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from manykin.training import RunFolder, TrainOptions, train
from training_models import blobs, build

SCRIPT = str(Path(__file__).with_name("training_script.py"))
CASES = {
    "NoisyFlow": {"max_steps": 40, "batch_size": 51, "clip": 0.5, "ema": 0.9, "val": 30, "patience": 30, "precision": "32"},
    "TinyGan": {"max_steps": 25, "batch_size": 50},
    "TinyMixture": {"max_steps": 40, "batch_size": 77, "save_every": 3},
    "CodedGaussian": {"max_steps": 20, "batch_size": 64},
    "realnvp": {"max_steps": 30, "batch_size": 60},
    "gan": {"max_steps": 20, "batch_size": 60},
    "gaussian-mixture": {"max_steps": 20, "batch_size": 70},
}
LOGGED = {"loss", "log_likelihood", "lower_bound"}


def start(name, folder, spec, delay="0"):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", SCRIPT, name, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run([*command, json.dumps(spec), delay], capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_that_accumulates_twice(name, tmp_path):
    done = start(name, tmp_path / "two", CASES[name])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("ended") == 2

    spec = dict(CASES[name])
    data = blobs(300, spec.pop("val", None))
    model = build(name, data)
    result = train(model, data, TrainOptions.from_json({**spec, "accumulate": 2}))
    two, config = load_file(tmp_path / "two/model.safetensors"), RunFolder(tmp_path / "two").read_config()
    assert config["result"]["steps"] == result.steps
    assert two.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        if key == "running":  # Counts calls of the loss: one a step in each process, two a step in the other run.
            assert two[key].item() == pytest.approx(1 - 0.9 ** result.history[-1]["step"], rel=1e-3)
            continue
        torch.testing.assert_close(two[key], tensor, rtol=2e-4, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}")
    start_weights = build(name, data).state_dict()
    moved = [key for key, tensor in start_weights.items() if tensor.shape == two[key].shape and not torch.equal(tensor, two[key])]
    assert moved
    logged = [line for line in RunFolder(tmp_path / "two").metrics() if LOGGED & line.keys()]
    for line, other in zip(logged, [line for line in result.history if LOGGED & line.keys()], strict=True):
        key = next(iter(LOGGED & line.keys()))
        assert line[key] == pytest.approx(other[key], rel=1e-4)


@pytest.mark.slow
def test_two_processes_resume_within_a_pass(tmp_path):
    spec = {"batch_size": 40, "save_every": 3, "max_steps": 40}
    assert start("TinyMixture", tmp_path / "whole", spec).returncode == 0
    run = tmp_path / "parts"
    assert start("TinyMixture", run, spec).returncode == 0
    # Undo the end of the run: back to a checkpoint in the middle of a pass.
    assert start("TinyMixture", tmp_path / "short", {**spec, "keep_checkpoints": 50}).returncode == 0
    folder = RunFolder(tmp_path / "short")
    folder.update_config({"result": {}})
    (folder.path / "model.safetensors").unlink()
    (folder.checkpoints / "last").write_text("12\n")
    assert start("TinyMixture", folder.path, spec).returncode == 0
    whole, again = load_file(tmp_path / "whole/model.safetensors"), load_file(folder.path / "model.safetensors")
    for key, tensor in whole.items():
        torch.testing.assert_close(again[key], tensor, rtol=1e-9, atol=1e-9)
