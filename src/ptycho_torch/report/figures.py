"""Figures, through matplotlib's objects alone: no pyplot, no global state, no display.

Amplitudes are gray; phases ``twilight``, which is cyclic, when they go round the circle, else ``cividis``
like other maps; differences ``PuOr``. All are safe for colour-blind readers. Axes are scan coordinates in
pixels, y downwards as in the arrays.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ptycho_torch.errors import one_line, printable
from ptycho_torch.evaluation.alignment import Aligned, align
from ptycho_torch.evaluation.reference import Reference, as_reference
from ptycho_torch.files import write_bytes_atomic
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan

__all__ = [
    "aligned_figure",
    "beside_figure",
    "comparison_figure",
    "drawable",
    "figure_png",
    "pretraining_figure",
    "reconstruction_figure",
    "save_figure",
    "scan_figure",
    "training_figure",
    "uncertainty_figure",
]

_MASKED = "#d9dfe8"
_LINES = ("#0072b2", "#d55e00", "#000000", "#009e73")  # Okabe and Ito's, told apart by lightness, too
_STYLES = ("-", "--", ":", "-.")
_FRAMES = 64

Extent = tuple[float, float, float, float]


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


def _new(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    """Colour limits without the outermost half per cent at each end."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high - low > 1e-6 * max(abs(high), 1e-30) else (low - 0.5, low + 0.5)


def _panel(
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


def _scale_bar(axes: Axes, extent: Extent) -> None:
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


def _trim(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _extent(origin: tuple[float, float], part: tuple[slice, slice]) -> Extent:
    rows, columns = part
    x, y = origin
    return x + columns.start - 0.5, x + columns.stop - 0.5, y + rows.stop - 0.5, y + rows.start - 0.5


def _phase_limits(phase: NDArray[Any]) -> tuple[float, float]:
    """The whole circle for phases that use it; else symmetric about 0, so that weak phases show."""
    reach = float(np.percentile(np.abs(phase), 99.5)) if phase.size else np.pi
    return (-np.pi, np.pi) if reach > np.pi / 2 else (-max(reach, 0.05), max(reach, 0.05))


def _centred(values: NDArray[np.complexfloating], mask: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Phase about the mean phase inside the mask."""
    mean = np.sum(values[mask])
    return np.angle(values * np.conj(mean)) if mean != 0 else np.angle(values)


def _phase_map(limits: tuple[float, float]) -> str:
    """A cyclic map only for phases that go round the circle; else one that orders light and dark."""
    return "twilight" if limits[1] >= np.pi else "cividis"


def reconstruction_figure(rec: Reconstruction, title: str | None = None) -> Figure:
    """Amplitude and phase of a reconstruction, masked where its weight is under 2 % of the maximum.

    The phase is about its mean, which is free.
    """
    mask = rec.measured()
    part = _trim(mask)
    shown, inside = rec.object[part], mask[part]
    origin = (float(rec.origin_xy[0]), float(rec.origin_xy[1]))
    extent = _extent(origin, part)
    tall = np.clip(shown.shape[0] / max(shown.shape[1], 1), 0.4, 1.6)
    figure = _new(10.5, 1.1 + 3.7 * float(tall))
    left, right = figure.subplots(1, 2)
    amplitude, phase = np.abs(shown), _centred(shown, inside)
    _panel(
        left,
        amplitude,
        inside,
        extent,
        title="Amplitude",
        label="amplitude (relative to the probe)",
        cmap="gray",
        limits=_limits(amplitude[inside]),
    )
    limits = _phase_limits(phase[inside])
    _panel(
        right,
        phase,
        inside,
        extent,
        title="Phase",
        label="phase (rad)",
        cmap=_phase_map(limits),
        limits=limits,
    )
    for axes in (left, right):
        _scale_bar(axes, extent)
    figure.suptitle(drawable(title or f"{len(rec.positions)} frames"), fontsize=11, parse_math=False)
    return figure


def uncertainty_figure(rec: Reconstruction) -> Figure:
    """Sigma of amplitude and phase of each pixel, one colour bar a panel, masked where nothing was measured.

    ``rec`` must have both.
    """
    assert rec.sigma_amplitude is not None
    assert rec.sigma_phase is not None
    part = _trim(rec.measured())
    extent = _extent((float(rec.origin_xy[0]), float(rec.origin_xy[1])), part)
    amplitude, phase = rec.sigma_amplitude[part], rec.sigma_phase[part]
    tall = np.clip(amplitude.shape[0] / max(amplitude.shape[1], 1), 0.4, 1.6)
    figure = _new(10.5, 1.1 + 3.7 * float(tall))
    for axes, values, title, label in zip(
        figure.subplots(1, 2),
        (amplitude, phase),
        ("Amplitude: nine of ten errors within 1.645 sigma", "Phase: nine of ten errors within 1.645 sigma"),
        ("sigma of amplitude", "sigma of phase (rad)"),
        strict=True,
    ):
        known = np.isfinite(values)
        top = _limits(values[known])[1]
        _panel(
            axes,
            values,
            known,
            extent,
            title=title,
            label=label,
            cmap="cividis",
            limits=(0.0, max(top, 1e-12)),
        )
        _scale_bar(axes, extent)
    return figure


def pretraining_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Errors on validation regions, one line a kind, against steps; rows as ``pretrain.jsonl`` has them."""
    figure = _new(7, 4)
    axes = figure.subplots()
    kinds = sorted({key for row in history for key in row} - {"step", "seconds", "rate", "loss"})
    for number, kind in enumerate(kinds):
        rows = [row for row in history if kind in row]
        axes.plot(
            [row["step"] for row in rows],
            [row[kind] for row in rows],
            color=_LINES[number % 4],
            linestyle=_STYLES[number // 4 % 4],
            label=kind.replace("_", ", "),
        )
    axes.set_xlabel("steps")
    axes.set_ylabel("error relative to the object")
    axes.grid(alpha=0.3)
    if kinds:
        axes.set_yscale("log")
        axes.legend()
    return figure


def training_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss against epoch and against time.

    Rows have ``epoch``, ``seconds`` and one or more losses (``loss``, ``val_loss``, or any key that ends
    in ``loss``). Without rows the figure says so. The axis is logarithmic when all losses are positive.
    """
    figure = _new(10, 3.8)
    names = list(dict.fromkeys(key for row in history for key in row if key.endswith("loss")))
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"loss": "training", "val_loss": "validation"}
    losses = [float(row[name]) for row in history for name in names if row.get(name) is not None]
    for axes, key, label in zip(panels, ("epoch", "seconds"), ("epoch", "time (s)"), strict=True):
        for number, name in enumerate(names):
            rows = [row for row in history if row.get(name) is not None and key in row]
            axes.plot(
                [row[key] for row in rows],
                [row[name] for row in rows],
                color=_LINES[number % 4],
                linestyle=_STYLES[number % 4],
                marker="o" if len(rows) < 12 else "",
                markersize=3,
                label=titles.get(name, name),
            )
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        if not losses:
            axes.text(0.5, 0.5, "no epoch finished", ha="center", va="center", transform=axes.transAxes)
    finite = [value for value in losses if np.isfinite(value)]
    # Over less than a factor of two a logarithmic axis has no round numbers to put on it.
    if finite and min(finite) > 0 and max(finite) > 2 * min(finite):
        panels[0].set_yscale("log")
        if max(finite) < 30 * min(finite):  # else the powers of ten alone are marked
            panels[0].yaxis.set_minor_formatter("{x:g}")
        panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("loss")
    if names:
        panels[1].legend(frameon=False)
    return figure


def shown_frames(count: int) -> NDArray[np.int64]:
    """Return which of ``count`` frames go into the mean that :func:`scan_figure` shows."""
    return np.unique(np.linspace(0, count - 1, min(_FRAMES, count)).astype(np.int64))


def scan_figure(scan: Scan) -> Figure:
    """Positions in order, the mean frame on a logarithmic scale, and the first probe mode.

    The mean is over at most 64 frames spread over the scan.
    """
    figure = _new(13, 3.9)
    where, frame, probe = figure.subplots(1, 3)
    points = where.scatter(*scan.positions.T, c=np.arange(scan.n_frames), s=6, cmap="cividis", linewidths=0)
    where.set_aspect("equal")
    where.invert_yaxis()
    where.set_title(f"{scan.n_frames} positions", fontsize=10)
    where.set_xlabel("x (pixels)")
    where.set_ylabel("y (pixels)")
    figure.colorbar(points, ax=where, label="frame number", fraction=0.046, pad=0.03)
    chosen = shown_frames(scan.n_frames)
    mean = np.mean(np.square(np.asarray(scan.frames[chosen], np.float64)), axis=0)
    positive = mean[mean > 0]
    floor = float(positive.min()) if positive.size else 1.0
    level = np.log10(np.maximum(mean, floor))
    half = scan.N // 2
    extent = (-half - 0.5, scan.N - half - 0.5, scan.N - half - 0.5, -half - 0.5)
    good = None if scan.good_pixels is None else scan.good_pixels
    _panel(
        frame,
        level,
        good,
        extent,
        title=f"Mean of {len(chosen)} frames",
        label="log10 of intensity" + (" (counts)" if scan.counts_known else ""),
        cmap="cividis",
        limits=_limits(level),
    )
    frame.set_xlabel("detector x from the centre (pixels)")
    frame.set_ylabel("detector y (pixels)")
    if scan.probe is None:
        probe.text(0.5, 0.5, "no probe in this scan", ha="center", va="center", transform=probe.transAxes)
        probe.set_axis_off()
    else:
        size = np.abs(scan.probe[0])
        number = "" if scan.n_modes == 1 else f", mode 1 of {scan.n_modes}"
        _panel(
            probe,
            size,
            None,
            extent,
            title=f"Probe amplitude{number}",
            label="amplitude",
            cmap="gray",
            limits=(0.0, float(size.max()) or 1.0),
        )
        probe.set_xlabel("x from the position (pixels)")
        probe.set_ylabel("y (pixels)")
    return figure


def comparison_figure(
    rec: Reconstruction,
    truth: Reference | Reconstruction | NDArray[Any],
    *,
    keep: Collection[str] = (),
) -> Figure:
    """Reconstruction, reference and their difference, aligned, for amplitude and phase.

    An array as truth lies at (0, 0), as a scan's object does; ``keep`` as in :func:`~ptycho_torch.evaluation.align`.
    Pixels that are not known in both are masked.
    """
    return aligned_figure(align(as_reference(rec), as_reference(truth), keep=keep))


def beside_figure(
    images: Mapping[str, Reconstruction | Reference], reference: Reference, title: str, name: str = "truth"
) -> Figure:
    """Several images of one object beside it, amplitude above phase, all on one scale.

    Parameters
    ----------
    images : mapping of str to Reconstruction or Reference
        By what stands above them.
    reference : Reference
        What each is aligned with; it comes first.
    title : str
    name : str
        What stands above the reference.
    """
    pairs = {label: align(as_reference(rec), reference) for label, rec in images.items()}
    first = next(iter(pairs.values()))
    shown = [(name, first.reference, first), *((label, both.image, both) for label, both in pairs.items())]
    part = _trim(first.region)
    known = first.reference[first.region]
    low, high = _limits(np.abs(known))
    spread, centre = (low - 0.1 * (high - low), high + 0.1 * (high - low)), np.sum(known)
    round_ = _phase_limits(np.angle(known * np.conj(centre)))
    tall = float(np.clip((part[0].stop - part[0].start) / (part[1].stop - part[1].start), 0.4, 1.6))
    figure = _new(3.6 * len(shown), 1.0 + 5.2 * tall)
    figure.suptitle(drawable(title), fontsize=11, parse_math=False)
    for column, (label, values, both) in zip(figure.subplots(2, len(shown)).T, shown, strict=True):
        part = _trim(both.region)
        extent, mask, cut = _extent(both.origin_xy, part), both.region[part], values[part]
        phase = np.angle(cut * np.conj(centre))
        for axes, image, limits, unit, cmap in (
            (column[0], np.abs(cut), spread, "amplitude", "gray"),
            (column[1], phase, round_, "phase (rad)", _phase_map(round_)),
        ):
            above = label if unit == "amplitude" else ""
            _panel(axes, image, mask, extent, title=above, label=unit, cmap=cmap, limits=limits)
            _scale_bar(axes, extent)
    return figure


def aligned_figure(both: Aligned) -> Figure:
    """As :func:`comparison_figure`, of a pair that is aligned already."""
    part = _trim(both.region)
    image, reference, mask = both.image[part], both.reference[part], both.region[part]
    extent = _extent(both.origin_xy, part)
    tall = float(np.clip(image.shape[0] / max(image.shape[1], 1), 0.4, 1.4))
    figure = _new(13, 1.5 + 6.0 * tall)
    rows = figure.subplots(2, 3)
    amplitude = [np.abs(image), np.abs(reference)]
    centre = np.sum(reference[mask])
    phase = [np.angle(v * np.conj(centre)) for v in (image, reference)]
    spread = _limits(amplitude[1][mask])
    round_ = _phase_limits(phase[1][mask])
    differences = (amplitude[0] - amplitude[1], np.angle(image * reference.conj()))
    for row, pair, limits, cmap, label, difference in (
        (rows[0], amplitude, spread, "gray", "amplitude", differences[0]),
        (rows[1], phase, round_, _phase_map(round_), "phase (rad)", differences[1]),
    ):
        name = label.split(" ")[0]
        for axes, values, title in zip(row[:2], pair, ("Reconstruction", "Reference"), strict=True):
            _panel(
                axes, values, mask, extent, title=f"{title}, {name}", label=label, cmap=cmap, limits=limits
            )
            _scale_bar(axes, extent)
        reach = max(float(np.percentile(np.abs(difference[mask]), 99.5)), 1e-6)
        _panel(
            row[2],
            difference,
            mask,
            extent,
            title=f"Difference, {name}",
            label=label,
            cmap="PuOr",
            limits=(-reach, reach),
        )
    return figure
