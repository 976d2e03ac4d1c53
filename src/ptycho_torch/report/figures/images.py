"""Figures of one reconstruction: its image, and how far to trust it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ptycho_torch.report.figures.panels import (
    centred,
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

__all__ = ["reconstruction_figure", "uncertainty_figure"]


def reconstruction_figure(rec: Reconstruction, title: str | None = None) -> Figure:
    """Amplitude and phase of a reconstruction, masked where its weight is under 2 % of the maximum.

    The phase is about its mean, which is free.
    """
    mask = rec.measured()
    part = trim(mask)
    shown, inside = rec.object[part], mask[part]
    origin = (float(rec.origin_xy[0]), float(rec.origin_xy[1]))
    extent = extent_of(origin, part)
    tall = np.clip(shown.shape[0] / max(shown.shape[1], 1), 0.4, 1.6)
    figure = new_figure(10.5, 1.1 + 3.7 * float(tall))
    left, right = figure.subplots(1, 2)
    amplitude, phase = np.abs(shown), centred(shown, inside)
    panel(
        left,
        amplitude,
        inside,
        extent,
        title="Amplitude",
        label="amplitude (relative to the probe)",
        cmap="gray",
        limits=limits_of(amplitude[inside]),
    )
    limits = phase_limits(phase[inside])
    panel(
        right,
        phase,
        inside,
        extent,
        title="Phase",
        label="phase (rad)",
        cmap=phase_map(limits),
        limits=limits,
    )
    for axes in (left, right):
        scale_bar(axes, extent)
    figure.suptitle(drawable(title or f"{len(rec.positions)} frames"), fontsize=11, parse_math=False)
    return figure


def uncertainty_figure(rec: Reconstruction) -> Figure:
    """Sigma of amplitude and phase of each pixel, one colour bar a panel, masked where nothing was measured.

    ``rec`` must have both.
    """
    assert rec.sigma_amplitude is not None
    assert rec.sigma_phase is not None
    part = trim(rec.measured())
    extent = extent_of((float(rec.origin_xy[0]), float(rec.origin_xy[1])), part)
    amplitude, phase = rec.sigma_amplitude[part], rec.sigma_phase[part]
    tall = np.clip(amplitude.shape[0] / max(amplitude.shape[1], 1), 0.4, 1.6)
    figure = new_figure(10.5, 1.1 + 3.7 * float(tall))
    for axes, values, title, label in zip(
        figure.subplots(1, 2),
        (amplitude, phase),
        ("Amplitude: nine of ten errors within 1.645 sigma", "Phase: nine of ten errors within 1.645 sigma"),
        ("sigma of amplitude", "sigma of phase (rad)"),
        strict=True,
    ):
        known = np.isfinite(values)
        top = limits_of(values[known])[1]
        panel(
            axes,
            values,
            known,
            extent,
            title=title,
            label=label,
            cmap="cividis",
            limits=(0.0, max(top, 1e-12)),
        )
        scale_bar(axes, extent)
    return figure
