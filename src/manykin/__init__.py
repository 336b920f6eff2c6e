"""manykin: every family of generative models under one contract.

Names are imported when they are first used, so that ``import manykin`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "fit": "manykin.api",
    "evaluate": "manykin.evaluation",
    "compare": "manykin.comparison",
    "check": "manykin.testing",
    "from_pretrained": "manykin.fitted",
    "Fitted": "manykin.fitted",
    "load_data": "manykin.data",
    "GenerativeModel": "manykin.contract",
    "Vector": "manykin.spaces",
    "Image": "manykin.spaces",
    "Labels": "manykin.spaces",
    "Tokens": "manykin.spaces",
    "Table": "manykin.spaces",
    "Column": "manykin.spaces",
    "Record": "manykin.spaces",
    "InvalidInput": "manykin.errors",
    "NoDensity": "manykin.errors",
    "NotFitted": "manykin.errors",
    "CheckpointMismatch": "manykin.errors",
}

if TYPE_CHECKING:
    from manykin.api import fit
    from manykin.comparison import compare
    from manykin.contract import GenerativeModel
    from manykin.data import load_data
    from manykin.errors import CheckpointMismatch, InvalidInput, NoDensity, NotFitted
    from manykin.evaluation import evaluate
    from manykin.fitted import Fitted, from_pretrained
    from manykin.spaces import Column, Image, Labels, Record, Table, Tokens, Vector
    from manykin.testing import check

__all__ = [
    "CheckpointMismatch", "Column", "Fitted", "GenerativeModel", "Image", "InvalidInput", "Labels", "NoDensity", "NotFitted", "Record", "Table",
    "Tokens", "Vector", "check", "compare", "evaluate", "fit", "from_pretrained", "load_data",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'manykin' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
