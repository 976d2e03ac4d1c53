"""What ptychography leaves open between two images of one object, and how it is found.

    r(x)  ~  a e^{i k (x - c)} o(x - d)

``a``: global phase, and amplitude against the probe's power; ``d``: where the object lies against the probe;
``k``: a linear phase ramp, moved between object and probe without any change of a frame. ``k`` and ``d`` are found
coarsely by correlation, and from there by Gauss-Newton steps on

    sum_x w(x) | o(x) - e^{-ik(x-c)} r(x + d) / a |^2

with ``w`` falling off towards the border of what is compared. It is the reference that is interpolated while they
are sought, so an image and its moved copy are fitted alike, noise and all.

References
----------
.. [1] A. Fannjiang, "Raster grid pathology and the cure", Multiscale Model. Simul. 17, 973 (2019), on the
   ambiguities of ptychography.
.. [2] M. Guizar-Sicairos, S. T. Thurman and J. R. Fienup, "Efficient subpixel image registration algorithms",
   Opt. Lett. 33, 156 (2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

__all__ = ["Fit", "Movable", "coarse_ramp", "coarse_shift", "refined", "soft", "solved", "turned"]

STEPS = 40
_PRECISE = 1e-8
_MOST = 1 << 19
"""Pixels that are enough to fit six numbers; of larger regions every second, third ... is used."""

Complex = NDArray[np.complex128]
Pair = tuple[float, float]


def turned(values: Complex, ramp_xy: Pair, about_xy: Pair = (0.0, 0.0)) -> Complex:
    """Return the values (H, W) times ``e^{ik(x - c)}``; ``ramp_xy`` in radians per pixel, ``about_xy`` in pixels."""
    rows, columns = (np.arange(n, dtype=np.float64) for n in values.shape)
    line_x, line_y = ramp_xy[0] * (columns - about_xy[0]), ramp_xy[1] * (rows - about_xy[1])
    return values * np.exp(1j * line_y)[:, None] * np.exp(1j * line_x)


class Movable:
    """An image that can be read anywhere between its pixels, by a Fourier shift.

    Parameters
    ----------
    values : (H, W) complex array
    border : int
        Pixels by which it is continued past its edges, by reflection that falls off to its mean, so that opposite
        edges do not ring into each other. With 0 the image repeats itself, which leaves one that is the same all
        along its edges, as a stitched canvas is, free of ringing, too; and then a shift and the opposite one
        give the image back exactly.
    """

    def __init__(self, values: Complex, border: int = 0) -> None:
        self._shape, self._border = values.shape, border
        self._mean = values.mean()
        padded = values - self._mean
        if border:
            ends = [(border, fft.next_fast_len(n + 2 * border) - n - border) for n in values.shape]
            padded = np.pad(padded, ends, mode="reflect")
            lines = [
                np.concatenate([_rise(before), np.ones(n), _rise(after)[::-1]])
                for n, (before, after) in zip(values.shape, ends, strict=True)
            ]
            padded *= lines[0][:, None] * lines[1]
        self._spectrum = fft.fft2(padded)
        self._frequency = [2 * np.pi * fft.fftfreq(n) for n in padded.shape]

    def at(self, shift_xy: Pair) -> Complex:
        """Return the image moved by (x, y) pixels, (H, W)."""
        return self._back(self._moved(shift_xy)) + self._mean

    def with_gradient(self, shift_xy: Pair) -> tuple[Complex, Complex, Complex]:
        """Return the moved image and its derivatives along x and y, each (H, W)."""
        spectrum = self._moved(shift_xy)
        down, across = self._frequency
        along_x, along_y = spectrum * 1j * across, spectrum * 1j * down[:, None]
        return self._back(spectrum) + self._mean, self._back(along_x), self._back(along_y)

    def _moved(self, shift_xy: Pair) -> Complex:
        down, across = self._frequency
        turn = np.exp(-1j * shift_xy[1] * down)[:, None] * np.exp(-1j * shift_xy[0] * across)
        return np.asarray(self._spectrum * turn)

    def _back(self, spectrum: Complex) -> Complex:
        height, width = self._shape
        first = self._border
        return np.asarray(fft.ifft2(spectrum)[first : first + height, first : first + width])


def _rise(count: int) -> NDArray[np.float64]:
    """Cosine from near 0 to near 1."""
    return 0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count)


def coarse_shift(
    image: Complex, reference: Complex, region: NDArray[np.bool_], ramp_xy: Pair | None = None
) -> tuple[int, int]:
    """Return the whole pixels (x, y) by which the image must move, whatever its phase and scale.

    What is correlated are the products of neighbours, ``conj(o(x)) o(x + e)`` less their mean: to those a ramp is
    one common phase. Where the ramp is known, the images themselves are, in which noise is less. At most a quarter
    of the region's sides is looked at.
    """
    rows, columns = ndimage.find_objects(region.astype(np.int8))[0]
    inside = region[rows, columns]
    weight = soft(inside)  # so that the outline of the region is not what is registered
    full = [fft.next_fast_len(n + n // 4 + 1) for n in inside.shape]
    own, other = image[rows, columns], reference[rows, columns]
    if ramp_xy is None:
        pairs = [[np.conj(v) * np.roll(v, -1, axis) for v in (other, own)] for axis in (0, 1)]
    else:
        pairs = [[other, turned(own, ramp_xy)]]
    total = np.zeros(full)
    for pair in pairs:
        views = [fft.fft2((v - np.average(v, weights=weight)) * weight, full) for v in pair]
        total += np.abs(fft.ifft2(views[0] * views[1].conj()))
    distance = [np.minimum(np.arange(n), n - np.arange(n)) for n in full]
    near = (distance[0] <= inside.shape[0] // 4)[:, None] & (distance[1] <= inside.shape[1] // 4)
    found = np.unravel_index(int(np.argmax(np.where(near, total, -1))), total.shape)
    down, across = (int(k) if k <= n // 2 else int(k) - n for k, n in zip(found, full, strict=True))
    return across, down


def coarse_ramp(image: Complex, reference: Complex, region: NDArray[np.bool_]) -> Pair:
    """Return the ramp (x, y) in radians per pixel to half a fringe over the region: the peak of a spectrum."""
    rows, columns = ndimage.find_objects(region.astype(np.int8))[0]
    product = (image.conj() * reference * region)[rows, columns]
    full = [fft.next_fast_len(2 * n) for n in product.shape]
    found = np.unravel_index(int(np.argmax(np.abs(fft.fft2(product, full)))), tuple(full))
    y, x = (2 * np.pi * fft.fftfreq(n)[k] for k, n in zip(found, full, strict=True))
    return float(x), float(y)


@dataclass(frozen=True)
class Fit:
    """``ramp_xy``: radians per pixel; ``shift_xy``: pixels, and whether it may change; ``correlation``: 0 to 1."""

    ramp_xy: Pair
    shift_xy: Pair
    moves: bool
    correlation: float = 0.0


def soft(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return weights (H, W) that rise from the border of a region to 1 within an eighth of its shorter side."""
    rows, columns = ndimage.find_objects(region.astype(np.int8))[0]
    reach = max(4, min(rows.stop - rows.start, columns.stop - columns.start) // 8)
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    return np.asarray(np.sin(np.pi / 2 * np.clip(depth / (reach + 1), 0, 1)) ** 2)


def refined(
    image: Complex,
    reference: Movable,
    part: tuple[slice, slice],
    weight: NDArray[np.float64],
    start: Fit,
    steps: int = STEPS,
) -> Fit:
    """Return the ramp and shift of least squared difference near a start, by Gauss-Newton steps.

    Parameters
    ----------
    image : (h, w) complex array
    reference : Movable
    part : tuple of slices
        The image's rectangle in the reference.
    weight : (h, w) array
        Of each squared difference; where it is 0 nothing is compared.
    start : Fit
        Its shift stays as it is where ``moves`` is False.
    steps : int
        At most.
    """
    at = np.flatnonzero(weight)
    at = at[:: max(1, len(at) // _MOST)]
    rows, columns = np.unravel_index(at, weight.shape)
    root = np.sqrt(weight.ravel()[at])
    o = image.ravel()[at] * root
    x, y = columns - columns.mean(), rows - rows.mean()
    p = np.array([*start.ramp_xy, *start.shift_xy])
    reach = np.array([np.ptp(x) + 1, np.ptp(y) + 1, 1, 1])

    def model(p: NDArray[np.float64]) -> tuple[float, list[Complex]]:
        turn = np.exp(-1j * (p[0] * x + p[1] * y)) * root
        read = reference.with_gradient((-p[2], -p[3]))
        values = [v[part].ravel()[at] * turn for v in read]
        power, overlap = _inner(values[0], values[0]).real, _inner(values[0], o)
        if power == 0:
            return 0.0, values
        return float(abs(overlap) / np.sqrt(power)), [v * (overlap / power) for v in values]

    best, values = model(p)
    for _ in range(steps):
        m = values[0]
        slopes = [m, 1j * m, -1j * x * m, -1j * y * m] + (values[1:] if start.moves else [])
        change = solved(slopes, o - m)[2:]
        step = np.concatenate([change, np.zeros(4 - len(change))])
        while np.abs(step * reach).max() > _PRECISE:
            tried, seen = model(p + step)
            if tried >= best:
                p, best, values = p + step, tried, seen
                break
            step /= 2  # too far for the straight line that the step assumes
        if np.abs(step * reach).max() <= _PRECISE:
            break
    norm = float(np.linalg.norm(o))
    return Fit(
        (float(p[0]), float(p[1])), (float(p[2]), float(p[3])), start.moves, best / norm if norm else 0.0
    )


def _inner(first: Complex, second: Complex) -> complex:
    """``sum conj(a) b``, without the threads of ``vdot``, which wait for each other on a busy machine."""
    return complex(np.einsum("i,i->", first.conj(), second))


def solved(columns: list[Complex], rest: Complex) -> NDArray[np.float64]:
    """Real coefficients of the columns that come closest to the rest; 0 for what nothing depends on."""
    count = len(columns)
    normal = np.zeros((count, count))
    for i, j in combinations_with_replacement(range(count), 2):
        normal[i, j] = normal[j, i] = _inner(columns[i], columns[j]).real
    right = np.array([_inner(column, rest).real for column in columns])
    size = np.sqrt(np.diag(normal))
    size = np.where(size > 1e-9 * size.max(), size, np.inf)
    found = np.linalg.lstsq(normal / np.outer(size, size), right / size, rcond=1e-9)[0] / size
    return np.asarray(found)
