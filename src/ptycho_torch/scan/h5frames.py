"""Frames that stay in an HDF5 file until they are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, printable
from ptycho_torch.files.memory import need_memory
from ptycho_torch.scan.facts import Cut
from ptycho_torch.scan.frames import ArrayFrames, FrameSource, Index
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
        (M,) place of each frame among all of theirs; None takes all in order.
    cut, counts, good
        As in :class:`~ptycho_torch.scan.frames.FrameSource`; ``cut`` None takes frames that are square as they are.
    external
        Data may lie in other files of the same folder.
    """

    def __init__(
        self,
        path: Path,
        keys: str | tuple[str, ...],
        which: Index | None = None,
        cut: Cut | None = None,
        counts: bool = False,
        good: NDArray[np.bool_] | None = None,
        external: bool = False,
    ) -> None:
        self.path, self.external = path, external
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        self._checked: dict[tuple[Path, str], bool] = {}
        self._counts: list[int] = []
        self._chunk_frames = 1
        self.files = (path,)
        kinds, frames = set(), set()
        for key in self.keys:
            with opened(path, external, self._checked) as file:  # anew: each may be a file of its own
                data = file[key]
                if (
                    not isinstance(data, h5py.Dataset)
                    or data.ndim not in (3, 4)
                    or data.dtype.kind not in "iufb"
                ):
                    found = f"{data.dtype} {data.shape}" if isinstance(data, h5py.Dataset) else "a group"
                    raise ScanError(f"{path}: {key}: expected real numbers (M, N, N), found {found}")
                self._counts.append(math.prod(data.shape[:-2]))
                kinds.add(data.dtype)
                frames.add((int(data.shape[-2]), int(data.shape[-1])))
                if data.ndim == 3 and data.chunks:
                    self._chunk_frames = max(self._chunk_frames, data.chunks[0])
                self.files += tuple(other for other in file.linked if other not in self.files)
        if len(frames) != 1:
            raise ScanError(f"{path}: {self.keys[-1]}: expected frames of one shape, found {sorted(frames)}")
        self._dtype = np.result_type(*kinds)
        self.frame_shape = frames.pop()
        self.which = np.arange(sum(self._counts)) if which is None else which
        cut = cut or Cut(slice(0, self.frame_shape[0]), slice(0, self.frame_shape[1]))
        super().__init__(len(self.which), cut, counts, good)

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
        with opened(self.path, self.external, self._checked) as file:
            # A file is not trusted with the size of a frame; how many of them are read is the caller's wish.
            frame, data = math.prod(shape[1:]) * self.stored_dtype.itemsize, file[self.keys[0]]
            file.take(data, frame)
            need_memory(frame * len(unique), f"{self.path}: {printable(data.name)}", "take fewer frames")
            values = np.empty(shape, self.stored_dtype)
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
