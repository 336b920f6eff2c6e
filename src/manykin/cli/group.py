"""The verbs, by name: what ``manykin --help`` prints without importing any of them."""

from importlib import import_module

import click

from manykin import __version__
from manykin.errors import InvalidInput, suggest

VERBS: dict[str, str] = {
    "models": "The models: families, what their likelihood means, what they can do.",
    "data": "The data sets that have a name.",
    "fit": "Fit a model to data and leave a run folder.",
    "sample": "Draw from a run.",
    "complete": "Fill in missing columns or parts by draws given the known ones.",
    "evaluate": "How good a run is on data that it has not seen.",
    "compare": "Fit several models with one budget and evaluate them alike.",
    "check": "Run the conformance suite on a model or a run.",
    "report": "Write the HTML report of a run or a comparison.",
    "demo": "A model of every family on real handwritten digits, and one report.",
}


class Verbs(click.Group):
    """A group whose commands live in one module each, imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of a day's work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"manykin.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name.

        Raises:
            InvalidInput: for an unknown verb, with the nearest known one.
        """
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            raise InvalidInput(f"{args[0]!r} is not a verb of manykin.{suggest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table alone."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"manykin {__version__}")
        ctx.exit()


group = Verbs(
    "manykin",
    help="Every family of generative models under one contract, with likelihoods that say what they are.",
    epilog="Start with `manykin demo`, or `manykin fit gaussian-mixture YOUR.csv`. Each verb has its own --help.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, help="Show the version and leave.",
            callback=_version,
        )
    ],
)  # fmt: skip
