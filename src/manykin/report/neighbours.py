"""The samples that are closest to training rows, beside them: whoever copies is seen here."""

from collections.abc import Sequence

import torch
from markupsafe import Markup
from torch import Tensor

from manykin.report.panels import Panel, picture, text_of
from manykin.report.pictures import grid
from manykin.report.reading import Run
from manykin.spaces import Column, Image, Record, Space, Tokens, columns_of

MOST = 8
MOST_COLUMNS = 8
ROWS = 2
"""Samples shown as rows of a table."""


def neighbour_panels(name: str, run: Run) -> list[Panel]:
    """Samples beside their nearest training rows; empty where the evaluation left none."""
    samples, train, distance = (run.tensors.get(f"neighbours.{key}") for key in ("samples", "train", "distance"))
    if (
        samples is None
        or train is None
        or run.space is None
        or isinstance(run.space, Record)
        or train.dim() < 2
        or len(samples) != len(train)
        or len(samples) == 0
    ):
        return []
    if tuple(samples.shape[1:]) != tuple(run.space.shape) or tuple(train.shape[2:]) != tuple(run.space.shape):
        return []
    far = distance if distance is not None and distance.shape == train.shape[:2] else torch.full(train.shape[:2], float("nan"))
    if isinstance(run.space, Image):
        return [Panel(f"{name}. Top row: samples; below each its {train.shape[1]} nearest training pictures, and the distance to the nearest.",
                      _pictures(run.space, samples, train, far))]  # fmt: skip
    caption = f"{name}: samples (bold) and their nearest training rows, with distances; values equal to the sample's are coloured."
    if isinstance(run.space, Tokens):
        return [Panel(caption, _texts(run.space, samples, train, far), wide=True)]
    return [Panel(caption, _rows(columns_of(run.space), samples.reshape(len(samples), -1), train.flatten(2), far), wide=run.space.shape[0] > 4)]


def cell_text(column: Column, value: float) -> str:
    """A value as a user would write it: a category by its name, a whole number whole."""
    if value != value:
        return "missing"
    if column.kind == "categorical":
        return str(column.categories[int(value)]) if 0 <= int(value) < len(column.categories) else str(value)
    return f"{value:.0f}" if column.kind == "integer" else f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def _pictures(space: Image, samples: Tensor, train: Tensor, distance: Tensor) -> Markup:
    """Stacks of pictures side by side: the sample on top, its neighbours below."""
    parts = []
    for index in range(min(len(samples), MOST)):
        stack = [grid(part, columns=1, levels=space.levels, ordinal=space.ordinal, side=64) for part in (samples[index : index + 1], train[index])]
        images = Markup("").join(picture(image, "sample" if place == 0 else "nearest training pictures") for place, image in enumerate(stack))
        parts.append(Markup("<div>{}<small>{}</small></div>").format(images, _far(float(distance[index, 0]))))
    return Markup('<div class="neighbours">{}</div>').format(Markup("").join(parts))


def _rows(columns: Sequence[Column], samples: Tensor, train: Tensor, distance: Tensor) -> Markup:
    shown = list(columns)[:MOST_COLUMNS]
    head = Markup("").join(Markup("<th>{}</th>").format(column.name[:24]) for column in shown)
    rest = Markup("<th>… {} more</th>").format(len(columns) - len(shown)) if len(columns) > len(shown) else Markup("")
    lines = []
    for index in range(min(len(samples), ROWS)):
        own = [cell_text(column, float(value)) for column, value in zip(shown, samples[index].tolist(), strict=False)]
        lines.append(_line("sample", own, own, rest))
        for place, row in enumerate(train[index]):
            values = [cell_text(column, float(value)) for column, value in zip(shown, row.tolist(), strict=False)]
            lines.append(_line(_far(float(distance[index, place])), values, own, rest))
    body = Markup("").join(lines)
    return Markup(
        '<div class="scroll"><table class="plain rows"><thead><tr><th>distance</th>{}{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, rest, body)


def _line(label: str, values: Sequence[str], own: Sequence[str], rest: Markup) -> Markup:
    """A row; values that equal the sample's are marked."""
    sample = label == "sample"
    cells = [Markup("<td{}>{}</td>").format(Markup(' class="same"') if not sample and a == b else "", a) for a, b in zip(values, own, strict=True)]
    end = Markup("<td></td>") if rest else Markup("")
    return Markup("<tr{}><th>{}</th>{}{}</tr>").format(Markup(' class="own"') if sample else "", label, Markup("").join(cells), end)


def _texts(space: Space, samples: Tensor, train: Tensor, distance: Tensor) -> Markup:
    assert isinstance(space, Tokens)
    lines = []
    for index in range(min(len(samples), ROWS)):
        lines.append(Markup('<tr class="own"><th>sample</th><td><pre>{}</pre></td></tr>').format(text_of(space, samples[index])))
        for place, row in enumerate(train[index]):
            lines.append(Markup("<tr><th>{}</th><td><pre>{}</pre></td></tr>").format(_far(float(distance[index, place])), text_of(space, row)))
    return Markup('<div class="scroll"><table class="plain rows">{}</table></div>').format(Markup("").join(lines))


def _far(value: float) -> str:
    return "" if value != value else "same" if value == 0 else f"{value:.3g}"
