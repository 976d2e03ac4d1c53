"""Reading NPY members out of a ZIP archive without trusting them.

Headers are read before data, so that a pickled object array, a wrong shape, or a claim larger than
the memory is refused before anything is unpacked. Frames are converted while they stream in: the peak
is the result plus one chunk.
"""

from __future__ import annotations

import lzma
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, ScanNotFoundError, printable
from ptycho_torch.files.memory import MemoryBudget, memory_limit
from ptycho_torch.files.npy import CHUNK_BYTES, Header, read_data, read_header
from ptycho_torch.files.regular import open_regular

__all__ = ["Archive", "Member"]

_LARGE = 1 << 30
_RATIO = 500
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError,
    NotImplementedError, ValueError, OverflowError,
)  # fmt: skip
"""What the standard library raises on a zip file that is damaged or of another kind."""


@dataclass(frozen=True)
class Member:
    """What an array's header claims, held against the archive's directory."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


class Archive:
    """An open NPZ file. Everything wrong with it is a :class:`ScanError` naming file and key.

    What is read is taken from ``budget``, which the file's size and the free memory bound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._infos: dict[str, zipfile.ZipInfo] = {}
        try:
            self._file = open_regular(path)
        except FileNotFoundError as error:
            raise ScanNotFoundError(f"{self._shown}: expected an NPZ archive, found no file") from error
        except OSError as error:
            raise ScanError(f"{self._shown}: cannot be read ({error.strerror})") from error
        size = os.fstat(self._file.fileno()).st_size
        self.budget = MemoryBudget(size, lambda reason: ScanError(f"{self._shown}: {reason}"))
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._list()
        except ScanError:
            self._file.close()
            raise
        except (*_DAMAGE, OSError) as error:
            self._file.close()
            raise ScanError(
                f"{self._shown}: expected an NPZ archive, found a file that is not one or is damaged"
                f" ({printable(error)})"
            ) from error

    @property
    def _shown(self) -> str:
        return printable(self.path, 1000)

    def _list(self) -> None:
        for info in self._zip.infolist():
            if not info.filename.endswith(".npy"):
                continue
            key = info.filename.removesuffix(".npy")
            if key in self._infos:
                raise self.error(key, "one array of that name", "two")
            self._infos[key] = info

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()

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
            f"{self._shown}: {printable(key)}: expected {expected}, found {found}{'; ' + advice if advice else ''}"
        )

    @contextmanager
    def _open(self, key: str) -> Iterator[IO[bytes]]:
        info = self._infos[key]
        if info.compress_type not in _METHODS:  # others may ask for gigabytes before the first byte
            raise self.error(
                key, "an array stored or deflated, as numpy writes", f"method {info.compress_type}"
            )
        try:
            with self._zip.open(info) as stream:
                yield stream
        except ScanError:
            raise
        except (*_DAMAGE, OSError) as error:
            raise self.error(key, "an array that unpacks", f"a damaged one ({printable(error)})") from error

    def _parse(self, key: str, stream: IO[bytes]) -> Header:
        info = self._infos[key]
        found = read_header(stream, lambda expected, what: self.error(key, expected, what))
        claimed = found.size
        if claimed + found.start != info.file_size:
            raise self.error(
                key, f"{claimed} bytes of data for shape {found.shape}", f"{info.file_size - found.start}"
            )
        if claimed > _LARGE and claimed > _RATIO * max(info.compress_size, 1):
            raise self.error(
                key,
                f"an array compressed less than {_RATIO} times",
                f"{info.compress_size} bytes that unpack to {claimed}",
                "if it is genuine, store it uncompressed",
            )
        return found

    def header(self, key: str) -> Member:
        """Shape and dtype of an array, without its data."""
        with self._open(key) as stream:
            found = self._parse(key, stream)
        return Member(key, found.shape, found.dtype, found.fortran)

    def read(self, key: str, limit: int = 1 << 31) -> NDArray[Any]:
        """A whole array of at most ``limit`` bytes."""
        with self._open(key) as stream:
            found = self._parse(key, stream)
            if found.size > min(limit, memory_limit()):
                raise self.error(key, f"at most {min(limit, memory_limit())} bytes", f"{found.size}")
            self.budget.take(found.size, printable(key))
            return read_data(stream, found, lambda expected, what: self.error(key, expected, what))

    def read_as(self, key: str, order: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array as ``dtype``, C-contiguous, with its axes in ``order`` as in ``numpy.transpose``.

        As float32, counts above 2**24 lose less than 1e-7 of their value; what it cannot hold is infinity.
        """
        with self._open(key) as stream:
            member = self._parse(key, stream)
            self.budget.take(math.prod(member.shape) * dtype.itemsize, printable(key))
            result = np.empty([member.shape[axis] for axis in order], dtype)
            stored = np.moveaxis(result, range(len(order)), order)  # the view with the file's axes
            if member.fortran:
                stored = stored.transpose()
            row = math.prod(stored.shape[1:]) * member.dtype.itemsize
            step = max(1, CHUNK_BYTES // max(row, 1))
            self.budget.take(block := row * min(step, len(stored)), printable(key))
            for start in range(0, stored.shape[0], step):
                part = stored[start : start + step]
                values = np.frombuffer(self._exactly(key, stream, row * len(part)), member.dtype)
                with np.errstate(over="ignore"):
                    part[...] = values.reshape(part.shape)
            self.budget.give_back(block)
        return result

    def parts(self, key: str, dtype: np.dtype[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield an array a part at a time: place of its first value and the values, flat, as they are stored."""
        with self._open(key) as stream:
            member = self._parse(key, stream)
            count, size = math.prod(member.shape), member.dtype.itemsize
            step = max(1, CHUNK_BYTES // size)
            for start in range(0, count, step):
                data = self._exactly(key, stream, size * min(step, count - start))
                with np.errstate(over="ignore"):
                    yield start, np.frombuffer(data, member.dtype).astype(dtype)

    def _exactly(self, key: str, stream: IO[bytes], size: int) -> bytes:
        data = stream.read(size)
        if len(data) != size:
            raise self.error(key, f"{size} more bytes", f"{len(data)}: the file is cut short")
        return data
