"""RealNVP: a normalizing flow of affine coupling layers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from manykin.config import Config, option
from manykin.contract import EXACT, Batch, Density, GenerativeModel, Gradient, Optim, Phase, Preset, Sampler, Support
from manykin.errors import Unsupported
from manykin.models.conditions import ConditionFeatures, join
from manykin.models.latents import Point, check_latents
from manykin.nn import MLP, ActNorm
from manykin.random import fresh_seed, seeded
from manykin.spaces import Labels, Space, Value, Vector


@dataclass(frozen=True)
class RealNVPConfig(Config):
    """Options of :class:`RealNVP`."""

    layers: int = option(8, "coupling layers; from 4 on, every output depends on every input", ge=2)
    hidden: tuple[int, ...] = option((64, 64), "width of each hidden layer of a coupling's network", ge=1)
    activation: Literal["relu", "silu", "tanh", "gelu"] = option("relu", "activation of the networks: relu parts modes best, the others are smooth")
    dropout: float = option(0.0, "share of hidden units that training silences, against overfitting", ge=0, lt=1)
    condition_width: int = option(16, "features of a label condition", ge=1)


class Coupling(nn.Module):
    """Scale and shift one half of the entries by functions of the other half, then swap the halves.

    With z = (a, b): ``h = (b * exp(s(a, c)) + t(a, c), a)`` and ``log|det| = sum s(a, c)`` (Dinh, Sohl-Dickstein and Bengio, Density estimation
    using Real NVP, 2017, equations 7 and 8). ``s = factor * tanh(...)`` with a learned factor, so that neither direction can overflow; the network
    starts near zero, and not at it: at the identity, entries that are independent of each other give no gradient that could bend the flow.

    Args:
        kept: entries of a, at least 1.
        moved: entries of b, at least 1.
        context: features of the condition.
        config: widths, activation and dropout of the network.
    """

    def __init__(self, kept: int, moved: int, context: int, config: RealNVPConfig) -> None:
        super().__init__()
        self.kept = kept
        self.factor = nn.Parameter(torch.full((moved,), 2.0))
        self.net = MLP(kept + context, config.hidden, 2 * moved, activation=config.activation, dropout=config.dropout, last="small")

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


def _default(space: Space, n: int) -> Preset:
    """For few columns narrow, deep and fast; for many wide, with dropout, since rows are then few. Early stopping below 20,000 rows."""
    train = {"schedule": "cosine", "warmup": 50, "clip": 1.0, "ema": 0.995} | ({"patience": 5} if n < 20_000 else {})
    if torch.Size(space.shape).numel() <= 16:
        return Preset({"layers": 8, "hidden": (64, 64)}, {"max_steps": 4000, "batch_size": 256, "lr": 5e-3, **train})
    return Preset({"layers": 8, "hidden": (256,), "dropout": 0.4}, {"max_steps": 2000, "batch_size": 128, "lr": 1e-3, **train})


class RealNVP(GenerativeModel):
    """A flow of alternating affine couplings and ActNorm layers between the data and a standard normal.

    ``log p(z | c) = log N(f(z, c); 0, I) + log|det df/dz|``: exact, and sampled in one pass of the inverse. Each pair of couplings moves both
    halves of one partition of the entries: even and odd for the first pair, first and second half for the second, then random ones.

    Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio, Density estimation using Real NVP, 2017. Cost of either direction: ``layers`` network passes.

    Warning:
        A coupling needs at least two entries. With a single one the flow could only be a Gaussian, so it is refused. Affine couplings stretch
        one connected blob: between well separated modes thin bridges of density remain.

    Raises:
        Unsupported: for data with a single entry.
    """

    config_class = RealNVPConfig
    family = "flow"
    paper = "Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2017"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {
        "default": _default,
        "tiny": Preset({"layers": 4, "hidden": (24,)}, {"max_steps": 60, "batch_size": 128, "lr": 5e-3}),
    }

    orders: Tensor
    inverses: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        (size,) = self.model_space.shape
        if size < 2:
            raise Unsupported(f"realnvp couples entries with each other, and {space} has a single one; use gaussian-mixture or kde.")
        self.size = size
        self.features = ConditionFeatures(condition, self.config.condition_width)
        first = size - size // 2
        sides = [(first, size // 2) if layer % 2 == 0 else (size // 2, first) for layer in range(self.config.layers)]
        self.norms = nn.ModuleList(ActNorm(size) for _ in sides)
        self.couplings = nn.ModuleList(Coupling(kept, moved, self.features.width, self.config) for kept, moved in sides)
        self.register_buffer("orders", torch.stack([_order(size, pair) for pair in range(-(-self.config.layers // 2))]))
        self.register_buffer("inverses", self.orders.argsort(dim=1))

    @property
    def kind(self) -> Density:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Vector,), bounded="logit", standardise=True, condition=(Labels, Vector))

    def phases(self) -> list[Phase]:
        return [Gradient("main", optimizer=Optim("adam", lr=1e-3))]

    def initialise(self, sample: Batch) -> None:
        """Start each ActNorm from the training rows as they arrive at it; layers that were started before keep their values."""
        self.features.fit(sample.condition)
        z, _ = self.to_model_space(sample.x)
        self._flow(z, sample.condition, start=True)

    def _flow(self, z: Tensor, condition: Value | None, start: bool = False) -> tuple[Tensor, Tensor]:
        """f(z, c) and the log-determinants, shapes (n, d) and (n,)."""
        total, context = torch.zeros((), dtype=z.dtype, device=z.device), self.features(condition, z.dtype)
        for index, (norm, coupling) in enumerate(zip(self.norms, self.couplings, strict=True)):
            if index % 2 == 0:
                z = z[:, self.orders[index // 2]]
            if start:
                assert isinstance(norm, ActNorm)
                norm.start(z)
            z, constant = norm(z)
            z, ldj = coupling(z, context)
            total = total + (ldj + constant)
        return z, total

    def _unflow(self, h: Tensor, condition: Value | None) -> Tensor:
        """The z with f(z, c) = h."""
        context = self.features(condition, h.dtype)
        for index in reversed(range(len(self.couplings))):
            coupling, norm = self.couplings[index], self.norms[index]
            assert isinstance(coupling, Coupling)
            assert isinstance(norm, ActNorm)
            h = norm.inverse(coupling.inverse(h, context))
            if index % 2 == 0:
                h = h[:, self.inverses[index // 2]]
        return h

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        h, ldj = self._flow(z, condition)
        return ldj - 0.5 * h.square().sum(dim=1) - 0.5 * self.size * math.log(2 * math.pi)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self._unflow(torch.randn(n, self.size, dtype=self.dtype, device=self.device), condition)

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        """The latent h = f(x, c) of each example, all mass on that point; event shape (d,)."""
        with torch.no_grad(), self.evaluating(0 if not self.transform.exact else None):
            z, _, c = self.prepare(x, condition)
            return Point(self._flow(z, c)[0])

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        """n draws of the standard normal base, shape (n, d)."""
        with seeded(fresh_seed() if seed is None else seed):
            return torch.randn(n, self.size, dtype=self.dtype, device=self.device)

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        """The data that latents h (n, d) stand for; differentiable where h asks for gradients."""
        h = check_latents(h, self.size)
        with torch.set_grad_enabled(torch.is_grad_enabled() and h.requires_grad), self.evaluating(None):
            c = self.check_condition(condition, len(h))
            return self.finish(self._unflow(h.to(self.device, self.dtype), c))


def _order(size: int, pair: int) -> Tensor:
    """The order of the entries in which couplings 2 * pair and 2 * pair + 1 split them in halves."""
    alternate = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])
    if pair < 2:
        return alternate if pair == 0 else alternate.argsort()
    return torch.randperm(size, generator=torch.Generator().manual_seed(pair))
