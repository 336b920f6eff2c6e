"""Known and unknown entries: the conditional distribution of a Gaussian mixture, and what every ``complete`` shares."""

from collections.abc import Callable

import torch
from torch import Tensor

from manykin.contract import GenerativeModel
from manykin.errors import InvalidInput
from manykin.models.classical.groups import by_group
from manykin.random import fresh_seed
from manykin.spaces import Space, Value, columns_of, count, take

Fill = Callable[[Tensor, Tensor, int], Tensor]
"""``(rows of one class that share a pattern, known columns as a boolean (d,), class) -> the unknown columns``."""

_BLOCK = 1024


def complete(model: GenerativeModel, x: Value, known: Tensor, condition: Value | None, seed: int | None, groups: int, fill: Fill) -> Value:
    """x with its unknown entries filled by ``fill``, rows sorted by class and by pattern of known entries; known entries stay as they are.

    Raises:
        InvalidInput: where ``known`` is not a boolean tensor of the shape of x, or known entries are outside the space.
    """
    given = _check(x, known)
    with torch.no_grad(), model.evaluating(fresh_seed() if seed is None else seed):
        z, _, c = model.prepare(_placeholder(given, known, model.space), condition)
        known = known.to(z.device)
        patterns, which = torch.unique(known.reshape(len(known), -1), dim=0, return_inverse=True)
        z = z.clone()
        for index, pattern in enumerate(patterns):
            if pattern.all():
                continue
            rows = (which == index).nonzero().flatten()
            for group, inside in by_group(None if c is None else take(c, rows), groups):
                for block in torch.split(rows[inside], _BLOCK):
                    part = z[block]
                    part[:, ~pattern] = fill(part, pattern, group)
                    z[block] = part
        out = model.finish(z)
    assert isinstance(out, Tensor)
    return torch.where(known, given.to(out), out)


def _check(x: Value, known: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise InvalidInput(f"x is a {type(x).__name__}; expected one tensor for completion.")
    if not isinstance(known, Tensor) or known.dtype != torch.bool or known.shape != x.shape:
        what = f"a tensor of {known.dtype} {tuple(known.shape)}" if isinstance(known, Tensor) else f"a {type(known).__name__}"
        raise InvalidInput(f"known is {what}; expected a boolean tensor of shape {tuple(x.shape)}, True where x is known.")
    if x.dim() == 0 or count(x) == 0:
        raise InvalidInput(f"x of shape {tuple(x.shape)} is empty; expected at least one example to complete.")
    return x


def _placeholder(x: Tensor, known: Tensor, space: Space) -> Tensor:
    """x with any valid value in its unknown places, so that it may hold NaN there."""
    if x.dim() < 2 or x.shape[1:] != space.shape:
        return x
    origin = torch.tensor([column.origin for column in columns_of(space)], dtype=torch.float64, device=x.device).view(space.shape)
    return torch.where(known.to(x.device), x, origin.to(x.dtype))


def condition_gaussians(rows: Tensor, known: Tensor, log_weights: Tensor, means: Tensor, tril: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The conditional of a Gaussian mixture given some columns: again a mixture.

    With the known columns first, the Cholesky factor of a covariance is [[A, 0], [B, C]], and x_u given x_k has mean mu_u + B A^-1 (x_k - mu_k)
    and Cholesky factor C (Bishop, Pattern Recognition and Machine Learning, 2006, section 2.3.1, in factored form, which never subtracts).

    Args:
        rows: (n, d), read at the known columns only.
        known: boolean (d,).
        log_weights: (k,); means: (k, d); tril: Cholesky factors (k, d, d).

    Returns:
        log-weights (n, k), means (n, k, u) and Cholesky factors (k, u, u) of the u unknown columns.
    """
    order = torch.cat([known.nonzero().flatten(), (~known).nonzero().flatten()])
    m = int(known.sum())
    if m == 0:
        return log_weights.expand(len(rows), -1), means.expand(len(rows), -1, -1), tril
    # The factor of the reordered covariance is the R of a QR of the reordered rows: squaring the factor would square its condition number.
    upper = torch.linalg.qr(tril[:, order].mT, mode="r").R
    signs = torch.where(torch.diagonal(upper, dim1=1, dim2=2) < 0, -1.0, 1.0)
    factor = (upper * signs.unsqueeze(2)).mT
    y = torch.linalg.solve_triangular(factor[:, :m, :m], (rows[:, order[:m]].unsqueeze(1) - means[:, order[:m]]).permute(1, 2, 0), upper=False)
    log_det = torch.diagonal(factor[:, :m, :m], dim1=1, dim2=2).log().sum(dim=1)
    evidence = log_weights - log_det - 0.5 * y.square().sum(dim=1).T
    shift = (factor[:, m:, :m] @ y).permute(2, 0, 1)
    return torch.log_softmax(evidence, dim=1), means[:, order[m:]] + shift, factor[:, m:, m:]


def draw_conditional(rows: Tensor, known: Tensor, log_weights: Tensor, means: Tensor, tril: Tensor) -> Tensor:
    """Draws of the unknown columns of each row, shape (n, u); see :func:`condition_gaussians`."""
    log_w, centres, factors = condition_gaussians(rows, known, log_weights, means, tril)
    component = torch.multinomial(log_w.exp(), 1).flatten()
    noise = torch.randn(len(rows), factors.shape[1], dtype=rows.dtype, device=rows.device)
    out = torch.empty_like(noise)
    for k in torch.bincount(component).nonzero().flatten().tolist():
        chosen = component == k
        out[chosen] = centres[chosen, k] + noise[chosen] @ factors[k].mT
    return out


def mean_conditional(rows: Tensor, known: Tensor, log_weights: Tensor, means: Tensor, tril: Tensor) -> Tensor:
    """The conditional mean of the unknown columns of each row, shape (n, u): the prediction of least squared error."""
    log_w, centres, _ = condition_gaussians(rows, known, log_weights, means, tril)
    return (log_w.exp().unsqueeze(2) * centres).sum(dim=1)
