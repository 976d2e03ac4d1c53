"""Numbers for how alike two images are. All take float or complex arrays of shape (H, W)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.errors import DataError

__all__ = ["MS_SSIM_LEAST", "complex_correlation", "correlation", "ms_ssim", "nrmse", "psnr", "ssim"]

MS_SSIM_LEAST = 176
"""Pixels a side that five scales with a window of 11 need: 11 on the coarsest, 16 times smaller."""
_WINDOW = 7
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales of MS-SSIM, finest first, as measured on viewers by its authors."""
_GAUSSIAN = 1.5
_REACH = 5
"""Standard deviation and half width of its window, in pixels."""


def complex_correlation(
    image: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    region: NDArray[np.bool_] | None = None,
) -> float:
    """``|sum o r*| / sqrt(sum |o|^2 sum |r|^2)`` over the region: 1 for equal up to a complex factor.

    Raises :class:`DataError` when one of them is zero everywhere.
    """
    o, r = (np.asarray(v, np.complex128) for v in (image, reference))
    if region is not None:
        o, r = o[region], r[region]
    norm = math.sqrt(float(np.sum(np.abs(o) ** 2)) * float(np.sum(np.abs(r) ** 2)))
    if norm == 0:
        raise DataError("objects: zeros everywhere, so there is nothing to correlate")
    return float(abs(np.vdot(r, o)) / norm)


def psnr(
    image: NDArray[np.floating], reference: NDArray[np.floating], data_range: float, region: NDArray[np.bool_]
) -> float:
    """``10 log10(range^2 / mean squared difference)`` in dB over the region; infinite for equal images."""
    error = float(np.mean(np.square(image[region] - reference[region], dtype=np.float64)))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(
    image: NDArray[np.floating], reference: NDArray[np.floating], data_range: float, region: NDArray[np.bool_]
) -> float:
    """Mean structural similarity over the region, 7 x 7 windows, those that lie wholly inside it.

    Raises :class:`DataError` when no window does. Source: Wang et al., IEEE Trans. Image Process.
    13, 600 (2004), as in scikit-image.
    """
    from skimage.metrics import structural_similarity

    inside = ndimage.binary_erosion(region, np.ones((_WINDOW, _WINDOW), bool))
    if not inside.any():
        raise DataError(f"region: has no room for SSIM's window of {_WINDOW} x {_WINDOW} pixels")
    _, values = structural_similarity(image, reference, win_size=_WINDOW, data_range=data_range, full=True)
    return float(values[inside].mean())


def correlation(
    image: NDArray[np.floating], reference: NDArray[np.floating], region: NDArray[np.bool_]
) -> float:
    """Return the mean-free (Pearson) correlation over a region, from -1 to 1.

    What is the same everywhere does not count, so unlike :func:`complex_correlation` it falls when fine detail is lost.

    Raises
    ------
    DataError
        When one of them is constant there.
    """
    o, r = (np.asarray(v[region], np.float64) for v in (image, reference))
    o, r = o - o.mean(), r - r.mean()
    norm = math.sqrt(float(o @ o) * float(r @ r))
    if norm == 0:
        raise DataError("images: constant, so there is nothing to correlate")
    return float(o @ r) / norm


def nrmse(
    image: NDArray[np.number], reference: NDArray[np.number], region: NDArray[np.bool_], *, mean_free: bool
) -> float:
    """Return the root mean squared difference over a region as a part of the reference's size there.

    Parameters
    ----------
    image, reference : (H, W) array
        Real or complex, in the same gauge.
    region : (H, W) bool array
    mean_free : bool
        Whether the size is the reference's standard deviation, so that 1 is no better than a constant; else it is
        its root mean square, as in [1]_.

    Raises
    ------
    DataError
        When that size is 0.

    References
    ----------
    .. [1] A. M. Maiden and J. M. Rodenburg, Ultramicroscopy 109, 1256 (2009), eq. 10, of which this is the root.
    """
    r = reference[region]
    size = float(np.linalg.norm(r - r.mean() if mean_free else r))
    if size == 0:
        raise DataError("reference: constant, so there is nothing to compare with")
    return float(np.linalg.norm(image[region] - r)) / size


def ms_ssim(image: NDArray[np.floating], reference: NDArray[np.floating], data_range: float) -> float:
    """Return the multi-scale structural similarity of whole images, five scales.

        MS-SSIM = SSIM_5^{w_5} prod_{j < 5} C_j^{w_j},     negative factors count as 0

    ``C_j`` is the mean of contrast times structure after j - 1 halvings, by windows that lie inside; SSIM_5 the mean
    similarity on the coarsest scale, the image continued by reflection.

    Parameters
    ----------
    image, reference : (H, W) array
        At least 176 pixels a side.
    data_range : float
        Of the reference; both are moved and scaled by its least value and this range, since the formula's constants
        assume values from 0 to 1.

    Raises
    ------
    DataError
        When a side is too short.

    References
    ----------
    .. [1] Z. Wang, E. P. Simoncelli and A. C. Bovik, "Multiscale structural similarity for image quality
       assessment", Asilomar (2003).
    """
    if min(image.shape) < MS_SSIM_LEAST:
        raise DataError(
            f"MS-SSIM needs a region of at least {MS_SSIM_LEAST} x {MS_SSIM_LEAST} pixels; this one is"
            f" {image.shape[0]} x {image.shape[1]}"
        )
    low = float(reference.min())
    first, second = ((np.asarray(v, np.float64) - low) / data_range for v in (image, reference))
    product = 1.0
    for scale, exponent in enumerate(_SCALES, 1):
        luminance, contrast = _similarity(first, second)
        if scale == len(_SCALES):
            factor = float(np.mean(luminance * contrast))
        else:
            factor = float(contrast[_REACH:-_REACH, _REACH:-_REACH].mean())
            first, second = _halved(first), _halved(second)
        product *= max(factor, 0.0) ** exponent
    return product


def _similarity(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Luminance, and contrast times structure, at every pixel, by a Gaussian window of 11 x 11 pixels."""

    def local(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.gaussian_filter(values, _GAUSSIAN, mode="mirror", radius=_REACH))

    dark, flat = 0.01**2, 0.03**2
    one, two = local(first), local(second)
    spread = (local(first**2) - one**2).clip(0) + (local(second**2) - two**2).clip(0)
    together = local(first * second) - one * two
    return (2 * one * two + dark) / (one**2 + two**2 + dark), (2 * together + flat) / (spread + flat)


def _halved(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (n // 2 * 2 for n in values.shape)
    return values[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))
