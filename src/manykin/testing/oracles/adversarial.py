"""An adversarial pair with all that keeps one honest: spectral normalisation, a gradient penalty, and a look at its own spread."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manykin.contract import Batch, ClosedForm, Config, Gradient, Optim, Phase, Progress
from manykin.models.collapse import Spread
from manykin.nn.spectral import linear
from manykin.spaces import Space, Value, Vector
from manykin.testing.oracles.latent import GanOracle


class CriticOracle(GanOracle):
    """An affine generator, squashed where the data are bounded, against a spectrally normalised critic with a gradient penalty."""

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        size = self.model_space.shape[0]
        bounded = isinstance(space, Vector) and space.levels is not None
        make = nn.Linear(self.noise + self.classes, size)
        self.generator = nn.Sequential(make, nn.Tanh()) if bounded else make  # type: ignore[assignment]
        self.discriminator = self.critic(size + self.classes)
        self.watch = Spread(space)

    def critic(self, inputs: int) -> nn.Sequential:
        """The critic's layers."""
        return nn.Sequential(linear(inputs, 16, spectral=True), nn.LeakyReLU(0.2), linear(16, 1, spectral=True))

    def phases(self) -> Sequence[Phase]:
        slow = Optim("adam", lr=1e-3, betas=(0.5, 0.99))
        return [
            Gradient("discriminator", "discriminator_loss", "discriminator", optimizer=slow),
            Gradient("generator", "generator_loss", "generator", optimizer=slow),
            ClosedForm("spread", "pass_by", "compare", when="end"),
        ]

    def initialise(self, sample: Batch) -> None:
        self.watch.fit(sample.x)

    def discriminator_loss(self, batch: Batch) -> Tensor:
        """The cross-entropy, and (|grad D| - 1)^2 between real and generated examples."""
        real, _ = self.to_model_space(batch.x)
        with torch.no_grad():
            fake = self.make(torch.randn(len(real), self.noise, dtype=real.dtype), batch.condition)
        return super().discriminator_loss(batch) + self.slope_penalty(real, fake, batch.condition)

    def slope_penalty(self, real: Tensor, fake: Tensor, condition: Value | None) -> Tensor:
        """(|grad D| - 1)^2 on the line between each pair (Gulrajani et al., Improved training of Wasserstein GANs, 2017, equation 3)."""
        with torch.enable_grad():
            share = torch.rand(len(real), 1, dtype=real.dtype)
            between = (share * real + (1 - share) * fake).detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.judge(between, condition).sum(), between, create_graph=True)
            return (slope.square().sum(dim=1) + 1e-12).sqrt().sub(1).square()

    def pass_by(self, batch: Batch) -> None:
        """Nothing is gathered from the rows."""

    def compare(self) -> Progress:
        """Distances within generated examples, beside those within training rows."""
        n = max(2, self.watch.rows)
        labels = torch.multinomial(self.condition_frequencies, n, replacement=True) if self.classes else None
        with torch.no_grad(), self.evaluating(None):
            made = self.finish(self.make(torch.randn(n, self.noise, dtype=self.dtype), labels))
        return Progress(self.watch.compare(made) if self.watch.rows else {}, converged=True)
