"""The generative adversarial network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from manykin.config import Config, option
from manykin.contract import Batch, ClosedForm, Density, GenerativeModel, Gradient, Optim, Phase, Preset, Progress, Sampler, Support
from manykin.errors import InvalidInput
from manykin.models.adversarial import presets
from manykin.models.adversarial.augment import augmented, check_kinds
from manykin.models.adversarial.losses import discriminator_terms, generator_terms, one_centred, zero_centred
from manykin.models.adversarial.networks import ConvDiscriminator, ConvGenerator, Discriminator, Generator
from manykin.models.collapse import Spread
from manykin.models.latents import check_latents
from manykin.random import fresh_seed, seeded
from manykin.spaces import Image, Labels, Space, Value, Vector, cat
from manykin.transforms.base import representative
from manykin.transforms.continuous import bounds_of

R1 = 0.1
"""Weight of the penalty at real data where nobody says one and nothing else keeps the discriminator smooth."""


@dataclass(frozen=True)
class GANConfig(Config):
    """Options of :class:`GAN`.

    Raises:
        InvalidInput: also for a Wasserstein critic that nothing keeps smooth, and unknown augmentations.
    """

    network: Literal["auto", "mlp", "conv"] = option("auto", "both players: perceptrons, or convolutions for pictures; auto takes what fits")
    latent: int = option(16, "entries of the latent", ge=1)
    generator: tuple[int, ...] = option((128, 128), "width of each hidden layer of the generator; conv: channels a level, the finest first", ge=1)
    discriminator: tuple[int, ...] = option((128, 128), "the same for the discriminator", ge=1)
    activation: Literal["leaky-relu", "relu", "silu", "tanh", "gelu"] = option("leaky-relu", "activation of both networks")
    objective: Literal["non-saturating", "hinge", "wasserstein"] = option("non-saturating", "what the players minimise")
    spectral_norm: bool = option(False, "divide the discriminator's weights by their largest singular values")
    r1: float | None = option(
        None, "weight of the discriminator's squared gradient at real data; none: 0.1, but 0 under spectral_norm or wasserstein", ge=0
    )
    gradient_penalty: float = option(10.0, "weight of (|gradient| - 1)^2 between real and generated data; of wasserstein alone", ge=0)
    augment: tuple[str, ...] = option((), "differentiable changes of all pictures that the discriminator sees: brightness, translation, cutout")
    dropout: float = option(0.0, "share of the discriminator's hidden units or channels silenced in training, against learning by heart", ge=0, lt=1)
    updates: int = option(1, "discriminator updates for one of the generator", ge=1)
    discriminator_lr: float = option(1e-3, "learning rate of the discriminator", gt=0)
    generator_lr: float = option(1e-3, "learning rate of the generator", gt=0)
    beta1: float = option(0.5, "decay of the mean gradient in both optimizers", ge=0, lt=1)
    condition_width: int = option(16, "features of a label condition of the generator; the discriminator's are as wide as its last layer", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kinds(self.augment)
        if self.objective == "wasserstein" and not self.gradient_penalty and not self.spectral_norm and not self.r1:
            raise InvalidInput(
                "model.gradient_penalty = 0 leaves a wasserstein critic without bounds; expected a positive weight (10 is usual), or spectral_norm."
            )

    @property
    def penalty_at_data(self) -> float:
        """The weight of R1 that is meant."""
        if self.r1 is not None:
            return self.r1
        return 0.0 if self.spectral_norm or self.objective == "wasserstein" else R1


class GAN(GenerativeModel):
    """A generator that learns to fool a discriminator, which learns to tell its examples from real ones.

    The two play under one of three objectives: ``non-saturating`` (Goodfellow et al., Generative adversarial nets, 2014, section 3), ``hinge``
    (Lim and Ye, Geometric GAN, 2017), ``wasserstein`` with a gradient penalty (Gulrajani et al., Improved training of Wasserstein GANs, 2017). The
    game converges only against a smooth discriminator: by its squared gradient at real data (``r1``; Mescheder et al., 2018), by spectral
    normalisation (Miyato et al., 2018), or by the gradient penalty. Pictures of at least 8 x 8, odd sides too, go to convolutions (Radford et al.,
    2016) whose sides halve at each level; smaller pictures, vectors and real tables to perceptrons. Labels enter the discriminator as a projection
    (Miyato and Koyama, 2018). ``augment`` changes all pictures that the discriminator sees (Zhao et al., 2020). No layer mixes examples, so none
    depends on its batch, and no statistics of batches exist that could be stale.

    Implicit: it samples and decodes, and has no density. Cost: a step takes two passes of each network and a third of the discriminator, times
    ``updates`` for those of the discriminator; ``r1`` and the gradient penalty differentiate a pass twice.

    Training notes ``real`` and ``fake``, the mean scores of either (as probabilities where scores are log-odds), and ``accuracy``, the share of
    examples on the right side of 0. After training, unless it is conditional on vectors, the ``spread`` of generated examples is compared with that
    of the training rows, and a :class:`~manykin.errors.ManykinWarning` tells of a collapse.
    """

    config_class = GANConfig
    family = "adversarial"
    paper = "Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville and Bengio, Generative adversarial nets, 2014"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {
        "default": presets.default,
        "tiny": presets.tiny,
        "cpu": presets.cpu,
        "wgan-gp": presets.wgan_gp,
    }

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        chosen = config if isinstance(config, GANConfig) else GANConfig()
        _check(chosen, space)
        super().__init__(config, space, condition)
        shape = self.model_space.shape
        bounded = all(bound is not None for bound in bounds_of(representative(space)))
        maker: dict[str, Any] = {"bounded": bounded, "activation": chosen.activation, "condition": condition}
        judge: dict[str, Any] = {"activation": chosen.activation, "condition": condition, "spectral": chosen.spectral_norm, "dropout": chosen.dropout}
        self.generator: Generator | ConvGenerator
        self.discriminator: Discriminator | ConvDiscriminator
        if isinstance(self.model_space, Image):
            self.generator = ConvGenerator(chosen.latent, chosen.generator, shape, condition_width=chosen.condition_width, **maker)
            self.discriminator = ConvDiscriminator(shape, chosen.discriminator, **judge)
        else:
            self.generator = Generator(chosen.latent, chosen.generator, shape, condition_width=chosen.condition_width, **maker)
            self.discriminator = Discriminator(shape, chosen.discriminator, **judge)
        self.watch = Spread(space) if condition is None or isinstance(condition, Labels) else None

    @property
    def kind(self) -> Density | None:
        return None

    @property
    def accepts(self) -> Support:
        wanted = self.config.network
        if wanted == "auto":
            wanted = "conv" if presets.convolutional(self.space) else "mlp"
        return Support((Image if wanted == "conv" else Vector,), bounded="scale", standardise=True, condition=(Labels, Vector))

    def phases(self) -> list[Phase]:
        config, betas = self.config, (self.config.beta1, 0.9)
        critic, maker = (Optim("adam", rate, betas) for rate in (config.discriminator_lr, config.generator_lr))
        players: list[Phase] = [
            Gradient("discriminator", loss="discriminator_loss", params="discriminator.", repeat=config.updates, optimizer=critic),
            Gradient("generator", loss="generator_loss", params="generator.", optimizer=maker),
        ]
        return players if self.watch is None else [*players, ClosedForm("spread", accumulate="pass_by", solve="compare", when="end")]

    def initialise(self, sample: Batch) -> None:
        """Statistics of the conditions, and the distances within the training rows."""
        self.generator.features.fit(sample.condition)
        self.discriminator.features.fit(sample.condition)
        if self.watch is not None:
            self.watch.fit(sample.x)

    def discriminator_loss(self, batch: Batch) -> Tensor:
        """The objective on pairs of a real and a generated example, and the penalties, shape (n,); no gradient reaches the generator."""
        config, c = self.config, batch.condition
        real, _ = self.to_model_space(batch.x)
        with torch.no_grad():
            fake = self.seen(self.generator(self._noise(len(batch)), c)).to(real.dtype)
        real = self.seen(real)
        weight = config.penalty_at_data
        if weight:
            with torch.enable_grad():
                real = real.detach().requires_grad_()
                on_real, on_fake = self.discriminator(real, c), self.discriminator(fake, c)
                loss = discriminator_terms(config.objective, on_real, on_fake) + 0.5 * weight * zero_centred(on_real, real)
        else:
            both = None if c is None else cat([c, c])
            on_real, on_fake = self.discriminator(torch.cat([real, fake]), both).chunk(2)
            loss = discriminator_terms(config.objective, on_real, on_fake)
        if config.objective == "wasserstein" and config.gradient_penalty:
            loss = loss + config.gradient_penalty * self.slope_penalty(real, fake, c)
        self._note_scores(on_real.detach(), on_fake.detach())
        return loss  # type: ignore[no-any-return]

    def generator_loss(self, batch: Batch) -> Tensor:
        """How little the discriminator takes generated examples for real, shape (n,)."""
        fake = self.seen(self.generator(self._noise(len(batch)), batch.condition))
        return generator_terms(self.config.objective, self.discriminator(fake, batch.condition))

    def slope_penalty(self, real: Tensor, fake: Tensor, condition: Value | None) -> Tensor:
        """(|gradient of the discriminator| - 1)^2 at a random place between each real and generated example in model space, shape (n,)."""
        return one_centred(lambda z: self.discriminator(z, condition), real, fake)

    def seen(self, z: Tensor) -> Tensor:
        """What the discriminator sees of examples in model space, real or generated: augmented pictures."""
        if not self.config.augment:
            return z
        assert isinstance(self.space, Image)
        return augmented(z.reshape(-1, *self.space.size), self.config.augment).reshape(z.shape)

    def _note_scores(self, real: Tensor, fake: Tensor) -> None:
        odds = self.config.objective == "non-saturating"
        for name, scores in (("real", real), ("fake", fake)):
            self.note(name, torch.sigmoid(scores) if odds else scores)
        if self.config.objective != "wasserstein":
            self.note("accuracy", torch.cat([real > 0, fake < 0]).to(real.dtype))

    def pass_by(self, batch: Batch) -> None:
        """The comparison at the end needs no row: what it needs of them was taken at the start."""

    def compare(self) -> Progress:
        """Compare distances within generated examples and training rows; warns where the generator has collapsed."""
        assert self.watch is not None
        n = self.watch.rows
        if not n:
            return Progress(converged=True)
        with self.evaluating(None), torch.no_grad():
            labels = None
            if self.condition is not None:
                labels = torch.multinomial(self.condition_frequencies, n, replacement=True)
            return Progress(self.watch.compare(self.finish(self.generator(self._noise(n), labels))), converged=True)

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


def _check(config: GANConfig, space: Space) -> None:
    """Refuse networks and augmentations that the space has no use for."""
    if config.augment and not (isinstance(space, Image) and space.ordinal):
        raise InvalidInput(f"model.augment = {','.join(config.augment)} changes pictures, and {space} holds none; leave it out.")
    picture = presets.convolutional(space)
    if config.network == "conv" and not picture:
        smallest = presets.SMALLEST
        raise InvalidInput(f"network = 'conv' needs pictures of at least {smallest} x {smallest}, not {space}; choose --model.network mlp.")
    if config.network != "mlp" and picture:
        assert isinstance(space, Image)
        levels, most = max(len(config.generator), len(config.discriminator)), min(space.size[1:]).bit_length() - 1
        if not (config.generator and config.discriminator) or levels > most:
            raise InvalidInput(
                f"{len(config.generator)} and {len(config.discriminator)} levels of convolutions (generator, discriminator) do not fit {space}: each "
                f"halves its sides; give each 1 to {most} widths, or choose --model.network mlp."
            )
