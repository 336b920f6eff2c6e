"""Results that benchmarks write once and read afterwards, so that an interrupted one goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kept(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was computed and written before, or is now."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(result, indent=2))
    beside.replace(path)
    return result
