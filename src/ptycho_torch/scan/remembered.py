"""Frames that are read again, kept from their first reading on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.scan.frames import FrameSource, Index

__all__ = ["RememberedFrames"]


class RememberedFrames(FrameSource):
    """Frames of another source, some of which stay in memory once they are read.

    Parameters
    ----------
    base : FrameSource
        Where frames are read.
    which : (K,) int array
        Frames to keep, in the type they are stored in.

    Examples
    --------
    >>> from ptycho_torch.scan.frames import ArrayFrames
    >>> numbers = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    >>> frames = RememberedFrames(ArrayFrames(numbers), np.array([1]))
    >>> before = frames.stored(slice(0, 3)).copy()
    >>> numbers[:] = 0
    >>> frames.stored(slice(0, 3))[:, 0, 0].tolist()
    [0, 4, 0]
    """

    def __init__(self, base: FrameSource, which: Index) -> None:
        super().__init__(len(base), base.cut, base.counts, base.good)
        self.base, self.files = base, base.files
        self._facts = base._facts
        self._slots = np.full(len(base), -1)
        self._slots[which] = np.arange(len(which))
        self._filled = np.zeros(
            len(which) + 1, dtype=bool
        )  # the last one stands for frames that are not kept
        edges = base.cut.rows.stop - base.cut.rows.start, base.cut.columns.stop - base.cut.columns.start
        self._values = np.empty((len(which), *edges), base.stored_dtype)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        return self._values.dtype

    @property
    def chunk(self) -> int:
        return self.base.chunk

    def stored(self, which: slice | Index) -> NDArray[Any]:
        """Return stored values (K, H, W), from memory where they are known."""
        index = np.arange(len(self))[which]
        slots = self._slots[index]
        known = self._filled[slots]
        if known.all():
            return self._values[slots]
        fresh = self.base.stored(index[~known])
        new = slots[~known]
        self._values[new[new >= 0]] = fresh[new >= 0]
        self._filled[new[new >= 0]] = True
        if not known.any():
            return fresh
        values = np.empty((len(index), *fresh.shape[1:]), fresh.dtype)
        values[known], values[~known] = self._values[slots[known]], fresh
        return values
