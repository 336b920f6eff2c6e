"""Loaders of the named data sets."""

import hashlib
import os
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manykin.data.catalogue import TABLE, find_file
from manykin.data.dataset import Dataset, Rows
from manykin.data.files import read_npz
from manykin.data.forms import Form
from manykin.data.limits import cache_folder, sha256_of_arrays, sha256_of_file
from manykin.data.options import DataOptions
from manykin.data.toys import toy
from manykin.errors import InvalidInput
from manykin.random import hash_seed
from manykin.spaces import Image, Labels, Vector

_HOMES = {
    "mnist": (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    ),
}
"""Where a set can be downloaded, and the sha256 of the file."""

_MAX_DOWNLOAD = 1 << 28
_TOY_ROWS = {"train": 10_000, "val": 2_000, "test": 5_000}


def digits(name: str, condition: bool, seed: int) -> Dataset:
    """The 1797 handwritten digits of scikit-learn, 8 x 8, 17 levels (UCI optical recognition of handwritten digits, Alpaydin and Kaynak, 1998).

    Split as ``train_test_split(X, y, test_size=0.2, random_state=0)`` does: 1437 and 360. Independent of ``seed``.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    x, y = data.images.astype(np.uint8), data.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(x)), test_size=0.2, random_state=0)
    note = {
        "source": "scikit-learn load_digits", "licence": "CC BY 4.0 (UCI machine learning repository)",
        "split": "train_test_split(test_size=0.2, random_state=0)", "sha256": sha256_of_arrays(x, y),
    }  # fmt: skip
    return _pictures(name, 17, {"train": (x[train], y[train]), "test": (x[test], y[test])}, condition, note)


def mnist(name: str, condition: bool, seed: int) -> Dataset:
    """MNIST, 28 x 28, 60,000 and 10,000 (LeCun, Cortes and Burges). Independent of ``seed``."""
    return _npz_pictures(name, condition, "CC BY-SA 3.0 (Y. LeCun and C. Cortes)")


def fashion_mnist(name: str, condition: bool, seed: int) -> Dataset:
    """Fashion-MNIST, 28 x 28, 60,000 and 10,000 (Xiao, Rasul and Vollgraf, 2017). Independent of ``seed``."""
    return _npz_pictures(name, condition, "MIT (Zalando SE)")


def toy_set(name: str, condition: bool, seed: int) -> Dataset:
    """A toy of known density: 10,000 training, 2,000 validation and 5,000 test rows, each drawn with a seed of its own."""
    if condition:
        raise InvalidInput(f"{name} has no labels; leave the condition out.")
    source = toy(name)
    rows = {split: source.sample(n, hash_seed(seed, name, split)) for split, n in _TOY_ROWS.items()}
    note = _provenance(name, rows, {
        "source": "drawn from a known density", "licence": "public domain", "split": f"independent draws, seed {seed}",
        "sha256": sha256_of_arrays(*(x.numpy() for x in rows.values())),
    })  # fmt: skip
    space = Vector(2, names=("x", "y"))
    train, val, test = (Rows(rows[split]) for split in ("train", "val", "test"))
    return Dataset(name, space, train, val, test, form=Form("array", "float64"), provenance=note, entropy=source.entropy)


def _npz_pictures(name: str, condition: bool, licence: str) -> Dataset:
    path = find_file(TABLE[name]) or _download(name)
    arrays = read_npz(path, DataOptions())
    for key in ("x_train", "y_train", "x_test", "y_test"):
        if key not in arrays:
            raise InvalidInput(f"{path} has no array {key!r}; expected x_train, y_train, x_test and y_test of {name}.")
    parts = {split: (arrays[f"x_{split}"], arrays[f"y_{split}"].astype(np.int64)) for split in ("train", "test")}
    for split, (x, y) in parts.items():
        if x.shape[1:] != TABLE[name].shape[1:] or x.dtype != np.uint8 or len(x) != len(y):
            raise InvalidInput(f"{path}, x_{split} is {x.dtype} of shape {x.shape}; expected uint8 pictures (n, 28, 28) with a label each.")
    note = {"file": path.name, "licence": licence, "split": "the set's own", "sha256": sha256_of_file(path)}
    return _pictures(name, 256, parts, condition, note)


def _pictures(name: str, levels: int, parts: dict[str, tuple[Any, Any]], condition: bool, note: dict[str, Any]) -> Dataset:
    height, width = next(iter(parts.values()))[0].shape[1:]
    codes = {split: torch.from_numpy(y) for split, (_, y) in parts.items()}
    rows = {
        split: Rows(torch.from_numpy(x)[:, None], codes[split] if condition else None, label=codes[split]) for split, (x, _) in parts.items()
    }  # fmt: skip
    form = Form("images", "uint8", {"channels": "none"})
    provenance = _provenance(name, {split: x for split, (x, _) in parts.items()}, note)
    classes = Labels(10)
    space, labels = Image((1, height, width), levels), classes if condition else None
    return Dataset(name, space, rows["train"], None, rows["test"], labels, form, provenance, classes=classes)


def _provenance(name: str, parts: dict[str, Any], note: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, **note, "rows": {split: len(x) for split, x in parts.items()}, "lossy": [], "outside": {}}


def _download(name: str) -> Path:
    """Fetch a set from its pinned home into the cache, checking its hash before it is used.

    Raises:
        InvalidInput: without a home, without a connection, or for another content; says which file to put where.
    """
    target = cache_folder() / TABLE[name].files[0]
    remedy = f"Put {TABLE[name].files[0]} (arrays x_train, y_train, x_test, y_test) into a folder named by MANYKIN_DATA, or at {target}."
    if name not in _HOMES:
        raise InvalidInput(f"{name} is not at hand, and has no pinned home to download it from. {remedy}")
    url, expected = _HOMES[name]
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            content = answer.read(_MAX_DOWNLOAD)
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise InvalidInput(f"{url} has the hash {found[:12]}... instead of {expected[:12]}...: not used. {remedy}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        part.write_bytes(content)
        part.replace(target)
    except OSError as error:
        raise InvalidInput(f"{name} is not at hand and could not be downloaded from {url} ({error}). {remedy}") from error
    return target
