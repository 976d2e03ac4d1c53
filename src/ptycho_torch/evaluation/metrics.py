"""Numbers for how alike two images are. All take float or complex arrays of shape (H, W)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.errors import DataError

__all__ = ["MS_SSIM_LEAST", "complex_correlation", "ms_ssim", "psnr", "ssim"]

MS_SSIM_LEAST = 176
"""Pixels a side that five scales with a window of 11 need: 11 on the coarsest, 16 times smaller."""
_WINDOW = 7


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
        raise DataError("objects: expected some signal to correlate, found zeros")
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
        raise DataError(f"region: expected room for a window of {_WINDOW} x {_WINDOW} pixels, found none")
    _, values = structural_similarity(image, reference, win_size=_WINDOW, data_range=data_range, full=True)
    return float(values[inside].mean())


def ms_ssim(image: NDArray[np.floating], reference: NDArray[np.floating], data_range: float) -> float:
    """Multi-scale structural similarity, five scales, of whole images. Imports torch.

    Raises :class:`DataError` when a side has fewer than 176 pixels. Source: Wang, Simoncelli and
    Bovik, Asilomar (2003), as in torchmetrics.
    """
    if min(image.shape) < MS_SSIM_LEAST:
        raise DataError(
            f"MS-SSIM: expected a rectangle of at least {MS_SSIM_LEAST} pixels a side, found {image.shape}"
        )
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    # Shifted and scaled to [0, 1]: the constants of the formula assume values from zero.
    low = float(reference.min())
    first, second = (
        torch.from_numpy((v - low) / data_range)[None, None].double() for v in (image, reference)
    )
    value = multiscale_structural_similarity_index_measure(first, second, data_range=1.0, normalize="relu")
    return float(torch.as_tensor(value))
