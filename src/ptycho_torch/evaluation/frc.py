"""Fourier ring correlation: up to which spatial frequency two images agree.

    FRC(q) = Re sum_ring F G* / sqrt( sum_ring |F|^2 sum_ring |G|^2 )

Source: M. van Heel and M. Schatz, J. Struct. Biol. 151, 250 (2005); thresholds 1/2 and 1/7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError

__all__ = ["FrcCurve", "crossing", "fourier_ring_correlation"]

_LEAST = 16


@dataclass(frozen=True)
class FrcCurve:
    """``frequency``: (rings,) cycles per pixel, up to 0.5; ``correlation``: (rings,) from -1 to 1.

    ``size``: the shorter side in pixels; ring k lies at ``k / size``. ``count``: (rings,) Fourier pixels.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    count: NDArray[np.int64]
    size: int


def fourier_ring_correlation(
    first: NDArray[Any], second: NDArray[Any], *, taper: float = 0.5, rings: int | None = None
) -> FrcCurve:
    """Correlation by ring of two real or complex images (H, W) of one shape.

    The mean is taken off and the edges are brought to zero by a Tukey window whose cosine part is
    ``taper`` of each side (1: Hann, 0: none), for else the edges, the same in both, pretend to agree.
    ``rings``: default half of the shorter side. Ring 0, the mean, is left out.

    Raises :class:`DataError` for different shapes, sides under 16 pixels, or an image without structure.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise DataError(f"images: expected two of one shape (H, W), found {first.shape} and {second.shape}")
    height, width = first.shape
    size = min(height, width)
    if size < _LEAST:
        raise DataError(
            f"images: expected at least {_LEAST} pixels a side for a ring correlation, found {first.shape}"
        )
    window = _tukey(height, taper)[:, None] * _tukey(width, taper)[None, :]
    spectra = []
    for image in (first, second):
        values = np.asarray(image, np.complex128 if np.iscomplexobj(image) else np.float64)
        if not np.isfinite(values).all():
            raise DataError("images: expected finite values, found NaN or infinity")
        centred = (values - np.sum(values * window) / np.sum(window)) * window
        if np.max(np.abs(centred)) <= 1e-9 * np.max(np.abs(values), initial=0):
            raise DataError("images: expected some structure for a ring correlation, found a constant")
        spectra.append(np.fft.fft2(centred))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    total = size // 2 if rings is None else rings
    ring = np.rint(radius * 2 * total).astype(np.int64).ravel()
    keep = ring <= total
    f, g = (s.ravel()[keep] for s in spectra)
    ring = ring[keep]

    def add(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(ring, values, total + 1)[1:], np.float64)

    norm = np.sqrt(add(np.abs(f) ** 2) * add(np.abs(g) ** 2))
    cross = add((f * g.conj()).real)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    frequency = np.arange(1, total + 1) / (2 * total)
    return FrcCurve(frequency, correlation, np.bincount(ring, minlength=total + 1)[1:], size)


def _tukey(count: int, taper: float) -> NDArray[np.float64]:
    """Cosine rise over ``taper / 2`` of the length at each end, 1 between."""
    if taper <= 0:
        return np.ones(count)
    distance = np.minimum(np.arange(count), np.arange(count)[::-1]) / (count - 1)
    return 0.5 - 0.5 * np.cos(np.pi * np.minimum(1, 2 * distance / taper))


def crossing(curve: FrcCurve, threshold: float) -> dict[str, float | bool]:
    """Where the curve first falls below the threshold, between two rings by a straight line.

    ``frequency``: cycles per pixel; ``ring``: the same in rings of the image, frequency * size;
    ``resolution_px``: half a period in pixels, 0.5 / frequency, so 1 at the end of the band;
    ``crossed``: False when the curve stays above the threshold up to 0.5 cycles per pixel.
    """
    below = np.flatnonzero(curve.correlation < threshold)
    if not len(below):
        at, crossed = 0.5, False
    elif below[0] == 0:
        at, crossed = float(curve.frequency[0]), True
    else:
        k = int(below[0])
        high, low = curve.correlation[k - 1], curve.correlation[k]
        part = (high - threshold) / (high - low)
        at, crossed = (
            float(curve.frequency[k - 1] + part * (curve.frequency[k] - curve.frequency[k - 1])),
            True,
        )
    return {"frequency": at, "ring": at * curve.size, "resolution_px": 0.5 / at, "crossed": crossed}
