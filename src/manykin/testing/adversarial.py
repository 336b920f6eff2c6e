"""Checks of a generator and a discriminator that play against each other."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast, runtime_checkable

import torch
from scipy import stats
from torch import Tensor, nn

from manykin.contract import Batch, Decodes, GenerativeModel, Gradient, Preset
from manykin.errors import ManykinWarning
from manykin.models.collapse import Spread
from manykin.nn.spectral import Spectral
from manykin.random import seeded
from manykin.spaces import Value, take
from manykin.testing.context import Context, changed, worst
from manykin.testing.core import Topic, gradient_phases, is_implicit, one_tensor, require
from manykin.testing.statistics import P_VALUE, distance_test
from manykin.transforms.base import representative
from manykin.transforms.continuous import bounds_of

check = Topic("adversarial")

DRAWS = 256
"""Examples in a distributional check."""
STRETCH = 1.25
"""The largest singular value that a normalised layer may have: one power iteration a step follows a moving weight with a delay."""


HANDFUL = 5
"""Examples that a generator which has collapsed onto a few repeats."""


@runtime_checkable
class Penalises(Protocol):
    """Has a penalty on the slope of its discriminator between real and generated examples in model space: a number each, shape (n,)."""

    discriminator: nn.Module

    def slope_penalty(self, real: Tensor, fake: Tensor, condition: Value | None) -> Tensor:
        """The penalty of n pairs."""
        ...


def plays(model: GenerativeModel) -> bool:
    """The model has a network ``generator``, which makes examples in model space, and a ``discriminator``, each with a phase of its own."""
    networks = all(isinstance(getattr(model, name, None), nn.Module) for name in ("generator", "discriminator"))
    return networks and all(_phase(model, name) is not None for name in ("generator", "discriminator"))


def _phase(model: GenerativeModel, player: str) -> Gradient | None:
    return next((each for each in gradient_phases(model) if isinstance(each.params, str) and each.params.startswith(player)), None)


def _network(model: GenerativeModel, player: str) -> nn.Module:
    return cast(nn.Module, getattr(model, player))


def _loss(ctx: Context, model: GenerativeModel, player: str, batch: Batch) -> Tensor:
    return ctx.loss(model, cast(Gradient, _phase(model, player)), batch)


@check(when=plays)
def players_stay_apart(ctx: Context) -> None:
    """With nothing frozen, the discriminator's loss has no gradient in the generator, and the generator's loss has one there."""
    for player in ("discriminator", "generator"):
        model = ctx.start(ctx.fresh()).requires_grad_(True)
        _loss(ctx, model, player, ctx.rows).mean().backward()  # type: ignore[no-untyped-call]
        reached = [name for name, parameter in _network(model, "generator").named_parameters() if parameter.grad is not None]
        if player == "discriminator":
            require(not reached, f"the discriminator's loss has a gradient in the generator ({', '.join(reached[:3])}): generate without gradients")
        else:
            require(reached, "the generator's loss has no gradient in the generator: the discriminator sees examples that are cut off from it")


@check(when=plays)
def both_sides_seen_alike(ctx: Context) -> None:
    """The discriminator sees real and generated examples after the same changes, in both phases: augmentation on one side would be learnt."""
    model, n = ctx.copy(), 128
    z, _ = model.to_model_space(ctx.rows.x)
    row = int(z.detach().flatten(1).std(dim=1).argmax()) if z[0].numel() > 1 else 0
    batch = Batch(*(None if part is None else take(part, torch.full((n,), row)) for part in (ctx.rows.x, ctx.rows.condition)))  # type: ignore[arg-type]
    seen: dict[str, Tensor] = {}
    # A generator that returns real rows: then what the discriminator sees must have one law, whichever side and phase it comes from.
    with _replaced(model, lambda out: _fresh(model, batch, out)):
        for player, looks in (("discriminator", 2 * n), ("generator", n)):
            with _watched(_network(model, "discriminator")) as inputs:
                _loss(ctx, model, player, batch)
            seen[player] = torch.cat([part.detach().flatten(1).double() for part in inputs])[:looks]
    first, second = seen["discriminator"], seen["generator"]
    require(first.shape[1] == second.shape[1], "the discriminator sees inputs of other sizes in its own phase and in the generator's")
    both = torch.cat([first, second])
    if bool((both == both[0]).all()):
        return
    distance, z_value = distance_test(first, second)
    require(
        z_value < 6,
        f"real rows in both places look different to the discriminator in its own phase and in the generator's (energy distance {distance:.3g}, "
        f"{z_value:.1f} standard deviations of permutations): one side or phase is changed and the other is not",
    )


def _fresh(model: GenerativeModel, batch: Batch, out: Tensor) -> Tensor:
    """The batch in model space, with dequantisation noise of its own, where the generator's examples would be; its gradient is theirs."""
    z, _ = model.to_model_space(take(batch.x, slice(0, len(out))))
    return z.view_as(out).to(out.dtype) + 0 * out


@contextmanager
def _replaced(model: GenerativeModel, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The generator's output changed by a function, for a while."""
    handle = _network(model, "generator").register_forward_hook(lambda module, given, out: change(out))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _watched(network: nn.Module) -> Iterator[list[Tensor]]:
    """What a network is given first, call after call."""
    inputs: list[Tensor] = []
    handle = network.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    try:
        yield inputs
    finally:
        handle.remove()


def _bounded(model: GenerativeModel) -> bool:
    if not plays(model) or not one_tensor(model) or model.accepts.bounded != "scale":
        return False
    return all(bound is not None for bound in bounds_of(representative(model.space)))


@check(when=_bounded)
def generator_has_the_data_range(ctx: Context) -> None:
    """Where all data lie in [-1, 1] in model space, so does what the generator makes, and ten times its last weights reach both halves."""
    model = ctx.copy()
    z, _ = model.to_model_space(ctx.rows.x)
    require(float(z.detach().abs().max()) <= 1 + 1e-6, "data that should be scaled to [-1, 1] are not")
    with torch.no_grad():
        for parameter in _network(model, "generator").parameters():
            parameter.mul_(10)
    made: list[Tensor] = []

    def keep(out: Tensor) -> Tensor:
        made.append(out)
        return out

    with _replaced(model, keep):
        model.sample(DRAWS, ctx.conditions(DRAWS), seed=0)
    low, high = float(made[0].min()), float(made[0].max())
    require(
        low >= -1 - 1e-5 and high <= 1 + 1e-5, f"the generator makes values from {low:.3g} to {high:.3g}, where all data lie in [-1, 1]: squash them"
    )
    require(low < -0.2 and high > 0.2, f"the generator makes values from {low:.3g} to {high:.3g}, and the data fill [-1, 1]")


@check(when=plays)
def adversarial_presets_average(ctx: Context) -> None:
    """Every preset of an adversarial model averages its weights: the last ones are a moment of a game that circles."""
    for name, preset in type(ctx.declared).presets.items():
        chosen = preset if isinstance(preset, Preset) else preset(ctx.declared.space, 512)
        require(chosen.train.get("ema"), f"preset {name!r} does not average the weights; give it train option 'ema'")


@check(when=lambda model: isinstance(model, Decodes) and is_implicit(model) and one_tensor(model))
def decoding_ignores_mates(ctx: Context) -> None:
    """The data that a latent stands for are the same alone as among others: no statistics of a batch are left in the generator."""
    model = cast(Decodes, ctx.model)
    h, c = model.latents(64, seed=3), ctx.conditions(64)
    with torch.no_grad():
        among = ctx.columns(cast(Tensor, model.decode(h, c)))[:4]
        alone = torch.cat([ctx.columns(cast(Tensor, model.decode(h[i : i + 1], None if c is None else take(c, slice(i, i + 1))))) for i in range(4)])
    gap = worst(alone, among)
    require(gap <= 1e-3 * (1 + float(among.abs().max())), f"decode of a latent differs by {gap:.3g} between alone and among 64")


class _Witness(nn.Module):
    """A linear critic that keeps what it is given."""

    def __init__(self, size: int, norm: float) -> None:
        super().__init__()
        weight = torch.randn(size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        self.weight = nn.Parameter(norm * weight / weight.norm())
        self.given = torch.zeros(0)

    def forward(self, z: Tensor, *others: Any) -> Tensor:
        flat = z.flatten(1)[:, : len(self.weight)]
        self.given = flat.detach()
        scores = flat.double() @ self.weight
        return scores if others else scores[:, None]


@contextmanager
def _judged_by(model: GenerativeModel, norm: float) -> Iterator[tuple[_Witness, Callable[[], Tensor], Tensor, Tensor]]:
    """A linear critic in the place of the model's own: itself, the penalty of pairs far apart, and these pairs."""
    n, shape = DRAWS, model.model_space.shape
    with seeded(4):
        real, fake = 2 + torch.randn(n, *shape, dtype=model.dtype), -2 + torch.randn(n, *shape, dtype=model.dtype)
    labels = None if model.condition is None else take(model_conditions(model), torch.arange(n) % 48)
    own, witness = _network(model, "discriminator"), _Witness(math.prod(shape), norm)

    def penalty() -> Tensor:
        with seeded(6):
            return cast(Penalises, model).slope_penalty(real, fake, labels)

    model.discriminator = witness
    try:
        yield witness, penalty, real.flatten(1), fake.flatten(1)
    finally:
        model.discriminator = own


def model_conditions(model: GenerativeModel) -> Value:
    """48 conditions of the model's space, from example rows."""
    from manykin.testing.examples import example_rows

    return cast(Value, example_rows(model.space, model.condition, 48).condition)


def _penalises(model: GenerativeModel) -> bool:
    return plays(model) and isinstance(model, Penalises)


@check(when=_penalises)
def penalty_looks_between(ctx: Context) -> None:
    """The gradient penalty looks on the line between each real and generated example, at a place of its own, evenly spread over the line."""
    with _judged_by(ctx.copy(), 2.0) as (witness, penalty, real, fake):
        value = penalty()
        points = witness.given
    require(value.shape == (DRAWS,), f"the penalty of {DRAWS} pairs has shape {tuple(value.shape)}; expected one number each")
    way = real - fake
    share = ((points - fake) * way).sum(1) / way.square().sum(1)
    off = float((points - fake - share[:, None] * way).norm(dim=1).max() / way.norm(dim=1).mean())
    require(off < 1e-3, f"the penalty is taken off the line between a real and a generated example, by {off:.3g} of its length")
    chance = float(stats.kstest(share.double().numpy(), "uniform").pvalue)
    require(chance > P_VALUE, f"the places on the line from generated to real are not evenly spread over it (Kolmogorov-Smirnov p = {chance:.2g})")


@check(when=_penalises)
def penalty_makes_slopes_one(ctx: Context) -> None:
    """Descent on the gradient penalty brings the slope of a linear critic to one, from above and from below."""
    for norm in (3.0, 0.2):
        with _judged_by(ctx.copy(), norm) as (witness, penalty, _, _):
            for _ in range(100):
                value = penalty().mean()
                require(value.requires_grad, "the penalty has no gradient in the critic: differentiate with create_graph=True")
                (slope,) = torch.autograd.grad(value, witness.weight)
                with torch.no_grad():
                    witness.weight.sub_(0.1 * slope)
            found = float(witness.weight.detach().norm())
        require(
            abs(found - 1) < 0.05, f"under the penalty the slope of a linear critic goes from {norm:g} to {found:.3g}; expected 1 for each example"
        )


def _spectral(model: GenerativeModel) -> list[tuple[str, Spectral]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Spectral)]


@check(when=lambda model: bool(_spectral(model)))
def spectral_norms_near_one(ctx: Context) -> None:
    """After a fit the largest singular value of every spectrally normalised weight is about one."""
    model = ctx.copy() if ctx.subject.fitted else ctx.fit(ctx.fresh(), changes={"ema": None})
    for name, layer in _spectral(model.eval()):
        with torch.no_grad():
            value = float(torch.linalg.matrix_norm(layer.normalised().flatten(1).double(), 2))
        require(0.95 <= value <= STRETCH, f"the largest singular value of the normalised weight of {name} is {value:.3g}; expected about 1")


@check(when=lambda model: bool(_spectral(model)))
def spectral_vectors_rest(ctx: Context) -> None:
    """Power iterations run in training and not in evaluation, and no example sees another through them."""
    model = ctx.copy()
    for training in (True, False):
        model.train(training)
        for name, layer in _spectral(model):
            with torch.no_grad():
                layer.weight += 0.1 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
                before = {key: value.clone() for key, value in layer.named_buffers()}
                layer.normalised()
                moved = changed(before, dict(layer.named_buffers()))
            require(bool(moved) or not training, f"the singular vectors of {name} stay behind in training: no power iteration")
            require(not moved or training, f"{', '.join(moved)} of {name} change in evaluation")


def _watches(model: GenerativeModel) -> bool:
    return plays(model) and one_tensor(model) and any(isinstance(module, Spread) for module in model.modules())


@check(when=_watches)
def collapse_is_told(ctx: Context) -> None:
    """A generator that makes one example, or a handful of them, is warned of when training ends; one that repeats the data is not.

    A handful is told only of data that mostly differ: where rows repeat each other anyway, five of them may be all there are.
    """
    batch = ctx.data.train.batch(torch.randperm(len(ctx.data.train), generator=torch.Generator().manual_seed(1)))

    def real(model: GenerativeModel, out: Tensor, kinds: int) -> Tensor:
        z, _ = model.to_model_space(take(batch.x, torch.arange(len(out)) % kinds))
        return z.view_as(out).to(out.dtype) + 0 * out

    cases: dict[str, tuple[Callable[[GenerativeModel, Tensor], Tensor], bool]] = {
        "one example": (lambda model, out: out[:1].expand_as(out) + 0.0 * out, True),
        "the training rows": (lambda model, out: real(model, out, len(batch)), False),
    }
    _, kind, times = torch.unique(ctx.columns(cast(Tensor, batch.x)), dim=0, return_inverse=True, return_counts=True)
    if float((times[kind] == 1).double().mean()) > 0.5:
        cases[f"{HANDFUL} training rows over and over"] = (lambda model, out: real(model, out, HANDFUL), True)
    for title, (change, expected) in cases.items():
        model = ctx.fresh()
        with warnings.catch_warnings(record=True) as caught, _replaced(model, lambda out, c=change, m=model: c(m, out)):  # type: ignore[misc]
            warnings.simplefilter("always")
            ctx.fit(model, changes={"max_steps": 1})
        told = any(isinstance(each.message, ManykinWarning) and "collapse" in str(each.message) for each in caught)
        require(told == expected, f"a generator that makes {title} is {'' if told else 'not '}warned of at the end of training")
