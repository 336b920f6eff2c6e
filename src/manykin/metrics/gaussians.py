"""Gaussians fitted to features, from rows or from moments that were gathered in batches, and the Fréchet distance between them."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.moments import Moments
from manykin.metrics.pairs import checked_rows, same_width

BLOCK = 1024
"""Rows that are looked at together."""


@torch.no_grad()
def frechet_from_moments(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """The Fréchet distance between two Gaussians: see :func:`manykin.metrics.frechet.frechet_distance`. Shapes (d,), (d, d), (d,), (d, d).

    Raises:
        InvalidInput: for other shapes, values that are not finite, or a matrix that is not symmetric and positive semidefinite.
    """
    first, second = _moments(mean, covariance, "first"), _moments(other_mean, other_covariance, "second")
    if len(first[0]) != len(second[0]):
        raise InvalidInput(f"the first mean has {len(first[0])} entries and the second {len(second[0])}; expected as many.")
    shift = first[0] - second[0]
    root = float(torch.linalg.svdvals(first[1] @ second[1].T).sum())
    value = float(shift @ shift) + float(first[1].square().sum()) + float(second[1].square().sum()) - 2 * root
    return max(value, 0.0)


@torch.no_grad()
def feature_moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor, int]:
    """Mean (d,), covariance over n - 1 (d, d) and n of features that come in batches (n_i, d), in constant memory, in float64.

    Raises:
        InvalidInput: for fewer than two rows in all, batches of different widths, or values that are not finite.
    """
    moments: Moments | None = None
    for batch in batches:
        if len(batch) == 0:
            continue
        rows = checked_rows(batch, "a batch of features", 1, most=len(batch))
        moments = moments or Moments(rows.shape[1])
        same_width(rows, moments.centre[None], "a batch", "the first one")
        moments.add(rows)
    if moments is None or moments.n < 2:
        raise InvalidInput(f"{0 if moments is None else moments.n} rows of features have no covariance; expected at least 2.")
    return moments.centre, moments.squares / (moments.n - 1), moments.n


@dataclass(frozen=True)
class Gaussian:
    """Rows (n, d), their mean (d,), a factor (r, d) with covariance factor.T @ factor, and ``left``.

    ``left``, (d, r), takes deviations from the mean to rows of orthonormal columns with deviations = (deviations @ left) @ factor * sqrt(n - 1);
    None: the factor is the deviations themselves over sqrt(n - 1), and those rows are the unit vectors.
    """

    rows: Tensor
    mean: Tensor
    factor: Tensor
    left: Tensor | None

    def deviations(self) -> Iterator[tuple[slice, Tensor]]:
        """The rows less their mean, a block at a time."""
        for start in range(0, len(self.rows), BLOCK):
            part = slice(start, start + BLOCK)
            yield part, self.rows[part] - self.mean


def fitted(rows: Tensor) -> Gaussian:
    """The Gaussian of at least two rows, shape (n, d), float64."""
    n, d = rows.shape
    mean = rows.mean(dim=0)
    if n <= d:
        return Gaussian(rows, mean, (rows - mean) / math.sqrt(n - 1), None)
    squares = torch.zeros(d, d, dtype=torch.float64)
    for _, part in Gaussian(rows, mean, squares, None).deviations():
        squares.addmm_(part.T, part)
    values, vectors = _spectrum(squares / (n - 1))
    return Gaussian(rows, mean, (vectors * values.sqrt()).T, vectors / (values * (n - 1)).sqrt())


def _spectrum(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues above rounding error, and their vectors: the root of a rounding error of 1e-16 would be 1e-8."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values.abs().max() * len(values) * torch.finfo(torch.float64).eps
    return values[kept], vectors[:, kept]


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance between the Gaussians of two samples, and its derivatives in the weight of each row, (n,) and (m,), less their mean.

    ``rank``: the larger of both ranks; the number of rows where they are no more than the dimensions.
    """

    value: float
    first: Tensor
    second: Tensor
    rank: int

    @property
    def jackknife(self) -> float:
        """The infinitesimal jackknife's variance of the value."""
        return jackknife(self.first, self.second)


def jackknife(first: Tensor, second: Tensor) -> float:
    """The variance of a statistic of two samples that follows from its derivatives in the weight of each row, (n,) and (m,)."""
    return float(first.var()) / len(first) + float(second.var()) / len(second)


def gaussian_distance(a: Tensor, b: Tensor) -> Distance:
    """The Fréchet distance between the Gaussians fitted to two samples, (n, d) and (m, d), float64."""
    first, second = fitted(a), fitted(b)
    shift = first.mean - second.mean
    left, roots, right = torch.linalg.svd(first.factor @ second.factor.T, full_matrices=False)
    traces = float(first.factor.square().sum()) + float(second.factor.square().sum())
    value = max(float(shift @ shift) + traces - 2 * float(roots.sum()), 0.0)
    root = roots.sqrt()
    rank = max(len(first.factor), len(second.factor))
    return Distance(value, _slopes(first, shift, left * root), _slopes(second, -shift, right.T * root), rank)


def _slopes(side: Gaussian, shift: Tensor, root: Tensor) -> Tensor:
    """Derivatives in the weight of each row of one sample."""
    n = len(side.rows)
    slopes, onto = torch.empty(n, dtype=torch.float64), None if side.left is None else side.left @ root
    for part, deviations in side.deviations():
        mapped = root[part] if onto is None else deviations @ onto
        slopes[part] = 2 * deviations @ shift + deviations.square_().sum(dim=1) * (n / (n - 1)) - n * mapped.square().sum(dim=1)
    return slopes - slopes.mean()


def _moments(mean: Tensor, covariance: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The mean, and a factor of the covariance."""
    centre, matrix = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64)
    if centre.ndim != 1 or matrix.shape != (len(centre), len(centre)):
        raise InvalidInput(f"the {name} mean has shape {tuple(centre.shape)} and its covariance {tuple(matrix.shape)}; expected (d,) and (d, d).")
    if not (torch.isfinite(centre).all() and torch.isfinite(matrix).all()):
        raise InvalidInput(f"the {name} moments hold a value that is not finite; expected finite numbers.")
    largest = float(matrix.abs().max())
    if float((matrix - matrix.T).abs().max()) > 1e-6 * largest:
        raise InvalidInput(f"the {name} covariance is not symmetric; expected a covariance matrix.")
    lowest = float(torch.linalg.eigvalsh(matrix)[0])
    if lowest < -1e-6 * largest:
        raise InvalidInput(f"the {name} covariance has the eigenvalue {lowest:.3g}; expected none below 0.")
    values, vectors = _spectrum((matrix + matrix.T) / 2)
    return centre, (vectors * values.sqrt()).T
