"""How far an image is from what it should show, pixel by pixel, after what ptychography leaves open is taken off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.alignment import overlap
from ptycho_torch.evaluation.gauge import Fit, Movable, refined, turned
from ptycho_torch.result import Reconstruction

__all__ = ["Errors", "errors_against"]

_BORDER: Final = 16
_LEAST: Final = 0.1
"""Part of the usual weight below which a pixel has no say in the gauge."""

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
) -> Errors:
    """Return the errors of a reconstruction, ramp, shift, phase and scale taken off.

    Parameters
    ----------
    rec : Reconstruction
    truth : (H', W') complex array
    origin_xy : pair of float
        Scan coordinate of its pixel [0, 0].

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
    shape = np.shape(truth)
    origin = (float(rec.origin_xy[0]), float(rec.origin_xy[1]))
    ours, theirs = overlap(origin, rec.object.shape, (float(origin_xy[0]), float(origin_xy[1])), shape)
    image = rec.object[ours].astype(np.complex128)
    wanted = np.asarray(truth)[theirs].astype(np.complex128)
    say = _say(rec.weight)[ours]
    overlap_ = np.vdot(image * say, wanted)
    if overlap_ == 0:
        raise DataError("objects: expected some signal in the common region, found zeros")
    everything = (slice(0, image.shape[0]), slice(0, image.shape[1]))
    start = Fit((0.0, 0.0), (0.0, 0.0), True)
    fit = refined(image, Movable(wanted, _border(image.shape)), everything, say, start)
    image = Movable(turned(image, fit.ramp_xy)).at(fit.shift_xy)
    sizes, target = np.abs(image), np.abs(wanted)
    scale = np.sum(say * sizes * target) / np.sum(say * sizes**2)
    wrong = np.full((2, *rec.object.shape), np.nan, dtype=np.float32)
    wrong[(0, *ours)] = sizes - target / scale
    wrong[(1, *ours)] = np.angle(image * wanted.conj() * np.exp(1j * np.angle(np.vdot(image * say, wanted))))
    return Errors(wrong[0], wrong[1])


def _say(weight: Real) -> NDArray[np.float64]:
    """What each pixel has to say about the gauge: as much as light fell on it, up to what is usual."""
    part = weight / max(float(np.quantile(weight[weight > 0], 0.9)), 1e-30) if (weight > 0).any() else weight
    return np.where(part > _LEAST, np.minimum(part, 1), 0).astype(np.float64)


def _border(shape: tuple[int, ...]) -> int:
    return max(0, min(_BORDER, min(shape) - 1))
