"""What the page shows of a run beyond numbers: samples beside data, densities, components, learning curves, facts."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from PIL import Image as Pictures
from torch import Tensor

from manykin.contract import GenerativeModel, Gradient, Inspects
from manykin.errors import ManykinError
from manykin.metrics import log_likelihoods
from manykin.report.animation import moments, strip
from manykin.report.canvas import MODEL, REAL, new_figure, style, svg
from manykin.report.columns import marginals, numeric, pairs, worth_drawing
from manykin.report.matrix import Grid
from manykin.report.pictures import density_2d, ellipses, frame, grid, learning_curves, scatter
from manykin.report.reading import Run
from manykin.spaces import Column, Image, Labels, Record, Space, Table, Tokens, Value, Vector, columns_of

SHEET = 64
STRINGS = 8
RESOLUTION = 160
DRAWS = 32
MOST_EMBEDDED = 2_000_000
"""Bytes of an animation that is still put into the page."""


@dataclass(frozen=True)
class Panel:
    """A picture (or strings) with its caption."""

    caption: str
    picture: Markup | None = None
    strings: tuple[str, ...] = ()
    wide: bool = False
    real: bool = False
    double: bool = False


@dataclass(frozen=True)
class Section:
    """Panels and tables under one heading, after a sentence that says what they are."""

    title: str
    panels: tuple[Panel, ...] = ()
    tables: tuple[Grid, ...] = ()
    note: str = ""


def sample_panels(space: Space | None, real: Value | None, fakes: Mapping[str, Run]) -> list[Panel]:
    """Real data and the samples of one or several models, in whatever way the space can be seen."""
    if space is None or real is None:
        return []
    if isinstance(space, Record):
        return [panel for name, part in space.fields for panel in _of_field(name, part, real, fakes)]
    assert isinstance(real, Tensor)
    drawn = {name: run.samples for name, run in fakes.items() if isinstance(run.samples, Tensor)}
    models = {name: run.model for name, run in fakes.items() if run.model is not None}
    return _of_space(space, real, drawn, models)


def pair_panels(space: Space | None, real: Value | None, name: str, run: Run) -> list[Panel]:
    """Columns of a table in pairs: among many models each has them in its own part of the page."""
    if not isinstance(space, (Vector, Table)) or space.shape == (2,) or not isinstance(real, Tensor) or not isinstance(run.samples, Tensor):
        return []
    columns = columns_of(space)
    return _pairs(columns, worth_drawing(columns, _flat(real)), _flat(real), _flat(run.samples), name)


def curve_panels(run: Run) -> list[Panel]:
    """The learning curves of a run, and what happened in it."""
    panels = []
    with style():
        figure = learning_curves(run.history, first=_first_phase(run.model))
        if figure is not None:
            panels.append(
                Panel(
                    "What each phase of training logged over steps, with seconds along the top.",
                    svg(figure, f"Learning curves of {run.name}"),
                    wide=True,
                )
            )
    events = tuple(f"step {line.get('step')}: {line['event']}" for line in run.history if isinstance(line.get("event"), str))
    return panels + ([Panel("Events", strings=events[-20:], wide=True)] if events else [])


def _first_phase(model: GenerativeModel | None) -> str:
    """The name of the first phase that learns by gradients."""
    names = [] if model is None else [phase.name for phase in model.phases() if isinstance(phase, Gradient)]
    return names[0].replace("_", " ") if names else "first phase"


def training_panels(run: Run, gif: Path | None = None) -> list[Panel]:
    """Samples over training: the animation, where a file of it is given and small enough for a page, and the strip."""
    panels = []
    if gif is not None and gif.is_file() and gif.stat().st_size <= MOST_EMBEDDED:
        label = "Samples over training as an animation"
        caption = "The same noise through the model after each checkpoint, from the first step to the last."
        panels.append(Panel(caption, image_tag(gif.read_bytes(), "gif", label, "animation")))
    content = strip(run)
    if content is not None:
        found = moments(run)
        bad = [f"{moment.step:,}" for moment in found if moment.bad]
        caption = f"Samples after {found[0].step:,} to {found[-1].step:,} steps, always from the same noise."
        if bad:
            caption += f" Blank: samples that are not finite, after {', '.join(bad)} steps."
        panels.append(Panel(caption, image_tag(content, "png", "Samples over training", "strip"), wide=True))
    return panels


def component_panels(run: Run) -> list[Panel]:
    """Fitted components of a model that can be inspected: means as pictures, or ellipses over the data."""
    if not isinstance(run.model, Inspects) or run.space is None:
        return []
    try:
        table = {name: value.detach().double().cpu() for name, value in run.model.parameters_table().items()}
    except ManykinError:
        return []
    means = table.get("means")
    if means is None or means.dim() != 2:
        return []
    if isinstance(run.space, Image) and means.shape[1] == torch.Size(run.space.shape).numel():
        return [_mean_pictures(run.space, means, table.get("weights"))]
    covariances = table.get("covariances")
    if isinstance(run.space, (Vector, Table)) and covariances is not None and means.shape[1] == run.space.shape[0] >= 2:
        return [_ellipse_panel(run, means, covariances, table.get("weights"))]
    return []


def facts(run: Run) -> list[tuple[str, str]]:
    """The model card's facts from ``config.json``: what, from what, and with which versions."""
    config = run.config
    chosen = {key: config.get(key) for key in ("seed", "transform", "sizes", "condition") if config.get(key) not in (None, {}, [])}
    model = config.get("model")
    found: list[tuple[str, str]] = []
    if isinstance(model, Mapping):
        found += [("model", str(model.get("name"))), ("options", _compact(model.get("config")))]
    if run.space is not None:
        found.append(("space", str(run.space)))
    found += [(key, _compact(value)) for key, value in chosen.items()]
    for part in ("training", "result", "versions", "data"):
        values = config.get(part)
        if isinstance(values, Mapping):
            label = "" if part == "result" else f"{part} · "
            found += [(f"{label}{key}", _compact(value)) for key, value in values.items() if value not in (None, "", [], {})]
    return found


def asked_facts(asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a comparison was asked for, from ``comparison.json``."""
    found: list[tuple[str, str]] = []
    for key, value in asked.items():
        if key == "models" and isinstance(value, list):
            value = ", ".join(str(each.get("label", each.get("name"))) if isinstance(each, Mapping) else str(each) for each in value)
        inner = value.items() if isinstance(value, Mapping) else [(None, value)]
        found += [(f"{key} · {name}" if name else key, _compact(each)) for name, each in inner if each not in (None, "", [], {})]
    return found


def picture(image: Pictures.Image, label: str) -> Markup:
    """A contact sheet as an inline PNG whose pixels stay crisp."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return image_tag(buffer.getvalue(), "png", label, "sheet", image.size)


def image_tag(content: bytes, kind: str, label: str, style_class: str, size: tuple[int, int] | None = None) -> Markup:
    """A picture as part of the page."""
    if size is None:
        with Pictures.open(io.BytesIO(content)) as image:
            size = image.size
    code = base64.b64encode(content).decode()
    return Markup('<img class="{}" alt="{}" width="{}" height="{}" src="data:image/{};base64,{}">').format(style_class, label, *size, kind, code)


def _of_field(name: str, space: Space, real: Value, fakes: Mapping[str, Run]) -> list[Panel]:
    assert not isinstance(real, Tensor)
    drawn = {model: run.samples[name] for model, run in fakes.items() if isinstance(run.samples, Mapping)}
    panels = _of_space(space, real[name], drawn, {})
    return [Panel(f"{name}: {panel.caption}", panel.picture, panel.strings, panel.wide, panel.real, panel.double) for panel in panels]


def _of_space(space: Space, real: Tensor, fakes: Mapping[str, Tensor], models: Mapping[str, GenerativeModel]) -> list[Panel]:
    if isinstance(space, Image):
        return _sheets(space, real, fakes)
    if isinstance(space, Tokens):
        return [
            Panel("Real data", strings=_strings(space, real), real=True),
            *(Panel(f"Samples of {name}", strings=_strings(space, fake)) for name, fake in fakes.items()),
        ]
    if isinstance(space, (Vector, Table)) and space.shape == (2,) and all(column.kind == "real" for column in columns_of(space)):
        return _planes(real, fakes, models)
    columns = columns_of(space)
    real, fakes = _flat(real), {name: _flat(fake) for name, fake in fakes.items()}
    chosen = worth_drawing(columns, real)
    if not fakes:
        return [_marginals(columns, chosen, real, None, ""), *_pairs(columns, chosen, real, None, "")]
    panels = [_marginals(columns, chosen, real, fake, name) for name, fake in fakes.items()]
    return panels + [panel for name, fake in fakes.items() if len(fakes) == 1 for panel in _pairs(columns, chosen, real, fake, name)]


def _sheets(space: Image, real: Tensor, fakes: Mapping[str, Tensor]) -> list[Panel]:
    columns = max(1, min(8, 512 // space.size[2]))
    options: dict[str, Any] = {"columns": columns, "levels": space.levels, "ordinal": space.ordinal}
    panels = [Panel("Real data", picture(grid(real[: columns * 8], **options), "Real data"), real=True)]
    return panels + [Panel(name, picture(grid(fake[: columns * 8], **options), f"Samples of {name}")) for name, fake in fakes.items()]


def _strings(space: Tokens, codes: Tensor) -> tuple[str, ...]:
    return tuple(text_of(space, row) for row in codes[:STRINGS])


def text_of(space: Tokens, codes: Tensor) -> str:
    """A row of codes as text: its symbols up to the end, or the codes where the symbols are unknown."""
    row = codes.tolist()
    if space.end is not None and space.end in row:
        row = row[: row.index(space.end)]
    return " ".join(map(str, row)) if space.symbols is None else "".join(space.symbols[code] for code in row)


def _planes(real: Tensor, fakes: Mapping[str, Tensor], models: Mapping[str, GenerativeModel]) -> list[Panel]:
    with style():
        panels = [Panel("Real data", _plane(real, "Real data", partial(_dots, real, REAL)), real=True, double=True)]
        for name in dict.fromkeys([*models, *fakes]):
            pictures, shown = [], []
            density = _grid_density(models.get(name))
            if density is not None:
                pictures.append(_plane(real, f"{name}: density with the data on top", partial(density_2d, density[0], real, resolution=density[1])))
                shown.append(f"density with the data on top{density[2]}")
            if name in fakes:
                pictures.append(_plane(real, f"{name}: samples", partial(_dots, fakes[name], MODEL)))
                shown.append("samples")
            panels.append(Panel(f"{name}: {'; '.join(shown)}", Markup("").join(pictures), double=True))
        return panels


def _dots(data: Tensor, colour: str, axes: Any) -> None:
    scatter(axes, data[:1000], colour)


def _plane(real: Tensor, label: str, draw: Callable[[Any], Any]) -> Markup:
    """A square plane in the frame of the real data, so that all pictures share one scale."""
    figure = new_figure(3.4, 3.4)
    axes = figure.add_subplot()
    draw(axes)
    low, high = frame(real)
    axes.set_xlim(float(low[0]), float(high[0]))
    axes.set_ylim(float(low[1]), float(high[1]))
    axes.set_aspect("auto")
    axes.tick_params(labelsize=7.5)
    return svg(figure, label)


def _grid_density(model: GenerativeModel | None) -> tuple[Callable[[Tensor], Tensor], int, str] | None:
    """log p(x) on grid points, the resolution that it affords, and what it is; None where there is nothing to evaluate.

    Of a model conditional on labels the sum over them; of a noisy one the value of many draws, so that contours are smooth.
    """
    density = None if model is None else model.density
    if model is None or density is None:
        return None
    if model.condition is not None:
        return (lambda x: model.marginal_log_prob(x), RESOLUTION, "") if isinstance(model.condition, Labels) else None
    if density.noisy and density.normalised:
        return lambda x: log_likelihoods(model, x, draws=DRAWS), RESOLUTION // 2, f" ({density.strength}, k={DRAWS})"
    return lambda x: model.log_prob(x), RESOLUTION, "" if density.strength == "exact" else f" ({density.strength})"


def _marginals(columns: tuple[Column, ...], chosen: list[int], real: Tensor, fake: Tensor | None, name: str) -> Panel:
    own = f"{name}: " if name else ""
    shown = f" {len(chosen)} of {len(columns)} columns." if len(chosen) < len(columns) else ""
    with style():
        figure = marginals([columns[index] for index in chosen], real[:, chosen], None if fake is None else fake[:, chosen])
        caption = f"{own}each column by itself. Filled: real data. Outlined: samples.{shown}"
        return Panel(caption, svg(figure, f"{own}marginal histograms"), wide=True)


def _pairs(columns: tuple[Column, ...], chosen: list[int], real: Tensor, fake: Tensor | None, name: str) -> list[Panel]:
    own, plane = f"{name}: " if name else "", numeric(columns, chosen)
    if len(plane) < 2:
        return []
    with style():
        figure = pairs([columns[index] for index in plane], real[:, plane], None if fake is None else fake[:, plane])
        return [Panel(f"{own}columns in pairs. Blue: real data. Orange: samples.", svg(figure, f"{own}pairs of columns"), wide=True)]


def _mean_pictures(space: Image, means: Tensor, weights: Tensor | None) -> Panel:
    order = torch.arange(len(means)) if weights is None else weights.argsort(descending=True)
    images = means[order][:SHEET].reshape(-1, *space.shape)
    if space.levels is not None:
        images = images.clamp(0, space.levels - 1)
    caption = "Means of the components" + (", heaviest first" if weights is not None else "")
    columns = min(len(images), max(1, min(8, 512 // space.size[2])))
    return Panel(caption, picture(grid(images, columns=columns, levels=space.levels, side=80 * columns), caption))


def _ellipse_panel(run: Run, means: Tensor, covariances: Tensor, weights: Tensor | None) -> Panel:
    columns = columns_of(run.space) if run.space is not None else ()
    with style():
        figure = new_figure(4.2, 4.2)
        axes = figure.add_subplot()
        if isinstance(run.real, Tensor):
            scatter(axes, run.real[:800, :2], REAL)
        ellipses(means, covariances, axes, weights=weights)
        axes.set_xlabel(columns[0].name)
        axes.set_ylabel(columns[1].name)
        where = "" if len(columns) == 2 else f" in the plane of {columns[0].name} and {columns[1].name}"
        return Panel(f"{len(means)} components at one and two standard deviations{where}.", svg(figure, f"Components of {run.name}"))


def _flat(x: Tensor) -> Tensor:
    return x.double().reshape(len(x), -1)


def _compact(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 600 else text[:599] + "…"
