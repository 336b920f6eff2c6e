"""Presets that the diffusion models share."""

import torch

from manykin.contract import Preset
from manykin.spaces import Image, Space


def default(space: Space, n: int) -> Preset:
    """For few columns an MLP and large batches; for pictures a small U-Net, folded where they are large; dropout where rows are few."""
    train = {"schedule": "cosine", "warmup": 100, "clip": 1.0, "ema": 0.999}
    few = n < 20_000
    if isinstance(space, Image) and min(space.shape[1:]) >= 4:
        side = min(space.shape[1:])
        model = {"widths": (32, 64), "patch": 2 if side > 16 else 1, "dropout": 0.1 if few else 0.0}
        return Preset(model, {"max_steps": 2500 if few else 5000, "batch_size": 128, "lr": 2e-3, **train})
    if torch.Size(space.shape).numel() <= 16:
        return Preset({"hidden": (128, 128, 128)}, {"max_steps": 6000, "batch_size": 512, "lr": 2e-3, **train})
    return Preset({"hidden": (256, 256, 256), "dropout": 0.1 if few else 0.0}, {"max_steps": 4000, "batch_size": 256, "lr": 1e-3, **train})


def picture(space: Space, n: int) -> Preset:
    """Pictures of 28 x 28 in ten minutes on two cores: a U-Net on 14 x 14 x 4, in bfloat16."""
    model = {"widths": (48, 96), "blocks": 2, "patch": 2, "times": "logit-normal"}
    train = {"max_steps": 6000, "batch_size": 128, "lr": 2e-3, "schedule": "cosine", "warmup": 100, "clip": 1.0, "ema": 0.999, "precision": "bf16"}
    return Preset(model, train)


tiny = Preset({"network": "mlp", "hidden": (32, 32), "ode_steps": 8}, {"max_steps": 60, "batch_size": 128, "lr": 5e-3, "ema": 0.9})
"""For tests: learns the rough shape of a few columns in a second."""
