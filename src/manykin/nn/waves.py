"""Sines and cosines of what a network sees, beside it."""

import math

import torch
from torch import Tensor


def waves(x: Tensor, octaves: int) -> Tensor:
    """x (n, size) with the sines and cosines of so many octaves of each entry beside it: (n, size (1 + 2 octaves)); without octaves x itself.

    The slowest has four units of length a turn, each next one half as many (Tancik et al., Fourier features let networks learn high frequency
    functions in low dimensional domains, 2020): with them sharp edges are learnt soon.
    """
    if not octaves:
        return x
    angles = [x * (0.5 * math.pi * 2**octave) for octave in range(octaves)]
    return torch.cat([x, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles)], dim=1)
