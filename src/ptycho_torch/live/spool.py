"""Frames on disk as they arrive: appended, read back by slot, found again by a program that is started anew.

    frames.bin       the frames, one behind the other
    numbers.bin      int64, the number of each
    positions.bin    int64 number, float64 x, float64 y
    spool.json       shape and type of a frame, the series

A program that is killed leaves whole entries and at most one broken one at the end of a file, which is cut off.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import OutputError, brief, printable
from ptycho_torch.files import ensure_output_dir, write_text_atomic
from ptycho_torch.live.orientation import Orientation
from ptycho_torch.live.sources.codecs import TYPES
from ptycho_torch.scan.facts import Cut
from ptycho_torch.scan.frames import FrameSource

__all__ = ["Spool", "SpoolFrames"]

_FORMAT: Final = "ptychopinn-spool-1"
_POSITION: Final = np.dtype([("number", "<i8"), ("x", "<f8"), ("y", "<f8")])
_RESERVE: Final = 0.05
"""Part of the disk that stays free."""
_LOOK: Final = 256
"""Frames between two looks at the disk."""
_AT_ONCE: Final = 512
"""Frames that one call writes; systems take 1024 pieces at most."""
_NAMES: Final = ("frames.bin", "numbers.bin", "positions.bin", "spool.json")


class Spool:
    """A folder of frames that grows.

    Parameters
    ----------
    folder : Path
        Made if need be. What a run left there is gone on with.

    Raises
    ------
    OutputError
        When it cannot be written to, or holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = ensure_output_dir(folder)
        self._lock = _locked(folder)
        self.shape: tuple[int, int] | None = None
        self.dtype: np.dtype[Any] = np.dtype(np.uint16)
        self.series: str | None = None
        self.count = 0
        self.full = False
        self._looked = 0
        self._frames = self._numbers = self._positions = -1
        if (folder / "spool.json").exists():
            self._about()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            self._frames, self._numbers, self._positions = (os.open(folder / n, flags) for n in _NAMES[:3])
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
        self._mend()

    def begin(self, shape: tuple[int, int], dtype: np.dtype[Any], series: str | None) -> None:
        """Say what the frames are; the first one decides."""
        self.shape, self.dtype, self.series = shape, dtype, series
        said = {"spool": _FORMAT, "shape": list(shape), "dtype": dtype.name, "series": series}
        write_text_atomic(self.folder / "spool.json", json.dumps(said))

    def append(self, numbers: Sequence[int], frames: Sequence[NDArray[Any]]) -> int | None:
        """Keep frames (H, W) of the spool's type; return the slot of the first, None where the disk is full.

        The others follow it. They are kept all or none.
        """
        if self.full or self.count >= self._looked:
            usage = shutil.disk_usage(self.folder)
            self.full = usage.free < _RESERVE * usage.total
            self._looked = self.count + _LOOK
        if self.full:
            return None
        plain = [np.ascontiguousarray(frame, dtype=self.dtype).data.cast("B") for frame in frames]
        try:
            for start in range(0, len(plain), _AT_ONCE):
                _write(self._frames, plain[start : start + _AT_ONCE])
            _write(self._numbers, [memoryview(np.array(numbers, "<i8").tobytes())])
        except OSError:
            self._mend()
            self.full = True
            return None
        first, self.count = self.count, self.count + len(frames)
        return first

    def note(self, places: Sequence[tuple[int, float, float]]) -> bool:
        """Keep positions, for a program that is started anew; return whether there was room for them."""
        try:
            _write(self._positions, [memoryview(np.array(places, _POSITION).tobytes())])
        except OSError:
            self._mend()
            return False
        return True

    def read(self, slots: NDArray[np.int64]) -> NDArray[Any]:
        """Return frames (K, H, W) by slot, in any order."""
        assert self.shape is not None
        made = np.empty((len(slots), *self.shape), self.dtype)
        size = self._frame_bytes
        for first, last in _stretches(slots):
            block = made[first:last].reshape(-1).view(np.uint8)
            got = os.preadv(self._frames, [block.data], int(slots[first]) * size)
            if got != len(block):
                raise OutputError(
                    f"{self.folder / 'frames.bin'}: expected frame {slots[first]}, found its end"
                )
        return made

    def kept(self) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return what an earlier program kept: numbers by slot, and records of number, x and y."""
        numbers = np.frombuffer((self.folder / "numbers.bin").read_bytes(), "<i8")
        places = np.frombuffer((self.folder / "positions.bin").read_bytes(), _POSITION)
        return numbers, places

    def close(self, remove: bool = False) -> None:
        """Let go; ``remove``: the files, too."""
        for handle in (self._frames, self._numbers, self._positions, self._lock):
            if handle >= 0:
                os.close(handle)
        self._frames = self._numbers = self._positions = self._lock = -1
        if remove:
            for name in _NAMES:
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()

    @property
    def _frame_bytes(self) -> int:
        return 0 if self.shape is None else self.shape[0] * self.shape[1] * self.dtype.itemsize

    def _about(self) -> None:
        path = self.folder / "spool.json"
        try:
            said = json.loads(path.read_text("utf-8"))
            shape, kind = tuple(int(n) for n in said["shape"]), TYPES[said["dtype"]]
            if said["spool"] != _FORMAT or len(shape) != 2 or min(shape) < 1:
                raise ValueError(f"format {brief(said['spool'])}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{path}: expected what 'ptychopinn live' keeps while it runs, found {printable(error)};"
                " name another folder, or remove this one"
            ) from error
        self.shape, self.dtype, self.series = (shape[0], shape[1]), kind, said.get("series")

    def _mend(self) -> None:
        """Cut off what is not whole."""
        size = self._frame_bytes
        whole = os.fstat(self._frames).st_size // size if size else 0
        self.count = min(whole, os.fstat(self._numbers).st_size // 8)
        os.ftruncate(self._frames, self.count * size)
        os.ftruncate(self._numbers, self.count * 8)
        places = os.fstat(self._positions).st_size // _POSITION.itemsize
        os.ftruncate(self._positions, places * _POSITION.itemsize)


class SpoolFrames(FrameSource):
    """Frames of a spool, in the order of their slots, turned as the detector is.

    Parameters
    ----------
    spool : Spool
    slots : (M,) int64 array
    orientation : Orientation
    """

    def __init__(self, spool: Spool, slots: NDArray[np.int64], orientation: Orientation) -> None:
        assert spool.shape is not None
        rows, columns = orientation.shape(spool.shape)
        super().__init__(len(slots), Cut(slice(0, rows), slice(0, columns)))
        self.spool, self.slots, self.orientation = spool, slots, orientation

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        return self.spool.dtype

    def stored(self, which: slice | NDArray[np.int64]) -> NDArray[Any]:
        frames = self.orientation.turn(self.spool.read(self.slots[which]))
        return np.ascontiguousarray(frames[:, self.cut.rows, self.cut.columns])


def _stretches(slots: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Places of slots that follow each other: they are read at once."""
    edges = np.flatnonzero(np.diff(slots) != 1) + 1
    bounds = [0, *edges.tolist(), len(slots)]
    yield from ((a, b) for a, b in itertools.pairwise(bounds) if b > a)


def _write(handle: int, parts: Sequence[memoryview]) -> None:
    """Write parts one behind the other, at once if the system takes them at once."""
    gone = os.writev(handle, parts)
    for part in parts:
        rest = part[min(gone, len(part)) :]
        gone -= len(part) - len(rest)
        while len(rest):
            rest = rest[os.write(handle, rest) :]


def _locked(folder: Path) -> int:
    """A handle that holds the folder, -1 where there are no locks."""
    try:
        import fcntl
    except ImportError:  # no such thing on this system
        return -1
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise OutputError(
            f"{folder}: another 'ptychopinn live' is at work here; end it, or name another folder"
        ) from None
    except OSError:
        os.close(handle)
        return -1
    return handle
