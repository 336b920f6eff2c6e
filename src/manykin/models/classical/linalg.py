"""Triangular factors of covariances."""

import torch
from torch import Tensor

_SINGULAR = 1e-13


def cholesky(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Factors, and which of them are singular to rounding: a column that the ones before it explain but for 1e-13 of its variance."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    pivots = torch.diagonal(factor, dim1=-2, dim2=-1).square()
    variances = torch.diagonal(covariance, dim1=-2, dim2=-1)
    bad = (info != 0) | ~(pivots > _SINGULAR * variances).all(dim=-1)
    return factor, bad


def triangular_inverse(factor: Tensor) -> Tensor:
    """L^-1 of lower-triangular factors (..., d, d)."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    return inverse
