"""Randomness, modes and learning gone wrong."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from manykin.contract import Batch, ClosedForm, Config, Gradient, Optim, Phase, Progress, Sampler
from manykin.random import seeded
from manykin.spaces import Space, Value, Vector
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles import GanOracle, GaussianOracle, MixtureOracle


@caught_by("seeds-decide", "samples-vary")
class FixedNoise(GaussianOracle):
    """Seeds its own generator with zero at each call."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        own = torch.Generator().manual_seed(0)
        return self.push(torch.randn(n, self.size, generator=own, dtype=self.dtype), condition)


@caught_by("global-generators-untouched")
class SeedsNumpy(GaussianOracle):
    """Sets numpy's global seed for the sake of repeatability."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        np.random.seed(torch.initial_seed() % 2**31)
        return self.push(torch.from_numpy(np.random.randn(n, self.size)).to(self.dtype), condition)


@caught_by("only-the-seed-counts", "seeds-decide")
class UsesNumpy(GaussianOracle):
    """Draws from numpy's global generator, which no seed reaches."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.push(torch.from_numpy(np.random.randn(n, self.size)).to(self.dtype), condition)


@caught_by("modes-restored")
class SamplesInTrainMode(GaussianOracle):
    """Samples in the mode that it happens to be in: dropout stays on after training."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.drop = nn.Dropout(0.3)

    @contextmanager
    def evaluating(self, seed: int | None) -> Iterator[None]:
        with seeded(seed or 0):
            yield

    def push(self, h: Tensor, condition: Value | None) -> Tensor:
        return cast(Tensor, self.drop(super().push(h, condition)))


@caught_by("calls-leave-state")
class CountsCalls(GaussianOracle):
    """Counts calls in a buffer, and drifts with it."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.register_buffer("calls", torch.zeros(()))

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        cast(Tensor, self.calls).add_(1e-3)
        return super()._sample(n, condition, sampler) + cast(Tensor, self.calls)


@caught_by("threads-agree")
class NoLock(GaussianOracle):
    """Keeps its noise in a shared place while other threads draw theirs."""

    @contextmanager
    def evaluating(self, seed: int | None) -> Iterator[None]:
        if seed is not None:
            torch.manual_seed(seed)
            time.sleep(0.02)
        yield


@caught_by("loss-per-example")
class ScalarLoss(GaussianOracle):
    """loss returns the mean over the batch."""

    def loss(self, batch: Batch) -> Tensor:
        mean = super().loss(batch).mean()
        return mean.expand(1) if len(batch) == 1 else mean


@caught_by("loss-ignores-mates")
class SharedLoss(GaussianOracle):
    """Every example is charged the mean of the batch."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch).mean().expand(len(batch))


@caught_by("every-parameter-learns")
class IdleParameter(GaussianOracle):
    """Has a layer that nothing uses."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.idle = nn.Linear(2, 2)


@caught_by("every-parameter-learns")
class DetachedMean(GaussianOracle):
    """No straight-through: the gradient stops before a parameter."""

    def loss(self, batch: Batch) -> Tensor:
        z, ldj = self.to_model_space(batch.x)
        h: Tensor = torch.linalg.solve_triangular(self.factor(), (z - self.mean.detach()).T, upper=False).T
        return 0.5 * (h**2).sum(1) + self.factor().diagonal().log().sum() - ldj


@caught_by("phases-stay-at-home")
class LeakyDiscriminator(GanOracle):
    """The discriminator's phase unfreezes the generator and sends it a gradient."""

    def discriminator_loss(self, batch: Batch) -> Tensor:
        self.generator.requires_grad_(True)
        z, _ = self.to_model_space(batch.x)
        fake = self.make(torch.randn(len(z), self.noise, dtype=z.dtype), batch.condition)
        return nn.functional.softplus(-self.judge(z, batch.condition)) + nn.functional.softplus(self.judge(fake, batch.condition))


@caught_by("phases-stay-at-home")
class ShrinksInLoss(GanOracle):
    """Shrinks the discriminator's weights inside the generator's loss."""

    def generator_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            for parameter in self.discriminator.parameters():
                parameter.mul_(0.99)
        return super().generator_loss(batch)


@caught_by("loss-repeatable", "one-seed-one-result")
class ClockNoise(GaussianOracle):
    """Takes its training noise from a generator of its own, seeded by the clock."""

    def loss(self, batch: Batch) -> Tensor:
        noise = torch.randn(len(batch), generator=torch.Generator().manual_seed(time.perf_counter_ns() % 2**31))
        return super().loss(batch) * (1 + 0.1 * noise)


@caught_by("phases-alternate")
class FrozenGenerator(GanOracle):
    """The second phase has a learning rate of zero."""

    def phases(self) -> Sequence[Phase]:
        first, second = cast(Sequence[Gradient], super().phases())
        return [first, Gradient(second.name, second.loss, second.params, optimizer=Optim(lr=0.0))]


@caught_by("loss-falls", "likelihood-rises")
class Ascends(GaussianOracle):
    """The value of the loss is right and its gradient has the wrong sign."""

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        return 2 * loss.detach() - loss


@caught_by("likelihood-rises")
class WrongLossSign(GaussianOracle):
    """Minimises the log-likelihood."""

    def loss(self, batch: Batch) -> Tensor:
        return (-super().loss(batch)).clamp(min=-40.0, max=1e4)


@caught_by("closed-form-monotone", space=Vector(1))
class CrossedStatistics(MixtureOracle):
    """Every other M-step pairs the sums of one component with the counts and squares of the other."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.register_buffer("swapped", torch.zeros(()))

    def solve(self) -> Progress:
        swapped = cast(Tensor, self.swapped)
        swapped.copy_(1 - swapped)
        if bool(swapped):
            return super().solve()
        self.first.copy_(self.first.flip(0))
        return super().solve()


@caught_by("statistics-named", space=Vector(1))
class UnnamedStatistics(MixtureOracle):
    """One of the sums is missing from the list of statistics."""

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("em", statistics=("mass", "first"), max_epochs=5)]


@caught_by("statistics-named", space=Vector(1))
class AttributeStatistics(MixtureOracle):
    """Names a statistic that is no buffer."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        del self._buffers["mass"]
        self.__dict__["mass"] = torch.zeros(2, dtype=torch.float64)


@caught_by("statistics-add-up", space=Vector(1))
class AveragedStatistics(MixtureOracle):
    """Adds up the means of batches instead of sums."""

    def accumulate(self, batch: Batch) -> None:
        before = [buffer.clone() for buffer in (self.mass, self.first, self.second)]
        super().accumulate(batch)
        for buffer, old in zip((self.mass, self.first, self.second), before, strict=True):
            buffer.copy_(old + (buffer - old) / len(batch))


@caught_by("one-seed-one-result")
class RandomStart(GaussianOracle):
    """Starts from numpy's global generator."""

    def initialise(self, sample: Batch) -> None:
        self.mean.copy_(torch.from_numpy(np.random.randn(*self.mean.shape)))


@caught_by("scaling-from-train-only")
class RunningScale(GaussianOracle):
    """Keeps adapting the scaling to whatever it sees, test rows included."""

    def to_model_space(self, x: Value) -> tuple[Tensor, Tensor]:
        mean = cast(Any, self.transform).mean
        mean.mul_(0.9).add_(0.1 * cast(Tensor, x).detach().double().mean(0))
        return super().to_model_space(x)


@caught_by("start-is-repeatable")
class AddsAtStart(GaussianOracle):
    """Adds to its parameters at the start instead of setting them."""

    def initialise(self, sample: Batch) -> None:
        self.mean.add_(self.to_model_space(sample.x)[0].mean(0) + 0.1)
