"""``manykin sample``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manykin.cli.options import ConfigCommand
from manykin.cli.output import Output, common
from manykin.cli.values import deliver, parse_condition
from manykin.errors import InvalidInput, suggest

if TYPE_CHECKING:
    from manykin.contract import GenerativeModel, Sampler


class Sample(ConfigCommand):
    """``sample``, which also takes the options of a sampler."""

    prefixes = ("sampler",)


@click.command("sample", cls=Sample)
@click.argument("run")
@click.option("-n", "n", type=click.IntRange(1), default=64, show_default=True, help="How many.")
@click.option("--condition", metavar="label=VALUE", help="One label for all; by default they are drawn as often as in the training data.")
@click.option("--sampler", "name", metavar="NAME", help="One of the model's samplers, its options as --sampler.FIELD VALUE.")
@click.option("--seed", type=click.IntRange(0), help="For repeatable draws; a fresh one is chosen and printed by default.")
@click.option("--out", type=click.Path(path_type=Path), help="A file (.csv, .parquet, .npy, .npz, .png, .txt) or a folder of PNGs.")
@click.option("--force", is_flag=True, help="Replace --out.")
@common
def command(
    output: Output, run: str, n: int, condition: str | None, name: str | None, seed: int | None, out: Path | None, force: bool,
    fields: Mapping[str, Mapping[str, str]],
) -> None:  # fmt: skip
    """Draw from RUN. Without --out, small tables are printed; anything else is written into the run's samples."""
    from manykin.fitted import from_pretrained
    from manykin.random import fresh_seed

    fitted = from_pretrained(run)
    seed = fresh_seed() if seed is None else seed
    chosen = find_sampler(fitted.model, name, fields["sampler"])
    drawn = fitted.sample(n, parse_condition(fitted, condition), seed=seed, sampler=chosen)
    deliver(output, fitted, drawn, {"run": run, "n": n, "seed": seed}, out, force=force, stem="sample")


def find_sampler(model: "GenerativeModel", name: str | None, options: Mapping[str, str]) -> "Sampler | None":
    """The sampler of a name with these options; None where neither is given.

    Raises:
        InvalidInput: for a sampler that the model has not, or options without a sampler.
    """
    known: dict[str, type[Sampler]] = {kind.__name__.lower(): kind for kind in model.samplers}
    if name is None and not options:
        return None
    chosen = name.lower() if name is not None else next(iter(known), "") if len(known) == 1 else ""
    if name is None and chosen not in known:
        given = f"--sampler.{next(iter(options))}"
        remedy = f"say of which sampler: --sampler {', '.join(known)}" if known else "this model has only one way to sample: leave it out"
        raise InvalidInput(f"{given} without --sampler does not say what it belongs to; {remedy}.")
    if chosen not in known:
        hint = suggest(chosen, known) or " It has only one way to sample: leave the option out."
        raise InvalidInput(f"--sampler {name} is not one of this model's samplers.{hint}")
    sampler: Sampler = known[chosen].from_json(options)
    return sampler
