"""Bringing a reconstruction into the frame and gauge of a reference.

Ptychography leaves a linear phase ramp, a global phase, the amplitude against the probe's power, and the position
as a whole open; those are taken off here, and nothing else (:mod:`ptycho_torch.evaluation.gauge`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

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
from ptycho_torch.evaluation.moving import Target, brought, is_dark, put_back
from ptycho_torch.evaluation.reference import Reference

__all__ = ["GAUGES", "Aligned", "Alignment", "align", "overlap"]

GAUGES = ("ramp", "phase", "scale", "shift")
"""What is open between two reconstructions of the same frames, and can be kept."""

_LIMIT = 0.3
_LEAST = 16
_BORDER = 32
_ROUNDS = 6
_SHORT = 5
"""Steps of a correction."""
_FARTHEST = 0.75
"""Pixels by which an image is moved beyond the whole ones that were found first, before more of these are."""
_SETTLED = 1e-6
"""Pixels of shift, and radians over the canvas, of a correction that is none any more."""
_FAR = 8
"""Pixels of shift from which differences can tell whether weights moved along."""
_MARGIN = 4
"""Pixels at the border of what is known that are not compared where the image may move."""
_Following = Literal["still", "whole", "fully"]
"""Whether weights are where the image was moved from, moved by whole pixels with it, or exactly as far."""
_WAYS: tuple[_Following, _Following] = ("still", "fully")
_TOO_LITTLE = (
    f"region: expected at least {_LEAST} pixels known in both, found {{found}}; "
    "check origins, positions and the region asked for"
)


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
        is kept, so they do four pixels around. The image's weights are taken to have moved with it where it is
        dark outside them; else to lie where they lay. The phase is that of ``sum conj(o) r``, the amplitude scale
        ``sum |o||r| / sum |o|^2``, both over the region.

    Raises
    ------
    DataError
        When there is nothing in common to compare, or ``keep`` has another word.
    """
    kept = _kept(keep)
    move = "shift" not in kept
    pair = _Pair(image, reference, _wanted(image, region), _MARGIN if move else 0)
    still = pair.laid((0, 0))
    _require(still.region((0.0, 0.0)))
    there = still.region((0.0, 0.0))
    if not np.any(still.values[still.ours][there]) or not np.any(still.target[there]):
        raise DataError("objects: zeros everywhere in the common region, so there is nothing to align")
    fit = _fitted(pair, still, move)
    if move and (before := put_back(pair.values, pair.weight <= 0, fit.ramp_xy, fit.shift_xy)):
        pair.put_back(*before)
        fit = _fitted(pair, pair.laid((0, 0)), move)
    for _ in range(_ROUNDS):
        whole = (round(fit.shift_xy[0]), round(fit.shift_xy[1])) if move else (0, 0)
        near = Fit(fit.ramp_xy, (fit.shift_xy[0] - whole[0], fit.shift_xy[1] - whole[1]), move)
        following = _following(pair, whole, near) if move else "still"
        both, fit = pair.gauged(pair.laid(whole, following), near, kept)
        if not move or max(abs(s) for s in fit.shift_xy) <= _FARTHEST:
            break
        fit = dataclasses.replace(fit, shift_xy=_sum(fit.shift_xy, (float(whole[0]), float(whole[1]))))
    return both


def _following(pair: _Pair, whole_xy: tuple[int, int], near: Fit) -> _Following:
    """How the weights of an image that was moved moved with it; not at all, where nothing tells."""
    if whole_xy == (0, 0):
        return "still"
    size, lit = np.abs(pair.values), pair.weight > 0
    # Nothing was solved for where no light fell.
    if is_dark(pair.values, ~lit):
        return "whole"
    if max(abs(w + s) for w, s in zip(whole_xy, near.shift_xy, strict=True)) < 1:
        return "still"
    # Had only the object moved, it would lie there now.
    newly = ~lit & ndimage.shift(lit, (-whole_xy[1], -whole_xy[0]), order=0)
    if np.count_nonzero(newly) >= _LEAST:
        beside = lit & ndimage.binary_dilation(newly, iterations=2)
        return "fully" if size[newly].mean() < 0.5 * size[beside].mean() else "still"
    if max(map(abs, whole_xy)) < _FAR:
        return "still"
    ways = [pair.laid(whole_xy, how) for how in _WAYS]
    able = [laid for laid in ways if np.count_nonzero(laid.region(near.shift_xy)) >= _LEAST]
    if len(able) < 2:
        return able[0].following if able else "fully"
    weights = [laid.inside(laid.weight(near.shift_xy)) for laid in able]
    there = np.maximum(*weights) > 0.1
    both = [pair.gauged(laid, near, ())[0] for laid in able]
    error = np.minimum(*(np.abs(one.image - one.reference)[there] for one in both))
    worse = np.log(error + 1e-9 * error.mean())
    # The better weights are those that fall where differences grow.
    told = [float(np.mean((worse - worse.mean()) * np.log(weight[there].clip(0.1)))) for weight in weights]
    return _WAYS[int(told[1] < told[0])]


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


class _Laid:
    """An image on the pixel grid of a reference, moved by whole pixels.

    ``values``: its whole canvas (H, W); ``ours`` and ``theirs``: the rectangle that both show, in it and in the
    reference; ``target`` (h, w): the reference there. ``following``: whether its weights are moved, too.
    """

    def __init__(self, pair: _Pair, whole_xy: tuple[int, int], following: _Following) -> None:
        self.whole_xy, self.following, self._pair = whole_xy, following, pair
        self.values = pair.values
        place = (pair.place[0] + whole_xy[0], pair.place[1] + whole_xy[1])
        self.ours, self.theirs = overlap(place, self.values.shape, (0.0, 0.0), pair.reference.shape)
        self.target = pair.reference[self.theirs]

    def weight(self, shift_xy: Pair) -> NDArray[np.float64]:
        """Return the image's weights once it is moved further, on its canvas and a border, 1 at most."""
        x, y = {"fully": shift_xy, "whole": (0, 0), "still": (-self.whole_xy[0], -self.whole_xy[1])}[
            self.following
        ]
        weight = np.pad(self._pair.weight, self._border)
        return ndimage.shift(weight, (y, x), order=1) if x or y else weight

    def region(self, shift_xy: Pair) -> NDArray[np.bool_]:
        """Return which pixels of the rectangle are to be compared once the image is moved further, (h, w) bool."""
        known = _eroded(self.weight(shift_xy) > _LIMIT, self._pair.margin)
        shown = np.ones(self.values.shape, bool)
        if max(map(abs, self.whole_xy)) > self._pair.margin:
            shown = _eroded(shown, self._pair.margin)
        inside = self.inside(known) & (self._pair.wanted & shown)[self.ours]
        return np.asarray(inside & self._pair.known[self.theirs])

    def inside(self, bordered: NDArray[Any]) -> NDArray[Any]:
        """Return the rectangle of what :meth:`weight` has."""
        return bordered[
            tuple(slice(part.start + self._border, part.stop + self._border) for part in self.ours)
        ]

    @property
    def _border(self) -> int:
        return self._pair.margin + 1 + max(map(abs, self.whole_xy))


class _Pair:
    """An image and a reference, and what is known of each.

    A file does not say whether weights moved with the object, as they do where positions move, or stayed, as they do
    where somebody moves the array of the object alone. Both can be laid out.
    """

    def __init__(
        self, image: Reference, reference: Reference, wanted: NDArray[np.bool_], margin: int
    ) -> None:
        self.image, self.margin, self.wanted = image, margin, wanted
        self.values, self.reference = (part.object.astype(np.complex128) for part in (image, reference))
        self.moved: Pair = (0.0, 0.0)
        self.weight = _relative(image.weight)
        self.known = _eroded(_relative(reference.weight) > _LIMIT, margin)
        self.origin = reference.origin_xy
        steps = [mine - other for mine, other in zip(image.origin_xy, reference.origin_xy, strict=True)]
        self.place = (float(round(steps[0])), float(round(steps[1])))
        self.fraction = (steps[0] - self.place[0], steps[1] - self.place[1])
        self.view = Movable(self.reference, _BORDER)

    def put_back(self, values: Complex, by_xy: Pair) -> None:
        """Take a canvas that was moved for the image; what is wanted of it moves along."""
        self.values, self.moved = values, by_xy
        self.wanted = ndimage.shift(self.wanted, (round(by_xy[1]), round(by_xy[0])), order=0)

    def laid(self, whole_xy: tuple[int, int], following: _Following = "fully") -> _Laid:
        """Return the image moved by whole pixels, with its weights or without."""
        return _Laid(self, whole_xy, following)

    def fit(self, laid: _Laid, start: Fit) -> Fit:
        """Return ramp and shift of what is laid out, near a start."""
        # Weights lie still in the reference, wherever the image's pixels fall between its own.
        weight = soft(laid.region(start.shift_xy))
        if any(start.shift_xy):
            weight = ndimage.shift(weight, (-start.shift_xy[1], -start.shift_xy[0]), order=1)
        return refined(laid.values[laid.ours], self.view, laid.theirs, weight, start)

    def gauged(self, laid: _Laid, near: Fit, kept: tuple[str, ...]) -> tuple[Aligned, Fit]:
        """Return both in one gauge, and the ramp and shift by which they are."""
        _require(laid.region(near.shift_xy))
        fit = self.fit(laid, near)
        image, common = self._brought(laid, fit)
        last = float("inf")
        for _ in range(_ROUNDS):
            # What a canvas has lost to ringing is back now, and with it what the fit may still be off by.
            none = Fit((0.0, 0.0), (0.0, 0.0), fit.moves)
            more = refined(image[laid.ours], self.view, laid.theirs, soft(common), none, _SHORT)
            fit = dataclasses.replace(
                more, ramp_xy=_sum(fit.ramp_xy, more.ramp_xy), shift_xy=_sum(fit.shift_xy, more.shift_xy)
            )
            image, common = self._brought(laid, fit)
            left = max(map(abs, (*more.shift_xy, *(k * max(image.shape) for k in more.ramp_xy))))
            if left < _SETTLED or left > last / 2:  # else an image that is not like the reference wanders
                break
            last = left
        return self._recorded(laid, fit, kept, image, common), fit

    def _brought(self, laid: _Laid, fit: Fit) -> tuple[Complex, NDArray[np.bool_]]:
        """Return the whole canvas with ramp and shift, and what is then to be compared."""
        common = laid.region(fit.shift_xy)
        _require(common)
        about = _middle(common, laid.ours)
        target = Target(laid.target, laid.ours, soft(common))
        late = not is_dark(self.values, self.weight <= 0)
        return brought(laid.values, fit.ramp_xy, fit.shift_xy, about, target, late=late), common

    def _recorded(
        self, laid: _Laid, fit: Fit, kept: tuple[str, ...], image: Complex, common: NDArray[np.bool_]
    ) -> Aligned:
        """Take off phase and scale, put back a ramp that is kept, and say so."""
        about = _middle(common, laid.ours)
        ramp = fit.ramp_xy
        if "ramp" in kept:
            image, ramp = turned(image, (-ramp[0], -ramp[1]), about), (0.0, 0.0)
        image = image[laid.ours]
        o, r = image[common], laid.target[common]
        phase = 0.0 if "phase" in kept else float(np.angle(np.vdot(o, r)))
        scale = 1.0 if "scale" in kept else float(np.sum(np.abs(o) * np.abs(r)) / np.sum(np.abs(o) ** 2))
        origin = _sum(self.origin, (float(laid.theirs[1].start), float(laid.theirs[0].start)))
        size = self.image.frame_size
        parts = zip(laid.whole_xy, fit.shift_xy, self.moved, self.fraction, strict=True)
        x, y = (whole + shift + moved - fraction for whole, shift, moved, fraction in parts)
        record = Alignment(
            ramp,
            None if size is None else (ramp[0] * size / (2 * np.pi), ramp[1] * size / (2 * np.pi)),
            (x, y),
            phase,
            scale,
            _sum(origin, (about[0] - laid.ours[1].start, about[1] - laid.ours[0].start)),
            kept,
        )
        return Aligned(image * scale * np.exp(1j * phase), laid.target, common, origin, record)


def _sum(one: Pair, other: Pair) -> Pair:
    return one[0] + other[0], one[1] + other[1]


def _middle(common: NDArray[np.bool_], ours: tuple[slice, slice]) -> Pair:
    """Middle (x, y) of a region of a rectangle, on the canvas."""
    rows, columns = (float(index.mean()) for index in np.nonzero(common))
    return columns + ours[1].start, rows + ours[0].start


def _relative(weight: NDArray[np.floating]) -> NDArray[np.float64]:
    return weight.astype(np.float64) / max(float(weight.max(initial=0)), 1e-300)


def _eroded(mask: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Pixels whose neighbours up to the margin are all in the mask; beyond the array there are none."""
    inner = ndimage.minimum_filter(mask.astype(np.uint8), 2 * margin + 1, mode="constant")
    return np.asarray(inner.astype(bool))


def _fitted(pair: _Pair, still: _Laid, move: bool) -> Fit:
    """Ramp and shift between an image and a reference, from the best of a few starts."""
    if not move:
        region = still.region((0.0, 0.0))
        ramp = coarse_ramp(still.values[still.ours], still.target, region)
        return pair.fit(still, Fit(ramp, pair.fraction, False))
    own, region = still.values[still.ours], still.region((0.0, 0.0))
    plain = coarse_ramp(own, still.target, region)
    starts = dict.fromkeys(
        [
            (0, 0),
            coarse_shift(own, still.target, region),
            coarse_shift(own, still.target, region, plain),
        ]
    )
    fits = []
    for start in starts:
        try:
            laid = pair.laid(start)
        except DataError:
            continue
        region = laid.region((0.0, 0.0))
        if np.count_nonzero(region) < _LEAST:
            continue
        ramp = coarse_ramp(laid.values[laid.ours], laid.target, region)
        fit = pair.fit(laid, Fit(ramp, (0.0, 0.0), True))
        total = (start[0] + fit.shift_xy[0], start[1] + fit.shift_xy[1])
        fits.append(dataclasses.replace(fit, shift_xy=total))
    return max(fits, key=lambda fit: fit.correlation)


def _require(common: NDArray[np.bool_]) -> None:
    count = np.count_nonzero(common)
    if count < _LEAST:
        raise DataError(_TOO_LITTLE.format(found=count))
