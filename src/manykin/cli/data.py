"""``manykin data``."""

import dataclasses
from typing import Any

import click

from manykin.cli.output import Output, common


@click.command("data")
@common
def command(output: Output) -> None:
    """List the data sets that have a name. Anything else is a path: CSV, Parquet, NPY, NPZ, a folder of pictures, a text file."""
    from manykin.data import data_sets

    found: list[dict[str, Any]] = [
        {key: value for key, value in dataclasses.asdict(each).items() if key in ("name", "kind", "shape", "n", "available")} for each in data_sets()
    ]

    def show() -> None:
        rows = [
            (
                str(each["name"]), str(each["kind"]), "x".join(map(str, each["shape"])), "any" if each["n"] is None else f"{each['n']:,}",
                "yes" if each["available"] else "no",
            )
            for each in found
        ]  # fmt: skip
        output.table(["data", "kind", "shape", "examples", "available"], rows, right=["examples"])
        output.line("Your own: the path of a CSV, Parquet, NPY, NPZ or text file, or of pictures.")

    output.result(found, show)
