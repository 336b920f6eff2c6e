"""Checks of bad input: each is refused with InvalidInput, in one line that holds the offending value."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from manykin.contract import Completes, Decodes, Encodes, GenerativeModel, Sampler, Scores, Weighs
from manykin.errors import InvalidInput, NoDensity
from manykin.spaces import Image, Labels, Space, Table, Tokens, Value, Vector, columns_of, count
from manykin.testing.context import Context
from manykin.testing.core import CheckFailed, Topic, has_density, implements, is_implicit, one_tensor, require

check = Topic("errors")


def refuses(call: Callable[[], object], shown: str, what: str, kind: type[Exception] = InvalidInput) -> None:
    """Require that a call raises ``kind`` with a one-line message that holds ``shown``.

    Raises:
        CheckFailed: where it returns, raises something else, or its message does not show the value.
    """
    try:
        call()
    except kind as error:
        text = str(error)
        require(shown.lower() in text.lower(), f"{what}: the message does not show {shown!r}: {text}")
        require("\n" not in text, f"{what}: the message has several lines: {text!r}")
    except Exception as error:
        raise CheckFailed(f"{what} raised {type(error).__name__} ({error}); expected {kind.__name__}") from error
    else:
        raise CheckFailed(f"{what} was accepted; expected {kind.__name__}")


@dataclass(frozen=True)
class Door:
    """A public method that takes data, as a function of x and condition."""

    name: str
    call: Callable[[Any, Any], object]


def doors(model: GenerativeModel) -> Iterator[Door]:
    """Every public method of the model that takes data."""
    if has_density(model):
        yield Door("log_prob", lambda x, c: model.log_prob(x, c))
    if isinstance(model, Encodes):
        yield Door("encode", model.encode)
    if isinstance(model, Weighs):
        yield Door("log_weights", lambda x, c: model.log_weights(x, 2, c))
    if isinstance(model, Scores) and model.condition is None:
        yield Door("score", lambda x, c: model.score(x))
    if isinstance(model, Completes):
        yield Door("complete", lambda x, c: model.complete(x, torch.ones(x.shape, dtype=torch.bool), c, seed=0))


def takes_data(model: GenerativeModel) -> bool:
    """Some public method takes data, as one tensor."""
    return one_tensor(model) and next(doors(model), None) is not None


def _each(ctx: Context, x: object, shown: str, what: str) -> None:
    for door in doors(ctx.model):
        n = count(cast(Value, x)) if isinstance(x, Tensor) and x.dim() else 1
        condition = ctx.conditions(max(n, 1))
        refuses(lambda door=door, c=condition: door.call(x, c), shown, f"{door.name} of {what}")  # type: ignore[misc]


@check(when=takes_data)
def rejects_empty_batch(ctx: Context) -> None:
    """An empty batch is refused."""
    _each(ctx, ctx.x[:0], "empty", "an empty batch")


@check(when=lambda model: takes_data(model) and _floats(model.space))
def rejects_infinity(ctx: Context) -> None:
    """Infinite values are refused, and named."""
    x = ctx.x.double().clone()
    x[2].view(-1)[0] = math.inf
    _each(ctx, x, "inf", "data with infinity")


@check(when=lambda model: takes_data(model) and _floats(model.space) and not getattr(model.space, "missing", False))
def rejects_nan(ctx: Context) -> None:
    """NaN is refused where the space has no missing values."""
    x = ctx.x.double().clone()
    x[2].view(-1)[-1] = math.nan
    _each(ctx, x, "nan", "data with NaN")


@check(when=takes_data)
def rejects_wrong_rank(ctx: Context) -> None:
    """One datum without the batch's axis, or an axis too many, is refused with its shape."""
    for x in (ctx.x[0], ctx.x[:3, None]):
        _each(ctx, x, str(tuple(x.shape)), f"data of shape {tuple(x.shape)}")


@check(when=lambda model: takes_data(model) and len(model.space.shape) > 0)
def rejects_wrong_size(ctx: Context) -> None:
    """Data with an entry too many are refused with their shape."""
    x = torch.cat([ctx.x, ctx.x[..., :1]], dim=-1)
    _each(ctx, x, str(tuple(x.shape)), f"data of shape {tuple(x.shape)}")


@check(when=takes_data)
def rejects_wrong_dtype(ctx: Context) -> None:
    """A dtype that the space does not hold is refused by name."""
    space = ctx.declared.space
    wrong = torch.int64 if isinstance(space, Table) else torch.float32 if isinstance(space, (Tokens, Labels)) else torch.bool
    x = torch.zeros_like(ctx.x).to(wrong)
    _each(ctx, x, str(wrong).removeprefix("torch."), f"{wrong} data")


@check(when=lambda model: takes_data(model) and _top(model.space) is not None)
def rejects_out_of_range(ctx: Context) -> None:
    """A level, category or code outside its range is refused, and named."""
    found = _top(ctx.declared.space)
    assert found is not None
    column, top = found
    x = ctx.x.clone() if ctx.x.is_floating_point() else ctx.x.long().clone()
    x.view(len(x), -1)[1, column] = top + 2
    _each(ctx, x, f"{top + 2:g}", f"data that hold {top + 2:g}")


@check(when=takes_data)
def rejects_foreign_types(ctx: Context) -> None:
    """What is no tensor is refused by the name of its type."""
    for door in doors(ctx.model):
        if door.name != "complete":
            refuses(lambda door=door: door.call([1.0, 2.0], None), "list", f"{door.name} of a list")  # type: ignore[misc]


@check(when=lambda model: takes_data(model) or model.condition is not None)
def rejects_wrong_condition(ctx: Context) -> None:
    """A condition that is missing, superfluous, out of range or of another length is refused."""
    model, space = ctx.model, ctx.declared.condition
    data = [door for door in doors(model) if door.name != "score"]
    for door in [*data, Door("sample", lambda x, c: model.sample(3, c, seed=0))]:
        if space is None:
            _refuses_condition(door, ctx.x[:3], torch.zeros(3, dtype=torch.long), "condition", "a superfluous condition")
            continue
        good = cast(Tensor, ctx.conditions(3))
        if door.name != "sample" or not isinstance(space, Labels):
            _refuses_condition(door, ctx.x[:3], None, "missing", "no condition")
        _refuses_condition(door, ctx.x[:3], good[:2], "2 conditions", "2 conditions for 3 examples")
        if isinstance(space, Labels):
            top = space.classes + 3
            _refuses_condition(door, ctx.x[:3], torch.tensor([0, top, 0]), str(top), f"label {top}")


def _refuses_condition(door: Door, x: Tensor, condition: Tensor | None, shown: str, what: str) -> None:
    refuses(lambda: door.call(x, condition), shown, f"{door.name} with {what}")


@check()
def rejects_bad_n(ctx: Context) -> None:
    """sample refuses to draw less than one, or a fraction."""
    c = None if ctx.declared.condition is None else ctx.conditions(1)
    for n in (0, -3, 2.5, True):
        refuses(lambda n=n: ctx.model.sample(n, c, seed=0), repr(n), f"sample({n!r})")  # type: ignore[misc]


@dataclass(frozen=True)
class ForeignSampler(Sampler):
    """A sampler that belongs to no model."""


@check()
def rejects_foreign_sampler(ctx: Context) -> None:
    """sample refuses a sampler that the model does not list."""
    c = None if ctx.declared.condition is None else ctx.conditions(1)
    refuses(lambda: ctx.model.sample(1, c, seed=0, sampler=ForeignSampler()), "ForeignSampler", "sample with a foreign sampler")


@check(when=is_implicit)
def implicit_says_so(ctx: Context) -> None:
    """A model without density raises NoDensity and claims no methods that need one."""
    refuses(lambda: ctx.model.log_prob(ctx.rows.x, ctx.rows.condition), "density", "log_prob of an implicit model", NoDensity)
    require(not isinstance(ctx.model, Weighs), "a model without density has log_weights")


@check(when=lambda model: one_tensor(model) and isinstance(model, Completes))
def rejects_bad_mask(ctx: Context) -> None:
    """complete refuses a mask of another shape or dtype."""
    model = cast(Completes, ctx.model)
    shape = (*ctx.x.shape[:-1], ctx.x.shape[-1] + 1)
    wrong = torch.ones(shape, dtype=torch.bool)
    refuses(lambda: model.complete(ctx.x, wrong, ctx.rows.condition, seed=0), str(tuple(shape)), "complete with a mask of another shape")
    numbers = torch.full(ctx.x.shape, 0.5)
    refuses(lambda: model.complete(ctx.x, numbers, ctx.rows.condition, seed=0), "float32", "complete with a mask of floats")


@check(when=implements(Decodes))
def rejects_bad_latents(ctx: Context) -> None:
    """decode refuses latents of another size or with NaN."""
    model = cast(Decodes, ctx.model)
    h = model.latents(3, seed=0)
    c = ctx.conditions(3)
    wide = torch.cat([h, h[..., :1]], dim=-1)
    refuses(lambda: model.decode(wide, c), str(tuple(wide.shape)), "decode of latents of another size")
    broken = h.clone()
    broken.view(3, -1)[1, 0] = math.nan
    refuses(lambda: model.decode(broken, c), "nan", "decode of latents with NaN")


def _floats(space: Space) -> bool:
    return isinstance(space, (Vector, Table)) or (isinstance(space, Image) and space.levels is None)


def _top(space: Space) -> tuple[int, float] | None:
    if isinstance(space, Tokens):
        return 0, float(space.vocab - 1)
    for index, column in enumerate(columns_of(space)):
        if column.cardinality is not None and column.cardinality < 250:
            return index, column.origin + (column.grid or 1.0) * (column.cardinality - 1)
    return None
