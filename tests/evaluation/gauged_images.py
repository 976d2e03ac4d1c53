"""Images, ramps and shifts that the tests of scores share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

N = 64
"""Pixels of a frame, whose shifts are the unit of ramps."""
Complex = NDArray[np.complex128]


def smooth(size: int, seed: int = 0, sigma: float = 1.5) -> Complex:
    noise = ndimage.gaussian_filter(
        np.random.default_rng(seed).normal(size=(2, size, size)), (0, sigma, sigma), mode="wrap"
    )
    noise /= noise.std()
    return np.exp(0.2 * noise[0] + 0.5j * noise[1])


def moved(values: Complex, x: float, y: float) -> Complex:
    """An image as it is between its pixels, by its Fourier series."""
    return np.asarray(np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(values), (y, x))))


def ramp(shape: tuple[int, ...], x: float, y: float) -> Complex:
    """Phases that move frames of N pixels by (x, y) of them."""
    rows, columns = np.indices(shape)
    return np.asarray(np.exp(2j * np.pi * (x * columns + y * rows) / N))
