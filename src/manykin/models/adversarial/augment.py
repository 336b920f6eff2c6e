"""Differentiable augmentation: what the discriminator sees of real and generated pictures alike."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manykin.errors import InvalidInput, suggest

SHIFT, HOLE = 1 / 8, 1 / 2
"""The largest translation, and the side of the square that is cut out, as shares of a picture's sides."""


def brightness(x: Tensor) -> Tensor:
    """Each picture made lighter or darker by up to a quarter of the range [-1, 1]."""
    return x + (torch.rand(len(x), 1, 1, 1, device=x.device) - 0.5).to(x.dtype)


def translation(x: Tensor) -> Tensor:
    """Each picture moved by up to an eighth of its sides, at least a pixel; its edge pixels fill what comes into view."""
    n, _, height, width = x.shape
    at = []
    for side in (height, width):
        most = max(1, round(side * SHIFT))
        moved = torch.randint(-most, most + 1, (n, 1), device=x.device) + torch.arange(side, device=x.device)
        at.append(moved.clamp(0, side - 1))
    rows = torch.arange(n, device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[rows, at[0][:, :, None], at[1][:, None, :]].permute(0, 3, 1, 2)


def cutout(x: Tensor) -> Tensor:
    """A square of half of the sides set to 0, the middle of the range, anywhere, also partly outside."""
    n, _, height, width = x.shape
    inside = []
    for side in (height, width):
        hole = max(1, round(side * HOLE))
        start = torch.randint(side + 1 - hole % 2, (n, 1), device=x.device) - hole // 2
        place = torch.arange(side, device=x.device)
        inside.append((place >= start) & (place < start + hole))
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {"brightness": brightness, "translation": translation, "cutout": cutout}
"""Augmentations of pictures (n, c, h, w) by name, in the order in which they are applied; each picture has draws of its own."""


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse what is no augmentation.

    Raises:
        InvalidInput: for an unknown or repeated name.
    """
    for kind in kinds:
        if kind not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise InvalidInput(f"model.augment = {kind!r} is not known; expected some of {known}.{suggest(kind, AUGMENTATIONS)}")
    if len(set(kinds)) < len(kinds):
        raise InvalidInput(f"model.augment = {','.join(kinds)} names one augmentation twice; expected each at most once.")


def augmented(x: Tensor, kinds: Sequence[str]) -> Tensor:
    """Pictures (n, c, h, w) after the named augmentations, differentiable in x.

    Applied to all that the discriminator sees, real or generated, whoever learns from it: then it cannot learn few pictures by heart, and the
    generator does not learn the augmentations (Zhao, Liu, Lin, Zhu and Han, Differentiable augmentation for data-efficient GAN training, 2020,
    equations 4 and 5). There translated pictures are filled up with zeros, here with their edges, which for drawings on white or black is no trace.
    """
    for name, change in AUGMENTATIONS.items():
        if name in kinds:
            x = change(x)
    return x
