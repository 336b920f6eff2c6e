"""Small models for the tests of training: one gradient phase, two gradient phases, closed form, and mixed."""

from dataclasses import dataclass

import torch
from torch import nn

from manykin.config import Config, option
from manykin.contract import EXACT, ClosedForm, GenerativeModel, Gradient, Optim, Preset, Progress
from manykin.data.dataset import Dataset, Rows
from manykin.models import get
from manykin.random import generator
from manykin.spaces import Labels, Vector
from manykin.transforms import Support


@dataclass(frozen=True)
class WidthConfig(Config):
    width: int = option(16, "hidden units", ge=1)


class GradientGaussian(GenerativeModel):
    """A diagonal Gaussian, fitted by gradient."""

    kind = EXACT
    accepts = Support((Vector,), condition=(Labels,))

    def __init__(self, config, space, condition=None):
        super().__init__(config, space, condition)
        self.mean = nn.Parameter(torch.full(self.model_space.shape, 0.5))
        self.log_std = nn.Parameter(torch.ones(self.model_space.shape))

    def _log_prob(self, z, condition):
        return torch.distributions.Normal(self.mean, self.log_std.exp()).log_prob(z).sum(1)

    def _sample(self, n, condition, sampler):
        return self.mean + self.log_std.exp() * torch.randn(n, *self.model_space.shape)


class NoisyFlow(GenerativeModel):
    """Two affine couplings, trained on noisy data, with dropout and a running statistic: everything that a resume could lose."""

    config_class = WidthConfig
    kind = EXACT
    accepts = Support((Vector,))

    def __init__(self, config, space, condition=None):
        super().__init__(config, space, condition)
        half = self.model_space.size // 2
        self.half = half
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(half, self.config.width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(self.config.width, 2 * half)) for _ in range(2)
        )
        self.register_buffer("running", torch.zeros(()))

    def _log_prob(self, z, condition):
        total = torch.zeros(len(z), dtype=z.dtype)
        for net in self.nets:
            a, b = z[:, : self.half], z[:, self.half :]
            shift, scale = net(a).chunk(2, dim=1)
            scale = scale.tanh()
            z, total = torch.cat([(b - shift) * torch.exp(-scale), a], dim=1), total - scale.sum(1)
        return total + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)

    def loss(self, batch):
        z, ldj = self.to_model_space(batch.x)
        z = z + 0.05 * torch.randn_like(z)
        if self.training:
            self.running.mul_(0.9).add_(0.1)
        self.note("spread", z.std())
        return -(self._log_prob(z, None) + ldj)

    def _sample(self, n, condition, sampler):
        z = torch.randn(n, *self.model_space.shape)
        for net in reversed(self.nets):
            y, a = z[:, : self.half], z[:, self.half :]
            shift, scale = net(a).chunk(2, dim=1)
            z = torch.cat([a, y * torch.exp(scale.tanh()) + shift], dim=1)
        return z


class TinyGan(GenerativeModel):
    """Two gradient phases with two updates of the discriminator a step, and a third, lazy one on its parameters."""

    config_class = WidthConfig
    kind = None
    accepts = Support((Vector,))

    def __init__(self, config, space, condition=None):
        super().__init__(config, space, condition)
        size, width = self.model_space.size, self.config.width
        self.generator = nn.Sequential(nn.Linear(4, width), nn.LeakyReLU(), nn.Linear(width, size))
        self.discriminator = nn.Sequential(nn.Linear(size, width), nn.LeakyReLU(), nn.Linear(width, 1))

    def phases(self):
        return [
            Gradient("discriminator", "discriminator_loss", "discriminator", repeat=2, optimizer=Optim(lr=2e-3, betas=(0.5, 0.9))),
            Gradient("generator", "generator_loss", "generator", optimizer=Optim(lr=1e-3, betas=(0.5, 0.9))),
            Gradient("penalty", "penalty", "discriminator", every=4),
        ]

    def discriminator_loss(self, batch):
        z, _ = self.to_model_space(batch.x)
        fake = self.generator(torch.randn(len(z), 4))
        return (nn.functional.softplus(-self.discriminator(z)) + nn.functional.softplus(self.discriminator(fake)))[:, 0]

    def generator_loss(self, batch):
        return nn.functional.softplus(-self.discriminator(self.generator(torch.randn(len(batch), 4))))[:, 0]

    def penalty(self, batch):
        z, _ = self.to_model_space(batch.x)
        z = z.requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(z).sum(), z, create_graph=True)
        return gradient.square().sum(1)

    def _sample(self, n, condition, sampler):
        return self.generator(torch.randn(n, 4))


@dataclass(frozen=True)
class MixtureConfig(Config):
    components: int = option(3, "components", ge=1)
    epochs: int = option(30, "passes", ge=1)
    tolerance: float = option(1e-5, "gain of the log-likelihood under which it has converged", ge=0)


class TinyMixture(GenerativeModel):
    """A mixture of unit-free diagonal Gaussians by EM; the rows that start it are a size."""

    config_class = MixtureConfig
    kind = EXACT
    accepts = Support((Vector,), standardise=False)

    def __init__(self, config, space, condition=None):
        super().__init__(config, space, condition)
        k, d = self.config.components, self.model_space.size
        for name, shape in (("counts", (k,)), ("sums", (k, d)), ("squares", (k, d)), ("total", ())):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("weights", torch.full((k,), 1.0 / k, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(k, d, dtype=torch.float64))
        self.register_buffer("variances", torch.ones(k, d, dtype=torch.float64))
        self.register_buffer("before", torch.tensor(-torch.inf, dtype=torch.float64))
        self.register_buffer("start_rows", torch.zeros(0, d, dtype=torch.float64))

    def allocate(self, sizes):
        super().allocate(sizes)
        self.start_rows = torch.zeros(sizes["rows"], self.model_space.size, dtype=torch.float64)

    def initialise(self, sample):
        z, _ = self.to_model_space(sample.x)
        self.allocate({"rows": min(7, len(z))})
        self.start_rows.copy_(z[: self.sizes["rows"]])
        self.means.copy_(z[torch.randperm(len(z))[: self.config.components]])

    def phases(self):
        return [ClosedForm("em", statistics=("counts", "sums", "squares", "total"), max_epochs=self.config.epochs)]

    def _joint(self, z):
        z = z.double()[:, None]
        return (torch.distributions.Normal(self.means, self.variances.sqrt()).log_prob(z)).sum(2) + self.weights.log()

    def accumulate(self, batch):
        z, _ = self.to_model_space(batch.x)
        joint = self._joint(z)
        r = joint.softmax(1)
        self.counts += r.sum(0)
        self.sums += r.T @ z.double()
        self.squares += r.T @ z.double() ** 2
        self.total += joint.logsumexp(1).sum()

    def solve(self):
        n = self.counts.sum()
        mean = self.total / n
        converged = bool(mean - self.before < self.config.tolerance)
        self.before.copy_(mean)
        self.weights.copy_(self.counts / n)
        self.means.copy_(self.sums / self.counts[:, None])
        self.variances.copy_((self.squares / self.counts[:, None] - self.means**2).clamp(min=1e-3))
        return Progress({"log_likelihood": float(mean)}, converged)

    def _log_prob(self, z, condition):
        return self._joint(z).logsumexp(1)

    def _sample(self, n, condition, sampler):
        which = torch.multinomial(self.weights, n, replacement=True)
        return self.means[which] + self.variances[which].sqrt() * torch.randn(n, self.model_space.size)


class CodedGaussian(GenerativeModel):
    """A scale learned by gradient, a mean by a pass at every epoch, and a count of rows by a closing pass."""

    kind = EXACT
    accepts = Support((Vector,), standardise=False)

    def __init__(self, config, space, condition=None):
        super().__init__(config, space, condition)
        self.log_std = nn.Parameter(torch.zeros(self.model_space.size))
        self.register_buffer("mean", torch.zeros(self.model_space.size, dtype=torch.float64))
        self.register_buffer("sum", torch.zeros(self.model_space.size + 1, dtype=torch.float64), persistent=False)
        self.register_buffer("closing", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def phases(self):
        return [
            Gradient("scale", params="log_std"),
            ClosedForm("mean", "add", "centre", ("sum",), max_epochs=1000),
            ClosedForm("closing", "look", "close", ("seen",), when="end"),
        ]

    def add(self, batch):
        z, _ = self.to_model_space(batch.x)
        self.sum += torch.cat([z.double().sum(0), torch.tensor([len(z)])])

    def centre(self):
        self.mean.copy_(self.sum[:-1] / self.sum[-1])
        return Progress({"rows": float(self.sum[-1])})

    def look(self, batch):
        self.seen += len(batch)

    def close(self):
        self.closing.copy_(torch.stack([self.seen, self.log_std.double().sum()]))
        return Progress()

    def _log_prob(self, z, condition):
        return torch.distributions.Normal(self.mean.float(), self.log_std.exp()).log_prob(z).sum(1)

    def _sample(self, n, condition, sampler):
        return self.mean + self.log_std.exp() * torch.randn(n, self.model_space.size)


def blobs(n=600, val=None, d=2, seed=0):
    """Three blobs, float32."""
    source = generator(seed, "blobs")
    centres = torch.randn(3, d, generator=source) * 3
    x = centres[torch.randint(3, (n + (val or 0),), generator=source)] + 0.5 * torch.randn(n + (val or 0), d, generator=source)
    return Dataset("blobs", Vector(d), Rows(x[:n]), None if val is None else Rows(x[n:]), provenance={"sha256": f"{seed}-{n}"})


MODELS = {cls.__name__: cls for cls in (GradientGaussian, NoisyFlow, TinyGan, TinyMixture, CodedGaussian)}


def build(name, data, seed=0, **options):
    """A model with seeded initial weights: one of those above, or one of the package's by name, in its tiny preset."""
    cls = MODELS.get(name) or get(name)
    preset = cls.presets["tiny"] if name not in MODELS else Preset()
    preset = preset if isinstance(preset, Preset) else preset(data.space, len(data.train))
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = cls(cls.config_class.from_json({**preset.model, **options}), data.space, data.condition)
    torch.set_rng_state(state)
    return model
