"""What each model of the table is and can do, read off small instances of it: nothing here is written twice."""

from typing import Any

import torch

from manykin.config import Config
from manykin.contract import OPTIONAL, GenerativeModel, Preset
from manykin.errors import InvalidInput
from manykin.models import get, names
from manykin.spaces import Column, Image, Labels, Space, Table, Tokens, Vector

_MIXED = (Column("real"), Column("count", "integer", levels=4), Column("kind", "categorical", categories=("a", "b")))

EXAMPLES: dict[str, Space] = {
    "Vector": Vector(2),
    "Vector of levels": Vector(4, levels=3),
    "Image": Image((1, 8, 8), levels=17),
    "Table of numbers": Table((Column("length"), Column("width"))),
    "Table": Table(_MIXED),
    "Table with missing values": Table((*_MIXED, Column("gaps", missing=True))),
    "Tokens": Tokens(vocab=5, length=6, end=0),
    "Labels": Labels(3),
}
"""A small space of each kind, to see which of them a model takes."""


def instance(name: str, space: Space, condition: Space | None = None) -> GenerativeModel:
    """An untrained model of the tiny preset; its weights are drawn without touching the global generators.

    Raises:
        Unsupported: where the model cannot take the space or the condition.
    """
    cls = get(name)
    with torch.random.fork_rng(devices=[]):
        return cls(_tiny(cls, space), space, condition)


def supports(name: str, space: Space, condition: Space | None = None) -> bool:
    """Whether a model can be fitted to data of this space."""
    try:
        instance(name, space, condition)
    except InvalidInput:
        return False
    return True


def describe(name: str) -> dict[str, Any]:
    """One model for lists: ``name``, ``family``, ``density``, ``conditional``, ``spaces``, ``optional``, ``paper``.

    ``density`` is the strength of ``log_prob`` on the first kind of space that the model takes, None for an implicit model. ``optional`` names the
    verbs of :data:`manykin.contract.OPTIONAL` that some instance has.
    """
    cls = get(name)
    found = {kind: instance(name, space) for kind, space in EXAMPLES.items() if supports(name, space)}
    density = next((model.density for model in found.values()), None)
    return {
        "name": name,
        "family": cls.family,
        "density": None if density is None else density.strength,
        "conditional": any(model.accepts.condition for model in found.values()),
        "spaces": list(found),
        "optional": [verb for verb, protocol in OPTIONAL.items() if any(isinstance(model, protocol) for model in found.values())],
        "paper": cls.paper,
    }


def catalogue() -> list[dict[str, Any]]:
    """All models of the table and of plugins, as :func:`describe` has them."""
    return [describe(name) for name in names()]


def _tiny(cls: type[GenerativeModel], space: Space) -> Config:
    preset = cls.presets.get("tiny", Preset())
    return cls.config_class.from_json((preset if isinstance(preset, Preset) else preset(space, 1000)).model)
