"""A picture model that is right by reading: each level from a table of what every earlier level adds to its logits."""

from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.contract import EXACT, Config, Density, GenerativeModel, Gradient, Phase, Sampler, Support
from manykin.decoding import Decoding
from manykin.random import fresh_seed, seeded
from manykin.spaces import Image, Space, Value
from manykin.testing.completion import from_order, in_order
from manykin.testing.oracles.support import FAST, check_mask


class PictureOracle(GenerativeModel):
    """Logistic regressions of every entry on those before it, line by line and the channels of a pixel one after the other.

    A fully visible belief net (Frey, Hinton and Dayan, Does the wake-sleep algorithm produce good density estimators?, 1996) with any number of
    levels: ``logits_i = bias_i + sum_{j < i} weight[i, :, j, x_j]``.
    """

    samplers: ClassVar[tuple[type[Sampler], ...]] = (Decoding,)
    completes: ClassVar[Literal["any", "prefix"]] = "prefix"

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        picture = cast(Image, self.model_space)
        self.entries, self.levels = picture.size[0] * picture.size[1] * picture.size[2], cast(int, picture.levels)
        self.weight = nn.Parameter(torch.randn(self.entries, self.levels, self.entries, self.levels))
        self.bias = nn.Parameter(torch.zeros(self.entries, self.levels))

    @property
    def kind(self) -> Density:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Image,), bounded="levels")

    def phases(self) -> list[Phase]:
        return [Gradient("main", optimizer=FAST)]

    def visible(self) -> Tensor:
        """Which entries (second axis) each entry (first axis) depends on."""
        return torch.ones(self.entries, self.entries).tril(-1)

    def logits(self, flat: Tensor) -> Tensor:
        """Logits of every entry given those before it, (n, entries, levels), of rows (n, entries) in reading order."""
        codes = functional.one_hot(flat.long(), self.levels).to(self.dtype)
        seen = self.weight * self.visible().to(self.dtype)[:, None, :, None]
        return self.bias + torch.einsum("njl,ikjl->nik", codes, seen)

    def _terms(self, z: Tensor) -> Tensor:
        flat = in_order(self.space, z)
        return self.logits(flat).log_softmax(dim=2).gather(2, flat.long().unsqueeze(2)).squeeze(2)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return self._terms(z).sum(dim=1)

    def log_conditionals(self, x: Value, condition: Value | None = None) -> Tensor:
        """log p of each entry given those before it, shape of x."""
        with torch.no_grad():
            return from_order(self.space, self._terms(self.prepare(x, condition)[0]).double())

    def order(self) -> list[int]:
        """The places in the order in which they are drawn."""
        return list(range(self.entries))

    def next_logits(self, flat: Tensor, place: int, rules: Decoding) -> Tensor:
        """Logits (n, levels) of one entry given those before it."""
        return self.logits(flat)[:, place]

    def fill(self, z: Tensor, known: Tensor, sampler: Sampler | None) -> Tensor:
        """Draw what is not known, in reading order."""
        rules = sampler if isinstance(sampler, Decoding) else Decoding()
        flat, fixed = in_order(self.space, z).clone(), in_order(self.space, known)
        flat[~fixed] = 0
        for place in self.order():
            fresh = rules.choose(self.next_logits(flat, place, rules)).to(flat.dtype)
            flat[:, place] = torch.where(fixed[:, place], flat[:, place], fresh)
        return from_order(self.space, flat)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = torch.zeros(n, *self.model_space.shape, dtype=cast(Image, self.model_space).dtype)
        return self.fill(z, torch.zeros_like(z, dtype=torch.bool), sampler)

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """Go on after the known beginning of each picture."""
        z, _, _ = self.prepare(x, condition)
        check_mask(known, z)
        with seeded(fresh_seed() if seed is None else seed):
            return self.fill(z, known, sampler)
