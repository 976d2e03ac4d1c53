"""From what replicates say to an error bar, by a few numbers that simulated scans have taught.

    log sigma = a + sum_f w_f log s_f,       sum of the w_f of errors is 1

The s_f are errors of replicates, near the pixel and over the image (:mod:`.replicates`). Weights that sum to 1 keep the
unit: errors twice as large make sigma twice as large. ``a`` and ``w`` are those of least loss

    sum rho( log|e| - log(1.645 sigma) ),    rho(d) = 0.9 d for d > 0, else -0.1 d

which is quantile regression: nine of ten true errors |e| lie within 1.645 sigma, as with Gaussian errors.

References
----------
.. [1] R. Koenker and G. Bassett, Econometrica 46, 33 (1978), for quantile regression.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from ptycho_torch.uncertainty.replicates import FEATURES, Replicates

__all__ = ["LEVEL", "NORMAL", "Calibration", "fitted", "shipped_calibration"]

LEVEL: Final = 0.9
NORMAL: Final = 1.6448536269514722
"""Standard deviations of a normal distribution within which nine of ten values lie."""
LARGEST_PHASE: Final = LEVEL * np.pi / NORMAL
"""Sigma of a phase about which nothing is known: nine of ten are within it times ``NORMAL``."""
CHANNELS: Final = ("amplitude", "phase")
_FILE: Final = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True)
class Calibration:
    """Weights of :data:`~ptycho_torch.uncertainty.replicates.FEATURES`, and where they are from.

    Attributes
    ----------
    weights : (2, 9) float64 array
        Of amplitude and phase.
    provenance : dict
        Plain values: script, command, scans, solver.
    """

    weights: NDArray[np.float64]
    provenance: dict[str, Any]

    def sigma(self, found: Replicates) -> NDArray[np.float32]:
        """Return sigma of amplitude and phase, (2, H, W) float32; NaN where nothing was measured."""
        logs = np.einsum("cf,cfij->cij", self.weights, found.features)
        values = np.exp(logs).astype(np.float32)
        values[1] = np.minimum(values[1], LARGEST_PHASE)
        return np.where(found.measured, values, np.float32(np.nan))

    def text(self) -> str:
        """Return it as JSON."""
        named = {
            channel: dict(zip(FEATURES, row, strict=True))
            for channel, row in zip(CHANNELS, self.weights.tolist(), strict=True)
        }
        return json.dumps({"log_sigma": named, "provenance": self.provenance}, indent=2) + "\n"


@cache
def shipped_calibration() -> Calibration:
    """Return the calibration that ships with the package.

    Examples
    --------
    >>> sorted(shipped_calibration().provenance)[:2]
    ['command', 'date']
    """
    record = json.loads(_FILE.read_text())
    rows = [[float(record["log_sigma"][channel][name]) for name in FEATURES] for channel in CHANNELS]
    return Calibration(np.array(rows), record["provenance"])


def fitted(features: NDArray[np.floating], errors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the weights (9,) of one channel under which nine of ten errors lie within ``NORMAL`` sigma.

    Parameters
    ----------
    features : (K, 9) array
        As :class:`~ptycho_torch.uncertainty.replicates.Replicates` has them, of K pixels.
    errors : (K,) array
        Their true errors, of either sign.

    Notes
    -----
    A linear programme; no weight but that of the constant is below 0, so that no replicate that is worse makes an error
    bar smaller.
    """
    target = np.log(np.maximum(np.abs(errors), 1e-12)) - np.log(NORMAL)
    count, kinds = features.shape
    identity = np.eye(count)
    equal = sparse.hstack(
        [sparse.csr_matrix(features), sparse.csr_matrix(identity), sparse.csr_matrix(-identity)]
    )
    summed = sparse.csr_matrix(
        np.concatenate([[0.0], np.ones(kinds - 3), [0.0, 0.0], np.zeros(2 * count)])[None, :]
    )
    cost = np.concatenate([np.zeros(kinds), np.full(count, LEVEL), np.full(count, 1 - LEVEL)])
    bounds = [(None, None)] + [(0, None)] * (kinds - 1 + 2 * count)
    solved = linprog(
        cost,
        A_eq=sparse.vstack([equal, summed]).tocsc(),
        b_eq=np.concatenate([target, [1.0]]),
        bounds=bounds,
        method="highs",
    )
    if not solved.success:
        raise ArithmeticError(f"calibration: no weights found: {solved.message}")
    return np.asarray(solved.x[:kinds], dtype=np.float64)
