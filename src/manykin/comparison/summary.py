"""From the runs of a model to its row: means over seeds with honest errors, and quality against time."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manykin.comparison.rows import Row, Run, revived
from manykin.data.dataset import Dataset
from manykin.errors import InvalidInput, ManykinError
from manykin.metrics import Estimate, energy_distance
from manykin.metrics.floors import P_VALUE
from manykin.metrics.numbers import Encoder, encoder
from manykin.spaces import Record, Value
from manykin.training import RunFolder

MOST_TRAIN, MOST_TEST = 50_000, 2000
"""Rows that set the scale of a curve, and held-out rows that its distances are measured to."""

Outcome = Mapping[str, Any]
"""What one run printed: see :func:`manykin.comparison.outcome.judged`."""


def run_of(folder: str, seed: int, outcome: Outcome | None, error: str | None) -> Run:
    """One run by what it printed, or by why it did not."""
    if outcome is None:
        return Run(folder, seed, error=error or "it left no result")
    metrics = tuple(revived(each) for each in outcome["evaluation"]["metrics"])
    limit = outcome.get("max_steps")
    return Run(folder, seed, float(outcome["seconds"]), int(outcome["steps"]), None if limit is None else int(limit), metrics, None)


def row_of(label: str, data: str, runs: Sequence[Run], outcomes: Sequence[Outcome | None], notes: Sequence[str], family: str) -> Row:
    """The row of a model from its runs, one a seed."""
    seeds = tuple(run.seed for run in runs)
    done = [outcome for outcome in outcomes if outcome is not None]
    if not done:
        return Row(label, data, error=runs[0].error, warnings=tuple(notes), seeds=seeds, runs=tuple(runs), family=family)
    failed = [f"seed {run.seed} failed and is left out of the means: {run.error}" for run in runs if run.error is not None]
    told = [warning for outcome in done for warning in outcome["evaluation"].get("warnings", ())]

    drawn = [outcome["sampling"] for outcome in done if outcome.get("sampling") is not None]

    def mean(key: str) -> float:
        return sum(float(outcome[key]) for outcome in done) / len(done)

    return Row(
        label, data, _means([run.metrics for run in runs if run.error is None]), str(done[0]["density"]), seconds=mean("seconds"),
        steps=round(mean("steps")), parameters=round(mean("parameters")),
        peak_memory_bytes=max(int(outcome["peak_memory_bytes"]) for outcome in done), 
        sampling_seconds=sum(float(each["seconds"]) for each in drawn) / len(drawn) if drawn else None,
        sampling_n=int(drawn[0]["n"]) if drawn else None, warnings=tuple(dict.fromkeys([*notes, *failed, *told])), seeds=seeds, runs=tuple(runs),
        family=family,
    )  # fmt: skip


def _means(runs: Sequence[tuple[Estimate, ...]]) -> tuple[Estimate, ...]:
    """Each metric over the seeds that have it; what a single seed found stays as it is."""
    if len(runs) == 1:
        return runs[0]
    found: dict[tuple[str, str, str | None], list[Estimate]] = {}
    for metrics in runs:
        for metric in metrics:
            found.setdefault((metric.name, metric.quantity, metric.sampler), []).append(metric)
    return tuple(mean_over_seeds(each, len(runs)) for each in found.values())


def mean_over_seeds(estimates: Sequence[Estimate], seeds: int) -> Estimate:
    r"""The mean of one metric over seeds, with the standard error of both sources of chance.

    With test errors :math:`e_i` and standard deviation s between k seeds the squared error is :math:`\overline{e^2} + s^2 / k`: the seeds share
    their test rows, so the first part does not shrink with k; the second is the variance of a mean. Test errors that hold the chance of the samples
    as well count it twice, so the error is on the large side.

    The mean of p-values is no p-value. They become :math:`\min(1, k \min_i p_i)`, which is one however they depend on each other (Bonferroni's
    correction): of the hypothesis that the samples of every seed are as good as real rows. It has no standard error.

    Args:
        estimates: one a seed.
        seeds: how many seeds there were; the note says so where some lack the metric.
    """
    first, k = estimates[0], len(estimates)
    odd = next((each for each in estimates if not math.isfinite(each.value)), None)
    if odd is not None:
        bad = sum(not math.isfinite(each.value) for each in estimates)
        note = "; ".join(filter(None, [odd.note, f"not finite for {bad} of {seeds} seeds"]))
        return dataclasses.replace(odd, stderr=None, note=note)
    of = f"{k} of {seeds} seeds" if k < seeds else f"{k} seeds"
    notes = list(dict.fromkeys(each.note for each in estimates if each.note))
    own = notes[:1] if len(notes) == 1 else [f"{notes[0]} (first seed)"] if notes else []
    tells = first.tells if all(each.tells == first.tells for each in estimates) else False
    mean = sum(each.value for each in estimates) / k
    if first.unit == P_VALUE and k > 1:
        smallest = min(each.value for each in estimates)
        told = f"the smallest of the p-values of {of}, {smallest:.3g}, times {k}: a p-value again"
        return dataclasses.replace(first, value=min(1.0, k * smallest), stderr=None, note="; ".join([*own, told]), tells=tells)
    spread = math.sqrt(sum((each.value - mean) ** 2 for each in estimates) / (k - 1)) if k > 1 else 0.0
    errors = [each.stderr for each in estimates if each.stderr is not None]
    test = sum(error**2 for error in errors) / len(errors) if errors else 0.0
    told = f"mean of {of}, standard deviation {spread:.3g} between them" if k > 1 else f"{of} only"
    stderr = math.sqrt(test + spread**2 / k) if errors or k > 1 else None
    return dataclasses.replace(first, value=mean, stderr=stderr, note="; ".join([*own, told]), tells=tells)


class Ruler:
    """Distances from samples to held-out rows, on the points that evaluation uses: columns standardised by training rows, pixels, frequencies."""

    def __init__(self, data: Dataset, seed: int) -> None:
        self.space = data.space
        self._encode: Encoder = encoder(data.space, data.train.sample(MOST_TRAIN, seed).x)
        assert data.test is not None
        self._real: Tensor = self._encode(data.test.sample(MOST_TEST, seed).x)
        self._seed = seed

    def distance(self, x: Value) -> Estimate | None:
        """The energy distance of samples to the held-out rows; None where it cannot be had (too few rows, samples that are not finite)."""
        try:
            return energy_distance(self._real, self._encode(self.space.validate(x)), seed=self._seed)
        except InvalidInput:
            return None

    def curve(self, run: Path) -> tuple[Mapping[str, float], ...]:
        """Quality against time: what the samples that training left at its steps are worth; empty where it left none."""
        try:
            lines = RunFolder(run).metrics()
        except ManykinError:
            return ()
        clock = {0: 0.0} | {int(line["step"]): float(line["seconds"]) for line in lines if "step" in line and "seconds" in line}
        points = []
        for step, path in sorted((int(path.stem), path) for path in (run / "samples").glob("*.safetensors") if path.stem.isdigit()):
            x = self._read(path)
            found = None if x is None else self.distance(x)
            if found is not None:
                seconds = clock[max(known for known in clock if known <= step)]
                points.append({"step": step, "seconds": seconds, "energy_distance": found.value, "stderr": found.stderr or 0.0})
        return tuple(points)

    def _read(self, path: Path) -> Value | None:
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError):
            return None
        return tensors if isinstance(self.space, Record) else tensors.get("x")
