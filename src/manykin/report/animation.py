"""Samples over training: the same noise through the model after each checkpoint, as an animation and as a strip."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont
from torch import Tensor

from manykin.errors import ManykinError
from manykin.report.canvas import INK, MODEL, REAL
from manykin.report.pictures import frame, grid
from manykin.report.reading import Run
from manykin.spaces import Image, Record, Space, Value, columns_of

GIF, STRIP = "samples.gif", "strip.png"
MOST_BYTES = 1_500_000
"""Size of an animation; larger ones are drawn smaller, then with fewer frames."""
SHOWN, ACROSS, IN_STRIP = 64, 8, 8
SIDES = (384, 256, 160)
GROUND, LABEL = (16, 20, 27), (200, 205, 214)
STEP_MS, LAST_MS = 450, 2000
POINTS = 256


@dataclass(frozen=True)
class Moment:
    """What a model drew after so many steps: (n, *shape) with bad rows blanked, and how many those were."""

    step: int
    values: Tensor
    bad: int

    @property
    def label(self) -> str:
        """``step 1,200``, and how many samples were not finite."""
        return f"step {self.step:,}" + (f" · {self.bad} of {len(self.values)} not finite" if self.bad else "")


def write_animation(run: Run, folder: Path) -> tuple[Path | None, Path | None]:
    """Write ``samples.gif`` and ``strip.png`` into a run folder; None for what cannot be drawn (tables, texts, fewer than two moments).

    Raises:
        ManykinError: where the folder cannot be written to.
    """
    written: list[Path | None] = []
    for name, draw in ((GIF, animation), (STRIP, strip)):
        content = draw(run)
        path = folder / name
        try:
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        except OSError as error:
            raise ManykinError(f"{str(path)!r} cannot be written: {error.strerror}; free some space or change the folder's permissions.") from error
        written.append(None if content is None else path)
    return written[0], written[1]


def animation(run: Run) -> bytes | None:
    """The samples over training as a looping GIF of at most MOST_BYTES; None where they are no pictures and no points of the plane."""
    found = moments(run)
    if len(found) < 2:
        return None
    content = b""
    for thin in (1, 2, 4):
        chosen = found[::-1][::thin][::-1]
        for side in SIDES:
            draw = _drawer(run, found, side, SHOWN, ACROSS)
            if draw is None:
                return None
            content = _gif([_labelled(draw(moment.values), moment.label, GROUND, LABEL) for moment in chosen])
            if len(content) <= MOST_BYTES:
                return content
    return content if len(content) <= 2 * MOST_BYTES else None


def strip(run: Run) -> bytes | None:
    """The samples over training as one row of up to eight pictures on a transparent ground, PNG."""
    found = moments(run)
    if len(found) < 2:
        return None
    last = len(found) - 1
    chosen = found if len(found) <= IN_STRIP else [found[round(i * last / (IN_STRIP - 1))] for i in range(IN_STRIP)]
    draw = _drawer(run, found, 150, 16, 4)
    if draw is None:
        return None
    ink = _colour(INK)
    cells = [_labelled(draw(moment.values), moment.label.split(" · ")[0] + ("*" if moment.bad else ""), None, ink) for moment in chosen]
    gap = 14
    sheet = Pictures.new("RGBA", (sum(cell.width + gap for cell in cells) - gap, max(cell.height for cell in cells)), (0, 0, 0, 0))
    left = 0
    for cell in cells:
        sheet.paste(cell, (left, 0))
        left += cell.width + gap
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def moments(run: Run) -> list[Moment]:
    """The snapshots of a run that can be drawn: pictures, or points of the plane; rows that are not finite become blank."""
    found = []
    for step, value in run.snapshots:
        seen = _seen(run.space, value)
        if seen is None:
            return []
        finite = torch.isfinite(seen[1].double().flatten(1)).all(dim=1)
        blank = torch.where(finite.view(-1, *[1] * (seen[1].dim() - 1)), seen[1], torch.zeros_like(seen[1])) if not bool(finite.all()) else seen[1]
        found.append(Moment(step, blank if isinstance(seen[0], Image) else seen[1][finite], int((~finite).sum())))
    return found


def _seen(space: Space | None, value: Value) -> tuple[Space, Tensor] | None:
    """The part of the data that an animation can show, and its space; of a record the first such field."""
    if isinstance(space, Record) and not isinstance(value, Tensor):
        return next((seen for name, part in space.fields if name in value and (seen := _seen(part, value[name])) is not None), None)
    if space is None or not isinstance(value, Tensor) or value.dim() != len(space.shape) + 1 or len(value) == 0:
        return None
    if isinstance(space, Image):
        return space, value
    plane = tuple(space.shape) == (2,) and getattr(space, "columns", None) is not None
    return (space, value) if plane and all(column.kind != "categorical" for column in columns_of(space)) else None


def _drawer(run: Run, found: Sequence[Moment], side: int, most: int, across: int) -> Callable[[Tensor], Pictures.Image] | None:
    """The function from samples of one moment to a picture of about ``side`` pixels; all moments share one scale."""
    seen = _seen(run.space, run.snapshots[-1][1])
    if seen is None:
        return None
    space = seen[0]
    if isinstance(space, Image):
        columns = max(1, min(across, 512 // space.size[2]))
        rows = most // across
        low, high = (0.0, 1.0) if space.levels is not None else _range(found[-1].values)

        def sheet(values: Tensor) -> Pictures.Image:
            shown = values[: columns * rows]
            if space.levels is not None:
                return grid(shown, columns=columns, levels=space.levels, ordinal=space.ordinal, side=side)
            scaled = ((shown.double() - low) / (high - low) * 255).clamp(0, 255).round()
            return grid(scaled, columns=columns, levels=256, side=side)

        return sheet
    real = None if run.real is None else _seen(run.space, run.real)
    known = found[-1].values.double() if real is None else real[1].double()
    known = known[torch.isfinite(known).all(dim=1)]
    if len(known) == 0:
        return None
    corners = frame(known)
    return lambda values: _plane(None if real is None else known[:POINTS], values[:POINTS].double(), corners, side)


def _plane(real: Tensor | None, fake: Tensor, corners: tuple[Tensor, Tensor], side: int) -> Pictures.Image:
    """Points of the plane, drawn thrice as large and reduced, so that their edges are smooth."""
    scale, radius = 3, max(side / 110, 1.6) * 3
    size = side * scale
    picture = Pictures.new("RGBA", (size, size), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    low, high = corners
    for points, colour, alpha in ((real, REAL, 160), (fake, MODEL, 230)):
        if points is None:
            continue
        places = (points - low) / (high - low)
        for x, y in places.tolist():
            if -0.05 < x < 1.05 and -0.05 < y < 1.05:
                at = (x * size, (1 - y) * size)
                pen.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=(*_colour(colour), alpha))
    pen.rectangle((0, 0, size - 1, size - 1), outline=(*_colour(INK), 160), width=scale)
    return picture.resize((side, side), Pictures.Resampling.LANCZOS)


def _labelled(picture: Pictures.Image, text: str, ground: tuple[int, int, int] | None, ink: tuple[int, int, int]) -> Pictures.Image:
    """A picture with its label below, on a ground or on nothing."""
    font = ImageFont.load_default(size=13 if ground is not None else 16)
    pad = 0 if ground is None else 8
    length = int(ImageDraw.Draw(picture).textlength(text, font=font))
    width = max(picture.width, length) + 2 * pad
    whole = Pictures.new("RGBA", (width, picture.height + 22 + 2 * pad), (0, 0, 0, 0) if ground is None else (*ground, 255))
    whole.paste(picture, (pad, pad), picture)
    ImageDraw.Draw(whole).text((pad, pad + picture.height + 4), text, fill=(*ink, 255), font=font)
    return whole


def _gif(frames: Sequence[Pictures.Image]) -> bytes:
    """A looping GIF whose frames share one palette; the last one stays longer."""
    width, height = max(frame.width for frame in frames), max(frame.height for frame in frames)
    plain = []
    for each in frames:
        whole = Pictures.new("RGB", (width, height), GROUND)
        whole.paste(each.convert("RGB"), (0, 0))
        plain.append(whole)
    probe = Pictures.new("RGB", (width, height * min(len(plain), 4)), GROUND)
    for place, index in enumerate(range(0, len(plain), -(-len(plain) // 4))):
        probe.paste(plain[-1 - index], (0, place * height))
    for place, colour in enumerate((LABEL, _colour(MODEL), _colour(REAL))):
        probe.paste(colour, (0, place * (height // 20), width, (place + 1) * (height // 20)))
    palette = probe.quantize(colors=96)
    small = [each.quantize(palette=palette, dither=Pictures.Dither.NONE) for each in plain]
    buffer = io.BytesIO()
    times = [STEP_MS] * (len(small) - 1) + [LAST_MS]
    small[0].save(buffer, format="GIF", save_all=True, append_images=small[1:], duration=times, loop=0, optimize=False)
    return buffer.getvalue()


def _range(values: Tensor) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1.0


def _colour(code: str) -> tuple[int, int, int]:
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
