"""``manykin evaluate``."""

from typing import TYPE_CHECKING

import click

from manykin.cli.output import Output, common

if TYPE_CHECKING:
    from manykin.metrics import Estimate, Evaluation


@click.command("evaluate")
@click.argument("run")
@click.argument("data", required=False)
@click.option("--condition", metavar="COLUMN", help="The column of labels, for a conditional run; `label` by default.")
@click.option("-k", "k", type=click.IntRange(1), help="Draws for bounds and dequantisation.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all draws.")
@common
def command(output: Output, run: str, data: str | None, condition: str | None, k: int | None, seed: int) -> None:
    """Estimate how good RUN is on held-out DATA; without DATA, on the test split of the named data set that it was fitted to."""
    from manykin.errors import TrainingFailed
    from manykin.evaluation import evaluate, save_evaluation
    from manykin.fitted import from_pretrained

    fitted = from_pretrained(run)
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
        ["metric", "value", "examples", "note"],
        [(_label(each), str(each), f"{each.n:,}", each.note) for each in evaluation.metrics],
        right=["examples"],
    )


def _label(estimate: "Estimate") -> str:
    """The name of an estimate, with what it is of where that is not log p(x)."""
    return estimate.name if estimate.quantity == "log p(x)" else f"{estimate.name}, {estimate.quantity}"
