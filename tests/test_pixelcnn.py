"""PixelCNN: causality, no blind spot, outputs that sum to one, the cache, completions, and what a user may do wrong."""

import json
import math
import time

import numpy as np
import pytest
import torch

import manykin as mk
from manykin.cli.run import run
from manykin.contract import EXACT, Batch, Preset
from manykin.data.dataset import Dataset, Rows
from manykin.decoding import Decoding
from manykin.errors import InvalidInput, Unsupported
from manykin.models.autoregressive.outputs import BernoulliOutput, CategoricalOutput, LevelFeatures, LogisticMixtureOutput
from manykin.models.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig
from manykin.nn.dropout import Dropout
from manykin.nn.masked import ChannelHead, PixelStacks, gate
from manykin.spaces import Image, Labels, Vector
from manykin.testing import run_checks
from manykin.testing.context import Context, Subject
from manykin.training import TrainOptions, train

SMALL = {"layers": 2, "width": 8, "hidden": 12, "first": 2}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shaken(module, seed=0, scale=0.5):
    """The module with random parameters: nothing is zero by its start."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=g))
    return module


def model_of(space, condition=None, **options):
    return shaken(PixelCNN(PixelCNNConfig.from_json({**SMALL, **options}), space, condition))


def everything(space):
    entries = space.size[0] * space.size[1] * space.size[2]
    return torch.cartesian_prod(*[torch.arange(space.levels)] * entries).view(-1, *space.size).to(space.dtype)


# The network.


@pytest.mark.parametrize("first, kernel, layers", [(1, 3, 1), (2, 3, 2), (3, 5, 1), (1, 5, 2)])
def test_stacks_see_every_earlier_pixel_within_reach_and_nothing_else(first, kernel, layers):
    height, width = 7, 9
    stacks = shaken(PixelStacks(2, 6, layers, first=first, kernel=kernel).double())
    x = torch.randn(1, height, width, 2, dtype=torch.double, requires_grad=True)
    features = stacks(x, torch.randn(height, width, 12, dtype=torch.double))
    reach = first + layers * (kernel // 2)
    for line, column in [(0, 0), (3, 4), (6, 8), (5, 0), (2, 8)]:
        slope = torch.autograd.grad(features[0, line, column].sum(), x, retain_graph=True)[0][0].abs()
        up = line - torch.arange(height)[:, None]
        side = torch.arange(width)[None] - column
        earlier = (up > 0) | ((up == 0) & (side < 0))
        inside = earlier & (up <= reach) & (side.abs() <= reach)
        assert bool((slope.amin(-1) > 0)[inside].all()), "a blind spot"
        assert float(slope.amax(-1)[~inside].sum()) == 0, "a leak"


def test_head_sees_only_earlier_channels():
    head = shaken(ChannelHead(4, 5, 3, 2, 6).double())
    encoded = torch.randn(1, 6, dtype=torch.double, requires_grad=True)
    numbers = head(torch.randn(1, 4, dtype=torch.double), encoded)
    for channel in range(3):
        slope = torch.autograd.grad(numbers[0, channel].sum(), encoded, retain_graph=True)[0][0]
        assert (slope[: 2 * channel] != 0).all()
        assert (slope[2 * channel :] == 0).all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_cached_features_are_those_of_the_whole_picture(dtype, tolerance):
    height, width = 5, 6
    stacks = shaken(PixelStacks(3, 8, 3, first=2, kernel=5), scale=0.3).to(dtype)
    g = torch.Generator().manual_seed(1)
    x, start = (torch.randn(4, height, width, size, dtype=dtype, generator=g) for size in (3, 16))
    with torch.no_grad():
        whole, cache = stacks(x, start), stacks.cache(4, width)
        tolerance *= 1 + float(whole.abs().max())
        for line in range(height):
            stacks.begin_row(cache, start[:, line])
            for column in range(width):
                found = stacks.pixel(cache, column, start[:, line, column])
                assert float((found - whole[:, line, column]).abs().max()) < tolerance
                stacks.put(cache, column, x[:, line, column])
            stacks.end_row(cache)


def test_gate_is_a_gated_linear_unit():
    x = torch.randn(3, 4, 10, dtype=torch.double, requires_grad=True)
    assert torch.allclose(gate(x), torch.nn.functional.glu(x, -1))
    assert torch.autograd.gradcheck(gate, (x,))


def test_dropout_silences_the_share_and_keeps_the_mean():
    drop, x = Dropout(0.3), torch.ones(1000, 101)
    torch.manual_seed(0)
    found = drop(x)
    assert abs(float((found == 0).float().mean()) - 77 / 256) < 0.01
    assert abs(float(found.mean()) - 1) < 0.01
    torch.manual_seed(0)
    assert torch.equal(found, drop(x))
    assert drop.eval()(x) is x


def test_few_levels_enter_as_thermometers_and_many_without_loss():
    few = LevelFeatures(4, True)(torch.tensor([0, 1, 3]), torch.float32)
    assert few.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 1]]
    many = LevelFeatures(256, True)(torch.arange(256), torch.float64)
    assert many.shape == (256, 16)
    assert torch.allclose(many.sum(1) * 255 / 16, torch.arange(256).double())
    assert LevelFeatures(9, False)(torch.tensor([[0, 8]]), torch.float32).shape == (1, 2, 9)


# Outputs.


@pytest.mark.parametrize("levels, components", [(2, 1), (5, 3), (256, 5)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_mixture_sums_to_one_over_the_levels(levels, components, scale):
    output = LogisticMixtureOutput(levels, components)
    numbers = scale * torch.randn(50, output.width, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    logits = output.logits(numbers)
    assert torch.isfinite(logits).all()
    assert float((logits.logsumexp(-1)).abs().max()) < 1e-9
    x = torch.randint(levels, (50,))
    assert torch.allclose(output.log_prob(numbers, x), logits.gather(-1, x[:, None])[:, 0])


@pytest.mark.parametrize("output", [BernoulliOutput(2), CategoricalOutput(7)])
def test_outputs_agree_with_their_logits(output):
    numbers, x = torch.randn(30, output.width, dtype=torch.double), torch.randint(output.levels, (30,))
    expected = output.logits(numbers).log_softmax(-1).gather(-1, x[:, None])[:, 0]
    assert torch.allclose(output.log_prob(numbers, x), expected)


@pytest.mark.parametrize("output, slack", [(BernoulliOutput(2), 1e-9), (CategoricalOutput(6), 1e-9), (LogisticMixtureOutput(64, 5), 0.25)])
def test_outputs_start_near_the_marginals(output, slack):
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(4000, 3, generator=g) ** torch.tensor([0.5, 1.0, 3.0]) * output.levels).long()
    numbers = output.start(x)
    found = output.log_prob(numbers.expand(4000, *numbers.shape), x).mean(0)
    counts = torch.stack([torch.bincount(column, minlength=output.levels) for column in x.T]).double() / 4000
    assert (found <= (counts * counts.clamp_min(1e-12).log()).sum(1) + 1e-9).all()
    assert (found >= (counts * counts.clamp_min(1e-12).log()).sum(1) - max(slack, 1e-3)).all()


# The density.


@pytest.mark.parametrize(
    "space, condition, likelihood",
    [
        (Image((1, 2, 3), 2), None, "auto"),
        (Image((1, 2, 3), 2), Labels(2), "categorical"),
        (Image((3, 2, 2), 2), None, "auto"),
        (Image((1, 1, 4), 6), None, "logistic-mixture"),
        (Image((3, 1, 1), 7), Labels(3), "logistic-mixture"),
        (Image((2, 2, 1), 4, ordinal=False), None, "auto"),
    ],
    ids=str,
)
def test_probabilities_of_all_pictures_sum_to_one(space, condition, likelihood):
    model = model_of(space, condition, likelihood=likelihood)
    assert model.density == EXACT
    for label in [None] if condition is None else range(condition.classes):
        total = model.log_prob(everything(space), None if label is None else torch.tensor([label])).detach().exp().sum()
        assert abs(float(total) - 1) < 1e-5


def test_auto_chooses_the_likelihood_by_the_levels():
    kinds = {2: BernoulliOutput, 17: CategoricalOutput, 256: LogisticMixtureOutput}
    for levels, kind in kinds.items():
        assert isinstance(model_of(Image((1, 2, 2), levels)).output, kind)
    assert isinstance(model_of(Image((1, 2, 2), 200, ordinal=False)).output, CategoricalOutput)


def test_starts_at_independent_pixels():
    data = mk.load_data("digits")
    model = PixelCNN(None, data.space)
    rows = data.train.all()
    model.start(lambda: [rows], rows, 0)
    with torch.no_grad():
        bits = -float(model.log_prob(data.test.all().x).mean()) / (64 * math.log(2))
    assert 2.40 < bits < 2.46


@pytest.mark.parametrize("space", [Image((1, 1, 1), 3), Image((1, 1, 7), 2), Image((3, 5, 1), 300), Image((1, 9, 4), 256)], ids=str)
def test_any_size_trains_and_samples(space):
    model = PixelCNN(PixelCNNConfig.from_json(SMALL), space)
    x = torch.randint(space.levels, (40, *space.size), generator=torch.Generator().manual_seed(0)).to(space.dtype)
    train(model, Dataset("noise", space, Rows(x)), TrainOptions(max_steps=3, batch_size=16), seed=0)
    drawn = model.sample(3, seed=0)
    assert drawn.dtype == space.dtype
    space.validate(drawn)


# Conformance on more spaces than the table's.


@pytest.mark.parametrize(
    "space, condition",
    [
        (Image((1, 2, 3), 2), None),
        (Image((3, 2, 2), 2), None),
        (Image((1, 2, 2), 4, ordinal=False), Labels(3)),
        pytest.param(Image((1, 2, 2), 40), Labels(2), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_conforms(space, condition):
    tiny = PixelCNN.presets["tiny"]
    model = PixelCNN(PixelCNNConfig.from_json(tiny.model), space, condition)
    failures = [f"{row.name}: {row.message}" for row in run_checks(Context(Subject(model, "", tiny.train), "fast")) if not row.passed]
    assert not failures, "\n".join(failures)


def failing(model, *names):
    """Which of the named checks a broken model fails; it counts as fitted."""
    rows = run_checks(Context(Subject(model, "broken", fitted=True)), names)
    assert {row.name for row in rows} == set(names)
    return [row.name for row in rows if not row.passed]


def test_stale_cache_is_caught(monkeypatch):
    monkeypatch.setattr(PixelStacks, "put", lambda stacks, cache, column, x: None)
    assert failing(model_of(Image((1, 3, 3), 4)), "cache-changes-nothing", "surprise-of-samples-is-entropy") != []


def test_stale_line_is_caught(monkeypatch):
    monkeypatch.setattr(PixelStacks, "end_row", lambda stacks, cache: None)
    assert failing(model_of(Image((1, 3, 3), 4)), "cache-changes-nothing") == ["cache-changes-nothing"]


def test_swapped_masks_are_caught():
    model = model_of(Image((1, 2, 3), 2))
    model.stacks.enter_across.padding = (0, 0, 1, 0, 0, 0)
    assert failing(model, "mass-is-one", "conditionals-sum-to-one") == ["mass-is-one", "conditionals-sum-to-one"]


def test_future_lines_are_caught():
    model = model_of(Image((1, 4, 3), 2))
    model.stacks.enter_down.padding = (0, 0, 2, 2, 0, 1)
    assert failing(model, "conditionals-see-only-the-past") == ["conditionals-see-only-the-past"]


def test_cut_corners_are_caught_as_blind_spots():
    model = model_of(Image((1, 4, 4), 2), first=1)
    with torch.no_grad():
        for layer in model.stacks.layers:
            layer.down.weight.view(layer.down.shape)[:, 1, 2] = 0
        model.stacks.enter_down.weight.view(model.stacks.enter_down.shape)[:, :, 2] = 0
    assert failing(model, "conditionals-have-no-blind-spot") == ["conditionals-have-no-blind-spot"]


# Drawing.


@pytest.mark.parametrize("space, condition", [(Image((1, 6, 5), 17), None), (Image((3, 4, 3), 256), None), (Image((1, 5, 5), 2), Labels(2))], ids=str)
@pytest.mark.parametrize("rules", [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 0}], ids=str)
def test_cached_and_plain_samples_are_the_same(space, condition, rules):
    model = model_of(space, condition)
    c = None if condition is None else torch.arange(6) % 2
    cached, plain = (model.sample(6, c, seed=4, sampler=Decoding(use_cache=use, **rules)) for use in (True, False))
    assert torch.equal(cached, plain)
    assert cached.float().std() > 0


def test_temperature_zero_is_greedy_and_top_k_one_too():
    model = model_of(Image((1, 4, 4), 5))
    greedy = model.sample(3, seed=0, sampler=Decoding(temperature=0))
    assert torch.equal(greedy, model.sample(3, seed=9, sampler=Decoding(temperature=0)))
    assert torch.equal(greedy, model.sample(3, seed=2, sampler=Decoding(top_k=1)))
    assert not torch.equal(model.sample(3, seed=0), model.sample(3, seed=1))


def test_cache_is_twenty_times_faster_on_28_by_28():
    model = shaken(PixelCNN(PixelCNNConfig(layers=4), Image((1, 28, 28), 2)), scale=0.1)
    x = torch.zeros(16, 28, 28, 1, dtype=torch.int64)
    begun = time.process_time()
    drawn = model._painted(x.permute(0, 3, 1, 2), torch.zeros(16, 1, 28, 28, dtype=torch.bool), None, Decoding())
    cached = time.process_time() - begun
    assert drawn.shape == (16, 1, 28, 28)
    start, context = model._start(None)
    with torch.inference_mode():
        begun = time.process_time()
        for _ in range(5):
            model._numbers(x, start, context)
        plain = (time.process_time() - begun) / 5 * 28 * 28
    assert plain > 20 * cached


def test_samples_follow_the_label():
    space, labels = Image((1, 4, 4), 2), Labels(2)
    c = torch.arange(200) % 2
    x = (torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < (0.1 + 0.8 * c)[:, None, None, None]).to(torch.uint8)
    model = PixelCNN(PixelCNNConfig.from_json(SMALL), space, labels)
    train(model, Dataset("shades", space, Rows(x, c), condition=labels), TrainOptions(max_steps=60, batch_size=64, lr=1e-2), seed=0)
    dark, light = (float(model.sample(64, torch.tensor([label]), seed=0).float().mean()) for label in (0, 1))
    assert dark < 0.25
    assert light > 0.75


# Completion.


def test_half_a_picture_is_completed_by_draws_given_it():
    model = model_of(Image((3, 4, 4), 4))
    x = model.sample(5, seed=0)
    known = torch.zeros(x.shape, dtype=torch.bool)
    known[:, :, :2] = True
    filled = [model.complete(x, known, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(filled[0], filled[1])
    assert not torch.equal(filled[0], filled[2])
    assert torch.equal(filled[2][known], x[known])
    plain = model.complete(x, known, seed=1, sampler=Decoding(use_cache=False))
    assert torch.equal(filled[2], plain)


def test_pictures_may_be_known_to_different_extents():
    model = model_of(Image((1, 3, 4), 4))
    x = model.sample(5, seed=0)
    known = (torch.arange(12)[None] < torch.tensor([0, 3, 7, 11, 12])[:, None]).view(x.shape)
    cached, plain = (model.complete(x, known, seed=2, sampler=Decoding(use_cache=use)) for use in (True, False))
    assert torch.equal(cached, plain)
    assert torch.equal(cached[known], x[known])


def test_gaps_are_refused_and_say_where():
    model = model_of(Image((3, 3, 4), 4))
    x = model.sample(2, seed=0)
    known = torch.zeros(x.shape, dtype=torch.bool)
    known[1, :, 2:] = True
    with pytest.raises(Unsupported, match="picture 1, knows line 2, column 0 but not the entry before it.*upper lines.*ddpm") as caught:
        model.complete(x, known, seed=0)
    assert "\n" not in str(caught.value)


def test_command_line_completes_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits = mk.load_data("digits").test.all().x[:4, 0].numpy()
    known = np.zeros(digits.shape, dtype=bool)
    known[:, :4] = True
    np.savez("half.npz", x=digits, known=known)
    np.savez("lower.npz", x=digits, known=~known)
    assert run(["fit", "pixelcnn", "digits", "--preset", "tiny", "--max-steps", "3", "--out", "run", "--quiet"]) == 0
    assert run(["complete", "run", "--known", "half.npz", "--seed", "1", "--out", "full.npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 4
    full = np.load("full.npy").reshape(digits.shape)
    assert (full[:, :4] == digits[:, :4]).all()
    assert (full[:, 4:] != digits[:, 4:]).any()
    assert run(["complete", "run", "--known", "lower.npz", "--out", "no.npy"]) == 2
    assert "line 4, column 0 but not the entry before it" in capsys.readouterr().err


# Wrong calls.


@pytest.mark.parametrize(
    "space, options, shown",
    [
        (Image((1, 4, 4), None), {}, "levels"),
        (Image((1, 4, 4), 5), {"likelihood": "bernoulli"}, "does not fit 5 levels"),
        (Image((1, 4, 4), 5, ordinal=False), {"likelihood": "logistic-mixture"}, "5 codes.*choose auto or categorical"),
        (Image((1, 4, 4), 5), {"kernel": 4}, "kernel = 4"),
        (Vector(3), {}, "Image"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(space, options, shown):
    with pytest.raises(InvalidInput, match=shown) as caught:
        PixelCNN(PixelCNNConfig.from_json(options), space)
    assert "\n" not in str(caught.value)
    # Another model is the remedy only where the space is refused, and not an option.
    assert isinstance(caught.value, Unsupported) == (not options)


@pytest.mark.parametrize("known", [[[True]], None, torch.ones(1, 1, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool)])
def test_a_mask_that_is_none_is_refused(known):
    model = model_of(Image((1, 3, 3), 4))
    with pytest.raises(InvalidInput, match=r"known is .*; expected a tensor of dtype bool and of the shape of x, \(1, 1, 3, 3\)\."):
        model.complete(torch.zeros(1, 1, 3, 3, dtype=torch.uint8), known)


def test_real_pictures_are_refused_with_models_that_take_them():
    with pytest.raises(Unsupported, match="levels.*ddpm") as caught:
        mk.fit("pixelcnn", np.random.default_rng(0).random((40, 1, 5, 5)), data_options={"kind": "image"})
    assert "\n" not in str(caught.value)


def test_rules_for_texts_are_refused():
    model = model_of(Image((1, 3, 3), 4))
    with pytest.raises(InvalidInput, match=r"repetition_penalty = 1.2 is for texts"):
        model.sample(2, seed=0, sampler=Decoding(repetition_penalty=1.2))
    with pytest.raises(InvalidInput, match="precision = 'bf16'"):
        model.complete(model.sample(1, seed=0), torch.ones(1, 1, 3, 3, dtype=torch.bool), sampler=Decoding(precision="bf16"))
    with pytest.raises(InvalidInput, match=r"temperature = -1"):
        Decoding(temperature=-1.0)


# Presets and training.


@pytest.mark.parametrize("space", [Image((1, 8, 8), 17), Image((1, 28, 28), 2), Image((1, 28, 28), 256), Image((3, 32, 32), 256)], ids=str)
@pytest.mark.parametrize("n", [100, 60_000])
def test_presets_are_valid_options(space, n):
    for preset in PixelCNN.presets.values():
        chosen = preset if isinstance(preset, Preset) else preset(space, n)
        assert TrainOptions.from_json(chosen.train).max_steps is not None
        with torch.device("meta"):
            PixelCNN(PixelCNNConfig.from_json(chosen.model), space)


@pytest.mark.parametrize(("space", "n"), [(Image((1, 8, 8), 17), 1400), (Image((3, 64, 64), 256), 50_000)])
def test_of_few_or_large_pictures_the_preset_for_minutes_is_the_default(space, n):
    assert PixelCNN.presets["cpu"](space, n) == PixelCNN.presets["default"](space, n)
    assert PixelCNN.presets["cpu"](Image((1, 28, 28), 2), 60_000).model["layers"] == 10


def test_loss_is_the_mean_surprise_of_an_entry():
    model = model_of(Image((3, 3, 3), 4))
    x = torch.randint(4, (6, 3, 3, 3), dtype=torch.uint8)
    assert torch.allclose(-model.loss(Batch(x)) * 27, model.log_prob(x).float(), rtol=1e-4)


def test_both_optimizers_learn():
    space = Image((1, 4, 4), 2)
    x = (torch.arange(64).view(-1, 1, 1, 1) % 2).expand(-1, 1, 4, 4).to(torch.uint8).contiguous()
    for optimizer in ("muon", "adamw"):
        model = PixelCNN(PixelCNNConfig.from_json(SMALL), space)
        train(model, Dataset("flat", space, Rows(x)), TrainOptions(max_steps=80, batch_size=32, lr=1e-2, optimizer=optimizer), seed=0)
        assert float(-model.log_prob(x).detach().mean()) < 2 * math.log(2)


@pytest.mark.slow
def test_default_preset_reaches_its_figure_on_the_digits():
    fitted = mk.fit("pixelcnn", "digits", seed=0)
    bits = {each.name: each.value for each in mk.evaluate(fitted, metrics="likelihood").metrics}["bits_per_dim"]
    assert bits <= 1.80
