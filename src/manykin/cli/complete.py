"""``manykin complete``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manykin.cli.options import ConfigCommand
from manykin.cli.output import Output, common
from manykin.cli.sample import find_sampler
from manykin.cli.values import deliver, parse_condition, read_partial
from manykin.errors import InvalidInput, Unsupported

if TYPE_CHECKING:
    from manykin.fitted import Fitted


class Complete(ConfigCommand):
    """``complete``, which also takes the options of a sampler."""

    prefixes = ("sampler",)


@click.command("complete", cls=Complete)
@click.argument("run")
@click.option("--prompt", metavar="TEXT", help="The beginning of a text, for a model of texts; may be empty.")
@click.option("--known", type=click.Path(path_type=Path), help="CSV or Parquet with empty cells, NPY with NaN, or NPZ of x and known.")
@click.option("-n", "n", type=click.IntRange(1), help="With --prompt: how many characters (or bytes) to write; 200, or of strings what fits.")
@click.option("--condition", metavar="label=VALUE", help="One label for all examples.")
@click.option("--sampler", "name", metavar="NAME", help="One of the model's samplers, its options as --sampler.FIELD VALUE.")
@click.option("--seed", type=click.IntRange(0), help="For repeatable draws; a fresh one is chosen and printed by default.")
@click.option("--out", type=click.Path(path_type=Path), help="A file for the completed examples.")
@click.option("--force", is_flag=True, help="Replace --out.")
@common
def command(
    output: Output, run: str, prompt: str | None, known: Path | None, n: int | None, condition: str | None, name: str | None, seed: int | None,
    out: Path | None, force: bool, fields: Mapping[str, Mapping[str, str]],
) -> None:  # fmt: skip
    """Go on with a text from --prompt, or fill the gaps of the examples in --known, by draws from RUN given what is there."""
    if (prompt is None) == (known is None):
        given = "both" if prompt is not None else "neither"
        raise InvalidInput(f"{given} of --prompt and --known {'were' if prompt is not None else 'was'} given; expected exactly one of them.")
    from manykin.fitted import from_pretrained
    from manykin.random import fresh_seed

    fitted = from_pretrained(run)
    seed = fresh_seed() if seed is None else seed
    chosen = find_sampler(fitted.model, name, fields["sampler"])
    options: dict[str, Any] = {"condition": parse_condition(fitted, condition), "seed": seed, "sampler": chosen}
    if prompt is not None:
        text = _go_on(fitted, run, prompt, n, options)
        if out is None:
            output.result({"run": run, "n": len(text) - len(prompt), "seed": seed, "prompt": prompt, "text": text}, lambda: output.line(text))
            output.note(f"seed {seed}")
        else:
            deliver(output, fitted, [text], {"run": run, "n": 1, "seed": seed}, out, force=force, stem="completed")
        return
    assert known is not None
    if n is not None:
        raise InvalidInput(f"-n {n} goes with --prompt; the examples in --known say themselves what is missing: leave it out.")
    x, mask = read_partial(known, fitted.provenance.get("options"))
    filled = fitted.complete(x, mask, **options)
    deliver(output, fitted, filled, {"run": run, "n": len(filled), "seed": seed}, out, force=force, stem="completed")


def _go_on(fitted: "Fitted", run: str, prompt: str, n: int | None, options: Mapping[str, Any]) -> str:
    from manykin.spaces import Tokens

    if not isinstance(fitted.space, Tokens):
        raise Unsupported(f"--prompt {prompt!r} needs a model of texts, and {run} models {fitted.space}; give examples with gaps by --known.")
    text: str = fitted.complete(prompt, n=n, **options)
    return text
