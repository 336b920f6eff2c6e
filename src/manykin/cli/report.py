"""``manykin report``."""

from pathlib import Path

import click

from manykin.cli.output import Output, common
from manykin.errors import InvalidInput


@click.command("report")
@click.argument("folder", metavar="RUN-or-DIR", type=click.Path(path_type=Path))
@common
def command(output: Output, folder: Path) -> None:
    """Write report.html, one self-contained page, into the folder of a run or a comparison."""
    if not folder.is_dir():
        raise InvalidInput(f"{str(folder)!r} is not a folder; expected that of a run or a comparison.")
    from manykin.report import write_report

    path = write_report(folder).resolve()
    output.result({"report": str(path)}, lambda: output.line(f"report: {path.as_uri()}"))
