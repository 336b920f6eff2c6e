"""The variational autoencoder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from manykin.config import Config, option
from manykin.contract import LOWER_BOUND, Batch, Density, GenerativeModel, Gradient, Optim, Phase, Preset, Sampler, Support
from manykin.models.columns import ColumnLikelihood
from manykin.models.conditions import ConditionFeatures, join
from manykin.models.latents import check_latents
from manykin.nn import MLP
from manykin.random import fresh_seed, seeded
from manykin.spaces import Labels, Space, Table, Value, Vector, columns_of

LOG_STD_LIMIT = 8.0
"""The encoder's log standard deviations stay within plus and minus this."""

CHUNK = 2**24
"""Decoder outputs held at once by :meth:`VAE.log_weights`."""


@dataclass(frozen=True)
class VAEConfig(Config):
    """Options of :class:`VAE`."""

    latent: int = option(16, "entries of the latent", ge=1)
    hidden: tuple[int, ...] = option((256, 256), "width of each hidden layer of the encoder; the decoder has them in reverse", ge=1)
    activation: Literal["silu", "relu", "tanh", "gelu"] = option("silu", "activation of the networks")
    dropout: float = option(0.0, "share of hidden units that training silences, against overfitting", ge=0, lt=1)
    likelihood: Literal["auto", "categorical", "bernoulli", "discretised-logistic", "gaussian"] = option(
        "auto", "distribution of a column with a grid given the latent; continuous columns are gaussian"
    )
    variance: Literal["output", "column"] = option("output", "whether scales are emitted for each example or learned once a column")
    beta: float = option(1.0, "weight of the KL term in the loss; only 1 trains the bound itself", ge=0)
    warmup: float = option(0.0, "share of training over which the weight of the KL term rises from 0 to beta", ge=0, lt=1)
    condition_width: int = option(16, "features of a label condition", ge=1)


def _default(space: Space, n: int) -> Preset:
    """For few columns a long warm-up, without which latents collapse early; for many, dropout where rows are few. Early stopping where they are."""
    size = torch.Size(space.shape).numel()
    train = {"batch_size": 128, "lr": 2e-3, "schedule": "cosine", "warmup": 50, "clip": 10.0, "ema": 0.995} | ({"patience": 5} if n < 20_000 else {})
    if size <= 16:
        model = {"latent": max(2, size), "hidden": (128, 128), "activation": "relu", "variance": "column", "warmup": 0.375}
        return Preset(model, {**train, "max_steps": 4000} | ({"patience": 10} if n < 20_000 else {}))
    model = {"latent": 16 if size <= 128 else 32, "hidden": (256, 256), "dropout": 0.1 if n < 20_000 else 0.0}
    return Preset(model, {"max_steps": 3000 if n < 20_000 else 10_000, **train})


class VAE(GenerativeModel):
    """A latent h from a standard normal, decoded into the distribution of each column; learned with an encoder q(h | x).

    ``log p(x) >= E_q[log p(x | h)] - KL(q(h | x) || p(h))`` (Kingma and Welling, Auto-encoding variational Bayes, 2014, equation 3). The loss is
    minus this bound with its KL term in closed form (appendix B). ``log_prob`` is the logarithm of one importance weight
    ``p(x | h) p(h) / q(h | x)``, whose mean is p(x), so that :meth:`log_weights` tightens the bound (Burda, Grosse and Salakhutdinov, Importance
    weighted autoencoders, 2016). It works on columns of any kind as they are, hence no dequantisation: on pictures and integers the bound is one on
    the probability itself. Cost: one pass of each network an example, k passes of the decoder for k weights.

    Training notes ``kl`` and ``reconstruction`` in nats, and ``active_units``, the number of latents with Var_x E_q[h | x] > 0.01: zero where the
    posterior has collapsed onto the prior.
    """

    config_class = VAEConfig
    family = "latent"
    paper = "Kingma and Welling, Auto-encoding variational Bayes, 2014"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {
        "default": _default,
        "tiny": Preset({"latent": 4, "hidden": (32,)}, {"max_steps": 100, "batch_size": 128, "lr": 5e-3}),
    }

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        options = self.config
        self.features = ConditionFeatures(condition, options.condition_width)
        self.likelihood = ColumnLikelihood(columns_of(self.model_space), options.likelihood, options.variance == "column")
        extra, shape = self.features.width, {"activation": options.activation, "dropout": options.dropout}
        self.encoder = MLP(self.likelihood.inputs + extra, options.hidden, 2 * options.latent, last="small", **shape)
        self.decoder = MLP(options.latent + extra, options.hidden[::-1], self.likelihood.outputs, **shape)

    @property
    def kind(self) -> Density:
        return LOWER_BOUND

    @property
    def accepts(self) -> Support:
        return Support((Table,), missing=True, condition=(Labels, Vector))

    def phases(self) -> list[Phase]:
        return [Gradient("main", optimizer=Optim("adam", lr=1e-3))]

    def initialise(self, sample: Batch) -> None:
        """Statistics of columns and conditions; the decoder starts from the columns' marginals."""
        self.features.fit(sample.condition)
        x, _ = self.to_model_space(sample.x)
        self.decoder.last.bias.copy_(self.likelihood.start(x))

    def to_model_space(self, x: Value) -> tuple[Tensor, Tensor]:
        """Columns stay in float64 until they are standardised, so that large numbers keep their digits."""
        return self.transform(x)  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> Tensor:
        """Minus the bound with the KL term weighted by beta and its warm-up, shape (n,)."""
        x, ldj = self.to_model_space(batch.x)
        context = self.features(batch.condition, self.dtype)
        mean, log_std = self._posterior(x, context)
        std = log_std.exp()
        h = mean + std * torch.randn_like(mean)
        reconstruction = self.likelihood.log_prob(self.decoder(join(h, context)), x)
        kl = (0.5 * (mean.square() + std.square() - 1) - log_std).sum(dim=1)
        self.note("kl", kl)
        self.note("reconstruction", -reconstruction)
        self.note("active_units", (mean.detach().var(dim=0, correction=0) > 0.01).sum())
        return self._beta() * kl - reconstruction - ldj

    def _beta(self) -> float:
        warmup = float(self.config.warmup)
        return float(self.config.beta) * (min(1.0, self.progress / warmup) if warmup and self.training else 1.0)

    def _posterior(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(h | x, c), shapes (n, latent)."""
        mean, log_std = self.encoder(join(self.likelihood.features(x, self.dtype), context)).chunk(2, dim=1)
        return mean, log_std.clamp(-LOG_STD_LIMIT, LOG_STD_LIMIT)

    def _weights(self, x: Tensor, context: Tensor | None, k: int) -> Tensor:
        """k log importance weights log p(x | h) + log p(h) - log q(h | x), shape (k, n)."""
        mean, log_std = self._posterior(x, context)
        noise = torch.randn(k, *mean.shape, dtype=mean.dtype, device=mean.device)
        h = mean + log_std.exp() * noise
        prior_to_posterior = (0.5 * (noise.square() - h.square()) + log_std).sum(dim=2)
        repeated = None if context is None else context.expand(k, *context.shape)
        return self.likelihood.log_prob(self.decoder(join(h, repeated)), x) + prior_to_posterior

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return self._weights(z, self.features(condition, self.dtype), 1)[0]

    @torch.no_grad()
    def log_weights(self, x: Value, k: int, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        """k log importance weights an example in data space, shape (n, k), float64, in chunks of constant memory."""
        with self.evaluating(seed):
            z, ldj, c = self.prepare(x, condition)
            context = self.features(c, self.dtype)
            rows = max(1, CHUNK // (self.likelihood.outputs * min(k, 64)))
            blocks = []
            for begin in range(0, len(z), rows):
                part = slice(begin, begin + rows)
                inner = None if context is None else context[part]
                draws = max(1, CHUNK // (self.likelihood.outputs * len(z[part])))
                weights = [self._weights(z[part], inner, min(draws, k - done)) for done in range(0, k, draws)]
                blocks.append(torch.cat(weights).T.double() + ldj[part, None])
            return torch.cat(blocks)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        h = torch.randn(n, self.config.latent, dtype=self.dtype, device=self.device)
        return self.likelihood.sample(self.decoder(join(h, self.features(condition, self.dtype))))

    @torch.no_grad()
    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        """The approximate posterior q(h | x, c), a diagonal normal with event shape (latent,)."""
        with self.evaluating(None):
            z, _, c = self.prepare(x, condition)
            mean, log_std = self._posterior(z, self.features(c, self.dtype))
            return Independent(Normal(mean, log_std.exp()), 1)

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        """n draws of the standard normal prior, shape (n, latent)."""
        with seeded(fresh_seed() if seed is None else seed):
            return torch.randn(n, self.config.latent, dtype=self.dtype, device=self.device)

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        """The most probable value of each column given latents h (n, latent): valid data; differentiable where h asks for gradients."""
        h = check_latents(h, self.config.latent)
        with torch.set_grad_enabled(torch.is_grad_enabled() and h.requires_grad), self.evaluating(None):
            c = self.check_condition(condition, len(h))
            outputs = self.decoder(join(h.to(self.device, self.dtype), self.features(c, self.dtype)))
            return self.finish(self.likelihood.mode(outputs))
