"""What a pickle's instructions may build: our own stand-ins for arrays, dtypes, paths and tensors.

The decoder never touches the real callables that a pickle names. Each name in a closed table maps
to a function of this module's shape: it takes the already decoded arguments, checks them, and
returns plain data or one of the small stand-ins below. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Final

import numpy as np

from ptycho_torch.bundle.container import limits

__all__ = ["DILL_TABLE", "ArrayRef", "DictRef", "DtypeRef", "Name", "RefusedError", "make_array"]


class RefusedError(Exception):
    """Why the data is refused; the decoder turns it into a BundleError with path and member."""


@dataclass(frozen=True, slots=True)
class Name:
    """A global that a pickle mentions, after the table allowed it. ``call`` is None: only named, never called."""

    label: str
    call: Callable[..., Any] | None = None


@dataclass(slots=True, eq=False)
class DictRef:
    """A dictionary being filled; becomes a real one only after its keys have been checked."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    ordered: bool = False
    state: Any = None


_CODES: Final = {
    f"{kind}{size}"
    for kind, sizes in {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}.items()
    for size in sizes
}
_TEXT_CODE: Final = re.compile(r"[US](0|[1-9][0-9]{0,6})")


@dataclass(slots=True, eq=False)
class DtypeRef:
    """A numpy dtype of kind b i u f c U S; its state may be set once."""

    code: str
    order: str | None = None

    @property
    def itemsize(self) -> int:
        number = int(self.code[1:])
        return number * 4 if self.code[0] == "U" else number

    def set_state(self, state: Any) -> None:
        if self.order is not None:
            raise RefusedError("the state of a dtype is set twice")
        text = self.code[0] in "US"
        if not (isinstance(state, tuple) and len(state) == 8 and state[1] in ("<", ">", "|", "=")):
            raise RefusedError("dtype with an unknown state")
        sizes = (self.itemsize, 4 if self.code[0] == "U" else 1, 8 if self.code[0] == "U" else 0)
        expected = sizes if text else (-1, -1, 0)
        given = state[5:]
        if state[0] != 3 or state[2:5] != (None, None, None) or any(type(v) is not int for v in given):
            raise RefusedError("dtype with an unknown state")
        if given != expected:
            raise RefusedError("dtype whose state does not fit its name")
        self.order = state[1]

    def real(self) -> np.dtype[Any]:
        return np.dtype(("" if self.order in (None, "|") else str(self.order)) + self.code)


@dataclass(slots=True, eq=False)
class ArrayRef:
    """An array that ``_reconstruct`` promised; its state may be set once."""

    value: np.ndarray[Any, Any] | None = None

    def set_state(self, state: Any) -> None:
        if self.value is not None:
            raise RefusedError("the state of an array is set twice")
        if not (
            isinstance(state, tuple) and len(state) == 5 and type(state[0]) is int and state[0] in (0, 1)
        ):
            raise RefusedError("array with an unknown state")
        _, shape, dtype, fortran, data = state
        if type(fortran) is not bool:
            raise RefusedError("array with an unknown state")
        self.value = make_array(data, dtype, shape, "F" if fortran else "C")


def make_array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray[Any, Any]:
    """An array over ``data``; its size is checked before numpy sees any of it."""
    if not isinstance(dtype, DtypeRef):
        raise RefusedError("array without a plain dtype (kinds b i u f c U S)")
    if not isinstance(data, bytes | bytearray):
        raise RefusedError("array whose content is not bytes")
    if not isinstance(shape, tuple) or len(shape) > limits.MAX_ARRAY_DIMS:
        raise RefusedError(f"array shape is not a tuple of at most {limits.MAX_ARRAY_DIMS} sizes")
    if any(type(n) is not int or not 0 <= n < 1 << 40 for n in shape):
        raise RefusedError("array shape with a negative, huge or odd size")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise RefusedError(f"array of shape {shape} and type {dtype.code} over {len(data)} bytes")
    # A size of zero would hide an enormous product from the check above.
    if math.prod(n for n in shape if n) * max(dtype.itemsize, 1) >= 1 << 40:
        raise RefusedError("empty array with a huge shape")
    kind = dtype.code[0]
    if dtype.itemsize == 0:
        raise RefusedError("array of items without size")
    if kind == "b" and data and max(data) > 1:
        raise RefusedError("truth values other than 0 and 1")
    content = bytearray(data)  # a copy of its own: writable, and shared with nothing
    if kind == "U":
        points = np.frombuffer(content, dtype=">u4" if dtype.order == ">" else "<u4")
        if bool(np.any((points > 0x10FFFF) | ((points >= 0xD800) & (points <= 0xDFFF)))):
            raise RefusedError("text array with invalid characters")
    array = np.frombuffer(content, dtype=dtype.real())
    return array.reshape(shape, order="F" if order == "F" else "C")


# ---- the functions that stand for what pickles name


def _dtype(code: Any, align: Any = False, copy: Any = True) -> DtypeRef:
    if type(code) is not str or type(align) is not bool or type(copy) is not bool:
        raise RefusedError("dtype with unknown arguments")
    if code not in _CODES and not _TEXT_CODE.fullmatch(code):
        raise RefusedError("dtype other than b i u f c U S")
    return DtypeRef(code)


def _reconstruct(kind: Any, shape: Any, code: Any) -> ArrayRef:
    if kind is not _NDARRAY or shape != (0,) or code != b"b":
        raise RefusedError("_reconstruct of something other than an empty numpy.ndarray")
    return ArrayRef()


def _create_array(function: Any, args: Any, state: Any, extra: Any = None) -> ArrayRef:
    if function is not _RECONSTRUCT or not isinstance(args, tuple) or len(args) != 3 or extra is not None:
        raise RefusedError("_create_array of something other than a plain array")
    array = _reconstruct(*args)
    array.set_state(state)
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, DtypeRef) or not isinstance(data, bytes):
        raise RefusedError("numpy scalar with unknown arguments")
    if dtype.itemsize == 0 and not data:
        return np.str_() if dtype.code[0] == "U" else np.bytes_()
    return make_array(data, dtype, (1,), "C")[0]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> ArrayRef:
    if order not in ("C", "F", "K"):
        raise RefusedError("array of unknown order")
    array = make_array(data, dtype, shape, order)
    if order == "K" and axes is not None:
        if (
            not isinstance(axes, tuple)
            or any(type(a) is not int for a in axes)
            or sorted(axes) != list(range(len(shape)))
        ):
            raise RefusedError("array with unknown axes")
        array = array.transpose(axes)
    return ArrayRef(array)


def _complex(real: Any, imag: Any) -> complex:
    if not isinstance(real, float | int) or not isinstance(imag, float | int):
        raise RefusedError("complex of something other than two numbers")
    return complex(float(real), float(imag))


def _bytes() -> bytes:
    return b""


def _bytearray(data: Any = b"") -> bytearray:
    if not isinstance(data, bytes | bytearray):
        raise RefusedError("bytearray of something other than bytes")
    return bytearray(data)


def _encode(text: Any, codec: Any) -> bytes:
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise RefusedError("encode of something other than text as latin1")
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise RefusedError("bytes with characters past 255") from None


def _ordered() -> DictRef:
    return DictRef(ordered=True)


def _path(kind: type[PurePath]) -> Callable[..., PurePath]:
    def build(*parts: Any) -> PurePath:
        if any(type(p) is not str for p in parts) or sum(map(len, parts)) > 4096:
            raise RefusedError("path of something other than short text")
        return kind(*parts)

    return build


def _identity(value: Any) -> ArrayRef:
    if not isinstance(value, ArrayRef):
        raise RefusedError("convert_to_tensor of something other than an array")
    return value


def _load_type(name: Any) -> Name:
    if type(name) is not str or name not in _TYPES:
        raise RefusedError("_load_type of something other than complex, bytes or bytearray")
    return _TYPES[name]


_NDARRAY = Name("numpy.ndarray")
_RECONSTRUCT = Name("_reconstruct", _reconstruct)
_COMPLEX, _BYTES, _BYTEARRAY = Name("complex", _complex), Name("bytes", _bytes), Name("bytearray", _bytearray)
_TYPES: Final = {"complex": _COMPLEX, "ComplexType": _COMPLEX, "bytes": _BYTES, "bytearray": _BYTEARRAY}
_POSIX, _WINDOWS = _path(PurePosixPath), _path(PureWindowsPath)

DILL_TABLE: Final[dict[tuple[str, str], Name]] = {
    **{(m, "_reconstruct"): _RECONSTRUCT for m in ("numpy.core.multiarray", "numpy._core.multiarray")},
    **{(m, "scalar"): Name("scalar", _scalar) for m in ("numpy.core.multiarray", "numpy._core.multiarray")},
    **{
        (m, "_frombuffer"): Name("_frombuffer", _frombuffer)
        for m in ("numpy.core.numeric", "numpy._core.numeric")
    },
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Name("dtype", _dtype),
    ("dill._dill", "_create_array"): Name("_create_array", _create_array),
    ("dill._dill", "_load_type"): Name("_load_type", _load_type),
    **{(m, "complex"): _COMPLEX for m in ("builtins", "__builtin__")},
    **{(m, "bytes"): _BYTES for m in ("builtins", "__builtin__")},
    **{(m, "bytearray"): _BYTEARRAY for m in ("builtins", "__builtin__")},
    ("_codecs", "encode"): Name("encode", _encode),
    ("collections", "OrderedDict"): Name("OrderedDict", _ordered),
    **{
        (m, n): Name(n, _POSIX)
        for m in ("pathlib", "pathlib._local")
        for n in ("PosixPath", "PurePosixPath", "Path", "PurePath")
    },
    **{
        (m, n): Name(n, _WINDOWS)
        for m in ("pathlib", "pathlib._local")
        for n in ("WindowsPath", "PureWindowsPath")
    },
    ("tensorflow.python.framework.ops", "convert_to_tensor"): Name("convert_to_tensor", _identity),
}
"""Every global that a ``.dill`` member may mention. docs/bundle-format.md says who writes which."""
