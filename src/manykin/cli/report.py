"""``manykin report``."""

from pathlib import Path

import click

from manykin.cli.output import Output, common
from manykin.errors import InvalidInput


@click.command("report")
@click.argument("folder", metavar="RUN-or-DIR", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(["all", "html", "markdown"]), default="all", show_default=True, help="What to write.")
@common
def command(output: Output, folder: Path, format_: str) -> None:
    """Write report.html, one self-contained page, and report.md into the folder of a run or a comparison; of a run also samples.gif and strip.png."""
    if not folder.is_dir():
        raise InvalidInput(f"{str(folder)!r} is not a folder; expected that of a run or a comparison.")
    from manykin.report import write_report

    path = write_report(folder, format_).resolve()
    written = {"report": str(path)} | ({"markdown": str(path.with_name("report.md"))} if format_ != "html" else {})
    output.result(written, lambda: output.line(f"report: {path.as_uri()}"))
