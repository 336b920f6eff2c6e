import itertools
import math
import threading

import pytest
import torch

from manykin.contract import Gradient
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput, ManykinError
from manykin.spaces import Labels, Vector
from manykin.training import TrainOptions, TrainState, progress_bar, train
from training_models import GradientGaussian, NoisyFlow, blobs, build


def fit(name, data=None, seed=0, progress=None, model=None, **options):
    data = data if data is not None else blobs()
    model = model or build(name, data)
    return model, train(model, data, TrainOptions(**options), seed=seed, progress=progress)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_gradient_reaches_the_maximum_likelihood_solution():
    data = blobs()
    model, result = fit("GradientGaussian", data, max_steps=600, batch_size=600, lr=0.05, schedule="cosine")
    z = (data.train.x - data.train.x.mean(0)) / data.train.x.std(0, unbiased=False)
    torch.testing.assert_close(model.mean.detach(), z.mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.log_std.exp().detach(), z.std(0, unbiased=False), atol=1e-3, rtol=0)
    assert (result.steps, result.stopped, result.parameters) == (600, "max_steps", 4)


def test_em_is_monotone_and_stops_by_itself():
    model, result = fit("TinyMixture", model=build("TinyMixture", blobs(), epochs=500), batch_size=100)
    likelihoods = [line["log_likelihood"] for line in result.history]
    assert all(after >= before - 1e-10 for before, after in itertools.pairwise(likelihoods))
    assert result.stopped == "converged"
    assert result.steps == 6 * len(likelihoods)
    assert not model.counts.any()
    assert model.log_prob(blobs().train.x).mean().item() >= likelihoods[-1] - 1e-9


def test_em_in_small_batches_is_em_in_one():
    small, _ = fit("TinyMixture", max_steps=60, batch_size=100)
    whole, _ = fit("TinyMixture", max_steps=10)
    torch.testing.assert_close(small.means, whole.means, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(small.variances, whole.variances, rtol=1e-9, atol=1e-9)


def test_em_brings_a_pass_that_has_begun_to_its_end():
    _, result = fit("TinyMixture", max_steps=7, batch_size=100)
    assert result.steps == 12
    assert len(result.history) == 2


@pytest.mark.parametrize("name", ["GradientGaussian", "NoisyFlow", "TinyGan", "TinyMixture", "CodedGaussian"])
def test_one_seed_one_result_and_the_generator_is_untouched(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, _ = fit(name, max_steps=40)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second, _ = fit(name, max_steps=40)
    assert same(weights(first), weights(second))
    third, _ = fit(name, max_steps=40, seed=1)
    assert not same(weights(first), weights(third))


@pytest.mark.parametrize("name", ["NoisyFlow", "TinyGan", "CodedGaussian"])
def test_watching_does_not_disturb(name):
    data = blobs(val=50)
    quiet, _ = fit(name, data, max_steps=60, eval_every=60, log_every=60)
    watched, _ = fit(name, data, max_steps=60, eval_every=3, log_every=1, progress=lambda state: torch.rand(1))
    assert same(weights(quiet), weights(watched))


@pytest.mark.parametrize("name", ["NoisyFlow", "TinyGan"])
def test_accumulation_weighs_parts_by_their_size(name):
    # No randomness inside the loss: each part draws its own.
    data = blobs(100)

    def build_plain():
        model = build(name, data).double()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if name == "NoisyFlow":
            model.loss = lambda batch: GradientGaussian.loss(model, batch)
        else:
            model.generator_loss = lambda batch: model.discriminator(model.generator(batch.x.double() @ torch.ones(2, 4).double()))[:, 0]
            model.discriminator_loss = lambda batch: model.discriminator(model.to_model_space(batch.x)[0])[:, 0].square()
        return model

    one, _ = fit(name, data, model=build_plain(), max_steps=10, batch_size=50)
    parts, _ = fit(name, data, model=build_plain(), max_steps=10, batch_size=50, accumulate=7)
    for key, tensor in weights(one).items():
        if tensor.is_floating_point() and key != "running":
            torch.testing.assert_close(tensor, weights(parts)[key], rtol=1e-8, atol=1e-9)


def test_more_parts_than_rows():
    fit("NoisyFlow", blobs(5), max_steps=3, accumulate=8)


def test_phases_touch_only_their_own_parameters():
    data = blobs()
    model = build("TinyGan", data)
    seen = {}

    def watch(name, method):
        def loss(batch):
            flags = {key: p.requires_grad for key, p in model.named_parameters()}
            assert all(flag == key.startswith(name) for key, flag in flags.items())
            seen[method.__name__] = seen.get(method.__name__, 0) + 1
            return method(batch)

        return loss

    model.discriminator_loss = watch("discriminator", model.discriminator_loss)
    model.generator_loss = watch("generator", model.generator_loss)
    model.penalty = watch("discriminator", model.penalty)
    train(model, data, TrainOptions(max_steps=9))
    assert seen == {"discriminator_loss": 18, "generator_loss": 9, "penalty": 3}
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_parameter_that_no_phase_names_gathers_no_gradient():
    data = blobs()
    model = build("GradientGaussian", data)
    model.phases = lambda: [Gradient("mean", params="mean")]
    flags = []
    model.loss = lambda batch: (flags.append((model.mean.requires_grad, model.log_std.requires_grad)), type(model).loss(model, batch))[1]
    train(model, data, TrainOptions(max_steps=2))
    assert flags == [(True, False)] * 2
    assert model.log_std.requires_grad
    assert torch.equal(model.log_std, torch.ones(2))


def test_a_parameter_that_the_model_froze_stays_frozen():
    data = blobs()
    model = build("GradientGaussian", data)
    model.mean.requires_grad_(False)
    train(model, data, TrainOptions(max_steps=5))
    assert not model.mean.requires_grad
    assert torch.equal(model.mean, torch.full((2,), 0.5))


def test_modes_are_put_back():
    data = blobs()
    model = build("NoisyFlow", data)
    model.eval()
    train(model, data, TrainOptions(max_steps=2))
    assert not any(module.training for module in model.modules())


def test_closed_form_beside_and_after_gradients():
    data = blobs(300)
    model, result = fit("CodedGaussian", data, max_steps=25, batch_size=30, log_every=25)
    torch.testing.assert_close(model.mean, data.train.x.double().mean(0))
    assert model.closing.tolist() == [300.0, model.log_std.detach().double().sum().item()]
    assert model.seen == 0
    assert result.history[-1]["rows"] == 300


def test_average_is_the_recursion_and_closing_phases_see_it():
    data = blobs()
    model = build("CodedGaussian", data)
    trail = []
    model.loss = lambda batch: (trail.append(model.log_std.detach().clone()), type(model).loss(model, batch))[1]
    train(model, data, TrainOptions(max_steps=30, ema=0.8, lr=0.05))
    raw, _ = fit("CodedGaussian", max_steps=30, lr=0.05)
    average = trail[0].clone()
    for step, value in enumerate([*trail[1:], raw.log_std.detach()]):
        decay = min(0.8, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    torch.testing.assert_close(model.log_std.detach(), average)
    assert model.closing[1] == model.log_std.double().sum()
    assert not torch.equal(raw.log_std, model.log_std)


def test_patience_keeps_the_best_weights():
    data = blobs(40, val=40)
    model, result = fit("NoisyFlow", data, model=build("NoisyFlow", data, width=64), max_steps=2000, lr=0.02, eval_every=20, patience=3)
    values = [line["val_nll"] for line in result.history if "val_nll" in line]
    assert result.stopped == "patience"
    assert result.steps < 2000
    assert len(values) - values.index(min(values)) - 1 == 3
    with torch.no_grad():
        assert -model.log_prob(data.val.x).mean().item() == pytest.approx(min(values), abs=1e-5)


def test_patience_holds_rows_back_where_there_are_none():
    data = blobs(200)
    _, result = fit("NoisyFlow", data, max_steps=40, patience=50, eval_every=20)
    assert any("val_nll" in line for line in result.history)
    with pytest.raises(InvalidInput, match="patience needs validation rows"):
        fit("GradientGaussian", Dataset("one", Vector(2), Rows(torch.randn(1, 2))), patience=1)


def test_implicit_models_are_validated_by_their_loss():
    _, result = fit("TinyGan", blobs(val=20), max_steps=20)
    assert all(math.isfinite(line["val_loss"]) for line in result.history if "val_loss" in line)
    assert "val_loss" in result.history[-1]


def test_log_holds_loss_rate_norm_notes_and_the_other_phases():
    _, result = fit("TinyGan", max_steps=40, log_every=10, lr=0.01, warmup=20)
    line = result.history[-1]
    assert line["step"] == 40
    assert {"seconds", "epoch", "loss", "grad_norm", "lr", "loss.generator", "loss.penalty"} <= line.keys()
    assert line["lr"] == pytest.approx(0.01)
    assert line["lr.generator"] == pytest.approx(0.005)
    assert result.history[0]["lr"] == pytest.approx(0.01 * 10 / 21)
    _, result = fit("NoisyFlow", max_steps=4)
    assert 0.5 < result.history[-1]["note.spread"] < 1.5


def test_clipping_bounds_the_step():
    data = blobs()
    start = build("GradientGaussian", data)
    free, result = fit("GradientGaussian", data, max_steps=1, optimizer="sgd", lr=1.0)
    bound, _ = fit("GradientGaussian", data, max_steps=1, optimizer="sgd", lr=1.0, clip=0.25)
    norm = result.history[0]["grad_norm"]
    moved = [torch.stack([(model.mean - start.mean).norm(), (model.log_std - start.log_std).norm()]).norm() for model in (free, bound)]
    assert moved[0].item() == pytest.approx(norm, rel=1e-5)
    assert moved[1].item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_optimizers_lower_the_loss(optimizer):
    _, result = fit("NoisyFlow", max_steps=150, optimizer=optimizer, lr=0.01, log_every=10)
    assert result.history[-1]["loss"] < result.history[0]["loss"] - 0.1


def test_max_time_is_fixed_once_and_repeats_as_max_steps():
    data = blobs(val=60)
    model, result = fit("NoisyFlow", data, max_time=1.5, schedule="cosine", ema=0.9)
    assert result.steps > 50
    assert result.seconds < 2.5
    again, _ = fit("NoisyFlow", data, max_steps=result.steps, schedule="cosine", ema=0.9)
    assert same(weights(model), weights(again))
    _, capped = fit("NoisyFlow", data, max_time=30.0, max_steps=5)
    assert capped.steps == 5


def test_max_time_of_a_closed_form_is_whole_passes():
    model, result = fit("TinyMixture", model=build("TinyMixture", blobs(), epochs=100_000, tolerance=0), batch_size=100, max_time=0.3)
    assert result.steps % 6 == 0
    assert result.steps > 6
    assert torch.isfinite(model.means).all()


def test_bf16_trains_in_mixed_precision_and_evaluates_in_32():
    data = blobs(val=50)
    full, _ = fit("NoisyFlow", data, max_steps=30)
    mixed, result = fit("NoisyFlow", data, max_steps=30, precision="bf16")
    assert mixed.log_prob(data.val.x).dtype == torch.float64
    assert next(mixed.parameters()).dtype == torch.float32
    assert result.history[-1]["val_nll"] == pytest.approx(-full.log_prob(data.val.x).mean().item(), abs=0.05)


def test_conditional_models_sample_and_train(tmp_path):
    from manykin.training import RunFolder

    n = 100
    data = Dataset("labelled", Vector(2), Rows(torch.randn(n, 2), torch.arange(n) % 3), condition=Labels(3))
    model = build("GradientGaussian", data)
    run = RunFolder.create(tmp_path / "run")
    train(model, data, TrainOptions(max_steps=10, sample_every=5), run=run)
    assert sorted(path.name for path in run.samples_dir.iterdir()) == ["10.safetensors", "5.safetensors"]


def test_progress_is_told_the_end_and_the_bar_is_silent_off_a_terminal(capsys):
    states = []
    with progress_bar("x") as show:
        fit("NoisyFlow", max_steps=50, progress=lambda state: (states.append(state), show(state)))
    assert isinstance(states[-1], TrainState)
    assert (states[-1].step, states[-1].max_steps) == (50, 50)
    assert states[-1].metrics["loss"]
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_steps_rate_and_loss_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("my model") as show:
        show(TrainState(7, 50, 12.5, 3.4, {"loss": 1.25}))
    out, err = capsys.readouterr()
    assert out == ""
    assert "my model" in err
    assert "7/50" in err
    assert "12.5 steps/s loss 1.25" in err


def test_parameters_of_two_precisions_train_together():
    data = blobs()
    model = build("NoisyFlow", data)
    model.extra = torch.nn.ParameterList([torch.ones((), dtype=torch.float64)])
    model.loss = lambda batch: type(model).loss(model, batch) + (model.extra[0] - 3) ** 2
    train(model, data, TrainOptions(max_steps=50, lr=0.1, clip=5.0))
    assert model.extra[0].dtype == torch.float64
    assert model.extra[0].item() == pytest.approx(3, abs=0.5)


def test_training_works_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit("GradientGaussian", max_steps=3)[1]))
    thread.start()
    thread.join()
    assert results[0].steps == 3


def test_authors_errors_are_one_line():
    data = blobs()
    model = build("GradientGaussian", data)
    model.loss = lambda batch: model.mean.sum()
    with pytest.raises(ManykinError, match=r"phase 'main': loss returned shape \(\); expected one loss per example"):
        train(model, data, TrainOptions(max_steps=1))
    model.loss = lambda batch: batch.x.sum(1)
    with pytest.raises(ManykinError, match="does not depend on the parameters"):
        train(model, data, TrainOptions(max_steps=1))
    model.phases = lambda: [Gradient("main", params="nothing")]
    with pytest.raises(ManykinError, match="none of GradientGaussian's begins with 'nothing'"):
        train(model, data, TrainOptions(max_steps=1))
    model.phases = lambda: [Gradient("main"), Gradient("main")]
    with pytest.raises(ManykinError, match="a name of its own"):
        train(model, data, TrainOptions(max_steps=1))


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta", ""])
def test_a_device_that_is_not_here_is_named(device):
    with pytest.raises(InvalidInput, match="is not here; expected auto or cpu"):
        fit("GradientGaussian", max_steps=1, device=device)


def test_float64_data_reach_the_transform_in_mixed_precision():
    x = torch.randn(64, 2, dtype=torch.float64) + 1e9
    data = Dataset("far", Vector(2), Rows(x))
    model, _ = fit("NoisyFlow", data, max_steps=3, precision="bf16")
    assert isinstance(model, NoisyFlow)
    assert torch.isfinite(model.log_prob(x)).all()
