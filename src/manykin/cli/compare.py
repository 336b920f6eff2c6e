"""``manykin compare``."""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manykin.cli.options import ARGUMENTS, data_label, duration, free_folder
from manykin.cli.output import Output, common
from manykin.errors import InvalidInput, TrainingFailed, suggest

if TYPE_CHECKING:
    from manykin.comparison import Comparison


class Compare(click.Command):
    """``compare``, which keeps its words to say how an interrupted comparison goes on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the raw arguments, then parse them."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


def _seeds(ctx: click.Context, param: click.Parameter, value: str | None) -> int | list[int] | None:
    """A number of seeds, or a list of them."""
    if value is None:
        return None
    try:
        found = [int(part) for part in value.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0 or ("," not in value and found[0] < 1):
        raise InvalidInput(f"--seeds {value!r} is neither a number of seeds nor a list of them; expected 3, or 0,1,2.")
    return found if "," in value else found[0]


@click.command("compare", cls=Compare)
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option("--data", help="The name of a data set, a file, or a folder of pictures.")
@click.option("--condition", metavar="COLUMN", help="Learn p(x | label).")
@click.option("--preset", default="default", show_default=True, help="A named choice of options, the same for all.")
@click.option("--max-time", metavar="TIME", callback=duration, help="Time for training each model: seconds, or 60s, 5m, 1h.")
@click.option("--max-steps", type=click.IntRange(1), help="Training steps of each model.")
@click.option("--metrics", default="standard", show_default=True, help="quick, standard, full, or names of metrics with commas between them.")
@click.option("--features", default="own", show_default=True, help="What looks at pictures: own, none, a TorchScript file, or a hub model's id.")
@click.option("--target", metavar="COLUMN", help="The column that usefulness predicts.")
@click.option("-n", "n", type=click.IntRange(1), help="Samples to draw for metrics of samples.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything.")
@click.option("--seeds", metavar="K", callback=_seeds, help="Fit each model with K seeds (or a list, 0,1,2): means with intervals.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder of the comparison; runs/DATA-compare by default.")
@click.option("--csv", "table", metavar="FILE", type=click.Path(path_type=Path), help="Also write all numbers as a CSV.")
@click.option("--resume", is_flag=True, help="Go on with the comparison in --out; finished runs are kept.")
@click.option("--like", metavar="DIR", type=click.Path(path_type=Path), help="Repeat a comparison with its models, data, seeds and steps.")
@click.option("--force", is_flag=True, help="Replace the comparison in --out, and the file of --csv.")
@common
@click.pass_context
def command(
    ctx: click.Context, output: Output, models: tuple[str, ...], data: str | None, condition: str | None, preset: str, max_time: float | None,
    max_steps: int | None, metrics: str, features: str, target: str | None, n: int | None, seed: int, seeds: int | list[int] | None,
    out: Path | None, table: Path | None, resume: bool, like: Path | None, force: bool,
) -> None:  # fmt: skip
    """Fit MODEL... to --data with the same split and budget, each in a process of its own, and evaluate them alike."""
    _check(ctx, models, data, out, table, resume, like, force)
    from manykin.comparison import compare

    folder = out or free_folder(f"{like.name}-again" if like is not None else f"{data_label(data or '')}-compare")
    output.settings.folder, output.settings.resume = folder, _resume_command(ctx.meta[ARGUMENTS], folder)
    result = compare(
        None if like is not None else models, data, condition=condition, preset=preset, max_time=max_time, max_steps=max_steps, metrics=metrics, n=n,
        features=features, target=target, out=folder, seed=seed, seeds=seeds, resume=resume, force=force, like=like, progress=output.note,
    )  # fmt: skip
    if table is not None:
        result.to_frame().to_csv(table, index=False)

    def show() -> None:
        show_comparison(output, result)
        output.line(f"folder: {folder} · manykin report {folder}")

    output.result(result.to_json(), show)
    if all(row.error is not None for row in result.rows):
        raise TrainingFailed(f"no model could be compared; the first reason is {result.rows[0].error} All logs are in {folder / 'logs'}.")


def _check(
    ctx: click.Context, models: Sequence[str], data: str | None, out: Path | None, table: Path | None, resume: bool, like: Path | None, force: bool
) -> None:
    """Refuse a call that cannot mean anything, before torch is imported."""
    from manykin.models import names

    if like is None and not models:
        raise click.MissingParameter(ctx=ctx, param=next(each for each in ctx.command.params if each.name == "models"))
    if like is None and data is None:
        raise click.MissingParameter(ctx=ctx, param=next(each for each in ctx.command.params if each.name == "data"))
    if like is not None:
        given = [each for each in ctx.command.params if each.name in REPEATED and _given(ctx, str(each.name))]
        if given:
            raise InvalidInput(f"--like repeats a comparison as it was; leave {given[0].opts[0]} out.")
    for name in models:
        if name not in names():
            raise InvalidInput(f"model {name!r} is not known.{suggest(name, names())}")
    if resume and out is None:
        raise InvalidInput("--resume needs the comparison to go on with: add --out DIR.")
    if resume and force:
        raise InvalidInput("--resume goes on with a comparison and --force replaces it; give one of them.")
    if table is not None and (table.is_dir() or (table.exists() and not (force or resume))):
        raise InvalidInput(f"--csv {str(table)!r} exists; give another name, or --force to replace it.")


REPEATED = ("models", "data", "condition", "preset", "max_time", "max_steps", "metrics", "target", "n", "seed", "seeds")
"""What --like takes from the comparison that it repeats; features that are a file or a download have to be given again."""


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _resume_command(args: Sequence[str], folder: Path) -> str:
    kept = [arg for arg in args if arg not in ("--resume", "--force")]
    out = [] if any(arg == "--out" or arg.startswith("--out=") for arg in kept) else ["--out", str(folder)]
    return shlex.join(["manykin", "compare", *kept, *out, "--resume"])


def show_comparison(output: Output, comparison: "Comparison") -> None:
    """A row a model, grouped by what its likelihood is; below it noise levels, the verdict, what failed, and warnings."""
    from manykin.comparison.table import table_of

    table = table_of(comparison, shutil.get_terminal_size().columns)
    output.line(f"test split of {comparison.data}")
    # One table a group, so that nobody reads several as one ranking; headers as wide as the widest cell keep their columns aligned.
    columns = [name.rjust(width) if name in table.right else name.ljust(width) for name, width in zip(table.columns, table.widths, strict=True)]
    right = [name for name in columns if name.strip() in table.right]
    for section in table.sections:
        output.line()
        output.paragraph(f"{section.title}:")
        output.table(columns, section.rows, right=right)
    output.line()
    for line in table.below:
        output.paragraph(line)
