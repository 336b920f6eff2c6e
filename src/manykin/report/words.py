"""A comparison in plain words: what was compared on what, and what came out, for a reader who has not read the documentation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from manykin.metrics import Estimate, figure, ledger
from manykin.metrics.estimate import FLOOR, SAMPLES
from manykin.report.compared import Compared, Result
from manykin.report.headline import Board, floor_of
from manykin.report.reading import Run
from manykin.report.standing import Tally, standings_in, tally
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
    "as good as real": "The number is within two standard errors of what real training rows get in the place of samples, or better. "
    "It says that this metric, at this size, does not tell the samples from real data; another may.",
    "worse": "The number is further from its noise floor than two standard errors: the metric tells the samples from real data.",
    "cannot tell at this size": "The number looks like that of real data, but with so few rows the metric does not even tell crude forgeries from "
    "them (each column permuted by itself, or only the half of the rows nearest to one row): it says nothing.",
    "told apart": "The p-value is at most 0.05: evidence that samples and data differ. It happens to one in twenty perfect models too.",
    "not told apart": "The p-value is above 0.05: no evidence that samples and data differ. How far above means nothing.",
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
    """The verdict: what is best within each kind of claim, whose samples are best, whose are told apart from real data, and what failed."""
    if not compared.finished:
        return ["Every model failed, so there is nothing to rank; the table says why."]
    found = [_best_likelihoods(board), _beaten(board), _best_samples(board), _told_apart(board), _failed(compared)]
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
    words |= {"noise floor"} if any(metric.name.endswith(FLOOR) for metric in metrics) else set()
    words |= {each.words for each in standings_in(results)}
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
    return {"title": title_of(name), "text": told.meaning, "how": " ".join(how), **{key: text for key, text in more.items() if text}}


def held_out(run: Run) -> int | None:
    """The held-out rows that a run was judged on: those behind its likelihood, else those that it recorded; None where neither is known.

    The size of a metric of samples is a number of samples, which may be larger.
    """
    behind = max((metric.n for metric in (run.evaluation.metrics if run.evaluation else ()) if metric.quantity != SAMPLES), default=0)
    data = run.config.get("data")
    rows = data.get("rows") if isinstance(data, Mapping) else None
    recorded = rows.get("test") if isinstance(rows, Mapping) else None
    return behind or (recorded if isinstance(recorded, int) else None)


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


def _told_apart(board: Board) -> str:
    """Whose samples are told from real data by how many of the metrics that can tell, and whose by none."""
    found = tally([line.result for line in board.lines])
    size = _size(found.sizes)
    able = [each for each in found.models if each.of]
    if not able:
        few = f"{capital(size) if size else 'These samples'} are too few for any metric here to tell even crude forgeries from real data."
        crude = [each.model for each in found.models if each.anyway]
        few += f" Even so, {listed(crude)} {'are' if len(crude) > 1 else 'is'} told apart." if crude else ""
        return few if found.power else ""
    groups: dict[tuple[int, int], list[str]] = {}
    for each in sorted(able, key=lambda each: (-each.told / each.of, -each.told)):
        groups.setdefault((each.told, each.of), []).append(each.model)
    most = max(each.of for each in able)
    what = f"metric{'s' if most != 1 else ''}"
    what += f" that can tell at this size{f' ({size})' if size else ''}" if found.power else ""
    parts = [f"{listed(models)} by {told or 'none'} of {of}" for (told, of), models in groups.items()]
    text = f"Told apart from real data: {'; '.join([f'{parts[0]} {what}', *parts[1:]])}"
    if any(told == 0 for told, _ in groups):
        text += f": as good as real{f', as far as {size} can say' if found.power and size else ' by what was computed'}"
    lost = [each.model for each in found.models if not each.of and _judged(board, each)]
    return f"{text}.{f' Too few samples to say anything of {listed(lost)}.' if lost and found.power else ''}"


def _judged(board: Board, each: Tally) -> bool:
    return any(line.result.model == each.model and any(m.quantity == SAMPLES for m in line.result.metrics) for line in board.lines)


def _size(sizes: Sequence[int]) -> str:
    """``360 samples``, ``200 to 360 samples``; empty where it is not known."""
    if not sizes:
        return ""
    return f"{sizes[0]:,} samples" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,} samples"


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
