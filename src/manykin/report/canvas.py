"""Figures that are legible on light and on dark pages: matplotlib without global state, as inline SVG or as PNG."""

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REAL = "#3b82f6"
"""Real data."""
MODEL = "#f97316"
"""Samples of a model."""
DENSITY = "#f59e0b"
"""A model's density."""
ACCENTS = ("#f97316", "#8b5cf6", "#14b8a6", "#ec4899", "#eab308", "#3b82f6", "#22c55e", "#ef4444")
INK = "#7b8494"
"""Text and axes of pictures that are not part of a page: a grey that white and black both carry."""
_INK_MARK, _LINE_MARK = "#010203", "#010204"
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9.5, "axes.titlesize": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.8, "xtick.major.size": 3, "ytick.major.size": 3, "legend.frameon": False,
    "axes.unicode_minus": False, "figure.dpi": 100, "savefig.dpi": 160,
}  # fmt: skip


@contextmanager
def style(page: bool = True) -> Iterator[None]:
    """Drawing settings for a block: ``page`` for SVG that takes its text colour from the page, otherwise a grey that any page carries."""
    import matplotlib

    ink, line = (_INK_MARK, _LINE_MARK) if page else (INK, INK)
    colours = {"text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": line, "xtick.color": line, "ytick.color": line,
               "xtick.labelcolor": ink, "ytick.labelcolor": ink, "axes.titlecolor": ink, "axes.facecolor": "none",
               "figure.facecolor": "none", "savefig.facecolor": "none", "legend.labelcolor": ink}  # fmt: skip
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    settings: Any = {**_SETTINGS, **colours}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure in inches that belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_axes(size: float = 4.0) -> "Axes":
    """The axes of a fresh square figure."""
    return new_figure(size, size).add_subplot()


def svg(figure: "Figure", label: str) -> Markup:
    """A figure as inline SVG for a page: text stays text in the page's own font and colour, and nothing refers outside the page.

    ``label`` is what a screen reader says; it also keeps the ids of two figures apart.
    """
    import hashlib

    import matplotlib

    buffer = io.StringIO()
    salt = hashlib.blake2b(label.encode(), digest_size=6).hexdigest()
    settings: Any = {**_SETTINGS, "svg.hashsalt": salt}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(
        r"\bid=\"(figure|axes|patch|line2d|text|xtick|ytick|matplotlib\.axis|legend|PathCollection|QuadContourSet|LineCollection)_?\d*\"", "", text
    )
    text = re.sub(r"font: (?:(?:normal|italic|oblique) )?(?:(bold|\d{3}) )?([\d.]+px) [^;\"]*", _font, text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = text.replace(_INK_MARK, "currentColor").replace(_LINE_MARK, "var(--line)")
    head = re.match(r"<svg[^>]*>", text)
    assert head is not None
    box = re.search(r'viewBox="([^"]*)"', head[0])
    assert box is not None
    width = float(box[1].split()[2]) * 96 / 72
    opening = Markup('<svg class="figure" role="img" aria-label="{}" viewBox="{}" style="max-width: {:.0f}px">').format(label, box[1], width)
    return opening + Markup(text[head.end() :].strip())


def png(figure: "Figure", path: Any = None) -> bytes:
    """A figure as PNG with a transparent background; also written to ``path`` where one is given."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    if path is not None:
        with open(path, "wb") as file:
            file.write(buffer.getvalue())
    return buffer.getvalue()


def quiet(axes: "Axes") -> None:
    """Leave the data alone on the page: no frame, no ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"
