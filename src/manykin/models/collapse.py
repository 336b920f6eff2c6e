"""How far generated examples lie from each other beside real ones, and the warning where they do not."""

import warnings

import torch
from torch import Tensor, nn

from manykin.errors import ManykinWarning
from manykin.random import generator
from manykin.spaces import Space, Value

ROWS = 512
"""Examples of either kind that are looked at, at most."""
FEWEST = 32
"""With fewer rows nothing is said."""
SPREAD, NEAREST = 0.5, 0.25
"""Below these shares of the real distances a warning is given. Two real samples of 512 differ by a few per cent in the first, a tenth or two in the
second; a generator that is merely blurred or short of training stays above half in both."""


class Spread(nn.Module):
    """Mean distances within up to 512 training rows, and what a generator's examples have of them.

    Two figures in data space, every entry in units of its standard deviation: the mean distance of pairs, which falls where all examples become
    alike, and the mean distance to the nearest other one, which also falls where they gather in a few points far from each other. Neither sees a
    single mode that is left out. Zero ``rows``: the data are of a kind without distances.
    """

    reference: Tensor
    scale: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        entries = torch.Size(space.shape).numel()
        self.register_buffer("reference", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(entries, dtype=torch.float64))

    @torch.no_grad()
    def fit(self, x: Value) -> None:
        """Take the distances within rows of the training data, drawn at random."""
        if not isinstance(x, Tensor):
            return
        # A permutation: files are often sorted, and their first rows then are of one kind.
        rows = _flat(x[torch.randperm(len(x), generator=generator(0, "spread"))[:ROWS].to(x.device)])
        std = rows.std(dim=0, correction=0)
        self.scale.copy_(torch.where(std > 0, std, 1.0))
        self.reference.copy_(torch.tensor([float(len(rows)), *_distances(rows / self.scale)]))

    @property
    def rows(self) -> int:
        """How many training rows the distances are of, and examples should be compared; 0 where there are too few."""
        n = int(self.reference[0])
        return n if n >= FEWEST else 0

    @torch.no_grad()
    def compare(self, x: Value) -> dict[str, float]:
        """``spread`` and ``nearest`` of :attr:`rows` generated examples, as shares of the real distances; warns where either is small.

        Of training rows that mostly repeat each other, as with few levels, only the first is given.
        """
        assert isinstance(x, Tensor)
        found = _distances(_flat(x).to(self.scale.device) / self.scale)
        known = [("spread", SPREAD, found[0], float(self.reference[1])), ("nearest", NEAREST, found[1], float(self.reference[2]))]
        shares = {name: own / real for name, _, own, real in known if real > 0}
        low = [name for name, bound, _, _ in known if shares.get(name, 1.0) < bound]
        if low:
            words = {"spread": "as far from each other", "nearest": "as far from their nearest neighbours"}
            told = " and ".join(f"{shares[name]:.2g} times {words[name]}" for name in low)
            warnings.warn(
                f"generated examples lie only {told} as training rows do: the generator has collapsed onto few kinds of them, or has hardly learnt "
                "yet. Train longer, lower the learning rates, try another --seed, or another objective or model.",
                ManykinWarning,
                stacklevel=2,
            )
        return shares


def _flat(x: Tensor) -> Tensor:
    return x.double().flatten(1)


def _distances(rows: Tensor) -> list[float]:
    """The mean distance of pairs of different rows, and that of rows to their nearest other one; the latter 0 where half of the rows are repeated."""
    # Differences, not products: of rows that lie far from 0, or in tight groups, products would leave rounding alone.
    between = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    n = len(rows)
    pairs = float(between.sum()) / max(1, n * (n - 1))
    if n < 2:
        return [pairs, 0.0]
    nearest = between.fill_diagonal_(torch.inf).amin(dim=1)
    return [pairs, float(nearest.mean()) if float(nearest.median()) > 1e-6 else 0.0]
