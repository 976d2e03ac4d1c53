"""How close a reconstruction is to a reference. Needs no torch."""

from __future__ import annotations

from ptycho_torch.evaluation.alignment import GAUGES, Aligned, Alignment, align
from ptycho_torch.evaluation.evaluate import aligned, evaluate, ring_correlations, score
from ptycho_torch.evaluation.frc import FrcCurve, crossing, fourier_ring_correlation, information_threshold
from ptycho_torch.evaluation.metrics import complex_correlation, correlation, ms_ssim, nrmse, psnr, ssim
from ptycho_torch.evaluation.reference import Reference, load_reference

__all__ = [
    "GAUGES",
    "Aligned",
    "Alignment",
    "FrcCurve",
    "Reference",
    "align",
    "aligned",
    "complex_correlation",
    "correlation",
    "crossing",
    "evaluate",
    "fourier_ring_correlation",
    "information_threshold",
    "load_reference",
    "ms_ssim",
    "nrmse",
    "psnr",
    "ring_correlations",
    "score",
    "ssim",
]
