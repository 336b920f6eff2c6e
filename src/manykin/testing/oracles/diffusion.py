"""A Gaussian that is drawn by removing noise: the smallest diffusion model, with the exact denoiser as its network."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from manykin.contract import Batch, Config, Density, GenerativeModel, Gradient, Phase, Preset, Sampler, Support
from manykin.diffusion import Cosine, Denoiser, DPMSolver, Guided, Heun, Known, NetworkDenoiser, Schedule, Solver, flow_log_prob, solve
from manykin.errors import InvalidInput
from manykin.random import fresh_seed, hash_seed
from manykin.spaces import Labels, Space, Value, Vector
from manykin.testing.oracles.support import FAST, check_mask


class GaussianNetwork(nn.Module):
    """The v that a Gaussian N(m_c, L L^T) implies, of points (n, size), times (n,) and means m_c (n, size)."""

    def __init__(self, size: int, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.factor = nn.Parameter(0.6 * torch.eye(size) + 0.1 * torch.randn(size, size))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        cover = self.factor @ self.factor.T
        values, turn = torch.linalg.eigh(cover)
        rest = (x - alpha * context) @ turn
        x0 = context + (alpha * values / (alpha**2 * values + sigma**2) * rest) @ turn.T
        v: Tensor = alpha * (x - alpha * x0) / sigma - sigma * x0
        return v


class DenoisingOracle(GenerativeModel):
    """Trained by the squared error of its guess of the data behind noisy points, drawn by Heun's method, scored by its probability flow."""

    presets: ClassVar[Mapping[str, Preset | Callable[..., Preset]]] = {"default": Preset(train={"ema": 0.9})}
    samplers: ClassVar[tuple[type[Sampler], ...]] = (Heun, DPMSolver)

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        size = self.model_space.shape[0]
        self.classes = condition.classes if isinstance(condition, Labels) else 0
        self.means = nn.Parameter(0.3 * torch.randn(self.classes + 1, size))
        self.denoiser = self.network(size)

    def network(self, size: int) -> NetworkDenoiser:
        """The denoiser of points with so many entries."""
        return NetworkDenoiser(GaussianNetwork(size, Cosine()), Cosine(), "v")

    @property
    def kind(self) -> Density | None:
        return Density(bias="unknown")

    @property
    def accepts(self) -> Support:
        return Support((Vector,), condition=(Labels,))

    def phases(self) -> Sequence[Phase]:
        return [Gradient("main", optimizer=FAST)]

    def context(self, condition: Value | None, n: int) -> Tensor:
        """The means of n points: those of their classes, and the last one for none."""
        return self.means[condition] if isinstance(condition, Tensor) else self.means[-1].expand(n, -1)

    def hide(self, condition: Value | None, n: int) -> Tensor:
        """The means that training shows: for one example in five that of no class."""
        shown = torch.rand(n, 1, device=self.device) >= 0.2
        return torch.where(shown, self.context(condition, n), self.context(None, n))

    def loss(self, batch: Batch) -> Tensor:
        z, _ = self.to_model_space(batch.x)
        schedule, n = self.denoiser.schedule, len(z)
        t = schedule.first + (schedule.last - schedule.first) * (torch.arange(n) + torch.rand(n))[torch.randperm(n)] / n
        return self.denoiser.loss(z, t.to(z), torch.randn_like(z), self.hide(batch.condition, n))

    def given(self, condition: Value | None, scale: float = 1.0) -> Denoiser:
        """The denoiser of points under these conditions, guided by ``scale``."""
        if scale != 1 and not self.classes:
            raise InvalidInput(f"guidance_scale = {scale:g} needs a condition, and this model was fitted without one; leave it out.")
        n = len(condition) if isinstance(condition, Tensor) else 1
        own = self.denoiser.given(self.context(condition, n))
        return own if scale == 1 else Guided(own, self.denoiser.given(self.context(None, n)), scale)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        solver = sampler if isinstance(sampler, Solver) else Heun(num_inference_steps=12)
        return solve(solver, self.given(condition, solver.guidance_scale), torch.randn(n, *self.model_space.shape, dtype=self.dtype))

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        wanted = torch.is_grad_enabled() and z.requires_grad
        return flow_log_prob(self.given(condition), z, steps=8, differentiable=wanted)

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        z, _, c = self.prepare(x, condition)
        assert isinstance(x, Tensor)
        mask = check_mask(known, x)
        with self.evaluating(hash_seed(fresh_seed() if seed is None else seed, "complete")):
            filled = self.finish(Known(self.given(c), z, mask, repeats=8).solve(12, torch.randn_like(z)))
        assert isinstance(filled, Tensor)
        return torch.where(known, x, filled.to(x.dtype))
