"""Normalisation of frames, the intensity scale, and the gauge of the probe. numpy only.

    x = f * A_raw,   f = sqrt((N/2)^2 / mean_frames sum_pixels A_raw^2)
    s = sqrt(mean photons per frame) / (N/2)        so that s * x = A_raw where counts are known

Source: the normalisation of the TensorFlow program (arXiv 2602.21361).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.scan.frames import as_source

__all__ = ["amplitude_normalisation", "intensity_scale_from_counts", "mean_power", "normalise_probe"]


def mean_power(frames: Any) -> float:
    """Return the mean over frames of the summed squared amplitude, in float64, reading in chunks.

    ``frames``: (M, N, N) amplitudes; a scan's are measured once, trusted pixels only. Raises
    :class:`DataError` when there is no signal at all.
    """
    return as_source(frames).mean_power


def amplitude_normalisation(frames: Any) -> float:
    """Return the factor f from raw to normalised amplitude; mean power of normalised frames is (N/2)^2."""
    return as_source(frames).normalisation


def intensity_scale_from_counts(frames: Any) -> float:
    """Return the factor s from normalised amplitude to sqrt(counts), for frames stored as sqrt(counts)."""
    return 1 / as_source(frames).normalisation


def normalise_probe(probe: NDArray[Any]) -> NDArray[np.complex64]:
    """The probe scaled to a total power of (N/2)^2 over all modes.

    Gauge: with it, normalised frames come from an object whose illumination-weighted rms amplitude
    is 1. ``probe``: (N, N) or (modes, N, N) complex; returns (modes, N, N) complex64. Raises
    :class:`DataError` for a probe without power or of another shape.
    """
    probe = np.asarray(probe, dtype=np.complex128)
    if probe.ndim == 2:
        probe = probe[None]
    if probe.ndim != 3 or probe.shape[-1] != probe.shape[-2]:
        raise DataError(f"probe: expected shape (N, N) or (modes, N, N), found {probe.shape}")
    power = float(np.sum(np.abs(probe) ** 2))
    if not (np.isfinite(power) and power > 0):
        raise DataError(f"probe: expected a finite, positive total power, found {power}")
    return (probe * (probe.shape[-1] / 2 / np.sqrt(power))).astype(np.complex64)
