"""GPT: a transformer that predicts each symbol of a text from those before it."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from manykin.config import Config, option
from manykin.contract import EXACT, Batch, Density, GenerativeModel, Gradient, Optim, Phase, Preset, Sampler, Support
from manykin.decoding import Decoding
from manykin.errors import InvalidInput, ManykinWarning, Unsupported
from manykin.models.autoregressive.painter import checked_mask
from manykin.models.autoregressive.presets import PRESETS
from manykin.models.autoregressive.writer import Writer
from manykin.models.conditions import ConditionFeatures
from manykin.nn import Grams
from manykin.nn.attention import Shape, Transformer
from manykin.nn.hardware import has_bf16
from manykin.random import fresh_seed, hash_seed
from manykin.spaces import Labels, Space, Tokens, Value

POSITIONS = 4096
"""Positions that likelihoods work on at a time."""

ROWS = 64
"""Rows that are completed at a time."""

PACK_FROM = 1 << 20
"""Multiplications a symbol from which it pays to bring the weights into the processor's own layout before drawing."""


@dataclass(frozen=True)
class GPTConfig(Config):
    """Options of :class:`GPT`. The context is the length of the data's rows: ``--data.length`` for a stream of text."""

    layers: int = option(4, "blocks of attention and hidden layer", ge=1)
    heads: int = option(2, "heads of attention; few wide ones are faster than many narrow ones", ge=1)
    width: int = option(128, "features of each position, a multiple of the heads", ge=2)
    expand: int = option(4, "width of the hidden layers in multiples of the width", ge=1)
    dropout: float = option(0.0, "share of features that training silences, against overfitting", ge=0, lt=1)
    positions: Literal["rotary", "learned"] = option("rotary", "how a position enters: by turning queries and keys, or as a learned vector")
    norm: Literal["rms", "layer"] = option("rms", "normalisation before each layer: root mean square, or layer normalisation")
    activation: Literal["relu2", "gelu"] = option("relu2", "activation of the hidden layers: squared ReLU or GELU")
    qk_norm: bool = option(True, "whether queries and keys are normalised")
    bias: bool = option(False, "whether linear maps have a bias")
    tie: bool = option(False, "whether the output layer is the table of symbols itself")
    grams: int = option(1, "up to so many symbols in a row have a learned vector together; 1: each symbol alone", ge=1, le=8)
    buckets: int = option(16_384, "vectors for the runs of each length, shared by runs of equal hash", ge=1)
    gram_width: int = option(64, "entries of such a vector", ge=1)
    gram_dropout: float = option(0.0, "share of these vectors that training hides, against learning rare runs by heart", ge=0, lt=1)


class GPT(GenerativeModel):
    r"""A decoder-only transformer over symbols (characters, bytes, codes).

    .. math:: \log p(x \mid c) = \sum_{t=1}^{T} \log p(x_t \mid x_{<t}, c)

    Exact: each factor is a softmax over the vocabulary, computed for all positions at once because attention sees only the past. The first symbol
    follows a learned start vector, so it counts as every other. With an ``end`` symbol (strings) the sum stops after the first ``end``, and at the
    last position only ``end`` is possible: the probabilities of all strings sum to one. A label's learned vector is added at every position.

    Alec Radford et al., Language models are unsupervised multitask learners, 2019. The defaults differ from it: rotary positions, RMSNorm without
    weights, normalised queries and keys, squared ReLU, separate tables at both ends, and Muon (Jordan et al., Muon: an optimizer for hidden layers
    in neural networks, 2024); options bring all of GPT-2's choices back. With ``grams`` above 1 each position also sees learned vectors of the last
    2, 3, ... symbols together (:class:`~manykin.nn.Grams`): what an n-gram model counts need then not be learned by attention first.

    Cost: training and scoring :math:`O(L T (12 w^2 + 2 T w))` operations a text, w the width and L the layers; drawing a symbol with the cache
    :math:`O(L (12 w^2 + 2 t w))`, bound by reading the weights.

    Raises:
        InvalidInput: for a width that is no multiple of the heads, or an odd size of a head with rotary positions.
    """

    config_class = GPTConfig
    family = "autoregressive"
    paper = "Radford et al., Language models are unsupervised multitask learners, 2019"
    presets: ClassVar[Mapping[str, Preset | Callable[[Space, int], Preset]]] = PRESETS
    samplers: ClassVar[tuple[type[Sampler], ...]] = (Decoding,)
    sample_block: ClassVar[int] = 16
    completes: ClassVar[Literal["any", "prefix"]] = "prefix"

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__(config, space, condition)
        options: GPTConfig = self.config
        self.tokens = cast(Tokens, self.model_space)
        if options.width % options.heads or (options.positions == "rotary" and (options.width // options.heads) % 2):
            size = f"{2 * options.heads}: rotary positions turn pairs" if options.positions == "rotary" else f"{options.heads}"
            raise InvalidInput(f"model.width = {options.width} does not fit heads = {options.heads}; expected a multiple of {size}.")
        self.features = ConditionFeatures(condition, options.width)
        self.table = nn.Embedding(self.tokens.vocab, options.width)
        self.grams = None
        if options.grams > 1:
            self.grams = Grams(self.tokens.vocab, options.grams, options.buckets, options.gram_width, options.width, options.gram_dropout)
        self.start_vector = nn.Parameter(0.02 * torch.randn(options.width))
        self.body = Transformer(
            Shape(
                options.layers, options.heads, options.width, self.tokens.length, options.expand, options.dropout, options.positions, options.norm,
                options.activation, options.qk_norm, options.bias,
            )
        )  # fmt: skip
        # An Embedding, because Muon is for hidden matrices: it leaves tables to AdamW.
        self.output: nn.Embedding = self.table if options.tie else nn.Embedding(self.tokens.vocab, options.width)
        for table in (self.table, self.output, *(part for part in self.features.modules() if isinstance(part, nn.Embedding))):
            nn.init.normal_(table.weight, std=0.02)

    @property
    def kind(self) -> Density:
        return EXACT

    @property
    def accepts(self) -> Support:
        return Support((Tokens,), condition=(Labels,))

    def phases(self) -> list[Phase]:
        return [Gradient("main", optimizer=Optim("muon", lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1))]

    # Likelihood.

    def embed(self, codes: Tensor, condition: Value | None, last: bool = False) -> Tensor:
        """What the transformer sees of codes (n, t): the start vector, then a vector a code, (n, t + 1, width); ``last``: of the last code only."""
        if last:
            codes = codes[:, -self.config.grams :]
        x: Tensor = self.table(codes)
        if self.grams is not None:
            x = x + self.grams(codes)
        if last:
            x = x[:, -1:]
        else:
            x = torch.cat([self.start_vector.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        context = self.features(condition, x.dtype)
        return x if context is None else x + context[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., width) to logits (..., vocabulary)."""
        return functional.linear(hidden, self.output.weight)

    def _terms(self, z: Tensor, condition: Value | None) -> Tensor:
        """log p(x_t | x_<t, c) of each position, shape (n, length); 0 where nothing is left to say."""
        n, end = z.shape[0], self.tokens.end
        used = self.tokens.length
        if end is not None and not torch.compiler.is_compiling():
            used = max(min(int((z != end).sum(dim=1).max()) + 1, used - 1), 1)
        kept = z[:, :used]
        logits = self.logits(self.body(self.embed(kept[:, :-1], condition))).flatten(0, 1)
        terms = -functional.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), kept.flatten(), reduction="none")
        terms = functional.pad(terms.view(n, used), (0, self.tokens.length - used))
        if end is None:
            return terms
        ended = functional.pad((z == end).cumsum(dim=1)[:, :-1] > 0, (1, 0))
        ended[:, -1] = True
        return terms.masked_fill(ended, 0.0)

    def _all_terms(self, z: Tensor, condition: Value | None) -> Tensor:
        """The terms in blocks of rows, so that memory does not grow with their number; at once where a gradient is needed."""
        rows = len(z) if torch.is_grad_enabled() else max(1, POSITIONS // self.tokens.length)
        parts = []
        for start in range(0, len(z), rows):
            c = condition[start : start + rows] if isinstance(condition, Tensor) else None
            parts.append(self._terms(z[start : start + rows], c))
        return torch.cat(parts)

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        return self._all_terms(z, condition).double().sum(dim=1)

    def loss(self, batch: Batch) -> Tensor:
        """Minus the log-likelihood in nats per position of the row, shape (n,)."""
        z, _ = self.to_model_space(batch.x)
        return -self._terms(z, batch.condition).sum(dim=1) / self.tokens.length

    def log_conditionals(self, x: Value, condition: Value | None = None) -> Tensor:
        """log p(x_t | x_<t, c) of every symbol in nats, shape (n, length), float64: its sum over a row is ``log_prob``; 0 after the first end."""
        with torch.no_grad(), self.evaluating(None):
            z, _, c = self.prepare(x, condition)
            return self._all_terms(z, c).double()

    # Drawing.

    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        z = torch.zeros(n, self.tokens.length, dtype=torch.long, device=self.device)
        return self._writer(sampler, self.tokens.length).write(z, torch.zeros_like(z, dtype=torch.bool), condition)

    @torch.no_grad()
    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """x with what follows the known beginning of each row replaced by draws given that beginning.

        Args:
            x: rows of the space; entries that are not known may be any valid row's.
            known: boolean, shape of x; in each row True up to some position and False from there on.
            condition: one label, or one a row.
            seed: for repeatable draws.
            sampler: a :class:`~manykin.decoding.Decoding`.

        Raises:
            InvalidInput: for a mask that is no boolean tensor of the shape of x.
            Unsupported: for a row with an unknown entry before a known one.
        """
        z, _, c = self.prepare(x, condition)
        known = checked_mask(known, z)
        gaps = (known[:, 1:] & ~known[:, :-1]).any(dim=1)
        if bool(gaps.any()):
            row = int(gaps.nonzero()[0])
            raise Unsupported(f"known, row {row}, has an unknown entry before a known one; gpt completes beginnings only: know a prefix of each row.")
        with self.evaluating(hash_seed(fresh_seed() if seed is None else seed, "complete")):
            return self.finish(self._written(z, known, c, sampler, int((~known).sum(dim=1).max())))

    @torch.no_grad()
    def continuation(
        self, prompt: Tensor, n: int, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None
    ) -> Tensor:
        """n further symbols after each prompt, however long the text becomes; see :class:`manykin.contract.Continues`.

        A stream goes past the context of T positions by a window: once T symbols stand in it, it moves on so that the last T // 2 of them remain, and
        fills again. A symbol is so drawn given at least T // 2 and at most T - 1 symbols before it. With an ``end`` symbol the rest is ``end`` after
        the first one, which comes at position T at the latest.

        Args:
            prompt: codes (b, m), m from 0. Of a stream at most the last T - 1 are used, with a warning where there are more.
            n: how many symbols, at least 1.
            condition: one label, or one a prompt.
            seed: for repeatable draws.
            sampler: a :class:`~manykin.decoding.Decoding`.

        Raises:
            InvalidInput: for codes or a condition outside their spaces, n < 1, or a prompt that is too long for a string.
        """
        prompt = self._checked_prompt(prompt, n, sampler)
        c = self.check_condition(condition, len(prompt))
        m, most = prompt.shape[1], self.tokens.length - 1
        if m > most and self.tokens.end is None:
            warnings.warn(f"the prompt has {m} symbols and the context {most + 1}; only its last {most} are used.", ManykinWarning, stacklevel=3)
            prompt = prompt[:, m - most :]
        text = functional.pad(prompt, (0, n))
        known = torch.zeros_like(text, dtype=torch.bool)
        known[:, : prompt.shape[1]] = True
        with self.evaluating(hash_seed(fresh_seed() if seed is None else seed, "continue")):
            return self._written(text, known, c, sampler, n)[:, prompt.shape[1] :]

    def _checked_prompt(self, prompt: Tensor, n: int, sampler: Sampler | None) -> Tensor:
        """The prompt on the model's device, after the refusals that :meth:`continuation` promises."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidInput(f"n = {n!r} symbols are not possible; expected an integer of at least 1.")
        if sampler is not None and not isinstance(sampler, Decoding):
            raise InvalidInput(f"sampler {type(sampler).__name__} does not fit GPT; expected one of: Decoding.")
        if not isinstance(prompt, Tensor) or prompt.dim() != 2 or len(prompt) == 0 or prompt.is_floating_point() or prompt.dtype == torch.bool:
            shown = f"a {type(prompt).__name__}" if not isinstance(prompt, Tensor) else f"{str(prompt.dtype)[6:]} of shape {tuple(prompt.shape)}"
            raise InvalidInput(f"prompt is {shown}; expected int64 codes of shape (b, m), at least one row.")
        bad = (prompt < 0) | (prompt >= self.tokens.vocab)
        if bool(bad.any()):
            raise InvalidInput(f"prompt holds {int(prompt[bad][0])}; expected codes from 0 to {self.tokens.vocab - 1}.")
        end, room = self.tokens.end, self.tokens.length - 1
        if end is not None and prompt.shape[1] > room and bool((prompt[:, : room + 1] != end).all(dim=1).any()):
            raise InvalidInput(f"the prompt has {prompt.shape[1]} symbols; strings of this model have at most {room}: give a shorter one.")
        if end is not None and prompt.shape[1] and bool(((prompt[:, :-1] == end) & (prompt[:, 1:] != end)).any()):
            raise InvalidInput(f"prompt holds symbols after the end code {end}; expected it to fill the rest of the row.")
        return prompt.to(self.device, torch.long)

    def _written(self, z: Tensor, known: Tensor, condition: Value | None, sampler: Sampler | None, steps: int) -> Tensor:
        """Fill rows in blocks, so that memory does not grow with their number."""
        writer, parts = self._writer(sampler, steps * -(-len(z) // ROWS)), []
        for start in range(0, len(z), ROWS):
            rows = slice(start, start + ROWS)
            parts.append(writer.write(z[rows].clone(), known[rows], condition[rows] if isinstance(condition, Tensor) else None))
        return torch.cat(parts)

    def _writer(self, sampler: Sampler | None, steps: int) -> Writer:
        rules = Decoding() if sampler is None else sampler
        assert isinstance(rules, Decoding)
        wanted, dtype, device = rules.precision, self.dtype, self.device
        integers = wanted == "int8" and device.type == "cpu"
        if wanted == "int8" and not integers:
            warnings.warn(f"precision = 'int8' is for CPUs, not {device.type}: drawing in 32 bits.", ManykinWarning, stacklevel=4)
        elif wanted == "bf16" and not has_bf16(device):
            warnings.warn(f"this {device.type} does not multiply bf16: drawing in 32 bits.", ManykinWarning, stacklevel=4)
        elif wanted != "32":
            dtype = torch.bfloat16 if has_bf16(device) else torch.float32
        options: GPTConfig = self.config
        size = options.layers * options.width**2 * (4 + 2 * options.expand)
        body = self.body.packed(dtype, integers) if integers or dtype != self.dtype or (size >= PACK_FROM and steps >= 8) else self.body
        return Writer(self.tokens, rules, body, self.embed, self.logits)
