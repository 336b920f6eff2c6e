"""A model whose tensors grow with the data: a kernel density that keeps some training rows."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from manykin.contract import EXACT, Batch, ClosedForm, Config, Density, GenerativeModel, Phase, Progress, Sampler, Support
from manykin.spaces import Space, Value, Vector
from manykin.testing.oracles.support import normal


class KernelOracle(GenerativeModel):
    """Gaussian kernels around up to 64 training rows; their number is one of ``sizes``, their width follows from a closed-form phase."""

    stores_rows = True

    centres: Tensor
    width: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        self.size = self.model_space.shape[0]
        self.register_buffer("centres", torch.zeros(1, self.size, dtype=torch.float64))
        for name in ("width", "squares", "count"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        self.width.fill_(1.0)

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Vector,))

    def phases(self) -> Sequence[Phase]:
        return [ClosedForm("width", statistics=("squares", "count"))]

    def allocate(self, sizes: Mapping[str, int]) -> None:
        super().allocate(sizes)
        if "rows" in self.sizes:
            self.register_buffer("centres", torch.zeros(self.sizes["rows"], self.size, dtype=torch.float64, device=self.device))

    def initialise(self, sample: Batch) -> None:
        z, _ = self.to_model_space(sample.x)
        self.allocate({"rows": min(len(z), 64)})
        self.centres.copy_(z[:64])

    def accumulate(self, batch: Batch) -> None:
        """The sum of squares and the number of entries."""
        z, _ = self.to_model_space(batch.x)
        self.squares.add_((z**2).sum())
        self.count.add_(z.numel())

    def solve(self) -> Progress:
        """A third of the root mean square."""
        self.width.copy_((self.squares / self.count).sqrt() / 3)
        return Progress(converged=True)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        each = normal(z.double()[:, None], self.centres, self.width).sum(-1)
        return each.logsumexp(1) - torch.tensor(float(len(self.centres)), dtype=torch.float64).log()

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        chosen = self.centres[torch.randint(len(self.centres), (n,))]
        return chosen + self.width * torch.randn(n, self.size, dtype=torch.float64)
