"""Error bars of a reconstruction: how far off amplitude and phase of each pixel may be.

The found object is scanned again at the same places with the same light, in its place and elsewhere, and
reconstructed in the same way; and the measured frames are reconstructed in another way. How far these images are
from what they should show, and what the frames leave unexplained, weighted as simulated scans have taught, is the
error bar.
"""

from __future__ import annotations

from ptycho_torch.uncertainty.calibration import Calibration, fitted, shipped_calibration
from ptycho_torch.uncertainty.errors import Errors, errors_against, relative_error
from ptycho_torch.uncertainty.replicates import Replicates, Solve, replicates
from ptycho_torch.uncertainty.sigma import with_sigma
from ptycho_torch.uncertainty.simulated import SimulatedFrames, gain_of, moved

__all__ = [
    "Calibration",
    "Errors",
    "Replicates",
    "SimulatedFrames",
    "Solve",
    "errors_against",
    "fitted",
    "gain_of",
    "moved",
    "relative_error",
    "replicates",
    "shipped_calibration",
    "with_sigma",
]
