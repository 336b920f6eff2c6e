"""Tables column by column and pair by pair: how far the margins of the samples, and the dependence between two columns, are from held-out rows."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manykin.metrics.case import Case
from manykin.metrics.estimate import SAMPLES, Estimate
from manykin.metrics.figures import Figure, Finding, Metric
from manykin.metrics.gaps import Binning, Gaps, column_gaps, pair_gaps
from manykin.metrics.numbers import flat
from manykin.random import generator
from manykin.spaces import Column, Labels, Record, Space, Table, Value, Vector, columns_of

MOST_PAIRS = 300
"""Pairs of columns that are looked at; a wider table has as many drawn by seed."""
MOST_BINS = 10
ROWS_A_CELL = 40


def chosen_pairs(columns: int, seed: int) -> list[tuple[int, int]]:
    """All pairs of columns, or MOST_PAIRS distinct ones drawn by seed where there are more."""
    number = columns * (columns - 1) // 2
    if number <= MOST_PAIRS:
        return [(a, b) for a in range(columns) for b in range(a + 1, columns)]
    draw, found = generator(seed, "pairs"), set[tuple[int, int]]()
    while len(found) < MOST_PAIRS:
        a, b = torch.randint(columns, (2,), generator=draw).tolist()
        if a != b:
            found.add((min(a, b), max(a, b)))
    return sorted(found)


@torch.no_grad()
def column_distances(case: Case) -> Finding:
    r"""How far the samples are from held-out rows, column by column and pair by pair, each beside the same of training rows.

    - ``column_distance``: the mean over columns of :func:`~manykin.metrics.gaps.kolmogorov_smirnov` for numbers and of
      :func:`~manykin.metrics.gaps.total_variation` for categories; ``worst_column_distance`` is the largest of them. One minus the first is the
      "column shapes" score of the SDMetrics library where nothing is missing.
    - ``pair_distance``: the mean over pairs of the total variation distance between joint histograms. A number is cut at the quantiles of the
      training rows into :math:`b = \lfloor\sqrt{n / 40}\rfloor` bins, 3 to 10 of them, n the rows of the smaller sample, so that a cell of two
      numbers expects 40 rows or more where n is at least 360; of categories the 20 most frequent have a cell each and the others share one; missing
      has its own.

    Plug-in distances are above zero even for equal laws: that is what the floors are for, training rows (as many as samples) in the place of the
    samples. Standard errors are those of :class:`~manykin.metrics.gaps.Gaps`, by the delta method; near equal laws they are too large, on 100 to
    200 draws of 300 rows 1.6 to 1.7 times the true spread for ``column_distance``, 1.9 to 2.3 times for ``worst_column_distance`` (the largest of
    many varies less than each) and 1.4 to 1.5 times for ``pair_distance``. Where a column differs clearly it is 1.05 times for that column.
    """
    columns = table_columns(case.space)
    real = matrix(case.held.all().x)
    fake = matrix(case.samples)
    seen = None if case.seen is None else matrix(case.seen.all().x)
    bins = min(max(math.isqrt(min(len(real), len(fake)) // ROWS_A_CELL), 3), MOST_BINS)
    binning, pairs = Binning.of(columns, matrix(case.known.all().x), bins), chosen_pairs(len(columns), case.seed)
    sides = [(fake, ""), (seen, "_floor")]
    found: list[Estimate] = []
    margins, joints = [], []
    for rows, suffix in sides:
        if rows is None:
            continue
        margins.append(column_gaps(columns, rows, real))
        found += _of_columns(margins[-1], columns, len(rows), suffix)
        if pairs:
            joints.append(pair_gaps(binning, pairs, rows, real))
            found.append(_of_pairs(joints[-1], len(columns), bins, len(rows), suffix))
    order = ("column_distance", "worst_column_distance", "pair_distance")
    found.sort(key=lambda each: (order.index(each.name.removesuffix("_floor")), each.name))
    details = {"columns": _column_rows(columns, margins, fake, real)} | ({"pairs": _pair_rows(columns, pairs, joints)} if pairs else {})
    return Finding(tuple(_by(case, each) for each in found), details)


def _by(case: Case, estimate: Estimate) -> Estimate:
    return estimate if estimate.name.endswith("_floor") else dataclasses.replace(estimate, sampler=case.sampler)


def _of_columns(total: Gaps, columns: Sequence[Column], n: int, suffix: str) -> list[Estimate]:
    value, stderr = total.mean
    worst = max(range(len(columns)), key=lambda index: total.gaps[index])
    kinds = f"mean over {len(columns)} column{'s' if len(columns) > 1 else ''}"
    return [
        Estimate(f"column_distance{suffix}", value, stderr, "probability", "estimate", n, kinds, quantity=SAMPLES, data="columns"),
        Estimate(f"worst_column_distance{suffix}", total.gaps[worst], total.errors[worst], "probability", "estimate", n,
                 f"column {columns[worst].name!r}", quantity=SAMPLES, data="columns"),
    ]  # fmt: skip


def _of_pairs(total: Gaps, columns: int, bins: int, n: int, suffix: str) -> Estimate:
    number, all_pairs = len(total.gaps), columns * (columns - 1) // 2
    which = f"mean over {number} pairs of columns" if number == all_pairs else f"mean over {number} of {all_pairs} pairs of columns, drawn by seed"
    note = f"{which}; numbers in {bins} quantile bins"
    return Estimate(f"pair_distance{suffix}", *total.mean, "probability", "estimate", n, note, quantity=SAMPLES, data="columns")


def _column_rows(columns: Sequence[Column], totals: Sequence[Gaps], fake: Tensor, real: Tensor) -> list[dict[str, Any]]:
    rows = []
    for index, column in enumerate(columns):
        row: dict[str, Any] = {
            "name": column.name, "kind": column.kind, "distance": totals[0].gaps[index], "stderr": totals[0].errors[index],
            "floor": totals[1].gaps[index] if len(totals) > 1 else None,
        }  # fmt: skip
        if column.missing:
            row |= {"missing_real": float(real[:, index].isnan().double().mean()), "missing_samples": float(fake[:, index].isnan().double().mean())}
        rows.append(row)
    return rows


def _pair_rows(columns: Sequence[Column], pairs: Sequence[tuple[int, int]], totals: Sequence[Gaps]) -> list[dict[str, Any]]:
    return [
        {"a": columns[a].name, "b": columns[b].name, "distance": totals[0].gaps[index], "stderr": totals[0].errors[index],
         "floor": totals[1].gaps[index] if len(totals) > 1 else None}
        for index, (a, b) in enumerate(pairs)
    ]  # fmt: skip


def table_columns(space: Space) -> tuple[Column, ...]:
    """The columns of a table, a vector, labels, or a record of such; none for other spaces."""
    parts = [field for _, field in space.fields] if isinstance(space, Record) else [space]
    return columns_of(space) if all(isinstance(part, (Table, Vector, Labels)) for part in parts) else ()


def matrix(x: Value) -> Tensor:
    """A batch as (n, columns) float64."""
    return flat(x) if isinstance(x, Tensor) else torch.cat([flat(part) for part in x.values()], dim=1)


def _needs(case: Case) -> str:
    return "" if table_columns(case.space) else "it compares the columns of tables and vectors, and these data have none"


_SIDES = ("noise", "shifted mean", "dropped class", "collapse")

METRIC = Metric(
    "columns",
    column_distances,
    (
        Figure(
            name="column_distance",
            title="distance of columns",
            better="lower",
            range="0 to 1; for equal laws a little above 0, as its floor shows",
            meaning="How far, on average, the values of one column are from those of real rows: the largest difference in any probability below a "
            "threshold, or of any set of categories.",
            formula=r"mean over columns of sup_t |F(t) - G(t)| (numbers), of 1/2 sum_c |p_c - q_c| (categories, missing among them)",
            source="A. N. Kolmogorov, 1933, and N. V. Smirnov, 1948; D. A. Levin, Y. Peres and E. L. Wilmer, Markov Chains and Mixing Times, 2009",
            pitfalls="Blind to everything between columns: independently drawn columns have a perfect value. Read pair_distance beside it. "
            "Its standard error is up to 1.7 times the true one near equal laws.",
            ideal=0.0,
            sees=_SIDES,
        ),
        Figure(
            name="worst_column_distance",
            title="distance of the worst column",
            better="lower",
            range="0 to 1; for equal laws above 0, as its floor shows",
            meaning="The distance of the one column that is furthest from real rows; the note names it.",
            formula=r"max over columns of sup_t |F(t) - G(t)| or 1/2 sum_c |p_c - q_c|",
            source="as column_distance",
            pitfalls="The largest of many noisy values: it grows with the number of columns, as its floor does, and its standard error is that of "
            "the named column alone: about twice the true one where no column differs from real rows, right where one differs clearly.",
            ideal=0.0,
            sees=_SIDES,
        ),
        Figure(
            name="pair_distance",
            title="distance of pairs of columns",
            better="lower",
            range="0 to 1; for equal laws above 0, more so with few rows and many categories, as its floor shows",
            meaning="How far, on average, two columns together are from real rows: the share of probability that lies in the wrong cell of their "
            "joint table.",
            formula=r"mean over pairs of 1/2 sum_{a,b} |p_ab - q_ab| over quantile bins and categories",
            source="D. A. Levin, Y. Peres and E. L. Wilmer, Markov Chains and Mixing Times, 2009, proposition 4.2",
            pitfalls="Contains the distance of the single columns; compare with column_distance to see which it is. Differences within one bin, and "
            "dependence of three columns that no pair shows, are invisible. Its standard error is up to 1.5 times the true one near equal laws.",
            ideal=0.0,
            sees=(*_SIDES, "independent columns"),
        ),
    ),
    kind="case",
    needs=_needs,
    minimum=10,
)  # fmt: skip
