"""Checks of persistence: what is saved is all of the model, and what is loaded is that model or an error."""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_origin

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from manykin.config import Config, OptionInfo, options
from manykin.contract import Batch, ClosedForm, GenerativeModel
from manykin.errors import CheckpointMismatch, InvalidInput
from manykin.spaces import space_from_json
from manykin.testing.context import Context, changed, same, same_value, state_of, worst
from manykin.testing.core import Topic, has_density, require
from manykin.testing.errors import refuses

if TYPE_CHECKING:
    from manykin.training import RunFolder

check = Topic("persistence")


def reload(ctx: Context, model: GenerativeModel) -> GenerativeModel:
    """What loading gives: constructed from JSON under another seed, then filled through a file."""
    given = ctx.declared
    config = type(given.config).from_json(json.loads(json.dumps(given.config.to_json())))
    space = space_from_json(json.loads(json.dumps(given.space.to_json())))
    condition = None if given.condition is None else space_from_json(json.loads(json.dumps(given.condition.to_json())))
    torch.manual_seed(987)
    fresh = type(given)(config, space, condition)
    fresh.allocate({name: int(size) for name, size in model.sizes.items()})
    with ctx.folder() as path:
        written(path / "run", model).fill_model(fresh)
    return fresh


def written(path: Path, model: GenerativeModel) -> "RunFolder":
    """A run folder with a model's config and weights."""
    from manykin.training import RunFolder, describe_model

    folder = RunFolder.create(path)
    folder.write_config(describe_model(model))
    folder.save_model(model)
    return folder


@check()
def saved_is_all(ctx: Context) -> None:
    """A model built from config, spaces and sizes and filled from the file gives the same samples and the same log_prob."""
    with torch.random.fork_rng():
        fresh = reload(ctx, ctx.model)
    c = ctx.conditions(16)
    require(same_value(ctx.model.sample(16, c, seed=0), fresh.sample(16, c, seed=0)), "samples of the loaded model differ")
    if has_density(ctx.model):
        gap = worst(ctx.model.log_prob(ctx.rows.x, ctx.rows.condition), fresh.log_prob(ctx.rows.x, ctx.rows.condition))
        require(gap == 0, f"log_prob of the loaded model differs by {gap:.3g} nats")
    names = [name for name, tensor in ctx.model.state_dict().items() if not same(tensor, fresh.state_dict()[name])]
    require(not names, f"tensors {', '.join(names[:3])} of the loaded model differ")


@check()
def shapes_follow_config(ctx: Context) -> None:
    """Names and shapes of all saved tensors follow from config, spaces and sizes alone."""
    expected = {name: tensor.shape for name, tensor in ctx.like(ctx.model).state_dict().items()}
    found = {name: tensor.shape for name, tensor in ctx.model.state_dict().items() if isinstance(tensor, Tensor)}
    strays = sorted(set(expected) ^ set(found))
    require(not strays, f"saved tensors {', '.join(strays[:3])} exist only in the fitted model, or only in a new one")
    wrong = [name for name in found if found[name] != expected[name]]
    require(not wrong, f"shapes of {', '.join(wrong[:3])} do not follow from config, spaces and sizes")
    require(all(type(size) is int for size in ctx.model.sizes.values()), f"sizes {ctx.model.sizes} are not all integers")


@check()
def state_is_tensors(ctx: Context) -> None:
    """The state of a model is named tensors and nothing else: no object that would need pickle."""
    for name, value in ctx.fresh().state_dict().items():
        require(isinstance(value, Tensor), f"the state {name!r} is a {type(value).__name__}; expected a tensor")
    with ctx.folder() as path:
        written(path / "run", ctx.model)
        for file in (path / "run").rglob("*"):
            if file.is_file():
                known = file.suffix in (".safetensors", ".json", ".jsonl", ".md", ".lock", "")
                require(known, f"{file.name} was written: an unknown kind of file")
                pickled = file.suffix != ".safetensors" and file.read_bytes()[:1] == b"\x80"
                require(not pickled, f"{file.name} holds a pickle")


@check()
def damage_is_noticed(ctx: Context) -> None:
    """A missing, unknown or misshapen tensor raises CheckpointMismatch that names it."""

    def fill(change: Callable[[dict[str, Tensor]], None]) -> Callable[[], object]:
        def call() -> None:
            with ctx.folder() as path:
                folder = written(path / "run", ctx.model)
                file = next((path / "run").glob("*.safetensors"))
                tensors = load_file(file)
                change(tensors)
                _overwrite(file, tensors)
                folder.fill_model(ctx.like(ctx.model))

        return call

    names = list(dict(ctx.model.named_parameters())) or [name for name, tensor in ctx.model.state_dict().items() if tensor.numel() > 0]
    names = names or list(ctx.model.state_dict())
    name = names[-1]
    require(name in ctx.model.state_dict(), f"the parameter {name} is not in the saved state")
    refuses(fill(lambda tensors: tensors.update({"stranger": torch.zeros(2)})), "stranger", "a file with an unknown tensor", CheckpointMismatch)
    refuses(fill(lambda tensors: tensors.__delitem__(name)), name, f"a file without {name}", CheckpointMismatch)
    refuses(fill(lambda tensors: tensors.update({name: torch.zeros(3, 1, 7)})), name, f"a file with another shape of {name}", CheckpointMismatch)


def _overwrite(file: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(dict(tensors), file, metadata)


class _Killed(Exception):
    """Stands for the end of the process."""


@check()
def resume_is_identical(ctx: Context) -> None:
    """Training that is stopped inside an epoch and resumed ends in the same bits as training that was not."""
    from manykin.training import RunFolder, train

    changes = {"max_steps": 6, "save_every": 2, "batch_size": 100, "log_every": 1, "keep_checkpoints": 2}
    plan = ctx.options(changes)
    with ctx.folder() as path:
        whole = ctx.fresh()
        train(whole, ctx.data, plan, seed=0, run=RunFolder.create(path / "whole"))
        cut = ctx.fresh()
        _kill_later(cut)
        with contextlib.suppress(_Killed):
            train(cut, ctx.data, plan, seed=0, run=RunFolder.create(path / "cut"))
        resumed = ctx.fresh(seed=5)
        train(resumed, ctx.data, plan, seed=0, run=RunFolder.create(path / "cut", resume=True), resume=True)
    names = changed(state_of(whole), state_of(resumed))
    require(not names, f"{', '.join(names[:3])} differ between training in one go and resumed training")


def _kill_later(model: GenerativeModel) -> None:
    """Let the method of the first phase raise within the fourth step."""
    phase = model.phases()[0]
    name = phase.accumulate if isinstance(phase, ClosedForm) else phase.loss
    calls = 3 * (1 if isinstance(phase, ClosedForm) else phase.repeat)
    method, count = getattr(model, name), [0]

    def counted(batch: Batch) -> Any:
        count[0] += 1
        if count[0] > calls:
            raise _Killed
        return method(batch)

    setattr(model, name, counted)


@check()
def spaces_survive_json(ctx: Context) -> None:
    """Spaces and config come back from JSON equal."""
    for space in (ctx.declared.space, ctx.declared.condition):
        if space is not None:
            back = space_from_json(json.loads(json.dumps(space.to_json())))
            require(back == space, f"{space} comes back from JSON as {back}")
    config = ctx.declared.config
    back_config = type(config).from_json(json.loads(json.dumps(config.to_json())))
    require(back_config == config, f"the config comes back from JSON as {back_config}")


@check()
def options_validated(ctx: Context) -> None:
    """Each option refuses a wrong type and a value outside its bounds, by name; unknown options are refused."""
    kind = type(ctx.declared.config)
    refuses(lambda: kind.from_json({"no_such_option": 1}), "no_such_option", "an unknown option")
    for info in options(kind):
        require(info.help, f"option {info.name} has no line of help")
        for bad in bad_values(info):
            _refuses_option(kind, info, bad)
    for sampler in type(ctx.model).samplers:
        for info in options(sampler):
            for bad in bad_values(info):
                _refuses_option(sampler, info, bad)


def _refuses_option(kind: type[Config], info: OptionInfo, bad: Any) -> None:
    refuses(lambda: kind(**{info.name: bad}), info.name, f"option {info.name} = {bad!r}")
    refuses(lambda: kind(**{info.name: bad}), repr(bad), f"option {info.name} = {bad!r}")


def bad_values(info: OptionInfo) -> list[Any]:
    """Values that an option must refuse, derived from its type, choices and bounds."""
    parts = get_args(info.type) if info.type is not None and get_origin(info.type) not in (tuple, None) and not info.choices else (info.type,)
    tuples = any(get_origin(part) is tuple for part in parts)
    numbers = [part for part in parts if part in (int, float)]
    bad: list[Any] = [{"a": 1}]
    if info.choices:
        bad.append("no-such-choice")
    if numbers:
        bad += [float("nan"), float("inf"), "many"]
        bad += [2.5] if float not in numbers and not tuples else []
        bad += [] if bool in parts else [True]
    if NoneType not in parts and NoneType not in get_args(info.type):
        bad.append(None)
    cast_to = float if float in numbers else int
    for key, limit in info.bounds.items():
        beyond = limit - 1 if key in ("ge", "gt") else limit + 1
        bad.append((cast_to(beyond),) if tuples else cast_to(beyond))
        if key in ("gt", "lt"):
            bad.append((cast_to(limit),) if tuples else cast_to(limit))
    return bad


@dataclass(frozen=True)
class ForeignConfig(Config):
    """A config that belongs to no model."""


@check(when=lambda model: type(model).config_class is not Config)
def foreign_config_refused(ctx: Context) -> None:
    """The constructor refuses the config of another model, and takes None for the defaults."""
    given = ctx.declared
    refuses(lambda: type(given)(ForeignConfig(), given.space, given.condition), "ForeignConfig", "the config of another model", InvalidInput)
    default = type(given)(None, given.space, given.condition)
    require(default.config == given.config_class(), "a model built without a config does not have the default config")


@check()
def loaded_state_counts(ctx: Context) -> None:
    """After other weights are loaded, samples and log_prob are theirs: nothing is cached outside the state."""
    model, other = ctx.copy(), ctx.started
    c = ctx.conditions(8)
    model.sample(8, c, seed=1)
    if has_density(model):
        model.log_prob(ctx.rows.x, ctx.rows.condition)
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (model, other)]
    if shapes[0] != shapes[1]:
        return
    model.load_state_dict(other.state_dict())
    require(same_value(other.sample(8, c, seed=1), model.sample(8, c, seed=1)), "samples are still those of the weights before loading")
    if has_density(model):
        gap = worst(other.log_prob(ctx.rows.x, ctx.rows.condition), model.log_prob(ctx.rows.x, ctx.rows.condition))
        require(gap == 0, f"log_prob differs by {gap:.3g} nats from that of the loaded weights")
