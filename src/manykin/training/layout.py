"""What ``config.json`` holds, and what is refused in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manykin.errors import CheckpointMismatch, InvalidInput, suggest
from manykin.training.options import TrainOptions

FORMAT = 1
"""The newest format of run folders that this version reads and writes."""

REQUIRED = ("format", "model", "space", "condition", "sizes", "transform")
KNOWN = (*REQUIRED, "form", "training", "seed", "data", "versions", "result", "preset")


def check_keys(config: Mapping[str, Any], error: type[InvalidInput] | type[CheckpointMismatch], where: str) -> None:
    """Refuse keys that the format does not have; notes (``note...``) are free."""
    for key in config:
        if key not in KNOWN and not key.startswith("note"):
            raise error(f"{where}: key {key!r} is unknown.{suggest(key, KNOWN)}")


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """The checks of :meth:`RunFolder.read_config`."""
    version = config.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointMismatch(f"{path} has format {version}; this version reads up to {FORMAT}: install a newer manykin.")
    for key in REQUIRED:
        if key not in config:
            raise CheckpointMismatch(f"{path}: key {key!r} is missing.")
    check_keys(config, CheckpointMismatch, str(path))
    kinds = {"format": int, "model": dict, "space": dict, "sizes": dict, "transform": list, "form": dict, "training": dict, "seed": int, "data": dict}
    for key, kind in kinds.items():
        if key in config and (not isinstance(config[key], kind) or isinstance(config[key], bool)):
            raise CheckpointMismatch(f"{path}: key {key!r} is {brief(config[key])}; expected {kind.__name__}.")
    for key, kind in (("name", str), ("config", dict)):
        if not isinstance(config["model"].get(key), kind):
            raise CheckpointMismatch(f"{path}: key 'model.{key}' is missing or no {kind.__name__}.")
    for key, value in config["sizes"].items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise CheckpointMismatch(f"{path}: key 'sizes.{key}' is {brief(value)}; expected an integer of at least 0.")
    try:
        TrainOptions.from_json(config.get("training", {}))
    except InvalidInput as error:
        raise CheckpointMismatch(f"{path}: key 'training': {error}") from error


def brief(value: Any) -> str:
    """A value in JSON, cut to one line."""
    return json.dumps(value)[:100]
