"""Mixtures of products of columns: what the independent columns (one component) and the latent-class model (many) share."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from manykin.contract import EXACT, ClosedForm, Density, GenerativeModel, Phase, Sampler, Support
from manykin.errors import InvalidInput
from manykin.models.classical.columns import Missing, Part
from manykin.random import fresh_seed, hash_seed
from manykin.spaces import Image, Labels, Record, Space, Table, Tokens, Value, columns_of, count
from manykin.transforms.continuous import restore

Rows = slice | Tensor


class Product(GenerativeModel):
    """Base of models whose columns are independent within a component.

    p(x | c) = sum over k of w_ck * product over parts of p_ck(part of x). Each label c has components of its own. A subclass calls :meth:`build`
    and defines ``accumulate`` and ``solve``.
    """

    log_mixing: Tensor
    family = "classical"
    sample_block = 1024

    def build(self, parts: Sequence[Part], missing: Missing | None, components: int) -> None:
        """Take the parts of the product and the number of components of each label."""
        self.components = components
        self.labels = self.condition.classes if isinstance(self.condition, Labels) else 1
        self.parts = nn.ModuleList(parts)
        self.missing = missing
        weights = torch.full((self.labels, components), 1.0 / components, dtype=torch.float64)
        self.register_buffer("log_mixing", weights.log())

    @property
    def kind(self) -> Density | None:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Table,), missing=True, standardise=False, condition=(Labels,))

    def own_parts(self) -> Iterator[tuple[str, Part]]:
        """All parts by the names of their buffers' prefix, the missing events last."""
        for index, part in enumerate(self.parts):
            assert isinstance(part, Part)
            yield f"parts.{index}", part
        if self.missing is not None:
            yield "missing", self.missing

    def statistics(self) -> tuple[str, ...]:
        """The names of all buffers that rows are added to."""
        return tuple(f"{prefix}.{name}" for prefix, part in self.own_parts() for name in part.statistics)

    def clear(self) -> None:
        """Set the statistics to zero."""
        for name in self._phase().statistics:
            self.get_buffer(name).zero_()

    def phases(self) -> Sequence[Phase]:
        return [self._phase()]

    def _phase(self) -> ClosedForm:
        return ClosedForm("count", statistics=self.statistics())

    def by_label(self, condition: Value | None) -> Iterator[tuple[Rows, slice]]:
        """Which rows go with which components."""
        if condition is None:
            yield slice(None), slice(0, self.components)
            return
        assert isinstance(condition, Tensor)
        for label in torch.bincount(condition).nonzero()[:, 0].tolist():
            yield (condition == label).nonzero()[:, 0], slice(label * self.components, (label + 1) * self.components)

    def joint(self, z: Tensor, condition: Value | None, known: Tensor | None = None) -> Tensor:
        """log w_k p_k(z), shape (n, components). Where ``known`` is given, entries outside it are integrated out."""
        seen = z if known is None else z.masked_fill(~known, float("nan"))
        total = torch.zeros(len(z), self.components, dtype=torch.float64, device=z.device)
        for rows, block in self.by_label(condition):
            own = self.log_mixing.flatten()[block].expand(len(z[rows]), -1)
            for _, part in self.own_parts():
                if isinstance(part, Missing):
                    own = own + part.score(z[rows], block, None if known is None else known[rows])
                else:
                    own = own + part.score(seen[rows], block)
            total = own if condition is None else total.index_put((rows,), own)  # type: ignore[arg-type]
        return total

    def add_rows(self, z: Tensor, weights: Tensor, condition: Value | None) -> None:
        """Add rows with responsibilities (n, components) to the statistics of all parts."""
        for rows, block in self.by_label(condition):
            for _, part in self.own_parts():
                part.add(z[rows], weights[rows], block)

    def flat_component(self, chosen: Tensor, condition: Value | None) -> Tensor:
        """The positions of chosen components (n,) among those of all labels."""
        return chosen if condition is None else condition * self.components + chosen  # type: ignore[operator]

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return self.joint(z, condition).logsumexp(dim=1)

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        label = condition if isinstance(condition, Tensor) else torch.zeros(n, dtype=torch.long, device=self.device)
        chosen = torch.multinomial(self.log_mixing.exp()[label], 1)[:, 0]
        dtype = torch.int64 if isinstance(self.model_space, Tokens) else torch.float64
        z = torch.zeros(n, *self.model_space.shape, dtype=dtype, device=self.device)
        known = torch.zeros(z.shape, dtype=torch.bool, device=self.device)
        for _, part in self.own_parts():
            part.draw(self.flat_component(chosen, condition), z, known)
        return z

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """x with the entries where ``known`` is False replaced by draws given the known ones; drawn entries are values, never missing.

        ``known`` has the shape of x, or (n, columns) for a record. What x holds at unknown entries is not looked at. A known missing value stays
        missing and, where missingness is informative, is evidence.

        Raises:
            InvalidInput: for a mask of another shape or dtype, or known entries outside the space.
        """
        mask = self._check_known(x, known)
        with self.evaluating(hash_seed(fresh_seed() if seed is None else seed, "complete")):
            z, _, c = self.prepare(_blank(x, mask, self.space), condition)
            z = z.clone()
            chosen = torch.zeros(len(z), dtype=torch.long, device=z.device)
            if self.components > 1:
                chosen = torch.multinomial(self.joint(z, c, mask).softmax(dim=1), 1)[:, 0]
            for _, part in self.own_parts():
                if not isinstance(part, Missing):
                    part.draw(self.flat_component(chosen, c), z, mask)
        return self.finish(z)

    def _check_known(self, x: Value, known: Tensor) -> Tensor:
        """The mask as (n, columns), where it fits x and x the space."""
        if isinstance(x, Tensor) and (x.dim() == 0 or x.shape[1:] != self.space.shape or len(x) == 0):
            self.space.validate(x)
        shape = tuple(x.shape) if isinstance(x, Tensor) else (count(x), *self.model_space.shape)
        if not isinstance(known, Tensor) or known.dtype != torch.bool or known.shape != shape:
            found = f"{tuple(known.shape)} of {known.dtype}" if isinstance(known, Tensor) else type(known).__name__
            raise InvalidInput(f"known is {found}; expected a boolean tensor of shape {shape}, True where x is given.")
        return known.to(self.device).reshape(count(x), -1)


def _blank(x: Value, known: Tensor, space: Space) -> Value:
    """x with valid entries where it is not known."""
    if not isinstance(x, Tensor):
        assert isinstance(space, Record)
        widths = [torch.Size(part.shape).numel() for _, part in space.fields]
        starts = [sum(widths[:index]) for index in range(len(widths))]
        masks = [known[:, start : start + width] for start, width in zip(starts, widths, strict=True)]
        return {name: cast(Tensor, _blank(x[name], mask, part)) for (name, part), mask in zip(space.fields, masks, strict=True)}
    if isinstance(space, Tokens):
        return _blank_text(x, known, space)
    origins = torch.tensor([column.origin for column in columns_of(space)], dtype=torch.float64)
    fill = restore(origins[None], space)[0] if isinstance(space, Image) else origins.view(space.shape)
    return torch.where(known.view_as(x), x, fill.to(x))


def _blank_text(x: Tensor, known: Tensor, space: Tokens) -> Tensor:
    """Unknown positions as some symbol where a known symbol follows, else as the end code."""
    if space.end is None:
        return torch.where(known, x, 0)
    symbol = (known & (x != space.end)).long()
    followed = symbol.flip(1).cummax(dim=1).values.flip(1) > 0
    return torch.where(known, x, torch.where(followed, int(space.end == 0), space.end))
