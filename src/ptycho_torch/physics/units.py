"""Normalisation of frames, the intensity scale, and the gauge of the probe. numpy only.

    x = f * A_raw,   f = sqrt((N/2)^2 / mean_frames sum_pixels A_raw^2)
    s = sqrt(mean photons per frame) / (N/2)        so that s * x = A_raw where counts are known

Source: the design's section 5 and the TensorFlow program's normalisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError

__all__ = ["amplitude_normalisation", "intensity_scale_from_counts", "mean_power", "normalise_probe"]

_CHUNK = 256


def mean_power(frames: Any) -> float:
    """Mean over frames of the summed squared amplitude, in float64, reading in chunks.

    ``frames``: (M, N, N) amplitudes. Raises :class:`DataError` when there is no signal at all.
    """
    count = len(frames)
    total = 0.0
    for start in range(0, count, _CHUNK):
        part = np.asarray(frames[start : start + _CHUNK], dtype=np.float32)
        total += float(np.einsum("mij,mij->", part, part, dtype=np.float64))
    if count == 0 or not total > 0:
        raise DataError(f"frames: expected at least one frame with signal, found {count} without any")
    return total / count


def amplitude_normalisation(frames: Any) -> float:
    """Factor f from raw to normalised amplitude; mean power of normalised frames is (N/2)^2."""
    size = frames.shape[-1]
    return float(size / 2 / np.sqrt(mean_power(frames)))


def intensity_scale_from_counts(frames: Any) -> float:
    """Factor s from normalised amplitude to sqrt(counts), for frames stored as sqrt(counts)."""
    return float(np.sqrt(mean_power(frames)) / (frames.shape[-1] / 2))


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
