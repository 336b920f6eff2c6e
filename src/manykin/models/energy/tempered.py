"""A restricted Boltzmann machine seen as a path of targets: from independent columns at beta 0 to the machine itself at beta 1."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from manykin.mcmc import BlockGibbs, Path
from manykin.models.energy.visible import Visible

CHUNK = 1 << 22
"""Numbers that an enumeration holds at once."""


@dataclass
class Tempered:
    """Energies, kernels and draws of ``p_beta(t, h) ~ exp((1 - beta) A(t) + beta (B(t) + h (hidden + scale (t - centre) weights)))``.

    A and B are the visible parts at the start of training and now; A has no weights, so its constant is known (Salakhutdinov and Murray, On the
    quantitative analysis of deep belief networks, 2008, section 4.1: the base-rate model). The hidden units are summed out of all energies.

    Attributes:
        visible: the kind of the visible units.
        weights: (d, hidden).
        hidden: biases of the hidden units, (hidden,) or one row a chain.
        first: coefficients of A, (d,) or one row a chain.
        last: coefficients of B, likewise.
        first_base: base parameters of A.
        last_base: base parameters of B.
        scale: what the weights' products are multiplied by, (d,) or 1.
    """

    visible: Visible
    weights: Tensor
    hidden: Tensor
    first: Tensor
    last: Tensor
    first_base: Tensor
    last_base: Tensor
    scale: Tensor | float
    _seen: tuple[Tensor, Tensor, bool] | None = field(default=None, repr=False)

    def inputs(self, t: Tensor) -> Tensor:
        """Inputs of the hidden units, (n, hidden), in at least 32 bits; the last ones are remembered, with their gradient where one was asked for."""
        wanted = torch.is_grad_enabled()
        if self._seen is None or self._seen[0] is not t or (wanted and not self._seen[2]):
            product = ((t - self.visible.centre) * self.scale) @ self.weights
            self._seen = (t, product.to(t.dtype) + self.hidden, wanted)
        return self._seen[1]

    def energy(self, t: Tensor, beta: float = 1.0) -> Tensor:
        """Free energy: minus the log of the unnormalised mass of t, shape (n,)."""
        value = functional.softplus(beta * self.inputs(t)).sum(-1)
        if beta:
            value = value + beta * self._part(t, self.last, self.last_base)
        if beta < 1:
            value = value + (1 - beta) * self._part(t, self.first, self.first_base)
        return -value

    def _part(self, t: Tensor, coefficients: Tensor, base: Tensor) -> Tensor:
        return self.visible.log_base(t, base) + ((t - self.visible.centre) * coefficients).sum(-1)

    def rise(self, t: Tensor, before: float, after: float) -> Tensor:
        """``energy(t, after) - energy(t, before)``, without the loss of digits of a difference of sums."""
        x = self.inputs(t)
        hidden = (functional.softplus(after * x) - functional.softplus(before * x)).sum(-1)
        parts = self._part(t, self.last, self.last_base) - self._part(t, self.first, self.first_base)
        return -(after - before) * parts - hidden

    def draw_hidden(self, t: Tensor, beta: float = 1.0) -> Tensor:
        """Hidden units given t."""
        x = self.inputs(t)
        return (torch.rand_like(x) < torch.sigmoid(beta * x)).to(t.dtype)

    def draw_visible(self, h: Tensor, beta: float = 1.0) -> Tensor:
        """Visible units given h."""
        q = beta * (self.last + self.scale * (h @ self.weights.T).to(h.dtype))
        base = self.last_base
        if beta < 1:
            q, base = q + (1 - beta) * self.first, (1 - beta) * self.first_base + beta * base
        return self.visible.draw(q, base)

    def kernel(self, beta: float = 1.0, known: Tensor | None = None) -> BlockGibbs:
        """Block Gibbs at beta; entries under ``known`` stay."""
        return BlockGibbs(lambda t: self.draw_hidden(t, beta), lambda h: self.draw_visible(h, beta), known)

    def start(self, n: int) -> Tensor:
        """n exact draws at beta 0."""
        return self.visible.draw(self.first.expand(n, -1).clone(), self.first_base)

    def path(self) -> Path:
        """The path for annealed importance sampling. Its base constant is that of chains that share their coefficients."""
        first = self.first if self.first.dim() == 1 else self.first[0]
        log_base = float(self.visible.log_normaliser(first, self.first_base)) + self.weights.shape[1] * math.log(2)
        return Path(self.start, log_base, self.energy, self.kernel, self.rise)

    def masses(self) -> Tensor:
        """Log of the unnormalised mass of every state of the hidden units, visible ones summed out: (2^hidden,), float64.

        ``h hidden + log_normaliser(last + scale weights h)``: with few hidden units the machine is a mixture that can be added up. State number s
        has the bits of s as its units, the lowest first.
        """
        return torch.cat([self._masses(states) for states in self._states()])

    def _masses(self, states: Tensor) -> Tensor:
        q = self.last.double() + (self.scale if isinstance(self.scale, float) else self.scale.double()) * (states @ self.weights.double().T)
        return states @ self.hidden.double() + self.visible.log_normaliser(q, self.last_base.double())

    def _states(self) -> list[Tensor]:
        d, units = self.weights.shape
        rows = max(1, CHUNK // (d * self.visible.width))
        numbers = torch.arange(1 << units, device=self.weights.device)
        return [bits_of(part, units) for part in torch.split(numbers, rows)]


def bits_of(numbers: Tensor, units: int) -> Tensor:
    """The lowest bits of numbers (n,) as float64 rows (n, units)."""
    return ((numbers[:, None] >> torch.arange(units, device=numbers.device)) & 1).double()
