"""What all extractors share: batches of constant memory, the hash of weights, and pictures as foreign networks expect them."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.spaces import Image

BATCH_ENTRIES = 1_000_000
BATCH = 512


@torch.no_grad()
def in_batches(x: Tensor, function: Callable[[Tensor], Tensor], most: int = BATCH) -> Tensor:
    """``function`` of pictures in batches of bounded size, joined, as float32 on the CPU.

    Args:
        x: pictures, shape (n, channels, height, width).
        function: of a batch.
        most: pictures of a batch at most; large pictures come in smaller ones.
    """
    size = max(1, min(most, BATCH_ENTRIES // max(x[:1].numel(), 1)))
    return torch.cat([function(x[start : start + size]).to("cpu", torch.float32) for start in range(0, len(x), size)])


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """The sha256 of named tensors: name, type, shape and content of each, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def as_bytes(case: Case, network: str) -> Callable[[Tensor], Tensor]:
    """The function that turns pictures in data space into what networks for photographs expect.

    It yields float32 (n, 3, height, width) of whole numbers from 0 to 255, as if the pictures had been saved and read again: grey is repeated
    three times, fewer levels are stretched to 255, and of real-valued pictures the range of the training rows becomes 0 to 255.

    Raises:
        InvalidInput: for pictures of neither one nor three channels.
    """
    space = case.space
    assert isinstance(space, Image)
    if space.size[0] not in (1, 3):
        raise InvalidInput(f"{network} needs grey or RGB pictures, 1 or 3 channels; these have {space.size[0]}. Use features='own' instead.")
    low, high = 0.0, float((space.levels or 2) - 1)
    if space.levels is None:
        known = case.known.all().x
        assert isinstance(known, Tensor)
        low, high = float(known.min()), float(known.max())
    scale = 255.0 / (high - low if high > low else 1.0)

    def convert(x: Tensor) -> Tensor:
        whole = ((x.to("cpu", torch.float32) - low) * scale).round().clamp(0, 255)
        return whole.expand(-1, 3, -1, -1)

    return convert
