"""Frames that stay in an HDF5 file until they are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.scan.frames import ArrayFrames, Cut, FrameSource, Index
from ptycho_torch.scan.hdf5 import opened

__all__ = ["H5Frames"]


class H5Frames(FrameSource):
    """Frames of one data set or several, read when asked for and never all at once.

    Parameters
    ----------
    path
        The file.
    keys
        Data sets (K, H, W), or (rows, columns, H, W) of a raster, that count as one after the other.
    which
        (M,) place of each frame among all of theirs.
    cut, counts, good
        As in :class:`~ptycho_torch.scan.frames.FrameSource`; ``cut`` None takes frames that are square as they are.
    external
        Data may lie in other files of the same folder.
    """

    def __init__(
        self,
        path: Path,
        keys: str | tuple[str, ...],
        which: Index,
        cut: Cut | None = None,
        counts: bool = False,
        good: NDArray[np.bool_] | None = None,
        external: bool = False,
    ) -> None:
        self.path, self.which, self.external = path, which, external
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        with opened(path, external) as file:
            found = [file[key] for key in self.keys]
            self._dtype = np.result_type(*(data.dtype for data in found))
            self.frame_shape = (int(found[0].shape[-2]), int(found[0].shape[-1]))
            self._counts = [math.prod(data.shape[:-2]) for data in found]
            self._chunk_frames = max((data.chunks or (1,))[0] if data.ndim == 3 else 1 for data in found)
            self.files = [path, *file.linked]
        cut = cut or Cut(slice(0, self.frame_shape[0]), slice(0, self.frame_shape[1]))
        super().__init__(len(which), cut, counts, good)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def chunk(self) -> int:
        """Whole chunks of the file, where they are not too large."""
        fits, whole = super().chunk, self._chunk_frames
        return max(1, fits // whole * whole if fits >= whole else fits)

    def stored(self, which: slice | Index) -> NDArray[Any]:
        """Return frames by their place, in any order and as often as asked for; HDF5 itself wants them rising."""
        unique, inverse = np.unique(self.which[which], return_inverse=True)
        rows, columns = self.cut.rows, self.cut.columns
        shape = (len(unique), rows.stop - rows.start, columns.stop - columns.start)
        values = np.empty(shape, self.stored_dtype)
        with opened(self.path, self.external) as file:
            first = 0
            for key, count in zip(self.keys, self._counts, strict=True):
                low, high = np.searchsorted(unique, [first, first + count])
                if low < high:
                    _fill(values[low:high], file[key], unique[low:high] - first, (rows, columns))
                first += count
        if np.array_equal(inverse, np.arange(len(unique))):
            return values
        return values[inverse]

    @property
    def nbytes_stored(self) -> int:
        """Bytes of the frames in the type they are stored in."""
        return int(len(self) * (self.cut.size * self.cut.bin) ** 2 * self.stored_dtype.itemsize)

    def in_memory(self) -> ArrayFrames:
        """Return the same frames, read now, in the type they are stored in."""
        edge = self.cut.size * self.cut.bin
        cut = Cut(slice(0, edge), slice(0, edge), self.cut.bin)
        values = np.empty((len(self), edge, edge), self.stored_dtype)
        for start in range(0, len(self), self.chunk):
            part = slice(start, min(start + self.chunk, len(self)))
            values[part] = self.stored(part)
        return ArrayFrames(values, cut, self.counts, self.good)


def _fill(out: NDArray[Any], data: Any, places: Index, window: tuple[slice, slice]) -> None:
    """Read the frames of a data set at ``places``, which rise, and no others but what lies in between closely."""
    if data.ndim == 3:
        for part in _pieces(places, (data.chunks or (1,))[0]):
            first = int(places[part.start])
            out[part] = data[first : int(places[part.stop - 1]) + 1, *window][places[part] - first]
        return
    width = data.shape[1]
    for line in np.unique(places // width):
        low, high = np.searchsorted(places, [line * width, (line + 1) * width])
        columns = places[low:high] - line * width
        for part in _pieces(columns, (data.chunks or (1, 1))[1]):
            first, block = int(columns[part.start]), out[low:high]
            last = int(columns[part.stop - 1]) + 1
            block[part] = data[int(line), first:last, *window][columns[part] - first]


def _pieces(places: Index, chunk: int) -> Iterator[slice]:
    """Stretches of rising places that are read at once: neighbours, or within one chunk of the file."""
    near = (np.diff(places) == 1) | (places[1:] // chunk == places[:-1] // chunk)
    edges = np.concatenate([[0], np.flatnonzero(~near) + 1, [len(places)]])
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield slice(start, stop)
