"""The generative adversarial network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.config import Config, option
from manykin.contract import Batch, Density, GenerativeModel, Gradient, Optim, Phase, Preset, Sampler, Support
from manykin.models.conditions import ConditionFeatures, join
from manykin.models.latents import check_latents
from manykin.nn import MLP
from manykin.random import fresh_seed, seeded
from manykin.spaces import Labels, Space, Value, Vector
from manykin.transforms.base import representative
from manykin.transforms.continuous import bounds_of


@dataclass(frozen=True)
class GANConfig(Config):
    """Options of :class:`GAN`."""

    latent: int = option(16, "entries of the latent", ge=1)
    generator: tuple[int, ...] = option((128, 128), "width of each hidden layer of the generator", ge=1)
    discriminator: tuple[int, ...] = option((128, 128), "width of each hidden layer of the discriminator", ge=1)
    activation: Literal["leaky-relu", "relu", "silu", "tanh", "gelu"] = option("leaky-relu", "activation of both networks")
    dropout: float = option(0.0, "share of the discriminator's hidden units that training silences, against learning the rows by heart", ge=0, lt=1)
    r1: float = option(0.1, "weight of the discriminator's squared gradient at real data; 0 leaves it out", ge=0)
    updates: int = option(1, "discriminator updates for one of the generator", ge=1)
    discriminator_lr: float = option(1e-3, "learning rate of the discriminator", gt=0)
    generator_lr: float = option(1e-3, "learning rate of the generator", gt=0)
    condition_width: int = option(16, "features of a label condition", ge=1)


class Generator(nn.Module):
    """Latents (n, latent) to model space (n, d), squashed to [-1, 1] where all data are bounded there."""

    def __init__(self, size: int, bounded: bool, condition: Space | None, config: GANConfig) -> None:
        super().__init__()
        self.bounded = bounded
        self.features = ConditionFeatures(condition, config.condition_width)
        self.net = MLP(config.latent + self.features.width, config.generator, size, activation=config.activation)

    def forward(self, h: Tensor, condition: Value | None) -> Tensor:
        out = self.net(join(h, self.features(condition, h.dtype)))
        return torch.tanh(out) if self.bounded else out


class Discriminator(nn.Module):
    """Examples (n, d) to the log-odds of being real, shape (n,)."""

    def __init__(self, size: int, condition: Space | None, config: GANConfig) -> None:
        super().__init__()
        self.features = ConditionFeatures(condition, config.condition_width)
        self.net = MLP(size + self.features.width, config.discriminator, 1, activation=config.activation, dropout=config.dropout)

    def forward(self, z: Tensor, condition: Value | None) -> Tensor:
        return self.net(join(z, self.features(condition, z.dtype))).squeeze(1)  # type: ignore[no-any-return]


def _default(space: Space, n: int) -> Preset:
    """For few columns large batches; for many dropout in the discriminator, which would else know every row by heart."""
    train = {"schedule": "cosine", "ema": 0.998}
    if torch.Size(space.shape).numel() <= 16:
        return Preset({"latent": 8}, {"max_steps": 4000, "batch_size": 256, **train})
    model = {"latent": 32, "generator": (256, 256), "discriminator": (256, 256), "dropout": 0.3 if n < 20_000 else 0.1}
    return Preset(model, {"max_steps": 5000 if n < 20_000 else 10_000, "batch_size": 64, **train})


class GAN(GenerativeModel):
    """A generator that learns to fool a discriminator, which learns to tell its examples from real ones.

    With D the discriminator's log-odds, it minimises ``softplus(-D(x)) + softplus(D(G(h))) + r1 / 2 * |grad D(x)|^2``, and the generator the
    non-saturating ``softplus(-D(G(h)))`` (Goodfellow et al., Generative adversarial nets, 2014, algorithm 1 and section 3). The gradient penalty
    at real data lets the game converge where the plain one circles (Mescheder, Geiger and Nowozin, Which training methods for GANs do actually
    converge?, 2018, equation 9). No layer mixes examples, so real and generated ones never see each other.

    Implicit: it samples and decodes, and has no density. Cost: two passes of each network a step, and one more of the discriminator for ``r1``.

    Training notes ``real`` and ``fake``, the mean probabilities of being real that the discriminator gives to either: equal where it cannot tell
    them apart.
    """

    config_class = GANConfig
    family = "adversarial"
    paper = "Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville and Bengio, Generative adversarial nets, 2014"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {
        "default": _default,
        "tiny": Preset({"latent": 4, "generator": (32,), "discriminator": (32,)}, {"max_steps": 60, "batch_size": 64}),
    }

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        (size,) = self.model_space.shape
        bounded = all(bound is not None for bound in bounds_of(representative(space)))
        self.generator = Generator(size, bounded, condition, self.config)
        self.discriminator = Discriminator(size, condition, self.config)

    @property
    def kind(self) -> Density | None:
        return None

    @property
    def accepts(self) -> Support:
        return Support((Vector,), bounded="scale", standardise=True, condition=(Labels, Vector))

    def phases(self) -> list[Phase]:
        betas = (0.5, 0.9)
        critic, maker = (Optim("adam", rate, betas) for rate in (self.config.discriminator_lr, self.config.generator_lr))
        return [
            Gradient("discriminator", loss="discriminator_loss", params="discriminator.", repeat=self.config.updates, optimizer=critic),
            Gradient("generator", loss="generator_loss", params="generator.", optimizer=maker),
        ]

    def initialise(self, sample: Batch) -> None:
        """Statistics of the conditions."""
        self.generator.features.fit(sample.condition)
        self.discriminator.features.fit(sample.condition)

    def discriminator_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of real against generated examples, with the gradient penalty at the real ones, shape (n,)."""
        real, _ = self.to_model_space(batch.x)
        with torch.no_grad():
            fake = self.generator(self._noise(len(batch)), batch.condition)
        if not self.config.r1:
            on_real = self.discriminator(real, batch.condition)
            penalty = torch.zeros_like(on_real)
        else:
            with torch.enable_grad():
                real = real.detach().requires_grad_()
                on_real = self.discriminator(real, batch.condition)
                (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
                penalty = slope.square().sum(dim=1)
        on_fake = self.discriminator(fake, batch.condition)
        self.note("real", torch.sigmoid(on_real.detach()))
        self.note("fake", torch.sigmoid(on_fake.detach()))
        return functional.softplus(-on_real) + functional.softplus(on_fake) + 0.5 * self.config.r1 * penalty  # type: ignore[no-any-return]

    def generator_loss(self, batch: Batch) -> Tensor:
        """Minus the log-probability that the discriminator takes generated examples for real, shape (n,)."""
        fake = self.generator(self._noise(len(batch)), batch.condition)
        return functional.softplus(-self.discriminator(fake, batch.condition))

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.config.latent, dtype=self.dtype, device=self.device)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        return self.generator(self._noise(n), condition)  # type: ignore[no-any-return]

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        """n draws of the standard normal prior, shape (n, latent)."""
        with seeded(fresh_seed() if seed is None else seed):
            return self._noise(n)

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        """What the generator makes of latents h (n, latent); differentiable where h asks for gradients."""
        h = check_latents(h, self.config.latent)
        with torch.set_grad_enabled(torch.is_grad_enabled() and h.requires_grad), self.evaluating(None):
            c = self.check_condition(condition, len(h))
            return self.finish(self.generator(h.to(self.device, self.dtype), c))
