"""Trained extractors kept in the user's cache folder, one safetensors file each with its facts as JSON in the header."""

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manykin.data.limits import cache_folder
from manykin.errors import ManykinWarning
from manykin.metrics.features.common import weights_hash

KEY = "manykin"


def cache_path(key: str) -> Path:
    """Where the extractor of this key is kept."""
    return cache_folder() / "extractors" / f"{key[:32]}.safetensors"


def load(key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights and facts of this key; None where there are none, or, with a warning, where the file is damaged."""
    path = cache_path(key)
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()[KEY])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["key"] != key or facts["hash"] != weights_hash(state):
            raise ValueError("the content is not what was written")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(f"{path} is damaged ({reason}); the feature network is trained anew and the file replaced.", ManykinWarning, stacklevel=2)
        return None
    return state, facts


def store(key: str, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write an extractor atomically; where the folder cannot be written nothing is kept, with a warning."""
    path = cache_path(key)
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        beside = Path(name)
        save_file({each: tensor.detach().cpu().contiguous() for each, tensor in state.items()}, beside, {KEY: json.dumps({**facts, "key": key})})
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        if beside is not None:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        warnings.warn(
            f"{path} could not be written ({error}); the feature network will be trained again next time. Make {path.parent} writable.",
            ManykinWarning, stacklevel=2,
        )  # fmt: skip
