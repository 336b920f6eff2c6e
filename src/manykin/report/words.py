"""A comparison in plain words: what was compared on what, and what came out, for a reader who has not read the documentation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from manykin.metrics import Estimate, as_good_as_real, figure, ledger
from manykin.metrics.estimate import FLOOR, SAMPLES
from manykin.report.compared import Compared, Result
from manykin.report.headline import Board, floor_of
from manykin.report.units import BETTER, capital, count_text, listed, seconds_text, title_of, value_text
from manykin.spaces import Image, Record, Space, Table, Tokens, columns_of

TERMS: dict[str, str] = {
    "exact": "The density is computed, and sums to one.",
    "bound": "The model's true likelihood is at least this good; k is the number of draws that tighten it.",
    "estimate": "The number has noise of its own beyond the standard error over examples.",
    "±": "One standard error. Two numbers closer than twice their combined errors are not told apart.",
    "classical floor": "A classical model, fitted in closed form or nearly: whatever does not beat it has learned nothing that is worth its cost.",
    "noise floor": "The same number for real training rows in the place of samples, which differ from held-out rows by chance alone: "
    "what a perfect model would get. No model has to do better.",
    "as good as real": "The number is within two standard errors of what real training rows get in the place of samples, or better.",
}
FALLBACK: dict[str, str] = {
    "nll": "Minus the mean log-likelihood of held-out data, in nats per example.",
    "bits_per_dim": "The held-out negative log-likelihood in bits per dimension (pixel, column, symbol): the size of a perfect compressor's file.",
    "bits_per_byte": "The held-out negative log-likelihood in bits, per byte of text.",
    "kl_gap": "Likelihood lost against the true law of the data: nll minus its known entropy; 0 is perfect, and less is impossible beyond noise.",
}


def lead(compared: Compared) -> str:
    """What was compared, on what, with how many rows, budget and seeds."""
    n, failed = len(compared.results), len(compared.failed)
    models = f"{n} generative model{'s' if n != 1 else ''}"
    kind = f" ({describe(compared.space)})" if compared.space is not None else ""
    text = [f"{models} {'were' if n != 1 else 'was'} fitted to {compared.data or 'own data'}{kind}"]
    train, held = compared.rows.get("train"), compared.rows.get("test") or _held_out(compared.results)
    learned = f"each learned from the same {train:,} rows" if train else "each learned from the same rows"
    judged = f" and was judged on {held:,} held-out rows that none of them saw" if held else " and was judged on rows that none of them saw"
    text[0] += f": {learned}{judged}."
    if told := _budget(compared):
        text.append(told)
    if failed:
        text.append(f"{failed} of them failed." if failed < n else "All of them failed.")
    return " ".join(text)


def sentences(compared: Compared, board: Board) -> list[str]:
    """The verdict: what is best within each kind of claim, whose samples are best, whose are as good as real data, and what failed."""
    if not compared.finished:
        return ["Every model failed, so there is nothing to rank; the table says why."]
    found = [_best_likelihoods(board), _beaten(board), _best_samples(board), _as_good(board), _failed(compared)]
    return [text for text in found if text]


def warnings_of(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """``(models, warnings)``: each warning once; those that concern the same models together, in their own order."""
    models: dict[str, list[str]] = {}
    for result in results:
        for text in dict.fromkeys(result.warnings):
            models.setdefault(text, []).append(result.model)
    found: dict[str, list[str]] = {}
    for text, names in models.items():
        found.setdefault(listed(names, 4), []).append(text)
    return list(found.items())


def describe(space: Space) -> str:
    """A space in plain words: ``8×8 grey pictures of 17 levels``, ``a table of 12 columns``."""
    if isinstance(space, Image):
        channels, height, width = space.shape
        colour = {1: "grey ", 3: "colour "}.get(channels, f"{channels}-channel ") if space.ordinal else ""
        return f"{height}×{width} {colour}pictures" + (f" of {space.levels} levels" if space.levels else "")
    if isinstance(space, Tokens):
        return f"texts of up to {space.length} symbols out of {space.vocab}"
    if isinstance(space, Record):
        return f"records of {listed([name for name, _ in space.fields])}"
    d = len(columns_of(space))
    return f"a table of {d} column{'s' if d != 1 else ''}" if isinstance(space, Table) else f"vectors of {d} number{'s' if d != 1 else ''}"


def meanings(results: Sequence[Result]) -> list[dict[str, str]]:
    """An entry for each metric shown: what it means, its direction and range, how to read its floor, and where it comes from."""
    names = list(dict.fromkeys(metric.name.removesuffix(FLOOR).removeprefix("marginal_") for result in results for metric in result.metrics))
    floors = {name: floor for name in names if (floor := floor_of(results, name)) is not None}
    on = {metric.name: metric.data for result in results for metric in result.metrics if metric.quantity == SAMPLES and metric.data}
    return [entry for name in names if (entry := _meaning(name, floors.get(name), on.get(name, ""))) is not None]


def terms(results: Sequence[Result], *, floor: bool = True) -> list[tuple[str, str]]:
    """The words that the tables use, explained."""
    metrics = [metric for result in results for metric in result.metrics]
    words = {metric.strength for metric in metrics if metric.quantity != SAMPLES} | {"±"}
    words |= {"classical floor"} if floor and any(ledger.is_classical(result) for result in results) else set()
    words |= {"noise floor", "as good as real"} if any(metric.name.endswith(FLOOR) for metric in metrics) else set()
    return [(key, text) for key, text in TERMS.items() if key in words]


def _meaning(name: str, floor: Estimate | None, on: str) -> dict[str, str] | None:
    told = figure(name)
    if told is None:
        return {"title": title_of(name), "text": FALLBACK[name], "how": capital(BETTER["lower"]) + "."} if name in FALLBACK else None
    ideal = f" (ideal {told.ideal:g})" if told.better == "target" and told.ideal is not None else ""
    how = [f"{capital(BETTER[told.better])}{ideal}.", f"Range: {told.range}."]
    if on:
        how.append(f"Computed on {on}.")
    if floor is not None:
        how.append(f"Real rows get {value_text(floor)}.")
    more = {"formula": told.formula, "source": told.source, "pitfalls": told.pitfalls}
    return {"title": told.title, "text": told.meaning, "how": " ".join(how), **{key: text for key, text in more.items() if text}}


def _held_out(results: Sequence[Result]) -> int | None:
    return max((metric.n for result in results for metric in result.metrics if metric.quantity != SAMPLES), default=None)


def _budget(compared: Compared) -> str:
    """``Each had 5.0 s of training, and 3 seeds.``"""
    asked: Mapping[str, Any] = compared.asked
    budget = asked.get("budget")
    places: list[Mapping[str, Any]] = [place for place in (budget, asked) if isinstance(place, Mapping)]
    time = next((place["max_time"] for place in places if isinstance(place.get("max_time"), (int, float))), None)
    steps = next((place["max_steps"] for place in places if isinstance(place.get("max_steps"), int)), None)
    parts = [f"{seconds_text(float(time))} of training" if time else "", f"{steps:,} training steps" if steps else ""]
    seeds = max((len(result.seeds) for result in compared.results), default=0)
    had = listed([part for part in parts if part])
    text = f"Each had at most {had}" if had else ""
    if seeds > 1:
        return f"{text}, once with each of {seeds} seeds; the numbers are means over them." if text else f"Each was fitted with {seeds} seeds."
    return f"{text}; closed-form models stop when they are done." if text else ""


def _best_likelihoods(board: Board) -> str:
    """``Best exact likelihood: mixture, 2.146 ± 0.010 bits/dim. Best bound: ...``"""
    found = []
    for part in board.parts:
        named = [line for line in part.lines if line.likelihood is not None and not line.flags and math.isfinite(line.likelihood.value)]
        if not named:
            continue
        best = named[0]
        assert best.likelihood is not None
        tied = [line.result.model for line in named[1:] if line.mark == "tied"]
        given = " of log p(x | c)" if "c" in best.likelihood.quantity.split("|")[-1].split() or "| c" in best.likelihood.quantity else ""
        what = {"exact": "exact likelihood", "bound": "likelihood bound", "estimate": "likelihood estimate"}.get(best.strength, best.strength)
        also = f" (not told apart from it: {listed(tied)})" if tied else ""
        name = f"Best {what}{given}" if len(named) > 1 else f"The only {what}{given}"
        found.append(f"{name}: {best.result.model} at {value_text(best.likelihood)} {best.likelihood.unit}{also}.")
    if len(found) > 1:
        found.append("Likelihoods of different kinds are not ranked against each other.")
    return " ".join(found)


def _beaten(board: Board) -> str:
    return ledger.verdict(ledger.likelihood_groups([line.result for line in board.lines]))


def _best_samples(board: Board) -> str:
    """Who has the best samples by each of the main metrics."""
    by_model: dict[str, list[str]] = {}
    for index, name in enumerate(board.names):
        winners = [line.result.model for line in board.lines if line.cells[index].mark == "best"]
        tied = [line.result.model for line in board.lines if line.cells[index].mark == "tied"]
        if winners:
            by_model.setdefault(f"{listed(winners)}{f' (with {listed(tied, 4)} not told apart from it)' if tied else ''}", []).append(title_of(name))
    if not by_model:
        return ""
    return capital("; ".join(f"best samples by {listed(names)}: {winner}" for winner, names in by_model.items())) + "."


def _as_good(board: Board) -> str:
    """Whose samples cannot be told from real data, by how many of all metrics that have a floor."""
    counts = {line.result.model: _passed(line.result) for line in board.lines}
    total = max((n for _, n in counts.values()), default=0)
    if total == 0:
        return ""
    every = [model for model, (good, n) in counts.items() if good == n > 0]
    rest = sorted(((good, n, model) for model, (good, n) in counts.items() if 0 < good < n), key=lambda item: -item[0])
    by = f"all {total} sample metrics" if total > 1 else "the one sample metric"
    text = f"As good as real data by {by}: {listed(every)}." if every else f"No model is as good as real data by {by}."
    return text + (f" {'The others' if every else 'By some'}: {listed([f'{model} by {good} of {n}' for good, n, model in rest])}." if rest else "")


def _passed(result: Result) -> tuple[int, int]:
    """How many metrics with a floor cannot tell samples from real data, and of how many."""
    pairs = [(metric, floor) for metric in result.metrics if (floor := result.metric(metric.name + FLOOR)) is not None]
    return sum(as_good_as_real(metric, floor) for metric, floor in pairs), len(pairs)


def _failed(compared: Compared) -> str:
    names = [result.model for result in compared.failed]
    return f"Failed: {listed(names)}; the table says why." if names else ""


def run_lead(result: Result, data: str, space: Space | None, held: int | None) -> str:
    """What a single run is, in a sentence or two."""
    kind = f" ({describe(space)})" if space is not None else ""
    text = f"{capital(result.family or 'own')} model fitted to {data}{kind}"
    steps = f" in {count_text(result.steps)} steps" if result.steps else ""
    text += f"{steps}{f', {seconds_text(result.seconds)}' if result.seconds else ''}."
    return text + (f" The numbers are of {held:,} held-out rows that it never saw." if held else "")
