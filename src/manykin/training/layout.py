"""What ``config.json`` holds, and what is refused in it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manykin.errors import CheckpointMismatch, InvalidInput, suggest
from manykin.spaces import Image, Labels, Record, Space, Tokens
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
    kinds = {"format": int, "model": dict, "space": dict, "sizes": dict, "transform": list, "form": dict, "training": dict, "seed": int, "data": dict,
             "versions": dict, "condition": dict, "result": dict, "preset": str}  # fmt: skip
    for key, kind in kinds.items():
        optional = key in ("condition", "result", "preset") and config.get(key) is None
        if key in config and not optional and (not isinstance(config[key], kind) or isinstance(config[key], bool)):
            raise CheckpointMismatch(f"{path}: key {key!r} is {brief(config[key])}; expected {kind.__name__}.")
    if not all(isinstance(step, str) for step in config["transform"]):
        raise CheckpointMismatch(f"{path}: key 'transform' is {brief(config['transform'])}; expected a list of names.")
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


def extent(space: Space) -> int:
    """How many entries a model of the space has to tell apart: its dimensions, or its classes, symbols or unordered levels."""
    if isinstance(space, Record):
        return sum(extent(part) for _, part in space.fields)
    kinds = {Labels: "classes", Tokens: "vocab"} | ({} if getattr(space, "ordinal", True) else {Image: "levels"})
    return max(math.prod(space.shape), int(getattr(space, kinds.get(type(space), ""), None) or 0))


def brief(value: Any) -> str:
    """A value in JSON, cut to one line."""
    return json.dumps(value)[:100]
