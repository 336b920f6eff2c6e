"""Presets of GPT: for tests, for any text, for a laptop, for a GPU, and nanoGPT's own configurations."""

from collections.abc import Callable, Mapping

import torch

from manykin.contract import Preset
from manykin.spaces import Space

NANOGPT = {
    "positions": "learned", "norm": "layer", "activation": "gelu", "qk_norm": False, "bias": False, "tie": True,
}  # fmt: skip
"""The parts of nanoGPT's character models (Karpathy, nanoGPT, config/train_shakespeare_char.py)."""

LONG = {"schedule": "cosine", "warmup": 50, "clip": 1.0, "weight_decay": 0.1}

NANOGPT_COURSE = {**LONG, "optimizer": "adamw", "warmup": 100, "lr": 1e-3, "min_lr": 1e-4}


def default(space: Space, n: int) -> Preset:
    """Sized by the number of symbols: small and regularised for few, with early stopping; larger and in bfloat16 for many."""
    length = max(torch.Size(space.shape).numel(), 1)
    symbols, batch = n * length, max(8, min(64, 4096 // length))
    passes = {"max_steps": max(300, min(1500, 12 * symbols // (batch * length)))}
    if symbols < 200_000:
        model = {"layers": 2, "heads": 2, "width": 64, "dropout": 0.1}
        return Preset(model, {**LONG, **passes, "batch_size": batch, "lr": 5e-3, "patience": 5})
    model = {"layers": 4, "heads": 2, "width": 128, "dropout": 0.0 if symbols > 5_000_000 else 0.05}
    return Preset(model, {**LONG, **passes, "batch_size": batch, "lr": 5e-3, "precision": "bf16"})


PRESETS: Mapping[str, Preset | Callable[[Space, int], Preset]] = {
    "default": default,
    "tiny": Preset({"layers": 2, "heads": 2, "width": 32}, {"max_steps": 80, "batch_size": 64, "lr": 1e-2}),
    "quick": Preset(
        {"layers": 4, "heads": 2, "width": 128, "grams": 5, "buckets": 8192, "gram_width": 32},
        {**LONG, "max_steps": 360, "batch_size": 32, "lr": 5e-3, "precision": "bf16", "eval_every": 360, "save_every": 360, "sample_every": 0},
    ),
    "cpu": Preset(
        {"layers": 5, "heads": 4, "width": 256, "dropout": 0.1, "grams": 5, "gram_dropout": 0.4},
        {**LONG, "max_steps": 2000, "batch_size": 8, "lr": 5e-3, "precision": "bf16", "eval_every": 1000},
    ),
    "gpu": Preset(
        {"layers": 6, "heads": 6, "width": 384, "dropout": 0.2},
        {**LONG, "max_steps": 3000, "batch_size": 64, "lr": 3e-3, "precision": "bf16", "eval_every": 500},
    ),
    "nanogpt": Preset(
        {"layers": 4, "heads": 4, "width": 128, **NANOGPT},
        {**NANOGPT_COURSE, "max_steps": 2000, "batch_size": 12, "eval_every": 500},
    ),
    "nanogpt-gpu": Preset(
        {"layers": 6, "heads": 6, "width": 384, "dropout": 0.2, **NANOGPT},
        {**NANOGPT_COURSE, "max_steps": 5000, "batch_size": 64, "precision": "bf16", "eval_every": 250},
    ),
}
"""Presets by name. The context is a matter of the data: 64 symbols by default, ``--data.length`` for more."""
