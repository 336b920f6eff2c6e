"""What diffusion models and flow matching share: a denoiser, its training, its solvers and its likelihood."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from manykin.config import Config, option
from manykin.contract import Batch, Density, GenerativeModel, Gradient, Optim, Phase, Sampler, Support
from manykin.diffusion import (
    DDIM,
    SCHEDULES,
    Ancestral,
    Denoiser,
    DPMSolver,
    Euler,
    Guided,
    Heun,
    Known,
    NetworkDenoiser,
    Prediction,
    Schedule,
    Solver,
    flow_error,
    flow_log_prob,
    solve,
)  # fmt: skip
from manykin.errors import InvalidInput, NoDensity
from manykin.models.conditions import ConditionFeatures
from manykin.nn import TimedMLP, UNet
from manykin.random import fresh_seed, hash_seed
from manykin.spaces import Image, Labels, Space, Value, Vector

SMALLEST = 4
"""Height and width from which pictures go to a U-Net."""
EXACT_TRACE = 16
"""Up to so many entries the divergence of a likelihood is computed exactly, above it from a random direction."""


UNIFORM = 0.2
"""Share of uniform times among logit-normal ones: solvers start at the last time, where the logit-normal law has next to none."""


@dataclass(frozen=True)
class DiffusionConfig(Config):
    """Options that :class:`Diffusion` models share.

    Raises:
        InvalidInput: also for a network without a width.
    """

    network: Literal["auto", "mlp", "unet"] = option("auto", "what denoises: residual layers, or convolutions for pictures; auto takes what fits")
    hidden: tuple[int, ...] = option((128, 128, 128), "width of each block of the mlp", ge=1)
    waves: int = option(0, "octaves of sines and cosines of each entry that the mlp sees beside it; for sharp edges in few columns", ge=0, le=12)
    widths: tuple[int, ...] = option((32, 64), "channels of each resolution of the unet, the finest first", ge=1)
    blocks: int = option(1, "residual blocks of the unet at each resolution", ge=1)
    patch: int = option(1, "side of the squares of pixels that the unet folds into channels", ge=1)
    attention: bool = option(True, "whether the lowest resolution of the unet attends")
    dropout: float = option(0.0, "share of hidden units or channels that training silences", ge=0, lt=1)
    times: Literal["uniform", "logit-normal"] = option(
        "uniform", "law of the times at which the network is trained; logit-normal: four fifths around the middle"
    )
    likelihood: Literal["auto", "ode", "none"] = option(
        "auto", "whether log_prob solves the probability-flow ODE; auto: up to 16 entries, above it is slow"
    )
    ode_steps: int = option(24, "Runge-Kutta steps of the likelihood, four evaluations each", ge=1)
    label_dropout: float = option(0.1, "share of conditions that training hides, for guidance", ge=0, lt=1)
    condition_width: int = option(32, "features of a label condition", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, usual in (("hidden", "128,128,128"), ("widths", "32,64")):
            if not getattr(self, name):
                raise InvalidInput(f"model.{name} = () leaves a network without layers; expected at least one width ({usual} is usual).")


class Diffusion(GenerativeModel):
    """Base of the models that learn to remove noise; a subclass chooses schedule, prediction and defaults.

    Training draws a time for each example and minimises the mean squared error of the network's target there. Sampling walks from noise to data with
    any of the solvers. The likelihood is that of the probability-flow ODE, an estimate: its integrator has an error, and it stops at the schedule's
    first time instead of 0. Cost: an evaluation of the network a step; training costs nothing more than one evaluation an example.
    """

    family = "diffusion"
    samplers: ClassVar[tuple[type[Sampler], ...]] = (Heun, DPMSolver, DDIM, Euler, Ancestral)
    own_sampler: ClassVar[Solver] = Heun()
    sample_block = 64

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        wanted = "auto" if config is None else getattr(config, "network", "auto")
        if wanted == "unet" and not (isinstance(space, Image) and min(space.size[1:]) >= SMALLEST):
            raise InvalidInput(f"network = 'unet' needs pictures of at least {SMALLEST} x {SMALLEST}, not {space}; choose --model.network mlp.")
        super().__init__(config, space, condition)
        options: DiffusionConfig = self.config
        self.features = ConditionFeatures(condition, options.condition_width)
        hides = self.features.width > 0 and options.label_dropout > 0
        self.hidden = nn.Parameter(torch.zeros(self.features.width)) if hides else None
        shape = self.model_space.shape
        network: nn.Module
        if isinstance(self.model_space, Image):
            network = UNet(
                shape[0], options.widths, blocks=options.blocks, context=self.features.width, patch=options.patch, attention=options.attention,
                dropout=options.dropout,
            )  # fmt: skip
        else:
            network = TimedMLP(shape[0], options.hidden, self.features.width, options.dropout, options.waves)
        self.denoiser = NetworkDenoiser(network, self.schedule(), self.prediction())

    def schedule(self) -> Schedule:
        """How data turn into noise."""
        return SCHEDULES[self.config.schedule]()

    def prediction(self) -> Prediction:
        """What the network predicts."""
        found: Prediction = self.config.prediction
        return found

    @property
    def accepts(self) -> Support:
        kinds: dict[str, tuple[type[Space], ...]] = {"mlp": (Vector,), "unet": (Image,), "auto": (Image, Vector)}
        wanted = self.config.network
        if wanted == "auto" and isinstance(self.space, Image) and min(self.space.size[1:]) < SMALLEST:
            wanted = "mlp"
        return Support(kinds[wanted], bounded="scale", standardise=True, condition=(Labels, Vector))

    @property
    def kind(self) -> Density | None:
        size = torch.Size(self.model_space.shape).numel()
        wanted = self.config.likelihood
        if wanted == "none" or (wanted == "auto" and size > EXACT_TRACE):
            return None
        return Density(bias="unknown", noisy=size > EXACT_TRACE)

    def phases(self) -> list[Phase]:
        return [Gradient("main", optimizer=Optim("adam", lr=1e-3))]

    def initialise(self, sample: Batch) -> None:
        """The statistics of the training conditions."""
        self.features.fit(sample.condition)

    def loss(self, batch: Batch) -> Tensor:
        """The mean squared error of the network's target at a random time, shape (n,)."""
        z, _ = self.to_model_space(batch.x)
        context = self.features(batch.condition, z.dtype)
        if context is not None and self.hidden is not None:
            shown = torch.rand(len(z), 1, device=z.device) >= self.config.label_dropout
            context = torch.where(shown, context, self.hidden.to(z.dtype))
        return self.denoiser.loss(z, self._times(len(z), z), torch.randn_like(z), context)

    def _times(self, n: int, like: Tensor) -> Tensor:
        """Training times between the schedule's first and last, evenly spread over the batch."""
        first, last = self.denoiser.schedule.first, self.denoiser.schedule.last
        share = (torch.randperm(n, device=like.device) + torch.rand(n, device=like.device)) / n
        if self.config.times == "logit-normal":
            middle = torch.sigmoid(torch.special.ndtri(share.clamp(1e-6, 1 - 1e-6)))
            share = torch.where(torch.rand(n, device=like.device) < UNIFORM, share, middle)
        return (first + (last - first) * share).to(like.dtype)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        solver = self._solver(sampler)
        noise = torch.randn(n, *self.model_space.shape, dtype=self.dtype, device=self.device)
        return _finite(solve(solver, self.given(condition, solver.guidance_scale), noise), solver)

    def _solver(self, sampler: Sampler | None) -> Solver:
        self.check_sampler(sampler)
        chosen = self.own_sampler if sampler is None else sampler
        assert isinstance(chosen, Solver)
        return chosen

    def _check_scale(self, scale: float) -> None:
        if scale != 1 and self.condition is None:
            raise InvalidInput(f"guidance_scale = {scale:g} needs a condition, and this model was fitted without one; leave it out.")
        if scale != 1 and self.hidden is None:
            raise InvalidInput(f"guidance_scale = {scale:g} needs a model that was trained with --model.label_dropout above 0; leave it at 1.")

    def given(self, condition: Value | None, scale: float = 1.0) -> Denoiser:
        """The denoiser in model space of points under these conditions, guided by ``scale``; 0 forgets the conditions.

        Raises:
            InvalidInput: for a scale other than 1 where no condition is known, or none was ever hidden in training.
        """
        self._check_scale(scale)
        context = self.features(condition, self.dtype)
        own = self.denoiser.given(context)
        if scale == 1 or context is None:
            return own
        assert self.hidden is not None
        return Guided(own, self.denoiser.given(self.hidden.expand_as(context)), scale)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        if self.kind is None:
            return super()._log_prob(z, condition)
        differentiable = torch.is_grad_enabled() and z.requires_grad
        return flow_log_prob(self.given(condition), z, steps=self.config.ode_steps, trace=self._trace(self.kind), differentiable=differentiable)

    def _trace(self, kind: Density) -> Literal["exact", "hutchinson"]:
        return "hutchinson" if kind.noisy else "exact"

    def integration_error(self, x: Value, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        """How far the integrator's steps carry :meth:`log_prob` off, in nats, shape (n,), an estimate: see :func:`manykin.diffusion.flow_error`.

        Half as dear again as log_prob. Of what the network has not learnt, and of a random direction, it knows nothing.

        Raises:
            NoDensity: where the likelihood is off.
            InvalidInput: as for log_prob, and for a model with ``ode_steps`` 1, which has no half.
        """
        kind = self.kind
        if kind is None:
            raise NoDensity(f"{type(self).__name__} has no density here, and so no integration error; fit with --model.likelihood ode.")
        with self.evaluating(seed):
            z, _, c = self.prepare(x, condition)
            return flow_error(self.given(c), z.detach(), steps=self.config.ode_steps, trace=self._trace(kind))

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """x with the entries where ``known`` (boolean, shape of x) is False replaced by draws given the known ones: inpainting.

        Known entries are put into every guess, and noisy points are drawn again given their guess several times a step, so that both parts agree
        (:class:`manykin.diffusion.Known`). An approximation: the network was not trained to know anything. Of ``sampler`` only the number of steps
        and the guidance scale count: half as many steps are taken, each six times with two evaluations.

        Raises:
            InvalidInput: for a mask of another shape, values outside the space, or a sampler that is none of :attr:`samplers`.
        """
        solver = self._solver(sampler)
        with self.evaluating(hash_seed(fresh_seed() if seed is None else seed, "complete")):
            z, _, c = self.prepare(x, condition)
            assert isinstance(x, Tensor)
            if known.shape != x.shape or known.dtype != torch.bool:
                raise InvalidInput(f"known is {known.dtype} of shape {tuple(known.shape)}; expected booleans of the shape of x, {tuple(x.shape)}.")
            denoiser = Known(self.given(c, solver.guidance_scale), z, known.to(z.device).reshape(z.shape))
            filled = self.finish(_finite(denoiser.solve(-(-solver.num_inference_steps // 2), torch.randn_like(z)), solver))
        assert isinstance(filled, Tensor)
        return torch.where(known.to(filled.device), x.to(filled.device), filled.to(x.dtype))


def _finite(z: Tensor, solver: Solver) -> Tensor:
    """Samples that are numbers; otherwise the guidance is named where there is some, and what the contract says of training holds elsewhere."""
    if solver.guidance_scale != 1 and not torch.isfinite(z).all():
        raise InvalidInput(
            f"guidance_scale = {solver.guidance_scale:g} leads to NaN or infinity; choose a lower one: 1 is the model as it is, 2 to 4 are usual."
        )
    return z
