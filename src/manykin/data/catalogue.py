"""The table of named data sets. Listing it imports neither torch nor any data library."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from manykin.data.limits import data_folders
from manykin.errors import InvalidInput, suggest

if TYPE_CHECKING:
    from manykin.data.dataset import Dataset

TOYS = (
    "box", "circle", "noisy-disc", "blobs", "two-moons", "eight-gaussians", "25-gaussians", "checkerboard", "pinwheel", "two-spirals",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One line of the table: what a set is, its loader as ``module:function``, and the files of which one must be present."""

    kind: str
    shape: tuple[int, ...]
    n: int
    loader: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSetInfo:
    """What lists print of a data set. ``shape`` is one datum's, ``n`` counts all splits, ``available`` is whether it can be loaded offline."""

    name: str
    kind: str
    shape: tuple[int, ...]
    n: int
    available: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"name": self.name, "kind": self.kind, "shape": list(self.shape), "n": self.n, "available": self.available}


TABLE: dict[str, Entry] = {
    "digits": Entry("pictures", (1, 8, 8), 1797, "manykin.data.named:digits"),
    "mnist": Entry("pictures", (1, 28, 28), 70_000, "manykin.data.named:mnist", ("mnist/mnist.npz", "mnist.npz")),
    "fashion-mnist": Entry(
        "pictures", (1, 28, 28), 70_000, "manykin.data.named:fashion_mnist",
        ("fashion-mnist/fashion-mnist.npz", "fashion_mnist/fashion_mnist.npz", "fashion-mnist.npz", "fashion_mnist.npz"),
    ),
    **{name: Entry("toy", (2,), 17_000, "manykin.data.named:toy_set") for name in TOYS},
}  # fmt: skip
"""Every named data set. A new one is one line."""


def names() -> list[str]:
    """The names of all data sets, in the order of the table."""
    return list(TABLE)


def data_sets() -> list[DataSetInfo]:
    """Every named data set and whether it is at hand."""
    return [DataSetInfo(name, entry.kind, entry.shape, entry.n, not entry.files or find_file(entry) is not None) for name, entry in TABLE.items()]


def find_file(entry: Entry) -> Path | None:
    """The first of an entry's files that lies in the folders of MANYKIN_DATA or in the cache."""
    candidates = (folder / file for folder in data_folders() for file in entry.files)
    return next((path for path in candidates if path.is_file()), None)


def load_named(name: str, condition: bool, seed: int) -> "Dataset":
    """Load one line of the table; ``condition`` asks for its labels.

    Raises:
        InvalidInput: for an unknown name (with the nearest known one), a set without labels, or one that is not to be had.
    """
    if name not in TABLE:
        raise InvalidInput(f"{name!r} is neither a data set nor a file or folder.{suggest(name, TABLE)}")
    module, function = TABLE[name].loader.split(":")
    loader = cast("Callable[[str, bool, int], Dataset]", getattr(import_module(module), function))
    return loader(name, condition, seed)
