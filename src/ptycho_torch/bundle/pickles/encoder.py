"""Writes plain data as a pickle that any reader understands, always with the same bytes.

The output is protocol 4 without memo, so it does not depend on which objects happen to be shared,
and names nothing but numpy's array functions: plain ``pickle.load`` and ``dill.load`` read it, with
numpy 1 and 2. What :mod:`ptycho_torch.bundle.pickles.decoder` would refuse is refused here, with the place
of the value. Imports no torch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from ptycho_torch.bundle.container import limits
from ptycho_torch.errors import BundleError, brief, printable

__all__ = ["Symbol", "encode"]


class Symbol:
    """A global to be written by name, called with ``args`` unless they are None. For ``model.pth`` only."""

    def __init__(self, module: str, name: str, args: tuple[Any, ...] | None = None) -> None:
        self.module, self.name, self.args = module, name, args


class PersistentId:
    """A value to be written as a persistent id. For ``model.pth`` only."""

    def __init__(self, value: tuple[Any, ...]) -> None:
        self.value = value


def encode(value: Any, fail: Callable[[str], BundleError], *, protocol: int = 4) -> bytes:
    """``value`` as a pickle.

    Accepts None, booleans, integers of at most 16 bytes, floats, complex numbers, text, bytes, lists,
    tuples, dictionaries with text keys (written in sorted order), numpy arrays of kinds b i u f c U S,
    numpy scalars (written as Python numbers) and paths (written as text). Anything else raises what
    ``fail`` makes, with the key's name in the reason.
    """
    return b"".join([b"\x80", bytes([protocol]), *_Encoder(fail, protocol).parts(value, "", 0), b"."])


class _Encoder:
    def __init__(self, fail: Callable[[str], BundleError], protocol: int) -> None:
        self.fail, self.protocol = fail, protocol
        self.count = 0

    def refuse(self, where: str, reason: str) -> BundleError:
        return self.fail(f"{printable(where, 120) or 'value'}: {reason}")

    def parts(self, value: Any, where: str, depth: int) -> Iterator[bytes]:
        self.count += 1
        if self.count > limits.MAX_VALUES or depth > limits.MAX_DEPTH:
            raise self.refuse(where, "too many values, or too many inside each other")
        if isinstance(value, np.generic) and value.dtype.kind in "biufcUS":
            value = value.item()
        if isinstance(value, PurePath):
            value = str(value)
        if value is None:
            yield b"N"
        elif isinstance(value, bool):
            yield b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            yield self.integer(int(value), where)
        elif isinstance(value, float):
            yield b"G" + struct.pack(">d", value)
        elif isinstance(value, complex):
            yield from self.call(("builtins", "complex"), (value.real, value.imag), where, depth)
        elif isinstance(value, str):
            yield self.text(value, where)
        elif isinstance(value, bytes):
            yield b"B" + struct.pack("<I", len(value)) + value
        elif isinstance(value, tuple | list):
            yield b"(" if isinstance(value, tuple) else b"]("
            for i, item in enumerate(value):
                yield from self.parts(item, f"{where}[{i}]", depth + 1)
            yield b"t" if isinstance(value, tuple) else b"e"
        elif isinstance(value, Mapping):
            yield from self.mapping(value, where, depth)
        elif isinstance(value, np.ndarray):
            yield from self.array(value, where, depth)
        elif isinstance(value, Symbol):
            yield from self.call((value.module, value.name), value.args, where, depth)
        elif isinstance(value, PersistentId):
            yield from self.parts(value.value, where, depth + 1)
            yield b"Q"
        else:
            raise self.refuse(
                where, f"{type(value).__name__} cannot be kept in a bundle; use plain values and arrays"
            )

    def integer(self, value: int, where: str) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        if -(1 << 31) <= value < 1 << 31:
            return b"J" + struct.pack("<i", value)
        size = value.bit_length() // 8 + 1
        if size > limits.MAX_INT_BYTES:
            raise self.refuse(where, f"integer of more than {limits.MAX_INT_BYTES} bytes")
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)

    def text(self, value: str, where: str) -> bytes:
        try:
            raw = str(value).encode("utf-8")
        except UnicodeEncodeError:
            raise self.refuse(where, "text that is not valid Unicode") from None
        return b"X" + struct.pack("<I", len(raw)) + raw

    def mapping(self, value: Mapping[Any, Any], where: str, depth: int) -> Iterator[bytes]:
        for key in value:
            if not isinstance(key, str):
                raise self.refuse(where, f"key {brief(key, 80)} is not text")
        yield b"}("
        for key in sorted(value):
            yield self.text(key, where)
            yield from self.parts(value[key], f"{where}.{key}" if where else str(key), depth + 1)
        yield b"u"

    def array(self, value: np.ndarray[Any, Any], where: str, depth: int) -> Iterator[bytes]:
        dtype = value.dtype.newbyteorder("<")
        code = dtype.str[1:]
        kind, itemsize = dtype.kind, dtype.itemsize
        if kind not in "biufcUS" or itemsize == 0 or (kind in "fc" and itemsize > (8 if kind == "f" else 16)):
            raise self.refuse(where, f"array of type {value.dtype} cannot be kept in a bundle")
        if type(value) is not np.ndarray or value.ndim > limits.MAX_ARRAY_DIMS:
            raise self.refuse(
                where, f"{type(value).__name__} with {value.ndim} axes cannot be kept in a bundle"
            )
        order = "|" if itemsize == 1 or kind == "S" else "<"
        sizes = {"U": (itemsize, 4, 8), "S": (itemsize, 1, 0)}.get(kind, (-1, -1, 0))
        # numpy.core exists in numpy 1 and, for exactly this purpose, in numpy 2.
        yield from self.call(
            ("numpy.core.multiarray", "_reconstruct"), (Symbol("numpy", "ndarray"), (0,), b"b"), where, depth
        )
        data = np.ascontiguousarray(value, dtype=dtype).tobytes()
        yield b"("
        for item in (1, tuple(int(n) for n in value.shape)):
            yield from self.parts(item, where, depth + 1)
        yield from self.call(("numpy", "dtype"), (code, False, True), where, depth + 1)
        yield from self.parts((3, order, None, None, None, *sizes), where, depth + 1)
        yield b"b"
        yield from self.parts(False, where, depth + 1)
        yield b"B" + struct.pack("<I", len(data)) + data
        yield b"tb"

    def call(
        self, name: tuple[str, str], args: tuple[Any, ...] | None, where: str, depth: int
    ) -> Iterator[bytes]:
        yield f"c{name[0]}\n{name[1]}\n".encode("ascii")
        if args is not None:
            yield from self.parts(args, where, depth)
            yield b"R"
