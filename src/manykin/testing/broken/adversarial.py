"""Adversarial games, penalties and norms gone wrong."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.contract import Batch, Preset, Progress
from manykin.nn.spectral import SpectralLinear
from manykin.spaces import Value, Vector
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles.adversarial import CriticOracle
from manykin.testing.oracles.latent import GanOracle


@caught_by("players-stay-apart")
class GeneratesWithGradient(GanOracle):
    """The discriminator's loss has a gradient in the generator, which learns to be found out."""

    def discriminator_loss(self, batch: Batch) -> Tensor:
        z, _ = self.to_model_space(batch.x)
        fake = self.make(torch.randn(len(z), self.noise, dtype=z.dtype), batch.condition)
        return functional.softplus(-self.judge(z, batch.condition)) + functional.softplus(self.judge(fake, batch.condition))


@caught_by("players-stay-apart")
class CutOffFromTheJudge(GanOracle):
    """The generator's loss is taken of detached examples."""

    def generator_loss(self, batch: Batch) -> Tensor:
        fake = self.make(torch.randn(len(batch), self.noise, dtype=self.dtype), batch.condition).detach()
        return functional.softplus(-self.judge(fake, batch.condition))


@caught_by("both-sides-seen-alike")
class AugmentsRealOnly(GanOracle):
    """Real examples are augmented before the discriminator, generated ones are not."""

    def discriminator_loss(self, batch: Batch) -> Tensor:
        z, _ = self.to_model_space(batch.x)
        with torch.no_grad():
            fake = self.make(torch.randn(len(z), self.noise, dtype=z.dtype), batch.condition)
        moved = z + 0.5 * torch.randn_like(z)
        return functional.softplus(-self.judge(moved, batch.condition)) + functional.softplus(self.judge(fake, batch.condition))


@caught_by("both-sides-seen-alike")
class AugmentsInOnePhase(GanOracle):
    """Both sides are augmented for the discriminator, but the generator is judged without."""

    def judge(self, z: Tensor, condition: Value | None) -> Tensor:
        own = next(self.discriminator.parameters()).requires_grad and not z.requires_grad
        return super().judge(z + 0.5 * torch.randn_like(z) if own else z, condition)


@caught_by("generator-has-the-data-range", space=Vector(2, levels=5))
class HalfTheRange(CriticOracle):
    """The generator ends in a sigmoid, and the data lie in [-1, 1]."""

    def __init__(self, config: Any, space: Any, condition: Any = None) -> None:
        super().__init__(config, space, condition)
        cast(nn.Sequential, self.generator)[1] = nn.Sigmoid()


@caught_by("generator-has-the-data-range", space=Vector(2, levels=5))
class BeyondTheRange(GanOracle):
    """The generator is not squashed where the data are bounded."""


@caught_by("adversarial-presets-average")
class LastMove(GanOracle):
    """A preset that keeps the last weights."""

    presets: ClassVar[Mapping[str, Preset | Callable[..., Preset]]] = {"default": Preset(train={"lr": 0.01})}


@caught_by("decoding-ignores-mates")
class CentresTheBatch(GanOracle):
    """The generator subtracts a tenth of the mean of its batch, also when it decodes."""

    def make(self, h: Tensor, condition: Value | None) -> Tensor:
        out = super().make(h, condition)
        return out - 0.1 * out.mean(dim=0)


@caught_by("penalty-looks-between")
class LooksOffTheLine(CriticOracle):
    """The gradient penalty mixes each entry by a share of its own."""

    def slope_penalty(self, real: Tensor, fake: Tensor, condition: Value | None) -> Tensor:
        share = torch.rand_like(real)
        return super().slope_penalty(share * real + (1 - share) * fake, share * real + (1 - share) * fake, condition)


@caught_by("penalty-looks-between")
class OnePlaceForAll(CriticOracle):
    """The gradient penalty looks half way between all pairs."""

    def slope_penalty(self, real: Tensor, fake: Tensor, condition: Value | None) -> Tensor:
        return super().slope_penalty((real + fake) / 2, (real + fake) / 2, condition)


class _Slope(CriticOracle):
    def norms(self, slope: Tensor) -> Tensor:
        """What is penalised of the slopes (n, d)."""
        return slope.square().sum(dim=1).sqrt()

    create_graph = True

    def slope_penalty(self, real: Tensor, fake: Tensor, condition: Value | None) -> Tensor:
        with torch.enable_grad():
            share = torch.rand(len(real), 1, dtype=real.dtype)
            between = (share * real + (1 - share) * fake).detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.judge(between, condition).sum(), between, create_graph=self.create_graph)
            return self.norms(slope).sub(1).square()


@caught_by("penalty-makes-slopes-one")
class PenaltyWithoutGraph(_Slope):
    """The gradient penalty is a number without a gradient in the critic."""

    create_graph = False


@caught_by("penalty-makes-slopes-one")
class OneNormForTheBatch(_Slope):
    """The gradient penalty takes one norm over the whole batch."""

    def norms(self, slope: Tensor) -> Tensor:
        return slope.square().sum().sqrt().expand(len(slope))


@caught_by("penalty-makes-slopes-one")
class OneSidedPenalty(_Slope):
    """The gradient penalty leaves slopes below one alone."""

    def norms(self, slope: Tensor) -> Tensor:
        return super().norms(slope).clamp_min(1)


class _Static(SpectralLinear):
    def improve(self) -> None:
        """No power iteration after the start."""


class _Restless(SpectralLinear):
    def normalised(self) -> Tensor:
        self.improve()
        return super().normalised()


def _critic(inputs: int, kind: type[SpectralLinear]) -> nn.Sequential:
    layers = [kind(inputs, 16), kind(16, 1)]
    for layer in layers:
        layer.settle()
    return nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1])


@caught_by("spectral-norms-near-one", "spectral-vectors-rest")
class NeverIterates(CriticOracle):
    """Weights are divided by a guess of their singular value that is never improved."""

    def critic(self, inputs: int) -> nn.Sequential:
        layers = _critic(inputs, _Static)
        for layer in layers:
            if isinstance(layer, SpectralLinear):
                layer.v.copy_(functional.normalize(torch.randn(layer.v.shape), dim=0))
        return layers


@caught_by("spectral-vectors-rest")
class IteratesInEvaluation(CriticOracle):
    """Power iterations go on in evaluation: scoring changes the critic."""

    def critic(self, inputs: int) -> nn.Sequential:
        return _critic(inputs, _Restless)


@caught_by("collapse-is-told")
class SaysNothing(CriticOracle):
    """Looks at its spread after training, and keeps quiet."""

    def compare(self) -> Progress:
        return Progress({}, converged=True)


@caught_by("collapse-is-told")
class CriesWolf(CriticOracle):
    """Compares its spread with ten times that of the data."""

    def initialise(self, sample: Batch) -> None:
        super().initialise(sample)
        self.watch.reference[1:] *= 10


@caught_by("collapse-is-told")
class LooksAtPairsOnly(CriticOracle):
    """Compares the mean distance of pairs alone, which a handful of examples far apart keep."""

    def initialise(self, sample: Batch) -> None:
        super().initialise(sample)
        self.watch.reference[2] = 0
