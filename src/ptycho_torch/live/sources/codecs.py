"""Decompression of detector frames, with the lengths checked before any library sees them.

The libraries trust the lengths in a stream: a wrong one makes them read past its end. Here every block is walked
first, and what does not add up is refused.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, brief
from ptycho_torch.live.sources.base import needed

__all__ = ["TYPES", "as_frame", "compress_bslz4", "compress_lz4", "decompress", "plane"]

TYPES: Final = {
    name: np.dtype(name) for name in ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")
}
"""Types that pixels may have, by name."""
_HEADER: Final = struct.Struct(">qi")
_BLOCK: Final = 8192
_MOST_BLOCK: Final = 16 << 20


def plane(shape: Any, dtype: Any, most: int) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Return rows, columns and type of a frame that a header describes.

    Raises
    ------
    DataError
        When it describes none, or one of more than ``most`` bytes.

    Examples
    --------
    >>> plane([128, 64], "uint16", 1 << 20)
    ((128, 64), dtype('uint16'))
    """
    kind = TYPES.get(dtype) if isinstance(dtype, str) else None
    if kind is None:
        raise DataError(f"type: expected one of {', '.join(TYPES)}, found {brief(dtype)}")
    if isinstance(shape, list | tuple) and len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if (
        not isinstance(shape, list | tuple)
        or len(shape) != 2
        or not all(type(edge) is int and edge > 0 for edge in shape)
    ):
        raise DataError(f"shape: expected two lengths above 0, found {brief(shape)}")
    rows, columns = shape
    if max(rows, columns) > most or rows * columns * kind.itemsize > most:
        raise DataError(f"shape: expected a frame of at most {most} bytes, found {brief(shape)} of {kind}")
    return (rows, columns), kind


def as_frame(data: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return plain bytes as a frame (H, W), little-endian."""
    wanted = shape[0] * shape[1] * dtype.itemsize
    if len(data) != wanted:
        raise DataError(f"data: expected {wanted} bytes for {shape} of {dtype}, found {len(data)}")
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)


def decompress(data: bytes, codec: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a frame out of compressed bytes.

    Parameters
    ----------
    data : bytes
    codec : {"bslz4", "lz4", "bslz4-bare", "lz4-bare"}
        Bitshuffle and LZ4, or LZ4, in the layout of the HDF5 filters, which begins with the size; or without it.
    shape, dtype
        Of the frame, checked by :func:`plane`.

    Raises
    ------
    DataError
        When the bytes are not what they say.
    """
    wanted = shape[0] * shape[1] * dtype.itemsize
    block = _BLOCK
    if codec in ("bslz4", "lz4"):
        if len(data) < _HEADER.size:
            raise DataError(f"data: expected a {codec} header, found {len(data)} bytes")
        size, block = _HEADER.unpack_from(data)
        if size != wanted or not 0 <= block <= _MOST_BLOCK:
            raise DataError(f"data: expected {wanted} bytes in blocks, found {size} in blocks of {block}")
        data, block = data[_HEADER.size :], block or _BLOCK
    if codec.startswith("bslz4"):
        return _unshuffled(data, block, shape, dtype)
    if codec == "lz4":
        return as_frame(_lz4_blocks(data, block, wanted), shape, dtype)
    if codec == "lz4-bare":
        return as_frame(_lz4(data, wanted), shape, dtype)
    raise DataError(f"compression: expected bslz4, lz4 or none, found {brief(codec)}")


def _unshuffled(data: bytes, block: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    elements = block // dtype.itemsize
    if elements < 8 or elements % 8:
        raise DataError(f"data: expected blocks of a multiple of 8 pixels, found {block} bytes of {dtype}")
    count = shape[0] * shape[1]
    whole = count - count % 8  # the rest is stored as it is
    _walk(data, math.ceil(whole / elements), tail=(count - whole) * dtype.itemsize)
    try:
        made = needed("bitshuffle").decompress_lz4(np.frombuffer(data, np.uint8), shape, dtype, elements)
    except Exception as error:  # the library raises its own kinds
        raise DataError(f"data: not bitshuffle and LZ4: {brief(str(error))}") from error
    return np.asarray(made)


def _walk(data: bytes, blocks: int, tail: int) -> None:
    """Check that ``blocks`` blocks, each behind its length, and a tail are all of the data."""
    at = 0
    for _ in range(blocks):
        if at + 4 > len(data):
            raise DataError(f"data: expected {blocks} blocks, found its end before")
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    if at + tail != len(data):
        raise DataError(f"data: expected {at + tail} bytes by its block lengths, found {len(data)}")


def _lz4(data: bytes, wanted: int) -> bytes:
    try:
        made = needed("lz4.block", "lz4").decompress(data, uncompressed_size=wanted)
    except Exception as error:
        raise DataError(f"data: not LZ4: {brief(str(error))}") from error
    return bytes(made)


def _lz4_blocks(data: bytes, block: int, wanted: int) -> bytes:
    blocks = math.ceil(wanted / block)
    _walk(data, blocks, tail=0)
    at, parts = 0, []
    for number in range(blocks):
        size = int.from_bytes(data[at : at + 4], "big")
        part, fits = data[at + 4 : at + 4 + size], min(block, wanted - number * block)
        parts.append(part if size == fits else _lz4(part, fits))  # a block that would grow is stored as it is
        at += 4 + size
    return b"".join(parts)


def compress_bslz4(frame: NDArray[Any], header: bool = True) -> bytes:
    """Compress a frame with bitshuffle and LZ4, for senders; ``header``: as the HDF5 filter begins."""
    frame = np.ascontiguousarray(frame)
    made = needed("bitshuffle").compress_lz4(frame, _BLOCK // frame.dtype.itemsize).tobytes()
    return (_HEADER.pack(frame.nbytes, _BLOCK) if header else b"") + made


def compress_lz4(frame: NDArray[Any], header: bool = True) -> bytes:
    """Compress a frame with LZ4, for senders; ``header``: in the HDF5 filter's layout, one block."""
    raw = np.ascontiguousarray(frame).tobytes()
    made: bytes = needed("lz4.block", "lz4").compress(raw, store_size=False)
    if not header:
        return made
    made = raw if len(made) >= len(raw) else made
    return _HEADER.pack(len(raw), len(raw)) + len(made).to_bytes(4, "big") + made
