"""Checks of flows: models whose latents are a bijection of the data."""

import math
from typing import cast

import torch
from torch import Tensor

from manykin.contract import Batch, Decodes, Encodes, GenerativeModel
from manykin.data.dataset import Rows
from manykin.random import generator
from manykin.spaces import Image, Value, Vector
from manykin.testing.context import Context, changed, state_of, worst
from manykin.testing.core import Topic, has_exact_kind, has_gradient, real_space, require
from manykin.testing.examples import dataset_of, example_rows

check = Topic("flow")

ENTRIES = 64
"""Entries up to which the whole Jacobian is taken."""
FAR = 10.0
"""Standard deviations from the mean at which flows are inverted."""
UNFAIR = 0.4
"""Nats by which two fits to the same columns in another order may differ."""


def flows(model: GenerativeModel) -> bool:
    """The model encodes and decodes real data without noise of the transform, and has an exact density."""
    exact = has_exact_kind(model) and model.kind is not None and model.kind.normalised and model.transform.exact
    return isinstance(model, Encodes) and isinstance(model, Decodes) and exact and real_space(model)


def _small(model: GenerativeModel) -> bool:
    return flows(model) and math.prod(model.space.shape) <= ENTRIES


def _rows_of_numbers(model: GenerativeModel) -> bool:
    space = model.space
    return flows(model) and has_gradient(model) and model.condition is None and isinstance(space, Vector) and space.size >= 2


def _encode(model: GenerativeModel, x: Tensor, c: Value | None) -> Tensor:
    return cast(Encodes, model).encode(x, c).mean.reshape(len(x), -1).double()


@check(when=_small)
def whole_jacobian_adds_up(ctx: Context) -> None:
    """log_prob is the log density of the latent plus log|det| of the whole Jacobian of encode, row by row, where latents are standard normal.

    The Jacobian is taken by central differences in float64, at training rows and far from them.
    """
    if not ctx.is_bijective():
        return
    model = ctx.copy().double()
    if not _standard(cast(Decodes, model).latents(4096, seed=3).double().flatten(1)):
        return
    near, spread = ctx.x[:6].double(), ctx.x.double().std(0)
    x, c = torch.cat([near[:4], near[4:] + 5 * spread]), ctx.conditions(6)
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
    """Ten standard deviations from the data decode(encode(x)) is x, the latents are finite, and so is log_prob in single precision."""
    if not ctx.is_bijective():
        return
    x = ctx.x.double()
    signs = torch.randint(2, x.shape, generator=generator(0, "far")).double() * 2 - 1
    spread = x.std(0).clamp_min(1e-12)
    far, c = x.mean(0) + FAR * spread * signs, ctx.rows.condition
    single = ctx.model.log_prob(far.float(), c).detach()
    require(bool(torch.isfinite(single).all()), f"log_prob is {float(single.min()):g} at {FAR:g} standard deviations; expected finite numbers")
    model = ctx.copy().double()
    with torch.no_grad():
        code = cast(Encodes, model).encode(far, c).mean
        require(bool(torch.isfinite(code).all()), f"latents of points at {FAR:g} standard deviations are not finite")
        back = cast(Tensor, cast(Decodes, model).decode(code, c)).double()
    gap = worst(back / spread, far / spread)
    require(gap <= 1e-4, f"at {FAR:g} standard deviations decode(encode(x)) differs from x by {gap:.3g} of them")


@check(when=lambda model: flows(model) and model.condition is None and isinstance(model.space, (Vector, Image)))
def starts_once(ctx: Context) -> None:
    """A second call of initialise, on other rows, changes nothing: a data-dependent start happens once in the life of the weights."""
    if not ctx.is_bijective():
        return
    model = ctx.copy()
    before = state_of(model)
    other = example_rows(model.space, None, 256, seed=5)
    with torch.no_grad():
        model.initialise(Batch(3 * cast(Tensor, other.x) + 1))
    names = changed(before, state_of(model))
    require(not names, f"initialise changed {names[:1]} of a fitted model: layers that were started must keep their values")


@check(when=_rows_of_numbers, level="full")
def columns_are_treated_alike(ctx: Context) -> None:
    """Fits to two dependent columns, and to the same two in the other order, are about equally good.

    One column is a noisy square of the other. A flow that transforms only some of its entries fits one order and not the other.
    """
    if not ctx.is_bijective():
        return
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
