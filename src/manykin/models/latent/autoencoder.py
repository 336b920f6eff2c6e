"""The autoencoder: deterministic codes, and a density that is fitted to them when training has ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from manykin.config import Config, option
from manykin.contract import Batch, ClosedForm, Density, Gradient, Optim, Phase, Preset, Progress, Sampler, Support
from manykin.models.columns import ColumnLikelihood
from manykin.models.conditions import ConditionFeatures
from manykin.models.latent.codes import STATISTICS, CodeDensity
from manykin.models.latent.networks import CodingConfig, CodingModel, RowDecoder, RowEncoder, convolutional, few_or_large, picture_of
from manykin.models.latents import Point, check_latents
from manykin.random import fresh_seed, seeded
from manykin.spaces import Image, Labels, Space, Table, Value, columns_of


@dataclass(frozen=True)
class AutoencoderConfig(CodingConfig):
    """Options of :class:`Autoencoder`."""

    error: Literal["auto", "squared"] = option(
        "auto", "of columns with an order: auto is cross-entropy for two values, else squared; categories have cross-entropy"
    )
    noise: float = option(0.0, "denoising: deviation of the normal noise that training adds to the standardised inputs", ge=0)
    penalty: float = option(0.001, "weight of half the squared norm of a code in the loss, which keeps codes together", ge=0)
    prior: Literal["gaussian", "mixture"] = option("mixture", "density that is fitted to the codes, from which samples are decoded")
    components: int = option(10, "mixture only: components at most, of each class if conditional", ge=1)
    max_iter: int = option(20, "mixture only: passes over the data at most", ge=1)


def _default(space: Space, n: int) -> Preset:
    """For few columns fewer latents than columns; for pictures as many as a density can still be fitted to."""
    size = torch.Size(space.shape).numel()
    train = {"max_steps": 2000, "batch_size": 128, "lr": 2e-3, "schedule": "cosine", "warmup": 50, "clip": 10.0, "ema": 0.99}
    if size <= 16:
        return Preset({"latent": max(1, (size + 1) // 2), "hidden": (128, 128)}, train)
    model = {"latent": 16, "hidden": (256, 256), "noise": 0.3 if n < 20_000 else 0.0}
    pictures, fewer = convolutional(space)
    return Preset({**model, **pictures, "latent": 16}, {**(train if n < 20_000 else {**train, "max_steps": 10_000}), **fewer})


def _cpu(space: Space, n: int) -> Preset:
    """For many pictures of 28 x 28 in minutes on two cores: convolutions in bfloat16."""
    if few_or_large(space, n):
        return _default(space, n)
    train = {"max_steps": 6000, "batch_size": 128, "lr": 2e-3, "schedule": "cosine", "warmup": 100, "clip": 10.0, "ema": 0.998, "precision": "bf16"}
    return Preset({"latent": 16}, train)


class Autoencoder(CodingModel):
    """h = f(x) in few numbers, and x from them: ``min E[error(x, g(f(x)))]``; new examples are g(h) with h from a density fitted to the codes.

    Codes are learned by reconstruction alone (Rumelhart, Hinton and Williams, Learning internal representations by error propagation, 1986), of
    noisy inputs where ``noise`` is set (Vincent et al., Extracting and composing robust features with denoising autoencoders, 2008, equation 5),
    with ``penalty / 2 * |h|^2`` that keeps codes together (Ghosh et al., From variational to deterministic autoencoders, 2020, equation 9). When
    training has ended, one or several passes over the data fit a Gaussian, or a mixture of up to ``components`` Gaussians, to the codes (section 4
    there), for each class where there are labels. With linear networks and squared error the codes span the principal components (Baldi and Hornik,
    Neural networks and principal component analysis, 1989).

    Errors of ordered columns are ``(t - t')^2 / 2`` of standardised values, pixels sharing one scale; those of two values and of categories are
    cross-entropies. Implicit: it samples, encodes and decodes, and has no density over data, since all examples that it makes lie on a surface of
    ``latent`` dimensions. Cost: one pass of each network an example; a pass of the encoder over all rows for each iteration of the mixture.

    Training notes ``reconstruction``, the error in nats, and ``code_norm``, the squared norm of a code.
    """

    config_class = AutoencoderConfig
    family = "latent"
    paper = "Ghosh, Sajjadi, Vergari, Black and Schölkopf, From variational to deterministic autoencoders, 2020"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {
        "default": _default,
        "cpu": _cpu,
        "tiny": Preset({"latent": 4, "hidden": (32,), "widths": (8,), "components": 3}, {"max_steps": 100, "batch_size": 128, "lr": 5e-3}),
    }

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        options = self.config
        self.features = ConditionFeatures(condition, options.condition_width)
        self.likelihood = ColumnLikelihood(columns_of(self.model_space), "error" if options.error == "auto" else "squared")
        picture, extra = picture_of(space, options), self.features.width
        self.encoder = RowEncoder(self.likelihood, picture, extra, options.latent, options)
        self.decoder = RowDecoder(self.likelihood, picture, extra, options)
        components = options.components if options.prior == "mixture" else 1
        self.codes = CodeDensity(options.latent, components, condition.classes if isinstance(condition, Labels) else 1)

    @property
    def kind(self) -> Density | None:
        return None

    @property
    def accepts(self) -> Support:
        return Support((Table,), missing=True, condition=(Labels,))

    def phases(self) -> list[Phase]:
        passes = 1 + (self.config.max_iter if self.config.prior == "mixture" else 0)
        statistics = tuple(f"codes.{name}" for name in STATISTICS)
        return [
            Gradient("main", optimizer=Optim("adam", lr=1e-3)),
            ClosedForm("codes", "add_codes", "fit_codes", statistics, when="end", max_epochs=passes),
        ]

    def initialise(self, sample: Batch) -> None:
        """Statistics of columns and conditions; the decoder starts from the columns' means and marginals; no density of codes yet."""
        self.codes.reset()
        self.features.fit(sample.condition)
        x, _ = self.to_model_space(sample.x)
        start = self.likelihood.start(x.double())
        if isinstance(self.space, Image):
            # Of pixels that hardly vary a scale of their own would make noise as dear as strokes.
            scale = self.likelihood.scale
            scale.fill_(float(scale.square().mean().sqrt()))
        self.decoder.start(start)

    def loss(self, batch: Batch) -> Tensor:
        """The error of the reconstruction and the penalty of the code, shape (n,)."""
        x, _ = self.to_model_space(batch.x)
        context = self.features(batch.condition, self.dtype)
        inputs = self.likelihood.features(x, self.dtype)
        if self.config.noise and self.training:
            inputs = inputs + self.config.noise * torch.randn_like(inputs)
        h = self.encoder(inputs, context).to(self.dtype)
        error, norm = -self.likelihood.log_prob(self.decoder(h, context), x), h.square().sum(dim=1)
        self.note("reconstruction", error)
        self.note("code_norm", norm)
        total: Tensor = error + 0.5 * self.config.penalty * norm
        return total

    def _encode(self, z: Tensor, condition: Value | None) -> Tensor:
        h: Tensor = self.encoder(self.likelihood.features(z, self.dtype), self.features(condition, self.dtype))
        return h

    def add_codes(self, batch: Batch) -> None:
        """Encode these rows, and add the moments of their codes."""
        with self.evaluating(None):
            for z, c in self.parts(batch):
                assert c is None or isinstance(c, Tensor)
                self.codes.accumulate(self._encode(z, c), c)

    def fit_codes(self) -> Progress:
        """The density of the codes from their moments."""
        return self.codes.solve()

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        assert condition is None or isinstance(condition, Tensor)
        h = self.codes.sample(n, condition).to(self.dtype)
        return self.likelihood.mode(self.decoder(h, self.features(condition, self.dtype)))

    @torch.no_grad()
    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        """The code of each example, a point of shape (latent,)."""
        with self.evaluating(None):
            z, _, c = self.prepare(x, condition)
            return Point(self._encode(z, c))

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        """n draws of the fitted density of codes, shape (n, latent); of a conditional model for classes drawn by their training frequencies."""
        with seeded(fresh_seed() if seed is None else seed):
            labels = torch.multinomial(self.condition_frequencies, n, replacement=True) if self.condition is not None else None
            return self.codes.sample(n, labels).to(self.dtype)

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        """What codes h (n, latent) stand for, the most probable value of each column: valid data; differentiable where h asks for gradients."""
        h = check_latents(h, self.config.latent)
        with torch.set_grad_enabled(torch.is_grad_enabled() and h.requires_grad), self.evaluating(None):
            c = self.check_condition(condition, len(h))
            return self.finish(self.likelihood.mode(self.decoder(h.to(self.device, self.dtype), self.features(c, self.dtype))))
