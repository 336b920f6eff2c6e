"""Covariance shapes of Gaussian components: full, tied, diagonal, spherical.

A shape knows how to whiten rows by a component, y = L^-1 (x - mu) with Sigma = L L^T, and how to turn moments of y into new parameters. Moments are
taken in whitened coordinates, about the component's current mean: sums there are of order one whatever the units, offset or correlation of the
data, so that nothing cancels (and single precision suffices for the bulk of the arithmetic). k components, d columns, n rows in one call.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.models.classical.linalg import cholesky, triangular_inverse

Collect = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(responsibilities (k, n), which sum to one over k; their sums over n (k,)) -> (sum r y (k, d), second moments)``."""


class Shape(ABC):
    """What a covariance shape provides. ``factor`` stands for L in the shape's own storage, ``inverse`` for L^-1."""

    expandable = False

    def __init__(self, d: int) -> None:
        self.d = d

    @abstractmethod
    def factor_shape(self, k: int) -> tuple[int, ...]:
        """Storage of k factors."""

    @abstractmethod
    def moment_shape(self, k: int) -> tuple[int, ...]:
        """Storage of the second moments of k components."""

    @abstractmethod
    def from_std(self, std: Tensor, k: int) -> Tensor:
        """The factor of k components whose columns are independent with these standard deviations (d,)."""

    @abstractmethod
    def invert(self, factor: Tensor) -> Tensor:
        """L^-1."""

    @abstractmethod
    def log_det(self, factor: Tensor) -> Tensor:
        """log|L|, shape (k,) or (1,)."""

    @abstractmethod
    def whiten(self, x: Tensor, means: Tensor, inverse: Tensor) -> Tensor:
        """y = L^-1 (x - mu) for rows as columns, x (d, n), shape (k, d, n)."""

    @abstractmethod
    def moment(self, y: Tensor, r: Tensor) -> Tensor:
        """sum_n r_kn y_kn y_kn^T, as far as the shape needs it; r (k, n)."""

    def residuals(self, x: Tensor, means: Tensor, inverse: Tensor) -> tuple[Tensor, Collect]:
        """|y|^2 (k, n) of rows as columns x (d, n), and how their moments follow from responsibilities."""
        y = self.whiten(x, means, inverse)
        return (y * y).sum(dim=1), lambda r, counts: (torch.bmm(y, r.unsqueeze(2)).squeeze(2), self.moment(y, r))

    def expanded(self, x: Tensor, means: Tensor, inverse: Tensor) -> tuple[Tensor, Collect]:
        """The same as :meth:`residuals` by expanding the square, without the k residuals of each row; only where ``expandable``."""
        return self.residuals(x, means, inverse)

    @abstractmethod
    def unwhiten(self, factor: Tensor, y: Tensor) -> Tensor:
        """L y for one vector a component, (k, d)."""

    @abstractmethod
    def covariance(self, factor: Tensor, counts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """The maximum-likelihood covariance from sum r (k,), sum r y (k, d) and :meth:`moment`, in scikit-learn's storage."""

    @abstractmethod
    def factorise(self, covariance: Tensor, least: Tensor | None = None) -> Tensor:
        """The factor of a covariance in scikit-learn's storage; ``least`` (d,) are variances to fall back on where it is singular.

        Raises:
            InvalidInput: where it is singular and there is no ``least``.
        """

    @abstractmethod
    def dense(self, factor: Tensor, k: int) -> Tensor:
        """Lower-triangular factors (k, d, d)."""

    @abstractmethod
    def expand(self, factor: Tensor) -> Tensor:
        """The covariance in scikit-learn's storage."""

    @abstractmethod
    def regularise(self, covariance: Tensor, amount: float) -> Tensor:
        """The covariance with ``amount`` added to the variances."""

    @abstractmethod
    def parameters(self, k: int) -> int:
        """Free parameters of the covariances of k components, for BIC and AIC."""


class Full(Shape):
    """One covariance matrix a component, (k, d, d)."""

    def factor_shape(self, k: int) -> tuple[int, ...]:
        return (k, self.d, self.d)

    def moment_shape(self, k: int) -> tuple[int, ...]:
        return (k, self.d, self.d)

    def from_std(self, std: Tensor, k: int) -> Tensor:
        return torch.diag(std).repeat(self.factor_shape(k)[0], 1, 1)

    def invert(self, factor: Tensor) -> Tensor:
        return triangular_inverse(factor)

    def log_det(self, factor: Tensor) -> Tensor:
        return torch.diagonal(factor, dim1=-2, dim2=-1).log().sum(dim=-1)

    def whiten(self, x: Tensor, means: Tensor, inverse: Tensor) -> Tensor:
        offset = inverse @ means.unsqueeze(2)
        y = torch.addmm(offset.view(-1, 1), inverse.reshape(-1, self.d), x, beta=-1)
        return y.view(len(means), self.d, -1)

    def moment(self, y: Tensor, r: Tensor) -> Tensor:
        return torch.bmm(y * r.unsqueeze(1), y.mT)

    def unwhiten(self, factor: Tensor, y: Tensor) -> Tensor:
        return (factor @ y.unsqueeze(2)).squeeze(2)

    def covariance(self, factor: Tensor, counts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        mean = first / counts.unsqueeze(1)
        inner = second / counts.view(-1, 1, 1) - mean.unsqueeze(2) * mean.unsqueeze(1)
        return self._symmetric(factor @ inner @ factor.mT)

    def factorise(self, covariance: Tensor, least: Tensor | None = None) -> Tensor:
        stacked = covariance.view(-1, self.d, self.d)
        factor, failed = cholesky(stacked)
        for power in range(16):
            if not failed.any():
                break
            if least is None:
                raise InvalidInput(
                    f"the covariance of {self.d} columns is singular: rows are too few, or columns repeat each other; "
                    "expected independent columns: drop some, raise --model.reg_covar, or take --model.covariance_type diag."
                )
            again, still = cholesky(stacked + 10.0**power * torch.diag(least))
            factor = torch.where((failed & ~still).view(-1, 1, 1), again, factor)
            failed = failed & still
        return factor.view(self.factor_shape(len(stacked)))

    def dense(self, factor: Tensor, k: int) -> Tensor:
        return factor.expand(k, -1, -1)

    def expand(self, factor: Tensor) -> Tensor:
        return factor @ factor.mT

    def regularise(self, covariance: Tensor, amount: float) -> Tensor:
        return covariance + amount * torch.eye(self.d, dtype=covariance.dtype, device=covariance.device)

    def parameters(self, k: int) -> int:
        return k * self.d * (self.d + 1) // 2

    @staticmethod
    def _symmetric(a: Tensor) -> Tensor:
        return 0.5 * (a + a.mT)


class Tied(Full):
    """One covariance matrix for all components: the factor is (1, d, d), the covariance (d, d)."""

    expandable = True

    def factor_shape(self, k: int) -> tuple[int, ...]:
        return (1, self.d, self.d)

    def moment_shape(self, k: int) -> tuple[int, ...]:
        return (1, self.d, self.d)

    def whiten(self, x: Tensor, means: Tensor, inverse: Tensor) -> Tensor:
        return (inverse[0] @ x) - (means @ inverse[0].mT).unsqueeze(2)

    def moment(self, y: Tensor, r: Tensor) -> Tensor:
        return super().moment(y, r).sum(dim=0, keepdim=True)

    def expanded(self, x: Tensor, means: Tensor, inverse: Tensor) -> tuple[Tensor, Collect]:
        z, m = inverse[0] @ x, means @ inverse[0].mT
        squares = torch.addmm(z.square().sum(dim=0) + m.square().sum(dim=1, keepdim=True), m, z, alpha=-2)

        def collect(r: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
            sums = r @ z.mT
            cross = sums.mT @ m
            return sums - counts.unsqueeze(1) * m, (z @ z.mT - cross - cross.mT + m.mT @ (counts.unsqueeze(1) * m)).unsqueeze(0)

        return squares, collect

    def covariance(self, factor: Tensor, counts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        inner = second[0] - first.mT @ (first / counts.unsqueeze(1))
        return self._symmetric(factor[0] @ (inner / counts.sum()) @ factor[0].mT)

    def expand(self, factor: Tensor) -> Tensor:
        return super().expand(factor)[..., 0, :, :]

    def parameters(self, k: int) -> int:
        return super().parameters(1)


class Diag(Shape):
    """One variance a component and column: factor (standard deviations) and covariance are (k, d)."""

    expandable = True

    def factor_shape(self, k: int) -> tuple[int, ...]:
        return (k, self.d)

    def moment_shape(self, k: int) -> tuple[int, ...]:
        return (k, self.d)

    def from_std(self, std: Tensor, k: int) -> Tensor:
        return std.expand(k, -1)

    def invert(self, factor: Tensor) -> Tensor:
        return factor.reciprocal()

    def log_det(self, factor: Tensor) -> Tensor:
        return factor.log().sum(dim=-1)

    def whiten(self, x: Tensor, means: Tensor, inverse: Tensor) -> Tensor:
        return torch.addcmul(-(means * inverse).unsqueeze(2), inverse.unsqueeze(2), x.unsqueeze(0))

    def moment(self, y: Tensor, r: Tensor) -> Tensor:
        return torch.bmm(y * y, r.unsqueeze(2)).squeeze(2)

    def expanded(self, x: Tensor, means: Tensor, inverse: Tensor) -> tuple[Tensor, Collect]:
        features = torch.cat([x * x, x])
        precision = inverse.expand_as(means).square()
        offset = (precision * means.square()).sum(dim=1, keepdim=True)
        squares = torch.addmm(offset, torch.cat([precision, -2 * precision * means], dim=1), features)

        def collect(r: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
            second, first = torch.split(r @ features.mT, self.d, dim=1)
            n = counts.unsqueeze(1)
            return inverse * (first - n * means), precision * (second - 2 * means * first + n * means.square())

        return squares, collect

    def unwhiten(self, factor: Tensor, y: Tensor) -> Tensor:
        return factor * y

    def covariance(self, factor: Tensor, counts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        n = counts.unsqueeze(1)
        return (factor.square() * (second / n - (first / n).square())).clamp_min(0)

    def factorise(self, covariance: Tensor, least: Tensor | None = None) -> Tensor:
        if least is None and bool((covariance <= 0).any()):
            raise InvalidInput("a column does not vary within a class: its density is unbounded; drop it, or raise --model.reg_covar.")
        return (covariance if least is None else torch.maximum(covariance, self._fit(least))).sqrt()

    def dense(self, factor: Tensor, k: int) -> Tensor:
        return torch.diag_embed(factor.expand(k, self.d))

    def expand(self, factor: Tensor) -> Tensor:
        return factor.square()

    def regularise(self, covariance: Tensor, amount: float) -> Tensor:
        return covariance + amount

    def parameters(self, k: int) -> int:
        return k * self.d

    def _fit(self, least: Tensor) -> Tensor:
        return least


class Spherical(Diag):
    """One variance a component: the factor is (k, 1), the covariance (k,)."""

    def factor_shape(self, k: int) -> tuple[int, ...]:
        return (k, 1)

    def from_std(self, std: Tensor, k: int) -> Tensor:
        return std.square().mean().sqrt().expand(k, 1)

    def log_det(self, factor: Tensor) -> Tensor:
        return self.d * super().log_det(factor)

    def covariance(self, factor: Tensor, counts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return super().covariance(factor, counts, first, second).mean(dim=1)

    def factorise(self, covariance: Tensor, least: Tensor | None = None) -> Tensor:
        return super().factorise(covariance, least).unsqueeze(-1)

    def expand(self, factor: Tensor) -> Tensor:
        return super().expand(factor).squeeze(-1)

    def parameters(self, k: int) -> int:
        return k

    def _fit(self, least: Tensor) -> Tensor:
        return least.mean()


SHAPES: dict[str, type[Shape]] = {"full": Full, "tied": Tied, "diag": Diag, "spherical": Spherical}
