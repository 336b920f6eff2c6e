"""Checks of latents: encoding, decoding, and the log-determinant between them."""

import copy
import math
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from manykin.contract import Decodes, Encodes, GenerativeModel, Weighs
from manykin.random import seeded
from manykin.spaces import Value, count, take
from manykin.testing.context import Context, same, same_value, worst
from manykin.testing.core import Topic, has_density, implements, is_implicit, one_tensor, real_space, require
from manykin.testing.examples import example_rows
from manykin.testing.statistics import distance_test, z_score, z_threshold

check = Topic("latent")


@runtime_checkable
class KnowsMarginal(Protocol):
    """A latent-variable model whose marginal on real data has a closed form, to compare its bound with, where ``knows_marginal`` says so."""

    @property
    def knows_marginal(self) -> bool:
        """Whether there is one with this config and space."""
        ...

    def exact_log_prob(self, x: Value, condition: Value | None = None) -> Tensor:
        """log p(x) in data space, shape (n,)."""
        ...


@check(when=implements(Encodes))
def encode_shape(ctx: Context) -> None:
    """encode returns a distribution with one entry a row, whose draws and their log-probabilities are finite."""
    code = cast(Encodes, ctx.model).encode(ctx.rows.x, ctx.rows.condition)
    n = count(ctx.rows.x)
    require(isinstance(code, torch.distributions.Distribution), f"encode returned a {type(code).__name__}; expected a Distribution")
    require(tuple(code.batch_shape)[:1] == (n,), f"encode of {n} rows has batch shape {tuple(code.batch_shape)}; expected ({n},) first")
    with torch.no_grad(), seeded(0):
        draw = code.sample()
    require(len(draw) == n and bool(torch.isfinite(draw.double()).all()), "draws of encode(x) are not finite")
    chance = code.log_prob(draw)
    require(not bool(chance.isnan().any()), "log-probabilities of draws of encode(x) are NaN")


@check(when=lambda model: isinstance(model, Encodes) and model.transform.exact)
def encode_ignores_mates(ctx: Context) -> None:
    """encode of a row is the same alone as among others, and in train mode as in evaluation mode."""
    model = ctx.copy()
    c = ctx.rows.condition
    one = take(ctx.rows.x, slice(0, 1)), None if c is None else take(c, slice(0, 1))
    with torch.no_grad():
        alone, _ = _parameters(cast(Encodes, model), *one)
        among, _ = _parameters(cast(Encodes, model), ctx.rows.x, c)
        model.train()
        training, _ = _parameters(cast(Encodes, model), ctx.rows.x, c)
    require(worst(alone[:1], among[:1]) <= 1e-3 * (1 + float(among.abs().max())), "encode of a row differs between alone and in a batch")
    require(worst(training, among) <= 1e-6 * (1 + float(among.abs().max())), "encode differs between train mode and evaluation mode")


def _parameters(model: Encodes, x: Value, c: Value | None) -> tuple[Tensor, int]:
    code = model.encode(x, c)
    for name in ("mean", "probs", "logits"):
        try:
            value = getattr(code, name)
        except (NotImplementedError, AttributeError):
            continue
        if isinstance(value, Tensor) and bool(torch.isfinite(value).all()):
            return value.double(), 0
    with seeded(0):
        return code.sample().double(), 1


@check(when=implements(Decodes))
def latents_seeded(ctx: Context) -> None:
    """latents(n) draws n latents, the same for one seed, others for another, without touching the global generator."""
    model = cast(Decodes, ctx.model)
    before = torch.get_rng_state()
    first, again, other = model.latents(12, seed=0), model.latents(12, seed=0), model.latents(12, seed=1)
    require(len(first) == 12 and bool(torch.isfinite(first.double()).all()), f"latents(12) has shape {tuple(first.shape)} or is not finite")
    require(same(first, again), "latents with the same seed differ between two calls")
    require(not same(first, other), "latents of two seeds are equal")
    require(torch.equal(before, torch.get_rng_state()), "latents changed the global generator")


@check(when=implements(Decodes))
def decode_valid(ctx: Context) -> None:
    """decode returns valid data, the same at each call, in either mode."""
    model = ctx.copy()
    decoder = cast(Decodes, model)
    h, c = decoder.latents(32, seed=0), ctx.conditions(32)
    with torch.no_grad():
        first = decoder.decode(h, c)
        model.train()
        again = decoder.decode(h, c)
    require(count(first) == 32, f"decode of 32 latents returned {count(first)} rows")
    ctx.declared.space.validate(_detached(first), "decode(latents)")
    require(same_value(_detached(first), _detached(again)), "decode of the same latents differs between two calls")


def _detached(x: Value) -> Value:
    return x.detach() if isinstance(x, Tensor) else {name: part.detach() for name, part in x.items()}


@check(when=lambda model: isinstance(model, Decodes) and one_tensor(model) and (isinstance(model, Encodes) or is_implicit(model)))
def decoded_latents_are_samples(ctx: Context) -> None:
    """decode(latents(n)) follows the law of sample(n), where decoding adds no noise and latents do not follow the condition."""
    bound_to_condition = ctx.declared.condition is not None or not is_implicit(ctx.model)
    if isinstance(ctx.model, Encodes) and bound_to_condition and not ctx.is_bijective():
        return
    model, n = cast(Decodes, ctx.model), 400
    c = ctx.conditions(n)
    with torch.no_grad():
        decoded = ctx.columns(model.decode(model.latents(n, seed=5), c))
    drawn = ctx.columns(ctx.model.sample(n, c, seed=6))
    seen = [torch.cat([each.nan_to_num(0.0), each.isnan().double()], dim=1) for each in (decoded, drawn)]
    distance, z = distance_test(seen[0], seen[1])
    require(z < 6, f"decode(latents(n)) and sample(n) differ: energy distance {distance:.3g}, {z:.1f} standard deviations of permutations")


@check(when=lambda model: isinstance(model, Encodes) and isinstance(model, Decodes) and one_tensor(model))
def encode_then_decode(ctx: Context) -> None:
    """For a bijective model decode(encode(x)) is x, and encode(decode(h)) is h."""
    if not ctx.is_bijective():
        return
    model = ctx.copy().double()
    exact = ctx.model.transform.exact
    with torch.no_grad(), seeded(0):
        code = cast(Encodes, model).encode(ctx.rows.x, ctx.rows.condition)
        back = cast(Decodes, model).decode(code.mean, ctx.rows.condition)
    found, expected = ctx.columns(back), ctx.columns(ctx.rows.x)
    scale = expected.std(0).clamp_min(1e-6) if exact else torch.ones(expected.shape[1])
    gap = worst(found / scale, expected / scale)
    require(gap <= 1e-4, f"decode(encode(x)) differs from x by {gap:.3g} standard deviations")
    if exact and real_space(ctx.model):
        h = cast(Decodes, model).latents(48, seed=0)
        with torch.no_grad():
            again = cast(Encodes, model).encode(cast(Decodes, model).decode(h, ctx.rows.condition), ctx.rows.condition).mean
        gap = worst(again.reshape(48, -1), h.reshape(48, -1))
        require(gap <= 1e-4, f"encode(decode(h)) differs from h by {gap:.3g}")


def _small_bijection(model: GenerativeModel) -> bool:
    small = one_tensor(model) and math.prod(model.space.shape) <= 8
    return isinstance(model, Encodes) and isinstance(model, Decodes) and has_density(model) and real_space(model) and small


@check(when=_small_bijection)
def log_det_matches_jacobian(ctx: Context) -> None:
    """log_prob minus the log-determinant of the Jacobian of encode is the log density of the latents: Metropolis steps with it keep them.

    The Jacobian is taken by central differences in float64, the latents from ``latents``.
    """
    if not ctx.is_bijective() or (ctx.model.density is not None and ctx.model.density.noisy):
        return
    model, n = ctx.copy().double(), 4096 if ctx.full else 1024
    c = ctx.conditions(n)
    h = cast(Decodes, model).latents(n, seed=9).double()
    g = torch.Generator().manual_seed(3)
    moved, start = h, _latent_density(ctx, model, h, c)
    now = start
    for _ in range(40 if ctx.full else 8):
        proposed = moved + 1.2 * torch.randn(h.shape, generator=g, dtype=torch.float64) * h.std() / math.sqrt(h[0].numel())
        ahead = _latent_density(ctx, model, proposed, c)
        taken = torch.rand(n, generator=g, dtype=torch.float64).log() < ahead - now
        now, moved = torch.where(taken, ahead, now), torch.where(taken.view(-1, *[1] * (h.dim() - 1)), proposed, moved)
    tests = {"log density": now - start, "squared norm": (moved**2 - h**2).flatten(1).sum(1), "mean": (moved - h).flatten(1).sum(1)}
    for index in range(h[0].numel()):
        tests[f"entry {index}"] = (moved - h).flatten(1)[:, index]
    for name, values in tests.items():
        z = z_score(values)
        require(
            abs(z) < z_threshold(len(tests)),
            f"log_prob and the Jacobian of encode disagree: Metropolis steps move the {name} of the latents by {z:.1f} standard errors",
        )


@torch.no_grad()
def _latent_density(ctx: Context, model: GenerativeModel, h: Tensor, c: Value | None) -> Tensor:
    x = cast(Tensor, cast(Decodes, model).decode(h, c)).double()
    flat = x.flatten(1)
    step = 1e-5 * flat.std(0).clamp_min(1e-12)
    columns = []
    for index in range(flat.shape[1]):
        shift = torch.zeros_like(flat)
        shift[:, index] = step[index]
        ahead, behind = (cast(Encodes, model).encode((flat + side * shift).view_as(x), c).mean.flatten(1) for side in (1, -1))
        columns.append((ahead - behind) / (2 * step[index]))
    volume: Tensor = torch.linalg.slogdet(torch.stack(columns, dim=2)).logabsdet
    return model.log_prob(x, c) - volume


def _reconstructs(model: GenerativeModel) -> bool:
    return isinstance(model, Encodes) and isinstance(model, Decodes) and is_implicit(model) and one_tensor(model)


@check(when=_reconstructs)
def codes_carry_the_data(ctx: Context) -> None:
    """For a model that encodes and decodes without a density, decode(encode(x)) is nearer to x than what another row's code stands for."""
    c, x = ctx.rows.condition, ctx.columns(ctx.rows.x)
    with torch.no_grad():
        h, _ = _parameters(cast(Encodes, ctx.model), ctx.rows.x, c)
        decoder, h = cast(Decodes, ctx.model), h.to(ctx.model.dtype)
        own, other = (ctx.columns(decoder.decode(each, c)) for each in (h, h.roll(1, dims=0)))
    scale = x.nan_to_num(0.0).std(0).clamp_min(1e-9)
    errors = [((each - x) / scale).nan_to_num(0.0).square().sum(1) for each in (own, other)]
    z = z_score(errors[1] - errors[0])
    require(z > z_threshold(), f"decode(encode(x)) is no nearer to x than the decoded code of another row ({z:.1f} standard errors)")


@check(when=_reconstructs)
def latents_are_like_codes(ctx: Context) -> None:
    """For such a model latents(n) have the means and deviations of the codes of training rows: what decode has learnt to decode."""
    rows = ctx.data.train.slice(0, 512)
    with torch.no_grad():
        h, _ = _parameters(cast(Encodes, ctx.model), rows.x, rows.condition)
    drawn = cast(Decodes, ctx.model).latents(4096, seed=3).double().flatten(1)
    h = h.flatten(1)
    spread = h.std(0).clamp_min(1e-9)
    shift = float(((drawn.mean(0) - h.mean(0)) / spread).abs().max())
    ratio = (drawn.std(0) / spread).log().abs().max().exp()
    require(shift <= 0.25, f"the mean of latents(n) is {shift:.2g} deviations from that of the codes of training rows")
    require(float(ratio) <= 1.5, f"the deviations of latents(n) and of the codes of training rows have a ratio of {float(ratio):.3g}")


def _around(model: GenerativeModel, points: Tensor) -> Tensor:
    """decode(encode(x)) of points (n, ...), as rows (n, d)."""
    with torch.no_grad():
        found = cast(Decodes, model).decode(cast(Encodes, model).encode(points).mean)
    return cast(Tensor, found).double().flatten(1)


def _linear_codes(model: GenerativeModel) -> bool:
    """It reconstructs from fewer numbers than an example has, by maps that are affine whatever the weights: so at some points of the model given."""
    if not (_reconstructs(model) and real_space(model) and model.condition is None):
        return False
    model, x = copy.deepcopy(model).double(), cast(Tensor, example_rows(model.space, None, 32).x).double()
    code, around = cast(Encodes, model).encode(x[:1]).mean, _around(model, x)
    middle = _around(model, (x[:16] + x[16:]) / 2)
    gap = worst(middle, (around[:16] + around[16:]) / 2)
    return code.numel() < around.shape[1] and gap <= 1e-9 * float(1 + around.abs().max())


@check(when=_linear_codes)
def linear_codes_are_principal(ctx: Context) -> None:
    """Where decode(encode(x)) is affine in x, it errs hardly more than as many principal components of the standardised columns would.

    Baldi and Hornik, Neural networks and principal component analysis: learning from examples without local minima, 1989. One in ten more is allowed
    for a short fit.
    """
    x = cast(Tensor, ctx.data.train.slice(0, 512).x).double()
    flat, model = x.flatten(1), ctx.copy().double()
    size = _parameters(cast(Encodes, model), x[:1], None)[0].numel()
    scale = flat.std(0, correction=0)
    values = torch.linalg.eigvalsh(torch.cov((flat / scale).T, correction=0))
    best, mine = float(values[: flat.shape[1] - size].sum()), float(((_around(model, x) - flat) / scale).square().sum(1).mean())
    require(mine <= 1.1 * best + 1e-3, f"the squared error of linear codes is {mine:.4g} a row; {size} principal components have {best:.4g}")


def _marginal_is_known(model: GenerativeModel) -> bool:
    return isinstance(model, Weighs) and isinstance(model, KnowsMarginal) and model.knows_marginal and real_space(model)


@check(when=_marginal_is_known)
def weights_meet_the_closed_form(ctx: Context) -> None:
    """Importance weights average to the known marginal density, and their mean logarithm lies below it."""
    k, n = 8192 if ctx.full else 2048, count(ctx.rows.x)
    with torch.no_grad():
        exact = cast(KnowsMarginal, ctx.model).exact_log_prob(ctx.rows.x, ctx.rows.condition)
        ratios = (cast(Weighs, ctx.model).log_weights(ctx.rows.x, k, ctx.rows.condition, seed=13) - exact[:, None]).double()
    bound, weights = ratios.mean(1), ratios.exp()
    size = weights.sum(1) ** 2 / weights.square().sum(1).clamp_min(1e-300)
    even = size >= k / 10
    error = float((weights.var(1)[even] / k).sum().sqrt()) / max(int(even.sum()), 1)
    mean = float(weights.mean(1)[even].mean()) if bool(even.any()) else 1.0
    slack = z_threshold() * error + 1e-3
    require(abs(mean - 1) <= slack, f"importance weights average to {mean:.4g} of the exact density; expected 1 within {slack:.2g}")
    above = float(bound.mean()) - z_threshold() * float((ratios.var(1) / k).sum().sqrt()) / n
    require(above <= 1e-6, f"the mean log-weight lies above the exact log p(x) by {float(bound.mean()):.3g} nats")
