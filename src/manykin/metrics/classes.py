"""Which classes the samples fall into, how sure a classifier is of them, and whether conditional samples are what was asked for."""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.metrics.estimate import FLOOR, SAMPLES, Estimate
from manykin.metrics.figures import Figure, Finding, Metric
from manykin.random import hash_seed

RESAMPLES = 1000
SURE = 0.9
"""The probability of its likeliest class above which a picture counts as confident."""
LEVEL = 1e-3
"""Level of the one-sided binomial tests of coverage and of the collapse warning."""
SCARCE = 0.2
"""A class at less than this part of its real share is warned of."""
UNCLEAR = 0.75
"""Below this part of the real share of confident pictures, missing classes are put down to bad pictures and not to collapse."""
ROUGH = 0.8
"""Below this accuracy on held-out rows the classifier itself is in doubt."""


def class_distance(real: Tensor, fake: Tensor, *, seed: int = 0) -> Estimate:
    r"""The total variation between two class histograms, :math:`\frac12 \sum_c |p_c - q_c|`.

    It is the share of samples that would have to change class. Of finite samples it is positive even for equal laws, by about
    :math:`\sum_c \sqrt{p_c (1/n + 1/m) / 2\pi}`, so it is read beside its floor. The standard error is from a bootstrap of both histograms (1,000
    multinomial draws; Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 6). Where a class is equally frequent on both sides
    the absolute value has a corner, at which the plain bootstrap errs (Andrews, Inconsistency of the bootstrap when a parameter is on the boundary
    of the parameter space, 2000); so the draws lie around differences that are shrunk, :math:`d_c^2 - s_c^2` in the place of :math:`d_c^2` and not
    below 0, with s_c their standard errors. On 3,000 draws it was 1.12 times the true spread for 10 equal classes (1.25 without shrinking) and
    where one of ten was dropped, 0.97 to 1.1 where all differ a little, 1.01 where they differ clearly, 0.9 for two classes at one standard error.

    Args:
        real: classes of the real rows, (n,) int64.
        fake: classes of the samples, (m,) int64.
        seed: of the bootstrap.

    Raises:
        InvalidInput: where either is empty.
    """
    a, b = _counts(real, fake)
    difference = a / a.sum() - b / b.sum()
    draw = np.random.default_rng(hash_seed(seed, "class distance"))
    first = draw.multinomial(int(a.sum()), a / a.sum(), RESAMPLES) / a.sum()
    second = draw.multinomial(int(b.sum()), b / b.sum(), RESAMPLES) / b.sum()
    noise = first - second - difference
    shrunk = np.sign(difference) * np.sqrt(np.maximum(difference**2 - noise.var(axis=0), 0.0))
    stderr = float((0.5 * np.abs(shrunk + noise).sum(axis=1)).std())
    return Estimate("class_distance", 0.5 * float(np.abs(difference).sum()), stderr, "share", "estimate", len(fake), quantity=SAMPLES)


def class_coverage(real: Tensor, fake: Tensor, *, seed: int = 0) -> Estimate:
    r"""The share of the real classes that the samples cover.

    A class of real share p is covered by k of m samples unless k is too small for a sampler that gives the class even half of its share:
    :math:`P(\mathrm{Binomial}(m, p / 2) \le k) < 10^{-3}`. A class too rare for m samples to tell counts as covered. The standard error is from a
    bootstrap of the samples' histogram (1,000 multinomial draws).

    Args:
        real: classes of the real rows, (n,) int64.
        fake: classes of the samples, (m,) int64.
        seed: of the bootstrap.

    Raises:
        InvalidInput: where either is empty.
    """
    from scipy.stats import binom

    a, b = _counts(real, fake)
    present = a > 0
    shares, m = a[present] / a.sum(), int(b.sum())
    covered = binom.cdf(b[present], m, shares / 2) >= LEVEL
    draws = np.random.default_rng(hash_seed(seed, "class coverage")).multinomial(m, b / b.sum(), RESAMPLES)[:, present]
    covers = (binom.cdf(draws, m, shares / 2) >= LEVEL).sum(axis=1)
    stderr = float(covers.std()) / len(shares)
    return Estimate("class_coverage", float(covered.mean()), stderr, "share", "estimate", len(fake), quantity=SAMPLES)


def confidence(probabilities: Tensor) -> tuple[Estimate, Estimate]:
    """``class_confidence``, the mean probability of the likeliest class, and ``confident_share``, how many are above 0.9.

    Standard errors are those of means over rows.

    Args:
        probabilities: a row a picture, (n, classes).

    Raises:
        InvalidInput: where there are no rows.
    """
    if len(probabilities) == 0:
        raise InvalidInput("there are no class probabilities (0 rows); expected at least one picture.")
    most = probabilities.double().amax(dim=1)
    return _mean("class_confidence", most, "probability"), _mean("confident_share", (most > SURE).double(), "share")


def condition_accuracy(probabilities: Tensor, labels: Tensor) -> Estimate:
    """The share of pictures that the classifier gives the class that was asked for; rows of label -1 are left out.

    Args:
        probabilities: a row a picture, (n, classes).
        labels: what each was conditioned on, (n,) int64.

    Raises:
        InvalidInput: where no row has a label.
    """
    known = labels >= 0
    if not known.any():
        raise InvalidInput("no picture has a label; the accuracy of conditions needs at least one.")
    return _mean("condition_accuracy", (probabilities.argmax(dim=1) == labels)[known].double(), "share")


def _measure(case: Case) -> Finding:
    """All class figures of a case, with their floors and warnings; of Inception, whose classes are not those of the data, its score alone."""
    extractor, held = case.extractor, case.held.all().x
    assert extractor is not None
    assert isinstance(held, Tensor)
    fake, real = case.sample_probabilities, extractor.probabilities(held)
    assert fake is not None
    assert real is not None
    if extractor.inception:
        both = _score(fake, "inception_score"), _floor(_score(real, "inception_score"), "held-out rows")
        return Finding((dataclasses.replace(both[0], data=extractor.name, sampler=case.sampler), dataclasses.replace(both[1], data=extractor.name)))
    assert case.classes is not None
    seen = None if case.seen is None else case.seen.all().x
    base = extractor.probabilities(seen) if isinstance(seen, Tensor) else None
    guesses, truth = fake.argmax(dim=1), real.argmax(dim=1)
    found: list[Estimate] = []
    for figure in (class_distance, class_coverage):
        found.append(figure(truth, guesses, seed=case.seed))
        if base is not None:
            found.append(_floor(figure(truth, base.argmax(dim=1), seed=case.seed), "training rows in the place of samples"))
    clear = confidence(fake)[1].value, confidence(real)[1].value
    for value, floor in zip((*confidence(fake), _score(fake)), (*confidence(real), _score(real)), strict=True):
        found += [value, _floor(floor, "held-out rows")]
    labels, accuracy = case.held.labels, None
    if labels is not None and bool((labels >= 0).any()):
        accuracy = condition_accuracy(real, labels)
    if case.labels is not None and int(case.labels.max()) < fake.shape[1]:
        found.append(condition_accuracy(fake, case.labels))
        found += [] if accuracy is None else [_floor(accuracy, "the classifier on held-out rows")]
    done = tuple(dataclasses.replace(each, data=extractor.name, sampler=None if each.name.endswith(FLOOR) else case.sampler) for each in found)
    names = [str(name) for name in case.classes.names or range(case.classes.classes)]
    shares = [torch.bincount(each, minlength=len(names)).double() / len(each) for each in (truth, guesses)]
    details = {"names": names, "real": shares[0].tolist(), "samples": shares[1].tolist()}
    return Finding(done, {"classes": details}, {}, (*_scarce(names, truth, guesses, clear), *_doubt(extractor.name, accuracy)))


def _score(probabilities: Tensor, name: str = "class_score") -> Estimate:
    from manykin.metrics.frechet import inception_score

    return dataclasses.replace(inception_score(probabilities), name=name)


def _scarce(names: list[str], real: Tensor, fake: Tensor, clear: tuple[float, float]) -> list[str]:
    """One line that names the classes of which far too few samples are, and what helps; ``clear``: shares of confident samples and real rows."""
    from scipy.stats import binom

    a, b = _counts(real, fake)
    shares, m = a / a.sum(), int(b.sum())
    few = [c for c in range(len(a)) if b[c] < SCARCE * shares[c] * m and binom.cdf(b[c], m, shares[c]) < LEVEL]
    if not few:
        return []
    told = [f"{names[c] if c < len(names) else c} ({100 * b[c] / m:.1f} % of samples, {100 * shares[c]:.1f} % of real rows)" for c in few[:5]]
    more = f" and {len(few) - 5} more" if len(few) > 5 else ""
    head = f"hardly any samples of class{'es' if len(few) > 1 else ''} {', '.join(told)}{more}"
    if clear[0] < UNCLEAR * clear[1]:
        unclear = f"only {100 * clear[0]:.0f} % of samples are clear pictures of any class ({100 * clear[1]:.0f} % of real rows)"
        return [f"{head}; and {unclear}: the model is underfitted rather than collapsed. Train longer, or take a model that knows how pixels "
                "depend on each other."]  # fmt: skip
    return [f"{head}: mode collapse. Fit with a condition and draw each class by its label, train longer, lower the learning rate (of the "
            "discriminator, where there is one), or try another seed."]  # fmt: skip


def _doubt(name: str, accuracy: Estimate | None) -> list[str]:
    if accuracy is None or accuracy.value >= ROUGH:
        return []
    return [f"{name} names the class of only {100 * accuracy.value:.0f} % of held-out pictures rightly, so all class figures are rough: give it more "
            "labelled rows, or merge classes that look alike."]  # fmt: skip


def _counts(real: Tensor, fake: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if len(real) == 0 or len(fake) == 0:
        raise InvalidInput(f"{len(real)} real and {len(fake)} sampled classes were given; expected at least one of each.")
    size = int(max(real.max(), fake.max())) + 1
    a, b = (torch.bincount(each.long(), minlength=size).double().numpy() for each in (real, fake))
    return a, b


def _mean(name: str, values: Tensor, unit: str) -> Estimate:
    stderr = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(name, float(values.mean()), stderr, unit, "estimate", len(values), quantity=SAMPLES)


def _floor(value: Estimate, note: str) -> Estimate:
    return dataclasses.replace(value, name=value.name + FLOOR, note=note)


def _needs(case: Case) -> str:
    if not case.pictures:
        return "the data are no pictures"
    unknown = "the feature network does not know the classes of the data"
    if case.extractor is None:
        return unknown
    assert isinstance(case.samples, Tensor)
    one = case.extractor.probabilities(case.samples[:1])
    told = one is not None and (case.extractor.inception or (case.classes is not None and one.shape[1] == case.classes.classes))
    return "" if told else unknown


_SOURCE = "classes are those that the frozen feature network of the run names; "
_PITFALLS = "It is no better than the classifier, which was trained on real pictures only and may be sure of nonsense. "
METRIC = Metric(
    "classes",
    _measure,
    (
        Figure(
            "class_distance", "class distance", "lower", "0 to 1",
            "The share of samples that would have to change class for the classes to be as frequent as in real data.",
            r"\frac12 \sum_c |p_c - q_c|", _SOURCE + "total variation distance of the two histograms",
            _PITFALLS + "Positive even for equal laws, more so for few samples and many classes: read it beside its floor.",
            ideal=0.0, sees=("collapse", "noise"),
        ),
        Figure(
            "class_coverage", "class coverage", "higher", "0 to 1",
            "The share of the real classes that samples fall into at least about half as often as real rows do.",
            r"\frac1C \sum_c [P(\mathrm{Binomial}(m, p_c / 2) \le k_c) \ge 10^{-3}]", _SOURCE + "one-sided binomial test a class",
            _PITFALLS + "A class too rare for the number of samples counts as covered; what is missing inside a class is not seen.",
            ideal=1.0, sees=("dropped class", "collapse"),
        ),
        Figure(
            "class_confidence", "class confidence", "higher", "1 / classes to 1",
            "How sure a classifier is, on average, of what it sees: pictures that are neither one thing nor another lower it.",
            r"\frac1n \sum_i \max_c p(c | x_i)", _SOURCE + "mean of the largest class probability",
            _PITFALLS + "Above that of real rows it is no gain: prototypes of a class without variety are the most confident of all.",
            sees=("noise", "blur"),
        ),
        Figure(
            "confident_share", "share of confident samples", "higher", "0 to 1",
            "The share of samples whose class a classifier is more than 90 % sure of.",
            r"\frac1n \sum_i [\max_c p(c | x_i) > 0.9]", _SOURCE + "share of rows above 0.9",
            _PITFALLS + "Above that of real rows it is no gain.", sees=("noise", "blur"),
        ),
        Figure(
            "class_score", "class score", "higher", "1 to the number of classes",
            "High where each sample clearly belongs to one class and all classes are frequent: Inception Score's formula over this classifier.",
            r"\exp \frac1n \sum_i KL(p(c | x_i) \| \bar p(c))",
            "T. Salimans and others, Improved techniques for training GANs, 2016, section 4; not comparable with an Inception Score",
            _PITFALLS + "It never looks at real samples, and does not see missing variety inside a class.",
            sees=("collapse", "noise", "blur"),
        ),
        Figure(
            "inception_score", "Inception Score", "higher", "1 to the number of Inception's classes",
            "High where Inception sees each sample as clearly one thing, and the samples as many different things.",
            r"\exp \frac1n \sum_i KL(p(c | x_i) \| \bar p(c))",
            "T. Salimans and others, Improved techniques for training GANs, 2016, section 4, over the file that the user named",
            "Means little for pictures unlike ImageNet's photographs. It never looks at real samples.",
        ),
        Figure(
            "condition_accuracy", "accuracy of conditions", "higher", "0 to 1",
            "How often a sample drawn for a class is seen as that class.",
            r"\frac1n \sum_i [\arg\max_c p(c | x_i) = c_i]", _SOURCE + "converse of S. Ravuri and O. Vinyals, Classification accuracy score, 2019",
            _PITFALLS + "One perfect picture a class, repeated, scores 1.",
        ),
    ),
    kind="case",
    view="features",
    needs=_needs,
    minimum=20,
)  # fmt: skip
