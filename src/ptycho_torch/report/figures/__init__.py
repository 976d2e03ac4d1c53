"""Figures, through matplotlib's objects alone: no pyplot, no global state, no display.

Amplitudes are gray; phases ``twilight``, which is cyclic, when they go round the circle, else ``cividis``
like other maps; differences ``PuOr``. All are safe for colour-blind readers. Axes are scan coordinates in
pixels, y downwards as in the arrays.
"""

from __future__ import annotations

from ptycho_torch.report.figures.comparisons import aligned_figure, beside_figure, comparison_figure
from ptycho_torch.report.figures.curves import pretraining_figure, training_figure
from ptycho_torch.report.figures.images import reconstruction_figure, uncertainty_figure
from ptycho_torch.report.figures.panels import drawable, figure_png, save_figure
from ptycho_torch.report.figures.scans import scan_figure

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
