"""A small Boltzmann machine on binary columns, written with sums over all of its states."""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.config import Config, option
from manykin.contract import EXACT, Batch, Density, GenerativeModel, Gradient, Phase, Sampler, Support
from manykin.mcmc import BlockGibbs, LogPartition, Path, log_partition, run
from manykin.random import seeded
from manykin.spaces import Labels, Space, Table, Value, columns_of
from manykin.testing.oracles.support import FAST

UNITS = 3
"""Hidden units."""

CHAINS = 64
"""Persistent chains, dealt to the classes in turn."""


@dataclass(frozen=True)
class Sweeps(Sampler):
    """Block Gibbs from fresh chains, or from those of training."""

    steps: int = option(60, "Gibbs steps", ge=1)
    chains: Literal["fresh", "buffer"] = option("fresh", "where chains begin")


class BoltzmannOracle(GenerativeModel):
    """``E(v, h) = -v a_c - h b - v W h`` for v and h in {0, 1}: log Z by summing over all h, samples by drawing h from its table, then v."""

    samplers = (Sweeps,)

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        size = len(columns_of(self.model_space))
        self.classes = condition.classes if isinstance(condition, Labels) else 1
        self.weights = nn.Parameter(0.3 * torch.randn(size, UNITS))
        self.visible = nn.Parameter(torch.zeros(self.classes, size))
        self.hidden = nn.Parameter(torch.zeros(UNITS))
        self.register_buffer("chains", torch.zeros(CHAINS, size))
        self.register_buffer("turns", torch.arange(CHAINS) % self.classes, persistent=False)
        states = (torch.arange(1 << UNITS)[:, None] >> torch.arange(UNITS)) & 1
        self.register_buffer("states", states.float(), persistent=False)
        self.chains: Tensor
        self.turns: Tensor
        self.states: Tensor

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Table,), standardise=False, condition=(Labels,))

    def phases(self) -> list[Phase]:
        return [Gradient("main", optimizer=FAST, contrastive=True)]

    def labels(self, condition: Value | None, n: int) -> Tensor:
        """The class of each row; zero for an unconditional model."""
        return cast(Tensor, condition) if self.condition is not None else torch.zeros(n, dtype=torch.long, device=self.device)

    def energy(self, v: Tensor, labels: Tensor, beta: float = 1.0) -> Tensor:
        """Free energy of visible states (n, d) with all weights scaled by beta."""
        inputs = self.hidden + v @ self.weights
        return -beta * (v * self.visible[labels]).sum(1) - functional.softplus(beta * inputs).sum(1)

    def kernel(self, labels: Tensor, beta: float = 1.0) -> BlockGibbs:
        """Block Gibbs at an inverse temperature."""

        def visible(h: Tensor) -> Tensor:
            return torch.bernoulli(torch.sigmoid(beta * (self.visible[labels] + h @ self.weights.T)))

        return BlockGibbs(lambda v: torch.bernoulli(torch.sigmoid(beta * (self.hidden + v @ self.weights))), visible)

    def positive(self, v: Tensor, labels: Tensor) -> Tensor:
        """What the loss says of data: their free energy."""
        return self.energy(v, labels)

    def loss(self, batch: Batch) -> Tensor:
        v, _ = self.to_model_space(batch.x)
        moved = run(self.kernel(self.turns), self.chains.clone(), 1).state
        if self.training:
            self.chains.copy_(moved)
        return self.positive(v, self.labels(batch.condition, len(v))) - self.energy(moved, self.turns).mean()

    def free_energy(self, x: Value, condition: Value | None = None) -> Tensor:
        """Minus log_prob up to a constant for each class, shape (n,)."""
        v, ldj, c = self.prepare(x, condition)
        return self.energy(v, self.labels(c, len(v))).double() - ldj

    def masses(self) -> Tensor:
        """Log masses of the hidden states in each class, (classes, 2^hidden), float64."""
        inputs = self.visible[:, None].double() + (self.states @ self.weights.T).double()
        return (self.states @ self.hidden).double() + functional.softplus(inputs).sum(2)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        labels = self.labels(condition, len(z))
        return -self.energy(z, labels).double() - torch.logsumexp(self.masses(), 1)[labels]

    def path(self, label: int) -> Path:
        """From all states alike to the machine, by scaling the weights."""

        def start(n: int) -> Tensor:
            return torch.randint(2, (n, self.weights.shape[0])).to(self.dtype)

        def energy(v: Tensor, beta: float) -> Tensor:
            return self.energy(v, torch.full((len(v),), label), beta)

        states = len(self.weights) + UNITS
        return Path(start, states * math.log(2), energy, lambda beta: self.kernel(torch.tensor([label]), beta))

    def log_partition(
        self, condition: int | None = None, *, temperatures: int | None = None, chains: int | None = None, seed: int = 0, estimate: bool = False
    ) -> LogPartition:
        """log Z of one class: summed, or estimated."""
        label = condition or 0
        if not estimate:
            return LogPartition.exactly(float(torch.logsumexp(self.masses(), 1)[label].detach()))
        with seeded(seed):
            return log_partition(self.path(label), chains or 100, temperatures or 100)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        labels = self.labels(condition, n)
        if sampler is None:
            number = torch.multinomial(torch.softmax(self.masses(), 1)[labels], 1)[:, 0]
            return torch.bernoulli(torch.sigmoid(self.visible[labels] + self.states[number] @ self.weights.T))
        assert isinstance(sampler, Sweeps)
        return run(self.kernel(labels), self.begin(n, labels, sampler.chains), sampler.steps).state

    def begin(self, n: int, labels: Tensor, chains: str) -> Tensor:
        """Where chains begin."""
        if chains == "fresh":
            return torch.randint(2, (n, self.weights.shape[0])).to(self.dtype)
        mine = (labels[:, None] == self.turns).float()
        return self.chains[torch.multinomial(mine, 1)[:, 0]]
