"""Probes as they would be elsewhere along the beam, or larger and smaller. numpy only.

References
----------
.. [1] J. W. Goodman, Introduction to Fourier Optics, 3rd ed., Roberts (2005), section 4.2, for Fresnel propagation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

__all__ = ["magnified", "propagated"]


def propagated(wave: NDArray[Any], distance: float) -> NDArray[np.complex128]:
    """Return a wave further along the beam.

        P_d = F^-1( exp(-i pi d |k|^2 / N^2) F P ),      k = -N/2 ... N/2 - 1

    With this sign, as with that of the transform to the detector, waves go as ``exp(+i k z)``.

    Parameters
    ----------
    wave : (..., N, N) complex array
    distance : float
        Pixels, negative for upstream: ``z lambda / dx^2`` with the real distance z and the pixel size dx. One of N
        takes the highest frequency half across the frame.

    Examples
    --------
    >>> from ptycho_torch.simulation import make_probe
    >>> probe = make_probe("zoneplate", 32)
    >>> bool(np.allclose(propagated(propagated(probe, 8.0), -8.0), probe, atol=1e-6))
    True
    """
    size = wave.shape[-1]
    k = fft.fftfreq(size, 1 / size)
    square = k[:, None] ** 2 + k**2
    return np.asarray(fft.ifft2(fft.fft2(wave) * np.exp(-1j * np.pi * distance * square / size**2)))


def magnified(wave: NDArray[Any], factor: float) -> NDArray[np.complex128]:
    """Return a wave so many times as large about pixel [N//2, N//2], with the power that it has.

    Parameters
    ----------
    wave : (..., N, N) complex array
        What grows past the frame is lost.
    factor : float
        Above 0; below 1 it shrinks, and outside is nothing.

    Examples
    --------
    >>> from ptycho_torch.simulation import make_probe
    >>> probe = make_probe("gaussian", 64)
    >>> spread = [np.sum(np.abs(p[0, 32]) > 0.5 * np.abs(p).max()) for p in (probe, magnified(probe, 1.5))]
    >>> round(float(spread[1] / spread[0]), 1)
    1.5
    """
    wave = np.asarray(wave, np.complex128)
    middle = wave.shape[-1] // 2
    ones = (1.0,) * (wave.ndim - 2)
    still = (0.0,) * (wave.ndim - 2)
    scales, offsets = (*ones, 1 / factor, 1 / factor), (*still, *(middle - middle / factor,) * 2)
    parts = [ndimage.affine_transform(part, scales, offsets, order=3) for part in (wave.real, wave.imag)]
    made = parts[0] + 1j * parts[1]
    left = np.linalg.norm(made)
    return np.asarray(made * (np.linalg.norm(wave) / left)) if left else made
