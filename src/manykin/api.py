"""The verbs plan and fit."""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from manykin.config import Config
from manykin.contract import GenerativeModel, Preset
from manykin.data import load_data
from manykin.data.dataset import Dataset
from manykin.errors import CheckpointMismatch, InvalidInput, ManykinWarning, Unsupported, suggest
from manykin.fitted import Fitted, from_pretrained
from manykin.models import get, name_of, names
from manykin.random import hash_seed, seeded
from manykin.spaces import Labels, Space, Value, count
from manykin.training import RunFolder, TrainOptions, TrainResult, train
from manykin.training.device import choose_device
from manykin.training.resume import resumed_options
from manykin.training.runfolder import CARD


@dataclass
class Plan:
    """A fit, fully decided and not yet begun: what ``manykin fit --dry-run`` prints."""

    name: str
    model: GenerativeModel
    data: Dataset
    train: TrainOptions
    preset: str
    seed: int

    def config(self) -> dict[str, Any]:
        """The content of the run's ``config.json`` before the first step."""
        return {
            **Fitted(self.model, self.name, self.data.form, self.data.provenance, self.seed, self.train.to_json()).describe(),
            "preset": self.preset,
        }


def plan(
    model: str | Config | type[GenerativeModel],
    data: Any,
    *,
    condition: Any = None,
    preset: str = "default",
    options: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | TrainOptions | None = None,
    data_options: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    max_time: float | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str | None = None,
) -> Plan:
    """Decide everything about a fit without beginning it. Arguments as for :func:`fit`."""
    name, cls = model_class(model)
    dataset = load_data(data, condition=condition, options=data_options, seed=seed)
    if data_options:
        dataset = dataclasses.replace(dataset, provenance={**dataset.provenance, "options": dict(data_options)})
    options = {**(model.to_json() if isinstance(model, Config) else {}), **(options or {})}
    try:
        chosen = choose_preset(cls, preset, dataset.space, len(dataset.train))
    except Unsupported as refusal:
        raise Unsupported(f"{name}: {refusal} {_able(dataset.space, dataset.condition)}") from None
    config = cls.config_class.from_json({**chosen.model, **options})
    given = train.to_json() if isinstance(train, TrainOptions) else dict(train or {})
    direct = {"max_steps": max_steps, "max_time": max_time, "device": device, "precision": precision}
    training = TrainOptions.from_json({**chosen.train, **given, **{key: value for key, value in direct.items() if value is not None}})
    choose_device(training.device or "auto")
    try:
        with seeded(hash_seed(seed, "init")):
            instance = cls(config, dataset.space, dataset.condition)
    except Unsupported as refusal:
        raise Unsupported(f"{name}: {refusal} {_able(dataset.space, dataset.condition)}") from None
    return Plan(name, instance, dataset, training, preset, seed)


def fit(
    model: str | Config | type[GenerativeModel],
    data: Any,
    *,
    condition: Any = None,
    preset: str = "default",
    options: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | TrainOptions | None = None,
    data_options: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    max_time: float | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Fitted:
    """Fit a model to data.

    Args:
        model: a name from ``manykin models``, a model's config, or a model class.
        data: an array, tensor, DataFrame, list of strings, path, or the name of a data set.
        condition: labels (array, list or Series), a column's name, or None.
        preset: a named choice of options; ``default`` suits the data, ``tiny`` is for tests.
        options: the model's own options that differ from the preset.
        train: training options that differ from the preset.
        data_options: how to read the data.
        max_steps: optimizer steps, or batches visited by closed-form models.
        max_time: seconds; fixed as a number of steps after the first fifty.
        seed: of initial weights, batches and every draw; equal seeds give equal models.
        device: ``cpu``, ``cuda``, ``mps``, or ``auto`` for CUDA where there is one and the CPU elsewhere.
        precision: ``32``, ``bf16`` or ``auto``.
        out: a run folder to write; None keeps everything in memory.
        resume: go on with an interrupted run in ``out``; the result is bit-identical to an uninterrupted one.
        force: replace an existing run folder.
        progress: show a progress bar.

    Raises:
        InvalidInput: for data, options or names that cannot be used.
        TrainingFailed: where training diverged three times.
        CheckpointMismatch: where ``resume`` meets another run.
    """
    decided = plan(
        model, data, condition=condition, preset=preset, options=options, train=train, data_options=data_options, max_steps=max_steps,
        max_time=max_time, seed=seed, device=device, precision=precision,
    )  # fmt: skip
    return carry_out(decided, out=out, resume=resume, force=force, progress=progress)


def carry_out(decided: Plan, *, out: str | Path | None = None, resume: bool = False, force: bool = False, progress: bool = False) -> Fitted:
    """Train what :func:`plan` decided, in memory or in a run folder."""
    run = None if out is None else RunFolder.create(out, force=force, resume=resume)
    if run is not None and resume and run.begun:
        name = run.read_config()["model"]["name"]
        if name != decided.name:
            raise CheckpointMismatch(f"{run.path} was begun with another model, {name!r}, now {decided.name!r}; give another --out.")
        if run.finished:
            resumed_options(run, decided.model, decided.data, decided.train, decided.seed)
            fitted = from_pretrained(run.path)
            warnings.warn(f"{run.path} is finished already: it is loaded, and nothing is trained.", ManykinWarning, stacklevel=2)
            fitted.data = decided.data
            if not (run.path / CARD).is_file():
                _finish(run, fitted)
            return fitted
    elif run is not None:
        run.write_config(decided.config())
    result = _train(decided, run, resume, progress)
    fitted = Fitted(
        decided.model, decided.name, decided.data.form, decided.data.provenance, decided.seed, decided.train.to_json(), _summary(result),
        result.history, None if run is None else run.path, decided.data,
    )  # fmt: skip
    if run is not None:
        _finish(run, fitted)
    return fitted


def choose_preset(cls: type[GenerativeModel], name: str, space: Space, n: int) -> Preset:
    """A model's preset by name, for this space and number of rows.

    Raises:
        InvalidInput: for an unknown name.
    """
    preset = cls.presets.get(name)
    if preset is None:
        if name == "default":
            return Preset()
        raise InvalidInput(f"preset {name!r} is not known to {cls.__name__}.{suggest(name, {*cls.presets, 'default'})}")
    return preset if isinstance(preset, Preset) else preset(space, n)


def _train(decided: Plan, run: RunFolder | None, resume: bool, progress: bool) -> TrainResult:
    from manykin.training import progress_bar

    if not progress:
        return train(decided.model, decided.data, decided.train, seed=decided.seed, run=run, resume=resume)
    with progress_bar(decided.name) as show:
        return train(decided.model, decided.data, decided.train, seed=decided.seed, run=run, resume=resume, progress=show)


def _summary(result: TrainResult) -> dict[str, Any]:
    return {
        "steps": result.steps, "seconds": result.seconds, "stopped": result.stopped, "parameters": result.parameters,
        "peak_memory_bytes": result.peak_memory_bytes,
    }  # fmt: skip


def _finish(run: RunFolder, fitted: Fitted) -> None:
    """What a finished run leaves beside its weights: a card, samples, and real rows to lay beside them."""
    if not run.writable:
        return
    fitted.training = run.read_config().get("training", fitted.training)
    assert fitted.data is not None
    wanted = fitted.model.condition
    given = None if wanted is None or isinstance(wanted, Labels) else fitted.data.train.sample(256, fitted.seed).condition
    try:
        x = fitted.model.sample(256 if given is None else count(given), given, seed=fitted.seed)
    except Exception as error:  # Samples are by-products: the fit is done, and its likelihood does not need them.
        told = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        warnings.warn(f"the model is fitted, but cannot draw samples: {told}", ManykinWarning, stacklevel=4)
    else:
        save_value(x, run.samples_dir / "final.safetensors")
    real = fitted.data.test or fitted.data.val or fitted.data.train
    save_value(real.sample(1024, fitted.seed).x, run.samples_dir / "real.safetensors")
    run.write_card(fitted.card())
    run.update_config(fitted.describe())


def save_value(x: Value, path: Path) -> None:
    """Write a batch as safetensors: key ``x``, or a key for each field of a record."""
    tensors = {"x": x} if isinstance(x, torch.Tensor) else dict(x)
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)


def model_class(model: Any) -> tuple[str, type[GenerativeModel]]:
    """The name and class behind a name, a config or a class.

    Raises:
        InvalidInput: for anything else.
    """
    if isinstance(model, str):
        return model, get(model)
    if isinstance(model, type) and issubclass(model, GenerativeModel):
        return name_of(model) or model.__name__, model
    if isinstance(model, Config):
        module = __import__(type(model).__module__, fromlist=["_"])
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, GenerativeModel) and cls.__dict__.get("config_class") is type(model):
                return name_of(cls) or cls.__name__, cls
    raise InvalidInput(f"model is a {type(model).__name__}; expected a name from `manykin models`, a model's config, or a model class.")


def _able(space: Space, condition: Space | None) -> str:
    """The models of the table that could take this space instead."""
    able = []
    for name in names():
        cls = get(name)
        try:
            tiny = choose_preset(cls, "tiny" if "tiny" in cls.presets else "default", space, 100)
            cls(cls.config_class.from_json(tiny.model), space, condition)
        except InvalidInput:
            continue
        able.append(name)
    return f"Models that can: {', '.join(able)}." if able else "No model can take it yet."
