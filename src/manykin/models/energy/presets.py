"""Presets of the energy-based model."""

from typing import Any

import torch

from manykin.contract import Preset
from manykin.spaces import Image, Space

FEW, SMALL = 16, 144
"""Entries up to which waves and large batches pay, and up to which a perceptron draws pictures."""


def default(space: Space, n: int) -> Preset:
    """For few columns a perceptron with large batches, with waves for up to three; for larger pictures convolutions."""
    entries = torch.Size(space.shape).numel()
    train: dict[str, Any] = {"schedule": "cosine", "warmup": 50, "clip": 1.0}
    model: dict[str, Any]
    if entries <= FEW:
        model = {"hidden": (128, 128), "waves": 3 if entries <= 3 else 0, "steps": 5}
        return Preset(model, {"max_steps": 1500, "batch_size": 256, "lr": 3e-3, "ema": 0.995, **train})
    if isinstance(space, Image) and entries > SMALL and min(space.shape[1:]) >= 4:
        model = {"widths": (32, 64, 64), "hidden": (128, 64), "steps": 6, "buffer": 2048, "restart": 0.02, "sample_steps": 300, "leap_every": 0}
        return Preset(model, {"max_steps": 1200, "batch_size": 64, "lr": 1e-3, "ema": 0.995, **train})
    model = {"network": "mlp", "hidden": (256, 256), "steps": 5, "buffer": 2048, "restart": 0.02, "sample_steps": 400, "leap_every": 0}
    return Preset(model, {"max_steps": 1400, "batch_size": 128, "lr": 2e-3, "ema": 0.99, **train})


def picture(space: Space, n: int) -> Preset:
    """For pictures of 28 x 28 in ten minutes on two cores; of other data the default, twice as long."""
    if not (isinstance(space, Image) and min(space.shape[1:]) >= 4 and torch.Size(space.shape).numel() > SMALL):
        chosen = default(space, n)
        return Preset(chosen.model, {**chosen.train, "max_steps": 2 * chosen.train["max_steps"]})
    model = {"widths": (32, 64, 64), "hidden": (128, 64), "steps": 8, "buffer": 2048, "restart": 0.02, "sample_steps": 400, "leap_every": 0}
    train = {"max_steps": 3000, "batch_size": 64, "lr": 1e-3, "schedule": "cosine", "warmup": 200, "clip": 1.0, "ema": 0.998}
    return Preset(model, train)


tiny = Preset(
    {"network": "mlp", "hidden": (32, 32), "steps": 4, "buffer": 512, "sample_steps": 60}, {"max_steps": 60, "batch_size": 64, "lr": 5e-3, "ema": 0.9}
)
"""For tests: learns the rough shape of a few columns in a second."""
