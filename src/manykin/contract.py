"""The contract: what a generative model is, what its ``log_prob`` means, and how its learning is declared.

A model can :meth:`~GenerativeModel.sample`, and may have a :meth:`~GenerativeModel.log_prob` whose meaning is the value
:attr:`~GenerativeModel.density`. Its learning is a list of phases, so one loop trains mixtures by EM, flows by one optimizer and adversarial
models by two. Authors write the underscored hooks in model space; the public methods validate, transform, seed and transform back.

Symbols: ``x`` is in data space, ``z`` in model space, ``h`` a latent, ``c`` a condition; n is the number of examples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from manykin.config import Config
from manykin.errors import NO_CONDITION, InvalidInput, ManykinError, NoDensity, Unsupported
from manykin.random import LOCK, fresh_seed, hash_seed, seeded
from manykin.spaces import Labels, Record, Space, Value, cat, count, move, take
from manykin.transforms import Support, bridge

__all__ = [
    "ESTIMATE", "EXACT", "LOWER_BOUND", "UNNORMALISED", "Batch", "ClosedForm", "Completes", "Config", "Continues", "Decodes", "Density", "Encodes",
    "GenerativeModel", "Gradient", "Inspects", "Optim", "Phase", "Preset", "Progress", "Sampler", "Scores", "Support", "Weighs",
]  # fmt: skip


@dataclass(frozen=True)
class Density:
    """What ``log_prob(x)`` is, field by field; composes with transforms.

    ``normalised``: False for log p(x) plus an unknown constant. ``bias``: the side on which its expectation lies, seen from log p(x).
    ``noisy``: the value depends on internal draws. A noisy lower bound is the logarithm of an unbiased estimate of p(x), so that the log-mean-exp
    of repeated draws is a tighter bound (Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, 2016, theorem 1).
    """

    normalised: bool = True
    bias: Literal["none", "lower", "upper", "unknown"] = "none"
    noisy: bool = False

    @property
    def strength(self) -> Literal["exact", "bound", "estimate", "unnormalised"]:
        """The one word that every table prints beside a likelihood."""
        if not self.normalised:
            return "unnormalised"
        if self.bias in ("lower", "upper"):
            return "bound"
        return "estimate" if self.noisy or self.bias == "unknown" else "exact"

    def dequantised(self) -> "Density":
        """The same density behind a stochastic transform: a noisy lower bound at best."""
        bias: Literal["lower", "unknown"] = "lower" if self.bias in ("none", "lower") else "unknown"
        return Density(self.normalised, bias, noisy=True)

    def __str__(self) -> str:
        return self.strength


EXACT = Density()
LOWER_BOUND = Density(bias="lower", noisy=True)
ESTIMATE = Density(noisy=True)
UNNORMALISED = Density(normalised=False)


@dataclass(frozen=True)
class Batch:
    """Examples in data space and, for a conditional model, their conditions."""

    x: Value
    condition: Value | None = None

    def __len__(self) -> int:
        return count(self.x)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(move(self.x, device, True), None if self.condition is None else move(self.condition, device, True))


@dataclass(frozen=True)
class Optim:
    """An optimizer by name. ``muon`` orthogonalises the updates of hidden matrices and leaves all other parameters to AdamW."""

    name: Literal["adam", "adamw", "sgd", "muon"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Gradient:
    """Minimise the mean of method ``loss`` (batch -> per-example losses, shape (n,)) over the parameters whose names start with ``params``.

    All others are frozen meanwhile. ``repeat``: optimizer steps a training step, each on a batch of its own; ``every``: run only at every so many
    steps; phases with equal ``params`` share the optimizer of the first; ``contrastive``: only the loss's gradient counts, its value need not fall.
    """

    name: str
    loss: str = "loss"
    params: str | tuple[str, ...] = ""
    repeat: int = 1
    every: int = 1
    optimizer: Optim = field(default_factory=Optim)
    contrastive: bool = False


@dataclass(frozen=True)
class Progress:
    """What a closed-form solution reports: figures for the log, and whether the model says it has converged."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    converged: bool = False


@dataclass(frozen=True)
class ClosedForm:
    """Visit each training row once with method ``accumulate(batch) -> None``, then call method ``solve() -> Progress``.

    ``statistics`` names the buffers that ``accumulate`` adds to: they are summed over processes before ``solve``, and set to zero after it.
    One pass of mini-batches is one exact iteration of EM in constant memory. ``when``: a pass an ``epoch`` until converged, or one at the ``end``
    of all other phases. ``max_epochs`` bounds the passes. ``accumulate`` runs without gradients and in train mode.
    """

    name: str
    accumulate: str = "accumulate"
    solve: str = "solve"
    statistics: tuple[str, ...] = ()
    when: Literal["epoch", "end"] = "epoch"
    max_epochs: int = 1


Phase = Gradient | ClosedForm


@dataclass(frozen=True)
class Sampler(Config):
    """Base of exchangeable samplers: solvers, decoding rules, MCMC kernels. A frozen dataclass of options each."""

    label: ClassVar[str] = "sampler"


@dataclass(frozen=True)
class Preset:
    """A named choice of options: of the model and of training, each a mapping of the options that differ from the default."""

    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


class GenerativeModel(nn.Module, ABC):
    """Base of all models.

    A subclass sets :attr:`config_class`, :attr:`family` and :attr:`paper`, defines :attr:`kind`, :attr:`accepts` and :meth:`_sample`, and calls
    ``super().__init__(config, space, condition)`` before it builds its networks for ``self.model_space``. Every tensor's shape must be a
    function of the config, the spaces and ``sizes``: loading is constructing and filling.

    ``progress``, the share of training that is done (1 outside it), is set before each step as a function of it: a warm-up in a loss resumes exactly.

    Args:
        config: an instance of :attr:`config_class`, or None for the defaults.
        space: the data space.
        condition: the space of conditions; None for an unconditional model.

    Raises:
        Unsupported: where the model cannot take this space or this kind of condition.
    """

    config_class: ClassVar[type[Config]] = Config
    family: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, "Preset | Callable[[Space, int], Preset]"]] = {}
    samplers: ClassVar[tuple[type[Sampler], ...]] = ()
    stores_rows: ClassVar[bool] = False
    sample_block: ClassVar[int] = 256
    completes: ClassVar[Literal["any", "prefix"]] = "any"

    condition_frequencies: Tensor

    def __init__(self, config: Config | None, space: Space, condition: Space | None = None) -> None:
        super().__init__()
        if config is None:
            config = self.config_class()
        if not isinstance(config, self.config_class):
            raise InvalidInput(f"{type(self).__name__} was given a {type(config).__name__}; expected a {self.config_class.__name__}.")
        self.config: Any = config
        self.space = space
        self.condition = condition
        self.sizes: dict[str, int] = {}
        self.notes: dict[str, Tensor] = {}
        self.progress = 1.0
        if condition is not None and not isinstance(condition, self.accepts.condition):
            names = " or ".join(kind.__name__ for kind in self.accepts.condition)
            expected = f"expected {names}" if names else "it takes no condition"
            raise Unsupported(f"{type(self).__name__} cannot be conditioned on {condition}; {expected}.")
        self.transform = bridge(space, self.accepts)
        classes = condition.classes if isinstance(condition, Labels) else 0
        self.register_buffer("condition_frequencies", torch.full((classes,), 1.0 / max(classes, 1), dtype=torch.float64))

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("log_prob", "sample", "density", "prepare", "start", "marginal_log_prob"):
            if name in cls.__dict__:
                raise TypeError(f"{cls.__name__}.{name} overrides a final method; define the hook _{name} instead.")

    # What a subclass declares.

    @property
    @abstractmethod
    def kind(self) -> Density | None:
        """What :meth:`_log_prob` is in model space; None for an implicit model. May depend on the config."""

    @property
    @abstractmethod
    def accepts(self) -> Support:
        """The spaces and conditions that the model takes. May depend on the config."""

    # Hooks for authors: in model space, unvalidated, seeded by the caller.

    @abstractmethod
    def _sample(self, n: int, condition: Value | None, sampler: Sampler | None) -> Tensor:
        """Draw n examples in model space; ``condition`` holds n conditions, or is None for an unconditional model."""

    def _log_prob(self, z: Tensor, condition: Value | None) -> Tensor:
        """Log density in model space, shape (n,); what kind of number is :attr:`kind`."""
        raise NoDensity(f"{type(self).__name__} has no density.")

    def loss(self, batch: Batch) -> Tensor:
        """Per-example training loss, shape (n,), in train mode. By default minus the log density in data space."""
        z, ldj = self.to_model_space(batch.x)
        return -(self._log_prob(z, batch.condition) + ldj)

    def phases(self) -> Sequence[Phase]:
        """How the model learns. By default one gradient phase on :meth:`loss`."""
        return [Gradient("main")]

    def initialise(self, sample: Batch) -> None:
        """A data-dependent start from up to 16,384 training rows, under a seed; may record sizes through :meth:`allocate`."""

    def allocate(self, sizes: Mapping[str, int]) -> None:
        """Record integers on which tensor shapes depend. A subclass that uses them extends this and (re)registers its buffers."""
        self.sizes.update(sizes)

    # Public and final.

    @property
    def density(self) -> Density | None:
        """What :meth:`log_prob` returns: :attr:`kind`, weakened where the transform is stochastic. None: :meth:`log_prob` raises."""
        kind = self.kind
        return kind if kind is None or self.transform.exact else kind.dequantised()

    @property
    def model_space(self) -> Space:
        """The space in which the hooks work."""
        return self.transform.target

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of the model's own weights; float64 for a model without weights."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float64)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.condition_frequencies.device

    @final
    def log_prob(self, x: Value, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        """Log density in nats of each example, in the user's own units, shape (n,), float64; differentiable in real-valued x.

        A missing value (NaN, where the space allows it) is an outcome of its own: the value behind it is integrated out, and the probability of
        being missing counts as a factor, so that all outcomes together have mass one.

        Raises:
            NoDensity: for an implicit model.
            InvalidInput: for values outside the space, or a missing or superfluous condition.
        """
        density = self.density
        if density is None:
            raise NoDensity(f"{type(self).__name__} has no density: it can only sample. Models with one are marked in `manykin models`.")
        with self.evaluating(seed if density.noisy else None):
            z, ldj, c = self.prepare(x, condition)
            return self._log_prob(z, c).double() + ldj

    @final
    def marginal_log_prob(self, x: Value, *, seed: int = 0) -> Tensor:
        """log p(x) of a model conditional on labels: the sum over classes, weighted by their training frequencies, shape (n,)."""
        if not isinstance(self.condition, Labels):
            raise Unsupported("marginal_log_prob sums over classes; this model is not conditional on labels. Use log_prob.")
        terms = []
        for label in range(self.condition.classes):
            labels = torch.full((count(x),), label)
            terms.append(self.log_prob(x, labels, seed=seed) + self.condition_frequencies[label].log())
        return torch.logsumexp(torch.stack(terms), dim=0)

    @final
    @torch.no_grad()
    def sample(self, n: int, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """Draw n examples in data space.

        Drawn in blocks of fixed size, each seeded by its number: the first k of n samples do not depend on n, and memory is constant.
        A conditional model without a condition draws conditions from their training frequencies.

        Args:
            n: how many, at least 1.
            condition: n conditions, or one for all.
            seed: for repeatable draws; None for fresh ones.
            sampler: one of :attr:`samplers`; None for the model's own choice.

        Raises:
            InvalidInput: for n < 1, or a condition or sampler that the model does not take.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidInput(f"n = {n!r} samples are not possible; expected an integer of at least 1.")
        self.check_sampler(sampler)
        root = fresh_seed() if seed is None else seed
        conditions = self._conditions(n, condition, root)
        blocks = []
        for block in range(-(-n // self.sample_block)):
            rows = slice(block * self.sample_block, min((block + 1) * self.sample_block, n))
            c = None if conditions is None else _pad(take(conditions, rows), self.sample_block)
            with self.evaluating(hash_seed(root, "sample", block)):
                z = self._sample(self.sample_block, c, sampler)
            if z.is_floating_point() and not torch.isfinite(z).all() and not self.accepts.missing:
                raise ManykinError(f"{type(self).__name__} sampled NaN or infinity: training has diverged; fit again with a lower --train.lr.")
            blocks.append(take(self.finish(z), slice(0, rows.stop - rows.start)))
        return cat(blocks)

    # For authors of optional methods (encode, decode, complete, ...), and for the trainer.

    def to_model_space(self, x: Value) -> tuple[Tensor, Tensor]:
        """A validated batch in model space and its log-determinants: ``(z, ldj)``, z in the model's own dtype."""
        z, ldj = self.transform(x)
        return (z.to(self.dtype) if z.is_floating_point() else z), ldj

    @final
    def prepare(self, x: Value, condition: Value | None = None) -> tuple[Tensor, Tensor, Value | None]:
        """Validate and transform what a user gave: ``(z, ldj, condition)`` on the model's device."""
        x = self.space.validate(move(x, self.device) if isinstance(self.space, Record) or isinstance(x, Tensor) else x)
        c = self.check_condition(condition, count(x))
        return (*self.to_model_space(x), c)

    def check_condition(self, condition: Value | None, n: int) -> Value | None:
        """Validate conditions for n examples; one condition serves all.

        Raises:
            InvalidInput: for a condition that is missing, superfluous, out of range or of another length.
        """
        if self.condition is None:
            if condition is not None:
                raise InvalidInput("a condition was given, but this model was fitted without one; leave it out, or fit with condition=...")
            return None
        if condition is None:
            raise InvalidInput(f"{NO_CONDITION} {self.condition} an example (log p(x) is marginal_log_prob).")
        c = self.condition.validate(move(condition, self.device) if isinstance(condition, Tensor) else condition, "condition")
        if count(c) == 1 and n > 1:
            c = take(c, torch.zeros(n, dtype=torch.long, device=self.device))
        if count(c) != n:
            raise InvalidInput(f"{count(c)} conditions were given for {n} examples; expected {n}, or 1 for all.")
        return c

    def check_sampler(self, sampler: Sampler | None) -> None:
        """Refuse what is none of :attr:`samplers`, with InvalidInput."""
        if sampler is not None and not isinstance(sampler, self.samplers):
            names = ", ".join(kind.__name__ for kind in self.samplers) or "none: leave it out"
            raise InvalidInput(f"sampler {type(sampler).__name__} does not fit {type(self).__name__}; expected one of: {names}.")

    def finish(self, z: Tensor) -> Value:
        """Samples in model space as valid data."""
        return self.transform.inverse(z)

    @contextmanager
    def evaluating(self, seed: int | None) -> Iterator[None]:
        """Evaluation mode, under ``seed`` where given; puts every module's mode back."""
        with LOCK, seeded(seed) if seed is not None else nullcontext():
            training = [module for module in self.modules() if module.training]
            try:
                if training:
                    self.eval()
                yield
            finally:
                for module in training:
                    module.training = True

    @final
    def start(self, batches: Callable[[], Iterable[Batch]], sample: Batch, seed: int) -> None:
        """Before the first step: fit the transform, count the conditions, then :meth:`initialise`. All from the training split."""
        with torch.no_grad(), self.evaluating(hash_seed(seed, "start")):
            self.transform.fit(lambda: (batch.x for batch in batches()))
            if isinstance(self.condition, Labels):
                totals = torch.zeros_like(self.condition_frequencies)
                for batch in batches():
                    assert isinstance(batch.condition, Tensor)
                    totals += torch.bincount(batch.condition, minlength=self.condition.classes)
                self.condition_frequencies.copy_(totals / totals.sum())
            self.initialise(sample)

    def note(self, name: str, value: Tensor) -> None:
        """Record a figure for the training log (mean over the batch) from inside a loss; read only when a line is written."""
        self.notes[name] = value.detach()

    def _conditions(self, n: int, condition: Value | None, seed: int) -> Value | None:
        if self.condition is None or condition is not None:
            return self.check_condition(condition, n)
        if not isinstance(self.condition, Labels):
            raise InvalidInput(f"{NO_CONDITION} {self.condition} for each sample.")
        with seeded(hash_seed(seed, "conditions")):
            return torch.multinomial(self.condition_frequencies, n, replacement=True)


def _pad(x: Value, size: int) -> Value:
    """Repeat the last row up to ``size`` rows."""
    missing = size - count(x)
    return x if missing == 0 else cat([x, take(x, torch.full((missing,), count(x) - 1))])


# Optional protocols: present only where they truly work, discovered with isinstance.


@runtime_checkable
class Encodes(Protocol):
    """Data to latent: flows, VAEs, mixtures (responsibilities)."""

    def encode(self, x: Value, condition: Value | None = None) -> Distribution:
        """The distribution over latents given x, batch shape (n,) first."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Latent to data: flows, VAEs, GANs."""

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        """n draws of the latent prior, shape (n, ...)."""
        ...

    def decode(self, h: Tensor, condition: Value | None = None) -> Value:
        """The data that latents h stand for; without noise where the model allows it."""
        ...


@runtime_checkable
class Weighs(Protocol):
    """Importance weights: their mean estimates p(x) without bias."""

    def log_weights(self, x: Value, k: int, condition: Value | None = None, *, seed: int = 0) -> Tensor:
        """k log-weights an example in data space, shape (n, k); log-mean-exp over k is a lower bound that tightens with k."""
        ...


@runtime_checkable
class Completes(Protocol):
    """Fill in what is not known, by the model's own conditional distribution."""

    def complete(self, x: Value, known: Tensor, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None) -> Value:
        """x with the entries where ``known`` (boolean, shape of x) is False replaced by draws given the known ones."""
        ...


@runtime_checkable
class Continues(Protocol):
    """Go on with a sequence for as long as wanted, symbol after symbol: texts, music, levels."""

    def continuation(
        self, prompt: Tensor, n: int, condition: Value | None = None, *, seed: int | None = None, sampler: Sampler | None = None
    ) -> Tensor:
        """n further codes, int64 of shape (b, n), after each prompt of codes (b, m); m may be 0, and m + n more than the model's context.

        Within the context they follow the conditional distribution of ``log_prob``; beyond it the model documents what it still sees. Of a prompt
        that is longer than the context the last part counts, and a :class:`~manykin.errors.ManykinWarning` says so. In a space of strings ``end``
        fills the rest after the first ``end``.
        """
        ...


@runtime_checkable
class Scores(Protocol):
    """The gradient of the log density."""

    def score(self, x: Value) -> Tensor:
        """Gradient of log p(x) with respect to x, shape of x."""
        ...


@runtime_checkable
class Inspects(Protocol):
    """Fitted parameters that a person can read."""

    def parameters_table(self) -> dict[str, Tensor]:
        """Parameters by scikit-learn's names without the underscore: ``weights`` (k,), ``means`` (k, d), ``covariances``, ..."""
        ...


OPTIONAL: dict[str, type] = {
    "encode": Encodes, "decode": Decodes, "weigh": Weighs, "complete": Completes, "continue": Continues, "score": Scores, "inspect": Inspects,
}  # fmt: skip
"""The optional protocols by the verb that lists print."""
