"""Checks of flows: models whose latents are a bijection of the data."""

import math
from typing import cast

import torch
from torch import Tensor

from manykin.contract import Batch, Decodes, Encodes, GenerativeModel
from manykin.data.dataset import Rows
from manykin.random import generator, seeded
from manykin.spaces import Image, Value, Vector
from manykin.testing.context import Context, changed, state_of, worst
from manykin.testing.core import Topic, has_exact_kind, has_gradient, is_real, maps_one_to_one, one_tensor, real_space, require
from manykin.testing.examples import dataset_of, example_rows
from manykin.transforms import Identity

check = Topic("flow")

ENTRIES = 64
"""Entries up to which the whole Jacobian is taken."""
FAR = 10.0
"""Standard deviations from the mean at which flows are inverted."""
UNFAIR = 0.4
"""Nats by which two fits to the same columns in another order may differ."""


def flows(model: GenerativeModel) -> bool:
    """The model maps the real numbers of its model space one to one to latents, and has an exact density there."""
    exact = has_exact_kind(model) and model.kind is not None and model.kind.normalised
    return exact and one_tensor(model) and is_real(model.model_space) and isinstance(model, Decodes) and maps_one_to_one(model)


def _small(model: GenerativeModel) -> bool:
    """Of few entries, with latents that are standard normal."""
    if not flows(model) or math.prod(model.space.shape) > ENTRIES:
        return False
    return _standard(cast(Decodes, model).latents(4096, seed=3).double().flatten(1))


def _rows_of_numbers(model: GenerativeModel) -> bool:
    space, plain = model.space, model.condition is None and real_space(model)
    return plain and flows(model) and has_gradient(model) and isinstance(space, Vector) and space.size >= 2


def _encode(model: GenerativeModel, x: Tensor, c: Value | None) -> Tensor:
    return cast(Encodes, model).encode(x, c).mean.reshape(len(x), -1).double()


def on_numbers(model: GenerativeModel) -> GenerativeModel:
    """The model itself where the data are real numbers; else it becomes one of what its transform makes of them, noise and all."""
    if not real_space(model):
        model.space, model.transform = model.model_space, Identity(model.model_space)
    return model


def _numbers(ctx: Context, x: Tensor) -> Tensor:
    """Rows of the data as :func:`on_numbers` takes them, float64."""
    if real_space(ctx.declared):
        return x.double()
    with torch.no_grad(), seeded(0):
        return ctx.copy().double().to_model_space(x)[0]


def _far(ctx: Context) -> Tensor:
    """Ten standard deviations from the mean in every entry; of levels the lowest or the highest in every entry."""
    x = ctx.x
    signs = torch.randint(2, x.shape, generator=generator(0, "far")) * 2 - 1
    if real_space(ctx.declared):
        return x.double().mean(0) + FAR * x.double().std(0).clamp_min(1e-12) * signs
    train = cast(Tensor, ctx.data.train.slice(0, 512).x)
    return _numbers(ctx, torch.where(signs > 0, train.amax(0), train.amin(0)).to(x.dtype))


@check(when=_small)
def whole_jacobian_adds_up(ctx: Context) -> None:
    """log_prob is the log density of the latent plus log|det| of the whole Jacobian of encode, row by row, where latents are standard normal.

    The Jacobian is taken by central differences in float64, at training rows and far from them; of data with levels in model space.
    """
    model, near = on_numbers(ctx.copy().double()), _numbers(ctx, ctx.x)
    spread, c = near.std(0), ctx.conditions(6)
    x = torch.cat([near[:4], near[4:6] + 5 * spread if real_space(ctx.declared) else _far(ctx)[4:6]])
    flat, columns = x.flatten(1), []
    with torch.no_grad():
        for index in range(flat.shape[1]):
            step = torch.zeros_like(flat)
            step[:, index] = 1e-6 * spread.flatten()[index].clamp_min(1e-12)
            ahead, behind = (_encode(model, (flat + side * step).view_as(x), c) for side in (1, -1))
            columns.append((ahead - behind) / (2 * step[:, index : index + 1]))
        h = _encode(model, x, c)
        base = -0.5 * h.square().sum(1) - 0.5 * h.shape[1] * math.log(2 * math.pi)
        expected = base + torch.linalg.slogdet(torch.stack(columns, dim=2)).logabsdet
        gap = worst(model.log_prob(x, c), expected)
    require(gap <= 1e-4 * (1 + h.shape[1]), f"log_prob differs by {gap:.3g} nats from what the Jacobian of encode says: a log-determinant is wrong")


def _standard(h: Tensor) -> bool:
    """Whether latents have the first four moments of a standard normal, within 6 standard errors."""
    n = h.numel()
    moments = ((h.mean(), 1.0), (h.square().mean() - 1, 2.0), (h.pow(3).mean(), 15.0), (h.pow(4).mean() - 3, 96.0))
    return all(abs(float(value)) < 6 * math.sqrt(variance / n) for value, variance in moments)


@check(when=flows)
def inverse_far_out(ctx: Context) -> None:
    """Ten standard deviations from the data decode(encode(x)) is x, the latents are finite, and so is log_prob in single precision.

    Of data with levels: at the ends of their range, in model space.
    """
    far, c, spread = _far(ctx), ctx.rows.condition, _numbers(ctx, ctx.x).std(0).clamp_min(1e-12)
    single = on_numbers(ctx.copy()).log_prob(far.float(), c).detach()
    require(bool(torch.isfinite(single).all()), f"log_prob is {float(single.min()):g} at {FAR:g} standard deviations; expected finite numbers")
    model = on_numbers(ctx.copy().double())
    with torch.no_grad():
        code = cast(Encodes, model).encode(far, c).mean
        require(bool(torch.isfinite(code).all()), f"latents of points at {FAR:g} standard deviations are not finite")
        back = cast(Tensor, cast(Decodes, model).decode(code, c)).double()
    gap = worst(back / spread, far / spread)
    require(gap <= 1e-4, f"at {FAR:g} standard deviations decode(encode(x)) differs from x by {gap:.3g} of them")


@check(when=lambda model: flows(model) and model.condition is None and isinstance(model.space, (Vector, Image)))
def starts_once(ctx: Context) -> None:
    """A second call of initialise, on other rows, changes nothing: a data-dependent start happens once in the life of the weights."""
    model = ctx.copy()
    before = state_of(model)
    other = cast(Tensor, example_rows(model.space, None, 256, seed=5).x)
    with torch.no_grad(), seeded(0):
        model.initialise(Batch(3 * other + 1 if real_space(model) else (other / 2).floor().to(other.dtype)))
    names = changed(before, state_of(model))
    require(not names, f"initialise changed {names[:1]} of a fitted model: layers that were started must keep their values")


@check(when=_rows_of_numbers, level="full")
def columns_are_treated_alike(ctx: Context) -> None:
    """Fits to two dependent columns, and to the same two in the other order, are about equally good.

    One column is a noisy square of the other. A flow that transforms only some of its entries fits one order and not the other.
    """
    size = cast(Vector, ctx.declared.space).size
    scores = []
    for first, second in ((0, 1), (1, 0)):
        x = torch.randn(3072, size, generator=generator(4, "columns"), dtype=torch.float64)
        columns = x.clone()
        columns[:, first], columns[:, second] = x[:, 0], x[:, 0] ** 2 + 0.3 * x[:, 1]
        data = dataset_of(Batch(columns), ctx.declared.space, None, 2048)
        model = ctx.fit(ctx.fresh(), data=data, changes={"max_steps": 150})
        held = cast(Rows, data.test)
        with torch.no_grad():
            scores.append(float(model.log_prob(held.slice(0, len(held)).x).mean()))
    gap = abs(scores[0] - scores[1])
    require(gap <= UNFAIR, f"the mean log_prob of the same columns in another order differs by {gap:.2f} nats: some entries are not transformed")
