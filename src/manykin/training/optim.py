"""Optimizers by name, their learning rates, and their state as flat tensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from manykin.contract import Gradient, Optim
from manykin.errors import InvalidInput, ManykinError
from manykin.training.muon import Muon
from manykin.training.options import TrainOptions


class Stepper:
    """The optimizer of one set of parameters; phases that name the same parameters share it."""

    def __init__(self, model: nn.Module, phase: Gradient, optim: Optim) -> None:
        prefixes = (phase.params,) if isinstance(phase.params, str) else phase.params
        named = {name: p for name, p in model.named_parameters() if name.startswith(prefixes) and p.requires_grad}
        if not named:
            raise ManykinError(f"phase {phase.name!r} has no parameters: none of {type(model).__name__}'s begins with {phase.params!r}.")
        self.names = list(named)
        self.parameters = list(named.values())
        self.base = optim.lr
        self.lr = optim.lr
        self.optimizers = _build(model, named, optim)

    def set_lr(self, share: float) -> None:
        """Set the learning rate to a share of its full value."""
        lr = self.base * share
        if lr != self.lr:
            self.lr = lr
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr

    def step(self) -> None:
        """Update the parameters by their gradients."""
        for optimizer in self.optimizers:
            optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors named ``optimizer|parameter|entry``."""
        names = {id(parameter): name for name, parameter in zip(self.names, self.parameters, strict=True)}
        return {
            f"{number}|{names[id(parameter)]}|{entry}": value
            for number, optimizer in enumerate(self.optimizers)
            for parameter, state in optimizer.state.items()
            for entry, value in state.items()
            if isinstance(value, Tensor)
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`.

        Raises:
            KeyError: for a parameter that is not here.
        """
        by_name = dict(zip(self.names, self.parameters, strict=True))
        states: list[dict[Tensor, dict[str, Tensor]]] = [{} for _ in self.optimizers]
        for key, value in tensors.items():
            number, name, entry = key.split("|")
            parameter = by_name[name]
            if value.shape == parameter.shape:
                # The fused kernels walk raw memory: a state must have its parameter's layout.
                placed = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            else:
                placed = value.to(parameter.device, copy=True)
            states[int(number)].setdefault(parameter, {})[entry] = placed
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.state.clear()
            optimizer.state.update(state)


def steppers(model: nn.Module, phases: Sequence[Gradient], options: TrainOptions) -> dict[str, Stepper]:
    """The optimizer of each phase by the phase's name.

    ``options.lr`` sets the rate of the first phase and scales all others alike.

    Raises:
        ManykinError: where a phase has no parameters.
        InvalidInput: for a ``min_lr`` that no schedule can end at.
    """
    if not phases:
        return {}
    _check_end(options, phases[0].optimizer.lr)
    scale = 1.0 if options.lr is None else options.lr / phases[0].optimizer.lr
    shared: dict[tuple[str, ...], Stepper] = {}
    result = {}
    for phase in phases:
        own = phase.optimizer
        optim = Optim(
            options.optimizer or own.name,
            own.lr * scale,
            own.betas,
            own.weight_decay if options.weight_decay is None else options.weight_decay,
        )
        key = (phase.params,) if isinstance(phase.params, str) else tuple(phase.params)
        if key not in shared:
            shared[key] = Stepper(model, phase, optim)
        result[phase.name] = shared[key]
    return result


def _check_end(options: TrainOptions, own: float) -> None:
    end, lr = options.min_lr, options.lr or own
    if end is None:
        return
    if (options.schedule or "constant") == "constant":
        raise InvalidInput(f"train.min_lr = {end:g} has no effect on a constant learning rate; choose train.schedule cosine or linear, or drop it.")
    if end > lr:
        raise InvalidInput(f"train.min_lr = {end:g} is above the learning rate {lr:g}; expected at most that.")


def _build(model: nn.Module, named: Mapping[str, nn.Parameter], optim: Optim) -> list[Optimizer]:
    parameters = list(named.values())
    fused = all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in parameters)
    if optim.name == "adam":
        return [Adam(parameters, optim.lr, optim.betas, weight_decay=optim.weight_decay, fused=fused)]
    if optim.name == "adamw":
        return [AdamW(parameters, optim.lr, optim.betas, weight_decay=optim.weight_decay, fused=fused)]
    if optim.name == "sgd":
        return [SGD(parameters, optim.lr, momentum=optim.betas[0], weight_decay=optim.weight_decay, fused=fused)]
    if optim.name != "muon":
        raise InvalidInput(f"optimizer {optim.name!r} is not known; expected adam, adamw, sgd or muon.")
    hidden = _matrices(model)
    matrices = [p for p in parameters if id(p) in hidden]
    others = [p for p in parameters if id(p) not in hidden]
    built: list[Optimizer] = []
    if matrices:
        built.append(Muon(matrices, optim.lr, optim.weight_decay))
    if others:
        built.append(AdamW(others, optim.lr, optim.betas, weight_decay=optim.weight_decay, fused=fused))
    return built


def _matrices(model: nn.Module) -> set[int]:
    """The parameters that act as matrices, kernels of convolutions too: all but the tables of embeddings, and vectors in disguise."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {id(p) for p in model.parameters() if p.dim() >= 2 and min(p.flatten(1).shape) > 1 and id(p) not in tables}
