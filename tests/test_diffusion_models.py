"""The models ddpm and flow-matching: what they learn, how they are guided, what they fill in, and what they refuse."""

import json

import numpy as np
import pytest
import torch

import manykin as mk
from manykin.cli.run import run
from manykin.decoding import Decoding
from manykin.diffusion import DDIM, Ancestral, DPMSolver, Heun
from manykin.errors import InvalidInput, NoDensity, Unsupported
from manykin.models.diffusion.ddpm import DDPM, DDPMConfig
from manykin.models.diffusion.flow_matching import FlowMatching, FlowMatchingConfig
from manykin.spaces import Image, Labels, Vector

MODELS = ("ddpm", "flow-matching")
CLASSES = {"ddpm": (DDPM, DDPMConfig), "flow-matching": (FlowMatching, FlowMatchingConfig)}
SMALL = {"hidden": (48, 48), "ode_steps": 10}
FAST = {"batch_size": 256, "lr": 5e-3, "schedule": "cosine", "ema": 0.98}


def blobs(n=600, seed=0):
    """Two classes of points around (4, 0) and (-4, 0), each with standard deviations 1 and 0.5 and another tilt."""
    g = np.random.default_rng(seed)
    y = g.integers(2, size=n)
    noise = g.normal(size=(n, 2)) * [1.0, 0.5]
    noise[:, 1] += 0.8 * noise[:, 0] * np.where(y == 1, 1, -1)
    return np.stack([np.where(y == 1, 4.0, -4.0), np.zeros(n)], axis=1) + noise, y


def squares(n=256, height=5, width=7, seed=0):
    """Dark pictures with a bright square of 3 x 3 at one of the places, labelled by the half that it begins in."""
    g = np.random.default_rng(seed)
    x, left = np.zeros((n, height, width), dtype=np.uint8), g.integers(width - 2, size=n)
    for row, column in enumerate(left):
        top = g.integers(height - 2)
        x[row, top : top + 3, column : column + 3] = 255
    return x, (left > (width - 3) / 2).astype(int)


@pytest.fixture(scope="module", params=MODELS)
def labelled(request):
    x, y = blobs()
    return mk.fit(request.param, x, condition=y, preset="tiny", options=SMALL, train=FAST, max_steps=250, seed=0)


@pytest.fixture(scope="module", params=MODELS)
def pictured(request):
    x, y = squares()
    options = {"network": "unet", "widths": (12, 16), "dropout": 0.0}
    return mk.fit(request.param, x, condition=y, preset="tiny", options=options, train={**FAST, "batch_size": 64}, max_steps=150, seed=0)


def test_conditional_samples_and_density_follow_the_labels(labelled):
    for label, centre in ((0, -4.0), (1, 4.0)):
        x = labelled.sample(600, condition=label, seed=1)
        assert abs(x[:, 0].mean() - centre) < 0.4
        assert 0.6 < x[:, 0].std() < 1.5
        assert np.sign(np.corrcoef(x.T)[0, 1]) == (1 if label else -1)
    x, y = blobs(200, seed=1)
    assert (labelled.log_prob(x, y) > labelled.log_prob(x, 1 - y)).mean() > 0.98


def test_likelihood_is_an_estimate_near_the_truth(labelled):
    x, y = blobs(400, seed=2)
    along = x[:, 0] - np.where(y == 1, 4.0, -4.0)
    across = x[:, 1] - 0.8 * along * np.where(y == 1, 1, -1)
    exact = -0.5 * along**2 - 2 * across**2 + np.log(2) - np.log(2 * np.pi)
    gap = exact - labelled.log_prob(x, y)
    assert labelled.density.strength == "estimate"
    assert abs(gap.mean()) < 0.25


@pytest.mark.parametrize(
    "solver", [Heun(guidance_scale=3), DPMSolver(guidance_scale=3), DDIM(guidance_scale=3)], ids=lambda each: type(each).__name__
)
def test_guidance_exaggerates_the_label(labelled, solver):
    plain = labelled.sample(300, condition=1, seed=3)
    guided = labelled.sample(300, condition=1, seed=3, sampler=solver)
    assert guided[:, 0].mean() > plain[:, 0].mean() + 0.03
    free = labelled.sample(300, condition=1, seed=3, sampler=type(solver)(guidance_scale=0))
    assert (free[:, 0] < 0).mean() > 0.2


def test_wrong_times_make_the_network_worse(labelled):
    model = labelled.model
    x, y = blobs(512, seed=3)
    z, _, c = model.prepare(torch.tensor(x), torch.tensor(y))
    torch.manual_seed(0)
    t, noise, context = torch.rand(512).clamp(0.02, 0.98), torch.randn_like(z), model.features(c, z.dtype)
    alpha, sigma = model.denoiser.schedule.alpha(t)[:, None], model.denoiser.schedule.sigma(t)[:, None]
    told = [model.denoiser.given(context)(alpha * z + sigma * noise, t).x0]
    own = model.denoiser.network
    model.denoiser.network = torch.nn.Identity()
    model.denoiser.network.forward = lambda x, t, context: own(x, t.flip(0), context)
    told.append(model.denoiser.given(context)(alpha * z + sigma * noise, t).x0)
    model.denoiser.network = own
    right, wrong = ((alpha * (guess - z) / sigma).square().clamp_max(100).mean() for guess in told)
    assert wrong > 1.15 * right


def test_unet_draws_pictures_of_odd_sizes(pictured):
    x = pictured.sample(32, condition=1, seed=0)
    assert x.shape == (32, 5, 7)
    assert x.dtype == np.uint8
    real, _ = squares(256, seed=1)
    assert abs((x > 127).mean() - (real > 127).mean()) < 0.1
    assert ((x > 60) & (x < 195)).mean() < 0.25
    halves = [pictured.sample(32, condition=label, seed=0, sampler=DPMSolver(guidance_scale=2)).astype(float) for label in (0, 1)]
    assert halves[1][:, :, 5:].mean() > halves[0][:, :, 5:].mean() + 30


def test_unet_fills_in_what_is_missing(pictured):
    x, y = squares(32, seed=2)
    known = np.zeros(x.shape, dtype=bool)
    known[:, :, :4] = True
    filled = pictured.complete(x, known, condition=y, seed=0)
    assert (filled[known] == x[known]).all()
    alike = ((filled > 127) == (x > 127))[~known].mean()
    blind = ((pictured.sample(32, condition=y, seed=0) > 127) == (x > 127))[~known].mean()
    assert alike > blind


def test_unet_is_saved_and_loaded(pictured, tmp_path):
    again = mk.from_pretrained(pictured.save_pretrained(tmp_path / "run"))
    sampler = DPMSolver(num_inference_steps=3)
    drawn = [each.sample(4, condition=[0, 1, 0, 1], seed=0, sampler=sampler) for each in (pictured, again)]
    assert (drawn[0] == drawn[1]).all()


def test_pictures_have_no_likelihood_unless_asked_for(pictured):
    assert pictured.density is None
    with pytest.raises(NoDensity):
        pictured.log_prob(squares(2)[0], [0, 1])
    kind, config = CLASSES[pictured.name]
    model = kind(config(network="mlp", likelihood="ode", hidden=(8,), ode_steps=2), Image((1, 5, 5), None))
    assert (model.density.noisy, model.density.bias) == (True, "unknown")
    assert model.log_prob(torch.rand(3, 1, 5, 5)).shape == (3,)
    assert kind(config(likelihood="none"), Vector(2)).density is None


@pytest.mark.parametrize("name", MODELS)
def test_more_integration_steps_agree(name):
    x, _ = blobs()
    few, many = (
        mk.fit(name, x, preset="tiny", options={"hidden": (24,), "ode_steps": steps}, max_steps=40, seed=0).log_prob(x[:64]) for steps in (24, 96)
    )
    assert np.abs(few - many).max() < 0.05


@pytest.mark.parametrize("name", MODELS)
def test_the_error_of_the_integrator_is_estimated(name):
    x, _ = blobs()
    found = {}
    for steps in (8, 96):
        found[steps] = mk.fit(name, x, preset="tiny", options={"hidden": (24,), "ode_steps": steps}, max_steps=40, seed=0).model
    rows = torch.tensor(x[:64])
    true = (found[8].log_prob(rows) - found[96].log_prob(rows)).abs()
    told = found[8].integration_error(rows)
    assert told.shape == (64,)
    assert 0.5 < float(told.mean() / true.mean()) < 20
    assert torch.equal(told, found[8].integration_error(rows))
    assert float(found[96].integration_error(rows).mean()) < 0.25 * float(told.mean())
    silent = CLASSES[name][0](CLASSES[name][1](likelihood="none"), Vector(2))
    with pytest.raises(NoDensity, match="model.likelihood ode"):
        silent.integration_error(rows)


@pytest.mark.parametrize("name", MODELS)
class TestErrors:
    def test_guidance_needs_a_condition(self, name):
        fitted = mk.fit(name, blobs(64)[0], preset="tiny", max_steps=1)
        with pytest.raises(InvalidInput, match="guidance_scale = 2 needs a condition.*leave it out"):
            fitted.sample(2, sampler=Heun(guidance_scale=2))

    def test_guidance_needs_hidden_labels(self, name):
        x, y = blobs(64)
        fitted = mk.fit(name, x, condition=y, preset="tiny", options={"label_dropout": 0}, max_steps=1)
        assert fitted.sample(2, condition=1, sampler=Heun(guidance_scale=1)).shape == (2, 2)
        with pytest.raises(InvalidInput, match="label_dropout above 0"):
            fitted.sample(2, condition=1, sampler=Heun(guidance_scale=2))

    def test_negative_guidance_and_steps_are_refused(self, name):
        with pytest.raises(InvalidInput, match="guidance_scale = -1"):
            Heun(guidance_scale=-1)
        with pytest.raises(InvalidInput, match="num_inference_steps = 0.*expected an integer ≥ 1"):
            Ancestral(num_inference_steps=0)
        with pytest.raises(InvalidInput, match=r"eta = 1\.5"):
            DDIM(eta=1.5)

    def test_unknown_labels_are_named(self, name):
        x, y = blobs(64)
        fitted = mk.fit(name, x, condition=y, preset="tiny", max_steps=1)
        with pytest.raises(InvalidInput, match="condition 7 is not a label of this model; expected one of 0, 1"):
            fitted.sample(2, condition=7)

    def test_unet_wants_pictures_of_some_size(self, name):
        kind, config = CLASSES[name]
        for space in (Vector(3), Image((1, 3, 8), 17)):
            with pytest.raises(InvalidInput, match="needs pictures of at least 4 x 4, not .*choose --model.network mlp") as told:
                kind(config(network="unet"), space)
            assert not isinstance(told.value, Unsupported)
        assert kind(config(), Image((1, 3, 8), 17)).sample(2, seed=0).shape == (2, 1, 3, 8)

    @pytest.mark.parametrize("options, message", [({"hidden": ()}, "model.hidden = ().*128,128,128"), ({"widths": ()}, "model.widths = ().*32,64")])
    def test_networks_without_layers_are_refused(self, name, options, message):
        with pytest.raises(InvalidInput, match=message.replace("()", r"\(\)")):
            CLASSES[name][1](**options)

    def test_foreign_samplers_are_refused(self, name):
        model = CLASSES[name][0](None, Vector(2))
        x, known = torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.bool)
        for call in (lambda: model.sample(3, sampler=Decoding()), lambda: model.complete(x, known, sampler=Decoding())):
            with pytest.raises(InvalidInput, match="sampler Decoding does not fit .*; expected one of: Heun, DPMSolver"):
                call()

    def test_guidance_that_explodes_is_named(self, name):
        x, y = blobs(64)
        fitted = mk.fit(name, x, condition=y, preset="tiny", max_steps=5)
        far = Heun(guidance_scale=1e30)
        known = np.zeros(x[:4].shape, dtype=bool)
        for call in (lambda: fitted.sample(4, condition=1, sampler=far), lambda: fitted.complete(x[:4], known, condition=1, sampler=far)):
            with pytest.raises(InvalidInput, match=r"guidance_scale = 1e\+30 leads to NaN or infinity; choose a lower one"):
                call()

    def test_masks_are_checked(self, name):
        model = CLASSES[name][0](None, Vector(2))
        with pytest.raises(InvalidInput, match="expected booleans of the shape of x"):
            model.complete(torch.zeros(3, 2), torch.zeros(3, 2))


def test_options_reach_the_schedule_and_prediction():
    for schedule in ("linear", "cosine"):
        for prediction in ("epsilon", "x0", "v"):
            model = DDPM(DDPMConfig(schedule=schedule, prediction=prediction, hidden=(8,)), Vector(2))
            assert type(model.denoiser.schedule).__name__.lower() == schedule
            assert model.denoiser.prediction == prediction
            assert model.sample(3, seed=0).shape == (3, 2)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_every_prediction_learns_the_moments(prediction, schedule):
    x, _ = blobs()
    options = {**SMALL, "prediction": prediction, "schedule": schedule}
    fitted = mk.fit("ddpm", x, preset="tiny", options=options, train=FAST, max_steps=200, seed=0)
    drawn = fitted.sample(1000, seed=0)
    assert np.abs(drawn.mean(0) - x.mean(0)).max() < 0.8
    assert abs(drawn[:, 0].std() / x[:, 0].std() - 1) < 0.2
    assert abs(drawn[:, 1].std() / x[:, 1].std() - 1) < 0.6


def test_training_times_cover_the_schedule():
    for times in ("uniform", "logit-normal"):
        model = FlowMatching(FlowMatchingConfig(times=times, hidden=(8,)), Vector(2))
        torch.manual_seed(0)
        t = model._times(4096, torch.zeros(1))
        schedule = model.denoiser.schedule
        assert schedule.first <= float(t.min()) < 0.01
        assert 0.99 < float(t.max()) <= schedule.last
        assert 0.45 < float(t.mean()) < 0.55


def test_command_line_guides_by_label(tmp_path, capsys):
    x, y = blobs(100)
    data = tmp_path / "data.npz"
    np.savez(data, x_train=x.astype(np.float32), y_train=y, x_test=x[:20].astype(np.float32), y_test=y[:20])
    folder = tmp_path / "run"
    assert (
        run(["fit", "flow-matching", str(data), "--condition", "label", "--preset", "tiny", "--max-steps", "5", "--out", str(folder), "--quiet"]) == 0
    )
    out = tmp_path / "drawn.npy"
    wanted = ["--sampler", "heun", "--sampler.guidance_scale", "2", "--sampler.num_inference_steps", "5", "--condition", "label=1"]
    capsys.readouterr()
    assert run(["sample", str(folder), "-n", "7", *wanted, "--seed", "0", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 7
    assert np.load(out).shape == (7, 2)


def test_label_space_is_kept():
    assert FlowMatching(FlowMatchingConfig(hidden=(8,)), Vector(2), Labels(3)).hidden is not None
    assert FlowMatching(FlowMatchingConfig(hidden=(8,), label_dropout=0), Vector(2), Labels(3)).hidden is None
