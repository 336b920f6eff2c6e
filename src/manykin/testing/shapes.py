"""Checks of shapes: one row, many rows, batch-mates, dtypes."""

import torch

from manykin.random import seeded
from manykin.spaces import Value, count, take
from manykin.testing.context import Context, same_value, worst
from manykin.testing.core import Topic, has_density, has_exact_kind, one_tensor, real_space, require
from manykin.testing.statistics import z_threshold

check = Topic("shapes")


@check(when=has_density)
def log_prob_shape(ctx: Context) -> None:
    """log_prob returns one float64 number an example, also for a batch of one."""
    for n in (1, 5, 48):
        x, c = take(ctx.rows.x, slice(0, n)), None if ctx.rows.condition is None else take(ctx.rows.condition, slice(0, n))
        value = ctx.model.log_prob(x, c)
        require(value.shape == (n,), f"log_prob of {n} rows has shape {tuple(value.shape)}; expected ({n},)")
        require(value.dtype == torch.float64, f"log_prob has dtype {value.dtype}; expected float64")


@check(when=has_density)
def batch_mates_ignored(ctx: Context) -> None:
    """The log_prob of a row is the same alone as among others."""
    model, n = ctx.model, 6
    c = ctx.rows.condition
    rows = [(take(ctx.rows.x, slice(i, i + 1)), None if c is None else take(c, slice(i, i + 1))) for i in range(n)]
    if model.density is not None and not model.density.noisy:
        alone = torch.cat([model.log_prob(x, one).detach() for x, one in rows])
        among = model.log_prob(ctx.rows.x, c).detach()[:n]
    elif has_exact_kind(model):
        with torch.no_grad(), seeded(0):
            z, _, c = model.prepare(ctx.rows.x, c)
        with torch.no_grad(), model.evaluating(0):
            among = model._log_prob(z, c)[:n]
            alone = torch.cat([model._log_prob(z[i : i + 1], None if c is None else take(c, slice(i, i + 1))) for i in range(n)])
    else:
        _compare_noisy(ctx, rows[0])
        return
    gap = worst(alone, among)
    require(gap <= 1e-3 * (1 + float(among.abs().max())), f"log_prob of a row differs by {gap:.3g} nats between alone and in a batch")


def _compare_noisy(ctx: Context, row: tuple[Value, Value | None]) -> None:
    draws = 40
    alone = torch.stack([ctx.model.log_prob(*row, seed=seed).detach()[0] for seed in range(draws)])
    among = torch.stack([ctx.model.log_prob(ctx.rows.x, ctx.rows.condition, seed=1000 + seed).detach()[0] for seed in range(draws)])
    error = float((alone.var() / draws + among.var() / draws).sqrt())
    gap = abs(float(alone.mean() - among.mean()))
    require(gap <= 1.5 * z_threshold() * error + 1e-3, f"log_prob of a row has mean {alone.mean():.4g} alone and {among.mean():.4g} in a batch")


@check()
def sample_shape(ctx: Context) -> None:
    """sample(n) returns n data of the space, for one and across a block's end."""
    block = type(ctx.model).sample_block
    for n in (1, 3, block + 1):
        x = ctx.model.sample(n, ctx.conditions(n), seed=0)
        require(count(x) == n, f"sample({n}) returned {count(x)} rows")
        ctx.declared.space.validate(x, f"sample({n})")


@check()
def sample_prefix(ctx: Context) -> None:
    """The first k of n samples do not depend on n."""
    block = type(ctx.model).sample_block
    n = block + 5
    c = ctx.conditions(n)
    whole = ctx.model.sample(n, c, seed=3)
    for k in (1, 7, block):
        part = ctx.model.sample(k, None if c is None else take(c, slice(0, k)), seed=3)
        require(same_value(part, take(whole, slice(0, k))), f"the first {k} of {n} samples differ from sample({k}) with the same seed")


@check(when=lambda model: has_density(model) and real_space(model) and one_tensor(model))
def float_dtypes_agree(ctx: Context) -> None:
    """log_prob of float32 and float64 data agree to single precision."""
    wide = ctx.model.log_prob(ctx.x.double(), ctx.rows.condition).detach()
    narrow = ctx.model.log_prob(ctx.x.float(), ctx.rows.condition).detach()
    if ctx.model.density is not None and ctx.model.density.noisy:
        return
    finite = wide.isfinite() & narrow.isfinite()
    flips = float((wide.isfinite() != narrow.isfinite()).double().mean())
    require(flips <= 0.1, f"log_prob of float32 and float64 copies of the data: only one of them is finite for {flips:.0%} of the rows")
    gap, scale = worst(wide[finite], narrow[finite]), 1 + (float(wide[finite].abs().max()) if bool(finite.any()) else 0.0)
    require(gap <= 1e-2 * scale, f"log_prob of float32 and float64 copies of the data differ by {gap:.3g} nats")


@check(when=lambda model: has_density(model) and one_tensor(model))
def strides_ignored(ctx: Context) -> None:
    """log_prob takes tensors that are not contiguous, and leaves them as they were."""
    x = ctx.x
    spread = torch.stack([x, x], dim=-1)[..., 0]
    kept = spread.clone()
    gap = worst(ctx.model.log_prob(spread, ctx.rows.condition), ctx.model.log_prob(x, ctx.rows.condition))
    require(gap <= 1e-6, f"log_prob of a strided view differs by {gap:.3g} nats")
    require(same_value(spread, kept), "log_prob changed its input in place")


@check()
def one_condition_serves_all(ctx: Context) -> None:
    """One condition is as good as n equal ones; a model without conditions samples without one."""
    if ctx.declared.condition is None:
        ctx.declared.space.validate(ctx.model.sample(2, seed=0), "sample(2)")
        return
    one = take(ctx.rows.condition, slice(0, 1)) if ctx.rows.condition is not None else None
    assert one is not None
    many = take(one, torch.zeros(5, dtype=torch.long))
    same = same_value(ctx.model.sample(5, one, seed=2), ctx.model.sample(5, many, seed=2))
    require(same, "sample(5, one condition) differs from sample(5, five equal conditions)")
