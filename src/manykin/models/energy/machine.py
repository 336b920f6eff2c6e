"""The parameters of a restricted Boltzmann machine, and the energies, kernels and constants that follow from them."""

from typing import Any

import torch
from torch import Tensor, nn

from manykin.mcmc import LogPartition, annealed
from manykin.models.energy.tempered import Tempered
from manykin.models.energy.visible import Visible

PULL = 4
"""Rows of the overall mean that each class's mean is taken to hold beside its own."""

OFFSET_RATE = 0.05
"""Share of a step's mean hidden activity in its moving average."""


class _Centre(torch.autograd.Function):
    """The identity on (weights, bias), whose gradient is that of the machine written with h - offset in the place of h.

    In that form the visible bias is b' = b + W offset. Its gradient is g_b, that of W is G = g_W - g_b offset'; a step along both moves b = b' - W
    offset by g_b - G offset (Melchior, Fischer and Wiskott, How to center deep Boltzmann machines, 2016, equations 11 to 13).
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, bias: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(offset)
        return weights.view_as(weights), bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (offset,) = ctx.saved_tensors
        weights, bias = gradients
        weights = weights - torch.outer(bias, offset)
        return weights, bias - weights @ offset, None


class Machine(nn.Module):
    """Weights and biases of both layers, shifted by each class; ``first`` and ``first_base`` are the independent columns where training began.

    Args:
        visible: the visible units.
        hidden: how many hidden units.
        classes: how many classes; 0 for an unconditional machine.
    """

    def __init__(self, visible: Visible, hidden: int, classes: int) -> None:
        super().__init__()
        self.visible, self.hidden, self.classes = visible, hidden, classes
        size = len(visible.bias)
        self.weights = nn.Parameter(0.01 * torch.randn(size, hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        if classes:
            self.visible_shift = nn.Parameter(torch.zeros(classes, size))
            self.hidden_shift = nn.Parameter(torch.zeros(classes, hidden))
        self.register_buffer("offset", torch.full((hidden,), 0.5))
        self.register_buffer("first", torch.zeros(max(classes, 1), size))
        self.register_buffer("first_base", torch.zeros(visible.base().shape))
        self.offset: Tensor
        self.first: Tensor
        self.first_base: Tensor
        self._table: tuple[Tensor, Tensor] | None = None

    def start(self, t: Tensor, labels: Tensor | None) -> None:
        """Take the biases from the marginals of training rows (n, d), in each class."""
        self.visible.start(t)
        self.offset.fill_(0.5)
        if labels is not None:
            share = torch.zeros(self.classes, len(t), dtype=torch.float64, device=t.device)
            share[labels, torch.arange(len(t), device=t.device)] = 1.0
            overall = t.double().mean(0)
            means = (share @ t.double() + PULL * overall) / (share.sum(1, keepdim=True) + PULL)
            self.visible.narrow(t - (means[labels] - overall).to(t.dtype))
            self.visible_shift.copy_(self.visible.tilt(means))
        bias = self.visible.bias + (self.visible_shift if self.classes else 0.0)
        self.first.copy_((self.visible.scale * bias).expand_as(self.first))
        self.first_base.copy_(self.visible.base())

    @torch.no_grad()
    def follow(self, t: Tensor, labels: Tensor | None) -> None:
        """Move the offset towards the mean activity of the hidden units on these rows (n, d)."""
        active = torch.sigmoid(self.tempered(labels).inputs(t)).mean(0)
        self.offset.lerp_(active.to(self.offset.dtype), OFFSET_RATE)

    def tempered(self, labels: Tensor | None, centred: bool = False) -> Tempered:
        """Energies and kernels with the weights as they are: for all rows, or for the label of each row where there are classes."""
        weights: Tensor = self.weights
        bias: Tensor = self.visible.bias
        hidden: Tensor = self.hidden_bias
        if centred:
            weights, bias = _Centre.apply(weights, bias, self.offset.clone())  # type: ignore[no-untyped-call]
        first = self.first[0] if labels is None else self.first[labels]
        if labels is not None:
            bias, hidden = bias + self.visible_shift[labels], hidden + self.hidden_shift[labels]
        scale = self.visible.scale
        return Tempered(self.visible, weights, hidden, first, scale * bias, self.first_base, self.visible.base(), scale)

    def of_class(self, label: int) -> Tempered:
        """The same for all rows of one class."""
        if not self.classes:
            return self.tempered(None)
        one = self.tempered(torch.tensor([label], device=self.weights.device))
        one.hidden, one.first, one.last = one.hidden[0], one.first[0], one.last[0]
        return one

    @torch.no_grad()
    def masses(self) -> Tensor:
        """Log masses of all states of the hidden units in each class, (classes or 1, 2^hidden), kept until the weights change."""
        if self._table is None or not self.is_current(self._table[0]):
            self._table = (self.fingerprint(), torch.stack([self.of_class(label).masses() for label in range(len(self.first))]))
        return self._table[1].to(self.weights.device)

    @torch.no_grad()
    def partitions(self, exactly: bool, temperatures: int, chains: int) -> list[LogPartition]:
        """log Z of each class: added up over the hidden states, or estimated by annealed importance sampling, all classes at once."""
        if exactly:
            return [LogPartition.exactly(float(value)) for value in torch.logsumexp(self.masses(), dim=1)]
        groups = len(self.first)
        labels = torch.arange(groups, device=self.weights.device).repeat_interleave(chains) if self.classes else None
        _, weights = annealed(self.tempered(labels).path(), groups * chains, temperatures)
        bases = [self.of_class(label).path().log_base for label in range(groups)]
        return [LogPartition.of_weights(part, base, temperatures) for part, base in zip(weights.view(groups, chains), bases, strict=True)]

    @torch.no_grad()
    def fingerprint(self) -> Tensor:
        """Two numbers a parameter, (2, parameters), by which changed weights are noticed."""
        columns = []
        for parameter in self.parameters():
            value = parameter.detach().double().reshape(len(parameter), -1)
            left, right = (torch.arange(1, size + 1, dtype=torch.float64, device=value.device).cos() for size in value.shape)
            columns.append(torch.stack([left @ value @ right, value.square().sum()]))
        return torch.stack(columns, dim=1)

    def is_current(self, stamp: Tensor) -> bool:
        """Whether a fingerprint is that of the weights as they are, up to the rounding of 32 bits."""
        now = self.fingerprint()
        return bool(((stamp.to(now) - now).abs() <= 1e-6 * (1 + now.abs())).all())
