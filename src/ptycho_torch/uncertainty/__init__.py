"""Error bars of a reconstruction: how far off amplitude and phase of each pixel may be.

Known objects, the found one among them, are scanned at the same places with the same light and reconstructed in
the same way. The error bar is how far these images are from what they should show, weighted as simulated scans have
taught.
"""

from __future__ import annotations

from ptycho_torch.uncertainty.calibration import Calibration, fitted, shipped_calibration
from ptycho_torch.uncertainty.errors import Errors, errors_against, relative_error
from ptycho_torch.uncertainty.replicates import Replicates, Solve, replicates
from ptycho_torch.uncertainty.sigma import with_sigma
from ptycho_torch.uncertainty.simulated import SimulatedFrames, another, gain_of, moved

__all__ = [
    "Calibration",
    "Errors",
    "Replicates",
    "SimulatedFrames",
    "Solve",
    "another",
    "errors_against",
    "fitted",
    "gain_of",
    "moved",
    "relative_error",
    "replicates",
    "shipped_calibration",
    "with_sigma",
]
