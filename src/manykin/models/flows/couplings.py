"""Steps of flows on rows: affine and spline couplings, autoregressive splines, and the stack of them.

A step is a bijection given a context: ``step(z, context) -> (h, log|det|)`` of shapes (n, d) and (n,), and ``step.inverse(h, context) -> z``.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from manykin.models.conditions import join
from manykin.models.flows.splines import HistogramSpline, Spline
from manykin.nn import MLP, ActNorm, MaskedMLP


class AffineCoupling(nn.Module):
    """Scale and shift one half of the entries by functions of the other half, then swap the halves.

    With z = (a, b): ``h = (b * exp(s(a, c)) + t(a, c), a)`` and ``log|det| = sum s(a, c)`` (Dinh, Sohl-Dickstein and Bengio, Density estimation
    using Real NVP, 2017, equations 7 and 8). ``s = factor * tanh(...)`` with a learned factor, so that neither direction can overflow; the network
    starts near zero, and not at it: at the identity, entries that are independent of each other give no gradient that could bend the flow.

    Args:
        kept: entries of a, at least 1.
        moved: entries of b, at least 1.
        context: features of the condition.
        hidden, activation, dropout: of the network.
    """

    def __init__(self, kept: int, moved: int, context: int, hidden: Sequence[int], activation: str, dropout: float) -> None:
        super().__init__()
        self.kept = kept
        self.factor = nn.Parameter(torch.full((moved,), 2.0))
        self.net = MLP(kept + context, hidden, 2 * moved, activation=activation, dropout=dropout, last="small")

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """h and the log-determinants, shapes (n, d) and (n,)."""
        a, b = z[:, : self.kept], z[:, self.kept :]
        log_scale, shift = self._affine(a, context)
        return torch.cat([b * log_scale.exp() + shift, a], dim=1), log_scale.sum(dim=1)

    def inverse(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The z that :meth:`forward` maps to h."""
        b, a = h[:, : -self.kept], h[:, -self.kept :]
        log_scale, shift = self._affine(a, context)
        return torch.cat([a, (b - shift) * (-log_scale).exp()], dim=1)

    def _affine(self, a: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(join(a, context)).chunk(2, dim=1)
        return self.factor * torch.tanh(raw), shift


class SplineCoupling(nn.Module):
    """Map one half of the entries by splines whose parameters are functions of the other half, then swap the halves.

    Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019, section 3. Nothing need be kept: then the splines are free parameters.

    Args:
        kept: entries that the network sees.
        moved: entries that the splines map, at least 1.
        context: features of the condition.
        spline: the family of splines.
        hidden, activation, dropout: of the network.
    """

    def __init__(
        self, kept: int, moved: int, context: int, spline: Spline | HistogramSpline, hidden: Sequence[int], activation: str, dropout: float
    ) -> None:
        super().__init__()
        self.moved, self.spline, inputs = moved, spline, kept + context
        self.net = MLP(inputs, hidden, moved * spline.width, activation=activation, dropout=dropout, last="small") if inputs else None
        self.free = None if inputs else nn.Parameter(torch.zeros(moved * spline.width))

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """h and the log-determinants, shapes (n, d) and (n,)."""
        a, b = torch.split(z, [z.shape[1] - self.moved, self.moved], dim=1)
        h, log_slope = self.spline.forward(b, self._raw(a, context))
        return torch.cat([h, a], dim=1), log_slope.sum(dim=1)

    def inverse(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The z that :meth:`forward` maps to h."""
        b, a = torch.split(h, [self.moved, h.shape[1] - self.moved], dim=1)
        return torch.cat([a, self.spline.inverse(b, self._raw(a, context))], dim=1)

    def _raw(self, a: Tensor, context: Tensor | None) -> Tensor:
        if self.net is None:
            assert self.free is not None
            return self.free.expand(len(a), -1).view(len(a), self.moved, -1)
        return self.net(join(a, context)).unflatten(1, (self.moved, self.spline.width))  # type: ignore[no-any-return]

    def start_bias(self, raw: Tensor) -> None:
        """Start from splines with the parameters ``raw`` (moved, width), whatever is kept."""
        bias = self.net.last.bias if self.net is not None else self.free
        assert bias is not None
        bias.data.copy_(raw.flatten())


class AutoregressiveSplines(nn.Module):
    """Map each entry by a spline whose parameters are functions of the entries before it; the inverse takes a pass for each entry.

    Durkan et al., 2019, section 3.4, with the masks of MADE.

    Args:
        size: entries.
        context: features of the condition.
        spline: the family of splines.
        hidden, activation, dropout: of the network.
        look: what the network sees of entries, (n, m) to (n, m, features), where that is not the entries themselves.
        features: how many numbers it sees of each.
    """

    def __init__(
        self, size: int, context: int, spline: Spline | HistogramSpline, hidden: Sequence[int], activation: str, dropout: float,
        look: Callable[[Tensor], Tensor] | None = None, features: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.spline, self.look = size, spline, look
        self.net = MaskedMLP(size, hidden, spline.width, features=features, context=context, activation=activation, dropout=dropout)

    def _seen(self, z: Tensor) -> Tensor:
        return z if self.look is None else self.look(z).flatten(1)

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """h and the log-determinants, shapes (n, d) and (n,)."""
        h, log_slope = self.spline.forward(z, self.net(self._seen(z), context))
        return h, log_slope.sum(dim=1)

    def inverse(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The z that :meth:`forward` maps to h."""
        found = h[:, :0]
        for entry in range(self.size):
            z = torch.cat([found, torch.zeros_like(h[:, entry:])], dim=1)
            raw = self.net(self._seen(z), context, entry)
            found = torch.cat([found, self.spline.inverse(h[:, entry : entry + 1], raw.unsqueeze(1))], dim=1)
        return found


class RowFlow(nn.Module):
    """Steps one after the other, each behind an ActNorm layer, with the entries put in another order before some of them.

    Args:
        size: entries.
        steps: the bijections.
        orders: how the entries are ordered: ``halves`` for couplings, where each pair of steps moves both halves of one partition: even and odd
            for the first pair, first and second half for the second, then random ones; ``turns`` for autoregressive steps: as they are, reversed,
            then random.
        norms: whether there are ActNorm layers.
    """

    orders: Tensor
    inverses: Tensor

    def __init__(self, size: int, steps: Sequence[nn.Module], orders: Literal["halves", "turns"], norms: bool = True) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ActNorm(size) if norms else nn.Identity() for _ in steps)
        self.steps = nn.ModuleList(steps)
        self.period = 2 if orders == "halves" else 1
        order = halves if orders == "halves" else turns
        self.register_buffer("orders", torch.stack([order(size, number) for number in range(-(-len(steps) // self.period))]))
        self.register_buffer("inverses", self.orders.argsort(dim=1))

    def start(self, z: Tensor, context: Tensor | None) -> None:
        """Start each ActNorm that has not been started from the rows z as they arrive at it."""
        self._pass(z, context, start=True)

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """f(z, c) and the log-determinants, shapes (n, d) and (n,)."""
        return self._pass(z, context)

    def _pass(self, z: Tensor, context: Tensor | None, start: bool = False) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=z.dtype, device=z.device)
        for index, (norm, step) in enumerate(zip(self.norms, self.steps, strict=True)):
            if index % self.period == 0:
                z = z[:, self.orders[index // self.period]]
            if isinstance(norm, ActNorm):
                if start:
                    norm.start(z)
                z, constant = norm(z)
                total = total + constant
            z, ldj = step(z, context)
            total = total + ldj
        return z, total

    def inverse(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The z with f(z, c) = h."""
        for index in reversed(range(len(self.steps))):
            norm = self.norms[index]
            h = self.steps[index].inverse(h, context)  # type: ignore[operator]
            if isinstance(norm, ActNorm):
                h = norm.inverse(h)
            if index % self.period == 0:
                h = h[:, self.inverses[index // self.period]]
        return h


def sides(size: int, layers: int) -> list[tuple[int, int]]:
    """How many entries each of some couplings keeps and moves; a single entry is moved by all of them."""
    if size == 1:
        return [(0, 1)] * layers
    first = size - size // 2
    return [(first, size // 2) if layer % 2 == 0 else (size // 2, first) for layer in range(layers)]


def halves(size: int, pair: int) -> Tensor:
    """The order of the entries in which couplings 2 * pair and 2 * pair + 1 split them in halves."""
    alternate = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])
    if pair < 2:
        return alternate if pair == 0 else alternate.argsort()
    return torch.randperm(size, generator=torch.Generator().manual_seed(pair))


def turns(size: int, layer: int) -> Tensor:
    """The order in which an autoregressive layer takes the entries that the one before it gave: as they are, reversed, then random."""
    if layer < 2:
        return torch.arange(size) if layer == 0 else torch.arange(size).flip(0)
    return torch.randperm(size, generator=torch.Generator().manual_seed(layer))
