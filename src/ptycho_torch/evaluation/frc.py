"""Fourier ring correlation: up to which spatial frequency two images agree.

    FRC(q) = Re sum_ring F G* / sqrt( sum_ring |F|^2 sum_ring |G|^2 )

With signal-to-noise ratio S in each of two images with independent noise, FRC is ``S / (1 + S)``; of one of them with
the noise-free object it is the root of that. What chance adds in a ring of n pixels is in the threshold of an
information content,

    T_S(n) = ( S + (2 sqrt(S) + 1) / sqrt(n) ) / ( S + 1 + 2 sqrt(S) / sqrt(n) )

which for half a bit per pixel, S = (sqrt(2) - 1) / 2 = 0.2071, is the half-bit criterion [1]_. The fixed threshold of
1/7 is that of [2]_.

References
----------
.. [1] M. van Heel and M. Schatz, "Fourier shell correlation threshold criteria", J. Struct. Biol. 151, 250 (2005).
.. [2] P. B. Rosenthal and R. Henderson, J. Mol. Biol. 333, 721 (2003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError

__all__ = ["HALF_BIT", "FrcCurve", "crossing", "fourier_ring_correlation", "information_threshold"]

HALF_BIT = (math.sqrt(2) - 1) / 2
"""Signal-to-noise ratio in each of two images whose mean holds half a bit per Fourier pixel."""
_LEAST = 16
_SMOOTHED = 5
_NEAR = (-3, -2, -1, 0, 1, 2, 3)
"""Distances in Fourier pixels over which a window's own spectrum makes neighbours depend on each other."""


@dataclass(frozen=True)
class FrcCurve:
    """Correlation by ring.

    Attributes
    ----------
    frequency : (rings,) array
        Cycles per pixel, up to 0.5.
    correlation : (rings,) array
        From -1 to 1.
    count : (rings,) int array
        Fourier pixels.
    effective : (rings,) array
        As many real ones as would scatter like them: independent noise has a correlation of standard deviation
        ``1 / sqrt(effective)``. Smaller than ``count`` by what the window makes neighbours depend on each other, and
        twice as large for complex images, whose pixels at q and -q are not the same number twice.
    size : int
        The shorter side in pixels; a frequency f is ring ``f * size`` of the image.
    taper : float
        Of the Tukey window.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    count: NDArray[np.int64]
    effective: NDArray[np.float64]
    size: int
    taper: float

    def smoothed(self, rings: int = _SMOOTHED) -> NDArray[np.float64]:
        """Return the correlation averaged over an odd number of neighbouring rings, weighted by ``effective``."""
        kernel = np.ones(rings)
        total, weight = (
            np.convolve(np.pad(v, rings // 2), kernel, mode="valid")
            for v in (self.correlation * self.effective, self.effective)
        )
        return np.asarray(total / weight)

    def half_bit(self) -> NDArray[np.float64]:
        """Return the half-bit threshold (rings,) by each ring's effective number of pixels."""
        return information_threshold(HALF_BIT, self.effective)


def information_threshold(ratio: float, pixels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the correlation of two images of a signal-to-noise ratio in rings of so many pixels.

    Parameters
    ----------
    ratio : float
        Signal-to-noise ratio S of each image: 1/6 tends to 1/7 in large rings, 1 to 1/2.
    pixels : (rings,) array

    Returns
    -------
    (rings,) array
        ``T_S(n)``: 1 for a single pixel, ``S / (1 + S)`` for very many.

    Examples
    --------
    >>> information_threshold(HALF_BIT, np.array([1.0, 100.0, 1e8])).round(3).tolist()
    [1.0, 0.307, 0.172]
    """
    chance = 1 / np.sqrt(np.maximum(pixels, 1))
    root = 2 * math.sqrt(ratio)
    return np.asarray((ratio + (root + 1) * chance) / (ratio + 1 + root * chance))


def fourier_ring_correlation(
    first: NDArray[Any], second: NDArray[Any], *, taper: float = 0.5, rings: int | None = None
) -> FrcCurve:
    """Return the correlation by ring of two images of one shape; ring 0, the mean, is left out.

    Parameters
    ----------
    first, second : (H, W) array
        Real or complex.
    taper : float
        Part of each side over which a Tukey window rises and falls as a cosine (1: Hann, 0: none). It brings the
        edges, of which the mean is taken off, to zero: else they, the same in both, pretend to agree.
    rings : int, optional
        Default: half of the shorter side.

    Raises
    ------
    DataError
        For different shapes, sides under 16 pixels, or an image without structure.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise DataError(f"images: expected two of one shape (H, W), found {first.shape} and {second.shape}")
    height, width = first.shape
    size = min(height, width)
    if size < _LEAST:
        raise DataError(
            f"images: expected at least {_LEAST} pixels a side for a ring correlation, found {first.shape}"
        )
    lines = _tukey(height, taper), _tukey(width, taper)
    window = lines[0][:, None] * lines[1]
    spectra = []
    for image in (first, second):
        values = np.asarray(image, np.complex128 if np.iscomplexobj(image) else np.float64)
        if not np.isfinite(values).all():
            raise DataError("images: hold NaN or infinity, which cannot be compared")
        centred = (values - np.sum(values * window) / np.sum(window)) * window
        if np.max(np.abs(centred)) <= 1e-9 * np.max(np.abs(values), initial=0):
            raise DataError("images: constant, so there is no ring correlation")
        spectra.append(np.fft.fft2(centred))
    total = size // 2 if rings is None else rings
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    ring = np.minimum(np.rint(radius * 2 * total).astype(np.int64), total + 1)

    def add(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(ring.ravel(), values.ravel(), total + 2)[1:-1], np.float64)

    f, g = spectra
    norm = np.sqrt(add(np.abs(f) ** 2) * add(np.abs(g) ** 2))
    cross = add((f * g.conj()).real)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    numbers = 2 if np.iscomplexobj(first) or np.iscomplexobj(second) else 1
    return FrcCurve(
        np.arange(1, total + 1) / (2 * total),
        correlation,
        np.bincount(ring.ravel(), minlength=total + 2)[1:-1],
        numbers * _independent(ring, lines, total),
        size,
        taper,
    )


def _independent(
    ring: NDArray[np.int64], lines: tuple[NDArray[np.float64], NDArray[np.float64]], total: int
) -> NDArray[np.float64]:
    """Independent pixels of rings 1 ... total: ``n^2 / sum_{k, k' in ring} |W(k - k')|^2 / |W(0)|^2``.

    ``W`` is the transform of the window squared, whose lines along both axes are given.
    """
    count = np.bincount(ring.ravel(), minlength=total + 2)[1:-1].astype(np.float64)
    down, across = (np.abs(np.fft.fft(line**2) / np.sum(line**2)) ** 2 for line in lines)
    pairs = np.zeros(total)
    for dy, dx in product(_NEAR, _NEAR):
        together = ring[ring == np.roll(ring, (dy, dx), (0, 1))]
        pairs += down[dy] * across[dx] * np.bincount(together, minlength=total + 2)[1:-1]
    return np.divide(count**2, pairs, out=np.ones(total), where=pairs > 0)


def _tukey(count: int, taper: float) -> NDArray[np.float64]:
    """Cosine rise over ``taper / 2`` of the length at each end, 1 between."""
    if taper <= 0:
        return np.ones(count)
    distance = np.minimum(np.arange(count), np.arange(count)[::-1]) / (count - 1)
    return 0.5 - 0.5 * np.cos(np.pi * np.minimum(1, 2 * distance / taper))


def crossing(
    curve: FrcCurve, threshold: float | NDArray[np.float64], *, smooth: int = _SMOOTHED
) -> dict[str, float | bool]:
    """Return where the smoothed curve falls below a threshold and stays there.

    Parameters
    ----------
    curve : FrcCurve
    threshold : float or (rings,) array
    smooth : int
        Rings that are averaged, see :meth:`FrcCurve.smoothed`; 1 for none.

    Returns
    -------
    dict
        ``crossed``: False when the curve does not fall below up to 0.5 cycles per pixel; the others are then
        the end of the band. It falls where it is below for a tenth of all rings, at least three, or up to the end:
        a narrower dip, as low rings have them, does not count. ``frequency``: cycles per pixel, between two rings by a
        straight line; ``ring``: the same in rings of the image, frequency * size; ``resolution_px``: half a period in
        pixels, 0.5 / frequency; ``pixels``: effective number in a ring there, between two as above.
    """
    above = curve.smoothed(smooth) - threshold
    below = above < 0
    hold = max(3, math.ceil(len(below) / 10))
    falls = [k for k in np.flatnonzero(below) if below[k : k + hold].all()]
    at = 0.5
    if falls:
        k = int(falls[0])
        at = float(curve.frequency[k])
        if k:
            part = above[k - 1] / (above[k - 1] - above[k])
            at = float(curve.frequency[k - 1] + part * (curve.frequency[k] - curve.frequency[k - 1]))
    return {
        "frequency": at,
        "ring": at * curve.size,
        "resolution_px": 0.5 / at,
        "crossed": bool(falls),
        "pixels": float(np.interp(at, curve.frequency, curve.effective)),
    }
