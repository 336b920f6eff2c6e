"""The variational autoencoder."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal, Normal

from manykin.config import Config, option
from manykin.contract import LOWER_BOUND, Batch, ClosedForm, Density, Gradient, Optim, Phase, Preset, Progress, Sampler, Support
from manykin.errors import InvalidInput, ManykinWarning, Unsupported
from manykin.models.columns import ColumnLikelihood
from manykin.models.conditions import ConditionFeatures
from manykin.models.latent.networks import CodingConfig, CodingModel, RowDecoder, RowEncoder, convolutional, few_or_large, picture_of
from manykin.models.latents import check_latents
from manykin.models.likelihoods import Gaussian
from manykin.random import fresh_seed, seeded
from manykin.spaces import Labels, Space, Table, Value, Vector, columns_of

LOG_STD_LIMIT = 8.0
"""The encoder's log standard deviations stay within plus and minus this."""

CHUNK = 2**24
"""Numbers of the decoder held at once by :meth:`VAE.log_weights`."""

ACTIVE = 0.01
"""A latent is active where its posterior mean varies more than this (Burda, Grosse and Salakhutdinov, 2016, section 5.2)."""


@dataclass(frozen=True)
class VAEConfig(CodingConfig):
    """Options of :class:`VAE`."""

    likelihood: Literal["auto", "categorical", "bernoulli", "discretised-logistic", "gaussian"] = option(
        "auto", "distribution of a column with a grid given the latent; continuous columns are gaussian"
    )
    variance: Literal["output", "column"] = option("output", "whether scales are emitted for each example or learned once a column")
    beta: float = option(1.0, "weight of the KL term in the loss; only 1 trains the bound itself", ge=0)
    warmup: float = option(0.0, "share of training over which the weight of the KL term rises from 0 to beta", ge=0, lt=1)
    samples: int = option(1, "latents drawn an example in the loss; more than one trains the importance-weighted bound", ge=1)


def _default(space: Space, n: int) -> Preset:
    """For few columns a long warm-up, without which latents collapse early; for many, dropout where rows are few. Early stopping where they are."""
    size = torch.Size(space.shape).numel()
    train = {"batch_size": 128, "lr": 2e-3, "schedule": "cosine", "warmup": 50, "clip": 10.0, "ema": 0.995} | ({"patience": 5} if n < 20_000 else {})
    if size <= 16:
        model = {"latent": max(2, size), "hidden": (128, 128), "activation": "relu", "variance": "column", "warmup": 0.375}
        return Preset(model, {**train, "max_steps": 4000} | ({"patience": 10} if n < 20_000 else {}))
    model = {"latent": 16 if size <= 128 else 32, "hidden": (256, 256), "dropout": 0.1 if n < 20_000 else 0.0}
    pictures, fewer = convolutional(space)
    return Preset({**model, **pictures}, {"max_steps": 3000 if n < 20_000 else 10_000, **train, **fewer})


def _cpu(space: Space, n: int) -> Preset:
    """For many binary or grey pictures of 28 x 28 in ten minutes on two cores: the networks of the importance-weighted literature, in bfloat16."""
    if few_or_large(space, n):
        return _default(space, n)
    model = {"latent": 50, "network": "mlp", "hidden": (200, 200)}
    train = {
        "max_steps": 200_000,
        "max_time": 590,
        "batch_size": 128,
        "lr": 2e-3,
        "schedule": "cosine",
        "warmup": 200,
        "clip": 50.0,
        "ema": 0.999,
        "precision": "bf16",
    }
    return Preset(model, train)


class VAE(CodingModel):
    """A latent h from a standard normal, decoded into the distribution of each column; learned with an encoder q(h | x).

    ``log p(x) >= E_q[log p(x | h)] - KL(q(h | x) || p(h))`` (Kingma and Welling, Auto-encoding variational Bayes, 2014, equation 3). The loss is
    minus this bound with its KL term in closed form (appendix B), times ``beta`` (Higgins et al., beta-VAE, 2017, equation 4). ``log_prob`` is the
    logarithm of one importance weight ``p(x | h) p(h) / q(h | x)``, whose mean is p(x), so that :meth:`log_weights` tightens the bound; with
    ``samples`` k > 1 the loss is minus the logarithm of the mean of k such weights (Burda, Grosse and Salakhutdinov, Importance weighted
    autoencoders, 2016, equation 8), p(h) / q(h | x) to the power of ``beta``. It works on columns of any kind as they are, hence no dequantisation:
    on pictures and integers the bound is one on the probability itself. Cost: one pass of each network an example, k passes of the decoder for k
    weights.

    Training notes ``kl`` and ``reconstruction`` in nats, their sum ``bound`` whatever beta is, and ``active_units``, the number of latents with
    Var_x E_q[h | x] > 0.01 in the batch. At the end of training :attr:`activity` holds that variance over all rows, and where no unit is active,
    because the posterior has collapsed onto the prior, a warning says so.
    """

    config_class = VAEConfig
    family = "latent"
    paper = "Kingma and Welling, Auto-encoding variational Bayes, 2014"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = {
        "default": _default,
        "cpu": _cpu,
        "tiny": Preset({"latent": 4, "hidden": (32,), "widths": (8,)}, {"max_steps": 100, "batch_size": 128, "lr": 5e-3}),
    }

    activity: Tensor
    unit_rows: Tensor
    unit_sums: Tensor
    unit_squares: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        options = self.config
        self.features = ConditionFeatures(condition, options.condition_width)
        self.likelihood = ColumnLikelihood(columns_of(self.model_space), options.likelihood, options.variance == "column")
        picture, extra = picture_of(space, options), self.features.width
        self.encoder = RowEncoder(self.likelihood, picture, extra, 2 * options.latent, options)
        self.decoder = RowDecoder(self.likelihood, picture, extra, options)
        for name, size in (("activity", options.latent), ("unit_rows", 1), ("unit_sums", options.latent), ("unit_squares", options.latent)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    @property
    def kind(self) -> Density:
        return LOWER_BOUND

    @property
    def accepts(self) -> Support:
        return Support((Table,), missing=True, condition=(Labels, Vector))

    def phases(self) -> list[Phase]:
        units = ClosedForm("units", "add_units", "count_units", ("unit_rows", "unit_sums", "unit_squares"), when="end")
        return [Gradient("main", optimizer=Optim("adam", lr=1e-3)), units]

    def initialise(self, sample: Batch) -> None:
        """Statistics of columns and conditions; the decoder starts from the columns' marginals."""
        self.activity.zero_()
        self.features.fit(sample.condition)
        x, _ = self.to_model_space(sample.x)
        self.decoder.start(self.likelihood.start(x.double()))

    def loss(self, batch: Batch) -> Tensor:
        """Minus the bound with the KL term weighted by beta and its warm-up, shape (n,)."""
        x, ldj = self.to_model_space(batch.x)
        context, beta = self.features(batch.condition, self.dtype), self._beta()
        mean, log_std = self._posterior(x, context)
        kl = (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(dim=1)
        fit, ratio = self._terms(x, context, mean, log_std, self.config.samples)
        self.note("kl", kl)
        self.note("reconstruction", -fit.mean(dim=0))
        self.note("bound", kl.detach() - fit.detach().mean(dim=0))
        self.note("active_units", (mean.detach().var(dim=0, correction=0) > ACTIVE).sum())
        if self.config.samples == 1:
            return beta * kl - fit[0] - ldj
        return math.log(self.config.samples) - torch.logsumexp(fit + beta * ratio, dim=0) - ldj

    def _beta(self) -> float:
        warmup = float(self.config.warmup)
        return float(self.config.beta) * (min(1.0, self.progress / warmup) if warmup and self.training else 1.0)

    def _posterior(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(h | x, c), shapes (n, latent), in the precision of the weights."""
        mean, log_std = self.encoder(self.likelihood.features(x, self.dtype), context).to(self.dtype).chunk(2, dim=1)
        return mean, log_std.clamp(-LOG_STD_LIMIT, LOG_STD_LIMIT)

    def _terms(self, x: Tensor, context: Tensor | None, mean: Tensor, log_std: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """log p(x | h) and log p(h) - log q(h | x) for k draws of h from q(h | x), shapes (k, n)."""
        noise = torch.randn(k, *mean.shape, dtype=mean.dtype, device=mean.device)
        h = mean + log_std.exp() * noise
        repeated = None if context is None else context.expand(k, *context.shape)
        return self.likelihood.log_prob(self.decoder(h, repeated), x), (0.5 * (noise.square() - h.square()) + log_std).sum(dim=2)

    def _weights(self, x: Tensor, context: Tensor | None, k: int) -> Tensor:
        """k log importance weights log p(x | h) + log p(h) - log q(h | x), shape (k, n)."""
        fit, ratio = self._terms(x, context, *self._posterior(x, context), k)
        return fit + ratio

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return self._weights(z, self.features(condition, self.dtype), 1)[0]

    def add_units(self, batch: Batch) -> None:
        """Add up the posterior means of these rows and their squares."""
        with self.evaluating(None):
            for x, c in self.parts(batch):
                mean = self._posterior(x, self.features(c, self.dtype))[0].double()
                self.unit_rows += len(mean)
                self.unit_sums += mean.sum(dim=0)
                self.unit_squares += mean.square().sum(dim=0)

    def count_units(self) -> Progress:
        """The variance of each posterior mean over the rows, and a warning where the latent says nothing of any row."""
        mean = self.unit_sums / self.unit_rows
        self.activity.copy_((self.unit_squares / self.unit_rows - mean.square()).clamp_min(0))
        active = int((self.activity > ACTIVE).sum())
        if active == 0:
            warnings.warn(
                f"the posterior has collapsed: none of the {self.config.latent} latents is active (every Var_x E[h | x] <= {ACTIVE:g}), so a latent "
                f"says nothing of its example; lower model.beta (now {self.config.beta:g}), raise model.warmup, or train longer.",
                ManykinWarning,
                stacklevel=2,
            )
        return Progress({"active_units": float(active)}, converged=True)

    @torch.no_grad()
    def log_weights(self, x: Value, k: int, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        """k log importance weights an example in data space, shape (n, k), float64, in chunks of constant memory.

        Raises:
            InvalidInput: for k that is no integer of at least 1.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InvalidInput(f"k = {k!r} importance samples are not possible; expected an integer of at least 1.")
        with self.evaluating(seed):
            z, ldj, c = self.prepare(x, condition)
            context = self.features(c, self.dtype)
            rows = max(1, CHUNK // (self.decoder.footprint * min(k, 64)))
            blocks = []
            for begin in range(0, len(z), rows):
                part = slice(begin, begin + rows)
                inner = None if context is None else context[part]
                draws = max(1, CHUNK // (self.decoder.footprint * len(z[part])))
                weights = [self._weights(z[part], inner, min(draws, k - done)) for done in range(0, k, draws)]
                blocks.append(torch.cat(weights).T.double() + ldj[part, None])
            return torch.cat(blocks)

    @property
    def knows_marginal(self) -> bool:
        """Whether log p(x) has a closed form: of continuous columns with one scale each, and a linear decoder (``hidden = ()``)."""
        heads = [head for head, _ in self.likelihood.parts() if isinstance(head, Gaussian) and head.log_scale is not None]
        return len(heads) == len(self.likelihood.heads) and not self.likelihood.holes and self.decoder.size is None and not self.config.hidden

    @torch.no_grad()
    def exact_log_prob(self, x: Value, condition: Value | None = None) -> Tensor:
        """log p(x) of a linear model in data space, shape (n,), float64: log N(t; W c + b, V V^T + S) of standardised columns t.

        Tipping and Bishop, Probabilistic principal component analysis, 1999, equation 6, with a variance for each column.

        Raises:
            Unsupported: for a model whose :attr:`knows_marginal` is False.
        """
        if not self.knows_marginal:
            raise Unsupported(
                f"log p(x) of this vae on {self.space} has no closed form; it has for continuous columns with variance = 'column' and hidden = (): "
                "use log_weights, whose mean is p(x)."
            )
        with self.evaluating(None):
            z, ldj, c = self.prepare(x, condition)
            latent = self.config.latent
            outputs = self.decoder(torch.zeros(len(z), latent, dtype=self.dtype, device=self.device), self.features(c, self.dtype))
            head = cast(Gaussian, self.likelihood.heads[0])
            mean, log_scale = (part.double() for part in head.split(outputs.unsqueeze(-1)))
            weight = self.decoder.last.weight[:, :latent].double()
            rest = (z.double() - self.likelihood.centre) / self.likelihood.scale - mean
            normal = LowRankMultivariateNormal(torch.zeros_like(weight[:, 0]), weight, (2 * log_scale[0]).exp())
            found: Tensor = normal.log_prob(rest)  # type: ignore[no-untyped-call]
            return found - self.likelihood.scale.log().sum() + ldj

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        h = torch.randn(n, self.config.latent, dtype=self.dtype, device=self.device)
        return self.likelihood.sample(self.decoder(h, self.features(condition, self.dtype)))

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
            outputs = self.decoder(h.to(self.device, self.dtype), self.features(c, self.dtype))
            return self.finish(self.likelihood.mode(outputs))
