"""Data: named sets, toys with known densities, and the user's own arrays, tables, pictures and texts, all as a :class:`Dataset`.

Names are imported when first used, so that listing the data sets costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "load_data": "manykin.data.load",
    "load_rows": "manykin.data.load",
    "Dataset": "manykin.data.dataset",
    "Rows": "manykin.data.dataset",
    "Form": "manykin.data.forms",
    "save": "manykin.data.saving",
    "DataOptions": "manykin.data.options",
    "DataSetInfo": "manykin.data.catalogue",
    "data_sets": "manykin.data.catalogue",
    "names": "manykin.data.catalogue",
}

if TYPE_CHECKING:
    from manykin.data.catalogue import DataSetInfo, data_sets, names
    from manykin.data.dataset import Dataset, Rows
    from manykin.data.forms import Form
    from manykin.data.load import load_data, load_rows
    from manykin.data.options import DataOptions
    from manykin.data.saving import save

__all__ = ["DataOptions", "DataSetInfo", "Dataset", "Form", "Rows", "data_sets", "load_data", "load_rows", "names", "save"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'manykin.data' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
