"""Distances between samples: the energy distance, its standard error, and the noise floor between real data and real data."""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from manykin.contract import GenerativeModel, Sampler
from manykin.data.dataset import Rows
from manykin.errors import InvalidInput
from manykin.metrics.estimate import SAMPLES, Estimate
from manykin.random import generator
from manykin.spaces import Column, Image, Labels, Record, Space, Tokens, Value, Vector, cat, columns_of, count, take

MAX_ROWS = 50_000
CHUNK_PAIRS = 4_000_000
DIRECT_WORK = 2e10


@torch.no_grad()
def energy_distance(x: Tensor, y: Tensor, *, seed: int = 0) -> Estimate:
    r"""The squared energy distance between two samples, unbiased, with a jackknife standard error.

    .. math:: E(X, Y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

    is 0 for equal laws and positive for all others (Székely and Rizzo, Energy statistics, 2013, equation 5). Each mean is a U-statistic over
    pairs of distinct rows, so the estimate is unbiased and may be slightly negative for equal laws. Its variance is the larger of two: the
    delete-one jackknife of both samples (Efron and Stein, The jackknife estimate of variance, 1981), which is exact from row sums and errs on the
    large side, and :math:`2 (V_X / n + V_Y / m)^2`, the variance under equal laws, where the statistic is degenerate and V is the distance standard
    deviation. Time grows as (n + m)^2 d, memory does not: distance matrices are summed in chunks.

    Args:
        x: real numbers, shape (n, ...); flattened, in float64.
        y: real numbers, shape (m, ...), with as many entries a row as x.
        seed: chooses 50,000 rows of a sample that has more.

    Raises:
        InvalidInput: for fewer than three rows, rows of different sizes, or values that are not finite.
    """
    note = f"on {MAX_ROWS} rows of each sample" if max(len(x), len(y)) > MAX_ROWS else ""
    a, b = _rows(x, "x", seed), _rows(y, "y", seed)
    if a.shape[1] != b.shape[1]:
        raise InvalidInput(f"x has {a.shape[1]} entries a row and y {b.shape[1]}; expected as many.")
    centre = b.mean(dim=0)
    a, b = a - centre, b - centre
    cross_a, cross_b, _ = _row_sums(a, b)
    (own_a, _, squares_a), (own_b, _, squares_b) = _row_sums(a, None), _row_sums(b, None)
    value, variance = _jackknife(cross_a, cross_b, own_a, own_b)
    degenerate = 2 * (_spread(own_a, squares_a) / len(a) + _spread(own_b, squares_b) / len(b)) ** 2
    stderr = math.sqrt(max(variance, degenerate))
    return Estimate("energy_distance", value, stderr, "data units", "estimate", len(a), note, quantity=SAMPLES)


def noise_floor(train: Tensor, test: Tensor, *, seed: int = 0) -> Estimate:
    """The energy distance of training rows to test rows: what a perfect model would show at this size. Compare models with it, not with 0."""
    return dataclasses.replace(energy_distance(train, test, seed=seed), name="energy_distance_floor")


def sample_metrics(
    model: GenerativeModel, train: Rows, test: Rows, *, n: int = 2048, seed: int = 0, sampler: Sampler | None = None
) -> list[Estimate]:  # fmt: skip
    """Draw n samples and compare them with test rows: ``energy_distance`` and its ``energy_distance_floor`` (training against test rows).

    A model conditional on labels draws labels from their training frequencies; any other conditional model takes the conditions of test rows.

    Raises:
        InvalidInput: for n < 3, or data that do not fit the model.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 3:
        raise InvalidInput(f"n = {n!r} samples are too few to compare; expected an integer of at least 3.")
    condition = None
    if model.condition is not None and not isinstance(model.condition, Labels):
        known = test.sample(len(test), seed).condition
        condition = None if known is None else take(known, torch.arange(n) % count(known))
    fake = model.sample(n, condition, seed=seed, sampler=sampler)
    return sample_distance(model.space, fake, train, test, seed=seed, sampler=None if sampler is None else type(sampler).__name__)


def sample_distance(space: Space, fake: Value, train: Rows, test: Rows, *, seed: int = 0, sampler: str | None = None) -> list[Estimate]:
    """The same for samples that are already drawn; as many training and test rows enter as there are samples, where there are so many."""
    n = count(fake)
    seen, real = train.sample(n, seed).x, test.sample(n, seed).x
    features = distance_features(space, cat([real, seen]))
    distance = energy_distance(features(fake), features(real), seed=seed)
    floor = noise_floor(features(seen), features(real), seed=seed)
    unit = "data units" if isinstance(space, (Vector, Image)) else "standard units"
    note = "over symbol frequencies" if isinstance(space, Tokens) else ""
    return [
        dataclasses.replace(metric, unit=unit, sampler=sampler, note="; ".join(part for part in (metric.note, note) if part))
        for metric in (distance, floor)
    ]


def distance_features(space: Space, real: Value) -> Callable[[Value], Tensor]:
    """How data of a space become points between which distances mean something: a function from a batch to (n, d) float64.

    Vectors and pictures are flattened as they are. Columns of tables are standardised by ``real``; categories become indicators, and so does "is
    missing" wherever a column may lack values (its number is then the mean of the others). Texts become the frequencies of their symbols.
    """
    if isinstance(space, Record):
        assert not isinstance(real, Tensor)
        parts = {name: distance_features(field, real[name]) for name, field in space.fields}
        return lambda x: torch.cat([part(_field(x, name)) for name, part in parts.items()], dim=1)
    if isinstance(space, Tokens):
        return lambda x: _frequencies(space, x)
    if isinstance(space, Vector) or (isinstance(space, Image) and space.ordinal):
        return lambda x: _flat(x)
    reference = _flat(real)
    encoders = [_column_features(column, reference[:, index]) for index, column in enumerate(columns_of(space))]

    def encode(x: Value) -> Tensor:
        flat = _flat(x)
        return torch.cat([encoder(flat[:, index]) for index, encoder in enumerate(encoders)], dim=1)

    return encode


def _column_features(column: Column, real: Tensor) -> Callable[[Tensor], Tensor]:
    if column.kind == "categorical":
        size = len(column.categories)

        def indicators(values: Tensor) -> Tensor:
            codes = torch.where(values.isnan(), float(size), values).long()
            return torch.nn.functional.one_hot(codes, size + 1).double()[:, : size + int(column.missing)]

        return indicators
    known = real[~real.isnan()]
    centre = float(known.mean()) if len(known) else 0.0
    spread = float(known.std()) if len(known) > 1 else 0.0
    scale = spread if spread > 0 else 1.0

    def standardised(values: Tensor) -> Tensor:
        missing = values.isnan()
        number = torch.where(missing, 0.0, (values - centre) / scale)[:, None]
        return torch.cat([number, missing.double()[:, None]], dim=1) if column.missing else number

    return standardised


def _frequencies(space: Tokens, x: Value) -> Tensor:
    assert isinstance(x, Tensor)
    counts = torch.zeros(len(x), space.vocab, dtype=torch.float64)
    counts.scatter_add_(1, x.cpu().long(), torch.ones(x.shape, dtype=torch.float64))
    if space.end is not None:
        counts[:, space.end] = 1.0
    return counts / counts.sum(dim=1, keepdim=True)


def _flat(x: Value) -> Tensor:
    assert isinstance(x, Tensor)
    return x.detach().to("cpu", torch.float64).reshape(len(x), -1)


def _field(x: Value, name: str) -> Tensor:
    assert not isinstance(x, Tensor)
    return x[name]


def _rows(x: Tensor, name: str, seed: int) -> Tensor:
    """At most MAX_ROWS finite rows, shape (n, d) float64."""
    if len(x) < 3:
        raise InvalidInput(f"{name} has {len(x)} rows; an energy distance with a standard error needs at least 3.")
    flat = _flat(x)
    if not torch.isfinite(flat).all():
        bad = int((~torch.isfinite(flat)).any(dim=1).nonzero()[0])
        raise InvalidInput(f"{name} holds a value that is not finite in row {bad}; expected finite numbers: encode missing values first.")
    if len(flat) > MAX_ROWS:
        flat = flat[torch.randperm(len(flat), generator=generator(seed, "energy", name))[:MAX_ROWS]]
    return flat


def _row_sums(a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, float]:
    """Sums of |a_i - b_j| over j (n,) and over i (m,), and of their squares over both; b None: within a, each row to all others."""
    other = a if b is None else b
    work = float(len(a)) * len(other) * a.shape[1]
    mode = "donot_use_mm_for_euclid_dist" if work <= DIRECT_WORK else "use_mm_for_euclid_dist"
    size = max(CHUNK_PAIRS // len(other), 1)
    rows, columns, squares = torch.empty(len(a), dtype=torch.float64), torch.zeros(len(other), dtype=torch.float64), 0.0
    for start in range(0, len(a), size):
        distances = torch.cdist(a[start : start + size], other, compute_mode=mode)
        if b is None:
            distances.diagonal(start).zero_()
        rows[start : start + size] = distances.sum(dim=1)
        columns += distances.sum(dim=0)
        squares += float((distances * distances).sum())
    return rows, columns, squares


def _spread(own: Tensor, squares: float) -> float:
    """The distance standard deviation: the root mean square of the doubly centred distances (Székely, Rizzo and Bakirov, 2007, definition 5)."""
    means = own / len(own)
    return math.sqrt(max(squares / len(own) ** 2 - 2 * float((means**2).mean()) + float(means.mean()) ** 2, 0.0))


def _jackknife(cross_a: Tensor, cross_b: Tensor, own_a: Tensor, own_b: Tensor) -> tuple[float, float]:
    """The statistic and its jackknife variance from row sums, leaving out one row of either sample at a time."""
    n, m = len(own_a), len(own_b)
    cross, within_a, within_b = float(cross_a.sum()), float(own_a.sum()), float(own_b.sum())
    mean_a, mean_b = within_a / (n * (n - 1)), within_b / (m * (m - 1))
    value = 2 * cross / (n * m) - mean_a - mean_b
    without_a = 2 * (cross - cross_a) / ((n - 1) * m) - (within_a - 2 * own_a) / ((n - 1) * (n - 2)) - mean_b
    without_b = 2 * (cross - cross_b) / (n * (m - 1)) - mean_a - (within_b - 2 * own_b) / ((m - 1) * (m - 2))
    return value, (n - 1) * float(without_a.var(correction=0)) + (m - 1) * float(without_b.var(correction=0))
