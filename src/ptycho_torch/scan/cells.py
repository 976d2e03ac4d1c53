"""Dealing a scan's frames to cells: squares of the object plane of which many can be worked on at a time.

A frame belongs to the square that its position lies in. Squares are at least as wide as a frame, so that the
patches of one never touch those of the next but one: of the four phases

    0 1 0 1
    2 3 2 3
    0 1 0 1

all squares of one phase can be changed together, in any order and by any process, with the same result. The
cells follow from the positions alone, never from memory or the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["PHASES", "Cell", "deal_cells"]

PHASES: Final = 4
_WANTED: Final = 128
"""Frames of a cell on the average, at least: with fewer, reading and exchange cost more than the work."""
_WIDEST: Final = 8
"""Edge of a square at most, in frames."""


@dataclass(frozen=True)
class Cell:
    """Frames of one square.

    Attributes
    ----------
    number : int
        Place among all cells of the scan.
    phase : int
        0 to 3; patches of two cells of one phase never overlap.
    frames : (K,) int64 array
        Ascending; every frame of a scan is in one cell.
    """

    number: int
    phase: int
    frames: NDArray[np.int64]


def deal_cells(positions: NDArray[Any], size: int, reach: int = 0, wanted: int = _WANTED) -> list[Cell]:
    """Deal frames to cells.

    Parameters
    ----------
    positions : (M, 2) array
        (x, y) in object pixels.
    size : int
        Edge N of a frame.
    reach : int
        Pixels that a position may still move along each axis.
    wanted : int
        Frames of a cell on the average, as far as cells of at most eight frame sizes allow.

    Returns
    -------
    list of Cell
        Row by row.

    Examples
    --------
    >>> x, y = np.meshgrid(np.arange(0.0, 48.0), np.arange(0.0, 24.0))
    >>> cells = deal_cells(np.stack([x.ravel(), y.ravel()], 1), size=8)
    >>> [(cell.phase, len(cell.frames)) for cell in cells]
    [(0, 256), (1, 256), (0, 256), (2, 128), (3, 128), (2, 128)]
    """
    positions = np.asarray(positions, dtype=np.float64)
    begin = positions.min(0)
    least = max(2 * size, size + 2 * reach + 2)
    for wide in range(2, _WIDEST + 1):
        edge = max(least, wide * size)
        squares = np.floor((positions - begin) / edge).astype(np.int64)
        kinds, member = np.unique(squares[:, ::-1], axis=0, return_inverse=True)  # by row, then by column
        if len(positions) >= wanted * len(kinds):
            break
    order = np.argsort(member.reshape(-1), kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(member.reshape(-1)))[:-1])
    return [
        Cell(number, int(2 * (row % 2) + column % 2), part)
        for number, ((row, column), part) in enumerate(zip(kinds.tolist(), parts, strict=True))
    ]
