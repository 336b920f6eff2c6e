"""What a run is made of: device, processes, rows, phases and their runners, before the first step."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from manykin.contract import Batch, ClosedForm, GenerativeModel, Gradient, Phase
from manykin.data.dataset import Dataset, Rows
from manykin.errors import InvalidInput, ManykinError, ManykinWarning
from manykin.random import generator, hash_seed
from manykin.spaces import Value
from manykin.training import checkpoint
from manykin.training.batches import PASS, Source
from manykin.training.device import connect
from manykin.training.ema import Average
from manykin.training.optim import steppers
from manykin.training.options import BATCH_SIZE, TrainOptions
from manykin.training.runfolder import RunFolder, describe_model
from manykin.training.runners import RUNNERS, ClosedFormRunner, Context
from manykin.training.state import State, statistics_of
from manykin.training.validation import Validation
from manykin.training.weights import check_layout, model_tensors, read_layout

HOLDOUT = 10
"""One row of so many is held back where patience needs validation rows and the data bring none."""


class Setup:
    """Device, processes and rows of a run; :meth:`prepare` then makes the model ready and builds the state."""

    def __init__(self, model: GenerativeModel, data: Dataset, options: TrainOptions, seed: int) -> None:
        self.model, self.data, self.options, self.seed = model, data, options, seed
        self.fabric = connect(options)
        self.device = self.fabric.device
        self.leader = self.fabric.global_rank == 0
        self._flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._modes = [(module, module.training) for module in model.modules()]
        self.train, self.val = _split(data, options, seed)
        self.rows = len(self.train)
        self.validation: Validation | None = None
        self.closing: list[Phase] = []
        self._marks: dict[str, tuple[int, int]] = {}

    def prepare(self, folder: RunFolder | None) -> State:
        """Bring the model to its start (or, with a folder, to the shapes of the run in it), and build everything around it."""
        model = self.model
        model.to(self.device)
        if folder is None:
            model.start(self._batches, self.train.sample(PASS, hash_seed(self.seed, "initialise")).to(self.device), self.seed)
            self._broadcast(model_tensors(model).values())
        else:
            self._allocate(folder)
        model.to(self.device).train()
        phases = _checked(list(model.phases()))
        gradients = [phase for phase in phases if isinstance(phase, Gradient)]
        if not gradients and self.leader:
            _warn_of_idle(self.options)
        self.closing = [phase for phase in phases if isinstance(phase, ClosedForm) and phase.when == "end"]
        running = [phase for phase in phases if phase not in self.closing]
        self._flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        context = self._context(gradients)
        trained = {id(parameter) for stepper in context.steppers.values() for parameter in stepper.parameters}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)  # What no phase names would gather gradients for nothing.
        runners = [RUNNERS[type(phase)](phase, context) for phase in running]
        average = Average(model, self.options.ema) if self.options.ema is not None and gradients else None
        if self.val is not None:
            telling = [phase.loss for phase in gradients[:1] if not phase.contrastive]
            validation = Validation(model, self.val, telling[0] if telling else None, self.seed)
            self.validation = validation if validation.name else None
        if self.options.patience is not None and self.validation is None:
            raise InvalidInput(
                f"train.patience = {self.options.patience} has nothing to watch: {type(model).__name__} has neither a likelihood nor a loss that "
                "falls; leave it out."
            )
        self.pass_steps = sum(runner.batches for runner in runners if isinstance(runner, ClosedFormRunner))
        self.pass_limit = sum(r.batches * r.phase.max_epochs for r in runners if isinstance(r, ClosedFormRunner))
        return State(model, context, runners, average, statistics_of(phases))

    def _context(self, gradients: Sequence[Gradient]) -> Context:
        options, fabric = self.options, self.fabric
        accumulate = options.accumulate or 1
        size = options.batch_size or (BATCH_SIZE if gradients else PASS)
        return Context(
            self.model,
            Source(self.train, size, self.seed, self.device),
            fabric,
            self.seed,
            parts=accumulate * fabric.world_size,
            mine=range(accumulate * fabric.global_rank, accumulate * (fabric.global_rank + 1)),
            clip=options.clip,
            steppers=steppers(self.model, gradients, options),
            batches=max([1, *(phase.repeat for phase in gradients)]),
            stepwise=not gradients,
            pass_size=PASS if gradients else size,
        )

    def _batches(self) -> Iterable[Batch]:
        return (batch.to(self.device) for batch in self.train.batches(PASS))

    def _allocate(self, folder: RunFolder) -> None:
        sizes = folder.read_config()["sizes"]
        if sizes:
            path = folder.checkpoints / str(checkpoint.last_step(folder.checkpoints)) / "weights.safetensors"
            besides = set(statistics_of(list(self.model.phases()))) - set(self.model.state_dict())
            stored = {name: entry for name, entry in read_layout(path).items() if name not in besides}
            check_layout(self._twin, stored, sizes, path)
            self.model.allocate(sizes)

    def _twin(self) -> GenerativeModel:
        return type(self.model)(self.model.config, self.model.space, self.model.condition)

    def record(self, run: RunFolder, max_steps: int | None) -> None:
        """Write down what is decided: sizes, and the options with the number of steps."""
        known = run.read_config() if run.begun else {**describe_model(self.model), "seed": self.seed, "data": dict(self.data.provenance)}
        training = {**self.options.to_json(), "max_steps": max_steps}
        run.write_config({**known, "sizes": dict(self.model.sizes), "seed": self.seed, "training": training, "result": {}})

    def record_steps(self, run: RunFolder, max_steps: int) -> None:
        """Write down the number of steps that a time limit has become."""
        training = run.read_config().get("training", {})
        run.update_config({"training": {**training, "max_steps": max_steps, "max_time": None}, "note_max_time": training.get("max_time")})

    def conditions(self, n: int) -> Value | None:
        """Conditions for n samples, from the training rows; None for an unconditional model."""
        if self.model.condition is None:
            return None
        rows = torch.arange(n) % self.rows
        return self.train.batch(rows).to(self.device).condition

    @torch.no_grad()
    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Put weights into the model."""
        for name, tensor in model_tensors(self.model).items():
            tensor.copy_(tensors[name])

    def leave(self) -> None:
        """Give the model back as it came: its modes, and what was frozen; no gradients."""
        self.model.progress = 1.0
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        for module, mode in self._modes:
            module.training = mode

    # Among processes.

    def agree(self, value: float) -> float:
        """The first process's value, for all."""
        if self.fabric.world_size == 1:
            return value
        mine = torch.tensor([value if self.leader else 0.0], dtype=torch.float64, device=self.device)
        return float(self._sum(mine))

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return float(self._sum(torch.tensor([float(flag)], dtype=torch.float64, device=self.device))) > 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.fabric.world_size > 1:
            self.fabric.barrier()

    def _sum(self, tensor: Tensor) -> Tensor:
        result = self.fabric.all_reduce(tensor, reduce_op="sum")
        assert isinstance(result, Tensor)
        return result

    def share_buffers(self, statistics: Iterable[str]) -> None:
        """Give all processes the first one's buffers, as far as a step has changed them; statistics are each process's own."""
        changed = []
        for name, buffer in self.model.named_buffers():
            mark = (id(buffer), buffer._version)
            if self._marks.get(name) != mark and name not in statistics:
                changed.append(name)
        buffers = dict(self.model.named_buffers())
        self._broadcast(buffers[name] for name in changed)
        self._marks.update({name: (id(buffers[name]), buffers[name]._version) for name in changed})

    @torch.no_grad()
    def _broadcast(self, tensors: Iterable[Tensor]) -> None:
        """The first process's tensors, for all: constructors may have drawn from generators that were seeded differently."""
        if self.fabric.world_size == 1:
            return
        for tensor in tensors:
            plain = tensor.clone().to(torch.uint8) if tensor.dtype == torch.bool else tensor.clone()
            tensor.copy_(self._sum(plain if self.leader else torch.zeros_like(plain)))


def _split(data: Dataset, options: TrainOptions, seed: int) -> tuple[Rows, Rows | None]:
    if len(data.train) == 0:
        raise InvalidInput(f"{data.name} has no training rows; expected at least one.")
    if options.patience is None or data.val is not None:
        return data.train, data.val
    n = len(data.train)
    if n < 2:
        raise InvalidInput(f"train.patience needs validation rows, and {data.name} has {n} row; expected at least 2, or no patience.")
    held = max(1, n // HOLDOUT)
    x = data.train.x
    if data.train.stream and isinstance(x, Tensor):  # Training cuts blocks anew, across any that would be held out in its midst.
        return replace(data.train, x=x[: n - held]), replace(data.train, x=x[n - held :])
    order = torch.randperm(n, generator=generator(seed, "hold out"))
    return data.train.select(order[held:].sort().values), data.train.select(order[:held].sort().values)


def _warn_of_idle(options: TrainOptions) -> None:
    if idle := options.idle():
        named = ", ".join(f"train.{name} = {getattr(options, name)}" for name in idle)
        have = "has" if len(idle) == 1 else "have"
        warnings.warn(f"{named} {have} no effect: this model learns in closed form.", ManykinWarning, stacklevel=4)


def _checked(phases: list[Phase]) -> list[Phase]:
    names = [phase.name for phase in phases]
    if not phases or len(set(names)) < len(names):
        raise ManykinError(f"phases() returned the names {names}; expected at least one phase, each with a name of its own.")
    return phases
