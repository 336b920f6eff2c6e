"""Walks through a latent space: from one example to another, and along one entry of the latent.

For any model that encodes and decodes. Where an encoder gives a distribution the walk starts from its mean.
"""

from typing import Literal, cast

import torch
from torch import Tensor

from manykin.contract import Decodes, Encodes, GenerativeModel
from manykin.errors import InvalidInput, Unsupported
from manykin.random import seeded
from manykin.spaces import Value, count, take

Path = Literal["linear", "spherical"]

DRAWS = 256
"""Draws of the prior over latents from which the spread of one entry is measured."""

REACH = 3.0
"""How many deviations of the prior a walk along one entry goes to either side, by default."""


def interpolate(model: GenerativeModel, a: Value, b: Value, steps: int, condition: Value | None, path: Path) -> Value:
    """Decoded latents on the way from the codes of a to those of b, both ends included: (n * steps) examples, the walk of each pair together.

    ``linear``: ``(1 - t) h_a + t h_b``. ``spherical``: along the great circle, ``(sin((1 - t) w) h_a + sin(t w) h_b) / sin w`` with w the angle
    between them (Shoemake, Animating rotation with quaternion curves, 1985; White, Sampling generative networks, 2016, section 2.1): the length of
    a latent stays what a Gaussian prior in many dimensions expects, where a straight line cuts through its empty middle.

    Args:
        model: one that encodes and decodes.
        a, b: n examples each.
        steps: examples a walk, at least 2.
        condition: what to encode and decode under, one for all or one a pair.
        path: the way between.

    Raises:
        Unsupported: for a model that cannot encode or decode into real latents.
        InvalidInput: for fewer than 2 steps, an unknown path, or a and b of different lengths.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise InvalidInput(f"steps = {steps!r} is no walk; expected an integer of at least 2, both ends included.")
    if path not in ("linear", "spherical"):
        raise InvalidInput(f"path {path!r} is not known; expected 'linear' or 'spherical'.")
    if count(a) != count(b):
        raise InvalidInput(f"there are {count(a)} examples to start from and {count(b)} to arrive at; expected as many.")
    start, end = codes(model, a, condition), codes(model, b, condition)
    t = torch.linspace(0, 1, steps, dtype=torch.float64, device=start.device)
    walk = (_arc if path == "spherical" else _line)(start.double(), end.double(), t)
    return _decoded(model, walk.to(start.dtype), condition)


def traverse(model: GenerativeModel, x: Value, unit: int, values: Tensor | None, condition: Value | None) -> Value:
    """Examples whose latents differ from those of x in one entry, which takes each value in turn: (n * len(values)) examples, row after row.

    Args:
        model: one that encodes and decodes.
        x: n examples.
        unit: which entry of the (flattened) latent, from 0.
        values: what it is set to; None: seven values, from 3 deviations of the prior below its mean to 3 above it.
        condition: what to encode and decode under.

    Raises:
        Unsupported: for a model that cannot encode or decode into real latents.
        InvalidInput: for an entry that the latent has not, or values that are no finite numbers.
    """
    h = codes(model, x, condition)
    size = h[0].numel()
    if isinstance(unit, bool) or not isinstance(unit, int) or not 0 <= unit < size:
        raise InvalidInput(f"unit = {unit!r} is not an entry of the latent; expected an integer from 0 to {size - 1}.")
    if values is None:
        prior = cast(Decodes, model).latents(DRAWS, seed=0).flatten(1)[:, unit].double()
        values = prior.mean() + prior.std() * torch.linspace(-REACH, REACH, 7, dtype=torch.float64, device=prior.device)
    if values.dim() != 1 or len(values) == 0 or not bool(torch.isfinite(values).all()):
        raise InvalidInput(f"values has shape {tuple(values.shape)} or holds NaN or infinity; expected a list of finite numbers.")
    walk = h.flatten(1)[:, None].repeat(1, len(values), 1)
    walk[:, :, unit] = values.to(walk)
    return _decoded(model, walk.view(len(h), len(values), *h.shape[1:]), condition)


def codes(model: GenerativeModel, x: Value, condition: Value | None) -> Tensor:
    """The mean latent of each example, shape (n, ...).

    Raises:
        Unsupported: for a model that does not both encode and decode real latents.
    """
    if not (isinstance(model, Encodes) and isinstance(model, Decodes)):
        able = "decodes only" if isinstance(model, Decodes) else "encodes only" if isinstance(model, Encodes) else "has no latents"
        raise Unsupported(f"{type(model).__name__} {able}; a walk needs a model that encodes and decodes: see the column of `manykin models`.")
    with torch.no_grad(), seeded(0):
        mean: Tensor = model.encode(x, condition).mean
    return mean


def _line(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points between a and b (n, ...) at times t (k,): (n, k, ...)."""
    return torch.lerp(a[:, None], b[:, None], t.view(1, -1, *[1] * (a.dim() - 1)))


def _arc(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The same along the great circle; where a and b point the same or the opposite way, or have no length, the straight line."""
    flat = a.flatten(1), b.flatten(1)
    lengths = [each.norm(dim=1) for each in flat]
    cosine = (flat[0] * flat[1]).sum(dim=1) / (lengths[0] * lengths[1]).clamp_min(1e-12)
    angle = cosine.clamp(-1, 1).acos()[:, None]
    plain = (angle.sin() < 1e-6).squeeze(1)
    safe = torch.where(plain[:, None], torch.full_like(angle, 1.0), angle)
    shares = torch.sin((1 - t) * safe) / safe.sin(), torch.sin(t * safe) / safe.sin()
    walk = shares[0][:, :, None] * flat[0][:, None] + shares[1][:, :, None] * flat[1][:, None]
    straight = _line(*flat, t)
    return torch.where(plain[:, None, None], straight, walk).view(len(a), len(t), *a.shape[1:])


def _decoded(model: GenerativeModel, walk: Tensor, condition: Value | None) -> Value:
    """Latents (n, k, ...) decoded, each row's condition repeated along its walk."""
    n, k = walk.shape[:2]
    if condition is not None and count(condition) == n > 1:
        condition = take(condition, torch.arange(n).repeat_interleave(k))
    with torch.no_grad():
        return cast(Decodes, model).decode(walk.flatten(0, 1), condition)
