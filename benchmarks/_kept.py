"""What benchmarks share: results that are written once and read afterwards, tasks that can be left out, and ablations that must be worse."""

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manykin.data.dataset import Rows
from manykin.metrics.draws import default_draws, log_likelihoods


def kept(path: Path, compute: Callable[[], dict[str, Any]], *, key: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What was computed and written before, or is now.

    ``key``: what the result depends on (options, budget, draws), as JSON. A result that was written with another key, or with none, is not taken for
    this one: it is computed again and replaced.
    """
    wanted = None if key is None else json.loads(json.dumps(key))
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if wanted is None:
            return found
        if found.get("key") == wanted:
            return dict(found["result"])
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(result if wanted is None else {"key": wanted, "result": result}, indent=2))
    beside.replace(path)
    return result


def slug(*words: object) -> str:
    """Words as part of a file's name."""
    return "-".join(re.sub(r"[^a-z0-9.]+", "-", str(word).lower()).strip("-") for word in words)


def tasks(chosen: str | None, names: Sequence[str], needing: Collection[str] = ()) -> Iterator[str]:
    """The task that was chosen, or all; without MANYKIN_DATA those that need it are left out of all, with a line for each."""
    for name in names if chosen is None else (chosen,):
        if chosen is None and name in needing and not os.environ.get("MANYKIN_DATA"):
            print(f"{name} is left out: it needs data sets in the folder that MANYKIN_DATA names, and that is not set.", flush=True)
            continue
        if chosen is None:
            print(f"-- {name}", flush=True)
        yield name


def losses(model: Any, rows: Rows, draws: int | None = None) -> tuple[Tensor, int]:
    """-log p(x) of each row in nats, float64, and the draws an example that each rests on; None: as many as ``manykin evaluate`` takes."""
    count = default_draws(model, rows) if draws is None else draws
    x = rows.all().x
    assert isinstance(x, Tensor)
    return -log_likelihoods(model, x, draws=count, seed=0).double().cpu(), count


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """A mean and its standard error over examples."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def listed(values: Tensor) -> list[float]:
    """Values to be written, to seven digits."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def worse(values: Sequence[float], whole: Sequence[float], unit: float = 1.0) -> str:
    """By how much a part's absence raises the mean loss of the same test examples, and whether by more than twice the error of that difference.

    The error is that over examples, paired; how much another seed of training would move both is not in it.
    """
    rise, error = mean_and_error(unit * (torch.tensor(values, dtype=torch.float64) - torch.tensor(whole, dtype=torch.float64)))
    return f"worse by {rise:.4f} ± {error:.4f}: {yes(rise > 2 * error)}"


def yes(reached: bool) -> str:
    """A verdict in a word."""
    return "yes" if reached else "no"
