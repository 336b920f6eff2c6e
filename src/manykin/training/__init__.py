"""Training: options, the loop, run folders, checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Interrupted": "signals",
    "RunFolder": "runfolder",
    "TrainOptions": "options",
    "TrainResult": "entry",
    "TrainState": "progress",
    "describe_model": "runfolder",
    "load_weights": "weights",
    "progress_bar": "progress",
    "train": "entry",
}

if TYPE_CHECKING:
    from manykin.training.entry import TrainResult, train
    from manykin.training.options import TrainOptions
    from manykin.training.progress import TrainState, progress_bar
    from manykin.training.runfolder import RunFolder, describe_model
    from manykin.training.signals import Interrupted
    from manykin.training.weights import load_weights

__all__ = ["Interrupted", "RunFolder", "TrainOptions", "TrainResult", "TrainState", "describe_model", "load_weights", "progress_bar", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'manykin.training' has no attribute {name!r}")
    value = getattr(import_module(f"manykin.training.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value
