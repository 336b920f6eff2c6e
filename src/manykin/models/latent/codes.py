"""A density over the codes of an encoder: one Gaussian, or a mixture by expectation-maximisation, for all rows or for each class."""

import torch
from torch import Tensor, nn

from manykin.contract import Progress
from manykin.models.classical.em import Component, Moments, accumulate, maximise
from manykin.models.classical.shapes import Full

ROWS_EACH = 4
"""A component of a mixture gets at least so many rows for each entry of the code."""

TOLERANCE = 0.01
"""The mixture has converged where a pass raises the mean log-likelihood of the codes by less than this many nats."""

RIDGE = 1e-6
"""Added to the variances, as a share of the mean variance of all codes."""

STATISTICS = ("counts", "first", "second", "total")
"""The buffers that :meth:`CodeDensity.accumulate` adds to."""


class CodeDensity(nn.Module):
    """sum_k w_k N(h; mu_k, Sigma_k) over codes h (n, size), with full covariances, for each of ``groups`` classes.

    The first pass over the codes gives each class the Gaussian of its moments (a class with fewer than ``size`` + 2 rows that of all rows). With
    more than one component the following ones are iterations of expectation-maximisation, started at draws from that Gaussian (Dempster, Laird and
    Rubin, Maximum likelihood from incomplete data via the EM algorithm, 1977); a class gets one component for ``4 * size`` of its rows, at most
    ``components``. All in float64. Cost of a pass: n * components * size^2.

    Before the first pass it is the standard normal.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    counts: Tensor
    first: Tensor
    second: Tensor
    total: Tensor
    record: Tensor

    def __init__(self, size: int, components: int, groups: int) -> None:
        super().__init__()
        self.size, self.components, self.groups = size, components, groups
        self.shape = Full(size)
        buffers = {
            "weights": (groups, components), "means": (groups, components, size), "factors": (groups, components, size, size),
            "counts": (groups, components), "first": (groups, components, size), "second": (groups, components, size, size), "total": (groups, 2),
            "record": (2,),
        }  # fmt: skip
        for name, shape in buffers.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.reset()

    def reset(self) -> None:
        """Forget what was fitted: one standard normal component."""
        for name in (*STATISTICS, "weights", "means", "record"):
            self.get_buffer(name).zero_()
        self.weights[:, 0] = 1.0
        self.factors.copy_(torch.eye(self.size, dtype=torch.float64).expand_as(self.factors))
        self.record[1] = -torch.inf

    def accumulate(self, h: Tensor, labels: Tensor | None) -> None:
        """Add the moments of codes h (n, size) under the current parameters."""
        h = h.double()
        for group in range(self.groups):
            rows = h if labels is None else h[labels == group]
            if len(rows):
                accumulate(self.shape, self._component(group), self._moments(group), rows, single=False)

    def solve(self) -> Progress:
        """The Gaussian of each class after the first pass, a better mixture after each further one."""
        rows = self.total[:, 1]
        bound = float(self.total[:, 0].sum() / rows.sum())
        if self.record[0] == 0:
            self._first(rows)
            self.record.copy_(torch.tensor([1.0, -torch.inf]))
            return Progress({}, converged=bool((self.weights.gt(0).sum(dim=1) == 1).all()))
        for group in range(self.groups):
            if int((self.weights[group] > 0).sum()) > 1:
                maximise(self.shape, self._component(group), self._moments(group), self._ridge(), self._least())
        gain = bound - float(self.record[1])
        self.record.copy_(torch.tensor([float(self.record[0]) + 1, bound]))
        return Progress({"code_log_likelihood": bound}, converged=gain < TOLERANCE)

    def _first(self, rows: Tensor) -> None:
        pooled = Moments(self.counts.sum(dim=0), self.first.sum(dim=0), self.second.sum(dim=0), self.total.sum(dim=0))
        for group in range(self.groups):
            moments = self._moments(group) if rows[group] >= self.size + 2 else pooled
            start = self._component(group)
            # One row says nothing about spread: the standard normal is kept around it.
            if pooled.total[1] > 1:
                maximise(self.shape, start, moments, 0.0, RIDGE * torch.ones(self.size, dtype=torch.float64, device=rows.device))
            else:
                start.means.copy_(moments.first)
            start.weights.copy_(torch.eye(self.components, dtype=torch.float64, device=rows.device)[0])
            number = int((rows[group] // (ROWS_EACH * self.size)).clamp(1, self.components))
            if number > 1:
                self._spread(group, number)

    def _spread(self, group: int, number: int) -> None:
        """Start so many components at draws from the Gaussian of a class, each somewhat narrower than it."""
        factor, mean = self.factors[group, 0].clone(), self.means[group, 0].clone()
        noise = torch.randn(number, self.size, dtype=torch.float64, device=mean.device)
        self.means[group, :number] = mean + noise @ factor.mT
        self.factors[group, :number] = 0.7 * factor
        self.weights[group, :number] = 1.0 / number

    def _ridge(self) -> float:
        """The addition to variances, in squared units of the codes."""
        return RIDGE * float(self.factors.square().sum(dim=(2, 3)).mean() / self.size)

    def _least(self) -> Tensor:
        return torch.full((self.size,), 1e-12 + self._ridge(), dtype=torch.float64, device=self.weights.device)

    def sample(self, n: int, labels: Tensor | None) -> Tensor:
        """n draws, (n, size) in float64, one of the class of each label."""
        group = torch.zeros(n, dtype=torch.long, device=self.weights.device) if labels is None else labels
        k = torch.multinomial(self.weights[group], 1).squeeze(1)
        noise = torch.randn(n, self.size, 1, dtype=torch.float64, device=self.weights.device)
        return self.means[group, k] + (self.factors[group, k] @ noise).squeeze(2)

    def log_prob(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """The log density of codes h (n, size), shape (n,), in float64."""
        group = torch.zeros(len(h), dtype=torch.long, device=h.device) if labels is None else labels
        rest = (h.double()[:, None] - self.means[group]).unsqueeze(3)
        factors = self.factors[group]
        white = torch.linalg.solve_triangular(factors, rest, upper=False).squeeze(3)
        volume = factors.diagonal(dim1=2, dim2=3).log().sum(dim=2) + 0.5 * self.size * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
        return torch.logsumexp(self.weights[group].log() - 0.5 * white.square().sum(dim=2) - volume, dim=1)

    def _component(self, group: int) -> Component:
        return Component(self.weights[group], self.means[group], self.factors[group])

    def _moments(self, group: int) -> Moments:
        return Moments(self.counts[group], self.first[group], self.second[group], self.total[group])
