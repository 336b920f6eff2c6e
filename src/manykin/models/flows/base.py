"""What flows share: a bijection between data and a simple base, its density, samples and latents."""

import copy
import math
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from manykin.config import Config
from manykin.contract import EXACT, Batch, Density, GenerativeModel, Gradient, Optim, Phase, Sampler
from manykin.models.conditions import ConditionFeatures
from manykin.models.latents import Point, check_latents
from manykin.random import fresh_seed, seeded
from manykin.spaces import Space, Value, count, move

SMALLEST = 4
"""Height and width from which pictures are taken as pictures."""


class Bijection(Protocol):
    """A map between model space (n, ...) and base space (n, d) with its log-determinants, given features of a condition."""

    def __call__(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """h and log|det dh/dz|, shapes (n, d) and (n,)."""
        ...

    def inverse(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The z that is mapped to h."""
        ...

    def start(self, z: Tensor, context: Tensor | None) -> None:
        """Take what depends on data from training rows z; layers that were started before keep their values."""
        ...


class Flow(GenerativeModel):
    """Base of models that map the data to a simple base by a bijection.

    ``log p(z | c) = log p_base(f(z, c)) + log|det df/dz|`` (Rezende and Mohamed, Variational inference with normalizing flows, 2015, equation 7):
    exact, and sampled through the inverse. A subclass sets :attr:`flow` and, where the base is uniform on the unit cube, :attr:`base`. Latents are
    standard normal whatever the base: those of a uniform base go through the normal distribution function.
    """

    family = "flow"
    flow: nn.Module
    base: Literal["normal", "uniform"] = "normal"

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.size = math.prod(self.model_space.shape)
        self.features = ConditionFeatures(condition, self.config.condition_width)

    @property
    def kind(self) -> Density:
        return EXACT

    def phases(self) -> list[Phase]:
        return [Gradient("main", optimizer=Optim("adam", lr=1e-3))]

    def initialise(self, sample: Batch) -> None:
        """Data-dependent starts of layers, from the training rows as they arrive there; what was started before keeps its values."""
        self.features.fit(sample.condition)
        z, _ = self.to_model_space(sample.x)
        cast(Bijection, self.flow).start(z, self.features(sample.condition, z.dtype))

    def _flow(self, z: Tensor, condition: Value | None) -> tuple[Tensor, Tensor]:
        """f(z, c) and the log-determinants, shapes (n, d) and (n,)."""
        return cast(Bijection, self.flow)(z, self.features(condition, z.dtype))

    def _unflow(self, h: Tensor, condition: Value | None) -> Tensor:
        """The z with f(z, c) = h."""
        return cast(Bijection, self.flow).inverse(h, self.features(condition, h.dtype))

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        h, ldj = self._flow(z, condition)
        return ldj if self.base == "uniform" else ldj - 0.5 * h.square().sum(dim=1) - 0.5 * self.size * math.log(2 * math.pi)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        draw = torch.rand if self.base == "uniform" else torch.randn
        return self._unflow(draw(n, self.size, dtype=self.dtype, device=self.device), condition)

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        """The latent h = f(x, c) of each example, all mass on that point; event shape (d,). In double precision, as :meth:`decode`."""
        with torch.no_grad(), self.evaluating(0 if not self.transform.exact else None):
            x = self.space.validate(move(x, self.device) if isinstance(x, Tensor) else x)
            c = self.check_condition(condition, count(x))
            flow, dtype = self._precise()
            h = flow(self.transform(x)[0].to(dtype), self._context(c, dtype))[0]
            if self.base == "uniform":
                end = torch.finfo(h.dtype).eps / 2
                h = torch.special.ndtri(h.clamp(end, 1 - end))
            return Point(h)

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        """n draws of the standard normal latents, shape (n, d)."""
        with seeded(fresh_seed() if seed is None else seed):
            return torch.randn(n, self.size, dtype=self.dtype, device=self.device)

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        """The data that latents h (n, d) stand for; differentiable where h asks for gradients."""
        h = check_latents(h, self.size)
        with torch.set_grad_enabled(torch.is_grad_enabled() and h.requires_grad), self.evaluating(None):
            c = self.check_condition(condition, len(h))
            flow, dtype = self._precise()
            h = h.to(self.device, dtype)
            return self.finish(flow.inverse(torch.special.ndtr(h) if self.base == "uniform" else h, self._context(c, dtype)))

    def _precise(self) -> tuple[Bijection, torch.dtype]:
        """The bijection in double precision where the device has it: in single precision a value of small density would not come back."""
        dtype = torch.float64 if self.device.type != "mps" else self.dtype
        flow = self.flow if dtype == self.dtype else copy.deepcopy(self.flow).to(dtype)
        return cast(Bijection, flow), dtype

    def _context(self, condition: Value | None, dtype: torch.dtype) -> Tensor | None:
        context = self.features(condition, self.dtype)
        return None if context is None else context.to(dtype)
