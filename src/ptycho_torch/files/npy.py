"""The NPY layout, read without trusting it: the header first, and data only as far as the file goes.

A header of a hundred bytes can ask for terabytes, and a pickle can hide behind it. Needs no torch.
"""

from __future__ import annotations

import functools
import io
import math
import os
import tokenize
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, ScanNotFoundError, printable
from ptycho_torch.files.memory import MemoryBudget
from ptycho_torch.files.regular import open_regular

__all__ = ["CHUNK_BYTES", "Fail", "Header", "read_data", "read_header", "read_npy"]

Fail = Callable[[str, str], ScanError]
"""Makes the error for what was expected and what was found."""

CHUNK_BYTES = 4 << 20
_UNREADABLE = (
    ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError, OverflowError,
)  # fmt: skip
"""What numpy's reading of a header raises, which is Python's of an expression."""
_MAX_HEADER = 10_000
_MAX_BYTES = 1 << 62


@dataclass(frozen=True)
class Header:
    """Shape, type and order of an NPY array; ``size``: bytes of its data, ``start``: where they begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    size: int
    start: int


def read_header(stream: IO[bytes], fail: Fail) -> Header:
    """Read the header of an NPY array.

    Parameters
    ----------
    stream
        Positioned at the array's first byte; afterwards at its data's.
    fail
        Makes the error for what was expected and found.

    Returns
    -------
    Header
        Of an array of plain values whose size in bytes fits the header's shape.

    Raises
    ------
    ScanError
        Made by ``fail``: another version, no readable header, pickled objects, an impossible shape.
    """
    head = stream.read(8)
    version = tuple(head[6:8])
    if head[:6] != b"\x93NUMPY":
        raise fail("an NPY array", f"one that begins with {printable(repr(head[:6]))}")
    if version not in ((1, 0), (2, 0)):
        raise fail("NPY version 1 or 2", ".".join(map(str, version)) or "none")
    head += stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(head[8:], "little")
    if length > _MAX_HEADER:
        raise fail(f"a header of at most {_MAX_HEADER} bytes", f"one of {length}")
    head += stream.read(length)
    try:
        shape, fortran, dtype = _parsed(version, head[8:])
    except _UNREADABLE as error:
        raise fail("an NPY array", f"no readable header ({printable(error, 120)})") from error
    if dtype.hasobject:
        raise fail("plain numbers", "pickled Python objects, which are never loaded")
    if any(type(n) is not int or n < 0 for n in shape) or len(shape) > 32:
        raise fail("a shape of at most 32 sizes, none negative", f"shape {printable(shape, 80)}")
    # A size of zero would hide an enormous product.
    if math.prod(n for n in shape if n) * max(dtype.itemsize, 1) > _MAX_BYTES:
        raise fail("an array that a machine can hold", f"shape {printable(shape, 80)} of {dtype}")
    if dtype.itemsize == 0 and math.prod(shape) > 1:
        raise fail("values with a size", f"{printable(shape, 80)} of {dtype}, which has none")
    return Header(tuple(shape), dtype, bool(fortran), math.prod(shape) * dtype.itemsize, len(head))


@functools.lru_cache(64)
def _parsed(version: tuple[int, ...], head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type; files of one series have one header, which takes longer to understand than their data."""
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(io.BytesIO(head))
    return shape, fortran, dtype


def read_data(stream: IO[bytes], header: Header, fail: Fail) -> NDArray[Any]:
    """Read the data behind a header into an array of its own, in chunks: nothing lies in memory twice.

    Parameters
    ----------
    stream
        Positioned at the data.
    header
        What :func:`read_header` gave; its ``size`` has been taken from the file's budget.
    fail
        Makes the error for what was expected and found.

    Returns
    -------
    numpy.ndarray
        Of the header's shape and type.

    Raises
    ------
    ScanError
        Made by ``fail`` when the file ends before the data does.
    """
    out = np.empty(header.shape, header.dtype, order="F" if header.fortran else "C")
    raw = out.reshape(-1, order="A").view(np.uint8) if out.nbytes else np.empty(0, np.uint8)
    for start in range(0, out.nbytes, CHUNK_BYTES):
        part = raw[start : start + CHUNK_BYTES]
        data = stream.read(len(part))
        if len(data) != len(part):
            raise fail(f"{len(part)} more bytes", f"{len(data)}: the file is cut short")
        part[:] = np.frombuffer(data, np.uint8)
    return out


def read_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an NPY file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    numpy.ndarray
        Its array, of plain values.

    Raises
    ------
    ScanNotFoundError
        When expected a file; none is there.
    ScanError
        When it is not an NPY file, holds objects, or its size is not what its header says.
    """
    path = Path(path)

    def fail(expected: str, found: str) -> ScanError:
        advice = "; rename it to .npz" if zipfile.is_zipfile(path) else ""
        return ScanError(f"{printable(path, 1000)}: expected {expected}, found {found}{advice}")

    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            header = read_header(stream, fail)
            if header.start + header.size != size:
                raise fail(
                    f"{header.start + header.size} bytes for shape {header.shape} of {header.dtype}",
                    f"{size}",
                )
            budget = MemoryBudget(size, lambda reason: ScanError(f"{printable(path, 1000)}: {reason}"))
            budget.take(header.size)
            return read_data(stream, header, fail)
    except FileNotFoundError as error:
        raise ScanNotFoundError(f"{printable(path, 1000)}: expected a file; none is there") from error
    except OSError as error:
        raise ScanError(
            f"{printable(path, 1000)}: cannot be read ({error.strerror or printable(error)})"
        ) from error
