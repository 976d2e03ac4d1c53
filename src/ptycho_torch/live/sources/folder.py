"""A folder that fills with files, one frame each: NPY, NPZ, HDF5 or TIFF, numbered by their names.

The last whole number in a name is the frame's: ``scan7_000123.npy`` is frame 123. An NPZ file may hold ``x`` and ``y``
beside its frame. Text files ``positions*.csv`` hold lines of number, x, y, and may grow.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, PtychoError, printable
from ptycho_torch.files import ensure_output_dir, write_text_atomic
from ptycho_torch.files.archive import Archive
from ptycho_torch.files.images import read_image
from ptycho_torch.files.npy import read_npy
from ptycho_torch.live.sources import SOURCES
from ptycho_torch.live.sources.base import Gathered, Peer, Receiver, Sender, Source
from ptycho_torch.live.sources.codecs import TYPES
from ptycho_torch.scan.hdf5 import opened, read_array

__all__ = ["Folder"]

_NUMBER: Final = re.compile(r"(\d{1,15})(?!.*\d)")
_SUFFIXES: Final = (".npy", ".npz", ".h5", ".hdf5", ".tif", ".tiff")
_FRAME_KEYS: Final = ("frame", "data", "diff3d", "entry/data/data")
_PATIENCE: Final = 2.0
"""Seconds for which a file that cannot be read may still be in the making."""
_DONE: Final = "complete"
"""A file of this name says that no more frames come."""
_LINE: Final = 200
_LISTING: Final = 4
"""How much longer than its listing a folder is left alone."""


@SOURCES.register("folder")
class Folder(Source):
    """Files that appear in a folder."""

    gives = ("frame", "position")

    def __init__(self, address: str, options: Any = None) -> None:
        super().__init__(address, options)
        self.path = Path(address.removeprefix("file://"))
        self._seen: set[str] = set()
        self._texts: dict[str, int] = {}

    def read(self, to: Receiver, stop: threading.Event) -> None:
        peer, gathered = Peer(to, f"folder {self.path.name}"), Gathered(to)
        begun = False
        while not stop.is_set():
            before = time.monotonic()
            names = self._names()
            listed = time.monotonic() - before
            if names is not None and not begun:
                to.start(self.path.name)
                begun = True
            # Looked for before the files: those that were there with it are read.
            over = names is not None and _DONE in names
            came = names is not None and self._take(names, gathered, stop)
            gathered.flush()
            if came:
                peer.heard()
                before = time.monotonic()
            elif over:
                to.end("frame")
                to.end("position")
                return
            else:
                peer.silent()
            # A moment after each look: to list a large folder for every new file would take longer than to read it.
            stop.wait(max(self.options.poll, _LISTING * listed))
            to.waited(time.monotonic() - before)

    def _names(self) -> list[str] | None:
        try:
            return sorted(set(os.listdir(self.path)) - self._seen)  # noqa: PTH208  a path for each takes three times as long
        except OSError:
            return None

    def _take(self, names: list[str], to: Receiver, stop: threading.Event) -> bool:
        came = False
        for name in names:
            if stop.is_set():
                return False
            if name.startswith("positions") and name.endswith(".csv"):
                came |= self._text(self.path / name, to)
            elif name not in self._seen and name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                came |= self._file(self.path / name, to)
        return came

    def _file(self, path: Path, to: Receiver) -> bool:
        """Take a file that is new; False where it is not whole yet."""
        numbered = _NUMBER.search(path.stem)
        if numbered is None:
            self._seen.add(path.name)
            to.refuse("frame", "a file without a number in its name")
            return True
        number = int(numbered[1])
        try:
            frame, place = self._read(path)
        except (PtychoError, OSError, ValueError, KeyError) as error:
            if time.time() - _changed(path) < _PATIENCE:
                return False
            self._seen.add(path.name)
            to.say(f"{printable(path.name, 60)}: cannot be read: {printable(error, 200)}")
            to.refuse("frame", "a file that cannot be read")
            return True
        self._seen.add(path.name)
        to.frame(number, frame, place)
        return True

    def _read(self, path: Path) -> tuple[NDArray[Any], tuple[float, float] | None]:
        if path.stat().st_size > self.options.most_bytes:
            raise DataError(f"expected at most {self.options.most_bytes} bytes")
        place, suffix = None, path.suffix.lower()
        if suffix == ".npy":
            frame = read_npy(path)
        elif suffix == ".npz":
            with Archive(path) as archive:
                frame = archive.read(self._key(path, archive.keys), self.options.most_bytes)
                if "x" in archive and "y" in archive:
                    place = float(archive.read("x", 64)), float(archive.read("y", 64))
        elif suffix in (".h5", ".hdf5"):
            with opened(path) as file:
                frame = read_array(file, self._key(path, [k for k in _FRAME_KEYS if k in file]))
        else:
            frame = read_image(path)
        if frame.ndim == 3 and frame.shape[0] == 1:
            frame = frame[0]
        if frame.ndim != 2 or frame.dtype.newbyteorder("=").name not in TYPES:
            raise DataError(f"expected one frame (H, W) of real numbers, found {frame.dtype} {frame.shape}")
        return frame.astype(frame.dtype.newbyteorder("="), copy=False), place

    def _key(self, path: Path, known: list[str]) -> str:
        wanted = [self.options.frames_key] if self.options.frames_key else _FRAME_KEYS
        for key in wanted:
            if key in known:
                return key
        raise DataError(f"expected one of {', '.join(wanted)}, found {printable(', '.join(known[:8]))}")

    def _text(self, path: Path, to: Receiver) -> bool:
        """Take the whole lines that a text of positions got since it was last read."""
        at = self._texts.get(path.name, 0)
        with path.open("rb") as stream:
            stream.seek(at)
            block = stream.read(1 << 20)
        whole = block[: block.rfind(b"\n") + 1]
        if not whole:
            return False
        self._texts[path.name] = at + len(whole)
        for line in whole.splitlines():
            fields = line[:_LINE].replace(b",", b" ").split()
            if not fields or not fields[0][:1].isdigit():
                continue  # a line of names, or a comment
            try:
                number, x, y = int(fields[0]), float(fields[1]), float(fields[2])
            except (ValueError, IndexError):
                to.refuse("position", "a line that is not number, x, y")
                continue
            to.position(number, x, y)
        return True

    @classmethod
    def sender(cls, address: str) -> Sender:
        return _Sender(Path(address.removeprefix("file://")))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


class _Sender(Sender):
    def __init__(self, path: Path) -> None:
        self.path = ensure_output_dir(path)
        self._text: Any = None
        self._again: dict[int, int] = {}

    def start(self, count: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        for old in self.path.glob("frame_*.npy"):
            old.unlink()
        (self.path / _DONE).unlink(missing_ok=True)
        self._text = (self.path / "positions.csv").open("w")
        self._text.write("number,x,y\n")

    def frame(self, number: int, frame: NDArray[Any]) -> None:
        # One that is sent again has a name of its own, like a detector's second file of that number.
        again = self._again[number] = self._again.get(number, -1) + 1
        name = f"frame_{number:06d}.npy" if not again else f"frame_{'a' * again}_{number:06d}.npy"
        # Whole or not at all, but not flushed to the disk one by one: no detector does.
        part = self.path / f".{name}"
        np.save(part, frame)
        part.replace(self.path / name)

    def position(self, number: int, x: float, y: float) -> None:
        self._text.write(f"{number},{x!r},{y!r}\n")
        self._text.flush()

    def end(self) -> None:
        self._text.close()
        write_text_atomic(self.path / _DONE, "")
