import itertools
import math
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from manykin.contract import Gradient, Optim
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput, ManykinWarning
from manykin.training import TrainOptions, batches, train
from manykin.training.batches import Order, Source, shares
from manykin.training.ema import Average
from manykin.training.optim import Stepper, steppers
from manykin.training.plan import Plan
from manykin.training.schedules import factor
from training_models import blobs, build


def test_memory_is_kept_where_the_c_library_is_glibc_and_the_user_has_not_said_otherwise():
    """In processes of their own: what is asked of malloc lasts."""
    code = "import platform; from manykin.training.device import keep_memory; print(keep_memory(), platform.libc_ver()[0] == 'glibc')"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"}
    said = [subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.split()
            for env in (plain, {**plain, "MALLOC_ARENA_MAX": "2"})]  # fmt: skip
    assert said[0][0] == said[0][1]
    assert said[1][0] == "False"


@pytest.mark.parametrize("rows, batch", [(10, 3), (10, 10), (10, 64), (1, 1), (7, 2)])
def test_an_epoch_visits_each_row_at_most_once_and_drops_only_the_ragged_end(rows, batch):
    order = Order(rows, batch, 0, blocks=False)
    assert order.per_epoch == max(1, rows // batch)
    for epoch in range(3):
        seen = torch.cat([order.positions(epoch * order.per_epoch + k) for k in range(order.per_epoch)])
        assert len(seen) == order.per_epoch * min(batch, rows)
        assert len(seen.unique()) == len(seen)


def test_batches_are_a_function_of_their_number():
    a, b = Order(100, 7, 3, blocks=False), Order(100, 7, 3, blocks=False)
    wanted = [a.positions(k) for k in range(60)]
    for k in torch.randperm(60).tolist():
        assert torch.equal(b.positions(k), wanted[k])
    assert not torch.equal(Order(100, 7, 4, blocks=False).positions(0), wanted[0])
    assert not torch.equal(wanted[0], wanted[a.per_epoch])


@pytest.mark.parametrize("rows", [1, 5, 64, 65, 1000, 1003])
def test_shuffling_by_blocks_visits_every_row_once_and_stays_in_its_window(rows, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", 8)
    monkeypatch.setattr(batches, "WINDOW", 4)
    order = Order(rows, min(rows, 13), 0, blocks=True)
    first = torch.cat([order.positions(k) for k in range(order.per_epoch)])
    assert len(first.unique()) == len(first) == order.per_epoch * min(rows, 13)
    assert first.max() < rows
    if rows >= 1000:
        assert len((first[:24] // 8).unique()) <= 4
        second = Order(rows, 13, 0, blocks=True)
        assert torch.equal(second.positions(50), order.positions(50))
        assert not torch.equal(order.positions(0), order.positions(order.per_epoch))


def test_selected_rows_are_found_in_the_base():
    rows = Rows(torch.arange(20.0)[:, None], torch.arange(20), index=torch.tensor([3, 5, 7, 11]))
    source = Source(rows, 2, 0, torch.device("cpu"))
    both = [source.gather(source.order.positions(k)) for k in range(2)]
    assert sorted(torch.cat([batch.x for batch in both]).flatten().tolist()) == [3, 5, 7, 11]
    assert torch.equal(torch.cat([batch.x for batch in both]).flatten().long(), torch.cat([batch.condition for batch in both]))
    assert source.slice(1, 9).x.flatten().tolist() == [5, 7, 11]


@pytest.mark.parametrize("n", [50, 100, 1000])
def test_the_first_rows_of_a_sample_are_a_random_draw_of_sorted_data_too(n):
    rows = Rows(torch.arange(100.0)[:, None])
    drawn = rows.sample(n, 0).x[:, 0]
    assert len(drawn.unique()) == len(drawn) == min(n, 100)
    assert 25 < drawn[:20].mean() < 75
    assert torch.equal(drawn, rows.sample(n, 0).x[:, 0])
    assert not torch.equal(drawn, rows.sample(n, 1).x[:, 0])


def test_shares_cover_everything_evenly():
    for size in (0, 1, 5, 16, 17):
        for parts in (1, 2, 3, 8):
            bounds = shares(size, parts)
            assert [stop - start for start, stop in bounds] == sorted([stop - start for start, stop in bounds]) or max(
                stop - start for start, stop in bounds
            ) - min(stop - start for start, stop in bounds) <= 1
            assert bounds[0][0] == 0
            assert bounds[-1][1] == size
            assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_lr": 1e-4}, "no effect on a constant learning rate"),
        ({"min_lr": 0.1, "lr": 0.01, "schedule": "cosine"}, "above the learning rate 0.01"),
        ({"min_lr": 0.1, "schedule": "linear"}, "above the learning rate"),
    ],
)
def test_a_schedule_cannot_end_above_its_start_or_without_a_course(changes, message):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(InvalidInput, match=message):
        steppers(model, [Gradient("main", optimizer=Optim("adam", lr=1e-3))], TrainOptions(**changes))


def test_schedules():
    assert [factor(s, 3, "constant", 10) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factor(0, 0, "cosine", 100) == 1.0
    assert factor(50, 0, "cosine", 100) == pytest.approx(0.5)
    assert factor(99, 0, "cosine", 100) == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)
    assert [factor(s, 2, "linear", 12) for s in (2, 7, 11)] == pytest.approx([1.0, 0.5, 0.1])
    assert [factor(s, 0, "cosine", 10, 0.2) for s in (0, 5, 10)] == pytest.approx([1.0, 0.6, 0.2])
    assert [factor(s, 3, "constant", 10, 0.2) for s in (0, 9)] == [0.25, 1.0]


def test_plan_looks_ahead_to_the_next_thing_due():
    plan = Plan.of(TrainOptions(log_every=7, save_every=10, eval_every=1000), 25, True, True)
    steps, step = [], 0
    while step < 25:
        step = plan.next_event(step)
        steps.append(step)
    assert steps == [7, 10, 14, 20, 21, 25]


def test_presets_fill_only_what_is_open():
    options = TrainOptions(lr=0.1).over({"lr": 0.5, "clip": 2.0})
    assert (options.lr, options.clip) == (0.1, 2.0)
    with pytest.raises(InvalidInput, match="train.clp is not an option. Did you mean 'clip'"):
        TrainOptions().over({"clp": 1.0})


@pytest.mark.parametrize(
    "key, value",
    [
        ("max_steps", 0), ("max_time", 0.0), ("batch_size", -1), ("accumulate", 0), ("lr", 0.0), ("lr", float("nan")), ("optimizer", "lion"),
        ("schedule", "step"), ("ema", 1.0), ("precision", "fp8"), ("patience", 0), ("clip", -1.0), ("weight_decay", -0.1), ("max_steps", "ten"),
    ],
)  # fmt: skip
def test_options_outside_their_range_are_named(key, value):
    with pytest.raises(InvalidInput, match=f"train.{key} = .* is not allowed; expected"):
        TrainOptions(**{key: value})


def test_the_rate_scales_all_phases_and_shared_parameters_share_an_optimizer():
    model = build("TinyGan", blobs())
    phases = [phase for phase in model.phases() if isinstance(phase, Gradient)]
    built = steppers(model, phases, TrainOptions(lr=1e-2))
    assert built["discriminator"].lr == pytest.approx(1e-2)
    assert built["generator"].lr == pytest.approx(5e-3)
    assert built["penalty"] is built["discriminator"]
    assert all(name.startswith("generator") for name in built["generator"].names)


def test_muon_takes_matrices_and_leaves_the_rest():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 8), nn.Linear(8, 1))
    stepper = Stepper(model, Gradient("main"), Optim("muon"))
    matrices = [p for group in stepper.optimizers[0].param_groups for p in group["params"]]
    assert [tuple(p.shape) for p in matrices] == [(8, 4)]
    assert sum(len(group["params"]) for optimizer in stepper.optimizers for group in optimizer.param_groups) == 5


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "muon"])
def test_optimizer_state_comes_back_bit_identical(name):
    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3)).to(memory_format=torch.channels_last)
        return model, Stepper(model, Gradient("main"), Optim(name, lr=0.01, weight_decay=0.1))

    def step(model, stepper, seed):
        model.zero_grad()
        model(torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        stepper.step()

    model, stepper = make()
    for seed in range(4):
        step(model, stepper, seed)
    other, fresh = make()
    other.load_state_dict(model.state_dict())
    fresh.load({key: value.clone(memory_format=torch.contiguous_format) for key, value in stepper.tensors().items()})
    for seed in range(4, 8):
        step(model, stepper, seed)
        step(other, fresh, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert stepper.tensors().keys() == fresh.tensors().keys()


def test_swapping_the_average_twice_changes_nothing():
    model = build("GradientGaussian", blobs())
    average = Average(model, 0.5)
    with torch.no_grad():
        model.mean.add_(1)
    average.update(1000)
    before, kept = model.mean.detach().clone(), average.values["mean"].clone()
    parameter = model.mean
    with average.swapped():
        assert model.mean is parameter
        assert torch.equal(model.mean, kept)
        assert torch.equal(kept, before - 0.5)
    assert torch.equal(model.mean, before)
    average.update(1000)
    assert torch.equal(average.values["mean"], (kept + before) / 2)


def test_options_without_effect_on_closed_form_are_named_once():
    data = blobs()
    options = TrainOptions(max_steps=2, lr=0.1, warmup=0, ema=0.9, precision="bf16", accumulate=2, batch_size=300)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(build("TinyMixture", data), data, options)
    texts = [str(each.message) for each in caught if "closed form" in str(each.message)]
    assert len(texts) == 1
    assert texts[0].startswith("train.lr = 0.1, train.warmup = 0, train.ema = 0.9, train.precision = bf16 have no effect: this model learns")


@pytest.mark.parametrize("name, options", [("TinyMixture", {"accumulate": 2, "precision": "32"}), ("GradientGaussian", {"lr": 0.1, "clip": 1.0})])
def test_options_with_an_effect_pass_without_a_warning(name, options):
    data = blobs()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ManykinWarning)
        train(build(name, data), data, TrainOptions(max_steps=2, **options))
