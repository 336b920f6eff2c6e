"""Checks of models that draw by denoising, and of likelihoods that are estimates."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from manykin.contract import Completes, GenerativeModel, Preset, Sampler
from manykin.diffusion import Denoises, Guess, NetworkDenoiser
from manykin.random import seeded
from manykin.spaces import Labels, Value, take
from manykin.testing.completion import conditional_counts, unknown_entry
from manykin.testing.context import Context, same_value
from manykin.testing.core import Topic, implements, is_estimated, is_repeatable, on_labels, one_tensor, require
from manykin.testing.density import partition
from manykin.testing.statistics import P_VALUE, as_columns, integrable, integrate, locate, z_score, z_threshold

check = Topic("diffusion")

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the trained times at which denoisers are looked at."""
TOLERANCE = 0.05
"""The mass by which an estimated density may differ from one, and from the shares of samples, beside the noise of both."""

APPROXIMATE = 0.35
"""The mass by which completions may differ from their law: inpainting by denoisers is an approximation, poor for networks that have learnt little."""


def denoises(model: GenerativeModel) -> bool:
    """The model holds a network that removes noise."""
    return isinstance(model, Denoises) and isinstance(model.denoiser, NetworkDenoiser)


def is_guided(model: GenerativeModel) -> bool:
    """The model is conditional on labels, and one of its samplers has a guidance scale."""
    return denoises(model) and on_labels(model) and bool(_guides(model))


def _guides(model: GenerativeModel) -> list[type[Sampler]]:
    return [kind for kind in type(model).samplers if "guidance_scale" in kind.__dataclass_fields__]


def countable_estimate(model: GenerativeModel) -> bool:
    """log_prob is an estimate without noise of its own, and the whole mass can be added up."""
    return is_estimated(model) and is_repeatable(model) and one_tensor(model) and integrable(model.space)


class _Told(nn.Module):
    """A network that is told other times than it is given, or whose times are written down."""

    def __init__(self, network: nn.Module, shuffle: bool) -> None:
        super().__init__()
        self.network, self.shuffle = network, shuffle
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        self.asked.append(t.detach())
        told = t[torch.randperm(len(t), generator=torch.Generator().manual_seed(3))] if self.shuffle else t
        return self.network(x, told, context)  # type: ignore[no-any-return]


@contextmanager
def _watched(model: GenerativeModel, shuffle: bool = False) -> Iterator[_Told]:
    """The model's network behind a witness, for a while."""
    denoiser = cast(Denoises, model).denoiser
    own = denoiser.network
    denoiser.network = witness = _Told(own, shuffle)
    try:
        yield witness
    finally:
        denoiser.network = own


@torch.no_grad()
def _noisy(ctx: Context, model: GenerativeModel, n: int) -> tuple[Tensor, Tensor, Value | None]:
    """n training rows in model space (repeated where there are fewer), standard normal noise, and their conditions."""
    rows = ctx.data.train.batch(torch.arange(n) % len(ctx.data.train))
    with seeded(1), model.evaluating(0):
        z, _, c = model.prepare(rows.x, rows.condition)
        return z, torch.randn_like(z), c


def _at(model: GenerativeModel, z: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """``alpha z + sigma noise`` at times (n,)."""
    schedule = cast(Denoises, model).denoiser.schedule
    alpha, sigma = (part(times).reshape(-1, *[1] * (z.dim() - 1)) for part in (schedule.alpha, schedule.sigma))
    return alpha * z + sigma * noise


def _trained_times(model: GenerativeModel, share: float | Tensor) -> float | Tensor:
    schedule = cast(Denoises, model).denoiser.schedule
    return schedule.first + (schedule.last - schedule.first) * share


@check(when=denoises)
def network_sees_the_time(ctx: Context) -> None:
    """The network's output at one point changes with the time that it is told, by a hundredth of its size at least."""
    model = ctx.copy()
    z, noise, c = _noisy(ctx, model, 64)
    outputs = []
    with torch.no_grad(), model.evaluating(0), _watched(model) as witness:
        middle = torch.full((64,), float(_trained_times(model, 0.5)), dtype=z.dtype)
        context: list[Tensor | None] = []
        hook = witness.network.register_forward_pre_hook(lambda _, given: context.append(given[2]))
        cast(Denoises, model).given(c)(_at(model, z, noise, middle), middle)
        hook.remove()
        for share in (0.2, 0.8):
            outputs.append(witness.network(z, torch.full_like(middle, float(_trained_times(model, share))), context[0]))
    change, size = float((outputs[0] - outputs[1]).square().mean().sqrt()), float(outputs[0].square().mean().sqrt())
    require(
        change > 0.01 * size, f"the network's output changes by {change:.3g} between two times and is {size:.3g} itself: it does not see the time"
    )


@check(when=denoises)
def right_times_help(ctx: Context) -> None:
    """Told the times of other points, the denoiser guesses otherwise, and no better.

    How much worse depends on the data: of unit normal ones the v prediction is zero at all times.
    """
    model, n = ctx.copy(), 512
    z, noise, c = _noisy(ctx, model, n)
    with torch.no_grad(), model.evaluating(0), seeded(2):
        t = cast(Tensor, _trained_times(model, 0.05 + 0.9 * torch.rand(n, dtype=z.dtype)))
        x = _at(model, z, noise, t)
        errors = []
        for shuffle in (False, True):
            with _watched(model, shuffle):
                errors.append(_error(cast(Denoises, model).given(c)(x, t), z, noise))
    more = errors[1] - errors[0]
    require(bool(more.any()), "told wrong times, the denoiser guesses the same: it does not look at them")
    score = z_score(more)
    require(score > -z_threshold(), f"told wrong times, the denoiser guesses better than told the right ones ({-score:.1f} standard errors)")


def _error(guess: Guess, z: Tensor, noise: Tensor) -> Tensor:
    """The squared error of data and noise, bounded so that few rows cannot decide."""
    return ((guess.x0 - z).square() + (guess.eps - noise).square()).flatten(1).mean(1).clamp_max(100.0)


@check(when=denoises)
def guesses_beat_ignorance(ctx: Context) -> None:
    """The two parts of each guess add up to the noisy point, and guess the data behind it about as well as the best straight line, or better.

    Means over training rows at five times, against ``sigma^2 V / (alpha^2 V + sigma^2)``, the error of the best guess that is linear in x_t and
    knows the mean and variance V of all entries together; half as much again is allowed.
    """
    model = ctx.copy()
    z, noise, c = _noisy(ctx, model, 512)
    schedule, variance = cast(Denoises, model).denoiser.schedule, float((z - z.mean(0)).square().mean())
    for share in TIMES:
        t = torch.full((len(z),), float(_trained_times(model, share)), dtype=z.dtype)
        with torch.no_grad(), model.evaluating(0):
            x = _at(model, z, noise, t)
            guess = cast(Denoises, model).given(c)(x, t)
        alpha, sigma = float(schedule.alpha(t[0])), float(schedule.sigma(t[0]))
        gap = float((alpha * guess.x0 + sigma * guess.eps - x).abs().max())
        require(
            gap <= 1e-3 * (1 + float(x.abs().max())), f"alpha x0 + sigma eps of a guess differs from the noisy point by {gap:.3g} at time {t[0]:.2f}"
        )
        error, line = float((guess.x0 - z).square().mean()), sigma**2 * variance / (alpha**2 * variance + sigma**2)
        require(
            error <= 1.5 * line,
            f"at time {t[0]:.2f} guesses of the data have a squared error of {error:.3g}, and a straight line has {line:.3g}: "
            "what the network was trained to say and what the sampler reads differ",
        )


@check(when=lambda model: denoises(model) and bool(type(model).samplers))
def asked_within_trained_times(ctx: Context) -> None:
    """No sampler asks the network outside the times between which it was trained."""
    model = ctx.copy()
    schedule = cast(Denoises, model).denoiser.schedule
    for kind in type(model).samplers:
        with _watched(model) as witness:
            model.sample(2, ctx.conditions(2), seed=0, sampler=kind())
        times = torch.cat(witness.asked).double()
        low, high = float(times.min()), float(times.max())
        require(
            low >= schedule.first - 1e-6 and high <= schedule.last + 1e-6,
            f"{kind.__name__} asks at times from {low:.5g} to {high:.5g}; the network was trained from {schedule.first:g} to {schedule.last:g}",
        )


@check(when=denoises)
def presets_average_weights(ctx: Context) -> None:
    """Every preset of a model that denoises averages its weights: its loss is so noisy that the last weights are worse."""
    for name, preset in type(ctx.declared).presets.items():
        chosen = preset if isinstance(preset, Preset) else preset(ctx.declared.space, 512)
        require(chosen.train.get("ema"), f"preset {name!r} does not average the weights; give it train option 'ema'")


@check(when=is_guided)
def guidance_goes_from_none_to_own(ctx: Context) -> None:
    """At guidance scale 0 the condition does not matter, at 1 samples are the model's own, and at 2 they are others."""
    model, n = ctx.model, 64
    classes = cast(Labels, ctx.declared.condition).classes
    c = cast(Tensor, ctx.conditions(n))
    kind = _guides(model)[0]
    free, other = (model.sample(n, each, seed=1, sampler=kind.from_json({"guidance_scale": 0})) for each in (c, (c + 1) % classes))
    require(same_value(free, other), "at guidance scale 0 samples depend on the condition")
    own, plain = model.sample(n, c, seed=1, sampler=kind.from_json({"guidance_scale": 1})), model.sample(n, c, seed=1, sampler=kind())
    require(same_value(own, plain), "guidance scale 1 differs from the sampler's default")
    require(not same_value(own, free), "guidance scales 0 and 1 give the same samples: the condition is ignored")
    more = model.sample(n, c, seed=1, sampler=kind.from_json({"guidance_scale": 2}))
    require(not same_value(own, more), "guidance scales 1 and 2 give the same samples")


@check(when=is_guided)
def guidance_starts_from_the_average(ctx: Context) -> None:
    """Told nothing, the denoiser guesses better than told a wrong label: training has hidden labels from it."""
    model, n = ctx.copy(), 512
    z, noise, c = _noisy(ctx, model, n)
    classes = cast(Labels, ctx.declared.condition).classes
    wrong = (cast(Tensor, c) + 1) % classes
    with torch.no_grad(), model.evaluating(0), seeded(2):
        t = cast(Tensor, _trained_times(model, 0.3 + 0.6 * torch.rand(n, dtype=z.dtype)))
        x = _at(model, z, noise, t)
        told, untold = (_error(cast(Denoises, model).given(c if scale == 0 else wrong, scale)(x, t), z, noise) for scale in (1.0, 0.0))
    score = z_score(told - untold)
    require(
        score > 0, f"told nothing, the denoiser errs more than told a wrong label (by {-score:.1f} standard errors): it never learnt to go without"
    )


@check(when=countable_estimate)
def estimated_mass_near_one(ctx: Context) -> None:
    """The exponential of an estimated log_prob adds up to one within 5 %, and its law is that of the samples within 5 % of all mass."""
    space, n = ctx.declared.space, 8192 if ctx.full else 1024
    axes = partition(ctx)
    for condition in ctx.condition_values()[: None if ctx.full else 1]:
        masses = integrate(lambda x, seed, c=condition: ctx.log_prob(x, c), space, axes, pairs=4 if ctx.full else 2)  # type: ignore[misc]
        slack = TOLERANCE + 6 * (masses.error if math.isfinite(masses.error) else 0.0)
        require(abs(masses.total - 1) <= slack, f"exp(log_prob) adds up to {masses.total:.4f} ± {masses.error:.2g}; expected 1 within {slack:.2g}")
        c = None if condition is None else take(condition, torch.zeros(n, dtype=torch.long))
        places = locate(axes, as_columns(ctx.model.sample(n, c, seed=11), space))
        observed = torch.bincount(places, minlength=len(masses.cells) + 1).double()
        expected = torch.cat([masses.cells, (1 - masses.cells.sum()).clamp_min(0)[None]]) * n
        gap, noise = _gap(observed, expected)
        noise += 0.5 * float(masses.variance.sqrt().sum())
        require(gap <= noise + TOLERANCE, f"samples and exp(log_prob) differ in {gap:.3f} of the mass; {noise:.3f} would be noise")


def _gap(observed: Tensor, expected: Tensor) -> tuple[float, float]:
    """The total variation between two histograms of n, and what noise explains: for equal laws it is larger with a chance of at most 1e-4.

    Its mean is at most half the sum of the standard errors, and it exceeds its mean by e with a chance of at most exp(-2 n e^2) (McDiarmid, 1989).
    """
    n = float(observed.sum())
    noise = 0.5 * float((expected.clamp_min(0) / n**2).sqrt().sum()) + math.sqrt(-math.log(P_VALUE) / (2 * n))
    return 0.5 * float((observed - expected).abs().sum()) / n, noise


def _fills_by_estimate(model: GenerativeModel) -> bool:
    return countable_estimate(model) and implements(Completes)(model) and unknown_entry(model.space) is not None


@check(when=_fills_by_estimate)
def completions_lean_on_the_known(ctx: Context) -> None:
    """Completions of one entry are nearer to its law given the others, by the estimated log_prob, than samples that know nothing of these.

    By three tenths of the mass that these are off, or near enough at a third of the mass.
    """
    at, n = cast(int, unknown_entry(ctx.declared.space)), 512
    gaps = []
    for row in range(4 if ctx.full else 1):
        x = ctx.x[row : row + 1]
        c = None if ctx.rows.condition is None else take(ctx.rows.condition, slice(row, row + 1))
        many = None if c is None else take(c, torch.zeros(n, dtype=torch.long))
        known = torch.ones(n, *x.shape[1:], dtype=torch.bool)
        known.view(n, -1)[:, at] = False
        filled = cast(Completes, ctx.model).complete(x.expand(n, *x.shape[1:]).clone(), known, many, seed=row)
        for drawn in (cast(Tensor, filled), cast(Tensor, ctx.model.sample(n, many, seed=row))):
            gaps.append(_gap(*conditional_counts(ctx, x, c, at, drawn.reshape(n, -1)[:, at].double()))[0])
    own, blind = (sum(gaps[start::2]) / len(gaps[start::2]) for start in (0, 1))
    require(
        own <= max(0.7 * blind, APPROXIMATE),
        f"completions differ from the law given what is known in {own:.3f} of the mass, and samples that know nothing in {blind:.3f}",
    )
