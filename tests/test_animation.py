"""Samples over training: what the trainer leaves, that it changes nothing, and what is drawn of it."""

import io
import math

import pytest
import torch
from PIL import Image as Pictures
from safetensors.torch import load_file, save_file

from manykin.report import animation, reading, write_report
from manykin.spaces import Image, Record, Table, Vector, columns_of
from manykin.training import RunFolder, TrainOptions, train
from manykin.training.keeper import SAMPLES, SHARE
from manykin.training.plan import Plan
from report_folders import digits, write_plane, write_run, write_table, write_text


@pytest.fixture(autouse=True)
def without_models(monkeypatch):
    monkeypatch.setattr(reading, "_model", lambda folder: (None, ""))


def snapshots(folder, values):
    for step, value in values.items():
        save_file({"x": value.contiguous()}, folder / "samples" / f"{step}.safetensors")


def pictures(tmp_path, steps=(0, 20, 1000)):
    folder = write_run(tmp_path / "run", "vae", Image((1, 8, 8), 17), digits()[:64], digits()[64:128])
    snapshots(folder, {step: digits()[index : index + 256] for index, step in enumerate(steps)})
    return folder


def frames(content):
    with Pictures.open(io.BytesIO(content)) as image:
        assert image.format == "GIF"
        assert image.info["loop"] == 0
        found = []
        for index in range(image.n_frames):
            image.seek(index)
            found.append((image.convert("RGB"), image.info["duration"]))
        return found


def test_pictures_become_a_looping_animation_and_a_strip(tmp_path):
    folder = pictures(tmp_path)
    text = write_report(folder).read_text()
    found = frames((folder / "samples.gif").read_bytes())
    assert [duration for _, duration in found] == [animation.STEP_MS, animation.STEP_MS, animation.LAST_MS]
    assert len({image.tobytes() for image, _ in found}) == 3
    with Pictures.open(folder / "strip.png") as strip:
        assert strip.mode == "RGBA"
        assert strip.width > 3 * 100
    assert "data:image/gif;base64," in text
    assert "Samples after 0 to 1,000 steps, always from the same noise." in text


def test_an_animation_shows_64_samples_pixel_by_pixel(tmp_path):
    run = reading.read_run(pictures(tmp_path))
    found = animation.animation(run)
    assert found is not None
    image = frames(found)[0][0]
    zoom, gap = 6, 3
    pitch = 8 * zoom + gap
    values = digits()[:64, 0]
    for place in (0, 9, 63):
        left, top = 8 + (place % 8) * pitch, 8 + (place // 8) * pitch
        for y, x in ((0, 3), (4, 4), (7, 2)):
            shade = image.getpixel((left + x * zoom + 2, top + y * zoom + 2))[0]
            assert abs(shade - float(values[place, y, x]) / 16 * 255) < 12


def test_points_of_the_plane_are_scattered_where_they_lie(tmp_path):
    folder = write_plane(tmp_path / "run")
    real = load_file(folder / "samples" / "real.safetensors")["x"]
    low, high = real.min(0).values, real.max(0).values
    corners = {0: low, 5: high}
    snapshots(folder, {step: corner.expand(20, 2) for step, corner in corners.items()})
    run = reading.read_run(folder)
    first, last = (image for image, _ in frames(animation.animation(run)))

    def orange(image):
        red = torch.tensor([[image.getpixel((x, y))[0] > 180 and image.getpixel((x, y))[2] < 90 for x in range(0, 390, 2)] for y in range(0, 390, 2)])
        y, x = red.nonzero().double().mean(0)
        return float(x), float(y)

    assert orange(first)[0] < 98 < orange(last)[0]
    assert orange(first)[1] > 98 > orange(last)[1]


def test_samples_that_are_not_finite_are_blank_and_said(tmp_path):
    folder = write_run(tmp_path / "run", "flow", Image((1, 8, 8), None), torch.rand(64, 1, 8, 8), torch.rand(64, 1, 8, 8))
    bad = torch.rand(256, 1, 8, 8)
    bad[:3, 0, 2, 2] = math.nan
    snapshots(folder, {0: torch.rand(256, 1, 8, 8), 10: bad, 20: torch.full((256, 1, 8, 8), math.inf)})
    run = reading.read_run(folder)
    assert [moment.bad for moment in animation.moments(run)] == [0, 3, 256]
    assert "3 of 256 not finite" in animation.moments(run)[1].label
    assert "not finite, after 10, 20 steps" in write_report(folder).read_text()
    plane = write_plane(tmp_path / "plane")
    snapshots(plane, {0: torch.full((30, 2), math.nan), 9: torch.randn(30, 2)})
    assert "not finite, after 0 steps" in write_report(plane).read_text()


def test_what_cannot_be_animated_leaves_no_file(tmp_path):
    table, text, one = write_table(tmp_path / "table"), write_text(tmp_path / "text"), pictures(tmp_path, steps=(0,))
    snapshots(table, {0: torch.randn(20, 5).double(), 9: torch.randn(20, 5).double()})
    snapshots(text, {0: torch.ones(20, 12, dtype=torch.int64), 9: torch.ones(20, 12, dtype=torch.int64)})
    for folder in (table, text, one):
        (folder / "samples.gif").write_text("stale")
        write_report(folder)
        assert not (folder / "samples.gif").exists()
        assert not (folder / "strip.png").exists()


def test_records_show_their_first_field_that_can_be_seen(tmp_path):
    space = Record({"t": Table(columns_of(Vector(3))), "v": Vector(2)})
    folder = write_run(tmp_path / "run", "gaussian", space, torch.zeros(1), torch.zeros(1))
    for name in ("real", "final", "0", "5"):
        save_file({"v": torch.randn(50, 2), "t": torch.randn(50, 3)}, folder / "samples" / f"{name}.safetensors")
    run = reading.read_run(folder)
    assert [moment.values.shape for moment in animation.moments(run)] == [(50, 2), (50, 2)]
    assert animation.strip(run) is not None


def test_large_colour_pictures_stay_small_enough(tmp_path):
    noise = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    folder = write_run(tmp_path / "run", "gan", Image((3, 32, 32), 256), noise, noise)
    snapshots(folder, {step: noise.roll(step, 0) for step in range(24)})
    content = animation.animation(reading.read_run(folder))
    assert content is not None
    assert len(content) <= 2 * animation.MOST_BYTES


def test_many_snapshots_are_thinned_evenly(tmp_path):
    folder = pictures(tmp_path, steps=range(0, 100, 2))
    steps = [step for step, _ in reading.read_run(folder).snapshots]
    assert len(steps) == reading.SNAPSHOTS
    assert (steps[0], steps[-1]) == (0, 98)


# What the trainer leaves.


def fitted(name, folder=None, data="digits", **options):
    import manykin as mk

    return mk.fit(name, data, preset="tiny", out=folder, **options)


def steps_of(folder):
    return sorted(int(path.stem) for path in (folder / "samples").glob("*.safetensors") if path.stem.isdigit())


@pytest.mark.parametrize("name", ["vae", "gan", "realnvp", "gaussian-mixture"])
def test_samples_on_the_way_leave_training_as_it_is(tmp_path, name):
    plain = fitted(name, data="two-moons", max_steps=12)
    sampled = fitted(name, tmp_path / "run", data="two-moons", max_steps=12, train={"sample_every": 1})
    assert len(steps_of(tmp_path / "run")) > 1
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, sampled.model.state_dict()[key]), key


def test_samples_are_written_at_the_start_and_at_the_end_from_the_same_noise(tmp_path):
    run = fitted("realnvp", tmp_path / "run", data="two-moons", max_steps=10)
    found = steps_of(tmp_path / "run")
    assert (found[0], found[-1]) == (0, 10)
    last = load_file(tmp_path / "run" / "samples" / "10.safetensors")["x"]
    assert len(last) == SAMPLES
    from manykin.random import hash_seed

    assert torch.equal(last, run.model.sample(SAMPLES, seed=hash_seed(run.seed, "samples")))


def test_sample_every_overrides_and_zero_means_never(tmp_path):
    fitted("vae", tmp_path / "never", max_steps=6, train={"sample_every": 0})
    fitted("vae", tmp_path / "two", max_steps=6, train={"sample_every": 2})
    assert steps_of(tmp_path / "never") == []
    assert steps_of(tmp_path / "two") == [2, 4, 6]
    plan = Plan.of(TrainOptions(sample_every=0, save_every=50, log_every=50, eval_every=50), 100, False, True)
    assert [plan.samples_at(step) for step in (0, 50, 100)] == [False, False, False]
    assert plan.next_event(0) == 50
    plan = Plan.of(TrainOptions(save_every=40), 100, False, True)
    assert [step for step in range(101) if plan.samples_at(step)] == [0, 40, 80, 100]


class Slow:
    """Wraps the sampler of a model so that a draw takes a while, or fails."""

    def __init__(self, model, seconds, failing=False):
        self.seconds, self.failing, self.draws = seconds, failing, 0
        self.inner, model._sample = model._sample, self

    def __call__(self, n, condition, sampler):
        import time

        self.draws += 1
        time.sleep(self.seconds)
        if self.failing:
            raise RuntimeError("cannot draw")
        return self.inner(n, condition, sampler)


def flow(tmp_path):
    from manykin.data import load_data
    from manykin.models import get

    data = load_data("two-moons")
    cls = get("realnvp")
    return cls(cls.config_class(**cls.presets["tiny"].model), data.space), data, RunFolder.create(tmp_path / "run")


def test_slow_samplers_leave_fewer_pictures(tmp_path):
    model, data, run = flow(tmp_path)
    slow = Slow(model, 0.5)
    result = train(model, data, TrainOptions(max_steps=40, save_every=4), run=run)
    assert slow.draws <= 2 + result.seconds / (SHARE * 0.5)
    assert steps_of(tmp_path / "run")[0] == 0


def test_slow_samplers_do_not_overrun_the_time(tmp_path):
    model, data, run = flow(tmp_path)
    slow = Slow(model, 0.3)
    result = train(model, data, TrainOptions(max_time=3.0), run=run)
    assert slow.draws >= 1
    spent = 0.3 * slow.draws
    assert result.steps > 20
    assert spent <= 0.3 * 2 + result.seconds / SHARE


def test_a_model_that_cannot_draw_is_trained_all_the_same(tmp_path):
    model, data, run = flow(tmp_path)
    slow = Slow(model, 0.0, failing=True)
    assert train(model, data, TrainOptions(max_steps=5), run=run).steps == 5
    assert slow.draws > 0
    assert steps_of(tmp_path / "run") == []
