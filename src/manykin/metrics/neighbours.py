"""Exact nearest neighbours in constant memory: the one place that searches for them."""

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.pairs import checked_rows, same_width

QUERY_ROWS, REFERENCE_ROWS = 1024, 8192
MORE = 8
"""Candidates beyond the k wanted: their distances are computed exactly too."""
SINGLE_FROM = 16
"""From this many columns on, candidates come from products in single precision."""
REFINED = 4_000_000
SLACK = 1e-9


@torch.no_grad()
def nearest(queries: Tensor, reference: Tensor, k: int, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    r"""The k nearest rows of ``reference`` to each row of ``queries`` in Euclidean distance, exactly; of equal distances the lowest index first.

    Candidates come from :math:`|q - r|^2 = |q|^2 - 2 q \cdot r + |r|^2` as one matrix product a block, in single precision where there are at least
    16 columns; the distances of the k + 8 best are then computed in double precision from differences, so that copies have a distance of exactly
    0. A rounding bound on the product (N. J. Higham, Accuracy and stability of numerical algorithms, 2002, section 3.1) says for which queries no
    other row can be as near as the k-th; the remaining ones, such as those with many ties, are searched without the product. Time grows as
    n m d, memory as the blocks (about 100 MB) and the answer.

    Args:
        queries: finite numbers, (n, ...), flattened; with ``exclude_self`` the same rows as ``reference``.
        reference: finite numbers, (m, ...), with as many entries a row.
        k: neighbours a query, at least 1.
        exclude_self: row i is no neighbour of query i (a different row with equal values is).

    Returns:
        Distances (n, k) in float64, ascending, and indices (n, k) in int64.

    Raises:
        InvalidInput: for rows of different sizes, values that are not finite, or fewer than k neighbours.
    """
    if exclude_self:
        if len(queries) != len(reference):
            raise InvalidInput(f"{len(queries)} queries and {len(reference)} reference rows; exclude_self expects the same rows as both.")
        return others(reference, torch.arange(len(reference)), k)
    a, b = _rows(queries, "queries"), _rows(reference, "reference")
    same_width(a, b, "queries", "reference")
    if not 1 <= k <= len(b):
        raise InvalidInput(f"k = {k} neighbours among {len(b)} rows; expected 1 to {len(b)}: use a smaller k or more rows.")
    distances, indices = torch.empty(len(a), k, dtype=torch.float64), torch.empty(len(a), k, dtype=torch.int64)
    unsure = torch.zeros(len(a), dtype=torch.bool)
    search = _Products(b, k)
    for start in range(0, len(a), QUERY_ROWS):
        rows = slice(start, start + QUERY_ROWS)
        distances[rows], indices[rows], unsure[rows] = search(a[rows])
    if unsure.any():
        distinct, place = torch.unique(a[unsure], dim=0, return_inverse=True)
        exact, where = _direct(distinct, b, k)
        distances[unsure], indices[unsure] = exact[place], where[place]
    return distances, indices


def others(reference: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of ``reference`` to those at positions ``rows``, (len(rows), k) each: as :func:`nearest`, without the row itself.

    Raises:
        InvalidInput: as :func:`nearest`; for k = 1 it takes two rows.
    """
    if not 1 <= k < len(reference):
        raise InvalidInput(f"k = {k} other neighbours among {len(reference)} rows; expected 1 to {len(reference) - 1}: use a smaller k or more rows.")
    distances, indices = nearest(reference[rows], reference, k + 1)
    itself = indices == rows[:, None]
    itself[:, -1] |= ~itself.any(dim=1)
    return distances[~itself].view(-1, k), indices[~itself].view(-1, k)


def _rows(x: Tensor, name: str) -> Tensor:
    return checked_rows(x, name, 1, most=max(len(x), 1))


class _Products:
    """Candidates from matrix products over centred and scaled rows, and their exact distances."""

    def __init__(self, reference: Tensor, k: int) -> None:
        self.reference, self.k, self.size = reference, k, min(k + MORE, len(reference))
        self.centre = reference.mean(dim=0)
        # Rows have norms of at most 1 after scaling: no overflow in single precision, whatever the units.
        self.scale = max(float((reference - self.centre).norm(dim=1).max()), torch.finfo(torch.float64).tiny)
        self.dtype = torch.float32 if reference.shape[1] >= SINGLE_FROM else torch.float64
        self.blocks = [self._scaled(block) for block in torch.split(reference, REFERENCE_ROWS)]
        self.squares = [(block * block).sum(dim=1) for block in self.blocks]

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances, indices, and for which queries the answer may be another one."""
        scaled = self._scaled(queries)
        reach = scaled.norm(dim=1).double()
        best, index = self._candidates(scaled)
        index = index.sort(dim=1).values
        distances, order = self._exact(queries, index).sort(dim=1, stable=True)
        distances, index = distances[:, : self.k], index.gather(1, order)[:, : self.k]
        bound = (queries.shape[1] + 8) * torch.finfo(self.dtype).eps * (reach + 1) ** 2
        last = best.amax(dim=1).double() + reach**2
        unsure = ~((distances[:, -1] / self.scale) ** 2 * (1 + SLACK) < last - bound)
        return distances, index, unsure & (self.size < len(self.reference))

    def _scaled(self, rows: Tensor) -> Tensor:
        return ((rows - self.centre) / self.scale).to(self.dtype)

    def _candidates(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest |r|^2 - 2 q r of each query, (n, size), and where."""
        best = torch.empty(len(scaled), 0, dtype=self.dtype)
        index = torch.empty(len(scaled), 0, dtype=torch.int64)
        start = 0
        for block, squares in zip(self.blocks, self.squares, strict=True):
            found, at = torch.addmm(squares, scaled, block.T, alpha=-2).topk(min(self.size, len(block)), dim=1, largest=False)
            best, index = torch.cat([best, found], dim=1), torch.cat([index, at + start], dim=1)
            if best.shape[1] > self.size:
                best, keep = best.topk(self.size, dim=1, largest=False)
                index = index.gather(1, keep)
            start += len(block)
        return best, index

    def _exact(self, queries: Tensor, index: Tensor) -> Tensor:
        size = max(REFINED // (index.shape[1] * max(queries.shape[1], 1)), 1)
        parts = [
            (self.reference[at] - rows[:, None]).norm(dim=2) for rows, at in zip(torch.split(queries, size), torch.split(index, size), strict=True)
        ]
        return torch.cat(parts)


def _direct(queries: Tensor, reference: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Neighbours from differences alone, in double precision, ties by lowest index."""
    distances, indices = [], []
    for rows in torch.split(queries, QUERY_ROWS):
        best, index = torch.empty(len(rows), 0, dtype=torch.float64), torch.empty(len(rows), 0, dtype=torch.int64)
        for start in range(0, len(reference), REFERENCE_ROWS):
            block = torch.cdist(rows, reference[start : start + REFERENCE_ROWS], compute_mode="donot_use_mm_for_euclid_dist")
            best = torch.cat([best, block], dim=1)
            index = torch.cat([index, torch.arange(start, start + block.shape[1]).expand(len(rows), -1)], dim=1)
            best, at = _smallest(best, min(k, best.shape[1]))
            index = index.gather(1, at)
        distances.append(best)
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)


def _smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row in order, the first of equal ones first, which ``topk`` does not promise and ``argmin`` does. Overwrites."""
    found, places = [], []
    for _ in range(k):
        at = values.argmin(dim=1, keepdim=True)
        found.append(values.gather(1, at))
        places.append(at)
        values.scatter_(1, at, torch.inf)
    return torch.cat(found, dim=1), torch.cat(places, dim=1)
