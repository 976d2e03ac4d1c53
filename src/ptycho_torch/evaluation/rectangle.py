"""The largest rectangle of a region, for scores that need straight borders."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["inner_rectangle"]

_BLOCKS = 256


def inner_rectangle(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns of the largest rectangle that lies wholly in a mask.

    Holes may be anywhere. Of masks of over 256 pixels a side, its borders are found to a 256th of that.

    Parameters
    ----------
    mask : (H, W) bool array

    Returns
    -------
    tuple of slices
        Empty ones where the mask is empty.

    Examples
    --------
    >>> mask = np.ones((4, 6), bool)
    >>> mask[1, 1] = False
    >>> inner_rectangle(mask)
    (slice(0, 4, None), slice(2, 6, None))
    """
    block = max(1, -(-max(mask.shape) // _BLOCKS))
    padded = np.pad(mask, [(0, -n % block) for n in mask.shape], constant_values=True)
    height, width = (n // block for n in padded.shape)
    whole = np.asarray(padded.reshape(height, block, width, block).all((1, 3)))
    deep = np.zeros(
        width + 1, np.int64
    )  # pixels of the mask upwards from each row, and a last column of none
    best = (0, 0, 0, 0, 0)
    for row in range(height):
        deep[:-1] = np.where(whole[row], deep[:-1] + 1, 0)
        rising: list[
            tuple[int, int]
        ] = []  # columns from which a rectangle may begin, and how deep it is there
        for column, depth in enumerate(deep.tolist()):
            first = column
            while rising and rising[-1][1] >= depth:
                first, lower = rising.pop()
                if lower * (column - first) > best[0]:
                    best = (lower * (column - first), row + 1 - lower, row + 1, first, column)
            rising.append((first, depth))
    rows, columns = mask.shape
    _, top, bottom, left, right = (n * block for n in best)
    return slice(top, min(bottom, rows)), slice(left, min(right, columns))
