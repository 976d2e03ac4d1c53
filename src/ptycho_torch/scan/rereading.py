"""Frames that are asked for in several parts of one pass, each read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.files.memory import memory_limit

__all__ = ["EachOnce"]

_MOST: Final = 1 << 30
_SHARE: Final = 8
"""Frames up to this part of the memory, and 1 GiB, wait for the part that asks for them again."""


class EachOnce:
    """Reads the parts of a pass one after the other; a frame of several parts is read with the first of them.

    It waits in memory for the last. Parts that follow the scan share frames with their next few neighbours only,
    so that few wait at a time; where too many would have to, the rest is read again.

    Parameters
    ----------
    frames : (M, N, N) array-like
        Anything with ``shape`` and indexing by an array of places.
    parts : sequence of int arrays
        Places of the frames of each part, in any shape; a frame may come more than once.

    Examples
    --------
    >>> reader = EachOnce(np.arange(12.0, dtype=np.float32).reshape(3, 2, 2), [[0, 1], [2, 1]])
    >>> reader.read(0).shape, reader.waiting, reader.read(1)[:, 0, 0].tolist(), reader.waiting
    ((2, 2, 2), 1, [8.0, 4.0], 0)
    """

    def __init__(self, frames: Any, parts: Sequence[Any]) -> None:
        self._frames = frames
        self._parts = [np.asarray(part, dtype=np.int64).reshape(-1) for part in parts]
        self._last = np.full(int(frames.shape[0]), -1)
        for number, part in enumerate(self._parts):
            self._last[part] = number
        self._kept: dict[int, NDArray[np.float32]] = {}
        self._most = min(memory_limit() // _SHARE, _MOST) // (4 * int(frames.shape[-1]) ** 2)

    @property
    def waiting(self) -> int:
        """Frames in memory that a later part asks for."""
        return len(self._kept)

    def read(self, number: int) -> NDArray[np.float32]:
        """Return the frames (K, N, N) of a part, in its order; parts are read in rising order."""
        wanted, inverse = np.unique(self._parts[number], return_inverse=True)
        known = np.array([int(frame) in self._kept for frame in wanted])
        values = np.empty((len(wanted), *self._frames.shape[1:]), np.float32)
        if not known.all():
            values[~known] = self._frames[wanted[~known]]
        for place, frame in enumerate(wanted.tolist()):
            if known[place]:
                values[place] = self._kept[frame]
            if self._last[frame] <= number:
                self._kept.pop(frame, None)
            elif not known[place] and len(self._kept) < self._most:
                self._kept[frame] = values[place].copy()
        return values[inverse]
