"""Pictures of samples, densities, components and learning curves, for reports and for documentation.

Everything is drawn on a transparent ground in colours that light and dark pages both carry. matplotlib is imported when a picture is drawn.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pictures
from torch import Tensor

from manykin.report.canvas import ACCENTS, DENSITY, MODEL, REAL, new_axes, quiet
from manykin.report.curves import learning_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
MASSES = (0.98, 0.9, 0.75, 0.5, 0.25)
"""Share of the probability inside each contour of a density."""


def grid(images: Tensor, *, columns: int = 8, levels: int | None = 256, ordinal: bool = True, side: int = 640) -> Pictures.Image:
    """A contact sheet, every pixel a crisp square, with transparent gaps.

    Args:
        images: (n, channels, height, width), integer levels or real values.
        columns: pictures a row.
        levels: number of levels; None stretches real values to their own range.
        ordinal: False colours levels as codes without order.
        side: width of the sheet in pixels, roughly.
    """
    pictures = _rgba(images, levels, ordinal)
    n, height, width = pictures.shape[:3]
    columns = min(columns, n)
    zoom = max(1, round(side / (columns * width)))
    gap = max(2, zoom // 2)
    rows = math.ceil(n / columns)
    sheet = np.zeros((rows * (height * zoom + gap) - gap, columns * (width * zoom + gap) - gap, 4), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * (height * zoom + gap), (index % columns) * (width * zoom + gap)
        sheet[top : top + height * zoom, left : left + width * zoom] = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return Pictures.fromarray(sheet, "RGBA")


def samples_sheet(real: Tensor, fake: Tensor, *, columns: int = 8, rows: int = 8, levels: int | None = 256, ordinal: bool = True) -> Pictures.Image:
    """Real pictures (left) beside sampled ones (right), the same number of each."""
    n = min(len(real), len(fake), columns * rows)
    left, right = (grid(part[:n], columns=columns, levels=levels, ordinal=ordinal) for part in (real, fake))
    space = left.width // 12
    sheet = Pictures.new("RGBA", (left.width + right.width + space, max(left.height, right.height)), (0, 0, 0, 0))
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + space, 0))
    return sheet


def density_2d(
    log_prob: Callable[[Tensor], Tensor],
    data: Tensor,
    ax: "Axes | None" = None,
    *,
    resolution: int = 160,
    margin: float = 0.12,
    points: int = 800,
    colour: str = DENSITY,
) -> "Axes":
    """Contours of a density over the plane with the data on top.

    Each contour is a highest-density region that holds 98, 90, 75, 50 or 25 % of the probability inside the frame.

    Args:
        log_prob: (n, 2) float64 to (n,).
        data: (n, 2); the frame covers it.
        ax: where to draw; None makes a figure.
        resolution: grid points along a side.
        margin: frame beyond the data, as a share of its range.
        points: data points drawn.
        colour: of the density.
    """
    axes = new_axes() if ax is None else ax
    low, high = frame(data, margin)
    xs, ys = (torch.linspace(float(low[i]), float(high[i]), resolution, dtype=torch.float64) for i in (0, 1))
    mesh = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).reshape(-1, 2)
    with torch.no_grad():
        values = torch.cat([log_prob(part).double().cpu() for part in torch.split(mesh, 8192)]).numpy()
    density = np.exp(np.nan_to_num(values - np.nanmax(np.where(np.isfinite(values), values, -np.inf), initial=-745.0), nan=-745.0, neginf=-745.0))
    levels = _mass_levels(density)
    field = density.reshape(resolution, resolution)
    if levels:
        _fill(axes, xs.numpy(), ys.numpy(), field, levels, colour)
    scatter(axes, data[:points], REAL)
    axes.set_xlim(float(low[0]), float(high[0]))
    axes.set_ylim(float(low[1]), float(high[1]))
    axes.set_aspect("equal" if math.isclose(float(high[0] - low[0]), float(high[1] - low[1])) else "auto", adjustable="box")
    return axes


def scatter(ax: "Axes", data: Tensor, colour: str = MODEL, *, size: float = 5.0) -> "Axes":
    """Points of the plane, drawn as one picture so that a page stays small."""
    points = data.double().cpu().numpy()
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colour, alpha=0.65, linewidths=0, rasterized=True)
    return ax


def ellipses(
    means: Tensor, covariances: Tensor, ax: "Axes | None" = None, *, weights: Tensor | None = None, columns: tuple[int, int] = (0, 1)
) -> "Axes":  # fmt: skip
    """Gaussian components as ellipses of one and two standard deviations in the plane of two columns.

    Args:
        means: (k, d).
        covariances: full (k, d, d), tied (d, d), diagonal (k, d) or spherical (k,), as in scikit-learn.
        ax: where to draw; None makes a figure.
        weights: (k,) mixing weights; heavier components are drawn stronger.
        columns: which two columns make the plane.
    """
    from matplotlib.patches import Ellipse

    axes = new_axes() if ax is None else ax
    pair = list(columns)
    shapes = full_covariances(means, covariances)[:, pair][:, :, pair]
    centres = means.double()[:, pair]
    share = torch.full((len(means),), 1.0) if weights is None else weights.double() / weights.double().max()
    for index, (centre, shape) in enumerate(zip(centres, shapes, strict=True)):
        values, vectors = torch.linalg.eigh(shape)
        angle = math.degrees(math.atan2(float(vectors[1, 1]), float(vectors[0, 1])))
        colour = ACCENTS[index % len(ACCENTS)]
        for deviations in (1, 2):
            height, width = (2 * deviations * values.clamp(min=0).sqrt()).tolist()
            strength = 0.35 + 0.65 * float(share[index])
            axes.add_patch(
                Ellipse((float(centre[0]), float(centre[1])), width, height, angle=angle, fill=False, color=colour, lw=1.6, alpha=strength)
            )
        axes.plot(*centre.tolist(), marker="+", color=colour, markersize=7, markeredgewidth=1.6)
    axes.autoscale_view()
    return axes


def frame(data: Tensor, margin: float = 0.12) -> tuple[Tensor, Tensor]:
    """Low and high corner around points of the plane (n, 2); a square where both ranges are alike."""
    known = data.double().cpu()
    known = known[torch.isfinite(known).all(dim=1)]
    low, high = known.min(dim=0).values, known.max(dim=0).values
    span = (high - low).clamp(min=1e-9)
    if float(span.max() / span.min()) < 2.5:
        span = span.max().expand(2)
    middle = (low + high) / 2
    return middle - span * (0.5 + margin), middle + span * (0.5 + margin)


def full_covariances(means: Tensor, covariances: Tensor) -> Tensor:
    """Any of scikit-learn's four forms as (k, d, d)."""
    k, d = means.shape
    c = covariances.double()
    if c.dim() == 3:
        return c
    if c.dim() == 2 and c.shape == (d, d) and (k != d or bool((c == c.T).all())):
        return c.expand(k, d, d)
    if c.dim() == 2:
        return torch.diag_embed(c)
    return c.view(-1, 1, 1).expand(k, 1, 1) * torch.eye(d, dtype=torch.float64)


def _rgba(images: Tensor, levels: int | None, ordinal: bool) -> Array:
    """Pictures (n, c, h, w) as uint8 (n, h, w, 4)."""
    values = images.detach().double().cpu().numpy()
    if levels is not None and not ordinal:
        palette = np.array([_hue(code / levels) for code in range(levels)], dtype=np.uint8)
        rgb = palette[values[:, 0].astype(int).clip(0, levels - 1)]
    else:
        low, high = (0.0, levels - 1.0) if levels is not None else (float(np.nanmin(values)), float(np.nanmax(values)))
        shades = np.nan_to_num((values - low) / max(high - low, 1e-12) * 255).clip(0, 255).round().astype(np.uint8)
        rgb = np.moveaxis(shades[:, :3] if shades.shape[1] >= 3 else shades[:, [0, 0, 0]], 1, -1)
    return np.concatenate([rgb, np.full((*rgb.shape[:3], 1), 255, dtype=np.uint8)], axis=-1)


def _hue(turn: float) -> tuple[int, int, int]:
    import colorsys

    red, green, blue = colorsys.hls_to_rgb(turn, 0.55, 0.55)
    return round(255 * red), round(255 * green), round(255 * blue)


def _mass_levels(density: Array) -> list[float]:
    """Thresholds of the highest-density regions that hold each of :data:`MASSES`, rising, distinct; half the height of a flat density."""
    ordered = np.sort(density)[::-1]
    mass = np.cumsum(ordered)
    if not mass[-1] > 0:
        return []
    levels = [float(ordered[min(int(np.searchsorted(mass, share * mass[-1])), len(ordered) - 1)]) for share in MASSES]
    distinct = [level for level, below in zip(sorted(levels), [0.0, *sorted(levels)], strict=False) if level > 1.01 * below]
    return distinct if len(distinct) > 1 else [level / 2 for level in distinct]


def _fill(axes: "Axes", xs: Array, ys: Array, field: Array, levels: list[float], colour: str) -> None:
    from matplotlib.colors import to_rgba

    shades = [to_rgba(colour, 0.10 + 0.55 * (index + 1) / len(levels)) for index in range(len(levels))]
    top = max(float(field.max()), levels[-1]) * 1.01
    axes.contourf(xs, ys, field, levels=[*levels, top], colors=shades, antialiased=True)
    axes.contour(xs, ys, field, levels=levels, colors=[colour], linewidths=0.7, alpha=0.8)


__all__ = ["density_2d", "ellipses", "frame", "full_covariances", "grid", "learning_curves", "quiet", "samples_sheet", "scatter"]
