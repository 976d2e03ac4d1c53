"""The figure of a scan."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ptycho_torch.report.figures.panels import limits_of, new_figure, panel
from ptycho_torch.report.shown import shown_frames
from ptycho_torch.scan import Scan

__all__ = ["scan_figure"]


def scan_figure(scan: Scan) -> Figure:
    """Positions in order, the mean frame on a logarithmic scale, and the first probe mode.

    The mean is over at most 64 frames spread over the scan.
    """
    figure = new_figure(13, 3.9)
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
    panel(
        frame,
        level,
        good,
        extent,
        title=f"Mean of {len(chosen)} frames",
        label="log10 of intensity" + (" (counts)" if scan.counts_known else ""),
        cmap="cividis",
        limits=limits_of(level),
    )
    frame.set_xlabel("detector x from the centre (pixels)")
    frame.set_ylabel("detector y (pixels)")
    if scan.probe is None:
        probe.text(0.5, 0.5, "no probe in this scan", ha="center", va="center", transform=probe.transAxes)
        probe.set_axis_off()
    else:
        size = np.abs(scan.probe[0])
        number = "" if scan.n_modes == 1 else f", mode 1 of {scan.n_modes}"
        panel(
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
