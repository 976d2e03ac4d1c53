"""The weights file ``model.pth``: read after checks of our own, written with the same bytes each time.

A ``.pth`` is a zip of one pickle, which names tensors as views of storages, and one stored record
per storage. Reading decodes the pickle with the bundle's decoder, so every view is known - type,
size, strides, offset - and compared with its record's length before a tensor exists. torch is
imported only to make tensors; everything up to there, including the search for values that are not
finite, works without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ptycho_torch.bundle.container import limits
from ptycho_torch.bundle.container.zipreader import MemorySource, ZipReader
from ptycho_torch.bundle.container.zipwriter import Buffer, Member, zip_parts
from ptycho_torch.bundle.pickles.decoder import decode
from ptycho_torch.bundle.pickles.encoder import PersistentId, Symbol, encode
from ptycho_torch.bundle.pickles.values import DictRef, Name, RefusedError
from ptycho_torch.errors import BundleError, brief, printable
from ptycho_torch.files.memory import MemoryBudget

if TYPE_CHECKING:
    import torch

__all__ = ["TensorView", "Weights", "read_weights", "weights_parts"]

_DTYPES: Final[dict[str, tuple[str, int]]] = {
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
}
_STORAGES: Final = {dtype: name for name, (dtype, _) in _DTYPES.items()}
_KEY: Final = re.compile(r"[0-9A-Za-z_]{1,40}")
_RECORD: Final = re.compile(
    r"(data\.pkl|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|data/[0-9A-Za-z_]{1,40})"
)


@dataclass(frozen=True, slots=True)
class TensorView:
    """One tensor as a dense strided view of a storage; sizes in elements."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    key: str
    storage_size: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    key: str
    size: int


def _storage_id(found: Any) -> _Storage:
    if not (isinstance(found, tuple) and len(found) == 5 and found[0] == "storage"):
        raise RefusedError("reference to something other than a storage")
    _, kind, key, place, size = found
    if not isinstance(kind, Name) or kind.label not in _DTYPES or type(size) is not int or size < 0:
        raise RefusedError("storage of an unknown type or size")
    if type(key) is not str or not _KEY.fullmatch(key) or type(place) is not str:
        raise RefusedError("storage with an odd name")
    return _Storage(_DTYPES[kind.label][0], key, size)


def _rebuild(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, extra: Any = None
) -> TensorView:
    if not isinstance(storage, _Storage) or type(offset) is not int or type(grad) is not bool:
        raise RefusedError("tensor with unknown arguments")
    if not isinstance(hooks, DictRef) or hooks.pairs or extra not in (None, {}):
        raise RefusedError("tensor with hooks")
    sizes = (shape, stride)
    if any(not isinstance(t, tuple) or len(t) > limits.MAX_ARRAY_DIMS for t in sizes) or len(shape) != len(
        stride
    ):
        raise RefusedError("tensor with unknown sizes")
    if any(type(n) is not int or not 0 <= n < 1 << 40 for t in sizes for n in t):
        raise RefusedError("tensor with a negative or huge size or stride")
    count = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if not 0 <= offset <= storage.size or count > storage.size or (count and last >= storage.size):
        raise RefusedError(f"tensor of shape {shape} lies outside its storage of {storage.size} elements")
    reach = 1
    for step, size in sorted((s, n) for s, n in zip(stride, shape, strict=True) if n > 1 and count):
        if step < reach:
            raise RefusedError(f"tensor of shape {shape} whose elements share memory")
        reach = step * (size - 1) + reach
    return TensorView(storage.dtype, shape, stride, offset, storage.key, storage.size)


def _parameter(tensor: Any, grad: Any, hooks: Any) -> TensorView:
    if (
        not isinstance(tensor, TensorView)
        or type(grad) is not bool
        or not isinstance(hooks, DictRef)
        or hooks.pairs
    ):
        raise RefusedError("parameter with unknown arguments")
    return tensor


_TABLE: Final[dict[tuple[str, str], Name]] = {
    ("collections", "OrderedDict"): Name("OrderedDict", lambda: DictRef(ordered=True)),
    ("torch._utils", "_rebuild_tensor_v2"): Name("_rebuild_tensor_v2", _rebuild),
    ("torch._utils", "_rebuild_parameter"): Name("_rebuild_parameter", _parameter),
    **{("torch", name): Name(name) for name in _DTYPES},
}


class Weights:
    """The content of one ``model.pth``: either tensors by name, or the sentinel that stands for a model."""

    def __init__(
        self,
        tensors: dict[str, TensorView],
        records: Mapping[str, memoryview],
        sentinel: dict[str, Any] | None,
        fail: Callable[[str], BundleError],
    ) -> None:
        self.tensors, self.sentinel = tensors, sentinel
        self._records, self._fail = records, fail

    def check_values(self) -> None:
        """Raises for a value that is not finite, or a truth value that is neither 0 nor 1."""
        good: dict[str, bool] = {}
        for name, view in self.tensors.items():
            flat = _flat(self._records[view.key], view.dtype)
            if view.key not in good:
                good[view.key] = _sound(flat, view.dtype)
            if good[view.key] or not view.count:
                continue
            step = flat.itemsize
            part = np.lib.stride_tricks.as_strided(
                flat[view.offset :], view.shape, tuple(s * step for s in view.stride), writeable=False
            )
            if not _sound(part, view.dtype):
                raise self._fail(f"{printable(name)}: holds values that are not finite")

    def number(self, name: str) -> float | None:
        """The value of a float32 scalar, None where there is no such; needs no torch."""
        view = self.tensors.get(name)
        if view is None or view.shape or view.dtype != "float32":
            return None
        return float(_flat(self._records[view.key], view.dtype)[view.offset])

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor over the file's bytes in memory, on the CPU; no copy where alignment allows."""
        import torch

        view = self.tensors[name]
        dtype: torch.dtype = getattr(torch, view.dtype)
        record = self._records[view.key]
        if not record.nbytes:
            return torch.empty(view.shape, dtype=dtype)
        data = torch.frombuffer(record, dtype=torch.uint8)
        if data.data_ptr() % 16:
            data = data.clone()
        return data.view(dtype).as_strided(view.shape, view.stride, view.offset)


def _flat(record: memoryview, dtype: str) -> np.ndarray[Any, Any]:
    kind = {"bfloat16": "<u2", "bool": "u1"}.get(dtype) or np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(record, dtype=kind)


def _sound(values: np.ndarray[Any, Any], dtype: str) -> bool:
    if dtype == "bool":
        return not values.size or int(values.max()) <= 1
    if dtype == "bfloat16":
        return not bool(np.any((values & 0x7F80) == 0x7F80))
    return values.dtype.kind not in "fc" or bool(np.isfinite(values).all())


def read_weights(
    data: bytearray, fail: Callable[[str], BundleError], budget: MemoryBudget | None = None
) -> Weights:
    """Decodes and checks a ``model.pth``. Raises what ``fail`` makes.

    Checked here: the inner zip (as strictly as the outer one, records stored, CRCs right), the
    pickle, each storage's length against its record, each view against its storage. Values are checked
    by :meth:`Weights.check_values`.
    """
    if bytes(data[:2]) != b"PK":
        raise fail("not a torch zip file (empty, of another kind, or written by torch before 1.6)")
    reader = ZipReader(
        MemorySource(data),
        lambda member, reason: fail(f"{printable(member)}: {reason}" if member else reason),
        lambda name: limits.MAX_PARAMS_BYTES if name.endswith("/data.pkl") else limits.MAX_WEIGHTS_BYTES,
        budget,
    )
    records = _records(reader, fail)
    found = decode(
        records["data.pkl"],
        fail,
        budget=budget,
        table=_TABLE,
        persistent=_storage_id,
        leaves=(TensorView,),
    )
    if isinstance(found, dict) and "_sentinel" in found:
        return Weights({}, {}, found, fail)
    tensors = _state_dict(found, fail)
    _check_storages(tensors, records, fail)
    return Weights(tensors, {k[5:]: v for k, v in records.items() if k.startswith("data/")}, None, fail)


def _records(reader: ZipReader, fail: Callable[[str], BundleError]) -> dict[str, memoryview]:
    """The records of the inner zip by their name in its one folder, those that torch writes and no others."""
    roots = {name.split("/", 1)[0] for name in reader.entries}
    if len(roots) != 1:
        raise fail("expected one folder inside the weights file")
    root = roots.pop() + "/"
    records: dict[str, memoryview] = {}
    for name in reader.entries:
        inner = name[len(root) :]
        if not _RECORD.fullmatch(inner):
            raise fail(f"{printable(name)}: record that does not belong to a state dict")
        view = reader.view(name)
        if view is None:
            raise fail(f"{printable(name)}: compressed record; torch stores them as they are")
        records[inner] = view
    for inner, allowed in (("version", (b"3\n", b"3")), ("byteorder", (b"little",))):
        if inner in records and bytes(records[inner]) not in allowed:
            raise fail(f"{inner}: {printable(bytes(records[inner][:20]))} is not read")
    if "data.pkl" not in records:
        raise fail("no data.pkl inside; not a state dict")
    return records


def _check_storages(
    tensors: Mapping[str, TensorView],
    records: Mapping[str, memoryview],
    fail: Callable[[str], BundleError],
) -> None:
    """Refuse a tensor without a record, or with one of another length or type than its own."""
    kinds: dict[str, str] = {}
    for name, tensor in tensors.items():
        if kinds.setdefault(tensor.key, tensor.dtype) != tensor.dtype:
            raise fail(f"{printable(name)}: one data record read as two types")
        record = records.get("data/" + tensor.key)
        if record is None:
            raise fail(f"{printable(name)}: its data record {tensor.key} is missing")
        size = np.dtype(tensor.dtype).itemsize if tensor.dtype != "bfloat16" else 2
        if tensor.storage_size * size != record.nbytes:
            raise fail(
                f"{printable(name)}: storage of {tensor.storage_size} {tensor.dtype} over {record.nbytes} bytes"
            )


def _state_dict(found: Any, fail: Callable[[str], BundleError]) -> dict[str, TensorView]:
    if not isinstance(found, dict):
        raise fail(f"expected a state dict, found {type(found).__name__}")
    if not found:
        raise fail("state dict without a single tensor")
    if len(found) > limits.MAX_TENSORS:
        raise fail(f"{len(found)} tensors, at most {limits.MAX_TENSORS} are read")
    for name, value in found.items():
        if type(name) is not str:
            raise fail(f"tensor name {brief(name)} is not text")
        if not isinstance(value, TensorView):
            hint = "; a training checkpoint, not a state dict" if isinstance(value, dict) else ""
            raise fail(f"{printable(name)}: expected a tensor, found {type(value).__name__}{hint}")
    return found


def weights_parts(state: Mapping[str, Any], fail: Callable[[str], BundleError]) -> list[Buffer]:
    """The bytes of a ``.pth`` for a state dict (or a sentinel dict), as buffers to be written in order.

    ``torch.load(weights_only=True)`` reads them. Same tensors, same bytes: fixed dates, sorted
    names, contiguous CPU copies, records aligned to 64 bytes and stored. Raises what ``fail`` makes for
    a tensor that the reader would refuse, with its name.
    """
    records: list[Member] = []
    if "_sentinel" in state:
        return zip_parts(_frame(encode(dict(state), fail, protocol=2), []), align=64)[0]
    written: dict[tuple[Any, ...], int] = {}
    symbols: dict[str, Any] = {}
    for name in sorted(state):
        tensor = state[name]
        dtype = str(getattr(tensor, "dtype", "")).removeprefix("torch.")
        if dtype not in _STORAGES or str(tensor.layout) != "torch.strided":
            kind = f"{dtype} {tensor.layout}" if hasattr(tensor, "layout") else type(tensor).__name__
            raise fail(f"{printable(name)}: {kind} cannot be kept in a bundle")
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        same = (plain.data_ptr(), dtype, tuple(plain.shape)) if plain.numel() else (name,)
        if same not in written:
            data = _raw(plain)
            if not _sound(_flat(data, dtype), dtype):
                raise fail(f"{printable(name)}: holds values that are not finite")
            written[same] = len(records)
            records.append(Member(f"data/{len(records)}", [data]))
        storage = ("storage", Symbol("torch", _STORAGES[dtype]), str(written[same]), "cpu", plain.numel())
        empty = Symbol("collections", "OrderedDict", ())
        strides = tuple(int(s) for s in plain.stride())
        symbols[name] = Symbol(
            "torch._utils",
            "_rebuild_tensor_v2",
            (PersistentId(storage), 0, tuple(plain.shape), strides, False, empty),
        )
    return zip_parts(_frame(encode(symbols, fail, protocol=2), records), align=64)[0]


def _raw(plain: Any) -> memoryview:
    import torch

    if not plain.numel():
        return memoryview(b"")
    return memoryview(plain.reshape(-1).view(torch.uint8).numpy()).cast("B")


def _frame(pickle: bytes, records: list[Member]) -> list[Member]:
    first = [Member("data.pkl", [pickle]), Member("byteorder", [b"little"])]
    members = [*first, *records, Member("version", [b"3\n"])]
    for member in members:
        member.name = "archive/" + member.name
    return members
