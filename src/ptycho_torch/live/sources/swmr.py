"""HDF5 files that grow, written with SWMR (single writer, multiple readers): frames, positions, or both.

A data set of frame numbers beside the frames or the positions says what belongs together; without it the place in
the data set is the number. The file says itself whether it is still being written.
"""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.live.sources import SOURCES
from ptycho_torch.live.sources.base import Peer, Receiver, Sender, Source
from ptycho_torch.live.sources.codecs import TYPES

__all__ = ["Swmr"]

_NUMBERS: Final = ("number", "frame_number", "NDArrayUniqueId")
_PLACES: Final = (("x", "y"), ("xcoords", "ycoords"), ("probe_position_x_px", "probe_position_y_px"))
_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
_AT_ONCE: Final = 8 << 20
"""Bytes of frames read at once."""
_REOPEN: Final = 1.0
"""Seconds without anything new after which a file is opened again."""
_FLUSH: Final = 0.05
"""Seconds between two times that a writer makes its data seen."""
_MOST_OBJECTS: Final = 10_000


@SOURCES.register("swmr")
class Swmr(Source):
    """A growing HDF5 file. As a source of positions it may hold no frames."""

    gives = ("frame", "position")

    def __init__(self, address: str, options: Any = None) -> None:
        super().__init__(address, options)
        self.path = Path(address.removeprefix("file://"))
        none = np.zeros(0, np.int64)
        self._done = {"frame": none, "position": none}  # numbers of what was read, in the file's order
        self._begun = self._more = False

    def read(self, to: Receiver, stop: threading.Event) -> None:
        peer = Peer(to, self.path.name)
        ended = False
        while not stop.is_set():
            try:
                closed = self.path.exists() and not being_written(self.path)
                with h5py.File(self.path, "r", libver="latest", swmr=True) as file:
                    ended = self._follow(file, closed, to, stop, peer)
            except OSError:  # not there yet, or being made anew
                peer.silent()
            if ended:
                return
            before = time.monotonic()
            stop.wait(self.options.poll)
            to.waited(time.monotonic() - before)

    def _follow(self, file: Any, closed: bool, to: Receiver, stop: threading.Event, peer: Peer) -> bool:
        """Read on until the writer closes the file; False where it is to be opened again.

        ``closed``: the writer was done before the file was opened. What was opened earlier, or before its writer
        had begun, or was made anew since, may not show all there is.
        """
        found = _Sets(file, self.options)
        if found.frames is None and found.x is None:
            return False
        if found.frames is not None and not self._begun:
            self._begun = True
            to.start(self.path.name)
        self._compare("frame", found.numbers)
        self._compare("position", found.place_numbers)
        since = time.monotonic()
        while not stop.is_set():
            before = time.monotonic()
            came = self._take_places(found, to) | self._take_frames(found, to)
            if came:
                peer.heard()
                since = before = time.monotonic()
                if self._more:
                    continue
            elif not closed and not being_written(self.path):
                return False
            elif closed and any(map(len, self._done.values())):
                if found.frames is not None:
                    to.end("frame", len(self._done["frame"]) if found.numbers is None else None)
                if found.x is not None:
                    to.end("position")
                return True
            elif time.monotonic() - since > _REOPEN:
                return False
            else:
                peer.silent()
            # A moment after each look: to ask a file for its length takes as long as to read some frames.
            stop.wait(self.options.poll)
            to.waited(time.monotonic() - before)
        return True

    def _compare(self, kind: str, numbers: Any) -> None:
        """A file that holds other numbers than were read from it was made anew: it is read from its beginning."""
        done = self._done[kind]
        if numbers is not None and not np.array_equal(numbers[: len(done)], done):
            self._done[kind] = done[:0]

    def _take_frames(self, found: _Sets, to: Receiver) -> bool:
        data, numbers = found.frames, found.numbers
        self._more = False
        if data is None:
            return False
        end, first = _length(data, numbers), len(self._done["frame"])
        if end < first:  # the file was made anew
            self._done["frame"] = self._done["frame"][:0]
            first = 0
        if end <= first:
            return False
        size = data.dtype.itemsize * int(np.prod(data.shape[1:]))
        most = first + max(1, _AT_ONCE // max(1, size))
        self._more, end = end > most, min(end, most)
        names = np.arange(first, end) if numbers is None else numbers[first:end]
        frames = data[first:end]
        self._done["frame"] = np.concatenate([self._done["frame"], names])
        to.frames([(number, frame, None) for number, frame in zip(names.tolist(), frames, strict=True)])
        return True

    def _take_places(self, found: _Sets, to: Receiver) -> bool:
        if found.x is None:
            return False
        end, first = _length(found.x, found.y, found.place_numbers), len(self._done["position"])
        if end < first:
            self._done["position"] = self._done["position"][:0]
            first = 0
        if end <= first:
            return False
        numbers = found.place_numbers
        names = np.arange(first, end) if numbers is None else numbers[first:end]
        x, y = found.x[first:end], found.y[first:end]
        self._done["position"] = np.concatenate([self._done["position"], names])
        to.positions(list(zip(names.tolist(), x.tolist(), y.tolist(), strict=True)))
        return True

    @classmethod
    def sender(cls, address: str) -> Sender:
        return _Sender(Path(address.removeprefix("file://")))


class _Sets:
    """Data sets of a file: by the names that are given, else by what they are."""

    def __init__(self, file: Any, options: Any) -> None:
        known = _listed(file)
        self.frames: Any = None
        if options.frames_key is not None:
            self.frames = known.get(options.frames_key.strip("/"))
            if self.frames is None and not (options.positions_keys or known == {}):
                raise ScanError(
                    f"{file.filename}: {options.frames_key}: expected frames, found no such data set"
                )
        else:
            cubes = [d for d in known.values() if d.ndim == 3 and d.dtype.kind in "iuf"]
            self.frames = max(cubes, key=lambda d: d.shape[1] * d.shape[2], default=None)
        if self.frames is not None:
            self._check(self.frames, options.most_bytes)
        self.numbers = self._numbers(known, self.frames, options.numbers_key)
        self.x: Any = None
        self.y: Any = None
        names = list(known)
        pairs = [options.positions_keys] if options.positions_keys else _PLACES
        for x, y in pairs:
            for name in names:
                other = name.removesuffix(x.strip("/")) + y.strip("/")
                if (name == x.strip("/") or name.endswith("/" + x)) and other in known and self.x is None:
                    self.x, self.y = known[name], known[other]
        if self.x is not None and (self.x.ndim != 1 or self.y.ndim != 1):
            raise ScanError(
                f"{file.filename}: {self.x.name}: expected one number a frame, found {self.x.shape}"
            )
        self.place_numbers = self._numbers(known, self.x, None)

    @staticmethod
    def _check(data: Any, most: int) -> None:
        chunk = int(np.prod(data.chunks or data.shape[1:])) * data.dtype.itemsize
        frame = int(np.prod(data.shape[1:])) * data.dtype.itemsize
        if data.ndim != 3 or data.dtype.name not in TYPES or max(chunk, frame) > most:
            raise ScanError(
                f"{data.file.filename}: {data.name}: expected frames (M, H, W) of at most {most} bytes each, found"
                f" {data.dtype} {data.shape} in chunks of {chunk} bytes"
            )

    @staticmethod
    def _numbers(known: dict[str, Any], beside: Any, key: str | None) -> Any:
        if key is not None:
            return known.get(key.strip("/"))
        if beside is None:
            return None
        folder = beside.name.strip("/").rpartition("/")[0]
        for name in _NUMBERS:
            found = known.get(f"{folder}/{name}".strip("/"))
            if found is not None and found.ndim == 1 and found.dtype.kind in "iu":
                return found
        return None


def _listed(file: Any) -> dict[str, Any]:
    """Data sets of a file by name; links to other files are not followed."""
    found: dict[str, Any] = {}

    def see(name: str, item: Any) -> bool | None:
        if isinstance(item, h5py.Dataset) and item.ndim and not item.is_virtual and item.external is None:
            found[name] = item
        return True if len(found) > _MOST_OBJECTS else None

    file.visititems(see)
    return found


def _length(*sets: Any) -> int:
    """Entries that all of some growing data sets have by now."""
    lengths = []
    for each in sets:
        if each is not None:
            each.refresh()  # of the object, which remembers its length, and not of its handle
            lengths.append(each.shape[0])
    return min(lengths)


def being_written(path: Path) -> bool:
    """Return whether an HDF5 file says that a writer has it open; its superblock has a flag for that."""
    with path.open("rb") as stream:
        head = stream.read(12)
    if len(head) < 12 or not head.startswith(_SIGNATURE):
        return True
    version, flags = head[8], struct.unpack("B", head[11:12])[0]
    return version >= 2 and bool(flags & 0b101)


class _Sender(Sender):
    """A SWMR file with frames; positions in it, too, if any are sent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._waiting: dict[str, list[dict[str, Any]]] = {"frame": [], "position": []}
        self._flushed = 0.0

    def start(self, count: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        file: Any = h5py.File(self.path, "w", libver="latest")
        frames, places = file.create_group("entry/data"), file.create_group("entry/positions")
        frames.create_dataset("data", (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
        frames.create_dataset("number", (0,), "i8", maxshape=(None,), chunks=(1024,))
        places.create_dataset("number", (0,), "i8", maxshape=(None,), chunks=(1024,))
        for name in ("x", "y"):
            places.create_dataset(name, (0,), "f8", maxshape=(None,), chunks=(1024,))
        file.swmr_mode = True
        self._file = file

    def _append(self, kind: str, values: dict[str, Any]) -> None:
        """Keep an entry until it is to be seen: to enlarge a data set takes longer than to write some frames."""
        rows = self._waiting[kind]
        rows.append(values)
        size = sum(np.asarray(v).nbytes for v in values.values()) * len(rows)
        if time.monotonic() - self._flushed > _FLUSH or size > _AT_ONCE:
            self._flush()

    def frame(self, number: int, frame: NDArray[Any]) -> None:
        self._append("frame", {"entry/data/data": frame, "entry/data/number": number})

    def position(self, number: int, x: float, y: float) -> None:
        self._append(
            "position", {"entry/positions/x": x, "entry/positions/y": y, "entry/positions/number": number}
        )

    def _flush(self) -> None:
        assert self._file is not None
        for rows in self._waiting.values():
            for name in rows[0] if rows else ():
                data = self._file[name]
                data.resize(len(data) + len(rows), axis=0)
                data[len(data) - len(rows) :] = np.array([row[name] for row in rows])
            rows.clear()
        self._file.flush()
        self._flushed = time.monotonic()

    def end(self) -> None:
        self._flush()
        self._file.close()
