"""Presets of the flows."""

import torch

from manykin.contract import Preset
from manykin.models.flows.base import SMALLEST
from manykin.spaces import Image, Space

FEW = 16
"""Entries up to which networks are narrow and training is long."""
LARGE = 1024
"""Entries above which ten minutes of two cores are too little for the preset ``cpu``."""
ROWS = 20_000
"""Rows below which dropout and early stopping are on."""


def realnvp_default(space: Space, n: int) -> Preset:
    """For few columns narrow, deep and fast; for many wide, with dropout, since rows are then few. Early stopping below 20,000 rows."""
    train = {"schedule": "cosine", "warmup": 50, "clip": 1.0, "ema": 0.995} | ({"patience": 5} if n < ROWS else {})
    if torch.Size(space.shape).numel() <= FEW:
        return Preset({"layers": 8, "hidden": (64, 64)}, {"max_steps": 4000, "batch_size": 256, "lr": 5e-3, **train})
    return Preset({"layers": 8, "hidden": (256,), "dropout": 0.4}, {"max_steps": 2000, "batch_size": 128, "lr": 1e-3, **train})


realnvp_tiny = Preset({"layers": 4, "hidden": (24,), "channels": 8, "blocks": 1}, {"max_steps": 60, "batch_size": 128, "lr": 5e-3})
"""For tests: learns the rough shape of a few columns in a second."""


def nsf_default(space: Space, n: int) -> Preset:
    """For few columns narrow and deep with large batches; for many wide, with dropout where rows are few; small networks for pictures."""
    train = {"schedule": "cosine", "warmup": 50, "clip": 5.0, "ema": 0.995}
    stop = {"patience": 5} if n < ROWS else {}
    if isinstance(space, Image) and min(space.shape[1:]) >= SMALLEST:
        if torch.Size(space.shape).numel() <= LARGE and n >= ROWS:
            return nsf_cpu(space, n)
        model = {"conditioner": "autoregressive", "bins": 12, "hidden": (256,), "channels": 32, "blocks": 2, "dropout": 0.3 if n < ROWS else 0.0}
        return Preset(model, {"max_steps": 1500, "batch_size": 128, "lr": 2e-3, **train, **stop})
    if torch.Size(space.shape).numel() <= FEW:
        model = {"layers": 6, "bins": 16, "bound": 2.5, "hidden": (64, 64), "dropout": 0.1 if n < ROWS else 0.0}
        return Preset(model, {"max_steps": 7000, "batch_size": 512, "lr": 7e-3, **train, **stop})
    few = 0.3 if n < ROWS else 0.0
    return Preset({"layers": 6, "bins": 8, "hidden": (256,), "dropout": few}, {"max_steps": 2000, "batch_size": 128, "lr": 1e-3, **train, **stop})


def nsf_cpu(space: Space, n: int) -> Preset:
    """For many pictures of 28 x 28 in ten minutes on two cores, in bfloat16. Of other data, few or large pictures the default."""
    if not (isinstance(space, Image) and min(space.shape[1:]) >= SMALLEST) or n < ROWS or torch.Size(space.shape).numel() > LARGE:
        return nsf_default(space, n)
    splines = {"bins": 12} if space.levels is None else {"histogram": 64, "bins": 2}
    model = {"conditioner": "autoregressive", **splines, "hidden": (256,), "channels": 96, "blocks": 2}
    course = {"schedule": "cosine", "warmup": 100, "clip": 5.0, "ema": 0.998, "precision": "bf16"}
    train = {"max_steps": 5000, "batch_size": 24, "optimizer": "muon", "lr": 1e-2, **course}
    return Preset(model, train)


nsf_tiny = Preset({"layers": 3, "bins": 6, "hidden": (24,), "channels": 8, "blocks": 1}, {"max_steps": 60, "batch_size": 128, "lr": 5e-3})
"""For tests: learns the rough shape of a few columns in a second."""
