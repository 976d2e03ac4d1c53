"""Bringing a reconstruction into the frame and gauge of a reference.

Ptychography leaves a global phase, the amplitude against the probe's power, and the position as a
whole open; those are fixed here, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.reference import Reference

__all__ = ["Aligned", "Alignment", "align", "inner_rectangle", "overlap"]

_LIMIT = 0.3


@dataclass(frozen=True)
class Alignment:
    """What was applied to the reconstruction, in this order.

    ``shift_xy``: pixels by which it was moved, (0, 0) unless registration was asked for.
    ``phase``: radians added. ``amplitude_scale``: factor on the amplitude.
    """

    shift_xy: tuple[float, float]
    phase: float
    amplitude_scale: float


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
                "reference: expected to show some of the same place as the reconstruction, found no common pixel: "
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
    image: Reference, reference: Reference, *, register: bool = False, region: NDArray[np.bool_] | None = None
) -> Aligned:
    """Crops both to their common rectangle and puts ``image`` into the gauge of ``reference``.

    The region is where both weights exceed 0.3 of their maximum, and where ``region`` (H, W) on the
    image's own canvas is true. The phase is that of ``sum conj(o) r``, the amplitude scale
    ``sum |o||r| / sum |o|^2``, both over the region. ``register`` moves the image by a sub-pixel shift
    found by phase correlation of the complex objects.

    Raises :class:`DataError` when there is nothing in common to compare.
    """
    known = image.weight > _LIMIT * image.weight.max(initial=0)
    if region is not None:
        if region.shape != image.object.shape or region.dtype != bool:
            raise DataError(
                f"region: expected bool of shape {image.object.shape}, found {region.dtype} of {region.shape}"
            )
        known &= region
    ours, theirs = overlap(image.origin_xy, image.object.shape, reference.origin_xy, reference.object.shape)
    x, y = image.origin_xy[0] + ours[1].start, image.origin_xy[1] + ours[0].start
    target = reference.object[theirs].astype(np.complex128)
    theirs_known = (reference.weight > _LIMIT * reference.weight.max(initial=0))[theirs]
    moved, common = image.object[ours].astype(np.complex128), known[ours] & theirs_known
    _require(common)
    shift = (0.0, 0.0)
    if register:
        shift = _registration(moved, target, common)
        whole = image.object.astype(np.complex128)
        real, imaginary = (
            ndimage.shift(part, shift, order=3, mode="nearest") for part in (whole.real, whole.imag)
        )
        # A pixel counts when all that it was interpolated from was known.
        still = ndimage.binary_erosion(ndimage.shift(known.astype(float), shift, order=1) > 0.999)
        moved, common = (real + 1j * imaginary)[ours], still[ours] & theirs_known
        _require(common)
    o, r = moved[common], target[common]
    power = float(np.sum(np.abs(o) ** 2))
    if power == 0 or not np.any(r):
        raise DataError("objects: expected some signal in the common region, found zeros")
    phase = float(np.angle(np.vdot(o, r)))
    scale = float(np.sum(np.abs(o) * np.abs(r))) / power
    record = Alignment((float(shift[1]), float(shift[0])), phase, scale)
    return Aligned(moved * scale * np.exp(1j * phase), target, common, (x, y), record)


def _require(common: NDArray[np.bool_]) -> None:
    if np.count_nonzero(common) < 16:
        raise DataError(
            f"region: expected at least 16 pixels known in both, found {np.count_nonzero(common)}; "
            "check origins, positions and the region asked for"
        )


def _registration(
    image: NDArray[np.complex128], reference: NDArray[np.complex128], region: NDArray[np.bool_]
) -> tuple[float, float]:
    """(rows, columns) by which the image must move."""
    from skimage.registration import phase_cross_correlation

    rows, columns = ndimage.find_objects(region.astype(np.int8))[0]
    inside = region[rows, columns]
    # A soft edge, so that the outline of the region is not what is registered.
    soft = np.clip(
        ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1] / max(4, min(inside.shape) // 8), 0, 1
    )
    views = []
    for values in (reference[rows, columns], image[rows, columns]):
        mean = np.sum(values * soft) / np.sum(soft)
        views.append((values - mean) * soft)
    found, _, _ = phase_cross_correlation(*views, upsample_factor=100, normalization=None)
    return float(found[0]), float(found[1])
