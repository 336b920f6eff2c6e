"""Expectation-maximisation for one Gaussian mixture, in blocks of rows: what the mixture model runs for each class."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.models.classical.shapes import Shape

_ELEMENTS = 2**19
_SINGLE_LIMIT = 2048.0
_EXPAND_LIMIT = 32_768.0


@dataclass
class Component:
    """Parameters of one mixture, as views into the model's buffers: weights (k,), means (k, d) and the shape's factors."""

    weights: Tensor
    means: Tensor
    factors: Tensor


@dataclass
class Moments:
    """Sufficient statistics of one mixture, as views into the model's buffers.

    ``counts`` sum r (k,); ``first`` sum r y (k, d); ``second`` sum r y y^T; ``total`` (2,) the summed log-likelihood and the number of rows. y is
    the row whitened by the component's current parameters.
    """

    counts: Tensor
    first: Tensor
    second: Tensor
    total: Tensor

    def clear(self) -> None:
        """Set everything to zero."""
        for buffer in (self.counts, self.first, self.second, self.total):
            buffer.zero_()


def accumulate(shape: Shape, current: Component, moments: Moments, x: Tensor, single: bool, labels: Tensor | None = None) -> None:
    """Add the moments of rows x (n, d), float64, in blocks that stay in the processor's cache.

    E-step: r_nk = softmax_k(log w_k + log N(x_n; mu_k, Sigma_k)) (Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM
    algorithm, 1977; Bishop, Pattern Recognition and Machine Learning, 2006, section 9.2.2), or one-hot ``labels`` where given. All components are
    whitened by one matrix product. ``single``: blocks are processed in float32 and added up in float64. Shapes that need no residuals of their own
    for each component expand the square instead, in float64, as long as nothing cancels.
    """
    k, d = current.means.shape
    centre = current.means.mean(dim=0)
    expand = shape.expandable and _reach(shape, current) < _EXPAND_LIMIT
    kind = torch.float32 if single and not expand else torch.float64
    means, inverse = (current.means - centre).to(kind), shape.invert(current.factors).to(kind)
    constant = (current.weights.log() - shape.log_det(current.factors) - 0.5 * d * math.log(2 * math.pi)).unsqueeze(1)
    block = max(64, min(16_384, _ELEMENTS // (d if expand else k * d)))
    for start in range(0, len(x), block):
        rows = (x[start : start + block] - centre).to(kind).mT.contiguous()
        squares, collect = (shape.expanded if expand else shape.residuals)(rows, means, inverse)
        if labels is None:
            joint = constant - 0.5 * squares
            log_prob = torch.logsumexp(joint, dim=0)
            r = (joint - log_prob).exp_().to(kind)
            moments.total[0] += log_prob.sum()
        else:
            r = torch.nn.functional.one_hot(labels[start : start + block], k).mT.to(kind)
        counts = r.sum(dim=1)
        first, second = collect(r, counts)
        moments.total[1] += rows.shape[1]
        moments.counts += counts
        moments.first += first
        moments.second += second


def maximise(shape: Shape, current: Component, moments: Moments, reg_covar: float, least: Tensor) -> None:
    """M-step in place: the parameters that maximise the expected log-likelihood, with ``reg_covar`` added to the variances.

    A component without rows keeps its place and its covariance, at a weight of about zero. ``least`` (d,) are variances that a covariance falls
    back on where rounding made it singular.
    """
    tiny = 10 * torch.finfo(torch.float64).eps
    counts = moments.counts + tiny
    alive = moments.counts > tiny
    means = current.means + shape.unwhiten(current.factors, moments.first / counts.unsqueeze(1))
    covariance = shape.covariance(current.factors, counts, moments.first, moments.second)
    factors = shape.factorise(shape.regularise(covariance, reg_covar), least)
    if len(factors) == len(alive):
        factors = torch.where(alive.view(-1, *[1] * (factors.dim() - 1)), factors, current.factors)
    current.means.copy_(torch.where(alive.unsqueeze(1), means, current.means))
    current.factors.copy_(factors)
    current.weights.copy_(counts / counts.sum())


def single_suffices(shape: Shape, current: Component) -> bool:
    """Whether float32 blocks give y to about 1e-4, which averages out over rows: no component is narrow and far from the others at once.

    Rounding leaves an error in y of about 6e-8 times its reach.
    """
    return _reach(shape, current) < _SINGLE_LIMIT


def _reach(shape: Shape, current: Component) -> float:
    """The largest term of y = L^-1 (x - centre) before it cancels, for rows 3 deviations from their component's mean."""
    tril = shape.dense(current.factors, len(current.means))
    reach = (current.means - current.means.mean(dim=0)).abs() + 3 * tril.square().sum(dim=2).sqrt()
    inverse = shape.invert(current.factors).square()
    whitened = inverse @ reach.square().unsqueeze(2) if inverse.dim() == 3 else inverse * reach.square()
    return float(whitened.max().sqrt())


def log_densities(shape: Shape, x: Tensor, means: Tensor, factor: Tensor) -> Tensor:
    """log N(x; mu_k, Sigma_k) for rows x (n, d), shape (n, k); differentiable."""
    centre = means.mean(dim=0)
    y = shape.whiten((x - centre).mT.contiguous(), means - centre, shape.invert(factor))
    half = 0.5 * shape.d * math.log(2 * math.pi)
    return -(0.5 * y.square().sum(dim=1) + (shape.log_det(factor) + half).unsqueeze(1)).mT
