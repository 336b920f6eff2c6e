"""A Gaussian known by its energy alone, learnt from Langevin chains and drawn by them: the smallest energy-based model."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from manykin.contract import UNNORMALISED, Batch, Config, Density, GenerativeModel, Gradient, Phase, Sampler, Support
from manykin.mcmc.chains import ChainSampler
from manykin.mcmc.hmc import HMC
from manykin.mcmc.kernel import Energy
from manykin.mcmc.langevin import Langevin
from manykin.spaces import Labels, Space, Value, Vector
from manykin.testing.oracles.support import FAST

STEP = 0.7
"""The step of chains in units of the narrowest entry's deviation: wider steps would never be accepted there."""


class LangevinOracle(GenerativeModel):
    """``E(z, y) = sum exp(a) (z - m_y)^2 / 2 + b_y``: the gradient of the likelihood from chains of a replay buffer.

    Chains forget within their five steps, and so serve any label; no likelihood knows the level b_y, which shows what pushes a label as a whole.
    """

    samplers: ClassVar[tuple[type[Sampler], ...]] = (Langevin, HMC)
    chains: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        size = self.model_space.shape[0]
        classes = condition.classes if isinstance(condition, Labels) else 1
        self.centre = nn.Parameter(0.3 * torch.randn(classes, size))
        self.sharpness = nn.Parameter(0.5 + 0.3 * torch.randn(size))
        self.level = nn.Parameter(torch.zeros(classes))
        self.register_buffer("chains", torch.zeros(256, size))

    @property
    def kind(self) -> Density | None:
        return UNNORMALISED

    @property
    def accepts(self) -> Support:
        return Support((Vector,), condition=(Labels,))

    def phases(self) -> Sequence[Phase]:
        return [Gradient("main", optimizer=FAST, contrastive=True)]

    def initialise(self, sample: Batch) -> None:
        self.chains.normal_()

    def energy(self, z: Tensor, condition: Value | None = None) -> Tensor:
        """E(z, y), shape (n,)."""
        label = condition if isinstance(condition, Tensor) else torch.zeros(len(z), dtype=torch.long, device=z.device)
        return 0.5 * (self.sharpness.exp() * (z - self.centre[label]).square()).sum(dim=1) + self.level[label]

    @property
    def step_size(self) -> float:
        """The step that suits the present sharpness."""
        return float(STEP * (-0.5 * self.sharpness.detach().max()).exp().clamp(max=1.0))

    def potential(self, condition: Value | None) -> Energy:
        return lambda z: self.energy(z, condition)

    def loss(self, batch: Batch) -> Tensor:
        z, _ = self.to_model_space(batch.x)
        ends, labels = self.negatives(len(z), batch.condition)
        return self.energy(z, batch.condition) - self.energy(ends, labels)

    @torch.no_grad()
    def negatives(self, n: int, condition: Value | None = None) -> tuple[Tensor, Value | None]:
        size = len(self.chains)
        picked = torch.cat([torch.randperm(size) for _ in range(-(-n // size))])[:n]
        ends = Langevin(steps=5).walk(self.potential(condition), self.chains[picked], self.step_size).state
        if self.training:
            self.remember(picked[:size], ends[:size])
        return ends, condition

    def remember(self, picked: Tensor, ends: Tensor) -> None:
        """Put the ends of chains back into the buffer."""
        self.chains[picked] = ends

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return -self.energy(z, condition)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        chosen = sampler if isinstance(sampler, ChainSampler) else HMC(steps=30)
        start = torch.randn(n, *self.model_space.shape, dtype=self.dtype, device=self.device)
        return chosen.walk(self.potential(condition), start, self.step_size).state
