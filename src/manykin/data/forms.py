"""Forms: what a user's data looked like, so that samples come back as what went in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Form:
    """How the user's own object maps to a space's tensors: recorded in the run folder, exact in JSON.

    ``kind``: tensor, array, frame (pandas), images (uint8 arrays, channels last), strings, or record. ``dtype`` is the array's own.
    """

    kind: Literal["tensor", "array", "frame", "images", "strings", "record"] = "tensor"
    dtype: str = "float32"
    options: Mapping[str, Any] | None = None
