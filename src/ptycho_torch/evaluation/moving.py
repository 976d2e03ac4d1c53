"""How an image is moved, so that what was done to its canvas is undone.

    o(x)  ->  e^{i (k - b) (x - c)} S_d [ e^{i b (x - c + d)} o(x) ]

``k`` is the ramp, ``S_d`` a shift by Fourier series. In the plane every ``b`` gives the same. On a canvas opposite
edges meet: where they differ, as they do under a ramp, they ring, far into the image. If somebody moved a canvas so
before he put a ramp on it or after, there is one ``d`` and one ``b`` by which that ringing goes away again without a
trace. A reconstruction tells which: it was 0 where no light fell, and is so again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.evaluation.gauge import Complex, Movable, Pair, solved, turned

__all__ = ["Target", "brought", "is_dark", "put_back"]

_BORDER = 32
_STEPS = 15
_DARK = 1e-4
"""Part of an image's amplitude that is none."""
_LEAST = 16
"""Dark pixels that are enough to tell by."""


@dataclass(frozen=True)
class Target:
    """What an image is compared with.

    ``values``: (h, w) complex; ``part``: rows and columns of the canvas that they are to be compared with; ``weight``:
    (h, w), of the squared difference at each pixel.
    """

    values: Complex
    part: tuple[slice, slice]
    weight: NDArray[np.float64]

    def likeness(self, image: Complex) -> float:
        """Return the squared correlation of a canvas with the target, 0 to 1."""
        there = image[self.part]
        own, other = (float(np.sum(self.weight * np.abs(v) ** 2)) for v in (there, self.values))
        together = abs(complex(np.sum(self.weight * there.conj() * self.values))) ** 2
        return together / (own * other) if own * other else 0.0


class _Way:
    """A canvas that gets a ramp, part of it before it is moved and the rest after; zero at ``about`` in the end."""

    def __init__(self, values: Complex, ramp_xy: Pair, shift_xy: Pair, about_xy: Pair) -> None:
        self._values, self._ramp, self._shift, self._after = values, ramp_xy, shift_xy, about_xy
        self._before = (about_xy[0] - shift_xy[0], about_xy[1] - shift_xy[1])

    def by(self, before: Pair) -> Complex:
        """Return the canvas (H, W) with so much of the ramp before."""
        return self._finished(Movable(turned(self._values, before, self._before)).at(self._shift), before)

    def slopes(self, before: Pair) -> list[Complex]:
        """Return the canvas and its derivatives by the shift (x, y) and the ramp before (x, y)."""
        turn = turned(self._values, before, self._before)
        image, along_x, along_y = (
            self._finished(part, before) for part in Movable(turn).with_gradient(self._shift)
        )
        by_ramp = []
        for axis, count in ((0, image.shape[1]), (1, image.shape[0])):
            early, late = (
                1j * np.expand_dims(np.arange(count) - zero[axis], axis)
                for zero in (self._before, self._after)
            )
            by_ramp.append(self._finished(Movable(turn * early).at(self._shift), before) - late * image)
        return [image, -along_x, -along_y, *by_ramp]

    def faded(self, target: Target) -> Complex:
        """Return the canvas where it falls off to its mean between what is compared and its edges, (H, W)."""
        turn = turned(self._values, self._ramp, self._before)
        height, width = turn.shape
        here = np.zeros((height, width), bool)
        here[target.part] = target.weight > 0
        rows, columns = ndimage.find_objects(here.astype(np.int8))[0]
        sides = (rows.start, columns.start, height - rows.stop, width - columns.stop)
        border = max(0, _BORDER - min(sides))
        inward = [
            np.minimum(np.arange(n), np.arange(n)[::-1]) for n in (height + 2 * border, width + 2 * border)
        ]
        edge = np.minimum(inward[0][:, None], inward[1])
        away = ndimage.distance_transform_edt(~np.pad(here, border))
        falling = np.sin(np.pi / 2 * edge / np.maximum(edge + away, 1)) ** 2
        mean = turn[here].mean()
        wide = np.pad(turn - mean, border, mode="reflect") * falling + mean
        inside = Movable(wide).at(self._shift)[border : border + height, border : border + width]
        return self._finished(inside, self._ramp)

    def _finished(self, moved: Complex, before: Pair) -> Complex:
        return turned(moved, (self._ramp[0] - before[0], self._ramp[1] - before[1]), self._after)


def brought(
    values: Complex, ramp_xy: Pair, shift_xy: Pair, about_xy: Pair, target: Target, *, late: bool = True
) -> Complex:
    """Return a canvas with a ramp and moved, (H, W), in the way that is most like the target.

    The ramp comes first or, if it may, last; or the canvas fades out towards its edges before it is moved. That helps
    an image that was moved by its neighbourhood alone, as splines do, so that its edges do not fit each other at all.

    Parameters
    ----------
    values : (H, W) complex array
    ramp_xy : tuple of float
        Radians per pixel, as in :func:`~ptycho_torch.evaluation.gauge.turned`.
    shift_xy : tuple of float
        Pixels.
    about_xy : tuple of float
        Where on the canvas the ramp is zero, once the image is there.
    target : Target
    late : bool
        Whether the ramp may come last: no for an image whose canvas nobody has moved.
    """
    if not any(shift_xy):
        return turned(values, ramp_xy, about_xy)
    way = _Way(values, ramp_xy, shift_xy, about_xy)
    ways = [way.by(ramp_xy), way.faded(target)] + ([way.by((0.0, 0.0))] if late else [])
    return max(ways, key=target.likeness)


def is_dark(values: Complex, dark: NDArray[np.bool_]) -> bool:
    """Whether an image is 0 where it should be, and there are such pixels."""
    size = np.abs(values)
    return bool(dark.any() and not dark.all() and size[dark].max() <= _DARK * size[~dark].mean())


def put_back(
    values: Complex, dark: NDArray[np.bool_], ramp_xy: Pair, shift_xy: Pair
) -> tuple[Complex, Pair] | None:
    """Return a canvas that was moved where it was, and by which shift it came there.

    Parameters
    ----------
    values : (H, W) complex array
    dark : (H, W) bool array
        Where it was 0 before.
    ramp_xy, shift_xy : tuple of float
        What takes it to a reference: nearly what was done to it, the other way round.

    Returns
    -------
    tuple or None
        None where it is still as it was, and where no shift makes it dark again.
    """
    if np.count_nonzero(dark) < _LEAST or is_dark(values, dark):
        return None
    whole = (float(round(shift_xy[0])), float(round(shift_xy[1])))
    # The reference may lie elsewhere by whole pixels for another reason.
    rest = (shift_xy[0] - whole[0], shift_xy[1] - whole[1])
    for shift in (whole, shift_xy, rest):
        for before in (ramp_xy, (0.0, 0.0)):
            found = _darkened(values, dark, shift, before)
            if is_dark(found[0], dark):
                return found
    return None


def _darkened(values: Complex, dark: NDArray[np.bool_], shift_xy: Pair, before: Pair) -> tuple[Complex, Pair]:
    """The canvas as dark as a shift and a ramp before it make it, by Gauss-Newton steps, and the shift."""
    about = ((values.shape[1] - 1) / 2, (values.shape[0] - 1) / 2)
    p = np.array([*shift_xy, *before])

    def way(p: NDArray[np.float64]) -> _Way:
        return _Way(values, (0.0, 0.0), (float(p[0]), float(p[1])), about)

    def light(p: NDArray[np.float64]) -> tuple[float, Complex]:
        image = way(p).by((float(p[2]), float(p[3])))
        return float(np.linalg.norm(image[dark])), image

    least, image = light(p)
    for _ in range(_STEPS):
        if is_dark(image, dark) and least == 0:
            break
        here, *slopes = (part[dark] for part in way(p).slopes((float(p[2]), float(p[3]))))
        step = solved(slopes, -here)
        for _ in range(5):
            tried, other = light(p + step)
            if tried < least:
                break
            step /= 2  # too far for the straight line that the step assumes
        else:
            break
        p, done = p + step, tried > 0.99 * least
        least, image = tried, other
        if done:
            break
    return image, (float(p[0]), float(p[1]))
