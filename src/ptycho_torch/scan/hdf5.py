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
    """Frames (M, N, N) float32 amplitudes of a dataset, read when indexed and never all at once.

    ``which``: (M,) row of the dataset for each frame; ``good``: (N, N) bool, other pixels are 0; ``counts``: the
    dataset holds counts, and their square roots are given.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(
        self,
        path: Path,
        key: str,
        which: NDArray[np.int64],
        size: int,
        good: NDArray[np.bool_] | None = None,
        counts: bool = False,
    ) -> None:
        self.path, self.key, self.which, self.good, self.counts = path, key, which, good, counts
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
        return H5Frames(self.path, self.key, self.which[index], self.shape[-1], self.good, self.counts)

    def read(self, which: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of the dataset, in any order and as often as asked for; HDF5 itself wants them rising."""
        unique, inverse = np.unique(which, return_inverse=True)
        with opened(self.path) as file:
            data = file[self.key]
            # One stretch is much faster than a list of rows.
            dense = len(unique) and unique[-1] - unique[0] + 1 <= 2 * len(unique)
            rows = data[unique[0] : unique[-1] + 1][unique - unique[0]] if dense else data[unique]
        frames = np.asarray(rows, dtype=np.float32)[inverse]
        if self.good is not None:
            frames[:, ~self.good] = 0
        return np.sqrt(frames, out=frames) if self.counts else frames

    def all_whole(self, chunk: int = 64) -> bool:
        """Whether every value in the file is a whole number."""
        raw = H5Frames(self.path, self.key, self.which, self.shape[-1], self.good)
        return all(
            np.array_equal(part, np.rint(part))
            for part in (raw[i : i + chunk] for i in range(0, len(self), chunk))
        )
