"""The bridge: the canonical chain of transforms from a data space to a space that a model accepts."""

from dataclasses import dataclass
from typing import Literal

from manykin.errors import Unsupported
from manykin.spaces import Image, Labels, Record, Space, Table, Tokens, Vector
from manykin.transforms.base import Chain, Identity, Transform, representative
from manykin.transforms.continuous import AsColumns, Flatten, Logit, Scale, Standardise, bounds_of
from manykin.transforms.discrete import Dequantise, on_grid


@dataclass(frozen=True)
class Support:
    """What a model accepts, from which the bridge to any data space is built.

    ``spaces``: the spaces it works in, preferred first: ``Table`` takes columns of any kind as they are; ``Vector`` and ``Image`` take real
    numbers; ``Tokens`` takes codes. ``missing``: whether NaN may stand for a missing value. ``bounded``: what becomes of entries with finitely many
    levels in a real-valued model: mapped to the real line, scaled to [-1, 1], or only dequantised; ``levels`` leaves pictures as their integers, for
    models that give each level a probability, and refuses pictures without. ``standardise``: whether real entries are
    brought to mean 0 and variance 1. ``condition``: the kinds of space it can be conditioned on.
    """

    spaces: tuple[type[Space], ...]
    missing: bool = False
    bounded: Literal["logit", "scale", "keep", "levels"] = "logit"
    standardise: bool = True
    condition: tuple[type[Space], ...] = ()


def bridge(space: Space, support: Support) -> Transform:
    """The transform from ``space`` to the first of ``support.spaces`` that it can reach.

    Raises:
        Unsupported: where no accepted space can be reached, with the reason.
    """
    reasons = []
    for kind in support.spaces:
        try:
            return _to(kind, space, support)
        except Unsupported as refusal:
            reasons.append(str(refusal))
    raise Unsupported(f"{space} does not fit this model: {' '.join(dict.fromkeys(reasons))}")


def _to(kind: type[Space], space: Space, support: Support) -> Transform:
    if kind is Table and isinstance(space, (Vector, Image, Labels, Table, Record)):
        return _to_columns(space, support)
    if kind is Image and isinstance(space, Image) and support.bounded == "levels":
        if space.levels is None:
            raise Unsupported("it works on pictures whose values are levels (integers from 0).")
        return Identity(space)
    if kind is Image and isinstance(space, Image) and (space.ordinal or space.levels is None):
        return _chain(_real_steps(space, support), space)
    if kind is Vector and isinstance(space, (Vector, Image, Table)) and not (isinstance(space, Image) and not space.ordinal):
        return _to_vector(space, support)
    if kind is type(space) and kind in (Tokens, Record, Labels):
        return Identity(space)
    if kind in (Image, Vector) and isinstance(space, Image) and not space.ordinal:
        raise Unsupported("its levels are codes without order, and this model works on numbers: on levels with an order, or real values.")
    raise Unsupported(f"it works on {kind.__name__} data.")


def _to_columns(space: Space, support: Support) -> Transform:
    if any(column.missing for column in representative(space)) and not support.missing:
        raise Unsupported("it cannot take missing values: fill or drop them.")
    return Identity(space) if isinstance(space, Table) else AsColumns(space)


def _to_vector(space: Space, support: Support) -> Transform:
    steps = _real_steps(space, support)
    reached = steps[-1].target if steps else space
    if isinstance(reached, Image):
        steps.append(Flatten(reached))
    elif isinstance(reached, Table):
        raise Unsupported("it works on Vector data.")
    return _chain(steps, space)


def _real_steps(space: Space, support: Support) -> list[Transform]:
    """Dequantise, bring bounded entries to their range, standardise: whatever of it this space needs."""
    steps: list[Transform] = []
    if on_grid(space) or isinstance(space, Table):
        steps.append(Dequantise(space))
        bounds = bounds_of(representative(space))
        if support.bounded in ("logit", "scale") and any(bound is not None for bound in bounds):
            steps.append((Logit if support.bounded == "logit" else Scale)(steps[-1].target, bounds))
    scaled = bool(steps) and isinstance(steps[-1], Scale) and steps[-1].mask is None
    if support.standardise and not scaled:
        steps.append(Standardise(steps[-1].target if steps else space))
    return steps


def _chain(steps: list[Transform], space: Space) -> Transform:
    return Identity(space) if not steps else steps[0] if len(steps) == 1 else Chain(steps)
