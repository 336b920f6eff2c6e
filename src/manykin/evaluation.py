"""The verb evaluate: the likelihood of a model, and everything that its samples tell."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manykin.contract import GenerativeModel, Sampler
from manykin.data import load_data, load_rows
from manykin.data import names as data_names
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput, ManykinError, suggest
from manykin.fitted import Fitted
from manykin.metrics import Case, Evaluation, Finding, chosen, judge, likelihood
from manykin.metrics.bayes import bayes_rule
from manykin.metrics.extractor import Extractor
from manykin.metrics.judge import by_name, joined
from manykin.metrics.ledger import flags
from manykin.metrics.table import LIKELIHOOD, metric
from manykin.random import hash_seed
from manykin.spaces import Labels, Table, Value, Vector, count, take
from manykin.training.files import replace_tensors, write_json, writing

MOST_SAMPLES = 2000
"""Samples that are drawn unless told otherwise: as many as held-out rows, and no more than this."""
FEW = 10
"""Below so many held-out rows samples are not compared with them: the answer would be noise."""
FILE, TENSORS = "evaluation.json", "evaluation.safetensors"


def evaluate(
    fitted: Any,
    data: Any = None,
    *,
    condition: Any = None,
    metrics: str | Sequence[str] = "standard",
    n: int | None = None,
    k: int | None = None,
    features: str | Extractor = "own",
    target: str | None = None,
    sampler: Sampler | None = None,
    seed: int = 0,
) -> Evaluation:
    """Estimates of how good a fitted model is on data that it has not seen.

    Args:
        fitted: the model, or samples of any other generator in the form of the data (an array, a DataFrame, pictures).
        data: held-out examples in the form of the training data; None takes the run's own test split. Samples need it.
        condition: their conditions, for a conditional model.
        metrics: ``quick`` (likelihood and energy distance), ``standard``, ``full`` (adds what fits further models), or names of metrics.
        n: samples to draw; None: as many as held-out rows, at most 2,000.
        k: draws for bounds and dequantisation; None chooses.
        features: what looks at pictures: ``own`` trains a small network on the training rows, ``none``, the path of a TorchScript file, the id of
            a model on the hub, or an :class:`Extractor`.
        target: the column that usefulness predicts; None: the condition, or the classes of the data.
        sampler: one of the model's samplers.
        seed: of all draws.

    Raises:
        InvalidInput: where no held-out data are at hand, or for an unknown metric.
    """
    names = chosen(metrics)
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise InvalidInput(f"n = {n!r} samples cannot be drawn; expected an integer of at least 1.")
    wish = _Wish(tuple(names), frozenset(by_name(metrics)), n, features, target, sampler, seed)
    if not isinstance(fitted, Fitted):
        return _of_samples(fitted, data, condition, wish)
    if condition is not None and fitted.condition is None:
        raise InvalidInput(f"a condition was given, but {fitted.name} was fitted without one; leave it out, or fit with a condition.")
    held = _held_out(fitted, data, condition)
    found = _likelihood(fitted, held, k, wish) if LIKELIHOOD in names else Finding()
    if any(name != LIKELIHOOD for name in names):
        few = f"samples are not judged: {len(held.rows)} held-out rows are too few to say anything; expected at least {FEW}."
        found = joined(found, _judged(fitted, held, wish) if len(held.rows) >= FEW else Finding(warnings=(few,)))
    caveats = _caveats(fitted) if data is None else []
    estimates = tuple(dataclasses.replace(each, note="; ".join(filter(None, [each.note, *caveats]))) for each in found.estimates)
    return Evaluation(fitted.name, held.name, estimates, found.warnings, found.details, found.tensors)


def save_evaluation(folder: Path, evaluation: Evaluation, name: str = "") -> Path:
    """Write ``evaluation.json`` and what a report draws into a run folder; ``evaluation-NAME.json`` for data other than the run's own.

    Raises:
        TrainingFailed: where the folder cannot be written; names the file.
    """
    suffix = f"-{name}" if name else ""
    path, tensors = folder / FILE.replace(".", f"{suffix}."), folder / TENSORS.replace(".", f"{suffix}.")
    with writing(path):
        write_json(path, evaluation.to_json())
        tensors.unlink(missing_ok=True)
        if evaluation.tensors:
            replace_tensors(tensors, {key: value.detach().cpu().contiguous() for key, value in evaluation.tensors.items()})
    return path


@dataclass(frozen=True)
class _Wish:
    """What was asked for: names of metrics and which of them by name, how many samples, what looks at pictures, the target, how to sample."""

    names: tuple[str, ...]
    by_name: frozenset[str]
    n: int | None
    features: str | Extractor
    target: str | None
    sampler: Sampler | None
    seed: int


@dataclass(frozen=True)
class _Held:
    """Held-out rows, what they are called, the entropy of their law, the training rows, the classes of both, and lossy steps on the way to them."""

    rows: Rows
    name: str
    entropy: float | None = None
    train: Rows | None = None
    classes: Labels | None = None
    lossy: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Dataset, name: str | None = None) -> "_Held":
        lossy = tuple(str(step) for step in data.provenance.get("lossy", ()))
        held = data.test or data.val
        return cls(held or data.train, name or data.name, data.entropy, None if held is None else data.train, data.classes, lossy)


def _likelihood(fitted: Fitted, held: _Held, k: int | None, wish: _Wish) -> Finding:
    """The likelihood of a normalised density, with a warning for each claim that no density can make."""
    density = fitted.density
    if density is None or not density.normalised:
        why = "has no density: it can only sample" if density is None else "is unnormalised: its log_prob lacks an unknown constant"
        return Finding(warnings=(f"likelihood does not apply: {fitted.name} {why}.",) if LIKELIHOOD in wish.by_name else ())
    found = tuple(likelihood(fitted.model, held.rows, k=k, seed=wish.seed, entropy=held.entropy, lossy=held.lossy))
    return Finding(found, warnings=tuple(f"{told}. Do not believe this likelihood; test the model with: manykin check." for told in flags(found)))


def _judged(fitted: Fitted, held: _Held, wish: _Wish) -> Finding:
    """Metrics of samples; where the model cannot draw any, the reason as a warning, so that its likelihood is not lost.

    Raises:
        InvalidInput: for a sampler or a target that does not fit.
    """
    _check_target(fitted, wish.target)
    try:
        case = _case(fitted, held, wish)
    except (ManykinError, ArithmeticError, RuntimeError, ValueError, TypeError, LookupError) as failure:
        if wish.sampler is not None and isinstance(failure, InvalidInput):
            raise
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        return Finding(warnings=(f"no samples could be drawn, so they are not judged: {reason}",))
    return _look(wish, case, held.name)


def _check_target(fitted: Fitted, target: str | None) -> None:
    """Refuse a target that is neither a column nor what the model is conditioned on."""
    columns = [column.name for column in getattr(fitted.space, "columns", ())] if isinstance(fitted.space, (Table, Vector)) else []
    known = {*columns, *([_own_target(fitted) or "label", "label"] if fitted.condition is not None else [])}
    if target is not None and target not in known:
        raise InvalidInput(f"the target {target!r} is no column of these data.{suggest(target, known) if known else ' Leave it out.'}")


def _case(fitted: Fitted, held: _Held, wish: _Wish) -> Case:
    draw, seed, n = _drawer(fitted.model, held.rows, wish.sampler), wish.seed, wish.n or min(len(held.rows), MOST_SAMPLES)
    labels = None
    if isinstance(fitted.model.condition, Labels):
        frequencies = held.train.labels if held.train is not None and held.train.labels is not None else held.rows.labels
        if frequencies is not None:
            order = torch.randint(len(frequencies), (n,), generator=torch.Generator().manual_seed(hash_seed(seed, "labels")))
            labels = frequencies[order]
    name = None if wish.sampler is None else type(wish.sampler).__name__
    return Case(
        fitted.space, held.train, held.rows, draw(n, labels, seed), labels, held.classes, seed, draw, None,
        wish.target or _own_target(fitted), name, bayes_rule(fitted.model, seed),
    )  # fmt: skip


def _drawer(model: GenerativeModel, held: Rows, sampler: Sampler | None) -> Any:
    """Samples of a model: of the labels given, of the conditions of held-out rows where conditions are no labels, else by its own frequencies."""

    def draw(n: int, labels: Tensor | None, seed: int) -> Value:
        condition: Value | None = labels if isinstance(model.condition, Labels) else None
        if model.condition is not None and not isinstance(model.condition, Labels):
            known = held.sample(len(held), seed).condition
            condition = None if known is None else take(known, torch.arange(n) % count(known))
        return model.sample(n, condition, seed=seed, sampler=sampler)

    return draw


def _own_target(fitted: Fitted) -> str | None:
    column = fitted.provenance.get("condition")
    return str(column) if isinstance(column, str) and column != "label" else None


def _look(wish: _Wish, case: Case, data: str) -> Finding:
    """The metrics of a case; where the own network, which nobody asked for by name, cannot be trained, over pixels, with a warning."""
    try:
        extractor = _extractor(wish, case, data)
    except InvalidInput as refusal:
        if wish.features != "own":
            raise
        return joined(Finding(warnings=(f"pictures are judged by their pixels alone: {refusal}",)), judge(case, wish.names, wish.by_name))
    return judge(dataclasses.replace(case, extractor=extractor), wish.names, wish.by_name)


def _extractor(wish: _Wish, case: Case, data: str) -> Extractor | None:
    """The network that looks at pictures, where a chosen metric asks for one."""
    if not case.pictures or not any(name != LIKELIHOOD and metric(name).view in ("features", "best") for name in wish.names):
        return None
    from manykin.metrics.features import choose_extractor

    return choose_extractor(wish.features, case, data)


def _of_samples(samples: Any, data: Any, condition: Any, wish: _Wish) -> Evaluation:
    """Judge samples of any generator beside data: the test split of data that bring splits of their own, else all rows.

    Samples outside the data's space (another category, a fraction where the data are whole) are counted, not refused.
    """
    if data is None:
        raise InvalidInput("samples were given without data; expected the real data too, after the samples.")
    if wish.sampler is not None:
        raise InvalidInput("a sampler was given with samples that are drawn already; leave it out.")
    whole = isinstance(data, (str, Path)) and data not in data_names()
    dataset = load_data(data, condition=condition, options={"val": 0.0, "test": 0.0} if whole else None, seed=wish.seed)
    held = _Held.of(dataset)
    values = load_rows(samples, dataset.space, dataset.form, lenient=True).all().x
    values = values if wish.n is None else take(values, slice(0, wish.n))
    case = Case(dataset.space, held.train, held.rows, values, None, held.classes, wish.seed, target=wish.target)
    found = Finding(warnings=("likelihood does not apply: samples have no density.",) if LIKELIHOOD in wish.by_name else ())
    if count(values) < FEW or len(held.rows) < FEW:
        few = f"{count(values)} samples and {len(held.rows)} real rows are too few to say anything; expected at least {FEW} of each."
        found = joined(found, Finding(warnings=(few,)))
    elif any(name != LIKELIHOOD for name in wish.names):
        found = joined(found, _look(wish, case, held.name))
    return Evaluation(f"samples ({data_name(samples)})", held.name, found.estimates, found.warnings, found.details, found.tensors)


def _held_out(fitted: Fitted, data: Any, condition: Any) -> _Held:
    own = fitted.data
    if data is None:
        if own is None:
            recorded = str(fitted.provenance.get("name", ""))
            own = load_named_like(fitted, recorded)
            if own is None:
                raise InvalidInput(
                    f"the run was fitted to {recorded!r}, which is not a named data set; expected the data: manykin evaluate RUN DATA."
                )
            fitted.data = own
        return _Held.of(own)
    if isinstance(data, Dataset):
        return _Held.of(data)
    named = load_named_like(fitted, str(data)) if isinstance(data, str) else None
    if named is not None:
        return _Held.of(named)
    column = fitted.provenance.get("condition", True) if condition is None and fitted.condition is not None else condition
    options = fitted.provenance.get("options")
    if isinstance(data, (str, Path)):
        same = load_data(data, condition=column, options=options, seed=fitted.seed)
        if same.space == fitted.space and same.provenance.get("sha256") == fitted.provenance.get("sha256"):
            return _Held.of(same, f"{data_name(data)}, test split")
    rows = load_rows(data, fitted.space, fitted.form, condition_space=fitted.condition, condition=column, options=options)
    if isinstance(fitted.condition, Labels) and rows.label is None and isinstance(rows.condition, Tensor):
        rows = dataclasses.replace(rows, label=rows.condition)
    return _Held(rows, data_name(data), None, None if own is None else own.train, None if own is None else own.classes)


def _caveats(fitted: Fitted) -> list[str]:
    """What a reader must know of the rows that a model is evaluated on by default."""
    caveats = [] if fitted.test_rows() is not None else ["on the training data: no rows were held out"]
    left_out = fitted.provenance.get("outside") or {}
    if left_out.get("test"):
        caveats.append(f"{left_out['test']} rows with values never seen in training are left out")
    return caveats


def load_named_like(fitted: Fitted, name: str) -> Dataset | None:
    """A named data set as the model was fitted on it; None where the name is none, or its space another."""
    if name not in data_names():
        return None
    condition = True if fitted.condition is not None else None
    dataset = load_data(name, condition=condition, options=fitted.provenance.get("options"), seed=fitted.seed)
    return dataset if dataset.space == fitted.space else None


def data_name(data: Any) -> str:
    """What a result calls data: the base name of a file, or what kind of object it was."""
    return Path(data).name if isinstance(data, (str, Path)) else f"own {type(data).__name__}"
