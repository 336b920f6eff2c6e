"""Class figures on planted class histograms, against hand-computed values, and on digits of which one class was dropped."""

import dataclasses
import math

import pytest
import torch
from scipy.stats import binom

from manykin.data import load_data
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.metrics.classes import METRIC, class_coverage, class_distance, condition_accuracy, confidence
from manykin.metrics.judge import figure, judge
from manykin.spaces import Image, Labels

Z = 3.9
"""Two-sided p = 1e-4."""
SPACE = Image((1, 4, 4), 17)


class Oracle:
    """Knows the class of a picture from its first pixel, with a given confidence."""

    name, hash, inception = "oracle", "0" * 64, False

    def __init__(self, classes=4, sure=0.97):
        self.classes, self.sure = classes, sure

    def features(self, x):
        return x.flatten(1).float()

    def probabilities(self, x):
        rest = (1 - self.sure) / (self.classes - 1)
        one = torch.nn.functional.one_hot(x[:, 0, 0, 0].long(), self.classes).float()
        return one * (self.sure - rest) + rest


def rows(labels):
    x = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    x[:, 0, 0, 0] = labels.to(torch.uint8)
    return Rows(x, label=labels)


def draw(shares, n, seed):
    return torch.multinomial(torch.tensor(shares), n, replacement=True, generator=torch.Generator().manual_seed(seed))


def planted(shares, *, labels=None, extractor=None, names=None, n=2000):
    even = [0.25] * 4
    return Case(
        SPACE, rows(draw(even, 3000, 1)), rows(draw(even, n, 2)), rows(draw(shares, n, 3)).x, labels, Labels(4, names), 0, None, extractor or Oracle()
    )


def figures(case):
    found = judge(case, ["classes"])
    return {each.name: each for each in found.estimates}, found


def test_class_distance_is_the_total_variation():
    real, fake = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2]), torch.tensor([0, 0, 0, 0, 3])
    found = class_distance(real, fake)
    assert found.value == pytest.approx(0.5 * (abs(0.25 - 0.8) + 0.25 + 0.5 + 0.2))
    assert class_distance(real, real).value == 0.0
    assert class_distance(torch.tensor([0]), torch.tensor([1])).value == 1.0
    assert found.n == 5


def test_class_distance_has_an_honest_error():
    values = [class_distance(draw([0.4, 0.3, 0.3], 400, seed), draw([0.1, 0.5, 0.4], 300, 1000 + seed), seed=seed) for seed in range(200)]
    spread = torch.tensor([each.value for each in values]).std()
    told = torch.tensor([each.stderr for each in values]).mean()
    assert float(told / spread) == pytest.approx(1.0, abs=Z / math.sqrt(2 * 200))
    assert values[0].stderr == class_distance(draw([0.4, 0.3, 0.3], 400, 0), draw([0.1, 0.5, 0.4], 300, 1000), seed=0).stderr


@pytest.mark.parametrize("dropped,low,high", [(None, 1.0, 1.13), (3, 1.0, 1.13)])
def test_class_distance_has_an_honest_error_where_classes_are_equally_frequent(dropped, low, high):
    """Ten classes; the plain bootstrap states 1.25 times the true spread of equal ones."""
    even, fake = torch.full((10,), 0.1), torch.tensor([float(label != dropped) for label in range(10)])
    reals, fakes = (
        torch.multinomial(shares, 1500 * 360, replacement=True, generator=torch.Generator().manual_seed(seed)).reshape(1500, 360)
        for seed, shares in enumerate((even, fake))
    )
    found = [class_distance(real, drawn, seed=seed) for seed, (real, drawn) in enumerate(zip(reals, fakes, strict=True))]
    spread = torch.tensor([each.value for each in found]).double().std()
    told = torch.tensor([each.stderr for each in found]).double().square().mean().sqrt()
    margin = 1 + Z / math.sqrt(2 * 1500)
    assert low / margin < float(told / spread) < high * margin


def test_class_coverage_is_the_binomial_rule():
    real = torch.arange(4).repeat(100)
    edge = int(binom.ppf(1e-3, 400, 0.125))
    assert binom.cdf(edge, 400, 0.125) >= 1e-3 > binom.cdf(edge - 1, 400, 0.125)
    for k, expected in ((edge, 1.0), (edge - 1, 0.75), (0, 0.75)):
        fake = torch.cat([torch.zeros(k, dtype=torch.long), 1 + torch.arange(400 - k) % 3])
        assert class_coverage(real, fake).value == expected
    assert class_coverage(real, torch.zeros(400, dtype=torch.long)).value == 0.25
    assert class_coverage(real, torch.tensor([0, 1])).value == 1.0, "two samples cannot show that a class is missing"
    assert class_coverage(torch.tensor([0, 0, 2]), torch.full((500,), 1)).value == 0.0


def test_confidence_counts_rows():
    sure, share = confidence(torch.tensor([[0.95, 0.05], [0.5, 0.5], [0.09, 0.91], [0.2, 0.8]]))
    assert (sure.name, share.name) == ("class_confidence", "confident_share")
    assert sure.value == pytest.approx((0.95 + 0.5 + 0.91 + 0.8) / 4)
    assert sure.stderr == pytest.approx(float(torch.tensor([0.95, 0.5, 0.91, 0.8]).std()) / 2)
    assert share.value == 0.5


def test_condition_accuracy_leaves_unknown_labels_out():
    found = condition_accuracy(torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, 1, 1, -1]))
    assert found.value == pytest.approx(2 / 3)
    assert found.n == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: class_distance(torch.empty(0, dtype=torch.long), torch.tensor([1])),
        lambda: class_coverage(torch.tensor([1]), torch.empty(0, dtype=torch.long)),
        lambda: confidence(torch.empty(0, 3)),
        lambda: condition_accuracy(torch.eye(2), torch.tensor([-1, -1])),
    ],
)
def test_nothing_to_count_is_one_line(call):
    with pytest.raises(InvalidInput, match=r"at least one|needs at least one") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_even_classes_look_real():
    found, whole = figures(planted([0.25] * 4, names=("a", "b", "c", "d")))
    assert whole.warnings == ()
    assert found["class_coverage"].value == 1.0
    assert abs(found["class_distance"].value - found["class_distance_floor"].value) < Z * 2**0.5 * found["class_distance"].stderr
    assert found["class_confidence"].value == pytest.approx(0.97)
    assert found["confident_share"].value == found["confident_share_floor"].value == 1.0
    entropy = -(0.97 * math.log(0.97) + 0.03 * math.log(0.01))
    assert found["class_score"].value == pytest.approx(4 / math.exp(entropy), rel=0.01)
    assert found["class_score_floor"].data == found["class_distance"].data == "oracle"
    details = whole.details["classes"]
    assert details["names"] == ["a", "b", "c", "d"]
    assert sum(details["real"]) == pytest.approx(1.0)
    assert sum(details["samples"]) == pytest.approx(1.0)
    assert "condition_accuracy" not in found
    assert all(figure(name) is not None for name in found)


def test_a_dropped_and_a_scarce_class_are_named():
    found, whole = figures(planted([0.48, 0.0, 0.48, 0.04], names=("ant", "bee", "cat", "dog")))
    assert found["class_coverage"].value == 0.5
    assert found["class_distance"].value == pytest.approx(0.46, abs=Z * found["class_distance"].stderr)
    assert found["class_distance"].value > found["class_distance_floor"].value + Z * found["class_distance"].stderr
    (warning,) = whole.warnings
    assert "classes bee (0.0 % of samples," in warning
    assert "dog (" in warning
    assert "ant (" not in warning
    assert "mode collapse" in warning
    assert "\n" not in warning
    assert whole.details["classes"]["samples"][1] == 0.0


def test_bad_pictures_are_told_from_collapse():
    class Unsure(Oracle):
        def probabilities(self, x):
            sharp = super().probabilities(x)
            return torch.where((x[:, 0, 0, :1] == 0), 0.5 * sharp + 0.125, sharp)

    (warning,) = figures(planted([1.0, 0.0, 0.0, 0.0], extractor=Unsure()))[1].warnings
    assert "only 0 % of samples are clear pictures of any class (7" in warning
    assert "underfitted rather than collapsed" in warning


def test_many_missing_classes_make_one_short_line():
    real = rows(torch.arange(16).repeat(60))
    case = Case(SPACE, real, real, rows(torch.zeros(900, dtype=torch.long)).x, None, Labels(16), 0, None, Oracle(16))
    (warning,) = judge(case, ["classes"]).warnings
    assert warning.count("% of samples") == 5
    assert "and 10 more" in warning


def test_conditional_samples_are_held_to_their_condition():
    asked = draw([0.25] * 4, 2000, 3)
    wrong = asked.clone()
    wrong[:500] = (wrong[:500] + 1) % 4
    found, _ = figures(planted([0.25] * 4, labels=wrong))
    assert found["condition_accuracy"].value == 0.75
    assert found["condition_accuracy"].stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 2000), rel=1e-3)
    assert found["condition_accuracy_floor"].value == 1.0


def test_a_poor_classifier_is_doubted():
    case = planted([0.25] * 4)
    shuffled = dataclasses.replace(case.test, label=torch.roll(case.test.label, 1))
    (warning,) = figures(dataclasses.replace(case, test=shuffled))[1].warnings
    assert "all class figures are rough" in warning


class Photographs(Oracle):
    inception = True

    def probabilities(self, x):
        return torch.full((len(x), 1008), 1 / 1008)


class Blind(Oracle):
    def probabilities(self, x):
        return None


def test_inception_yields_its_score_alone():
    found, whole = figures(planted([0.25] * 4, extractor=Photographs()))
    assert list(found) == ["inception_score", "inception_score_floor"]
    assert found["inception_score"].value == pytest.approx(1.0, abs=1e-4)
    assert whole.details == {}


@pytest.mark.parametrize("change", [{"extractor": None}, {"extractor": Blind()}, {"extractor": Oracle(5)}, {"classes": None}])
def test_without_a_classifier_of_these_classes_it_does_not_apply(change):
    case = dataclasses.replace(planted([0.25] * 4), **change)
    assert METRIC.needs(case)
    assert figures(case)[0] == {}
    table = dataclasses.replace(case, space=Image((1, 4, 4), 17, ordinal=False))
    assert METRIC.needs(table) == "the data are no pictures"


def test_dropped_digit_is_seen_by_the_own_network():
    from manykin.metrics.features import choose_extractor

    data = load_data("digits")
    assert data.test is not None
    kept = (data.train.labels != 3).nonzero()[:, 0]
    case = Case(data.space, data.train, data.test, data.train.batch(kept[:600]).x, None, data.classes)
    case = dataclasses.replace(case, extractor=choose_extractor("own", case, "digits"))
    found, whole = figures(case)
    assert found["class_coverage"].value == 0.9
    assert found["class_distance"].value > found["class_distance_floor"].value
    (warning,) = whole.warnings
    assert warning.startswith("hardly any samples of class 3 (")
    full, whole = figures(dataclasses.replace(case, samples=data.train.all().x[:600]))
    assert full["class_coverage"].value == 1.0
    assert whole.warnings == ()
