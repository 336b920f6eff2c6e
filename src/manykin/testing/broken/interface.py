"""Wrong shapes, unnoticed bad input, and completions that are none."""

from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from manykin.contract import Batch, Config, Sampler
from manykin.random import seeded
from manykin.spaces import Labels, Space, Tokens, Value, Vector, count
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles import SMALL_TABLE, GanOracle, GaussianOracle, MarkovOracle, TableOracle


@caught_by("log-prob-shape")
class ExtraAxis(GaussianOracle):
    """log_prob keeps an axis of one, which broadcasts to a matrix."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition)[:, None]

    def loss(self, batch: Batch) -> Tensor:
        z, ldj = self.to_model_space(batch.x)
        return -(self._log_prob(z, batch.condition)[:, 0] + ldj)


@caught_by("batch-mates-ignored", "loss-ignores-mates")
class BatchStatistics(GaussianOracle):
    """Centres by the mean of the batch, as batch normalisation in train mode does."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z - 0.2 * z.mean(dim=0, keepdim=True), condition)


@caught_by("sample-shape")
class TooFew(GaussianOracle):
    """Drops the last draw of each block."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return super()._sample(n, condition, sampler)[:-1]


@caught_by("sample-prefix")
class CountDependent(GaussianOracle):
    """Draws that depend on how many were asked for."""

    asked = 1

    def _conditions(self, n: int, condition: Value | None, seed: int) -> Value | None:
        self.asked = n
        return super()._conditions(n, condition, seed)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return super()._sample(n, condition, sampler) + 1e-3 * self.asked


@caught_by("float-dtypes-agree")
class HalfPrecision(GaussianOracle):
    """Rounds float64 data to eight bits on the way in."""

    def to_model_space(self, x: Value) -> tuple[Tensor, Tensor]:
        z, ldj = super().to_model_space(x)
        return (z.bfloat16().to(self.dtype) * 1.05 if cast(Tensor, x).dtype == torch.float64 else z), ldj


@caught_by("strides-ignored")
class InPlace(GaussianOracle):
    """Clips its input in place."""

    def to_model_space(self, x: Value) -> tuple[Tensor, Tensor]:
        if isinstance(x, Tensor) and not x.requires_grad:
            x.clamp_(-1.0, 1.0)
        return super().to_model_space(x)


@caught_by("one-condition-serves-all", condition=Labels(3))
class PaddedCondition(GaussianOracle):
    """Takes one condition for all examples to mean the first example only."""

    def check_condition(self, condition: Value | None, n: int) -> Value | None:
        given = cast(Tensor, condition)
        if condition is not None and count(condition) == 1 and n > 1:
            return torch.cat([given, torch.full((n - 1,), 2)])
        return super().check_condition(condition, n)


@caught_by(
    "rejects-empty-batch", "rejects-infinity", "rejects-nan", "rejects-wrong-rank", "rejects-wrong-size", "rejects-wrong-dtype",
    "rejects-foreign-types",
)  # fmt: skip
class NaiveEncoder(GaussianOracle):
    """encode does not validate what it is given."""

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        h = torch.zeros(count(x), self.size)
        return Independent(Normal(h, 1.0), 1)


@caught_by("rejects-out-of-range", "rejects-wrong-dtype", space=SMALL_TABLE)
class NaiveFiller(TableOracle):
    """complete does not validate what it is given."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        return x


@caught_by("rejects-wrong-condition", condition=Labels(3))
class AnyCondition(GaussianOracle):
    """Takes every condition, and zero for a missing one."""

    def check_condition(self, condition: Value | None, n: int) -> Value | None:
        return torch.zeros(n, dtype=torch.long) if condition is None else cast(Tensor, condition).clamp(0, 2)


@caught_by("rejects-bad-n")
class AnyCount(GaussianOracle):
    """Draws one where fewer are asked for."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.__dict__["sample"] = self._lenient

    def _lenient(self, n: int, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        return type(self).sample(self, max(int(n), 1), condition, seed=seed, sampler=sampler)


@caught_by("rejects-foreign-sampler")
class AnySampler(GaussianOracle):
    """Lists the base of all samplers as its own."""

    samplers = (Sampler,)


@caught_by("implicit-says-so")
class ClaimsWeights(GanOracle):
    """Has no density, and importance weights all the same."""

    def log_weights(self, x: Value, k: int, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        """Zeros."""
        z, _, _ = self.prepare(x, condition)
        return torch.zeros(len(z), k)


@caught_by("rejects-bad-mask")
class AnyMask(GaussianOracle):
    """Casts and trims the mask to what it needs."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        return super().complete(x, known[:, : self.size] > 0.5, condition, seed=seed, sampler=sampler)


@caught_by("rejects-bad-latents")
class AnyLatents(GaussianOracle):
    """decode does not look at the shape and values of its latents."""

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        with torch.no_grad():
            return self.finish(self.push(h[:, : self.size].nan_to_num(0.0).to(self.dtype), self.check_condition(condition, len(h))))


@caught_by("known-entries-stay", "all-known-is-identity")
class Overwrites(GaussianOracle):
    """complete returns fresh samples and forgets what was known."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        super().complete(x, known, condition, seed=seed)
        return self.sample(count(x), condition, seed=seed)


@caught_by("completions-valid", space=SMALL_TABLE)
class FillsMeans(TableOracle):
    """Fills categories with their mean code."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        filled = cast(Tensor, super().complete(x, known, condition, seed=seed))
        return torch.where(known, filled, filled.mean(0, keepdim=True) + 0.1)


@caught_by("completions-valid")
class PeeksAtUnknown(GaussianOracle):
    """Starts from what stands in the unknown entries."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        filled = cast(Tensor, super().complete(x, known, condition, seed=seed))
        return torch.where(known, filled, 0.5 * filled + 0.5 * cast(Tensor, x))


@caught_by("completion-seeded")
class SeedlessCompletion(GaussianOracle):
    """complete ignores its seed."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        return super().complete(x, known, condition, seed=None)


@caught_by("completions-follow-conditional")
class FillsMarginals(GaussianOracle):
    """Fills each entry from its own marginal, without regard to what is known."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        super().complete(x, known, condition, seed=seed)
        return torch.where(known, cast(Tensor, x), cast(Tensor, self.sample(count(x), condition, seed=seed)))


@caught_by("completions-follow-conditional", space=Tokens(4, 5, end=0))
class FillsFirst(MarkovOracle):
    """Continues a text as if each symbol were the first."""

    def _draw(self, z: Tensor, known: Tensor) -> Tensor:
        if not bool(known.any()):
            return super()._draw(z, known)
        for position in range(self.tokens.length):
            fresh = torch.multinomial(self.logits(z, 0).softmax(1), 1)[:, 0]
            fresh = torch.full_like(fresh, 0) if position == self.tokens.length - 1 else fresh
            z[:, position] = torch.where(known[:, position], z[:, position], fresh)
        return z


@caught_by("samples-dtype", space=Tokens(3, 4))
class NarrowTokens(MarkovOracle):
    """Returns codes in 32 bits."""

    def finish(self, z: Tensor) -> Value:
        return cast(Tensor, super().finish(z)).int()


@caught_by("samples-valid", space=Vector(2, levels=5))
class UnroundedSamples(GaussianOracle):
    """Samples leave without rounding to the grid."""

    def finish(self, z: Tensor) -> Value:
        return cast(Tensor, super().finish(z)) + 0.25


@caught_by("transform-is-lossless")
class ShiftedFinish(GaussianOracle):
    """The way back to data space is off by a tenth."""

    def finish(self, z: Tensor) -> Value:
        return cast(Tensor, super().finish(z)) + 0.1


@caught_by("samplers-work")
class DeadSampler(GaussianOracle):
    """Lists a sampler that it cannot run."""

    samplers = (type("Unfinished", (Sampler,), {}),)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        if sampler is not None:
            raise KeyError(type(sampler).__name__)
        return super()._sample(n, condition, sampler)


@caught_by("small-data-is-learnt")
class NeedsManyRows(GaussianOracle):
    """Its data-dependent start takes 32 rows for granted."""

    def initialise(self, sample: Batch) -> None:
        self.mean.copy_(self.to_model_space(sample.x)[0][:32].view(32, self.size).mean(0))


@caught_by("condition-used", condition=Labels(3))
class IgnoresCondition(GaussianOracle):
    """Takes a condition and does nothing with it."""

    def centre(self, condition: Value | None, n: int) -> Tensor:
        return self.mean.mean(0).expand(n, -1)


@caught_by("classes-differ", condition=Labels(3))
class IgnoresConditionGan(GanOracle):
    """A generator to which the label is never passed."""

    def make(self, h: Tensor, condition: Value | None) -> Tensor:
        return super().make(h, None if condition is None else torch.zeros_like(cast(Tensor, condition)))


@caught_by("samples-respect-condition", condition=Labels(3))
class ShufflesConditions(GaussianOracle):
    """Samples with the conditions in another order."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        wrong = None if condition is None else (cast(Tensor, condition) + 1) % 3
        return super()._sample(n, wrong, sampler)


@caught_by("conditions-drawn-by-frequency", condition=Labels(3))
class EvenConditions(GaussianOracle):
    """Without a condition, draws all classes equally often."""

    def _conditions(self, n: int, condition: Value | None, seed: int) -> Value | None:
        if condition is not None:
            return super()._conditions(n, condition, seed)
        with seeded(seed):
            return torch.randint(3, (n,))
