"""From what replicates say to an error bar, by a few numbers that simulated scans have taught.

    sigma = sqrt( sum_k (w_k e_k)^2 ) prod_j f_j^(b_j),       w, b >= 0

The e_k are errors, near the pixel and over the image, and the f_j say where in the image they are larger than
elsewhere (:mod:`.replicates`). Squares are added, so that each kind of error that is large makes the error bar
large, and none that is small makes it small. ``w`` and ``b`` are those of least loss

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
from scipy.optimize import minimize
from scipy.special import expit, softmax

from ptycho_torch.uncertainty.replicates import ERRORS, FEATURES, Replicates

__all__ = ["LEVEL", "NORMAL", "Calibration", "fitted", "shipped_calibration"]

LEVEL: Final = 0.9
NORMAL: Final = 1.6448536269514722
"""Standard deviations of a normal distribution within which nine of ten values lie."""
LARGEST_PHASE: Final = LEVEL * np.pi / NORMAL
"""Sigma of a phase about which nothing is known: nine of ten are within it times ``NORMAL``."""
CHANNELS: Final = ("amplitude", "phase")
_FILE: Final = Path(__file__).with_name("calibration.json")
_ROUND: Final = 0.05
"""Width, in log|e|, over which the corner of the loss is rounded off."""
_SMALLEST: Final = 1e-3
"""Weight of an error below which it has none."""
_HOLD: Final = 1e-3
"""Part of a squared power in the loss."""

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Weights of :data:`~ptycho_torch.uncertainty.replicates.FEATURES`, and where they are from.

    Attributes
    ----------
    weights : (2, 6) float64 array
        Of amplitude and phase: factors of errors, then powers of what says where they are larger.
    provenance : dict
        Plain values: script, command, scans, solver.
    """

    weights: Real
    provenance: dict[str, Any]

    def sigma(self, found: Replicates) -> NDArray[np.float32]:
        """Return sigma of amplitude and phase, (2, H, W) float32; NaN where nothing was measured."""
        values = self.of(found.features).astype(np.float32)
        return np.where(found.measured, values, np.float32(np.nan))

    def of(self, features: NDArray[np.floating]) -> Real:
        """Return sigma of pixels, (2, ...), from their features, (2, 6, ...)."""
        parts = [_log_sigma(np.moveaxis(f, 0, -1), w)[0] for f, w in zip(features, self.weights, strict=True)]
        values = np.exp(np.stack(parts))
        values[1] = np.minimum(values[1], LARGEST_PHASE)
        return np.asarray(values)

    def text(self) -> str:
        """Return it as JSON."""
        named = {
            channel: dict(zip(FEATURES, row, strict=True))
            for channel, row in zip(CHANNELS, self.weights.tolist(), strict=True)
        }
        return json.dumps({"weights": named, "provenance": self.provenance}, indent=2) + "\n"


@cache
def shipped_calibration() -> Calibration:
    """Return the calibration that ships with the package.

    Examples
    --------
    >>> sorted(shipped_calibration().provenance)[:2]
    ['command', 'date']
    """
    record = json.loads(_FILE.read_text())
    rows = [[float(record["weights"][channel][name]) for name in FEATURES] for channel in CHANNELS]
    return Calibration(np.array(rows), record["provenance"])


def _log_sigma(features: NDArray[np.floating], weights: Real) -> tuple[Real, Real]:
    """Logarithm of sigma of pixels, features last, and the part that each error has in its square."""
    count = len(ERRORS)
    logs = 2 * (features[..., :count].astype(np.float64) + np.log(np.maximum(weights[:count], 1e-12)))
    most = logs.max(-1, keepdims=True)
    whole = most[..., 0] + np.log(np.exp(logs - most).sum(-1))
    return 0.5 * whole + features[..., count:] @ weights[count:], softmax(logs, axis=-1)


def fitted(features: NDArray[np.floating], errors: NDArray[np.floating]) -> Real:
    """Return the weights (6,) of one channel under which nine of ten errors lie within ``NORMAL`` sigma.

    Parameters
    ----------
    features : (K, 6) array
        As :class:`~ptycho_torch.uncertainty.replicates.Replicates` has them, of K pixels.
    errors : (K,) array
        Their true errors, of either sign.

    Raises
    ------
    ArithmeticError
        When the search for them fails.

    Notes
    -----
    A common factor at the end makes it nine of ten of these errors, whatever the rounded corner of the loss does.
    """
    target = np.log(np.maximum(np.abs(errors), 1e-12)) - np.log(NORMAL)
    count = len(ERRORS)

    def loss(given: Real) -> tuple[float, Real]:
        weights = np.concatenate([np.exp(given[:count]), given[count:]])
        logs, shares = _log_sigma(features, weights)
        over = target - logs
        value = np.mean(LEVEL * over + _ROUND * np.logaddexp(0, -over / _ROUND))
        slope = -(LEVEL - expit(-over / _ROUND)) / len(over)
        down = np.concatenate([slope @ shares, slope @ features[:, count:] + 2 * _HOLD * given[count:]])
        return float(value + _HOLD * np.sum(given[count:] ** 2)), down

    bounds = [(np.log(_SMALLEST), 5.0)] * count + [(0.0, 2.0)] * (len(FEATURES) - count)
    start = np.concatenate([np.full(count, -0.7), np.full(len(FEATURES) - count, 0.1)])
    solved = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000})
    if not solved.success:
        raise ArithmeticError(f"calibration: no weights found: {solved.message}")
    weights = np.concatenate([np.exp(solved.x[:count]), solved.x[count:]])
    weights[:count] *= np.exp(np.quantile(target - _log_sigma(features, weights)[0], LEVEL))
    weights[:count][weights[:count] < 2 * _SMALLEST] = 0.0
    return np.asarray(weights, dtype=np.float64)
