"""How close a reconstruction is to a reference. Needs torch for MS-SSIM only, and imports it then."""

from __future__ import annotations

from ptycho_torch.evaluation.alignment import Alignment, align
from ptycho_torch.evaluation.evaluate import evaluate
from ptycho_torch.evaluation.frc import FrcCurve, crossing, fourier_ring_correlation
from ptycho_torch.evaluation.metrics import complex_correlation, ms_ssim, psnr, ssim
from ptycho_torch.evaluation.reference import Reference, load_reference

__all__ = [
    "Alignment",
    "FrcCurve",
    "Reference",
    "align",
    "complex_correlation",
    "crossing",
    "evaluate",
    "fourier_ring_correlation",
    "load_reference",
    "ms_ssim",
    "psnr",
    "ssim",
]
