"""Transformers over sequences: causal attention, its cache, and blocks, for training and for drawing one position after the other."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.nn.dropout import Dropout
from manykin.nn.lean import rms_norm, squared_relu, turn

if TYPE_CHECKING:
    from manykin.nn.packed import PackedTransformer

PLAIN = {torch.bfloat16: 512, torch.float32: 128}
"""Up to so many positions attention on a CPU multiplies its matrices plainly: the fused kernel is slower there, in bf16 2 to 5 times."""

EPSILON = 1e-6
"""What is added to mean squares that are divided by."""

SMALL_BATCH = 4
"""Up to so many sequences one step on a CPU uses the fused kernel after all."""


@dataclass(frozen=True)
class Shape:
    """The sizes and kinds of parts of a :class:`Transformer`.

    ``layers`` blocks of width ``width`` with ``heads`` heads, hidden layers of ``expand * width`` units, over at most ``length`` positions.
    ``positions``: rotary (Su et al., RoFormer, 2021) or learned vectors. ``norm``: root mean square (Zhang and Sennrich, 2019) or layer
    normalisation. ``activation``: squared ReLU (So et al., Primer, 2021) or GELU. ``qk_norm``: queries and keys of unit mean square (Henry et al.,
    Query-key normalization for transformers, 2020).
    """

    layers: int
    heads: int
    width: int
    length: int
    expand: int = 4
    dropout: float = 0.0
    positions: Literal["rotary", "learned"] = "rotary"
    norm: Literal["rms", "layer"] = "rms"
    activation: Literal["relu2", "gelu"] = "relu2"
    qk_norm: bool = True
    bias: bool = False


class Cache:
    """Keys and values of the positions so far, in buffers that are allocated once: (n, heads, length, size of a head) for each layer."""

    def __init__(self, shape: Shape, n: int, dtype: torch.dtype, device: torch.device) -> None:
        sizes = (shape.layers, n, shape.heads, shape.length, shape.width // shape.heads)
        self.keys = torch.empty(sizes, dtype=dtype, device=device).unbind()
        self.values = torch.empty(sizes, dtype=dtype, device=device).unbind()
        self.filled = 0

    def clear(self) -> None:
        """Forget everything."""
        self.filled = 0

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put in the keys and values (n, heads, t, size) of the next positions of one layer; return those of all positions so far."""
        keys, values, t = self.keys[layer], self.values[layer], key.shape[2]
        keys.narrow(2, self.filled, t).copy_(key)
        values.narrow(2, self.filled, t).copy_(value)
        return keys.narrow(2, 0, self.filled + t), values.narrow(2, 0, self.filled + t)


class Norm(nn.Module):
    """Root mean square normalisation without weights, or layer normalisation with them; computed in the input's own precision or better."""

    def __init__(self, width: int, kind: str, bias: bool) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(width)) if kind == "layer" else None
        self.bias = nn.Parameter(torch.zeros(width)) if kind == "layer" and bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return rms_norm(x, EPSILON)
        return functional.layer_norm(x, (self.width,), self.weight, self.bias, 1e-5)


class CausalAttention(nn.Module):
    """Each position looks at itself and at earlier ones: (n, t, width) to (n, t, width).

    Vaswani et al., Attention is all you need, 2017, equation 1. Cost: time and memory grow with the square of t.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.size, self.qk_norm = shape.heads, shape.width // shape.heads, shape.qk_norm
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width, bias=shape.bias)
        self.out = nn.Linear(shape.width, shape.width, bias=shape.bias)

    def forward(self, x: Tensor, rotation: Tensor | None, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        n, t, width = x.shape
        parts = self.query_key_value(x).view(n, t, 3, self.heads, self.size)
        both, value = parts.split((2, 1), dim=2)
        if self.qk_norm:
            both = rms_norm(both, EPSILON)
        if rotation is not None:
            both = rotate(both, rotation)
        query, key, value = (part.transpose(1, 2) for part in (*both.unbind(2), value.squeeze(2)))
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        return self.out(attend(query, key, value, mask, 1 / math.sqrt(self.size)).transpose(1, 2).reshape(n, t, width))  # type: ignore[no-any-return]


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """``softmax(scale * q k^T + mask) v`` for each head: (n, heads, t, size); mask (t, s) holds 0 or -inf, None where all may be seen."""
    n, _, t, _ = query.shape
    most = PLAIN.get(query.dtype if t > 1 else torch.bfloat16, 0)
    plain = query.device.type == "cpu" and key.shape[2] <= most and not (t == 1 and n <= SMALL_BATCH)
    if not plain:
        # With a mask the queries are all positions: the causal kernel applies the same mask without reading it.
        return functional.scaled_dot_product_attention(query, key, value, is_causal=mask is not None, scale=scale)
    scores = (query * scale) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    return scores.softmax(dim=-1).to(value.dtype) @ value


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs of entries of x (n, t, ..., size) by angles that grow with the position; rotation is a slice of :func:`rotations`.

    Products of a query and a key then depend on the distance of their positions only (Su et al., RoFormer, 2021, equation 34). Pairs are an entry
    of the first half and the one of the second half at the same place.
    """
    cos, sin = rotation.to(x.dtype)
    return turn(x, cos, sin)


class Block(nn.Module):
    """Attention, then two layers at each position, each beside an identity: ``x + attention(norm(x))``, ``x + mlp(norm(x))``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.before_attention = Norm(shape.width, shape.norm, shape.bias)
        self.attention = CausalAttention(shape)
        self.before_mlp = Norm(shape.width, shape.norm, shape.bias)
        self.up = nn.Linear(shape.width, shape.expand * shape.width, bias=shape.bias)
        self.down = nn.Linear(shape.expand * shape.width, shape.width, bias=shape.bias)
        self.squared = shape.activation == "relu2"
        self.drop = Dropout(shape.dropout)

    def forward(self, x: Tensor, rotation: Tensor | None, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        h = self.attention(self.before_attention(x), rotation, mask, cache, layer)
        x = x + (self.drop(h) if self.training else h)
        h = self.up(self.before_mlp(x))
        h = self.down(squared_relu(h) if self.squared else functional.gelu(h))
        return x + (self.drop(h) if self.training else h)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A stack of blocks that see only the past, without embedding and output layers: (n, t, width) to (n, t, width), normalised.

    Weights start as in GPT-2 (Radford et al., Language models are unsupervised multitask learners, 2019, section 2.3): normal with deviation 0.02,
    those in front of an addition smaller by the square root of their number.
    """

    rotation: Tensor | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.drop = Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.last = Norm(shape.width, shape.norm, shape.bias)
        self.places = nn.Embedding(shape.length, shape.width) if shape.positions == "learned" else None
        rotation = rotations(shape.length, shape.width // shape.heads) if shape.positions == "rotary" else None
        self.register_buffer("rotation", rotation, persistent=False)
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                added = name.endswith((".out", ".down"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * shape.layers) if added else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """The hidden states of the positions x; with a cache they follow the positions in it, and are put into it.

        Several positions at once need an empty cache.
        """
        start, t = 0 if cache is None else cache.filled, x.shape[1]
        assert t == 1 or start == 0
        if self.places is not None:
            x = x + self.places.weight[start : start + t]
        x = self.drop(x)
        rotation = None if self.rotation is None else self.rotation[:, start : start + t]
        mask = torch.full((t, t), -math.inf, device=x.device, dtype=x.dtype).triu_(1) if t > 1 else None
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, mask, cache, layer)
        if cache is not None:
            cache.filled += t
        return self.last(x)  # type: ignore[no-any-return]

    def cache(self, n: int) -> Cache:
        """An empty cache for n sequences."""
        weight = self.blocks[0].attention.out.weight  # type: ignore[union-attr]
        assert isinstance(weight, Tensor)
        return Cache(self.shape, n, torch.float64 if weight.dtype == torch.float64 else torch.float32, weight.device)

    def packed(self, dtype: torch.dtype, integers: bool = False) -> "PackedTransformer":
        """The same function from a copy of the weights, for drawing one position after the other."""
        from manykin.nn.packed import PackedTransformer

        return PackedTransformer(self, dtype, integers)


def rotations(length: int, size: int, base: float = 10_000.0) -> Tensor:
    """Cos and signed sin of ``position / base^(2 i / size)``, once for each half, shape (2, length, 1, 1, size)."""
    speeds = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * speeds
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)]).float()[:, :, None, None]
