"""What may be believed of a comparison's folder: it can come from anybody, so its names, numbers and files are checked before they are used."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from manykin.data.limits import sha256_of_file
from manykin.errors import CheckpointMismatch, InvalidInput

HARMLESS = re.compile(r"none|own(:[0-9]+)?")
"""Features that load nothing: all others are files or downloads, whose content is run."""
MOST_THREADS = 4096


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its class where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_plain(name: Any) -> bool:
    """Whether a name is that of an entry of a folder, and leads nowhere else."""
    return isinstance(name, str) and name not in ("", ".", "..") and name.isprintable() and "\\" not in name and Path(name).name == name


def check_setup(path: Path, found: Mapping[str, Any]) -> None:
    """Refuse a ``comparison.json`` whose values are not what a comparison writes.

    Raises:
        CheckpointMismatch: naming the key, the value, and what was expected.
    """
    for key, (right, expected) in _KEYS.items():
        if not right(found[key]):
            raise wrong(path, key, found[key], expected)
    for number, model in enumerate(found["models"]):
        for key, (right, expected) in _MODEL.items():
            if key not in model or not right(model[key]):
                raise wrong(path, f"models[{number}].{key}", model.get(key), expected)
    labels = [model["label"] for model in found["models"]]
    if len(set(labels)) < len(labels):
        raise wrong(path, "models", labels, "different labels")


def check_data(path: Path, recorded: Any) -> None:
    """Refuse a data file with another content than the comparison recorded.

    Raises:
        CheckpointMismatch: where the hashes differ.
        InvalidInput: where the file cannot be read.
    """
    now = sha256_of_file(path)
    if now != recorded:
        raise CheckpointMismatch(
            f"{path} is not the file of this comparison: data.sha256 = {_brief(recorded)} was recorded, its content has {now}; "
            "bring the file back, or compare by a new call."
        )


def check_features(folder: Path, recorded: str, given: str) -> None:
    """Refuse to load a network that a folder names and the caller does not: a TorchScript file is code.

    Raises:
        InvalidInput: saying how to allow it; or where other features are asked for than are to be repeated.
    """
    if HARMLESS.fullmatch(recorded):
        if given not in ("own", recorded):
            raise InvalidInput(f"features = {given!r} differ from those of {folder}, {recorded!r}; leave them out to repeat it.")
    elif given != recorded:
        raise InvalidInput(
            f"{folder} asks for features = {_brief(recorded)}, which are loaded and run; if you trust them, add --features {shlex.quote(recorded)}."
        )


def wrong(path: Path, key: str, value: Any, expected: str) -> CheckpointMismatch:
    """The error of a value that no comparison writes."""
    return CheckpointMismatch(f"{path}: {key} = {_brief(value)}; expected {expected}: the file is damaged or was changed, compare by a new call.")


def whole(value: Any, least: int) -> bool:
    """Whether a value of JSON is a whole number, and no smaller."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _brief(value: Any) -> str:
    return json.dumps(value)[:100]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _list_of(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(right(each) for each in value)


def _or_none(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or right(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _budget(value: Any) -> bool:
    known = isinstance(value, dict) and {"max_time", "max_steps"} <= value.keys()
    return known and _or_none(_number)(value["max_time"]) and _or_none(lambda steps: whole(steps, 1))(value["max_steps"])


def _steps(value: Any) -> bool:
    return isinstance(value, dict) and all(whole(each, 1) for each in value.values())


def _seeds(value: Any) -> bool:
    return _list_of(lambda seed: whole(seed, 0))(value) and len(set(value)) == len(value)


def _data(value: Any) -> bool:
    return isinstance(value, dict) and _text(value.get("name")) and _text(value.get("sha256"))


_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda value: whole(value, 1), "an integer of at least 1"),
    "models": (_list_of(lambda value: isinstance(value, dict)), "a list of objects"),
    "data": (_data, "an object with the texts name and sha256"),
    "seeds": (_seeds, "a list of different integers of at least 0"),
    "preset": (_text, "a text"),
    "budget": (_budget, "an object with max_time, a number or null, and max_steps, an integer of at least 1 or null"),
    "metrics": (_list_of(_text), "a list of texts"),
    "n": (_or_none(lambda value: whole(value, 1)), "an integer of at least 1, or null"),
    "features": (_text, "a text"),
    "target": (_or_none(_text), "a text or null"),
    "threads": (lambda value: whole(value, 1) and value <= MOST_THREADS, f"an integer from 1 to {MOST_THREADS}"),
    "steps": (_or_none(_steps), "an object of integers of at least 1, or null"),
}
_MODEL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "label": (is_plain, "a plain name, which leads out of no folder"),
    "name": (_or_none(_text), "a text or null"),
    "options": (_or_none(lambda value: isinstance(value, dict)), "an object or null"),
}
