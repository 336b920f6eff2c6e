"""Chains of a conditional model: which label each of them has, and what it counts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from manykin.errors import InvalidInput


@dataclass(frozen=True)
class LabelledChains:
    """The labels of chains that live on through training, and how often each label occurs in the data.

    A negative phase must have each label as often as the data: chains that do not are a force on the energy of the label itself, which no change of
    x answers. Hence labels are dealt, not drawn, and chains are weighed (:attr:`weights`), or taken up as the rows of a batch want them
    (:meth:`pick`).

    Attributes:
        labels: of each chain, (chains,) int64.
        frequencies: of each label among the training rows, (classes,) float64, summing to 1.
    """

    labels: Tensor
    frequencies: Tensor

    @classmethod
    def dealt(cls, frequencies: Tensor, count: int) -> "LabelledChains":
        """``count`` chains: one for each label that occurs, the others by frequency.

        Raises:
            InvalidInput: for fewer chains than labels.
        """
        refuse_few("chains", count, len(frequencies))
        here = (frequencies > 0).nonzero()[:, 0]
        rest = count - len(here)
        places = (torch.arange(rest, dtype=frequencies.dtype, device=frequencies.device) + 0.5) / max(rest, 1)
        others = torch.searchsorted(frequencies.cumsum(0), places).clamp_max(len(frequencies) - 1)
        return cls(torch.cat([here, others]).sort().values, frequencies)

    @property
    def weights(self) -> Tensor:
        """What each chain counts, (chains,), so that every label counts by its frequency."""
        return (self.frequencies / self._counts().clamp_min(1))[self.labels]

    def pick(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """For each wanted label (n,) a chain of it, by chance, each one once before any a second time.

        Returns:
            Their places (n,), and whether a place comes for the first time (n,); the place is -1 where no chain has the label.
        """
        n, device = len(wanted), self.labels.device
        mixed = torch.randperm(len(self.labels), device=device)
        mixed = mixed[torch.argsort(self.labels[mixed], stable=True)]
        counts, asked = self._counts(), torch.bincount(wanted, minlength=len(self.frequencies))
        order = torch.argsort(wanted, stable=True)
        turn = torch.empty(n, dtype=torch.long, device=device)
        turn[order] = torch.arange(n, device=device) - (asked.cumsum(0) - asked)[wanted[order]]
        mine = counts[wanted]
        first = (counts.cumsum(0) - counts)[wanted]
        places = mixed[(first + turn % mine.clamp_min(1)).clamp_max(len(mixed) - 1)]
        return torch.where(mine > 0, places, -1), turn < mine

    def _counts(self) -> Tensor:
        return torch.bincount(self.labels, minlength=len(self.frequencies))


def refuse_few(option: str, count: int, classes: int) -> None:
    """Refuse fewer chains than labels.

    Raises:
        InvalidInput: naming the option of the model that sets their number.
    """
    if count < classes:
        raise InvalidInput(f"{option} = {count} are fewer chains than the {classes} classes; expected at least one a class: give --model.{option}.")
