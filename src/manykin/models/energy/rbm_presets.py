"""Presets of the restricted Boltzmann machine."""

from collections.abc import Callable, Mapping

import torch

from manykin.contract import Preset
from manykin.models.energy.visible import FEW, kind_of
from manykin.spaces import Space


def default(space: Space, n: int) -> Preset:
    """Few columns get few hidden units, and an exact likelihood; the learning rate is that of the kind of visible units.

    Gradients are clipped where columns are real: one that is constant but for a few rows lies tens of standard deviations away in those.
    """
    entries = torch.Size(space.shape).numel()
    train = {"schedule": "linear", "ema": 0.998} | ({"clip": 1.0} if kind_of("auto", space) == "gaussian" else {})
    if entries <= FEW:
        return Preset({"hidden": 12, "chains": 500}, {**train, "max_steps": 4000, "batch_size": 256})
    train |= {"max_steps": 2500 if n < 20_000 else 10_000, "batch_size": 200}
    return Preset({"hidden": 256 if n < 20_000 else 500, "chains": 200}, train)


def picture(space: Space, n: int) -> Preset:
    """For binary pictures of 28 x 28 in some minutes on two cores: 500 hidden units, products in bfloat16, 10,000 temperatures."""
    train = {"schedule": "linear", "ema": 0.999, "precision": "bf16", "batch_size": 200}
    return Preset({"hidden": 500, "chains": 200, "ais_temperatures": 10_000}, {**train, "max_steps": 40_000})


PRESETS: Mapping[str, Preset | Callable[[Space, int], Preset]] = {
    "default": default,
    "tiny": Preset({"hidden": 6, "chains": 64}, {"max_steps": 200, "batch_size": 64, "schedule": "linear"}),
    "cpu": picture,
}
"""Presets by name."""
