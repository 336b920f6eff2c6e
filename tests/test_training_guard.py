import math
import os
import signal

import pytest
import torch

from manykin.errors import ManykinWarning, TrainingFailed
from manykin.training import Interrupted, RunFolder, TrainOptions, train
from manykin.training.device import choose_precision
from training_models import blobs, build

pytestmark = pytest.mark.filterwarnings("ignore:Diverged at step:manykin.errors.ManykinWarning")


def poisoned(at, what="loss", always=False, limit=None):
    """A flow whose loss (or gradient) is not finite at one step, as long as the learning rate is above a limit."""
    data = blobs()
    model = build("NoisyFlow", data)
    count = [0]
    model.rate = None

    def loss(batch):
        losses = type(model).loss(model, batch)
        step = int(model.running_step)
        model.running_step += 1
        count[0] += 1
        if step >= at and (always or (limit is not None and count[0] <= limit) or (limit is None and count[0] == at + 1)):
            bad = torch.tensor(math.nan if what == "nan" else math.inf)
            return losses * bad if what != "gradient" else losses + 0 * (model.nets[1][3].weight.sum() * 0).sqrt() + _explode(model)
        return losses

    model.register_buffer("running_step", torch.zeros((), dtype=torch.long))
    model.loss = loss
    return model, data


def _explode(model):
    x = model.nets[1][0].weight.sum() * 0
    return (x * x).sqrt()  # value 0, gradient not a number


@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
def test_one_bad_step_goes_back_with_half_the_rate(what):
    model, data = poisoned(130, what)
    with pytest.warns(ManykinWarning, match="Diverged at step 130 in phase 'main'.*back to step 100"):
        result = train(model, data, TrainOptions(max_steps=300, save_every=50, lr=0.01))
    events = [line for line in result.history if "event" in line]
    assert len(events) == 1
    assert events[0]["step"] == 100
    assert "diverged at step 130 in phase 'main'" in events[0]["event"]
    assert ("the gradient is not finite" in events[0]["event"]) == (what == "gradient")
    assert result.steps == 300
    assert result.history[-1]["lr"] == pytest.approx(0.005)
    assert all(line["step"] <= after["step"] for line, after in zip(result.history, result.history[1:], strict=False))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_layer_is_named():
    model, data = poisoned(3, "gradient", always=True)
    with pytest.raises(
        TrainingFailed, match=r"diverged at step 3 in phase 'main': the gradient is not finite \(first layer: nets\.1\.0\.weight\)"
    ) as e:
        train(model, data, TrainOptions(max_steps=10))
    assert "\n" not in str(e.value)
    assert "after 3 returns" in str(e.value)


def test_three_returns_in_a_row_fail_but_later_ones_start_anew():
    model, data = poisoned(30, "nan", limit=33)  # Calls 31, 32 and 33 are bad: the fourth time the step passes.
    result = train(model, data, TrainOptions(max_steps=100, save_every=30, lr=0.08))
    assert [line["step"] for line in result.history if "event" in line] == [30, 30, 30]
    assert result.history[-1]["lr"] == pytest.approx(0.01)
    model, data = poisoned(30, "nan", always=True)
    with pytest.raises(TrainingFailed, match="diverged at step 30"):
        train(model, data, TrainOptions(max_steps=100, save_every=30))


def test_a_rate_that_diverges_is_halved_until_it_does_not():
    data = blobs()
    model = build("GradientGaussian", data)
    result = train(model, data, TrainOptions(max_steps=400, optimizer="sgd", lr=4.0, batch_size=600))
    assert any("event" in line for line in result.history)
    assert math.isfinite(result.history[-1]["loss"])
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_run_that_went_back_resumes_bit_identically(tmp_path, monkeypatch):
    from manykin.training import keeper

    class Clock:
        now = 0.0

        def perf_counter(self):
            self.now += 1.0
            return self.now

    monkeypatch.setattr(keeper, "time", Clock())

    class Bad:
        """Not finite whenever the count of batches in the model's own buffer says so: a function of the state alone."""

        def __init__(self, data):
            self.model = build("NoisyFlow", data)
            self.model.register_buffer("seen", torch.zeros((), dtype=torch.long))
            self.model.register_buffer("rate", torch.ones(()))
            self.model.loss = self.loss

        def loss(self, batch):
            model = self.model
            model.seen += 1
            losses = type(model).loss(model, batch)
            digits = model.nets[0][0].weight[0, 0].item() * 1e3 % 1.0  # Differs once the learning rate does.
            return losses * torch.inf if int(model.seen) % 29 == 0 and digits > 0.6 else losses

    options = TrainOptions(max_steps=120, save_every=20, lr=0.01)

    def run(path, stop=None, resume=False):
        data = blobs()
        model = Bad(data).model
        folder = RunFolder.create(path, resume=resume)

        def progress(state):
            if stop is not None and state.step == stop:
                os.kill(os.getpid(), signal.SIGINT)

        return train(model, data, options, run=folder, resume=resume, progress=progress)

    result = run(tmp_path / "whole")
    events = [line["event"] for line in result.history if "event" in line]
    assert events
    failed = int(events[0].split("step ")[1].split()[0])
    assert failed % 20 > 2
    # Interrupted between the good state and the failure: the way back leads beyond the interruption.
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", stop=failed - 1)
    assert (tmp_path / f"parts/checkpoints/{failed - 1}/good/weights.safetensors").is_file()
    again = run(tmp_path / "parts", resume=True)
    assert [line["event"] for line in again.history if "event" in line] == events
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()


def test_a_solution_that_is_not_a_number_fails():
    data = blobs()
    model = build("TinyMixture", data)
    model.variances.fill_(math.nan)
    with pytest.raises(TrainingFailed, match="phase 'em': log_likelihood is not a number"):
        train(model, data, TrainOptions(max_steps=3))


def test_bf16_falls_back_where_the_hardware_lacks_it(monkeypatch):
    from manykin.training import device

    assert choose_precision("auto", torch.device("cpu")) == "32-true"
    monkeypatch.setattr(device, "has_bf16", lambda where: False)
    with pytest.warns(ManykinWarning, match="does not multiply bf16"):
        assert choose_precision("bf16", torch.device("cpu")) == "32-true"
