"""What the oracles share: validation of latents and masks, and the normal density."""

import math

import torch
from torch import Tensor

from manykin.contract import (
    Optim,
)
from manykin.errors import InvalidInput

FAST = Optim("adam", lr=0.05)


def check_latents(h: Tensor, size: int) -> Tensor:
    """Validate latents of shape (n, size).

    Raises:
        InvalidInput: for another shape, or NaN.
    """
    if h.dim() != 2 or h.shape[1] != size:
        raise InvalidInput(f"latents have shape {tuple(h.shape)}; expected (n, {size}).")
    if not bool(torch.isfinite(h).all()):
        raise InvalidInput("latents hold nan or inf; expected finite numbers.")
    return h


def check_mask(known: Tensor, x: Tensor) -> Tensor:
    """Validate a mask of known entries.

    Raises:
        InvalidInput: for another shape or dtype.
    """
    if known.shape != x.shape:
        raise InvalidInput(f"known has shape {tuple(known.shape)}; expected that of x, {tuple(x.shape)}.")
    if known.dtype != torch.bool:
        raise InvalidInput(f"known has dtype {str(known.dtype).removeprefix('torch.')}; expected bool.")
    return known


def normal(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(z; mean, std^2), entry by entry."""
    return -0.5 * ((z - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
