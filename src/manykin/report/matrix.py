"""The tables below the headline: every metric of every model, and what lies behind the numbers a column, a pair, a class at a time."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manykin.metrics import Estimate, as_good_as_real, figure, ledger
from manykin.metrics.estimate import LOG_P_GIVEN_C, SAMPLES, number
from manykin.metrics.judge import FLOOR
from manykin.report.compared import Result
from manykin.report.headline import floor_of
from manykin.report.reading import plain_float
from manykin.report.units import arrow_of, number_text, sort_key, title_of

MOST_ROWS = 30
"""Columns, pairs or classes that a table shows; of more, those that are furthest from real data."""
PALE = 0.1
"""Differences of shares up to this are never drawn in the darkest colour."""


@dataclass(frozen=True)
class Entry:
    """A cell: its text, its error, a mark (``best``, ``tied``, ``real``), a warmth between 0 and 1, and what hovering says."""

    text: str = "–"
    error: str = ""
    marks: tuple[str, ...] = ()
    heat: float = 0.0
    hint: str = ""
    key: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table: what it is, a remark in small, and its cells."""

    title: str
    remark: str
    cells: tuple[Entry, ...]


@dataclass(frozen=True)
class Grid:
    """A table with a heading, a caption, and the names of its columns. ``heads`` starts with the name of the first column."""

    title: str
    caption: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]


def every_metric(results: Sequence[Result]) -> Grid | None:
    """All figures of all finished models, a row a figure; None where there are none."""
    finished = [result for result in results if not result.error and result.metrics]
    keys = list(dict.fromkeys((m.quantity, m.name) for result in finished for m in result.metrics if not m.name.endswith(FLOOR)))
    keys.sort(key=lambda key: (key[0] == SAMPLES, key[0] == LOG_P_GIVEN_C))
    rows = [_metric_row(finished, quantity, name) for quantity, name in keys]
    if not rows:
        return None
    caption = (
        "Arrows say which way is better (◎: near its ideal). Bold: best of its kind, or not told apart from it within two combined standard errors; "
        "likelihoods are only held against those of the same strength. ≈: as good as real data, that is, within two standard errors of the floor "
        "or better. "
        "Floor: real training rows in the place of samples."
    )
    return Grid("Every metric", caption, ("metric", "floor", *(result.model for result in finished)), tuple(rows))


def column_table(details: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """How far each column of the samples is from that column of real data, a row a column; None without such details."""
    caption = (
        "Distance between the values of one column in samples and in held-out data; darker is worse. Floor: real training rows instead of samples."
    )
    return _distances(details, "columns", lambda item: str(item.get("name")), "Column by column", "column", caption)


def pair_table(details: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """The same for pairs of columns: what depends on what."""
    caption = "Distance between how two columns go together in samples and in held-out data; darker is worse."
    return _distances(details, "pairs", lambda item: f"{item.get('a')} × {item.get('b')}", "Pairs of columns", "pair", caption)


def class_table(details: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """The share of each class among held-out data and among samples; None without such details."""
    found = {model: each["classes"] for model, each in details.items() if _is_classes(each.get("classes"))}
    if not found:
        return None
    first = next(iter(found.values()))
    names, real = [str(name) for name in first["names"]], [plain_float(share) or 0.0 for share in first["real"]]
    drawn = {model: [plain_float(share) or 0.0 for share in each["samples"]] for model, each in found.items()}
    worst = [max((abs(shares[i] - real[i]) for shares in drawn.values() if i < len(shares)), default=0.0) for i in range(len(names))]
    scale = max([*worst, PALE])
    rows = []
    for i in _worst(worst):
        cells = [Entry(f"{real[i]:.1%}")]
        for shares in drawn.values():
            share = shares[i] if i < len(shares) else 0.0
            missing = share < 0.1 * real[i]
            cells.append(
                Entry(f"{share:.1%}", heat=abs(share - real[i]) / scale, key=repr(share), hint="this class is (nearly) missing" if missing else "")
            )
        rows.append(Row(names[i], "", tuple(cells)))
    caption = f"Share of each class; darker is further from real data.{_left_out(len(names))}"
    return Grid("Classes", caption, ("class", "real data", *drawn), tuple(rows))


def usefulness_table(details: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """Scores on real held-out rows of plain classifiers trained on real rows and on samples; None without such details."""
    found = {model: each["usefulness"] for model, each in details.items() if isinstance(each.get("usefulness"), Mapping)}
    lines = [(model, row) for model, each in found.items() for row in each.get("rows") or () if isinstance(row, Mapping)]
    if not lines:
        return None
    classifiers = list(dict.fromkeys(str(row.get("classifier")) for _, row in lines))
    scores: dict[tuple[str, str], dict[str, tuple[float | None, float | None]]] = {}
    for model, row in lines:
        key = (model, str(row.get("trained_on")))
        scores.setdefault(key, {})[str(row.get("classifier"))] = (plain_float(row.get("score")), plain_float(row.get("stderr")))
    rows: dict[str, Row] = {}
    for (model, trained_on), found_scores in scores.items():
        same = [others for (_, name), others in scores.items() if name == trained_on]
        shared = len(found) == 1 or (len(same) > 1 and all(each == same[0] for each in same))
        label = (
            trained_on if shared else f"samples of {model}" if trained_on.startswith("sample") or "synth" in trained_on else f"{model}: {trained_on}"
        )
        rows.setdefault(label, Row(label, "", tuple(_score(found_scores.get(name)) for name in classifiers)))
    first = next(iter(found.values()))
    what = " ".join(str(first[key]) for key in ("task", "target") if first.get(key))
    caption = f"Scores on real held-out rows of plain models trained on real rows or on samples alone ({what or 'prediction'}); higher is better."
    return Grid("Is it useful? Trained on", caption, ("trained on", *classifiers), tuple(rows.values()))


def augmentation_table(details: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """Whether samples beside real rows help a classifier, at several sizes of real data; None without such details."""
    found = {model: each["augmentation"] for model, each in details.items() if isinstance(each.get("augmentation"), Mapping)}
    rows = []
    for model, each in found.items():
        for item in each.get("rows") or ():
            if isinstance(item, Mapping):
                n, error = plain_float(item.get("n_real")), plain_float(item.get("stderr"))
                cells = [Entry(number(value, error)) if (value := plain_float(item.get(key))) is not None else Entry() for key in ("real", "both")]
                size = "" if n is None else f"{n:,.0f} real rows"
                rows.append(Row(model, ", ".join(part for part in (size, str(item.get("classifier") or "")) if part), tuple(cells)))
    caption = " ".join(f"{model}: {text}" for model, each in found.items() if (text := str(each.get("verdict") or "")))
    return Grid("Do samples help beside real data?", caption, ("model", "real rows only", "with samples"), tuple(rows)) if rows or caption else None


def _metric_row(results: Sequence[Result], quantity: str, name: str) -> Row:
    metrics = {result.model: next((m for m in result.metrics if (m.name, m.quantity) == (name, quantity)), None) for result in results}
    marks: dict[str, str] = {}
    for group in ledger.metric_groups(results, name):
        if group.key.quantity == quantity:
            marks |= {entry.row.model: "best" if entry.best else "tied" for entry in group.entries if entry.best or entry.tied}
    cells = []
    for result in results:
        metric = metrics[result.model]
        real = metric is not None and math.isfinite(metric.value) and as_good_as_real(metric, result.metric(name + FLOOR))
        cells.append(_cell(metric, tuple(mark for mark in (marks.get(result.model, ""), "real" if real else "") if mark)))
    known = [metric for metric in metrics.values() if metric is not None]
    units = dict.fromkeys(metric.unit for metric in known if metric.unit)
    given = f", {quantity}" if quantity == LOG_P_GIVEN_C else ""
    told = figure(name)
    title = f"{title_of(name)} {arrow_of(name)}".strip()
    data = dict.fromkeys(metric.data for metric in known if metric.data)
    remark = ", ".join([*units, *data])[:90] + given
    floor = floor_of(results, name) if quantity == SAMPLES else None
    own = Entry(hint=told.meaning) if told is not None and floor is None else _cell(floor)
    return Row(title, remark, (own, *cells))


def _cell(metric: Estimate | None, marks: tuple[str, ...] = ()) -> Entry:
    if metric is None:
        return Entry()
    value, _, error = number_text(metric.value, metric.stderr).partition(" ± ")
    strength = metric.strength if metric.quantity != SAMPLES else ""
    hint = "; ".join(part for part in (metric.strength, metric.note, f"n = {metric.n:,}" if metric.n else "", metric.data) if part)
    if not math.isfinite(metric.value):
        value, error = "not finite", ""
    small = " ".join(part for part in (f"± {error}" if error else "", strength) if part)
    return Entry(value, small, marks, hint=hint, key=sort_key(metric))


def _distances(
    details: Mapping[str, Mapping[str, Any]], key: str, label: Callable[[Mapping[str, Any]], str], title: str, head: str, caption: str
) -> Grid | None:
    """A row a column or pair, a column a model, warm where the distance is above its floor."""
    found: dict[str, dict[str, tuple[float | None, float | None]]] = {}
    for model, each in details.items():
        items = each.get(key)
        for item in items if isinstance(items, Sequence) and not isinstance(items, str) else ():
            if isinstance(item, Mapping):
                found.setdefault(label(item), {})[model] = (plain_float(item.get("distance")), plain_float(item.get("floor")))
    models = list(dict.fromkeys(model for values in found.values() for model in values))
    if not found:
        return None

    def excess(pair: tuple[float | None, float | None] | None) -> float:
        return 0.0 if pair is None or pair[0] is None else max(pair[0] - (pair[1] or 0.0), 0.0)

    names = list(found)
    worst = [max(excess(pair) for pair in found[name].values()) for name in names]
    scale = max([*worst, 2 * PALE])
    rows = []
    for index in _worst(worst):
        values = found[names[index]]
        floor = next((pair[1] for pair in values.values() if pair[1] is not None), None)
        cells = [_distance(values.get(model, (None, None))[0], excess(values.get(model)) / scale) for model in models]
        rows.append(Row(names[index], "", (_distance(floor, 0.0), *cells)))
    return Grid(title, caption + _left_out(len(names)), (head, "floor", *models), tuple(rows))


def _worst(values: Sequence[float]) -> list[int]:
    """Positions in their own order; of too many, those of the largest values, largest first."""
    if len(values) <= MOST_ROWS:
        return list(range(len(values)))
    return sorted(range(len(values)), key=lambda index: -values[index])[:MOST_ROWS]


def _left_out(n: int) -> str:
    return f" The {MOST_ROWS} furthest from real data, out of {n:,}." if n > MOST_ROWS else ""


def _is_classes(found: Any) -> bool:
    return isinstance(found, Mapping) and all(isinstance(found.get(key), list) for key in ("names", "real", "samples")) and \
        len(found["names"]) <= len(found["real"])  # fmt: skip


def _score(pair: tuple[float | None, float | None] | None) -> Entry:
    if pair is None or pair[0] is None:
        return Entry()
    value, _, error = number(pair[0], pair[1]).partition(" ± ")
    return Entry(value, f"± {error}" if error else "", key=repr(pair[0]))


def _distance(value: float | None, heat: float) -> Entry:
    return Entry() if value is None else Entry(f"{value:.3f}", heat=heat, key=repr(value))
