"""``manykin evaluate``."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from manykin.cli.options import ConfigCommand, data_label
from manykin.cli.output import Output, common
from manykin.config import Config, option
from manykin.errors import ManykinError

if TYPE_CHECKING:
    from manykin.fitted import Fitted
    from manykin.metrics import Estimate, Evaluation

WIDE = 110
"""Columns of a terminal from which notes stand in the table; below they follow it."""
LEGEND = {
    "as good": "within two standard errors of real data, or better",
    "worse": "told from real data by more than two standard errors",
    "told apart": "p up to 0.05",
    "not told apart": "p above 0.05",
    "?": "cannot tell: with so few rows the metric does not even tell crude forgeries from real data",
}
"""How metrics of samples stand beside real data."""


@dataclass(frozen=True)
class EvaluateOptions(Config):
    """How ``manykin fit --evaluate`` evaluates, beside the metrics."""

    label: ClassVar[str] = "evaluate"

    n: int | None = option(None, "samples to draw; none: as many as held-out rows, at most 2000", ge=1)
    k: int | None = option(None, "draws for bounds and dequantisation; none chooses", ge=1)
    features: str = option("own", "what looks at pictures: own, none, a TorchScript file, or a model's id on the hub")
    target: str | None = option(None, "the column that usefulness predicts; none: the condition, or the classes of the data")
    seed: int | None = option(None, "of all draws; none: the seed of the fit", ge=0)


class Evaluate(ConfigCommand):
    """``evaluate``, which also takes the options of a sampler."""

    prefixes = ("sampler",)


@click.command("evaluate", cls=Evaluate)
@click.argument("run", metavar="RUN-or-SAMPLES")
@click.argument("data", required=False)
@click.option("--condition", metavar="COLUMN", help="The column of labels, for a conditional run; `label` by default.")
@click.option("--metrics", default="standard", show_default=True, help="quick, standard, full, or names of metrics with commas between them.")
@click.option("--features", default="own", show_default=True, help="What looks at pictures: own, none, a TorchScript file, or a hub model's id.")
@click.option("--target", metavar="COLUMN", help="The column that usefulness predicts; by default the condition, or the classes of the data.")
@click.option("-n", "n", type=click.IntRange(1), help="Samples to draw; as many as held-out rows by default, at most 2000.")
@click.option("-k", "k", type=click.IntRange(1), help="Draws for bounds and dequantisation.")
@click.option("--sampler", metavar="NAME", help="One of the model's samplers, its options as --sampler.FIELD VALUE.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all draws.")
@common
def command(
    output: Output, run: str, data: str | None, condition: str | None, metrics: str, features: str, target: str | None, n: int | None, k: int | None,
    sampler: str | None, seed: int, fields: Mapping[str, Mapping[str, str]],
) -> None:  # fmt: skip
    """Estimate how good RUN is on held-out DATA; without DATA, on the test split of the named data set that it was fitted to.

    Samples of any other generator, in a file or a folder of pictures, can stand in the place of RUN; they need DATA.
    """
    from manykin.cli.sample import find_sampler
    from manykin.evaluation import evaluate
    from manykin.fitted import from_pretrained
    from manykin.metrics import chosen

    chosen(metrics)
    fitted = None if holds_samples(run, data) else from_pretrained(run)
    chosen_sampler = None if fitted is None else find_sampler(fitted.model, sampler, fields["sampler"])
    judged: Any = run if fitted is None else fitted
    evaluation = evaluate(
        judged, data, condition=condition, metrics=metrics, n=n, k=k, features=features, target=target, sampler=chosen_sampler, seed=seed
    )
    if fitted is not None:
        _keep(output, fitted, evaluation, data)
    output.result(evaluation.to_json(), lambda: show_evaluation(output, evaluation))
    if not evaluation.metrics:
        reasons = "; ".join(told.rstrip(".") for told in evaluation.warnings) or "no metric applies to it"
        raise ManykinError(f"nothing could be computed of {evaluation.model}: {reasons}.")


def holds_samples(path: str, data: str | None) -> bool:
    """Whether a path names samples: a file, or a folder that is no run and is to be judged beside data."""
    place = Path(path).expanduser()
    return place.is_file() or (data is not None and place.is_dir() and not (place / "config.json").exists())


def _keep(output: Output, fitted: "Fitted", evaluation: "Evaluation", data: str | None) -> None:
    """Write the evaluation into the run folder: under a name of its own where the data are not the run's test split."""
    from manykin.errors import TrainingFailed
    from manykin.evaluation import save_evaluation

    if fitted.folder is None:
        return
    own = data is None or evaluation.data in (str(fitted.provenance.get("name")), f"{Path(data).name}, test split")
    name = "" if own or data is None else re.sub(r"[^A-Za-z0-9._-]+", "-", data_label(data)).strip("-.") or "other"
    try:
        save_evaluation(fitted.folder, evaluation, name)
    except TrainingFailed as failure:
        output.note(f"the evaluation is shown but not kept: {failure}")


def show_evaluation(output: Output, evaluation: "Evaluation") -> None:
    """The estimates as a table, each beside its noise floor; notes and warnings."""
    from manykin.metrics.estimate import FLOOR

    known = {(each.name, each.sampler): each for each in evaluation.metrics}
    floors = {each.name.removesuffix(FLOOR): each for each in evaluation.metrics if each.name.endswith(FLOOR)}
    shown = [each for each in evaluation.metrics if not (each.name.endswith(FLOOR) and each.name.removesuffix(FLOOR) in {name for name, _ in known})]
    wide = shutil.get_terminal_size().columns >= WIDE
    counts = {each.n for each in shown}
    alike = not wide and len(counts) == 1
    columns = ["metric", "value", *(["real data", "beside it"] if floors else []), *([] if alike else ["n"]), *(["note"] if wide else [])]
    rows = []
    for each in shown:
        floor = _floor_cells(each, floors.get(each.name)) if floors else []
        rows.append([_label(each), _value(each), *floor, *([] if alike else [f"{each.n:,}"]), *([each.note] if wide else [])])
    if not shown:
        return
    output.line(f"{evaluation.model} on {evaluation.data}{f', {counts.pop():,} examples' if alike else ''}")
    output.table(columns, rows, right=["n"])
    if floors:
        output.paragraph("real data: the same metric with training rows, or other real rows, in the place of samples")
        found = {_standing(each, floors.get(each.name)) for each in shown}
        for word, meaning in LEGEND.items():
            if word in found:
                output.paragraph(f"{word}: {meaning}")
    notes = {each.note: [other.name for other in shown if other.note == each.note] for each in shown if each.note and not wide}
    for note, names in notes.items():
        output.paragraph(f"{', '.join(names)}: {note}")
    for warning in evaluation.warnings:
        output.paragraph(f"warning: {warning}")


def _floor_cells(estimate: "Estimate", floor: "Estimate | None") -> list[str]:
    from manykin.metrics.estimate import number

    return ["", ""] if floor is None else [number(floor.value, floor.stderr), _standing(estimate, floor)]


def _standing(estimate: "Estimate", floor: "Estimate | None") -> str:
    """How a metric of samples stands beside real data, as a key of LEGEND; empty where nothing can be said."""
    from manykin.metrics import standing
    from manykin.metrics.floors import P_VALUE

    found = standing(estimate, floor)
    if found == "cannot tell":
        return "?"
    return {"as good": "not told apart", "worse": "told apart"}.get(found, "") if estimate.unit == P_VALUE else found


def _value(estimate: "Estimate") -> str:
    from manykin.metrics.estimate import SAMPLES, number

    strength = "" if estimate.quantity == SAMPLES or not estimate.strength else f" ({estimate.strength})"
    return f"{number(estimate.value, estimate.stderr)}{f' {estimate.unit}' if estimate.unit else ''}{strength}"


def _label(estimate: "Estimate") -> str:
    """The name of an estimate, with what it is of where that is neither log p(x) nor samples."""
    from manykin.metrics.estimate import LOG_P, SAMPLES

    return estimate.name if estimate.quantity in (LOG_P, SAMPLES) else f"{estimate.name}, {estimate.quantity}"
