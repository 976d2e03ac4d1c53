"""Metres and pixels of object and detector in the far field, and what a cut of the detector does to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ptycho_torch.scan.facts import Cut
from ptycho_torch.scan.scan import Geometry

__all__ = ["PLANCK_LIGHT", "Optics", "cut_probe", "metres_to_pixels", "object_pixel"]

PLANCK_LIGHT: Final = 1.23984198e-6
"""Planck's constant times the speed of light, eV m (CODATA 2018)."""


@dataclass(frozen=True)
class Optics:
    """What turns metres into object pixels: ``energy_ev``, ``distance_m``, detector pixel (x, y) in metres."""

    energy_ev: float
    distance_m: float
    detector_pixel_m: tuple[float, float]


def object_pixel(energy_ev: float, distance_m: float, pixel_m: Any, size: int) -> NDArray[np.float64]:
    """Return the edges (x, y) of an object pixel in metres: wavelength x distance / (N x detector pixel).

    Far field. The detector's pixel follows from the object's by the same formula.
    """
    return PLANCK_LIGHT / energy_ev * distance_m / (size * np.asarray(pixel_m, dtype=np.float64))


def metres_to_pixels(
    positions_m: NDArray[Any], energy_ev: float, distance_m: float, detector_pixel_m: Any, size: int
) -> tuple[NDArray[np.float64], Geometry]:
    """Return positions (M, 2) = (x, y) in object pixels, the outermost N/2 from the first pixel, and the geometry."""
    pixel = object_pixel(energy_ev, distance_m, detector_pixel_m, size)
    metres = np.asarray(positions_m, dtype=np.float64)
    origin = metres.min(0) - (size // 2) * pixel
    geometry = Geometry(
        energy_ev, distance_m, (float(pixel[0]), float(pixel[1])), (float(origin[0]), float(origin[1]))
    )
    return (metres - origin) / pixel, geometry


def cut_probe(probe: NDArray[np.complex64], cut: Cut) -> NDArray[np.complex64]:
    """Return a probe (modes, N, N) of the whole detector as it is for a cut around the middle.

    A smaller detector means larger object pixels: the probe's spectrum is cut. Binned pixels mean a
    smaller field of view: the probe itself is cut. Predicted counts stay the same.
    """
    edge, used = probe.shape[-1], cut.size * cut.bin
    if used != edge:
        first = edge // 2 - used // 2
        window = slice(first, first + used)
        spectrum = fft.fftshift(fft.fft2(probe, norm="ortho"), axes=(-2, -1))[:, window, window]
        probe = fft.ifft2(fft.ifftshift(spectrum, axes=(-2, -1)), norm="ortho")
    first = used // 2 - cut.size // 2
    window = slice(first, first + cut.size)
    return np.ascontiguousarray(probe[:, window, window], dtype=np.complex64)
