"""The page: one HTML file with everything inside, that asks nothing of any network."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from manykin import __version__
from manykin.errors import InvalidInput, ManykinError
from manykin.metrics import Estimate
from manykin.metrics.estimate import FLOOR, SAMPLES
from manykin.report import headline, matrix, panels, units, words
from manykin.report.animation import GIF, write_animation
from manykin.report.compared import Compared, Result, read_comparison, result_of_run
from manykin.report.markdown import comparison_markdown, run_markdown
from manykin.report.neighbours import neighbour_panels
from manykin.report.panels import Section
from manykin.report.reading import Run, is_comparison, model_name, read_run
from manykin.report.standing import standing_of
from manykin.report.timing import time_panels

FILE, MARKDOWN = "report.html", "report.md"
FORMATS = ("all", "html", "markdown")


def write_report(folder: str | Path, format: str = "all") -> Path:
    """Write ``report.html`` and ``report.md`` into a run folder or a comparison folder, and return the path of the page.

    The page is one self-contained file: pictures, styles and the few lines that sort its tables are inside. A comparison groups models by what
    their likelihood is and never ranks across groups. The Markdown holds the same table for a paper or a README. A run folder also gets
    ``samples.gif`` and ``strip.png``, its samples over training, where they can be drawn.

    Args:
        folder: of a run or of a comparison.
        format: ``all``, ``html``, or ``markdown``, which writes the Markdown alone and returns its path.

    Raises:
        InvalidInput: for a folder that is neither, or that cannot be written to.
        CheckpointMismatch: for a damaged file, naming it.
    """
    path = Path(folder).expanduser()
    if format not in FORMATS:
        raise InvalidInput(f"format {format!r} is not known; expected one of {', '.join(FORMATS)}.")
    context: Callable[[], dict[str, Any]]
    if is_comparison(path):
        compared = read_comparison(path, with_models=format != "markdown")
        context, text = partial(_comparison, compared), comparison_markdown(compared)
    else:
        run = read_run(path, with_model=format != "markdown")
        context, text = partial(_run, run, path), run_markdown(run)
    if format in ("all", "markdown"):
        _write(path / MARKDOWN, text)
    if format == "markdown":
        return path / MARKDOWN
    _write(path / FILE, _environment().get_template(FILE).render(**{**EMPTY, **context()}, **_parts()))
    return path / FILE


EMPTY: dict[str, Any] = {
    "subtitle": "", "tiles": (), "numbers": (), "board": None, "failed": (), "standings": (), "verdict": (), "warnings": (), "sections": (),
    "models": (), "facts": (), "trouble": "", "meanings": (), "terms": (), "paper": "",
}  # fmt: skip
"""What a page does not have."""


def _run(run: Run, folder: Path) -> dict[str, Any]:
    result = result_of_run(run)
    data = run.config.get("data")
    name, model = str(data.get("name", "own data")) if isinstance(data, Mapping) else "own data", model_name(run)
    write_animation(run, folder)
    return {
        "title": f"{model} on {name}",
        "subtitle": words.run_lead(result, name, run.space, words.held_out(run)),
        "tiles": _tiles(result),
        "numbers": _numbers(result.metrics),
        "warnings": [("", [text]) for text in result.warnings],
        "sections": [
            Section("Samples beside real data", tuple(panels.sample_panels(run.space, run.real, {model: run}))),
            *_sections(run, folder / GIF),
            Section("Nearest training examples", tuple(neighbour_panels(model, run)), note=NEIGHBOURS),
            *_detail_sections({model: run.details}),
        ],
        "facts": panels.facts(run),
        "trouble": run.trouble,
        "meanings": words.meanings([result]),
        "terms": words.terms([result], floor=False),
        "paper": "" if run.model is None else run.model.paper,
    }


NEIGHBOURS = (
    "The samples that are closest to any training example, and those examples. Alike is good; identical, again and again, means that the model "
    "copies what it was shown instead of having learned the law behind it."
)


def _comparison(compared: Compared) -> dict[str, Any]:
    board = headline.board_of(compared.results)
    ranked = [line.result.model for line in board.lines if line.result.model in compared.runs]
    ordered = {name: compared.runs[name] for name in ranked}
    details = {name: run.details for name, run in ordered.items()}
    every = matrix.every_metric([line.result for line in board.lines])
    near = [panel for name, run in ordered.items() for panel in neighbour_panels(name, run)]
    n = len(compared.results)
    return {
        "title": f"{n} model{'s' if n != 1 else ''} on {compared.data or 'own data'}",
        "subtitle": words.lead(compared),
        "board": board,
        "failed": compared.failed,
        "standings": headline.standing_pictures(board),
        "verdict": words.sentences(compared, board),
        "warnings": words.warnings_of(compared.results),
        "sections": [
            Section("Samples beside real data", tuple(panels.sample_panels(compared.space, compared.real, ordered))),
            Section("Quality against time", tuple(time_panels(compared))),
            Section(every.title if every else "", tables=(every,) if every else ()),
            Section("Nearest training examples", tuple(near), note=NEIGHBOURS),
            *_detail_sections(details),
        ],
        "models": [_model(compared, name, run) for name, run in ordered.items()],
        "facts": panels.asked_facts(compared.asked),
        "meanings": words.meanings(compared.results),
        "terms": words.terms(compared.results),
    }


def _model(compared: Compared, name: str, run: Run) -> dict[str, Any]:
    """The part of the page that belongs to one of several models."""
    paired = panels.pair_panels(compared.space, compared.real, name, run) if len(compared.runs) > 1 else []
    sections = [Section("Columns in pairs", tuple(paired)), *_sections(run)]
    return {"name": name, "sections": sections, "facts": panels.facts(run), "trouble": run.trouble}


def _sections(run: Run, gif: Path | None = None) -> list[Section]:
    parts = [("What it learned", panels.component_panels(run)), ("Samples over training", panels.training_panels(run, gif)),
             ("Loss curves", panels.curve_panels(run))]  # fmt: skip
    return [Section(title, tuple(found)) for title, found in parts if found]


def _detail_sections(details: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """What lies behind the numbers, a section a kind."""
    makers = (matrix.class_table, matrix.column_table, matrix.pair_table, matrix.usefulness_table, matrix.augmentation_table)
    return [Section(grid.title, tables=(grid,)) for make in makers if (grid := make(details)) is not None]


def _numbers(metrics: Sequence[Estimate]) -> list[dict[str, Any]]:
    """The rows of a run's table of numbers: each metric with its floor and its mark."""
    by_name = {metric.name: metric for metric in metrics}
    found = []
    for metric in metrics:
        if metric.name.endswith(FLOOR):
            continue
        floor = by_name.get(metric.name + FLOOR)
        told = words.meanings([Result(model="", family="", metrics=(metric,))])
        found.append({
            "metric": metric, "floor": floor, "standing": standing_of(metric, floor), "title": units.title_of(metric.name),
            "arrow": units.arrow_of(metric.name), "hint": told[0]["text"] if told else "",
            "strength": metric.strength if metric.quantity != SAMPLES else "",
        })  # fmt: skip
    return found


def _tiles(result: Result) -> list[tuple[str, str, str]]:
    """Large numbers at the top of a run: (value, unit, what)."""
    board = headline.board_of([result], most=1)
    line = board.lines[0]
    found = [] if line.likelihood is None else [(units.value_text(line.likelihood), line.likelihood.unit, f"likelihood ({line.strength})")]
    found += [(units.value_text(cell.estimate), cell.standing.words, units.title_of(cell.estimate.name))
              for cell in line.cells if cell.estimate is not None]  # fmt: skip
    costs = [(result.seconds, units.seconds_text, "of training"), (result.parameters, units.count_text, "parameters"),
             (result.peak_memory_bytes, units.bytes_text, "peak memory")]  # fmt: skip
    return found + [(show(value), "", what) for value, show, what in costs if value is not None]


def _write(target: Path, text: str) -> None:
    scratch = target.with_name(f".{target.name}.tmp")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(target)
    except OSError as error:
        raise ManykinError(f"{str(target)!r} cannot be written: {error.strerror}; free some space or change the folder's permissions.") from error


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("manykin.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    formats = {"seconds": units.seconds_text, "count": units.count_text, "bytes": units.bytes_text, "value": units.value_text}
    environment.filters.update(formats, key=units.sort_key, words=units.title_of, arrow=units.arrow_of, capital=units.capital)
    return environment


def _parts() -> dict[str, Any]:
    """The parts that every page has; the style and the script are our own files."""
    folder = files("manykin.report")
    return {
        "style": Markup(folder.joinpath("report.css").read_text(encoding="utf-8")),
        "script": Markup(folder.joinpath("report.js").read_text(encoding="utf-8")),
        "version": __version__,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
