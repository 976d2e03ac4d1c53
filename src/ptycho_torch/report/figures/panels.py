"""One image and what surrounds it: colour bar, scale bar, limits; and figures as PNG files."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

from ptycho_torch.errors import one_line, printable
from ptycho_torch.files import write_bytes_atomic

__all__ = [
    "Extent",
    "centred",
    "drawable",
    "extent_of",
    "figure_png",
    "limits_of",
    "new_figure",
    "panel",
    "phase_limits",
    "phase_map",
    "save_figure",
    "scale_bar",
    "trim",
]

_MASKED = "#d9dfe8"

Extent = tuple[float, float, float, float]
"""Left, right, bottom, top, in scan coordinates."""


def figure_png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as PNG bytes; the same figure gives the same bytes."""
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


@functools.cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def drawable(text: str) -> str:
    """Make text from outside, such as a file name, one that the font has: other letters are escaped."""
    letters = _letters()
    return "".join(ch if ord(ch) in letters else printable(ch) for ch in one_line(text, 200))


def save_figure(figure: Figure, path: str | Path, dpi: int = 120) -> None:
    """Writes the figure as PNG, whole or not at all. Raises :class:`~ptycho_torch.errors.OutputError`."""
    write_bytes_atomic(path, figure_png(figure, dpi))


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def limits_of(values: NDArray[Any]) -> tuple[float, float]:
    """Colour limits without the outermost half per cent at each end."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high - low > 1e-6 * max(abs(high), 1e-30) else (low - 0.5, low + 0.5)


def panel(
    axes: Axes,
    image: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    extent: Extent | None,
    *,
    title: str,
    label: str,
    cmap: str,
    limits: tuple[float, float],
) -> None:
    """One image with its colour bar; pixels outside the mask in a pale blue that no map here has."""
    colours = colormaps[cmap].with_extremes(bad=_MASKED)
    shown = image if mask is None else np.ma.masked_array(image, ~mask)
    drawn = axes.imshow(
        shown,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        extent=extent,
        interpolation="nearest",
        origin="upper",
    )
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xlabel("x (pixels)")
    axes.set_ylabel("y (pixels)")
    if axes.figure is not None:
        axes.figure.colorbar(drawn, ax=axes, label=label, fraction=0.046, pad=0.03)


def scale_bar(axes: Axes, extent: Extent) -> None:
    """A bar of a round number of pixels in the lower left corner."""
    left, right, bottom, top = extent
    width = right - left
    wish = width / 5
    power = 10.0 ** np.floor(np.log10(wish))
    length = max(step * power for step in (1, 2, 5) if step * power <= wish)
    x, y = left + 0.05 * width, bottom - 0.06 * (bottom - top)
    for colour, thickness in (("black", 5.0), ("white", 2.5)):
        axes.plot([x, x + length], [y, y], color=colour, linewidth=thickness, solid_capstyle="butt")
    axes.text(
        x + length / 2,
        y - 0.02 * (bottom - top),
        f"{length:g} px",
        ha="center",
        va="bottom",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
    )
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def trim(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def extent_of(origin: tuple[float, float], part: tuple[slice, slice]) -> Extent:
    rows, columns = part
    x, y = origin
    return x + columns.start - 0.5, x + columns.stop - 0.5, y + rows.stop - 0.5, y + rows.start - 0.5


def phase_limits(phase: NDArray[Any]) -> tuple[float, float]:
    """The whole circle for phases that use it; else symmetric about 0, so that weak phases show."""
    reach = float(np.percentile(np.abs(phase), 99.5)) if phase.size else np.pi
    return (-np.pi, np.pi) if reach > np.pi / 2 else (-max(reach, 0.05), max(reach, 0.05))


def centred(values: NDArray[np.complexfloating], mask: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Phase about the mean phase inside the mask."""
    mean = np.sum(values[mask])
    return np.angle(values * np.conj(mean)) if mean != 0 else np.angle(values)


def phase_map(limits: tuple[float, float]) -> str:
    """A cyclic map only for phases that go round the circle; else one that orders light and dark."""
    return "twilight" if limits[1] >= np.pi else "cividis"
