"""Figures of a reconstruction beside a reference or others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ptycho_torch.evaluation.alignment import Aligned, align
from ptycho_torch.evaluation.reference import Reference, as_reference
from ptycho_torch.report.figures.panels import (
    drawable,
    extent_of,
    limits_of,
    new_figure,
    panel,
    phase_limits,
    phase_map,
    scale_bar,
    trim,
)
from ptycho_torch.result import Reconstruction

__all__ = ["aligned_figure", "beside_figure", "comparison_figure"]


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
    part = trim(first.region)
    known = first.reference[first.region]
    low, high = limits_of(np.abs(known))
    spread, centre = (low - 0.1 * (high - low), high + 0.1 * (high - low)), np.sum(known)
    round_ = phase_limits(np.angle(known * np.conj(centre)))
    tall = float(np.clip((part[0].stop - part[0].start) / (part[1].stop - part[1].start), 0.4, 1.6))
    figure = new_figure(3.6 * len(shown), 1.0 + 5.2 * tall)
    figure.suptitle(drawable(title), fontsize=11, parse_math=False)
    for column, (label, values, both) in zip(figure.subplots(2, len(shown)).T, shown, strict=True):
        part = trim(both.region)
        extent, mask, cut = extent_of(both.origin_xy, part), both.region[part], values[part]
        phase = np.angle(cut * np.conj(centre))
        for axes, image, limits, unit, cmap in (
            (column[0], np.abs(cut), spread, "amplitude", "gray"),
            (column[1], phase, round_, "phase (rad)", phase_map(round_)),
        ):
            above = label if unit == "amplitude" else ""
            panel(axes, image, mask, extent, title=above, label=unit, cmap=cmap, limits=limits)
            scale_bar(axes, extent)
    return figure


def aligned_figure(both: Aligned) -> Figure:
    """As :func:`comparison_figure`, of a pair that is aligned already."""
    part = trim(both.region)
    image, reference, mask = both.image[part], both.reference[part], both.region[part]
    extent = extent_of(both.origin_xy, part)
    tall = float(np.clip(image.shape[0] / max(image.shape[1], 1), 0.4, 1.4))
    figure = new_figure(13, 1.5 + 6.0 * tall)
    rows = figure.subplots(2, 3)
    amplitude = [np.abs(image), np.abs(reference)]
    centre = np.sum(reference[mask])
    phase = [np.angle(v * np.conj(centre)) for v in (image, reference)]
    spread = limits_of(amplitude[1][mask])
    round_ = phase_limits(phase[1][mask])
    differences = (amplitude[0] - amplitude[1], np.angle(image * reference.conj()))
    for row, pair, limits, cmap, label, difference in (
        (rows[0], amplitude, spread, "gray", "amplitude", differences[0]),
        (rows[1], phase, round_, phase_map(round_), "phase (rad)", differences[1]),
    ):
        name = label.split(" ")[0]
        for axes, values, title in zip(row[:2], pair, ("Reconstruction", "Reference"), strict=True):
            panel(axes, values, mask, extent, title=f"{title}, {name}", label=label, cmap=cmap, limits=limits)
            scale_bar(axes, extent)
        reach = max(float(np.percentile(np.abs(difference[mask]), 99.5)), 1e-6)
        panel(
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
