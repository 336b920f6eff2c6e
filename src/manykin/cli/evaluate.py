"""``manykin evaluate``."""

from typing import TYPE_CHECKING

import click

from manykin.cli.output import Output, common
from manykin.errors import InvalidInput

if TYPE_CHECKING:
    from manykin.data import Dataset
    from manykin.fitted import Fitted
    from manykin.metrics import Evaluation


@click.command("evaluate")
@click.argument("run")
@click.argument("data", required=False)
@click.option("--condition", metavar="COLUMN", help="The column of labels, for a conditional run; `label` by default.")
@click.option("-k", "k", type=click.IntRange(1), help="Draws for bounds and dequantisation.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all draws.")
@common
def command(output: Output, run: str, data: str | None, condition: str | None, k: int | None, seed: int) -> None:
    """Estimate how good RUN is on held-out DATA; without DATA, on the test split of the named data set that it was fitted to."""
    from manykin.api import evaluate, save_evaluation
    from manykin.errors import TrainingFailed
    from manykin.fitted import from_pretrained

    fitted = from_pretrained(run)
    if data is None or data == fitted.provenance.get("name"):
        fitted.data, data, condition = _own_data(fitted, condition), None, None
    evaluation = evaluate(fitted, data, condition=condition, k=k, seed=seed)
    if fitted.folder is not None:
        try:
            save_evaluation(fitted.folder, evaluation)
        except TrainingFailed as failure:
            output.note(f"the evaluation is shown but not kept: {failure}")
    output.result(evaluation.to_json(), lambda: show_evaluation(output, evaluation))


def show_evaluation(output: Output, evaluation: "Evaluation") -> None:
    """The estimates as a table."""
    output.line(f"{evaluation.model} on {evaluation.data}")
    output.table(
        ["metric", "value", "examples", "note"], [(each.name, str(each), f"{each.n:,}", each.note) for each in evaluation.metrics], right=["examples"]
    )


def _own_data(fitted: "Fitted", condition: str | None) -> "Dataset":
    """The named data set that a run was fitted to, with the same splits.

    Raises:
        InvalidInput: where it was fitted to data without a name.
    """
    from manykin.data import load_data, names

    name = fitted.provenance.get("name")
    if name not in names():
        raise InvalidInput(f"the run was fitted to {name!r}, which is not a named data set; expected the data: manykin evaluate RUN DATA.")
    return load_data(name, condition=None if fitted.condition is None else condition or "label", seed=fitted.seed)
