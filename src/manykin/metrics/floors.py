"""What stands beside a metric of two samples: the noise floor of real rows, and crude forgeries that it should tell from them."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manykin.errors import InvalidInput
from manykin.metrics.case import Case
from manykin.metrics.estimate import Estimate
from manykin.metrics.figures import Finding
from manykin.random import generator
from manykin.spaces import Value, take

P_VALUE = "p-value"
ENOUGH = 20
"""Held-out rows that each half must have where one half is the noise floor of the other."""


def fair(case: Case) -> tuple[Case, Finding]:
    """A case whose floors have as many rows as its samples.

    Where there are fewer training rows than samples, the first samples are judged, as many as there are such rows: most metrics depend on the
    number of rows. Without training rows, one half of the held-out rows is the floor of the other.
    """
    told = ""
    if case.train is not None and 0 < len(case.train) < case.n:
        told = f"only {len(case.train)} of {case.n} samples are judged: there are no more training rows for a noise floor of equal size."
        case = _first(case, len(case.train))
    elif case.train is None and len(case.test) >= 2 * ENOUGH:
        order = torch.randperm(len(case.test), generator=generator(case.seed, "halves"))
        half = len(case.test) // 2
        case = dataclasses.replace(case, test=case.test.select(order[:half]), stand_in=case.test.select(order[half:]))
        case = _first(case, len(case.test) + 1) if case.n > len(case.test) + 1 else case
        told = (
            f"no training rows are at hand beside these: samples are judged beside one half of the real rows ({half}), noise floors are from the "
            "other half, and nothing is said on memorisation."
        )
    return case, Finding(warnings=(told,) if told else ())


def forgeries(case: Case) -> list[Value]:
    """Two crude forgeries made of the rows of the noise floor: each column permuted by itself, and only the half that is nearest to one row."""
    assert case.seen is not None
    rows, draw = case.seen.all().x, generator(case.seed, "forgeries")
    points = case.encode(rows)
    near = (points - points[0]).square().sum(dim=1).argsort()[: max(len(points) // 2, 1)]
    half = near[torch.randint(len(near), (len(points),), generator=draw)]
    return [_permuted(rows, draw), take(rows, half)]


def tells(
    floors: Sequence[Estimate],
    forged: Callable[[Value], Sequence[Estimate]],
    made: Sequence[Value],
    clearly_worse: Callable[[Estimate, Estimate], bool],
) -> set[str]:
    """The names of the figures that tell at least one forgery from real rows."""
    known: set[str] = set()
    for rows in made:
        try:
            found = {each.name: each for each in forged(rows)}
        except InvalidInput:
            continue
        known |= {floor.name for floor in floors if floor.name in found and clearly_worse(found[floor.name], floor)}
    return known


def _permuted(x: Value, draw: torch.Generator) -> Value:
    if not isinstance(x, Tensor):
        return {name: _permuted(part, draw) for name, part in x.items()}  # type: ignore[misc]
    flat = x.reshape(len(x), -1)
    columns = [flat[torch.randperm(len(flat), generator=draw), index] for index in range(flat.shape[1])]
    return torch.stack(columns, dim=1).reshape(x.shape)


def _first(case: Case, n: int) -> Case:
    labels = None if case.labels is None else case.labels[:n]
    return dataclasses.replace(case, samples=take(case.samples, slice(0, n)), labels=labels)
