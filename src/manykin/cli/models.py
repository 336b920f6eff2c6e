"""``manykin models``."""

import click

from manykin.cli.output import Output, common

SHORT = {
    "Vector": "numbers", "Vector of levels": "", "Image": "pictures", "Table of numbers": "", "Table": "tables",
    "Table with missing values": "gaps", "Tokens": "text", "Labels": "labels",
}  # fmt: skip
"""The kinds of data in a word each, for a table that fits 80 columns."""


@click.command("models")
@common
def command(output: Output) -> None:
    """List the models: their family, what their likelihood means, where they work, what they can do besides sampling."""
    from manykin.models.catalogue import catalogue

    found = catalogue()

    def show() -> None:
        rows = [
            (
                str(each["name"]), str(each["family"]), str(each["density"] or "none"), "yes" if each["conditional"] else "",
                ", ".join(filter(None, (SHORT.get(kind, kind) for kind in each["spaces"]))), ", ".join(each["optional"]),
            )
            for each in found
        ]  # fmt: skip
        output.table(["model", "family", "likelihood", "p(x|y)", "works on", "can also"], rows)
        output.line("Options of a model: manykin fit MODEL --help. Papers: manykin models --json.")

    output.result(found, show)
