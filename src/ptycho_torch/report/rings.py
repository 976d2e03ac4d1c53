"""The Fourier ring correlation as a figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ptycho_torch.evaluation.frc import FrcCurve, crossing

__all__ = ["frc_figure"]

_CURVE, _SMOOTHED = "#7fb8d8", "#0072b2"
_THRESHOLDS = (("half bit", "#d55e00", "--"), ("1/7", "#000000", ":"))


def frc_figure(curves: Mapping[str, FrcCurve]) -> Figure:
    """Return one panel for each curve: by ring, smoothed, with thresholds and where they are crossed.

    Parameters
    ----------
    curves : mapping of str to FrcCurve
        As :func:`~ptycho_torch.evaluation.ring_correlations` gives them. Without any the figure says so.

    Notes
    -----
    The pale band is one standard deviation of what chance does to a ring, ``(1 - FRC^2) / sqrt(n)``.
    """
    figure = Figure(figsize=(4.3 * max(len(curves), 1) + 0.4, 3.9), layout="constrained")
    panels = figure.subplots(1, max(len(curves), 1), sharey=True, squeeze=False)[0]
    if not curves:
        panels[0].text(0.5, 0.5, "nothing to correlate", ha="center", va="center")
        panels[0].set_axis_off()
        return figure
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        _panel(axes, name, curve)
    panels[0].set_ylabel("Fourier ring correlation")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside upper center", ncols=4)
    taper = next(iter(curves.values())).taper
    figure.supxlabel(
        f"Tukey window, cosine over {taper:g} of each side; mean of 5 rings, weighted by their effective pixels",
        fontsize=8,
    )
    return figure


def _panel(axes: Axes, name: str, curve: FrcCurve) -> None:
    f, smooth = curve.frequency, curve.smoothed()
    chance = (1 - curve.correlation**2) / np.sqrt(curve.effective)
    axes.fill_between(
        f, curve.correlation - chance, curve.correlation + chance, color=_CURVE, alpha=0.35, linewidth=0
    )
    axes.plot(f, curve.correlation, color=_CURVE, linewidth=0.9, label="by ring")
    axes.plot(f, smooth, color=_SMOOTHED, linewidth=1.8, label="smoothed")
    lines = []
    thresholds = (curve.half_bit(), np.full(f.shape, 1 / 7))
    for (label, colour, style), threshold in zip(_THRESHOLDS, thresholds, strict=True):
        axes.plot(f, threshold, color=colour, linestyle=style, linewidth=1.2, label=label)
        found = crossing(curve, threshold)
        if found["crossed"]:
            axes.axvline(found["frequency"], color=colour, linestyle=style, linewidth=0.8)
            lines.append(f"{label}: {found['resolution_px']:.3g} px")
        else:
            lines.append(f"{label}: not crossed")
    title = "complex object" if name == "complex" else name
    axes.set_title(f"{title}\n{'; '.join(lines)}", fontsize=9)
    axes.set_xlim(0, 0.5)
    axes.set_ylim(min(-0.1, float(curve.correlation.min()) - 0.02), 1.05)
    axes.set_xlabel("cycles per pixel")
    axes.grid(alpha=0.3)
