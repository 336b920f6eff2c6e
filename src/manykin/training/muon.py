"""Muon over batches of equally large matrices."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from manykin.nn.hardware import has_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices beside the given ones: singular values between about 0.7 and 1.2, the singular vectors kept.

    Five rounds of ``X <- a X + (b A + c A^2) X`` with ``A = X X'`` from ``X = G / |G|`` (Jordan, Muon: an optimizer for hidden layers in neural
    networks, 2024: a Newton-Schulz iteration whose coefficients are chosen for speed near zero).

    Args:
        matrices: shape (k, r, c) with r <= c, in the precision of the products.
    """
    a, b, c = COEFFICIENTS
    norms = matrices.float().flatten(1).norm(dim=1).clamp(min=1e-7)
    x: Tensor = matrices / norms.to(matrices.dtype)[:, None, None]
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(Optimizer):
    """Nesterov momentum whose update of each matrix is made nearly orthogonal (Jordan, Muon, 2024).

    The step is ``lr * 0.2 * sqrt(max(rows, columns))`` times that update, whose entries are then about as large as Adam's, so that rates of AdamW
    carry over (Liu et al., Muon is scalable for LLM training, 2025, section 2.2); weight decay is decoupled. Kernels of convolutions count as
    matrices (outputs, inputs * size). Matrices of one shape, and those of the transposed one, are orthogonalised together in one batched product:
    many small ones cost little more than one.

    Args:
        params: parameters of two or more dimensions.
        lr: the rate.
        weight_decay: decoupled.
        momentum: weight of the past.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95) -> None:
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            self._step([p for p in group["params"] if p.grad is not None], group)

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        if not params:
            return
        gradients = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        batches: dict[tuple[int, int, torch.device], list[tuple[Tensor, Tensor, bool]]] = defaultdict(list)
        for p, update in zip(params, ahead, strict=True):
            matrix = update.flatten(1)
            turned = len(matrix) > matrix.shape[1]
            matrix = matrix.mT if turned else matrix
            batches[len(matrix), matrix.shape[1], p.device].append((p, matrix, turned))
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for (_, columns, device), members in batches.items():
            precision = torch.bfloat16 if has_bf16(device) else torch.float32
            updates = orthogonalise(torch.stack([matrix for _, matrix, _ in members]).to(precision)).float()
            rate = group["lr"] * 0.2 * columns**0.5
            for (p, _, turned), update in zip(members, updates, strict=True):
                p.add_((update.mT if turned else update).reshape(p.shape), alpha=-rate)
