"""``manykin check``."""

from typing import TYPE_CHECKING, Literal

import click

from manykin.cli.output import Output, common
from manykin.errors import InvalidInput, suggest

if TYPE_CHECKING:
    from manykin.testing import CheckReport


@click.command("check")
@click.argument("model", metavar="MODEL-or-RUN")
@click.option("--level", type=click.Choice(["fast", "full"]), default="fast", show_default=True, help="fast takes seconds, full about a minute.")
@click.option("--waive", multiple=True, metavar="CHECK=REASON", help="A check that is known to fail, and why; may be repeated.")
@common
@click.pass_context
def command(ctx: click.Context, output: Output, model: str, level: Literal["fast", "full"], waive: tuple[str, ...]) -> None:
    """Test every promise of the contract on a model of the table or on a run; the exit code is 1 where one does not hold."""
    from pathlib import Path

    from manykin.models import names

    waived = dict(_waiver(text) for text in waive)
    if model not in names() and not Path(model).exists():
        raise InvalidInput(f"{model!r} is neither a model nor a run folder.{suggest(model, names())}")
    from manykin.fitted import from_pretrained
    from manykin.testing import check

    report = check(model if model in names() else from_pretrained(model), level, waived)
    output.result(report.to_json(), lambda: _show(output, report))
    if not report.passed:
        ctx.exit(1)


def _show(output: Output, report: "CheckReport") -> None:
    """A row a topic, then what failed and what was waived; ``--json`` has every check."""
    rows = []
    for topic in dict.fromkeys(row.topic for row in report.rows):
        mine = [row for row in report.rows if row.topic == topic]
        failed = sum(row in report.failures for row in mine)
        rows.append((topic, str(len(mine)), str(failed), f"{sum(row.seconds for row in mine):.1f} s"))
    output.table(["topic", "checks", "failed", "time"], rows, right=["checks", "failed", "time"])
    for row in report.failures:
        output.line(f"FAILED {row.name} on {row.subject}: {row.message}")
    for row in report.rows:
        if row.waived is not None:
            output.line(f"waived {row.name} on {row.subject}: {row.waived}")
    total = sum(row.seconds for row in report.rows)
    output.line(f"{report.model}: {len(report.rows)} checks, {len(report.failures)} failed, {total:.1f} s")


def _waiver(text: str) -> tuple[str, str]:
    name, found, reason = text.partition("=")
    if not found or not reason.strip():
        raise InvalidInput(f"--waive {text!r} gives no reason; expected CHECK=REASON.")
    return name, reason
