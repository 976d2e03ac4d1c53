"""Frames that are mostly zeros, held as what is not zero.

A weakly scattering sample or a short exposure leaves some hundred photons in a frame of 16,384 pixels. Such frames
compress several hundred times, as does a file that is made to fill the memory. Held like this, neither takes more
than what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.scan.facts import Cut
from ptycho_torch.scan.frames import FrameSource, Index

__all__ = ["SparseFrames"]

_BYTES = 64
"""What gathering one value takes at its peak, all index arrays and their copies together."""


class SparseFrames(FrameSource):
    """Frames as places and values of the pixels that are not zero.

    Parameters
    ----------
    starts : (M + 1,) int64 array
        Frame m has the entries from ``starts[m]`` to ``starts[m + 1]``.
    pixels : (K,) uint32 array
        Place of each entry in its frame, row by row.
    values : (K,) array
        As stored.
    shape : tuple of int
        (H, W) of a frame.
    cut : Cut, optional
        As in :class:`~ptycho_torch.scan.frames.FrameSource`; default: the whole frame, which is square.

    Examples
    --------
    >>> frames = SparseFrames(np.array([0, 0, 1]), np.array([3], np.uint32), np.array([7]), (2, 2))
    >>> frames.stored(slice(1, 2)).tolist()
    [[[0, 0], [0, 7]]]
    """

    def __init__(
        self,
        starts: NDArray[np.int64],
        pixels: NDArray[np.uint32],
        values: NDArray[Any],
        shape: tuple[int, int],
        cut: Cut | None = None,
    ) -> None:
        super().__init__(len(starts) - 1, cut or Cut(slice(0, shape[0]), slice(0, shape[1])))
        self.starts, self.pixels, self.values, self.frame_shape = starts, pixels, values, shape

    @classmethod
    def gathered(
        cls,
        parts: Iterable[tuple[int, NDArray[Any]]],
        places: Callable[[Index], tuple[Index, ...]],
        shape: tuple[int, int, int],
        take: Callable[[int], None],
    ) -> SparseFrames:
        """Gather what is not zero from values that come a part at a time.

        Parameters
        ----------
        parts
            Place of the first value and the values, flat, in the order in which they are stored.
        places
            Frames, rows and columns of such places.
        shape
            (M, H, W).
        take
            Called with bytes that are about to be made; raises where they are too many.

        Returns
        -------
        SparseFrames
        """
        owners, pixels, values = [], [], []
        for first, part in parts:
            kept = np.flatnonzero(part)
            take(_BYTES * len(kept))
            frame, row, column = places(kept + first)
            owners.append(frame.astype(np.uint32))
            pixels.append((row * shape[2] + column).astype(np.uint32))
            values.append(part[kept])
        owner = np.concatenate(owners)
        starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=shape[0]))])
        pixel, value = np.concatenate(pixels), np.concatenate(values)
        if len(owner) and (np.diff(owner.astype(np.int64)) < 0).any():
            order = np.argsort(owner, kind="stable")
            pixel, value = pixel[order], value[order]
        return cls(starts, pixel, value, shape[1:])

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def stored(self, which: slice | Index) -> NDArray[Any]:
        """Return frames (K, H, W) with their zeros, cut."""
        chosen = np.arange(len(self))[which]
        out = np.zeros((len(chosen), self.frame_shape[0] * self.frame_shape[1]), self.values.dtype)
        for place, frame in enumerate(chosen):
            entries = slice(int(self.starts[frame]), int(self.starts[frame + 1]))
            out[place, self.pixels[entries]] = self.values[entries]
        return out.reshape(-1, *self.frame_shape)[:, self.cut.rows, self.cut.columns]
