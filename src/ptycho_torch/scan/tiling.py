"""Cutting a scan into tiles: frames that are solved together, with a halo of neighbours around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Tile", "as_box", "cut_tiles", "innermost", "meeting", "overlapping"]

_EMPTY = 8.0
"""A tile's bounding box over the area of its patches, above which it is cut once more."""


Box = tuple[int, int, int, int]
"""A window of the object plane: first row, first column, height, width, in whole pixels of the scan."""


@dataclass(frozen=True)
class Tile:
    """Frames that are solved together.

    Attributes
    ----------
    core : (K,) int64 array
        Frames that are this tile's own; every frame of a scan is one tile's.
    frames : (L,) int64 array
        The core and its halo, ascending.
    """

    core: NDArray[np.int64]
    frames: NDArray[np.int64]


def cut_tiles(positions: NDArray[Any], size: int, most: int, halo: float) -> list[Tile]:
    """Cut a scan into tiles of at most ``most`` frames of their own.

    Frames are halved along the longer side of their bounding box, again and again, at the widest gap near the
    middle: so neighbours stay together, and a frame far from all others gets a tile of its own.

    Parameters
    ----------
    positions : (M, 2) array
        (x, y) in object pixels.
    size : int
        Edge N of a frame.
    most : int
        Frames of a tile's own, at most.
    halo : float
        How far beyond the core's positions a tile takes in frames of others, pixels.

    Returns
    -------
    list of Tile
        Neighbouring tiles follow each other, as far as a line through the plane can have it.

    Examples
    --------
    >>> x, y = np.meshgrid(np.arange(8.0), np.arange(4.0))
    >>> tiles = cut_tiles(np.stack([x.ravel(), y.ravel()], 1), size=8, most=16, halo=1.0)
    >>> [(len(t.core), len(t.frames)) for t in tiles]
    [(16, 20), (16, 20)]
    """
    positions = np.asarray(positions, dtype=np.float64)
    waiting, cores = [np.arange(len(positions))], []
    while waiting:
        part = waiting.pop()
        low, high = positions[part].min(0), positions[part].max(0)
        area = float(np.prod(high - low + size))
        if len(part) <= most and (len(part) == 1 or area <= _EMPTY * (len(part) + 1) * size**2):
            cores.append(part)
            continue
        first, second = _halved(part, positions[part, int(np.argmax(high - low))])
        waiting += [second, first]
    tiles = []
    for core in cores:
        low, high = positions[core].min(0) - halo, positions[core].max(0) + halo
        near = np.flatnonzero(((positions >= low) & (positions <= high)).all(1))
        tiles.append(Tile(np.sort(core), near))
    return tiles


def _halved(
    part: NDArray[np.int64], along: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two parts of at least a quarter each, cut at the widest gap; at any gap where one is far wider."""
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    quarter = max(1, len(part) // 4)
    able = np.arange(quarter - 1, len(part) - quarter)
    wide = able[gaps[able] >= 0.999 * gaps[able].max()]
    cut = int(wide[np.argmin(np.abs(wide - (len(part) / 2 - 1)))])
    widest = int(np.argmax(gaps))
    if gaps[widest] > 8 * max(float(gaps[cut]), 1.0):
        cut = widest
    return part[order[: cut + 1]], part[order[cut + 1 :]]


def innermost(positions: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the ``count`` frames nearest to the frame in the middle, ascending: frames that overlap each other.

    Examples
    --------
    >>> innermost(np.array([[0.0, 0.0], [9.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), 3).tolist()
    [0, 2, 3]
    """
    if len(positions) <= count:
        return np.arange(len(positions))
    middle = positions[np.argmin(np.sum((positions - np.median(positions, axis=0)) ** 2, axis=1))]
    nearest = np.argsort(np.sum((positions - middle) ** 2, axis=1), kind="stable")[:count]
    return np.sort(nearest)


def as_box(row: NDArray[np.int64]) -> Box:
    """Return a row of four numbers as a window."""
    return int(row[0]), int(row[1]), int(row[2]), int(row[3])


def meeting(mine: Box, theirs: Box) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Return rows and columns that two windows share, in the one and in the other; None where they share none.

    Examples
    --------
    >>> meeting((0, 0, 4, 4), (2, -1, 9, 3))
    ((slice(2, 4, None), slice(0, 2, None)), (slice(0, 2, None), slice(1, 3, None)))
    """
    here, there = [], []
    for axis in (0, 1):
        low = max(mine[axis], theirs[axis])
        high = min(mine[axis] + mine[axis + 2], theirs[axis] + theirs[axis + 2])
        if low >= high:
            return None
        here.append(slice(low - mine[axis], high - mine[axis]))
        there.append(slice(low - theirs[axis], high - theirs[axis]))
    return (here[0], here[1]), (there[0], there[1])


def overlapping(box: Box, others: NDArray[np.int64]) -> list[int]:
    """Return which of some windows, (K, 4) like :data:`Box`, share pixels with one."""
    low, high = np.array(box[:2]), np.array(box[:2]) + box[2:]
    shares = (others[:, :2] < high) & (others[:, :2] + others[:, 2:] > low)
    return np.flatnonzero(shares.all(1)).tolist()  # type: ignore[no-any-return]
