"""What the checks share: one model under test, one tiny fit, one set of samples, computed when first asked for."""

import copy
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from manykin.contract import Batch, ClosedForm, Encodes, GenerativeModel, Gradient
from manykin.data.dataset import Dataset
from manykin.random import hash_seed, seeded
from manykin.spaces import Labels, Record, Tokens, Value, count, take
from manykin.testing.core import CheckFailed, Level, has_gradient
from manykin.testing.examples import example_data
from manykin.testing.statistics import as_columns, blocks

if TYPE_CHECKING:
    from manykin.training import TrainOptions

LATENT_STEPS = 4
"""How many times longer the tiny fit of a model with a noisy density lasts."""


@dataclass
class Subject:
    """A model to check: an instance that is only read, the options of a tiny fit, data to fit it to, and whether it is fitted already."""

    model: GenerativeModel
    label: str = ""
    train: Mapping[str, Any] = field(default_factory=dict)
    data: Dataset | None = None
    fitted: bool = False


class Context:
    """Everything that checks ask for about one subject. Models handed out by :meth:`fresh` and :meth:`copy` may be changed, all others not."""

    def __init__(self, subject: Subject, level: Level = "fast") -> None:
        self.subject = subject
        self.level = level
        self.full = level == "full"
        self._samples: dict[tuple[int, int], tuple[Value, Value | None]] = {}
        self._problem: Exception | None = None

    @property
    def declared(self) -> GenerativeModel:
        """The model as it was given: for its spaces, config and declarations."""
        return self.subject.model

    @cached_property
    def data(self) -> Dataset:
        """Data to fit to: the subject's own, or an example of its space."""
        model = self.subject.model
        return self.subject.data or example_data(model.space, model.condition)

    def fresh(self, seed: int = 0) -> GenerativeModel:
        """A new instance, as unfitted as a constructor makes it, with initial weights that follow from the seed."""
        given = self.subject.model
        with seeded(hash_seed(seed, "construct")):
            return type(given)(given.config, given.space, given.condition)

    def like(self, model: GenerativeModel, seed: int = 1) -> GenerativeModel:
        """A new instance with the sizes of another: what loading fills."""
        fresh = self.fresh(seed)
        fresh.allocate(model.sizes)
        return fresh

    def copy(self) -> GenerativeModel:
        """A copy of the fitted model that a check may change."""
        return copy.deepcopy(self.model)

    def options(self, changes: Mapping[str, Any] | None = None) -> "TrainOptions":
        """The options of the tiny fit, with changes."""
        from manykin.training import TrainOptions

        small: dict[str, Any] = {"max_steps": 60, "batch_size": 64} if has_gradient(self.declared) else {"max_steps": 50}
        chosen = {**small, "device": "cpu", **self.subject.train}
        return TrainOptions.from_json({**chosen, **(changes or {})})

    def fit(self, model: GenerativeModel, *, seed: int = 0, data: Dataset | None = None, changes: Mapping[str, Any] | None = None) -> GenerativeModel:
        """Train a fresh instance on the data and return it."""
        from manykin.training import train

        with torch.enable_grad():
            train(model, data or self.data, self.options(changes), seed=seed)
        return model

    @cached_property
    def started(self) -> GenerativeModel:
        """A fresh instance after ``start``: transform fitted, nothing learnt."""
        return self.start(self.fresh())

    def start(self, model: GenerativeModel, seed: int = 0) -> GenerativeModel:
        """Run ``start`` on the training rows."""
        rows = self.data.train
        model.start(lambda: rows.batches(128), rows.sample(16_384, seed), seed)
        return model

    @property
    def model(self) -> GenerativeModel:
        """The fitted model.

        Raises:
            CheckFailed: where the tiny fit failed, each time.
        """
        if self._problem is not None:
            raise CheckFailed(f"the tiny fit failed: {type(self._problem).__name__}: {self._problem}")
        try:
            return self._fitted
        except Exception as problem:
            self._problem = problem
            raise CheckFailed(f"the tiny fit failed: {type(problem).__name__}: {problem}") from problem

    @cached_property
    def _fitted(self) -> GenerativeModel:
        if self.subject.fitted:
            return copy.deepcopy(self.subject.model)
        kind, steps = self.declared.kind, self.options().max_steps
        if kind is None or not kind.noisy or not has_gradient(self.declared) or steps is None:
            return self.fit(self.fresh())
        # Soon after the start a variational model hardly uses its latents, and mistakes in them would not show.
        return self.fit(self.fresh(), changes={"max_steps": LATENT_STEPS * steps})

    # Data and samples.

    @cached_property
    def rows(self) -> Batch:
        """48 training rows."""
        return self.data.train.slice(0, 48)

    @property
    def x(self) -> Tensor:
        """The rows as one tensor, for spaces that have one."""
        return cast(Tensor, self.rows.x)

    def conditions(self, n: int) -> Value | None:
        """n conditions, those of the training rows in turn."""
        c = self.data.train.condition
        batch = self.data.train.batch(torch.arange(n) % len(self.data.train))
        return None if c is None else batch.condition

    def condition_values(self) -> list[Value | None]:
        """A few single conditions to look at one by one; only None for an unconditional model."""
        space = self.declared.condition
        if space is None:
            return [None]
        if isinstance(space, Labels):
            return [torch.tensor([label]) for label in range(space.classes if self.full else min(space.classes, 2))]
        return [take(cast(Value, self.rows.condition), slice(row, row + 1)) for row in range(3 if self.full else 1)]

    def samples(self, n: int, seed: int = 7) -> tuple[Value, Value | None]:
        """n samples of the fitted model and their conditions, drawn once."""
        if (n, seed) not in self._samples:
            c = self.conditions(n)
            self._samples[n, seed] = (self.model.sample(n, c, seed=seed), c)
        return self._samples[n, seed]

    @torch.no_grad()
    def log_prob(self, x: Value, condition: Value | None, *, seed: int = 0, draws: int = 1) -> Tensor:
        """log_prob in blocks; log-mean-exp over several draws for a noisy density."""
        n = count(x)
        if condition is not None and count(condition) == 1:
            condition = take(condition, torch.zeros(n, dtype=torch.long))
        joint: Value = torch.arange(n)

        def one(draw: int) -> Tensor:
            def part(index: Value) -> Tensor:
                c = None if condition is None else take(condition, index)
                return self.model.log_prob(take(x, index), c, seed=hash_seed(seed, draw, int(cast(Tensor, index)[0])))

            return blocks(part, joint, n)

        if draws == 1 or not self.model.density or not self.model.density.noisy:
            return one(0)
        return torch.logsumexp(torch.stack([one(draw) for draw in range(draws)]), dim=0) - math.log(draws)

    def columns(self, x: Value) -> Tensor:
        """A batch as float64 columns (tokens as their codes)."""
        return cast(Tensor, x).double() if isinstance(self.declared.space, Tokens) else as_columns(x, self.declared.space)

    # Phases.

    def loss(self, model: GenerativeModel, phase: Gradient, batch: Batch, seed: int = 0) -> Tensor:
        """A phase's per-example loss in train mode, under a seed."""
        model.train()
        with seeded(seed):
            return cast(Tensor, getattr(model, phase.loss)(batch))

    def accumulate(self, model: GenerativeModel, phase: ClosedForm, size: int = 128) -> None:
        """One pass of a closed-form phase over the training rows."""
        model.train()
        with torch.no_grad(), seeded(0):
            for batch in self.data.train.batches(size):
                getattr(model, phase.accumulate)(batch)

    def solve(self, model: GenerativeModel, phase: ClosedForm) -> None:
        """Solve a closed-form phase and set its statistics to zero."""
        with torch.no_grad(), seeded(0):
            getattr(model, phase.solve)()
            for name in phase.statistics:
                model.get_buffer(name).zero_()

    def mean_code(self, model: GenerativeModel, x: Value, condition: Value | None) -> tuple[Tensor, bool]:
        """The mean latent of each row as (n, k), and whether the encoder is deterministic."""
        code = cast(Encodes, model).encode(x, condition)
        mean = code.mean
        deterministic = bool((code.variance.detach() <= 1e-10 * (1 + mean.detach() ** 2)).all())
        return mean.reshape(count(x), -1), deterministic

    def is_bijective(self) -> bool:
        """Whether codes are deterministic, real and as many as the data's entries, of a model that has a density."""
        model, space = self.model, self.declared.space
        if model.density is None or not isinstance(model, Encodes) or isinstance(space, (Record, Tokens, Labels)):
            return False
        with torch.no_grad():
            try:
                mean, deterministic = self.mean_code(model, self.rows.x, self.rows.condition)
            except (NotImplementedError, AttributeError):
                return False
        return deterministic and mean.shape[1] == math.prod(space.shape)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A temporary folder."""
        with tempfile.TemporaryDirectory(prefix="manykin-check-") as path:
            yield Path(path)


def state_of(model: GenerativeModel) -> dict[str, Tensor]:
    """A copy of every tensor of the model: parameters and all buffers, persistent or not."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that differ in any bit, or exist on one side only."""
    names = [name for name in before if name not in after or not same(before[name], after[name])]
    return names + [name for name in after if name not in before]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal shape, dtype and values; NaN equals NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(torch.nan_to_num(a.double(), 1.5e300), torch.nan_to_num(b.double(), 1.5e300))


def same_value(a: Value, b: Value) -> bool:
    """The same for batches of any space."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and same(a, b)
    return set(a) == set(b) and all(same(a[name], b[name]) for name in a)


def worst(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference, where equal infinities count as equal; infinite where only one side is NaN or infinite."""
    a, b = a.detach().double(), b.detach().double()
    difference = torch.where(a == b, 0.0, (a - b).abs())
    return float(torch.nan_to_num(difference, math.inf).max()) if difference.numel() else 0.0
