"""Feature extractors: the own network and its cache, TorchScript files, hub networks, and what each of them refuses."""

import dataclasses
import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn

from manykin.data import load_data
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput, ManykinWarning, MissingExtra
from manykin.metrics.case import Case
from manykin.metrics.extractor import Extractor
from manykin.metrics.features import cache, choose_extractor, torchscript, training
from manykin.metrics.features.common import as_bytes, in_batches, weights_hash
from manykin.metrics.features.network import FeatureNet
from manykin.metrics.frechet import frechet_distance
from manykin.spaces import Image, Labels, Vector

Z = 3.7
"""One-sided p = 1e-4."""


def digits_case():
    data = load_data("digits")
    return Case(data.space, data.train, data.test, data.test.all().x, None, data.classes)


@pytest.fixture(scope="module")
def digits():
    return digits_case()


@pytest.fixture(scope="module")
def own(digits):
    return choose_extractor("own", digits, "digits")


@pytest.fixture
def few(monkeypatch, tmp_path):
    """An empty cache and a handful of steps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(training, "FEWEST_STEPS", 8)
    monkeypatch.setattr(training, "EPOCHS", 1)
    monkeypatch.setattr(training, "VIEW_STEPS", 8)
    return tmp_path / "manykin" / "extractors"


def unlabelled(case):
    return dataclasses.replace(case, train=dataclasses.replace(case.train, label=None))


def pictures(space, n=80, labels=None, classes=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = (
        torch.randn((n, *space.shape), generator=draw)
        if space.levels is None
        else torch.randint(space.levels, (n, *space.shape), generator=draw, dtype=space.dtype)
    )
    return Case(space, Rows(x, label=labels), Rows(x[:20]), x[:20], None, classes)


def spoiled(x, kind, seed=1):
    """Digits with noise of so many levels, or two halves of different digits glued together."""
    draw = torch.Generator().manual_seed(seed)
    if kind == "glued":
        other = x[torch.randperm(len(x), generator=draw)]
        return torch.cat([x[..., :4], other[..., 4:]], dim=-1)
    return (x + kind * torch.randn(x.shape, generator=draw)).round().clamp(0, 16).to(torch.uint8)


def test_own_network_is_a_good_classifier_with_a_name(own, digits):
    assert isinstance(own, Extractor)
    assert own.name == f"own network {own.hash[:8]} (10 classes)"
    assert len(own.hash) == 64
    assert not own.inception
    assert own.accuracy >= 0.96
    x, labels = digits.test.all().x, digits.test.labels
    probabilities = own.probabilities(x)
    assert probabilities.shape == (360, 10)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(360), atol=1e-5)
    right = float((probabilities.argmax(dim=1) == labels).double().mean())
    assert right >= 0.96 - Z * math.sqrt(0.96 * 0.04 / 360)


def test_own_features_are_standardised_and_dense(own, digits):
    found = own.features(digits.train.all().x)
    assert found.shape == (1437, 64)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert float(found.std(dim=0).min()) > 0.5
    assert float((found == 0).double().mean()) < 1e-3
    assert torch.allclose(own.features(digits.test.all().x[:7]), own.features(digits.test.all().x)[:7], atol=1e-5)


@pytest.fixture(scope="module")
def views(digits, tmp_path_factory):
    """The self-supervised network after two fifths of its usual steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("views")))
        patch.setattr(training, "VIEW_STEPS", 120)
        return choose_extractor("own", unlabelled(digits), "digits")


def test_self_supervised_network_is_no_classifier(views, digits):
    assert views.name == f"own network {views.hash[:8]} (self-supervised)"
    assert views.probabilities(digits.samples) is None
    assert views.accuracy is None


@pytest.mark.parametrize("kind", ["own", "views"])
def test_frechet_distance_ranks_noise_on_digits(request, digits, kind):
    extractor = request.getfixturevalue(kind)
    real, base = extractor.features(digits.test.all().x), digits.train.all().x[:360]
    found = [frechet_distance(real, extractor.features(x)) for x in (base, spoiled(base, 3), spoiled(base, 8))]
    for lower, higher in pairwise(found):
        assert higher.value - lower.value > Z * math.hypot(lower.stderr, higher.stderr), found


def test_training_beats_random_features(own, views, digits):
    """How many times its floor the distance of spoiled pictures is: what a trained network adds to a random one of the same shape."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = FeatureNet((1, 8, 8), 10).eval().requires_grad_(False)
        net.mean.fill_(4.9)
        net.spread.fill_(6.0)
    base, held = digits.train.all().x[:360], digits.test.all().x
    for kind in (3, 8, "glued"):
        ratios = []
        for features in (lambda x: net.features(net.standardise(x)), views.features, own.features):
            floor, bad = (frechet_distance(features(held), features(x)).value for x in (base, spoiled(base, kind)))
            ratios.append(bad / floor)
        assert min(ratios[1:]) > 1.3 * ratios[0], (kind, ratios)


def test_hash_follows_data_labels_and_seed_alone(digits, few):
    small = dataclasses.replace(digits, train=digits.train.select(torch.arange(300)), seed=5)
    first = choose_extractor("own", small, "digits")
    for file in few.iterdir():
        file.unlink()
    state = torch.random.get_rng_state()
    again = choose_extractor("own", dataclasses.replace(small, seed=77), "digits")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.hash == first.hash
    others = [
        choose_extractor("own:1", small, "digits"),
        choose_extractor("own", unlabelled(small), "digits"),
        choose_extractor("own", dataclasses.replace(small, train=digits.train.select(torch.arange(1, 301))), "digits"),
    ]
    assert len({first.hash, *(other.hash for other in others)}) == 4
    assert len(list(few.iterdir())) == 4


@pytest.mark.parametrize("labelled", [True, False])
def test_cache_hit_equals_training(digits, few, monkeypatch, labelled):
    case = digits if labelled else unlabelled(digits)
    first = choose_extractor("own", case, "digits")
    monkeypatch.setattr(training, "_fit", None)
    again = choose_extractor("own", case, "digits")
    assert (again.name, again.hash, again.accuracy) == (first.name, first.hash, first.accuracy)
    x = digits.test.all().x
    assert torch.equal(again.features(x), first.features(x))
    assert not labelled or torch.equal(again.probabilities(x), first.probabilities(x))


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "weights"])
def test_damaged_cache_is_trained_anew(digits, few, damage):
    first = choose_extractor("own", digits, "digits")
    (path,) = few.iterdir()
    whole = path.read_bytes()
    if damage == "weights":
        path.write_bytes(whole[:-4] + b"\x00\x00\x80\x3f")
    else:
        path.write_bytes({"truncated": whole[:1000], "empty": b"", "foreign": b"not a safetensors file" * 9}[damage])
    with pytest.warns(ManykinWarning, match=r"is damaged .* trained anew"):
        again = choose_extractor("own", digits, "digits")
    assert again.hash == first.hash
    assert path.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_extractor("own", digits, "digits").hash == first.hash


def test_unwritable_cache_costs_a_warning_only(digits, few):
    few.parent.mkdir()
    few.write_text("a file where the folder should be")
    with pytest.warns(ManykinWarning, match="could not be written"):
        assert choose_extractor("own", digits, "digits").accuracy is not None


def test_cache_file_is_plain(digits, few):
    cache.store("ab" * 32, {"w": torch.ones(2)}, {"hash": weights_hash({"w": torch.ones(2)}), "accuracy": None})
    state, facts = cache.load("ab" * 32)
    assert torch.equal(state["w"], torch.ones(2))
    assert facts["accuracy"] is None
    assert cache.load("cd" * 32) is None
    assert [path.name for path in few.iterdir()] == ["ab" * 16 + ".safetensors"]


@pytest.mark.parametrize(
    "space",
    [
        Image((1, 4, 4), 2), Image((3, 5, 9), None), Image((2, 33, 40), 256), Image((1, 4, 300), 256), Image((4, 90, 70), 1000),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("classes", [None, 3])
def test_any_picture_gets_features(few, space, classes):
    labels = None if classes is None else torch.arange(80) % 3
    case = pictures(space, labels=labels, classes=None if classes is None else Labels(3))
    found = choose_extractor("own", case, "own pictures")
    assert found.features(case.samples).shape == (20, 64)
    assert torch.isfinite(found.features(case.samples)).all()
    assert classes is None or found.probabilities(case.samples).shape == (20, 3)


def test_constant_pictures_are_no_accident(few):
    case = pictures(Image((1, 8, 8), 17))
    x = torch.full((80, 1, 8, 8), 3, dtype=torch.uint8)
    case = dataclasses.replace(case, train=Rows(x), test=Rows(x), samples=x)
    assert torch.isfinite(choose_extractor("own", case, "blank").features(x)).all()


@pytest.mark.parametrize(
    "labels,told",
    [
        (torch.zeros(80, dtype=torch.long), "self-supervised: the labels hold a single class"),
        (torch.arange(80), "self-supervised: 80 classes in 80 rows"),
        (torch.where(torch.arange(80) < 20, torch.arange(80) % 2, -1), "self-supervised: only 20 rows have labels"),
        (torch.where(torch.arange(80) < 60, torch.arange(80) % 2, -1), "2 classes"),
    ],
)
def test_labels_that_do_not_teach_are_left_aside(few, labels, told):
    case = pictures(Image((1, 8, 8), 17), labels=labels, classes=Labels(80))
    assert choose_extractor("own", case, "own pictures").name.endswith(f"({told})")


def test_without_training_rows_the_held_out_ones_serve(digits, few):
    name = choose_extractor("own", dataclasses.replace(digits, train=None), "digits").name
    assert name.endswith("(10 classes, trained on the held-out rows)")


@pytest.mark.parametrize(
    "features,told",
    [
        ("resnet", "'resnet' are not known"),
        ("own:x", "'x' is no seed"),
        ("own:-1", "'-1' is no seed"),
        ("missing.pt", "there is no such file"),
        ("inception:missing", "'missing': there is no such file"),
        ("a/b/c", "'a/b/c' are not known"),
        (3, "features is a int"),
    ],
)
def test_wrong_words_are_one_line(digits, features, told):
    with pytest.raises(InvalidInput, match=told) as caught:
        choose_extractor(features, digits, "digits")
    assert "\n" not in str(caught.value)


def test_data_that_cannot_teach_are_one_line(digits, few):
    cases = [
        (pictures(Image((1, 3, 9), 17)), "3 x 9 pixels are too small"),
        (dataclasses.replace(digits, train=digits.train.select(torch.arange(49))), "has 49 training pictures; .* at least 50"),
        (Case(Vector(2), None, Rows(torch.zeros(5, 2)), torch.zeros(5, 2)), r"Vector\(2\); use features='none'"),
        (pictures(Image((1, 8, 8), 5, ordinal=False)), "are for pictures"),
    ]
    for case, told in cases:
        with pytest.raises(InvalidInput, match=told):
            choose_extractor("own", case, "my data")
        assert choose_extractor("none", case, "my data") is None
    assert not few.exists()


def test_an_extractor_is_taken_as_it_is(own, digits):
    assert choose_extractor(own, digits, "digits") is own


class Published(nn.Module):
    """Called as the published Inception file is; its features are the means of the three channels, so that its input can be checked."""

    def forward(self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False) -> torch.Tensor:
        means = x.float().mean(dim=(2, 3))
        if return_features:
            return means[:, :, None, None]
        return torch.softmax(means, dim=1)


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.amin(dim=(1, 2, 3)), x.amax(dim=(1, 2, 3))], dim=1)


class Scalar(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean()


class Maps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2, ::2]


class Wide(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), 3, 100)


@pytest.fixture
def scripted(tmp_path):
    def save(module):
        path = tmp_path / f"{type(module).__name__}.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(module).save(path)
        return path

    return save


def test_torchscript_file_gets_bytes(scripted, digits):
    path = scripted(Plain())
    found = choose_extractor(str(path), digits, "digits")
    assert found.name == f"Plain.pt ({found.hash[:8]})"
    assert not found.inception
    assert found.probabilities(digits.samples) is None
    assert torch.equal(found.features(digits.samples)[:, 1], (digits.samples.amax(dim=(1, 2, 3)).double() * 255 / 16).round().float())


def test_inception_is_only_what_is_named_so(scripted, digits, monkeypatch):
    path = scripted(Published())
    unnamed, named = (choose_extractor(f"{prefix}{path}", digits, "digits") for prefix in ("", "inception:"))
    assert (unnamed.inception, named.inception) == (False, False)
    assert named.name.startswith("Published.pt, fed like Inception (")
    assert unnamed.probabilities(digits.samples) is None
    assert torch.allclose(named.probabilities(digits.samples).sum(dim=1), torch.ones(360))
    assert torch.allclose(named.features(digits.samples), unnamed.features(digits.samples))
    assert named.features(digits.samples).shape == (360, 3)
    monkeypatch.setitem(torchscript.INCEPTION, unnamed.hash, "a known file")
    known = choose_extractor(str(path), digits, "digits")
    assert known.inception
    assert known.name == f"Inception ({known.hash[:8]})"


@pytest.mark.parametrize(
    "module,told", [(Scalar(), r"returned \(\) of"), (Maps(), r"returned \(\d+, 3, 4, 4\)"), (Wide(), "cannot look at pictures")]
)
def test_wrong_output_is_one_line(scripted, digits, module, told):
    with pytest.raises(InvalidInput, match=told) as caught:
        choose_extractor(str(scripted(module)), digits, "digits").features(digits.samples)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_torchscript(tmp_path, digits):
    path = tmp_path / "notes.pt"
    path.write_text("nothing to run")
    with pytest.raises(InvalidInput, match="is not a TorchScript file") as caught:
        choose_extractor(str(path), digits, "digits")
    assert "\n" not in str(caught.value)


def test_pictures_become_bytes():
    real = pictures(Image((3, 4, 4), None))
    whole = as_bytes(real, "x")(real.train.all().x)
    assert (float(whole.min()), float(whole.max())) == (0.0, 255.0)
    assert torch.equal(whole, whole.round())
    with pytest.raises(InvalidInput, match=r"1 or 3 channels; these have 2"):
        as_bytes(pictures(Image((2, 4, 4), 256)), "x")


def test_batches_are_bounded():
    sizes = []
    found = in_batches(torch.zeros(1500, 1, 2, 2), lambda part: sizes.append(len(part)) or part.flatten(1))
    assert found.shape == (1500, 4)
    assert sizes == [512, 512, 476]
    sizes.clear()
    in_batches(torch.zeros(5, 3, 300, 300), lambda part: sizes.append(len(part)) or part.flatten(1))
    assert sizes == [3, 2]
    sizes.clear()
    in_batches(torch.zeros(5, 1, 2, 2), lambda part: sizes.append(len(part)) or part.flatten(1), 2)
    assert sizes == [2, 2, 1]


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("hub") / "tiny-dino"
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Dinov2Model(config).eval()
    network.save_pretrained(folder)
    return folder, network


def test_hub_network_is_the_network_itself(dino, digits):
    """Features equal the class token of the same network on pictures prepared by hand."""
    folder, network = dino
    found = choose_extractor(str(folder), digits, "digits")
    assert found.name == f"tiny-dino ({found.hash[:8]})"
    assert found.hash == weights_hash(network.state_dict())
    assert (found.inception, found.revision, found.probabilities(digits.samples)) == (False, None, None)
    x = digits.samples[:3]
    big = nn.functional.interpolate((x * (255 / 16)).round().expand(-1, 3, -1, -1), (224, 224), mode="bicubic", antialias=True).clamp(0, 255) / 255
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        token = network(pixel_values=(big - mean[:, None, None]) / spread[:, None, None]).last_hidden_state[:, 0]
    features = found.features(x)
    assert features.shape == (3, 16)
    assert torch.allclose(features, token, atol=1e-4)


def test_hub_refusals_are_one_line(dino, digits, tmp_path, monkeypatch):
    import shutil
    import sys

    folder, _ = dino
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match="could not be loaded") as caught:
        choose_extractor(str(bare), digits, "digits")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InvalidInput, match="'nobody/nothing' could not be loaded") as caught:
        choose_extractor("nobody/nothing", digits, "digits")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r'pip install "manykin\[hub\]"'):
        choose_extractor("facebook/dinov2-small", digits, "digits")


def test_partly_random_hub_network_is_refused(dino, digits, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder, _ = dino
    shutil.copytree(folder, tmp_path / "part")
    state = load_file(tmp_path / "part" / "model.safetensors")
    lost = sorted(state)[-1]
    save_file({name: tensor for name, tensor in state.items() if name != lost}, tmp_path / "part" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidInput, match="partly random"):
        choose_extractor(str(tmp_path / "part"), digits, "digits")
