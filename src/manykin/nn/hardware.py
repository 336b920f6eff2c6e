"""What the hardware does fast."""

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 faster than it emulates it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and bool(probe is not None and probe())
