"""Chains and energies gone wrong."""

from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.contract import Batch, Config, Sampler
from manykin.mcmc.hmc import HMC
from manykin.mcmc.kernel import Energy
from manykin.mcmc.langevin import Langevin, LangevinKernel
from manykin.spaces import Labels, Space, Value
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles.energy_chains import STEP, LangevinOracle


@dataclass(frozen=True)
class _Quiet(Langevin):
    def bind(self, energy: Energy, step_size: float) -> LangevinKernel:
        return LangevinKernel(energy, step_size, metropolis=False, temperature=0.01)


@caught_by("kernels-find-a-known-law")
class TooLittleNoise(LangevinOracle):
    """A sampler called Langevin with a tenth of Langevin's noise: gradient descent in disguise."""

    samplers = (_Quiet,)


@dataclass(frozen=True)
class _Doubled(Langevin):
    def bind(self, energy: Energy, step_size: float) -> LangevinKernel:
        return LangevinKernel(lambda x: 2 * energy(x), step_size, self.metropolis)


@caught_by("kernels-find-a-known-law")
class ForgottenHalf(LangevinOracle):
    """The step down the gradient is eps^2 where it should be eps^2 / 2."""

    samplers = (_Doubled,)


@caught_by("metropolis-keeps-samples", "chains-reach-the-data")
class ClimbsItsEnergy(LangevinOracle):
    """The chains follow the gradient up instead of down, held back by a wall."""

    def potential(self, condition: Value | None) -> Energy:
        return lambda z: -self.energy(z) + 0.05 * z.square().sum(dim=1).square()


@caught_by("chains-leave-parameters-alone")
class DifferentiatesTheChain(LangevinOracle):
    """The last step of each chain stays in the graph, so that the loss moves the parameters through it."""

    def negatives(self, n: int, condition: Value | None = None) -> tuple[Tensor, Value | None]:
        ends, c = super().negatives(n, condition)
        with torch.enable_grad():
            leaf = ends.requires_grad_(True)
            (slope,) = torch.autograd.grad(self.energy(leaf).sum(), leaf, create_graph=True)
        return ends.detach() - 0.01 * slope, c


@caught_by("chains-leave-parameters-alone")
class LeavesParametersFrozen(LangevinOracle):
    """Freezes the parameters for sampling, and never thaws them."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        self.requires_grad_(False)
        return super()._sample(n, condition, sampler)


@caught_by("chains-live-in-training-only")
class LookingMovesChains(LangevinOracle):
    """Writes chains back whenever it runs them, in validation too."""

    @torch.no_grad()
    def negatives(self, n: int, condition: Value | None = None) -> tuple[Tensor, Value | None]:
        ends, c = super().negatives(n, condition)
        self.chains[:n] = ends[: len(self.chains)]
        return ends, c


@caught_by("chains-live-in-training-only")
class ForgetsItsChains(LangevinOracle):
    """Takes chains out of the replay buffer, and never puts them back."""

    def remember(self, picked: Tensor, ends: Tensor) -> None:
        return None


@caught_by("samples-are-fresh")
class BufferAsSamples(LangevinOracle):
    """Hands out chains of training as samples."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        start = self.chains[torch.randint(len(self.chains), (n,))]
        return HMC(steps=1).walk(self.potential(condition), start, STEP).state


@caught_by("chains-reach-the-data")
class StopsTooSoon(LangevinOracle):
    """Its chains begin far outside and take one step."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        start = 6 * torch.randn(n, *self.model_space.shape, dtype=self.dtype)
        return Langevin(steps=1, leap_every=0).walk(self.potential(condition), start, 0.1).state


@caught_by("far-places-are-unlikely")
class FallsOffOutside(LangevinOracle):
    """An energy that falls again where there are no data: chains that begin inside never see it."""

    def energy(self, z: Tensor, condition: Value | None = None) -> Tensor:
        square = z.square().sum(dim=1)
        return super().energy(z, condition) - (square - 60).clamp_min(0)


@caught_by("labels-stay-level", condition=Labels(3))
class DrawsItsLabelsOnce(LangevinOracle):
    """The labels of its chains are drawn by frequency when training begins: by chance some are too many, and stay too many."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.register_buffer("chain_labels", torch.zeros(len(self.chains), dtype=torch.long))

    def initialise(self, sample: Batch) -> None:
        super().initialise(sample)
        self.get_buffer("chain_labels").copy_(torch.multinomial(self.condition_frequencies, len(self.chains), replacement=True))

    def negatives(self, n: int, condition: Value | None = None) -> tuple[Tensor, Value | None]:
        labels = self.get_buffer("chain_labels")
        return super().negatives(n, labels[torch.randint(len(labels), (n,))])
