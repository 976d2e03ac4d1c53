"""Frames that stay in an HDF5 file until they are asked for, and careful access to its members."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, printable

__all__ = ["SIGNATURE", "H5Frames", "has_members", "opened", "read_array"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _filters() -> None:
    """Makes compression filters of other vendors known to h5py, where hdf5plugin is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, for reading; :class:`ScanError` with the path where it is damaged or cannot be decompressed."""
    _filters()
    try:
        with h5py.File(path, "r") as file:
            yield file
    except ScanError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        text = printable(error, 160)
        hint = "; the compression filter needs: pip install hdf5plugin" if "filter" in text.lower() else ""
        raise ScanError(f"{path}: not readable as HDF5 ({text}){hint}") from error


def has_members(path: Path, head: bytes, *names: str) -> bool:
    """Whether it is an HDF5 file with all these members."""
    if not head.startswith(SIGNATURE):
        return False
    try:
        with h5py.File(path, "r") as file:
            return all(name in file for name in names)
    except (OSError, RuntimeError):
        return False


def read_array(
    file: Any, path: Path, key: str, ndim: int | None = None, kinds: str = "iufbc"
) -> NDArray[Any]:
    """A dataset as an array, its type and number of axes checked before it is read."""
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        shown = ", ".join(printable(k, 40) for k in list(file)[:12])
        raise ScanError(f"{path}: {key}: expected a dataset, found none; there is: {shown}")
    if found.dtype.kind not in kinds or (ndim is not None and found.ndim != ndim):
        wanted = "numbers" if ndim is None else f"numbers with {ndim} axes"
        raise ScanError(f"{path}: {key}: expected {wanted}, found {found.dtype} of shape {found.shape}")
    return np.asarray(found[()])


class H5Frames:
    """Frames (M, N, N) float32 amplitudes of one dataset or several, read when indexed and never all at once.

    ``keys``: datasets (K, N, N), or (rows, columns, N, N) of a raster, that count as one after the other;
    ``which``: (M,) place of each frame among all of theirs; ``good``: (N, N) bool, other pixels are 0;
    ``counts``: they hold counts, and square roots are given.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(
        self,
        path: Path,
        keys: str | tuple[str, ...],
        which: NDArray[np.int64],
        size: int,
        good: NDArray[np.bool_] | None = None,
        counts: bool = False,
    ) -> None:
        self.path, self.which, self.good, self.counts = path, which, good, counts
        self.keys = (keys,) if isinstance(keys, str) else keys
        self.shape = (len(which), size, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        which = np.asarray(self.which[index])
        if which.ndim == 0:
            return self.read(which[None])[0]
        return self.read(which)

    def select(self, index: Any) -> H5Frames:
        """The same frames in part, still in the file."""
        return H5Frames(self.path, self.keys, self.which[index], self.shape[-1], self.good, self.counts)

    def as_counts(self) -> H5Frames:
        """The same frames, taken as counts."""
        return H5Frames(self.path, self.keys, self.which, self.shape[-1], self.good, True)

    def read(self, which: NDArray[np.int64]) -> NDArray[np.float32]:
        """Frames by their place, in any order and as often as asked for; HDF5 itself wants them rising."""
        unique, inverse = np.unique(which, return_inverse=True)
        frames = np.empty((len(unique), *self.shape[1:]), np.float32)
        with opened(self.path) as file:
            first = 0
            for key in self.keys:
                data = file[key]
                count = int(np.prod(data.shape[:-2]))
                mine = (unique >= first) & (unique < first + count)
                if mine.any():
                    frames[mine] = _rows(data, unique[mine] - first)
                first += count
        frames = frames[inverse]
        if self.good is not None:
            frames[:, ~self.good] = 0
        return np.sqrt(frames, out=frames) if self.counts else frames

    def all_whole(self, chunk: int = 64) -> bool:
        """Whether every value in the file is a whole number."""
        raw = H5Frames(self.path, self.keys, self.which, self.shape[-1], self.good)
        return all(
            np.array_equal(part, np.rint(part))
            for part in (raw[i : i + chunk] for i in range(0, len(self), chunk))
        )


def _rows(data: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Some frames of a dataset, ``rows`` rising; one stretch is much faster to read than a list."""
    if data.ndim == 4:
        lines = rows // data.shape[1]
        block = data[lines[0] : lines[-1] + 1].reshape(-1, *data.shape[2:])
        return np.asarray(block[rows - lines[0] * data.shape[1]])
    if rows[-1] - rows[0] + 1 <= 2 * len(rows):
        return np.asarray(data[rows[0] : rows[-1] + 1][rows - rows[0]])
    return np.asarray(data[rows])
