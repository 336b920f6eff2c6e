"""``manykin complete``."""

from pathlib import Path

import click

from manykin.cli.output import Output, common
from manykin.cli.values import deliver, parse_condition, read_partial


@click.command("complete")
@click.argument("run")
@click.option("--known", type=click.Path(path_type=Path), required=True, help="CSV or Parquet with empty cells, NPY with NaN, or NPZ of x and known.")
@click.option("--condition", metavar="label=VALUE", help="One label for all examples.")
@click.option("--seed", type=click.IntRange(0), help="For repeatable draws; a fresh one is chosen and printed by default.")
@click.option("--out", type=click.Path(path_type=Path), help="A file for the completed examples.")
@click.option("--force", is_flag=True, help="Replace --out.")
@common
def command(output: Output, run: str, known: Path, condition: str | None, seed: int | None, out: Path | None, force: bool) -> None:
    """Fill the gaps of the examples in --known by draws from RUN given what is there; known entries stay as they are."""
    from manykin.fitted import from_pretrained
    from manykin.random import fresh_seed

    fitted = from_pretrained(run)
    seed = fresh_seed() if seed is None else seed
    x, mask = read_partial(known, fitted.provenance.get("options"))
    filled = fitted.complete(x, mask, parse_condition(fitted, condition), seed=seed)
    deliver(output, fitted, filled, {"run": run, "n": len(filled), "seed": seed}, out, force=force, stem="completed")
