"""Bringing a reconstruction into the frame and gauge of a reference.

Ptychography leaves a linear phase ramp, a global phase, the amplitude against the probe's power, and the position
as a whole open; those are taken off here, and nothing else (:mod:`ptycho_torch.evaluation.gauge`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.gauge import (
    Complex,
    Fit,
    Movable,
    Pair,
    coarse_ramp,
    coarse_shift,
    refined,
    soft,
    turned,
)
from ptycho_torch.evaluation.reference import Reference

__all__ = ["GAUGES", "Aligned", "Alignment", "align", "inner_rectangle", "overlap"]

GAUGES = ("ramp", "phase", "scale", "shift")
"""What is open between two reconstructions of the same frames, and can be kept."""

_LIMIT = 0.3
_LEAST = 16
_BORDER = 32
_MARGIN = 4
"""Pixels at the border of what is known that are not compared, so that smaller shifts leave the region as it is."""


@dataclass(frozen=True)
class Alignment:
    """What was applied to the reconstruction, in this order: ramp, shift, phase and scale.

    Attributes
    ----------
    ramp_xy : tuple of float
        Radians per pixel added along x and y, zero at ``middle_xy``.
    ramp_detector_px : tuple of float or None
        The same in pixels by which it moves the frames on the detector; None when the frames' size is not known.
    shift_xy : tuple of float
        Pixels by which it was moved.
    phase : float
        Radians added.
    amplitude_scale : float
        Factor on the amplitude.
    middle_xy : tuple of float
        Scan coordinate of the middle of the compared region.
    kept : tuple of str
        Which of :data:`GAUGES` were left as they were.
    """

    ramp_xy: Pair
    ramp_detector_px: Pair | None
    shift_xy: Pair
    phase: float
    amplitude_scale: float
    middle_xy: Pair
    kept: tuple[str, ...]


@dataclass(frozen=True)
class Aligned:
    """Both objects on their common rectangle: (h, w) complex128, and the region (h, w) to be compared.

    ``origin_xy`` is the scan coordinate of pixel [0, 0].
    """

    image: NDArray[np.complex128]
    reference: NDArray[np.complex128]
    region: NDArray[np.bool_]
    origin_xy: tuple[float, float]
    alignment: Alignment


def overlap(
    origin: tuple[float, float],
    shape: tuple[int, ...],
    other: tuple[float, float],
    other_shape: tuple[int, ...],
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Row and column slices of two arrays that show the same place; origins are (x, y) of pixel [0, 0].

    Raises :class:`DataError` when they do not meet or their pixel grids do not fall on each other.
    """
    slices: list[tuple[slice, slice]] = []
    for axis in (0, 1):
        step = other[1 - axis] - origin[1 - axis]
        if abs(step - round(step)) > 1e-6:
            raise DataError(f"origin: expected pixel grids that coincide, found them {step} pixels apart")
        first = max(0, round(step))
        last = min(shape[axis], other_shape[axis] + round(step))
        if last <= first:
            raise DataError(
                "reference and reconstruction have no pixel in common: "
                f"reconstruction at {_box(origin, shape)}, reference at {_box(other, other_shape)} in (x, y)"
            )
        slices.append((slice(first, last), slice(first - round(step), last - round(step))))
    (rows, other_rows), (columns, other_columns) = slices
    return (rows, columns), (other_rows, other_columns)


def _box(origin: tuple[float, float], shape: tuple[int, ...]) -> str:
    x, y = origin
    return f"({x:g}, {y:g})..({x + shape[1]:g}, {y + shape[0]:g})"


def inner_rectangle(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """A large rectangle that lies wholly in the mask, found by cutting off the worst side again and again.

    Empty slices when the mask is empty.
    """
    sums = np.pad(np.cumsum(np.cumsum(~mask, 0, dtype=np.int64), 1), ((1, 0), (1, 0)))
    top, left = 0, 0
    bottom, right = mask.shape

    def wrong(t: int, b: int, x: int, y: int) -> float:
        count = sums[b, y] - sums[t, y] - sums[b, x] + sums[t, x]
        return float(count) / ((b - t) * (y - x))

    while bottom > top and right > left and wrong(top, bottom, left, right) > 0:
        sides = (
            wrong(top, top + 1, left, right),
            wrong(bottom - 1, bottom, left, right),
            wrong(top, bottom, left, left + 1),
            wrong(top, bottom, right - 1, right),
        )
        worst = int(np.argmax(sides))
        if sides[worst] == 0:  # a hole inside: cut the longer side
            worst = 1 if bottom - top >= right - left else 3
        if worst == 0:
            top += 1
        elif worst == 1:
            bottom -= 1
        elif worst == 2:
            left += 1
        else:
            right -= 1
    return slice(top, bottom), slice(left, right)


def align(
    image: Reference,
    reference: Reference,
    *,
    keep: Collection[str] = (),
    region: NDArray[np.bool_] | None = None,
) -> Aligned:
    """Crop both to their common rectangle and put ``image`` into the gauge of ``reference``.

    Parameters
    ----------
    image, reference : Reference
        What is moved, and what it is compared with.
    keep : collection of str
        Which of "ramp", "phase", "scale" and "shift" are left as they are, so that they count as errors.
    region : (H, W) bool array, optional
        Part of the image's own canvas to compare; default: all that is known.

    Returns
    -------
    Aligned
        Both on their common rectangle. Compared is where both weights exceed 0.3 of their maximum and, unless the shift
        is kept, so they do four pixels around: a shift up to that size leaves the region as it is. The phase is
        that of ``sum conj(o) r``, the amplitude scale ``sum |o||r| / sum |o|^2``, both over the region.

    Raises
    ------
    DataError
        When there is nothing in common to compare, or ``keep`` has another word.
    """
    kept = _kept(keep)
    known = _Known(image, reference, _wanted(image, region), 0 if "shift" in kept else _MARGIN)
    ours = known.ours
    values, other = (part.object.astype(np.complex128) for part in (image, reference))
    target, still = other[known.theirs], known.at((0.0, 0.0))
    _require(still)
    if not np.any(values[ours][still]) or not np.any(target[still]):
        raise DataError("objects: zeros everywhere in the common region, so there is nothing to align")
    fit = _fitted(values, other, known, "shift" not in kept)
    common = known.at(fit.shift_xy)
    _require(common)
    rows, columns = (float(index.mean()) for index in np.nonzero(common))
    about = (columns + ours[1].start, rows + ours[0].start)
    ramp = (0.0, 0.0) if "ramp" in kept else fit.ramp_xy
    moved = _moved(values, ramp, about, fit.shift_xy, "shift" not in kept)[ours]
    o, r = moved[common], target[common]
    phase = 0.0 if "phase" in kept else float(np.angle(np.vdot(o, r)))
    scale = 1.0 if "scale" in kept else float(np.sum(np.abs(o) * np.abs(r)) / np.sum(np.abs(o) ** 2))
    x, y = image.origin_xy
    on_detector = None
    if image.frame_size is not None:
        on_detector = (ramp[0] * image.frame_size / (2 * np.pi), ramp[1] * image.frame_size / (2 * np.pi))
    middle = (x + about[0], y + about[1])
    record = Alignment(ramp, on_detector, fit.shift_xy, phase, scale, middle, kept)
    origin = (x + ours[1].start, y + ours[0].start)
    return Aligned(moved * scale * np.exp(1j * phase), target, common, origin, record)


def _moved(values: Complex, ramp_xy: Pair, about_xy: Pair, shift_xy: Pair, move: bool) -> Complex:
    """The values with a ramp, then moved; the ramp is zero at ``about_xy``, once it is there."""
    tilted = turned(values, ramp_xy, (about_xy[0] - shift_xy[0], about_xy[1] - shift_xy[1]))
    return Movable(tilted).at(shift_xy) if move else tilted


def _kept(keep: Collection[str]) -> tuple[str, ...]:
    words = (keep,) if isinstance(keep, str) else tuple(keep)
    unknown = [word for word in words if word not in GAUGES]
    if unknown:
        raise DataError(f"keep: expected some of {', '.join(GAUGES)}, found {', '.join(unknown)}")
    return tuple(gauge for gauge in GAUGES if gauge in words)


def _wanted(image: Reference, region: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    if region is None:
        return np.ones(image.object.shape, bool)
    if region.shape != image.object.shape or region.dtype != bool:
        raise DataError(
            f"region: expected bool of shape {image.object.shape}, found {region.dtype} of {region.shape}"
        )
    return region


class _Known:
    """What is known of an image and a reference, by the shift of the image."""

    def __init__(
        self, image: Reference, reference: Reference, wanted: NDArray[np.bool_], margin: int
    ) -> None:
        self.ours, self.theirs = overlap(
            image.origin_xy, image.object.shape, reference.origin_xy, reference.object.shape
        )
        self._image, self._reference = (
            part.weight > _LIMIT * part.weight.max(initial=0) for part in (image, reference)
        )
        self._wanted, self._margin = wanted[self.ours], margin

    def at(self, shift_xy: Pair) -> NDArray[np.bool_]:
        """Return which pixels of the common rectangle are to be compared once the image is moved, (h, w) bool."""
        ours, theirs = self._moved(self._image, shift_xy), self._moved(self._reference, (0.0, 0.0))
        return ours[self.ours] & theirs[self.theirs] & self._wanted

    def before(self, shift_xy: Pair) -> NDArray[np.bool_]:
        """Return the same pixels as they lie before the image is moved."""
        back = (-shift_xy[0], -shift_xy[1])
        ours, theirs = self._moved(self._image, (0.0, 0.0)), self._moved(self._reference, back)
        return ours[self.ours] & theirs[self.theirs] & self._moved(self._wanted, back, 0)

    def _moved(self, mask: NDArray[np.bool_], shift_xy: Pair, margin: int | None = None) -> NDArray[np.bool_]:
        margin = self._margin if margin is None else margin
        if max(np.abs(shift_xy)) > self._margin:
            mask = ndimage.shift(mask.astype(float), shift_xy[::-1], order=1) > 0.999
        # Pixels whose neighbours up to the margin are all in the mask; beyond the array there are none.
        inner = ndimage.minimum_filter(mask.astype(np.uint8), 2 * margin + 1, mode="constant")
        return np.asarray(inner.astype(bool))


def _fitted(values: Complex, reference: Complex, known: _Known, move: bool) -> Fit:
    """Ramp and shift between an image and a reference, from the better of two starts."""
    image, target = values[known.ours], reference[known.theirs]
    starts: list[Pair] = [(0.0, 0.0)]
    if move:
        x, y = coarse_shift(image, target, known.before((0.0, 0.0)))
        if (x, y) != (0, 0):
            starts.append((float(x), float(y)))
    view, fits = Movable(reference, _BORDER), []
    for start in starts:
        region = known.before(start)
        if np.count_nonzero(region) < _LEAST:
            continue
        rolled = np.roll(reference, (-int(start[1]), -int(start[0])), (0, 1))[known.theirs]
        ramp = coarse_ramp(image, rolled, region)
        fits.append(refined(image, view, known.theirs, soft(region), Fit(ramp, start, move)))
    return max(fits, key=lambda fit: fit.correlation)


def _require(common: NDArray[np.bool_]) -> None:
    count = np.count_nonzero(common)
    if count < _LEAST:
        raise DataError(
            f"region: expected at least {_LEAST} pixels known in both, found {count}; "
            "check origins, positions and the region asked for"
        )
