"""Gradient phases: one optimizer step on each batch."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manykin.contract import Batch, Gradient, Phase
from manykin.errors import ManykinError, Runaway
from manykin.random import hash_seed, seed_all
from manykin.training.batches import shares
from manykin.training.runner import Context, Diverged

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class GradientRunner:
    """Minimises the mean of a method's per-example losses over the phase's parameters, all others frozen."""

    def __init__(self, phase: Phase, context: Context) -> None:
        assert isinstance(phase, Gradient)
        self.phase, self.context, self.name = phase, context, phase.name
        self.finished, self.converged, self.epochs = False, False, 0
        self.loss: Callable[[Batch], Tensor] = getattr(context.model, phase.loss)
        self.stepper = context.steppers[phase.name]
        self.single = context.parts == 1
        self.synchronous = context.source.device.type == "cpu"
        self.autocast: Callable[[], AbstractContextManager[Any]] | None = context.fabric.autocast if _is_mixed(context.fabric) else None
        self._reset()

    def _reset(self) -> None:
        self.total: Any = 0.0
        self.norms: Any = 0.0
        self.updates = 0

    def advance(self, step: int) -> bool:
        if step % self.phase.every:
            return False
        self._wake()
        for repeat in range(self.phase.repeat):
            self.update(step, repeat)
        return False

    def update(self, step: int, repeat: int) -> None:
        """One optimizer step on one batch.

        Raises:
            Diverged: for a loss or gradient that is not finite (at once on a CPU, at the next check elsewhere).
        """
        context = self.context
        for parameter in self.stepper.parameters:
            parameter.grad = None
        positions = context.source.order.positions(step * context.batches + repeat)
        if self.single:
            loss = self._backward(positions, step, repeat, 0, 1.0)
        else:
            loss = self._backward_parts(positions, step, repeat)
        gradients = [p.grad for p in self.stepper.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self.synchronous:
            self._record(loss.item(), norm.item())
            self._clip(gradients, norm)
        else:
            self._record(loss, norm)
            if context.clip is not None:
                torch._foreach_mul_(gradients, (context.clip / (norm + 1e-6)).clamp(max=1.0))
        self.stepper.step()

    def _record(self, loss: Any, norm: Any) -> None:
        self.total += loss
        self.norms += norm
        self.updates += 1
        if self.synchronous and not math.isfinite(loss + norm):
            raise Diverged(self.name, self._culprit(math.isfinite(loss), math.isfinite(norm)))

    def _clip(self, gradients: list[Tensor], norm: Tensor) -> None:
        clip = self.context.clip
        if clip is not None and (value := norm.item()) > clip:
            torch._foreach_mul_(gradients, clip / (value + 1e-6))

    def _backward(self, positions: Tensor, step: int, repeat: int, part: int, weight: float) -> Tensor:
        context = self.context
        seed_all(hash_seed(context.seed, step, self.name, repeat, part))
        batch = context.source.gather(positions)
        try:
            if self.autocast is None:
                losses = self.loss(batch)
            else:
                with self.autocast():
                    losses = self.loss(batch)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            if context.parallel:  # The others wait for this process's sum: let it tell them.
                return torch.tensor(math.nan, dtype=torch.float64, device=context.source.device)
            raise Diverged(self.name, f"the loss cannot be computed ({str(error).splitlines()[0]})") from error
        except Runaway as error:
            raise Diverged(self.name, str(error).rstrip(".")) from error
        if losses.dim() != 1 or not losses.requires_grad:
            raise ManykinError(self._misfit(losses))
        mean = losses.mean() if losses.dtype != torch.bfloat16 else losses.float().mean()
        if weight != 1.0:
            mean = mean * weight
        mean.backward()  # type: ignore[no-untyped-call]
        return mean.detach()

    def _backward_parts(self, positions: Tensor, step: int, repeat: int) -> Tensor:
        """The micro-batches of this process, each weighted by its share of the batch; then the sum over processes."""
        context, n = self.context, len(positions)
        loss = torch.zeros((), dtype=torch.float64, device=context.source.device)
        bounds = shares(n, context.parts)
        for part in context.mine:
            start, stop = bounds[part]
            if stop > start:
                loss += self._backward(positions[start:stop], step, repeat, part, (stop - start) / n)
        return self._reduce(loss) if context.parallel else loss

    def _reduce(self, loss: Tensor) -> Tensor:
        """Sum loss and gradients over processes in one message; a parameter has a gradient where it has one in any process.

        Not DistributedDataParallel: it refuses models without parameters, its wrapper casts float64 inputs to 32 bits under mixed precision
        before the transform sees them, and it takes all micro-batches as equal in size.
        """
        parameters = self.stepper.parameters
        has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float64, device=loss.device)
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32
        flat = torch.cat([torch.zeros_like(p).flatten().to(dtype) if p.grad is None else p.grad.flatten().to(dtype) for p in parameters])
        flat = self.context.sum(flat)
        header = self.context.sum(torch.cat([loss.view(1), has]))
        start = 0
        for parameter, used in zip(parameters, header[1:].tolist(), strict=True):
            stop = start + parameter.numel()
            parameter.grad = flat[start:stop].view(parameter.shape).to(parameter.dtype) if used else None
            start = stop
        return header[0]

    def _wake(self) -> None:
        """Freeze every parameter but the phase's own. Parameters that the model froze itself belong to no phase and stay frozen."""
        context = self.context
        if context.awake is self.stepper:
            return
        for stepper in {id(each): each for each in context.steppers.values()}.values():
            for parameter in stepper.parameters:
                parameter.requires_grad_(False)
        for parameter in self.stepper.parameters:
            parameter.requires_grad_(True)
        context.awake = self.stepper

    def _misfit(self, losses: Tensor) -> str:
        if losses.dim() != 1:
            return f"phase {self.name!r}: {self.phase.loss} returned shape {tuple(losses.shape)}; expected one loss per example, shape (n,)."
        return f"phase {self.name!r}: {self.phase.loss} does not depend on the parameters {self.phase.params!r}; expected a differentiable loss."

    def _culprit(self, loss_ok: bool, norm_ok: bool) -> str:
        pairs = list(zip(self.stepper.names, self.stepper.parameters, strict=True))
        layer = next((name for name, p in pairs if p.grad is not None and not bool(torch.isfinite(p.grad).all())), None)
        layer = layer or next((name for name, p in pairs if not bool(torch.isfinite(p).all())), "none")
        return f"{'the gradient' if loss_ok else 'the loss'} is not finite (first layer: {layer})"

    def check(self) -> None:
        if not self.synchronous:
            loss, norm = float(self.total), float(self.norms)
            if not math.isfinite(loss + norm):
                raise Diverged(self.name, self._culprit(math.isfinite(loss), math.isfinite(norm)))

    def report(self) -> dict[str, float]:
        if not self.updates:
            return {}
        figures = {"loss": float(self.total) / self.updates, "grad_norm": float(self.norms) / self.updates, "lr": self.stepper.lr}
        self._reset()
        return figures

    def state(self) -> dict[str, Any]:
        return {"total": float(self.total), "norms": float(self.norms), "updates": self.updates}

    def load(self, state: dict[str, Any]) -> None:
        self.total, self.norms, self.updates = state["total"], state["norms"], state["updates"]


def _is_mixed(fabric: "Fabric") -> bool:
    return str(fabric.strategy.precision.precision) != "32-true"
