"""Between a user's files and a fitted model: conditions read from text, examples read from files, results shown or written."""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manykin.cli.options import free_file
from manykin.cli.output import Output
from manykin.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd

    from manykin.fitted import Fitted

SUFFIXES = {"frame": ".csv", "images": ".png", "strings": ".txt", "record": ".npz"}
"""The kind of file for each form of data; .npy for all others."""
PRINTED_COLUMNS = 8
PRINTED_ROWS = 100


def parse_condition(fitted: "Fitted", text: str | None) -> Any:
    """A condition as typed: ``label=3``, ``3``, or numbers separated by commas.

    Raises:
        InvalidInput: where the model takes no condition, or the numbers cannot be read.
    """
    from manykin.spaces import Labels

    if text is None:
        return None
    if fitted.condition is None:
        raise InvalidInput(f"--condition {text!r}: {fitted.name} was fitted without one; leave it out, or fit with --condition.")
    space = fitted.condition
    if isinstance(space, Labels) and space.names is not None and text in map(str, space.names):
        return text
    name, equals, value = text.partition("=") if "=" in text else ("", "", text)
    known = {"label", str(fitted.provenance.get("condition", "label"))}
    if equals and name not in known:
        raise InvalidInput(f"--condition {text!r}: {name!r} is not the condition of this run; expected {' or '.join(sorted(known))}=VALUE.")
    if isinstance(space, Labels):
        return value
    try:
        return [float(part) for part in value.split(",")]
    except ValueError:
        raise InvalidInput(f"--condition {text!r} is not a list of numbers; expected {space}, as 0.5,1.2.") from None


def read_partial(path: Path, options: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """Examples with gaps from a file: ``(x, known)``; known is None where gaps are empty cells or NaN.

    Tables are read with the data options of the run, so that the same marks mean missing.

    Raises:
        InvalidInput: for a file that is missing, of another kind, or damaged.
    """
    import numpy as np

    from manykin.data.csvs import read_csv
    from manykin.data.files import read_npy, read_npz, read_parquet
    from manykin.data.load import read_options

    chosen = read_options(options)
    if not path.is_file():
        raise InvalidInput(
            f"--known {str(path)!r} is not a file; expected a CSV or Parquet with empty cells, an NPY with NaN, or an NPZ of x and known."
        )
    try:
        if path.suffix == ".csv":
            return read_csv(path, chosen), None
        if path.suffix == ".parquet":
            return read_parquet(path, chosen), None
        if path.suffix == ".npy":
            return read_npy(path), None
        if path.suffix == ".npz":
            arrays = read_npz(path, chosen)
            return arrays["x"], np.asarray(arrays["known"]).astype(bool)
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise InvalidInput(f"--known {str(path)!r} cannot be read: {error}") from error
    raise InvalidInput(f"--known {str(path)!r} has the suffix {path.suffix!r}; expected .csv, .parquet, .npy, or .npz with the arrays x and known.")


def deliver(output: Output, fitted: "Fitted", drawn: Any, facts: dict[str, Any], out: Path | None, *, force: bool, stem: str) -> None:
    """Print a small table, or write the examples: to ``out``, else to a new file among the run's samples.

    Raises:
        InvalidInput: where ``out`` exists, unless ``force``.
    """
    from manykin.data import save

    frame = None if out is not None else small_table(drawn)
    if frame is not None:
        rows = json.loads(frame.to_json(orient="records", date_format="iso"))
        output.result({**facts, "rows": rows}, lambda: _print(output, frame))
        output.note(f"seed {facts['seed']}")
        return
    if out is not None and out.exists() and not force:
        raise InvalidInput(f"--out {str(out)!r} exists; give another name, or --force to replace it.")
    if out is None:
        folder = (fitted.folder or Path()) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        out = free_file(folder, stem, SUFFIXES.get(fitted.form.kind, ".npy"))
    _write(lambda path: save(drawn, fitted.space, fitted.form, path), out)
    output.result({**facts, "file": str(out)}, lambda: output.line(f"{len(drawn):,} examples in {out} (seed {facts['seed']})"))


def _write(write: Callable[[Path], Path], out: Path) -> None:
    """Write a file; one that is there is replaced only when the new one is complete.

    Raises:
        InvalidInput: where ``out`` is a folder that exists.
    """
    if not out.exists():
        write(out)
        return
    if out.is_dir():
        raise InvalidInput(f"--out {str(out)!r} is a folder and is left alone; give another name.")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        write(Path(scratch) / out.name).replace(out)


def small_table(drawn: Any) -> "pd.DataFrame | None":
    """What was drawn as a table that fits a terminal; None where it would not."""
    import numpy as np
    import pandas as pd
    import torch

    if isinstance(drawn, torch.Tensor):
        drawn = drawn.numpy()
    if isinstance(drawn, np.ndarray) and drawn.ndim == 1:
        drawn = drawn[:, None]
    if isinstance(drawn, np.ndarray) and drawn.ndim == 2:
        drawn = pd.DataFrame(drawn, columns=[f"x{index}" for index in range(drawn.shape[1])])
    if isinstance(drawn, list) and all(isinstance(each, str) for each in drawn):
        drawn = pd.DataFrame({"text": drawn})
    fits = isinstance(drawn, pd.DataFrame) and len(drawn) <= PRINTED_ROWS and drawn.shape[1] <= PRINTED_COLUMNS
    return drawn if fits else None


def _print(output: Output, frame: "pd.DataFrame") -> None:
    numbers = [str(name) for name in frame.columns if frame[name].dtype.kind in "fiu"]
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    output.table([str(name) for name in frame.columns], rows, right=numbers)


def _cell(value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
