"""Functions with gradients by hand, where automatic ones pass through memory several times more; on CPUs that is most of their time.

Each has first derivatives only.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

HALVES = (torch.bfloat16, torch.float16)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32 if x.dtype in HALVES else None)
        share: Tensor = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        y: Tensor = x * share
        ctx.save_for_backward(y, share)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        y, share = ctx.saved_tensors
        along = torch.linalg.vecdot(g, y).unsqueeze(-1).div_(y.shape[-1])
        return torch.addcmul(g, y, along, value=-1).mul_(share), None


def rms_norm(x: Tensor, eps: float) -> Tensor:
    r"""Root mean square normalisation of the last axis (Zhang and Sennrich, Root mean square layer normalization, 2019), shape of x.

    .. math:: y = x \big/ \sqrt{\tfrac{1}{d} \sum_i x_i^2 + \epsilon}, \qquad
        \frac{\partial L}{\partial x} = \Big(g - y \, \tfrac{1}{d} \sum_i g_i y_i\Big) \big/ \sqrt{\tfrac{1}{d} \sum_i x_i^2 + \epsilon}
    """
    found: Tensor = _RMSNorm.apply(x, eps)  # type: ignore[no-untyped-call]
    return found


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = torch.relu(x)
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        r: Tensor = ctx.saved_tensors[0]
        return (g * r).mul_(2)


def squared_relu(x: Tensor) -> Tensor:
    """``max(x, 0)^2`` (So et al., Primer: searching for efficient transformers for language modeling, 2021), shape of x."""
    found: Tensor = _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]
    return found


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(g, cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    (first, second), half = x.chunk(2, dim=-1), x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(second, sin[..., :half])
    out[..., half:].addcmul_(first, sin[..., half:])
    return out


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotations of pairs, an entry of the first half of the last axis and the one of the second half at the same place: shape of x.

    ``cos`` and ``sin`` broadcast against x and hold each angle's value twice, ``sin`` with a minus in the first half.
    """
    found: Tensor = _Turn.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return found
