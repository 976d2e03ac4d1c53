"""Reading NPY members out of a ZIP archive without trusting them.

Headers are read before data, so that a pickled object array, a wrong shape, or a claim larger than
the memory is refused before anything is unpacked. Frames are converted while they stream in: the peak
is the result plus one chunk.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, printable
from ptycho_torch.files.memory import memory_limit

__all__ = ["Archive", "Member"]

_CHUNK_BYTES = 4 << 20
_LARGE = 1 << 30
_RATIO = 500


@dataclass(frozen=True)
class Member:
    """What an array's header claims, held against the archive's directory."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


class Archive:
    """An open NPZ file. Everything wrong with it is a :class:`ScanError` naming file and key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise ScanError(
                f"{path}: expected an NPZ archive, found a file that is not one or is damaged"
                f" ({printable(error)})"
            ) from error
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.filename.endswith(".npy"):
                key = info.filename.removesuffix(".npy")
                if key in self._infos:
                    self.close()
                    raise ScanError(f"{path}: {printable(key)}: expected one array of that name, found two")
                self._infos[key] = info

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    @property
    def keys(self) -> list[str]:
        """Names of the arrays, in file order."""
        return list(self._infos)

    @property
    def listing(self) -> str:
        """The first names, as messages show them."""
        if not self._infos:
            return "no arrays"
        return f"keys {', '.join(printable(key, 40) for key in self.keys[:12])}"

    def __contains__(self, key: str) -> bool:
        return key in self._infos

    def error(self, key: str, expected: str, found: str, advice: str = "") -> ScanError:
        """The one line: path, key, expected, found, and what to do."""
        return ScanError(
            f"{self.path}: {key}: expected {expected}, found {found}{'; ' + advice if advice else ''}"
        )

    @contextmanager
    def _open(self, key: str) -> Iterator[IO[bytes]]:
        try:
            with self._zip.open(self._infos[key]) as stream:
                yield stream
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise self.error(key, "an array that unpacks", f"a damaged one ({printable(error)})") from error

    def _parse(self, key: str, stream: IO[bytes]) -> Member:
        info = self._infos[key]
        try:
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise self.error(key, "NPY version 1 or 2", f"{version}")
            reader = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = reader(stream)
        except ScanError:
            raise
        except ValueError as error:
            raise self.error(key, "an NPY array", f"no readable header ({printable(error)})") from error
        if dtype.hasobject:
            raise self.error(key, "plain numbers", "pickled Python objects, which are never loaded")
        claimed = math.prod(shape) * dtype.itemsize
        if claimed + stream.tell() != info.file_size:
            raise self.error(
                key, f"{claimed} bytes of data for shape {shape}", f"{info.file_size - stream.tell()}"
            )
        if claimed > _LARGE and claimed > _RATIO * max(info.compress_size, 1):
            raise self.error(
                key,
                f"an array compressed less than {_RATIO} times",
                f"{info.compress_size} bytes that unpack to {claimed}",
                "if it is genuine, store it uncompressed",
            )
        return Member(key, tuple(shape), dtype, bool(fortran))

    def header(self, key: str) -> Member:
        """Shape and dtype of an array, without its data."""
        with self._open(key) as stream:
            return self._parse(key, stream)

    def read(self, key: str, limit: int = 1 << 31) -> NDArray[Any]:
        """A whole array of at most ``limit`` bytes."""
        with self._open(key) as stream:
            member = self._parse(key, stream)
            size = math.prod(member.shape) * member.dtype.itemsize
            if size > min(limit, memory_limit()):
                raise self.error(key, f"at most {min(limit, memory_limit())} bytes", f"{size}")
            data = np.frombuffer(self._exactly(key, stream, size), member.dtype)
        return data.reshape(member.shape, order="F" if member.fortran else "C").copy()

    def read_as(self, key: str, order: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array as ``dtype``, C-contiguous, with its axes in ``order`` as in ``numpy.transpose``.

        As float32, counts above 2**24 lose less than 1e-7 of their value; what it cannot hold is infinity.
        """
        with self._open(key) as stream:
            member = self._parse(key, stream)
            size = math.prod(member.shape) * dtype.itemsize
            if size > memory_limit():
                raise self.error(key, f"at most the {memory_limit()} bytes that are free", f"{size}")
            result = np.empty([member.shape[axis] for axis in order], dtype)
            stored = np.moveaxis(result, range(len(order)), order)  # the view with the file's axes
            if member.fortran:
                stored = stored.transpose()
            row = math.prod(stored.shape[1:]) * member.dtype.itemsize
            step = max(1, _CHUNK_BYTES // max(row, 1))
            for start in range(0, stored.shape[0], step):
                part = stored[start : start + step]
                values = np.frombuffer(self._exactly(key, stream, row * len(part)), member.dtype)
                with np.errstate(over="ignore"):
                    part[...] = values.reshape(part.shape)
        return result

    def _exactly(self, key: str, stream: IO[bytes], size: int) -> bytes:
        data = stream.read(size)
        if len(data) != size:
            raise self.error(key, f"{size} more bytes", f"{len(data)}: the file is cut short")
        return data
