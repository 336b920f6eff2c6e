"""Boltzmann machines gone wrong: signs, draws in the place of probabilities, chains and constants."""

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from manykin.contract import Sampler
from manykin.mcmc import LogPartition, Path, run
from manykin.spaces import Labels, Value, Vector
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles.energy import BoltzmannOracle, Sweeps

BITS = Vector(4, levels=2)


@caught_by("free-energy-is-minus-log-prob", "loss-is-the-free-energy", space=BITS)
class FlippedFreeEnergy(BoltzmannOracle):
    """free_energy has the wrong sign."""

    def free_energy(self, x: Value, condition: Value | None = None) -> Tensor:
        return -super().free_energy(x, condition)


@caught_by("free-energy-is-minus-log-prob", "mass-is-one", space=BITS)
class ReconstructionAsLikelihood(BoltzmannOracle):
    """log_prob is the log-probability of the reconstruction."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        h = torch.sigmoid(self.hidden + z @ self.weights)
        logits = self.visible[self.labels(condition, len(z))] + h @ self.weights.T
        return (z * logits - functional.softplus(logits)).sum(1)


@caught_by("loss-is-the-free-energy", space=BITS)
class DrawnStatistics(BoltzmannOracle):
    """The positive statistics are those of drawn hidden units, not of their probabilities."""

    def positive(self, v: Tensor, labels: Tensor) -> Tensor:
        inputs = self.hidden + v @ self.weights
        h = torch.bernoulli(torch.sigmoid(inputs)).detach()
        return -(v * self.visible[labels]).sum(1) - (h * inputs).sum(1)


@caught_by("likelihood-rises", space=BITS)
class ClimbsEnergies(BoltzmannOracle):
    """The loss is chains minus data: learning raises the energy of data."""

    def loss(self, batch: Any) -> Tensor:
        return -super().loss(batch)


@caught_by("fresh-chains-know-no-buffer", space=BITS)
class NeverFresh(BoltzmannOracle):
    """Samples that are called fresh begin at the chains of training."""

    def begin(self, n: int, labels: Tensor, chains: str) -> Tensor:
        return super().begin(n, labels, "buffer")


@caught_by("chains-reach-the-density", space=BITS)
class StopsOnTheWay(BoltzmannOracle):
    """The sampler stops while it is still being cooled: its chains are those of a warmer machine."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        if not isinstance(sampler, Sweeps):
            return super()._sample(n, condition, sampler)
        labels = self.labels(condition, n)
        return run(self.kernel(labels, 0.3), self.begin(n, labels, sampler.chains), sampler.steps).state


@caught_by("annealing-finds-the-constant", space=BITS)
class ForgottenBase(BoltzmannOracle):
    """log Z by annealing leaves out the constant of the path's beginning."""

    def path(self, label: int) -> Path:
        return dataclasses.replace(super().path(label), log_base=0.0)


@caught_by("annealing-finds-the-constant", space=BITS)
class AnnealsBackwards(BoltzmannOracle):
    """The weights of the path count the way back: its energies fall where they should rise."""

    def path(self, label: int) -> Path:
        own = super().path(label)
        return dataclasses.replace(own, rise=lambda v, before, after: own.energy(v, before) - own.energy(v, after))


@caught_by("intervals-hold-the-constant", space=BITS)
class BoastfulInterval(BoltzmannOracle):
    """Its interval of log Z is a tenth as wide as the weights allow: the error is that of a hundred times the chains."""

    def log_partition(
        self, condition: int | None = None, *, temperatures: int | None = None, chains: int | None = None, seed: int = 0, estimate: bool = False
    ) -> LogPartition:
        found = super().log_partition(condition, temperatures=temperatures, chains=chains, seed=seed, estimate=estimate)
        lower, upper = (found.value + 0.1 * (end - found.value) for end in (found.lower, found.upper))
        return dataclasses.replace(found, stderr=0.1 * found.stderr, lower=lower, upper=upper)


@caught_by("annealing-finds-the-constant", space=BITS)
class ForgetsItsTemperatures(BoltzmannOracle):
    """Anneals by three temperatures whatever it is asked for: log Z with an error that a thousand would not have."""

    def log_partition(
        self, condition: int | None = None, *, temperatures: int | None = None, chains: int | None = None, seed: int = 0, estimate: bool = False
    ) -> LogPartition:
        return super().log_partition(condition, temperatures=3, chains=chains, seed=seed, estimate=estimate)


@caught_by("annealing-finds-the-constant", space=BITS, condition=Labels(2))
class OneConstantForAll(BoltzmannOracle):
    """The constant of the first class serves every class."""

    def log_partition(
        self, condition: int | None = None, *, temperatures: int | None = None, chains: int | None = None, seed: int = 0, estimate: bool = False
    ) -> LogPartition:
        label = 0 if estimate else condition
        return super().log_partition(label, temperatures=temperatures, chains=chains, seed=seed, estimate=estimate)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        value = super()._log_prob(z, condition)
        constants = torch.logsumexp(self.masses(), 1)
        return value + (constants - constants[0])[cast(Tensor, condition)]
