"""The command ``manykin``: one file a verb, each imported only when it is used, so that ``--help`` costs nothing."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code: 0, 1 for a failed run, 2 for a wrong call, 130 after Ctrl-C."""
    from manykin.cli.run import run

    sys.exit(run(sys.argv[1:] if arguments is None else arguments))
