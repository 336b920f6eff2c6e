"""What a person sees of a run while it goes on."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrainState:
    """Where a run is: ``rate`` in steps a second, ``eta`` the seconds left, ``metrics`` the last line of the log."""

    step: int
    max_steps: int | None
    rate: float
    eta: float | None
    metrics: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[TrainState], None]]:
    """A bar on standard error with rate, time left and the last loss; silent off a terminal.

    >>> with progress_bar("gaussian") as show:
    ...     show(TrainState(1, 10, 5.0, 1.8))
    """
    if not sys.stderr.isatty():
        yield lambda state: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, figures="")

        def show(state: TrainState) -> None:
            bar.update(task, completed=state.step, total=state.max_steps, figures=_figures(state))

        yield show


def _figures(state: TrainState) -> str:
    shown = [f"{state.rate:.3g} steps/s"]
    for key in ("loss", "log_likelihood", "val_nll", "val_loss"):
        value = state.metrics.get(key)
        if isinstance(value, float):
            shown.append(f"{key} {value:.4g}")
    return " ".join(shown)
