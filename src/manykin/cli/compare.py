"""``manykin compare``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from manykin.cli.options import data_label, duration, free_folder
from manykin.cli.output import Output, common, seconds
from manykin.errors import InvalidInput, suggest

if TYPE_CHECKING:
    from manykin.comparison import Comparison, Row
    from manykin.metrics import Estimate


@click.command("compare")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", required=True, help="The name of a data set, a file, or a folder of pictures.")
@click.option("--condition", metavar="COLUMN", help="Learn p(x | label).")
@click.option("--preset", default="default", show_default=True, help="A named choice of options, the same for all.")
@click.option("--max-time", metavar="TIME", callback=duration, help="Time for training each model: seconds, or 60s, 5m, 1h.")
@click.option("--max-steps", type=click.IntRange(1), help="Training steps of each model.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder of the comparison; runs/DATA-compare by default.")
@click.option("--force", is_flag=True, help="Replace the comparison in --out.")
@common
def command(
    output: Output, models: tuple[str, ...], data: str, condition: str | None, preset: str, max_time: float | None, max_steps: int | None, seed: int,
    out: Path | None, force: bool,
) -> None:  # fmt: skip
    """Fit MODEL... to --data one after the other, with the same split and budget, and evaluate them alike."""
    from manykin.models import names

    for name in models:
        if name not in names():
            raise InvalidInput(f"model {name!r} is not known.{suggest(name, names())}")
    from manykin.comparison import compare

    folder = out or free_folder(f"{data_label(data)}-compare")
    output.settings.folder = folder
    result = compare(
        models, data, condition=condition, preset=preset, max_time=max_time, max_steps=max_steps, out=folder, seed=seed, force=force,
        progress=output.progress,
    )  # fmt: skip

    def show() -> None:
        show_comparison(output, result)
        output.line(f"folder: {folder} · manykin report {folder}")

    output.result(result.to_json(), show)


def show_comparison(output: Output, comparison: "Comparison") -> None:
    """A row a model: likelihood with its strength, distance of samples, training time, parameters; below it what failed."""
    measured = [row for row in comparison.rows if row.error is None]
    shown = [name for name in ("bits_per_dim", "nll", "energy_distance") if any(row.metric(name) for row in measured)]
    if "bits_per_dim" in shown:
        shown = [name for name in shown if name != "nll"]
    output.line(f"test split of {comparison.data}; lower is better; what a likelihood is stands beside it")
    numbers = ["fit", "parameters"]
    output.table(["model", *shown, *numbers], [_cells(row, shown) for row in measured], right=numbers)
    floor = next((metric for row in measured if (metric := row.metric("energy_distance_floor")) is not None), None)
    if floor is not None:
        output.line(f"noise level (training against test rows): {_figure(floor)}")
    for row in comparison.rows:
        if row.error is not None:
            output.line(f"{row.model}: {row.error}")


def _figure(metric: "Estimate") -> str:
    """An estimate whose unit follows from its column."""
    return str(metric).replace(f" {metric.unit}", "")


def _cells(row: "Row", shown: list[str]) -> list[str]:
    values = [_figure(metric) if (metric := row.metric(name)) is not None else "none" for name in shown]
    return [row.model, *values, seconds(row.seconds or 0.0), f"{row.parameters or 0:,}"]
