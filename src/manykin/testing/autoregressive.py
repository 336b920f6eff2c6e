"""Checks of models that read in an order: causality, conditionals that are probabilities, decoding, and texts beyond the context.

Entries are counted in reading order: texts from left to right, pictures line by line and the channels of a pixel one after the other.
"""

import warnings
from collections.abc import Iterator
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from manykin.config import options
from manykin.contract import Completes, Continues, GenerativeModel, Sampler
from manykin.errors import ManykinWarning
from manykin.spaces import Image, Space, Tokens, Value, columns_of, take
from manykin.testing.completion import fill, from_order, in_order, mask
from manykin.testing.context import Context, same, worst
from manykin.testing.core import Topic, has_density, implements, one_tensor, require
from manykin.testing.errors import refuses
from manykin.testing.statistics import P_VALUE, chi_square, enumerate_tokens, z_score, z_threshold

check = Topic("autoregressive")

TOLERANCE = 1e-4
PLACES = 12
"""Places of a row that are looked at, at most."""

VALUES = 96
"""Values over all places, about, at which every conditional is computed to find an entropy."""

SMALL_PICTURE = 256
"""Entries of a picture up to which each is changed alone."""


@runtime_checkable
class Factorises(Protocol):
    """Models that give each factor of their density: an optional method that users call for the surprise of every symbol or pixel."""

    def log_conditionals(self, x: Value, condition: Value | None = None) -> Tensor:
        """log p of each entry given those before it, shape of x; sums to ``log_prob`` over a row."""
        ...


def _factorises(model: GenerativeModel) -> bool:
    return implements(Factorises)(model) and has_density(model) and one_tensor(model) and _levels(model.space) is not None


def _prefixes(model: GenerativeModel) -> bool:
    return implements(Completes)(model) and one_tensor(model) and type(model).completes == "prefix"


def _levels(space: Space) -> int | None:
    """How many values each entry can take; None where that is unknown, differs, or is too many to try each."""
    if isinstance(space, Tokens):
        return space.vocab if space.vocab <= 64 else None
    found = {column.cardinality for column in columns_of(space)}
    return next(iter(found)) if len(found) == 1 and None not in found and max(found) <= 64 else None  # type: ignore[type-var,operator]


def _conditionals(ctx: Context, x: Tensor, condition: Value | None) -> Tensor:
    return in_order(ctx.declared.space, cast(Factorises, ctx.model).log_conditionals(x, condition))


def _rows(ctx: Context, n: int = 16) -> tuple[Tensor, Value | None]:
    c = ctx.rows.condition
    return ctx.x[:n].clone(), None if c is None else take(c, slice(0, n))


def _places(x: Tensor) -> list[int]:
    size = x[0].numel()
    return sorted({round(index * (size - 1) / max(min(size, PLACES) - 1, 1)) for index in range(min(size, PLACES))})


def _ended(space: Space, x: Tensor, place: int) -> Tensor:
    """Which strings are over before a place."""
    if not isinstance(space, Tokens) or space.end is None:
        return torch.zeros(len(x), dtype=torch.bool)
    return (x[:, :place] == space.end).any(dim=1)


def spliced(space: Space, x: Tensor, other: Tensor, place: int) -> Tensor:
    """x up to a place in reading order and other from there on; strings that are over stay so."""
    flat, tail = in_order(space, x).clone(), in_order(space, other)
    flat[:, place:] = torch.where(_ended(space, x, place)[:, None], flat[:, place:], tail[:, place:])
    return from_order(space, flat)


def variants(space: Space, x: Tensor, place: int, levels: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """``(value, rows, possible)``: x with each value at a place and something valid behind it, and the rows in which that value is possible."""
    for value in range(levels):
        rows = in_order(space, x).clone()
        possible = torch.ones(len(x), dtype=torch.bool)
        if isinstance(space, Tokens) and space.end is not None:
            only_end = _ended(space, x, place) | (place == space.length - 1)
            possible = ~only_end if value != space.end else possible
            rows[:, place:] = space.end
        rows[possible, place] = value
        yield value, from_order(space, rows), possible


@check(when=_factorises)
def conditionals_sum_to_log_prob(ctx: Context) -> None:
    """The conditionals of all entries of a row sum to its log_prob, and none is above zero."""
    x, c = _rows(ctx, 48)
    found = cast(Factorises, ctx.model).log_conditionals(x, c)
    require(found.shape == x.shape, f"log_conditionals of shape {tuple(x.shape)} has shape {tuple(found.shape)}")
    terms = in_order(ctx.declared.space, found)
    gap = worst(terms.double().sum(dim=1), ctx.log_prob(x, c))
    require(gap <= TOLERANCE * x[0].numel(), f"the conditionals of a row sum to its log_prob only within {gap:.3g} nats")
    require(float(terms.max()) <= TOLERANCE, f"a conditional is {float(terms.max()):.3g}, above zero")


@check(when=_factorises)
def conditionals_see_only_the_past(ctx: Context) -> None:
    """Whatever stands from some place on, the conditionals of the places before it stay as they are: no mask leaks, at any place."""
    x, c = _rows(ctx)
    space, before = ctx.declared.space, _conditionals(ctx, x, c)
    for place in _places(x)[1:]:
        after = _conditionals(ctx, spliced(space, x, x.flip(0), place), c)
        gap = worst(after[:, :place], before[:, :place])
        require(gap <= TOLERANCE, f"other entries from place {place} on change a conditional before it by {gap:.3g} nats: a mask leaks")


@check(when=_factorises)
def conditionals_sum_to_one(ctx: Context) -> None:
    """At every place the conditional probabilities of all values sum to one."""
    x, c = _rows(ctx)
    space = ctx.declared.space
    for place in _places(x):
        total = torch.zeros(len(x), dtype=torch.float64)
        for _, rows, possible in variants(space, x, place, cast(int, _levels(space))):
            total += torch.where(possible, _conditionals(ctx, rows, c)[:, place].exp(), 0.0)
        gap = float((total - 1).abs().max())
        require(gap <= TOLERANCE, f"the probabilities of all values at place {place} sum to {float(total[(total - 1).abs().argmax()]):.5g}")


@check(when=lambda model: _factorises(model) and _small_picture(model.space))
def conditionals_have_no_blind_spot(ctx: Context) -> None:
    """Where a pixel depends on another, it depends on each earlier pixel that is no farther up and no farther to that side.

    Stacks of masked convolutions cannot see what lies above and farther to the right than up (van den Oord et al., Conditional image generation with
    PixelCNN decoders, 2016, figure 1). Each entry is changed alone, in float64. Dependence: more than 1e-7 nats; none: less than 1e-13.
    """
    twin = ctx.copy().double()
    x, c = _rows(ctx, 4)
    space, levels = cast(Image, ctx.declared.space), cast(int, _levels(ctx.declared.space))
    channels, height, width = space.size
    flat = in_order(space, x).long()
    before, effects = in_order(space, cast(Factorises, twin).log_conditionals(x, c)), []
    for entry in range(flat.shape[1]):
        rows = flat.clone()
        rows[:, entry] = (rows[:, entry] + 1) % levels
        after = in_order(space, cast(Factorises, twin).log_conditionals(from_order(space, rows).to(x.dtype), c))
        effects.append((after - before).abs().amax(dim=0))
    effect = torch.stack(effects, dim=1).view(height * width, channels, height * width, channels)
    seen, least = effect.amax(dim=(1, 3)), effect.amin(dim=(1, 3))
    lines, columns = torch.arange(height * width) // width, torch.arange(height * width) % width
    for pixel in range(height * width):
        up, side = (lines[pixel] - lines)[:pixel], (columns - columns[pixel])[:pixel]
        within = (up[:, None] <= up) & (side[:, None].abs() <= side.abs()) & (side[:, None] * side >= 0)
        hidden = (least[pixel, :pixel] < 1e-13) & (within & (seen[pixel, :pixel] > 1e-7)).any(dim=1)
        found = [f"line {int(lines[spot])}, column {int(columns[spot])}" for spot in (pixel, *hidden.nonzero()[:1, 0].tolist())]
        require(len(found) == 1, f"the pixel in {found[0]} does not depend on that in {found[-1]}, but on one farther away: a blind spot")


def _small_picture(space: Space) -> bool:
    return isinstance(space, Image) and space.size[0] * space.size[1] * space.size[2] <= SMALL_PICTURE


@check(when=_factorises)
def surprise_of_samples_is_entropy(ctx: Context) -> None:
    """Each entry of a sample is as surprising as its conditional says: minus log p has the conditional's entropy as its mean.

    ``-log p(x_i | x_<i) - H(x_i | x_<i)`` has mean 0 for samples that are drawn in the model's own order from its own conditionals, and only noise
    of its own beside it: a much sharper test than the mean of log_prob.
    """
    many = 1024 if ctx.full else 256
    drawn, c = ctx.samples(many)
    x, space = cast(Tensor, drawn), ctx.declared.space
    terms, total = _conditionals(ctx, x, c).double(), torch.zeros(many, dtype=torch.float64)
    places = _places(x)
    for place in places[:: max(1, len(places) * cast(int, _levels(space)) // VALUES)]:
        entropy = torch.zeros(many, dtype=torch.float64)
        for _, rows, possible in variants(space, x, place, cast(int, _levels(space))):
            own = _conditionals(ctx, rows, c)[:, place].double()
            entropy -= torch.where(possible & own.isfinite(), own.exp() * own, 0.0)
        total -= terms[:, place] + entropy
    z = z_score(total)
    side = "less" if z < 0 else "more"
    require(
        abs(z) <= z_threshold() or abs(float(total.mean())) < 1e-4,
        f"samples are {side} surprising than the conditionals say: {float(total.mean()):.4g} nats a row, {z:.1f} standard errors",
    )


@check(when=lambda model: one_tensor(model) and _cached(model) is not None)
def cache_changes_nothing(ctx: Context) -> None:
    """Drawn with the cache or without, one seed gives the same samples, and the same completions."""
    kind = _cached(ctx.model)
    assert kind is not None
    samplers = [kind.from_json({"use_cache": use}) for use in (True, False)]
    n = 32 if ctx.full else 12
    c = ctx.conditions(n)
    found = [cast(Tensor, ctx.model.sample(n, c, seed=3, sampler=each)) for each in samplers]
    require(same(*found), "samples of one seed differ with and without the cache")
    if _prefixes(ctx.model):
        x, c = _rows(ctx, n)
        known = mask(ctx, x)
        filled = [cast(Tensor, cast(Completes, ctx.model).complete(x, known, c, seed=3, sampler=each)) for each in samplers]
        require(same(*filled), "completions of one seed differ with and without the cache")


def _cached(model: GenerativeModel) -> type[Sampler] | None:
    """The model's sampler whose cache can be left out."""
    return next((kind for kind in type(model).samplers if any(info.name == "use_cache" for info in options(kind))), None)


@check(when=_prefixes)
def completion_ignores_the_unknown(ctx: Context) -> None:
    """What stands behind the known beginning has no influence on the completion, at any place."""
    x, c = _rows(ctx)
    for place in [*_places(x), x[0].numel()]:
        known = from_order(ctx.declared.space, (torch.arange(x[0].numel()) < place).expand(len(x), -1))
        found = fill(ctx, x, known, c, seed=place)
        other = fill(ctx, spliced(ctx.declared.space, x, x.flip(0), place), known, c, seed=place)
        require(same(found, other), f"entries from place {place} on are unknown, and yet they change the completion")


def _greedy(model: GenerativeModel) -> Sampler | None:
    """The model's sampler that takes a temperature, at temperature 0."""
    kinds = [kind for kind in type(model).samplers if any(info.name == "temperature" for info in options(kind))]
    return kinds[0].from_json({"temperature": 0}) if kinds else None


@check(when=lambda model: _factorises(model) and _prefixes(model) and _greedy(model) is not None)
def greedy_takes_the_most_probable(ctx: Context) -> None:
    """At temperature 0 nothing is random, and each drawn entry is the most probable one given those before it."""
    x, c = _rows(ctx)
    known, sampler, space = mask(ctx, x), _greedy(ctx.model), ctx.declared.space
    found, again = (cast(Tensor, cast(Completes, ctx.model).complete(x, known, c, seed=seed, sampler=sampler)) for seed in (0, 1))
    require(same(found, again), "at temperature 0 two seeds give two completions")
    chosen, free = _conditionals(ctx, found, c), ~in_order(space, known)
    for place in _places(x):
        for value, rows, possible in variants(space, found, place, cast(int, _levels(space))):
            better = torch.where(possible & free[:, place], _conditionals(ctx, rows, c)[:, place] - chosen[:, place], 0.0)
            require(
                float(better.max()) <= TOLERANCE,
                f"at temperature 0 place {place} does not hold the most probable value: {value} is {float(better.max()):.3g} nats more probable",
            )


# Texts of any length.


def _continues(model: GenerativeModel) -> bool:
    return implements(Continues)(model) and isinstance(model.space, Tokens)


def _tokens(ctx: Context) -> Tokens:
    return cast(Tokens, ctx.declared.space)


def _go_on(ctx: Context, prompt: Tensor, n: int, seed: int = 0) -> Tensor:
    c = None if ctx.declared.condition is None else ctx.conditions(len(prompt))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ManykinWarning)
        return cast(Continues, ctx.model).continuation(prompt, n, c, seed=seed)


@check(when=_continues)
def continuation_valid(ctx: Context) -> None:
    """Continuations have the asked length, hold valid codes, follow from the seed, and hold only ``end`` after the first ``end``."""
    space = _tokens(ctx)
    n = 2 * space.length + 3
    for m in (0, 1, space.length - 1):
        prompt = ctx.x[:8, :m].clone()
        found, kept = _go_on(ctx, prompt, n), prompt.clone()
        require(found.shape == (len(prompt), n), f"continuation of {m} symbols by {n} has shape {tuple(found.shape)}")
        require(found.dtype == torch.int64, f"continuation returns {found.dtype}; expected int64")
        require(0 <= int(found.min()) <= int(found.max()) < space.vocab, f"continuation holds codes from {int(found.min())} to {int(found.max())}")
        require(same(prompt, kept), "continuation changed its prompt in place")
        require(same(found, _go_on(ctx, prompt, n)), "continuation with one seed differs between two calls")
        if space.end is not None:
            whole = torch.cat([prompt, found], dim=1)
            over = (whole == space.end).long().cumsum(dim=1) > 0
            require(bool((whole[over] == space.end).all()), "continuation holds symbols after the end")
            require(bool(over[:, space.length - 1 :].all()), f"a continued string has more than {space.length - 1} symbols")
    start = ctx.x[:8, :0]
    require(not same(_go_on(ctx, start, n), _go_on(ctx, start, n, seed=1)), "continuation with two seeds gives the same")


@check(when=lambda model: _continues(model) and (_factorises(model) or _countable(model.space)))
def continuation_follows_conditional(ctx: Context) -> None:
    """The next symbol after a prompt follows the conditional distribution of log_prob (chi-square)."""
    space, many = _tokens(ctx), 4096 if ctx.full else 1536
    lengths = sorted({0, 1, space.length - 1}) if space.end is None else sorted({0, min(1, space.length - 1)})
    for m in lengths:
        usable = (~_ended(space, ctx.x, m)).nonzero()[:, 0]
        prompt, c = ctx.x[usable[:1], :m], None if ctx.rows.condition is None else take(ctx.rows.condition, usable[:1])
        repeated = None if c is None else take(c, torch.zeros(many, dtype=torch.long))
        drawn = cast(Continues, ctx.model).continuation(prompt.expand(many, -1).clone(), 1, repeated, seed=m)[:, 0]
        expected = _next_chances(ctx, ctx.x[usable[:1]], m, c) * many
        statistic, p, cells = chi_square(torch.bincount(drawn, minlength=space.vocab).double(), expected)
        require(p > P_VALUE, f"the symbol after {m} others does not follow log_prob: chi-square {statistic:.0f} over {cells} cells, p = {p:.1g}")


def _countable(space: Space) -> bool:
    return isinstance(space, Tokens) and space.vocab**space.length <= 4096


def _next_chances(ctx: Context, row: Tensor, m: int, c: Value | None) -> Tensor:
    """The probability of each symbol at place m after the first m symbols of a row, shape (vocabulary,)."""
    space = _tokens(ctx)
    if isinstance(ctx.model, Factorises):
        found = [torch.where(possible, _conditionals(ctx, rows, c)[:, m].exp(), 0.0)[0] for _, rows, possible in variants(space, row, m, space.vocab)]
        return torch.stack(found).double()
    texts = enumerate_tokens(space)
    texts = texts[(texts[:, :m] == row[:, :m]).all(dim=1)]
    mass = torch.zeros(space.vocab, dtype=torch.float64).index_add_(0, texts[:, m], ctx.log_prob(texts, c).exp())
    return mass / mass.sum()


@check(when=lambda model: _continues(model) and cast(Tokens, model.space).end is None)
def long_prompts_are_cut(ctx: Context) -> None:
    """Of a prompt that is longer than the context the last part counts, and a warning says so."""
    space = _tokens(ctx)
    long = ctx.x[:8].repeat(1, 3)
    c = None if ctx.declared.condition is None else ctx.conditions(8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = cast(Continues, ctx.model).continuation(long, 3, c, seed=0)
    require(any(issubclass(each.category, ManykinWarning) for each in caught), f"a prompt of {long.shape[1]} symbols is cut without a warning")
    other = long.clone()
    other[:, : space.length] = (other[:, : space.length] + 1) % space.vocab
    require(same(found, _go_on(ctx, other, 3)), f"symbols {2 * space.length} before the end of a prompt change what follows")


@check(when=_continues)
def rejects_bad_prompts(ctx: Context) -> None:
    """Prompts of another rank or dtype, codes out of range, and n below 1 are refused, and named."""
    model, space = cast(Continues, ctx.model), _tokens(ctx)
    c = None if ctx.declared.condition is None else ctx.conditions(2)
    good = ctx.x[:2, :1]
    refuses(lambda: model.continuation(good, 0, c, seed=0), "0", "continuation by 0 symbols")
    refuses(lambda: model.continuation(good[0], 2, c, seed=0), str(tuple(good[0].shape)), "continuation of one row without its axis")
    refuses(lambda: model.continuation(good.float(), 2, c, seed=0), "float32", "continuation of floats")
    refuses(lambda: model.continuation(good * 0 + space.vocab, 2, c, seed=0), str(space.vocab), f"continuation of the code {space.vocab}")
