"""A reconstruction with its error bars."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np

from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.uncertainty.calibration import Calibration, shipped_calibration
from ptycho_torch.uncertainty.replicates import COUNT, Solve, replicates

__all__ = ["with_sigma"]

logger = logging.getLogger(__name__)


def with_sigma(
    rec: Reconstruction,
    scan: Scan,
    solve: Solve,
    *,
    calibration: Calibration | None = None,
    count: int = COUNT,
    seed: int = 0,
    device: str = "cpu",
) -> Reconstruction:
    """Return a reconstruction with ``sigma_amplitude`` and ``sigma_phase``.

    Parameters
    ----------
    rec : Reconstruction
        Of this scan, by ``solve``.
    scan : Scan
        Frames that the solver saw.
    solve : callable
        Makes a reconstruction of a scan in the same way; it is called ``2 count`` times.
    calibration : Calibration, optional
        Default: the one that ships with the package.
    count : int
        Replicates of each of the two kinds.
    seed : int
    device : str

    Notes
    -----
    Nine of ten errors lie within 1.645 sigma, counted over pixels of many scans; errors of neighbouring pixels are
    alike. What ptychography leaves open (ramp, phase, scale, shift) is not in it. What no simulation of the solver's
    own model shows is in it as far as measured frames are explained worse than simulated ones, and as far as another
    solver finds another image in them.
    """
    began = time.monotonic()
    found = replicates(rec, scan, solve, count, seed, device)
    sigma = (calibration or shipped_calibration()).sigma(found)
    seconds = round(time.monotonic() - began, 3)
    median = [float(np.nanmedian(part)) for part in sigma]
    logger.info("uncertainty: median sigma %.3g of amplitude, %.3g rad of phase", *median)
    info = {
        "sigma_amplitude_median": median[0],
        "sigma_phase_median": median[1],
        "uncertainty_replicates": 2 * count,
        "uncertainty_seconds": seconds,
    }
    return replace(rec, sigma_amplitude=sigma[0], sigma_phase=sigma[1], info={**rec.info, **info})
