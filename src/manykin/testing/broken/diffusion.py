"""Denoisers, samplers and guidance gone wrong."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from manykin.contract import Preset, Sampler
from manykin.diffusion import Cosine, Denoiser, Guess, Guided, Heun, NetworkDenoiser, solve
from manykin.diffusion.solvers import State
from manykin.spaces import Labels, Value
from manykin.testing.broken.registry import caught_by
from manykin.testing.oracles.diffusion import DenoisingOracle, GaussianNetwork


class _BlindNetwork(GaussianNetwork):
    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return super().forward(x, torch.full_like(t, 0.5), context)


@caught_by("network-sees-the-time", "right-times-help")
class BlindToTime(DenoisingOracle):
    """A network to which the time is never passed."""

    def network(self, size: int) -> NetworkDenoiser:
        return NetworkDenoiser(_BlindNetwork(size, Cosine()), Cosine(), "v")


class _Misread(NetworkDenoiser):
    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Guess:
        guess = super().forward(x, t, context)
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        return Guess((x - sigma * guess.x0) / alpha, guess.x0)


@caught_by("guesses-beat-ignorance")
class ReadsDataAsNoise(DenoisingOracle):
    """Trained to say the data, and read by the sampler as saying the noise."""

    def network(self, size: int) -> NetworkDenoiser:
        return _Misread(GaussianNetwork(size, Cosine()), Cosine(), "v")


class _Shifted(NetworkDenoiser):
    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Guess:
        guess = super().forward(x, t, context)
        return Guess(guess.x0, 1.1 * guess.eps)


@caught_by("guesses-beat-ignorance")
class PartsDisagree(DenoisingOracle):
    """The guess of the noise belongs to another schedule than that of the data."""

    def network(self, size: int) -> NetworkDenoiser:
        return _Shifted(GaussianNetwork(size, Cosine()), Cosine(), "v")


class _ToTheEnd(Heun):
    def finish(self, state: State, t: Tensor, denoiser: Denoiser) -> Tensor:
        return super().finish(state, torch.zeros_like(t) + 1e-5, denoiser)


@caught_by("asked-within-trained-times")
class AsksAtTheEnd(DenoisingOracle):
    """Its sampler asks the network at time 0, where it was never trained."""

    samplers = (_ToTheEnd,)


@caught_by("presets-average-weights")
class LastWeights(DenoisingOracle):
    """A preset that samples from the last weights."""

    presets: ClassVar[Mapping[str, Preset | Callable[..., Preset]]] = {"default": Preset(train={"lr": 0.05})}


@caught_by("guidance-goes-from-none-to-own", condition=Labels(3))
class GuidesTheWrongWay(DenoisingOracle):
    """Guidance with w in the place of 1 + w: scale 0 is the conditional model."""

    def given(self, condition: Value | None, scale: float = 1.0) -> Denoiser:
        own = super().given(condition)
        return own if scale == 0 else Guided(own, self.denoiser.given(self.context(None, len(cast(Tensor, condition)))), 1 + scale)


@caught_by("guidance-starts-from-the-average", condition=Labels(3))
class NeverHidesLabels(DenoisingOracle):
    """Guides away from a condition that training has never shown."""

    def __init__(self, config: Any, space: Any, condition: Any = None) -> None:
        super().__init__(config, space, condition)
        with torch.no_grad():
            self.means[-1] += 8

    def hide(self, condition: Value | None, n: int) -> Tensor:
        return self.context(condition, n)


@caught_by("estimated-mass-near-one")
class ForgottenConstant(DenoisingOracle):
    """log_prob leaves out a part of the base's constant."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return super()._log_prob(z, condition) + 0.3


@caught_by("estimated-mass-near-one")
class FewSteps(DenoisingOracle):
    """Samples in a single step, and scores in many small ones."""

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        noise = torch.randn(n, *self.model_space.shape, dtype=self.dtype)
        return solve(Heun(num_inference_steps=1), self.given(condition), noise)


@caught_by("completions-lean-on-the-known")
class FillsAtRandom(DenoisingOracle):
    """complete puts the known entries beside samples that know nothing of them."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        super().complete(x, known, condition, seed=seed)
        return torch.where(known, cast(Tensor, x), cast(Tensor, self.sample(len(known), condition, seed=seed)))
