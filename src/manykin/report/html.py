"""The page: one HTML file with everything inside, that asks nothing of any network."""

import math
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from manykin import __version__
from manykin.errors import ManykinError
from manykin.report import headline, panels
from manykin.report.reading import Run, is_comparison, model_name, read_comparison, read_run, read_value, result_of_run
from manykin.spaces import Value

FILE = "report.html"


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder or a comparison folder, and return its path.

    One self-contained file: pictures, styles and the few lines that sort its table are inside. A comparison groups models by what their likelihood
    is and never ranks across groups.

    Raises:
        InvalidInput: for a folder that is neither, or that cannot be written to.
        CheckpointMismatch: for a damaged file, naming it.
    """
    path = Path(folder).expanduser()
    context = _comparison(path) if is_comparison(path) else _run(path)
    text = _environment().get_template("report.html").render(**context, **_parts())
    target, scratch = path / FILE, path / f".{FILE}.tmp"
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(target)
    except OSError as error:
        raise ManykinError(f"{str(target)!r} cannot be written: {error.strerror}; free some space or change the folder's permissions.") from error
    return target


def _run(folder: Path) -> dict[str, Any]:
    run = read_run(folder)
    result = result_of_run(run)
    data = run.config.get("data") or {}
    return {
        "title": model_name(run),
        "subtitle": f"{result.family or 'model'} · fitted to {data.get('name', 'own data')}",
        "tiles": _tiles(result),
        "numbers": result.metrics,
        "groups": [],
        "failed": [],
        "standings": [],
        "verdict": "",
        "sections": [
            panels.Section("Samples beside real data", tuple(panels.sample_panels(run.space, run.real, {model_name(run): run}))),
            *_sections(run),
        ],
        "models": [],
        "facts": panels.facts(run),
        "trouble": run.trouble,
        "meanings": headline.meanings([result], floor=False),
        "paper": _paper(run),
    }


def _comparison(folder: Path) -> dict[str, Any]:
    data, results, runs = read_comparison(folder)
    groups = headline.groups_of(results)
    ranked = [line.result.model for group in groups for line in group.lines if line.result.model in runs]
    ordered = {name: runs[name] for name in ranked}
    first = next(iter(ordered.values()), None)
    space = first.space if first is not None else None
    real: Value | None = read_value(folder / "real.safetensors", space)
    if real is None and first is not None:
        real = first.real
    return {
        "title": f"{len(results)} models on {data}",
        "subtitle": "one split, one budget, one after the other",
        "tiles": [],
        "numbers": [],
        "groups": groups,
        "failed": [result for result in results if result.error],
        "standings": headline.standing_pictures(groups),
        "verdict": headline.verdict(groups),
        "sections": [panels.Section("Samples beside real data", tuple(panels.sample_panels(space, real, ordered)))],
        "models": [{"name": name, "sections": _sections(run), "facts": panels.facts(run), "trouble": run.trouble} for name, run in ordered.items()],
        "facts": [],
        "trouble": "",
        "meanings": headline.meanings(results),
        "paper": "",
    }


def _sections(run: Run) -> list[panels.Section]:
    parts = [("What it learned", panels.component_panels(run)), ("Learning curves", panels.curve_panels(run) + panels.snapshot_panels(run))]
    return [panels.Section(title, tuple(found)) for title, found in parts if found]


def _tiles(result: Any) -> list[tuple[str, str, str]]:
    """Large numbers at the top of a run: (value, unit, what)."""
    line = headline.line_of(result)
    found = [(headline.value_text(metric), metric.unit, f"{metric.name.replace('_', ' ')} ({metric.strength})")
             for metric in (line.likelihood, line.distance) if metric is not None]  # fmt: skip
    costs = [(result.seconds, seconds_text, "of training"), (result.parameters, count_text, "parameters"),
             (result.peak_memory_bytes, bytes_text, "peak memory")]  # fmt: skip
    return found + [(show(value), "", what) for value, show, what in costs if value is not None]


def _paper(run: Run) -> str:
    return "" if run.model is None else run.model.paper


def seconds_text(value: float | None) -> str:
    """``0.31 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 10 min``."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def count_text(value: float | None) -> str:
    """``812``, ``12,345``, ``1.2 M``, ``3.4 G``."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def bytes_text(value: float | None) -> str:
    """``812 KB``, ``123 MB``, ``1.2 GB``: powers of 1000."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.0f} B"
    power = min(int(math.log(value, 1000)), 4)
    return f"{value / 1000**power:.3g} {['B', 'KB', 'MB', 'GB', 'TB'][power]}"


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("manykin.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    formats = {"seconds": seconds_text, "count": count_text, "bytes": bytes_text, "value": headline.value_text, "key": headline.sort_key}
    environment.filters.update(formats, words=lambda name: name.replace("_", " "))
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
