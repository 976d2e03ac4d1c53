"""How far an image is from what it should show, pixel by pixel, after what ptychography leaves open is taken off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.alignment import overlap
from ptycho_torch.evaluation.gauge import Fit, Movable, coarse_ramp, coarse_shift, refined, turned
from ptycho_torch.result import Reconstruction

__all__ = ["Errors", "errors_against", "relative_error"]

_BORDER: Final = 16
_LEAST: Final = 0.1
"""Part of the usual weight below which a pixel has no say in the gauge."""

Complex = NDArray[np.complex128]
Real = NDArray[np.float32]


@dataclass(frozen=True)
class Errors:
    """Signed errors on an image's own canvas.

    Attributes
    ----------
    amplitude : (H, W) float32 array
        In the image's own scale; NaN where there is nothing to compare with.
    phase : (H, W) float32 array
        Radians, from -pi to pi.
    """

    amplitude: Real
    phase: Real


def errors_against(
    rec: Reconstruction,
    truth: NDArray[np.complexfloating],
    origin_xy: tuple[float, float] | NDArray[np.float64] = (0.0, 0.0),
    *,
    search: bool = True,
) -> Errors:
    """Return the errors of a reconstruction, ramp, shift, phase and scale taken off.

    Parameters
    ----------
    rec : Reconstruction
    truth : (H', W') complex array
    origin_xy : pair of float
        Scan coordinate of its pixel [0, 0].
    search : bool
        Look for a shift of many pixels, too.

    Raises
    ------
    DataError
        When they show nothing in common.

    Examples
    --------
    >>> obj = np.exp(0.3j * np.random.default_rng(0).normal(size=(24, 24)))
    >>> rec = Reconstruction(2 * obj, np.ones(obj.shape), np.zeros(2), np.full((1, 2), 12), np.ones((1, 24, 24)))
    >>> bool(np.abs(errors_against(rec, obj).phase).max() < 1e-5)
    True
    """
    image, wanted, scale, ours = _aligned(rec, truth, origin_xy, search)
    wrong = np.full((2, *rec.object.shape), np.nan, dtype=np.float32)
    wrong[(0, *ours)] = (np.abs(image) - np.abs(wanted)) / scale
    wrong[(1, *ours)] = np.angle(image * wanted.conj())
    return Errors(wrong[0], wrong[1])


def relative_error(
    rec: Reconstruction,
    truth: NDArray[np.complexfloating],
    origin_xy: tuple[float, float] | NDArray[np.float64] = (0.0, 0.0),
) -> float:
    """Return the root mean square of ``image - truth`` over that of the truth, where it is lit; gauges taken off.

    Parameters and errors as in :func:`errors_against`.
    """
    image, wanted, _, ours = _aligned(rec, truth, origin_xy)
    lit = _say(rec.weight)[ours] > 0
    return float(np.linalg.norm(image[lit] - wanted[lit]) / np.linalg.norm(wanted[lit]))


def _aligned(
    rec: Reconstruction,
    truth: NDArray[np.complexfloating],
    origin_xy: tuple[float, float] | NDArray[np.float64],
    search: bool = True,
) -> tuple[Complex, Complex, float, tuple[slice, slice]]:
    """The image in the gauge of the truth, the truth, the factor on the amplitude, and where in the canvas they lie."""
    origin = (float(rec.origin_xy[0]), float(rec.origin_xy[1]))
    there = (float(origin_xy[0]), float(origin_xy[1]))
    ours, theirs = overlap(origin, rec.object.shape, there, np.shape(truth))
    image = rec.object[ours].astype(np.complex128)
    wanted = np.asarray(truth)[theirs].astype(np.complex128)
    say = _say(rec.weight)[ours]
    if not np.any(image * say) or not np.any(wanted * say):
        raise DataError("objects: zeros everywhere in the common region, so there is nothing to align")
    fit = _fitted(image, wanted, say, search)
    image = Movable(turned(image, fit.ramp_xy)).at(fit.shift_xy)
    scale = float(np.sum(say * np.abs(image) * np.abs(wanted)) / np.sum(say * np.abs(image) ** 2))
    return image * scale * np.exp(1j * np.angle(np.vdot(image * say, wanted))), wanted, scale, ours


def _fitted(image: Complex, wanted: Complex, say: NDArray[np.float64], search: bool) -> Fit:
    """Ramp and shift, from the better of two starts: none, and the whole pixels that a correlation finds."""
    everything = (slice(0, image.shape[0]), slice(0, image.shape[1]))
    view = Movable(wanted, max(0, min(_BORDER, min(image.shape) - 1)))
    starts = {(0, 0), coarse_shift(image, wanted, say > 0)} if search else {(0, 0)}
    fits = []
    for x, y in sorted(starts):
        ramp = coarse_ramp(image, np.roll(wanted, (-y, -x), (0, 1)), say > 0)
        fits.append(refined(image, view, everything, say, Fit(ramp, (float(x), float(y)), True)))
    return max(fits, key=lambda fit: fit.correlation)


def _say(weight: Real) -> NDArray[np.float64]:
    """What each pixel has to say about the gauge: as much as light fell on it, up to what is usual."""
    part = weight / max(float(np.quantile(weight[weight > 0], 0.9)), 1e-30) if (weight > 0).any() else weight
    return np.where(part > _LEAST, np.minimum(part, 1), 0).astype(np.float64)
