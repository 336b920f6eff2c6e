"""The tables below the headline: every metric of every model, and what lies behind the numbers a column, a pair, a class at a time."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manykin.metrics import Estimate, figure, ledger
from manykin.metrics.estimate import FLOOR, LOG_P_GIVEN_C, SAMPLES, number
from manykin.report.compared import Result
from manykin.report.headline import floor_of
from manykin.report.reading import plain_float
from manykin.report.standing import NOTHING as NO_STANDING
from manykin.report.standing import Standing, standing_in
from manykin.report.units import arrow_of, number_text, sort_key, title_of

NOTHING = "nothing"
"""What a prediction that looks at no row is trained on."""
MOST_ROWS = 30
"""Columns, pairs or classes that a table shows; of more, those that are furthest from real data."""
PALE = 0.1
"""Differences of shares up to this are never drawn in the darkest colour."""


@dataclass(frozen=True)
class Entry:
    """A cell: its text, its error, a mark (``best``, ``tied``), a warmth between 0 and 1, what hovering says, and how it stands beside its floor."""

    text: str = "–"
    error: str = ""
    marks: tuple[str, ...] = ()
    heat: float = 0.0
    hint: str = ""
    key: str = ""
    standing: Standing = NO_STANDING


@dataclass(frozen=True)
class Row:
    """A row of a table: what it is, a remark in small, and its cells."""

    title: str
    remark: str
    cells: tuple[Entry, ...]


@dataclass(frozen=True)
class Grid:
    """A table with a heading, a caption, the names of its columns (that of the first one first), and remarks, each a line.

    ``sortable``: whether a column holds values of one unit, which a reader may sort.
    """

    title: str
    caption: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    sortable: bool = True


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
        "or better. ?: so it is, but at this size the metric does not even tell crude forgeries from real rows. p-values rank nothing: ≠ is told "
        "apart from real data (p up to 0.05), ≈ is not. Floor: real training rows in the place of samples."
    )
    return Grid("Every metric", caption, ("metric", "floor", *(result.model for result in finished)), tuple(rows), sortable=False)


def column_table(details: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """How far each column of the samples is from that column of real data, a row a column; None without such details."""
    caption = "Distance between the values of one column in samples and in held-out data; stronger colour is worse. Floor: real training rows."
    return _distances(details, "columns", lambda item: str(item.get("name")), "Column by column", "column", caption)


def pair_table(details: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """The same for pairs of columns: what depends on what."""
    caption = "Distance between how two columns go together in samples and in held-out data; stronger colour is worse."
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
    caption = f"Share of each class; stronger colour is further from real data.{_left_out(len(names))}"
    return Grid("Classes", caption, ("class", "real data", *drawn), tuple(rows))


def usefulness_table(details: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """Scores on real held-out rows of plain classifiers trained on real rows and on samples; None without such details."""
    found = {model: each["usefulness"] for model, each in details.items() if isinstance(each.get("usefulness"), Mapping)}
    lines = [(model, row) for model, each in found.items() for row in each.get("rows") or () if isinstance(row, Mapping)]
    if not lines:
        return None
    idle = [str(row.get("classifier")) for _, row in lines if row.get("trained_on") == NOTHING]
    classifiers = [name for name in dict.fromkeys(str(row.get("classifier")) for _, row in lines) if name not in idle]
    scores = {(model, str(row.get("trained_on")), str(row.get("classifier"))): _score(row) for model, row in lines}
    rows: dict[tuple[int, str], dict[str, Entry]] = {}
    for (model, source, classifier), score in scores.items():
        same = all(scores.get((other, source, classifier)) == score for other in found)
        if source == NOTHING:
            rows[3, f"nothing: {classifier}"] = dict.fromkeys(classifiers, score)
        elif source.startswith(("sample", "synth")):
            rows.setdefault((1, f"samples of {model}"), {})[classifier] = score
        else:
            key = (0 if source.startswith("real") else 2, source if same else f"{source}, {model}")
            rows.setdefault(key, {})[classifier] = score
    first = next(iter(found.values()))
    what = str(first.get("score") or "score") + (f" in predicting {first['target']}" if first.get("target") else "")
    caption = (
        f"{what[:1].upper()}{what[1:]}, on real held-out rows, of plain models trained on real rows, or on samples alone; higher is better. Samples "
        "that are as useful as real rows reach the first row; the last rows are floors."
    )
    cells = [Row(label, "", tuple(each.get(name, Entry()) for name in classifiers)) for (_, label), each in sorted(rows.items(), key=_place)]
    return Grid("Is it useful? Trained on samples, tested on real data", caption, ("trained on", *classifiers), tuple(cells))


def augmentation_table(details: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """What samples beside so many real rows change for a classifier, and the answer in words; None without such details."""
    found = {model: each["augmentation"] for model, each in details.items() if isinstance(each.get("augmentation"), Mapping)}
    cells: dict[tuple[str, str], dict[float, Entry]] = {}
    for model, each in found.items():
        for item in each.get("rows") or ():
            size = plain_float(item.get("n_real")) if isinstance(item, Mapping) else None
            if size is not None:
                cells.setdefault((model, str(item.get("classifier") or "")), {})[size] = _change(item)
    sizes = sorted({size for each in cells.values() for size in each})
    rows = [Row(f"samples of {model}", kind, tuple(each.get(size, Entry()) for size in sizes)) for (model, kind), each in cells.items()]
    verdicts = {model: text for model, each in found.items() if (text := str(each.get("verdict") or ""))}
    alone = len(verdicts) == 1
    notes = tuple(text if alone else f"{model}: {re.split(r'(?<=[.]) (?=[A-Z])', text)[0]}" for model, text in verdicts.items())
    score = next((str(each.get("score")) for each in found.values() if each.get("score")), "score")
    caption = (
        f"How much the {score} on held-out rows changes when samples are added to so many real rows, with one standard error; in bold where it rises "
        "by more than two, in colour where it falls by more than two. Hover over a cell for the scores themselves."
    )
    heads = ("added", *(f"to {size:,.0f} real rows" for size in sizes))
    return Grid("Do samples help beside real data?", caption, heads, tuple(rows), notes) if rows or notes else None


def _change(item: Mapping[str, Any]) -> Entry:
    real, both, error = (plain_float(item.get(key)) for key in ("real", "both", "stderr"))
    difference = plain_float(item.get("difference"))
    if difference is None and real is not None and both is not None:
        difference = both - real
    if difference is None:
        return Entry()
    sure = error is not None and abs(difference) > 2 * error
    hint = "" if real is None or both is None else f"{real:.3f} without, {both:.3f} with samples"
    text, marks = f"{difference:+.3f}", ("best",) if sure and difference > 0 else ()
    return Entry(text, "" if error is None else f"± {error:.3f}", marks, 0.6 if sure and difference < 0 else 0.0, hint, repr(difference))


def _place(item: tuple[tuple[int, str], Any]) -> int:
    return item[0][0]


def _metric_row(results: Sequence[Result], quantity: str, name: str) -> Row:
    metrics = {result.model: next((m for m in result.metrics if (m.name, m.quantity) == (name, quantity)), None) for result in results}
    marks: dict[str, str] = {}
    for group in ledger.metric_groups(results, name):
        if group.key.quantity == quantity:
            marks |= {entry.row.model: "best" if entry.best else "tied" for entry in group.entries if entry.best or entry.tied}
    cells = []
    for result in results:
        metric = metrics[result.model]
        found = standing_in(result, metric) if quantity == SAMPLES else NO_STANDING
        cells.append(_cell(metric, tuple(mark for mark in (marks.get(result.model, ""),) if mark), found))
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


def _cell(metric: Estimate | None, marks: tuple[str, ...] = (), standing: Standing = NO_STANDING) -> Entry:
    if metric is None:
        return Entry()
    value, _, error = number_text(metric.value, metric.stderr).partition(" ± ")
    strength = metric.strength if metric.quantity != SAMPLES else ""
    hint = "; ".join(part for part in (metric.strength, metric.note, f"n = {metric.n:,}" if metric.n else "", metric.data) if part)
    if not math.isfinite(metric.value):
        value, error = "not finite", ""
    small = " ".join(part for part in (f"± {error}" if error else "", strength) if part)
    return Entry(value, small, marks, hint=hint, key=sort_key(metric), standing=standing)


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


def _score(row: Mapping[str, Any]) -> Entry:
    value, stderr = plain_float(row.get("score")), plain_float(row.get("stderr"))
    if value is None:
        return Entry()
    text, _, error = number(value, stderr).partition(" ± ") if stderr is not None else (f"{value:.3f}", "", "")
    return Entry(text, f"± {error}" if error else "", key=repr(value))


def _distance(value: float | None, heat: float) -> Entry:
    return Entry() if value is None else Entry(f"{value:.3f}", heat=heat, key=repr(value))
