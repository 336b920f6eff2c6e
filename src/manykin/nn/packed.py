"""A transformer for drawing: the same function as :class:`~manykin.nn.attention.Transformer`, arranged so that one position costs little.

At one position a processor spends its time on reading the weights and on starting operations. Matrices are therefore stored once, in half precision
or 8-bit integers where wanted, and in oneDNN's own layout where there is one; and what lies between them is as few operations as can be. Root mean
square norms leave their constant factor to the matrix behind them. The pairs that rotary positions turn lie side by side, so that a rotation is one
complex product: queries and keys are permuted alike, which no product of the two can see.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.nn.attention import EPSILON, Block, Cache, Norm, attend

if TYPE_CHECKING:
    from manykin.nn.attention import Transformer


class PackedLinear(nn.Module):
    """A linear map without gradients, and a ReLU behind it if wanted; its weight is stored once in the layout that the processor reads fastest."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, relu: bool = False) -> None:
        super().__init__()
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.after = "relu" if relu else "none"
        self.layout: Any = None
        operations = getattr(torch.ops, "mkldnn", None)
        packable = self.weight.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if packable and hasattr(operations, "_reorder_linear_weight") and hasattr(operations, "_linear_pointwise"):
            self.layout = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.layout is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self.layout, self.bias, self.after, [], "")  # type: ignore[no-any-return]
        h = functional.linear(x, self.weight, self.bias)
        return h.relu_() if self.after == "relu" else h


class IntegerLinear(nn.Module):
    """As :class:`PackedLinear`, with weights of 8 bits: each row is rounded to multiples of 1/127 of its largest entry."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, relu: bool = False) -> None:
        super().__init__()
        weight = weight.detach()
        self.scale = (weight.abs().amax(dim=1) / 127).clamp_min(1e-30).to(dtype)
        self.weight = (weight / self.scale[:, None].to(weight.dtype)).round().clamp(-127, 127).to(torch.int8)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        h = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.weight, self.scale)
        if self.bias is not None:
            h = h.add_(self.bias)
        return (h.relu_() if self.relu else h).view(*x.shape[:-1], -1)


class PackedNorm(nn.Module):
    """A normalisation in front of a matrix, in the matrix's precision; :attr:`factor` is left to the matrix."""

    floor: Tensor

    def __init__(self, norm: Norm, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm, self.dtype = norm, dtype
        self.factor = math.sqrt(norm.width) if norm.weight is None else 1.0
        self.register_buffer("floor", torch.tensor(math.sqrt(norm.width * EPSILON)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = shrink(x, self.floor) if self.norm.weight is None else self.norm(x)
        return h.to(self.dtype)


def shrink(x: Tensor, floor: Tensor) -> Tensor:
    """``x / sqrt(|x|^2 + floor^2)`` over the last dimension: root mean square normalisation but for the factor sqrt(width)."""
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)


class PackedBlock(nn.Module):
    """A block over positions (n * t, width), which it changes in place."""

    floor: Tensor

    def __init__(self, block: Block, rotary: bool, dtype: torch.dtype, integers: bool) -> None:
        super().__init__()
        attention, linear = block.attention, IntegerLinear if integers else PackedLinear
        self.heads, self.size, self.qk_norm, self.squared = attention.heads, attention.size, attention.qk_norm, block.squared
        self.first, self.second = PackedNorm(block.before_attention, dtype), PackedNorm(block.before_mlp, dtype)
        weight = attention.query_key_value.weight * self.first.factor
        bias: Tensor | None = attention.query_key_value.bias
        if rotary:
            order = _side_by_side(self.heads, self.size, weight.device)
            weight, bias = weight[order], None if bias is None else bias[order]
        self.query_key_value = linear(weight, bias, dtype)
        self.out = linear(attention.out.weight, attention.out.bias, dtype)
        self.up = linear(block.up.weight * self.second.factor, block.up.bias, dtype, relu=self.squared)
        self.down = linear(block.down.weight, block.down.bias, dtype)
        self.scale = math.sqrt(self.size) if self.qk_norm else 1 / math.sqrt(self.size)
        self.register_buffer("floor", torch.tensor(math.sqrt(self.size * EPSILON)), persistent=False)

    def forward(self, x: Tensor, t: int, rotation: Tensor | None, mask: Tensor | None, cache: Cache | None, layer: int) -> None:
        parts = self.query_key_value(self.first(x)).view(-1, t, 3, self.heads, self.size).to(x.dtype)
        both, value = parts.narrow(2, 0, 2), parts.select(2, 2).transpose(1, 2)
        if self.qk_norm:
            both = shrink(both, self.floor)
        if rotation is not None:
            both = torch.view_as_real(torch.view_as_complex(both.unflatten(-1, (-1, 2))) * rotation).flatten(-2)
        query, key = both.select(2, 0).transpose(1, 2), both.select(2, 1).transpose(1, 2)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        seen = attend(query, key, value, mask, self.scale).transpose(1, 2).reshape(x.shape)
        x.add_(self.out(seen.to(self.first.dtype)))
        h = self.up(self.second(x))
        x.add_(self.down(h.square() if self.squared else functional.gelu(h)))


class PackedTransformer(nn.Module):
    """A transformer's function without gradients, from a copy of its weights: matrices in ``dtype``, everything else in full precision.

    ``integers``: the matrices themselves are of 8-bit integers, and only what they are multiplied by is of ``dtype``; on CPUs alone.
    """

    rotation: Tensor | None

    def __init__(self, source: "Transformer", dtype: torch.dtype, integers: bool = False) -> None:
        super().__init__()
        blocks = [block for block in source.blocks if isinstance(block, Block)]
        weight = blocks[0].attention.out.weight
        self.shape, self.last = source.shape, source.last
        self.full, self.device = weight.dtype, weight.device
        self.places = None if source.places is None else source.places.weight.detach().clone()
        rotation = None if source.rotation is None else _turns(source.rotation, self.full)
        self.register_buffer("rotation", rotation, persistent=False)
        self.blocks = nn.ModuleList(PackedBlock(block, rotation is not None, dtype, integers) for block in blocks)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """As :meth:`Transformer.forward`."""
        start, (n, t, width) = 0 if cache is None else cache.filled, x.shape
        assert t == 1 or start == 0
        h = (x if self.places is None else x + self.places[start : start + t]).reshape(n * t, width).clone()
        rotation = None if self.rotation is None else self.rotation[start : start + t]
        mask = torch.full((t, t), -math.inf, device=x.device, dtype=x.dtype).triu_(1) if t > 1 else None
        for layer, block in enumerate(self.blocks):
            block(h, t, rotation, mask, cache, layer)
        if cache is not None:
            cache.filled += t
        return self.last(h).view(n, t, width)  # type: ignore[no-any-return]

    def cache(self, n: int) -> Cache:
        """An empty cache for n sequences."""
        return Cache(self.shape, n, torch.float64 if self.full == torch.float64 else torch.float32, self.device)


def _side_by_side(heads: int, size: int, device: torch.device) -> Tensor:
    """The rows of a matrix of queries, keys and values in the order that puts the two halves of queries and keys side by side, pair by pair."""
    rows = torch.arange(3 * heads * size, device=device).view(3, heads, 2, size // 2)
    return torch.cat([rows[:2].transpose(2, 3).flatten(), rows[2].flatten()])


def _turns(rotation: Tensor, dtype: torch.dtype) -> Tensor:
    """Cosines and signed sines (2, length, 1, 1, size) as complex numbers of modulus one, (length, 1, 1, size / 2)."""
    cos, sin = rotation.to(torch.float64 if dtype == torch.float64 else torch.float32).chunk(2, dim=-1)[1]
    return torch.complex(cos.contiguous(), sin.contiguous())
