"""Presets of PixelCNN: for tests, for any pictures, and for MNIST-sized pictures on a laptop."""

from collections.abc import Callable, Mapping

import torch

from manykin.contract import Preset
from manykin.spaces import Image, Space

PIXELS = 400
"""Pixels above which a step is dear, so that batches are smaller."""

LARGE = 1024
"""Entries above which ten minutes of two cores are too little for the preset ``cpu``."""

FEW = 20_000
"""Training pictures below which dropout pays: with 1,400 digits, data are the limit and not time."""

COURSE = {"schedule": "cosine", "warmup": 15, "precision": "bf16", "lr": 8e-3}


def dropout(n: int) -> float:
    """Two fifths of the features for a few thousand pictures, none for many."""
    return 0.4 if n < 5000 else 0.2 if n < FEW else 0.0


def default(space: Space, n: int) -> Preset:
    """Six layers of 48 features, of large pictures eight of 32; strong dropout where pictures are few."""
    if isinstance(space, Image) and space.size[1] * space.size[2] > PIXELS:
        model = {"layers": 8, "width": 32, "hidden": 64, "dropout": dropout(n)}
        return Preset(model, {**COURSE, "max_steps": 1500, "batch_size": 32, "ema": 0.99})
    model = {"layers": 6, "width": 48, "hidden": 96, "dropout": dropout(n)}
    return Preset(model, {**COURSE, "max_steps": 400, "batch_size": 64, "ema": 0.97})


def cpu(space: Space, n: int) -> Preset:
    """For ten minutes of two cores on many pictures of 28 x 28: ten layers, about four passes over 60,000. Of few or large ones the default."""
    if n < FEW or torch.Size(space.shape).numel() > LARGE:
        return default(space, n)
    model = {"layers": 10, "width": 32, "hidden": 64, "dropout": dropout(n)}
    return Preset(model, {**COURSE, "max_steps": 7500, "batch_size": 32, "ema": 0.998, "eval_every": 2500, "save_every": 2500})


PRESETS: Mapping[str, Preset | Callable[[Space, int], Preset]] = {
    "default": default,
    "tiny": Preset({"layers": 2, "width": 16, "hidden": 32, "first": 2}, {"max_steps": 80, "batch_size": 64, "lr": 1e-2}),
    "cpu": cpu,
}
"""Presets by name."""
