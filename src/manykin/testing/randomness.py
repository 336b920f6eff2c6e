"""Checks of randomness: the seed decides, and nothing else does; evaluation leaves no trace."""

import random
import threading

import numpy as np
import torch
from torch import Tensor

from manykin.random import seeded
from manykin.spaces import Value, take
from manykin.testing.context import Context, changed, same_value, state_of
from manykin.testing.core import Topic, has_density, require

check = Topic("randomness")


@check()
def seeds_decide(ctx: Context) -> None:
    """One seed gives one set of samples; other seeds, and no seed, give others."""
    c = ctx.conditions(64)
    first, again, other = (ctx.model.sample(64, c, seed=seed) for seed in (0, 0, 1))
    require(same_value(first, again), "two calls of sample with the same seed differ")
    require(not same_value(first, other), "samples of two seeds are equal")
    require(not same_value(ctx.model.sample(64, c), ctx.model.sample(64, c)), "two calls of sample without a seed are equal")


@check()
def samples_vary(ctx: Context) -> None:
    """Blocks and rows of one call are different draws."""
    block = type(ctx.model).sample_block
    if block > 4096:
        return
    x = ctx.model.sample(2 * block, ctx.conditions(1), seed=0) if ctx.declared.condition is not None else ctx.model.sample(2 * block, seed=0)
    require(not same_value(take(x, slice(0, block)), take(x, slice(block, 2 * block))), "two blocks of one call hold the same samples")


@check()
def global_generators_untouched(ctx: Context) -> None:
    """Sampling and scoring leave the global generators of torch, numpy and Python as they were."""
    before = (torch.get_rng_state(), repr(np.random.get_state(legacy=False)), random.getstate())
    ctx.model.sample(5, ctx.conditions(5), seed=0)
    if has_density(ctx.model):
        ctx.model.log_prob(ctx.rows.x, ctx.rows.condition)
    after = (torch.get_rng_state(), repr(np.random.get_state(legacy=False)), random.getstate())
    for name, old, new in zip(("torch", "numpy", "Python"), before, after, strict=True):
        same = torch.equal(old, new) if isinstance(old, Tensor) and isinstance(new, Tensor) else old == new
        require(same, f"sample or log_prob changed the global generator of {name}")


@check()
def only_the_seed_counts(ctx: Context) -> None:
    """Seeded results do not depend on the global generators' state."""
    results = []
    for state in (1, 2):
        kept = np.random.get_state()
        with seeded(state):
            np.random.seed(state)
            results.append(ctx.model.sample(16, ctx.conditions(16), seed=4))
        np.random.set_state(kept)
    require(same_value(results[0], results[1]), "samples with one seed depend on the state of a global generator")


@check()
def modes_restored(ctx: Context) -> None:
    """Every module is in evaluation mode while sampling, and in its former mode afterwards."""
    model = ctx.copy()
    model.eval()
    c = ctx.conditions(8)
    expected = model.sample(8, c, seed=0)
    model.train()
    first = next(iter(model.children()), None)
    if first is not None:
        first.eval()
    modes = [module.training for module in model.modules()]
    found = model.sample(8, c, seed=0)
    require(same_value(expected, found), "sample in train mode differs from sample in evaluation mode")
    require(modes == [module.training for module in model.modules()], "sample changed the train/eval mode of a module")


@check()
def calls_leave_state(ctx: Context) -> None:
    """sample and log_prob change no parameter and no buffer, and the second call returns what the first did."""
    model = ctx.copy()
    before = state_of(model)
    first = model.sample(8, ctx.conditions(8), seed=0)
    if has_density(model):
        model.log_prob(ctx.rows.x, ctx.rows.condition)
    names = changed(before, state_of(model))
    require(not names, f"sample or log_prob changed {', '.join(names[:3])}")
    require(same_value(first, model.sample(8, ctx.conditions(8), seed=0)), "sample with one seed differs after a call of log_prob")


@check()
def threads_agree(ctx: Context) -> None:
    """Samples drawn by several threads at once are those drawn by one."""
    model, c = ctx.model, ctx.conditions(40)
    expected = [model.sample(40, c, seed=seed) for seed in range(4)]
    found: dict[int, Value] = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: model.sample(40, c, seed=seed)})) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        require(seed in found and same_value(found[seed], expected[seed]), f"samples of seed {seed} differ when drawn by several threads at once")
