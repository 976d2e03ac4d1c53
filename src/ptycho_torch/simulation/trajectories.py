"""Scan positions (M, 2) = (x, y) in object pixels, for windows that stay within the object."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError

__all__ = ["TRAJECTORY_NAMES", "grid", "make_positions", "random", "spiral"]

Points = NDArray[np.float64]

TRAJECTORY_NAMES = ("grid", "random", "spiral")


def _axis(extent: float, step: float) -> Points:
    steps = math.floor(extent / step + 1e-9)
    return np.arange(steps + 1, dtype=np.float64) * step + (extent - steps * step) / 2


def grid(width: float, height: float, step: float) -> Points:
    """A raster over ``width`` x ``height`` pixels, centred, row by row."""
    x, y = np.meshgrid(_axis(width, step), _axis(height, step))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def random(width: float, height: float, count: int, rng: np.random.Generator) -> Points:
    """``count`` independent positions, uniform over the area."""
    return rng.uniform(0, 1, (count, 2)) * [width, height]


def spiral(width: float, height: float, step: float) -> Points:
    """A Fermat spiral, ``r = step sqrt((n + 1/2) / pi)`` at n golden angles, cut to the area.

    One position for each ``step**2`` of area; from the centre outwards. Source: Huang et al.,
    Opt. Express 22, 12634 (2014).
    """
    count = math.ceil(np.pi * (np.hypot(width, height) / 2 / step) ** 2) + 1
    n = np.arange(count)
    radius, angle = step * np.sqrt((n + 0.5) / np.pi), n * np.pi * (3 - np.sqrt(5))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    inside = (np.abs(points) <= [width / 2, height / 2]).all(axis=1)
    return points[inside] + [width / 2, height / 2]


def make_positions(
    name: str,
    shape: tuple[int, int],
    size: int,
    *,
    step: float | None = None,
    count: int | None = None,
    jitter: float = 0.0,
    seed: int = 0,
) -> Points:
    """Make the positions of a scan.

    Parameters
    ----------
    name : str
        ``grid``, ``random`` or ``spiral``.
    shape : (H, W)
        Of the object.
    size : int
        N of the frames.
    step : float, optional
        Spacing in pixels.
    count : int, optional
        Number of frames. One of ``step`` and ``count`` fixes the density; with both the first ``count`` are kept.
    jitter : float
        Standard deviation in pixels of random shifts; shifted positions are kept inside.
    seed : int

    Returns
    -------
    (M, 2) float64 array
        (x, y), pixels; a frame's pixel [N//2, N//2] lies at its position.

    Raises
    ------
    DataError
        For an object smaller than a frame, for step and count both missing or not positive, and for more positions
        than there is room for at that step.

    Examples
    --------
    >>> make_positions("grid", (40, 40), 32, step=8).tolist()
    [[16.0, 16.0], [24.0, 16.0], [16.0, 24.0], [24.0, 24.0]]
    """
    if name not in TRAJECTORY_NAMES:
        raise DataError(f"scan: expected one of {', '.join(TRAJECTORY_NAMES)}, found {name!r}")
    height, width = shape[0] - size, shape[1] - size
    if height < 0 or width < 0:
        raise DataError(f"object: expected at least {size}x{size} pixels as the probe, found {shape}")
    if step is None and count is None:
        raise DataError("step: give a step in pixels or a count of frames")
    for what, value in (("step", step), ("count", count)):
        if value is not None and not 0 < value < math.inf:
            raise DataError(f"{what}: expected a finite number above 0, found {value}")
    if not 0 <= jitter < math.inf:
        raise DataError(f"jitter: expected a finite number, 0 or more, found {jitter}")
    rng = np.random.default_rng(seed)
    spacing = (
        step if step is not None else max(math.sqrt(max(width, 1) * max(height, 1) / (count or 1)), 1e-6)
    )
    if name == "random":
        points = random(width, height, count or max(1, round(width * height / spacing**2)), rng)
    else:
        draw = grid if name == "grid" else spiral
        # Without room, no spacing is small enough for the loop below.
        if (name == "spiral" and 0 in (width, height)) or (width == height == 0 and (count or 1) > 1):
            raise DataError(f"object: expected more than {size} pixels for a {name} of frames, found {shape}")
        points = draw(width, height, spacing)
        while step is None and count is not None and len(points) < count:
            spacing *= 0.98
            points = draw(width, height, spacing)
    if len(points) == 0:
        raise DataError(
            f"step: no position fits into an object {shape} at step {spacing:g}; choose a smaller one"
        )
    if count is not None:
        if len(points) < count:
            raise DataError(f"count: expected at most {len(points)} positions at step {step}, found {count}")
        points = points[:count]
    if jitter:
        points = np.clip(points + rng.normal(0, jitter, points.shape), 0, [width, height])
    return points + size // 2
