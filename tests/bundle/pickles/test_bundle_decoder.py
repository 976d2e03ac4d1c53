"""The data decoder and its encoder: what goes in comes out, everything else is refused."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import PosixPath, PurePosixPath
from typing import Any

import dill
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.bundle.pickles.decoder import decode
from ptycho_torch.bundle.pickles.encoder import encode
from ptycho_torch.errors import BundleError


def fail(reason: str) -> BundleError:
    return BundleError(f"bundle.zip: params.dill: {reason}")


def read(data: bytes) -> Any:
    return decode(data, fail)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and bool(a == b)


arrays = st.builds(
    lambda kind, shape, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(kind),
    st.sampled_from(["?", "i1", "i2", "<i8", ">i4", "u1", "u8", "f2", "f4", ">f8", "c8", "c16", "U3", "S2"]),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.integers(0, 99),
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**120), 2**120)
    | st.floats()
    | text
    | st.binary(max_size=8)
    | arrays
)
plain = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(text, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_what_is_encoded_is_read_back_by_us_and_by_everybody(value: Any) -> None:
    data = encode(value, fail)
    native = lambda v: v  # noqa: E731
    for got in (read(data), pickle.loads(data), dill.loads(data)):
        assert same(_little(value), native(got))


def _little(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value, value.dtype.newbyteorder("<")).reshape(value.shape)
    if isinstance(value, dict):
        return {k: _little(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_little(v) for v in value)
    return value


@settings(max_examples=150, deadline=None)
@given(plain, st.integers(2, 5), st.sampled_from([pickle, dill]))
def test_what_legitimate_writers_write_is_read(value: Any, protocol: int, writer: Any) -> None:
    assert same(value, read(writer.dumps(value, protocol=protocol)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("writer", [pickle, dill])
@pytest.mark.parametrize(
    "value",
    [
        1 + 2j,
        bytearray(b"ab"),
        bytearray(),
        b"",
        np.float32(2),
        np.bool_(True),
        np.complex64(1j),
        np.str_("x"),
        np.str_(""),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array(2.0),
        np.zeros((0, 3)),
        2**80,
        -5,
    ],
    ids=repr,
)
def test_every_kind_and_protocol(value: Any, protocol: int, writer: Any) -> None:
    got = read(writer.dumps(value, protocol=protocol))
    assert type(got) is type(value)
    assert np.array_equal(got, value)


def test_paths_and_ordered_dictionaries_become_plain() -> None:
    got = read(dill.dumps({"p": PosixPath("/a/b"), "q": PurePosixPath("c"), "o": OrderedDict(a=1)}))
    assert got == {"p": PurePosixPath("/a/b"), "q": PurePosixPath("c"), "o": {"a": 1}}
    assert type(got["p"]) is PurePosixPath
    assert type(got["o"]) is dict


def test_the_archived_probe_of_the_other_program() -> None:
    array = pickle.dumps(np.ones((2, 2, 1), np.complex64), protocol=2)[2:-1]
    data = b"\x80\x02ctensorflow.python.framework.ops\nconvert_to_tensor\n" + array + b"\x85R."
    assert same(read(data), np.ones((2, 2, 1), np.complex64))


F4 = b"cnumpy\ndtype\n(X\2\0\0\0f4\x89\x88tR"
F4_STATE = b"(K\3X\1\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
EMPTY = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR"
REFUSED = {
    "empty": b"",
    "text": b"models: autoencoder\n",
    "protocol 99": b"\x80\x63}.",
    "protocol 0": b"(dp0\n.",
    "no stop": b"\x80\x04}",
    "two values": b"\x80\x04}}.",
    "after stop": b"\x80\x04}.}.",
    "open mark": b"\x80\x04}(.",
    "underflow": b"\x80\x04a.",
    "pop": b"\x80\x04N0}.",
    "memo unset": b"\x80\x04h\x05.",
    "memo far": b"\x80\x04}r\xff\xff\xff\x3f.",
    "system": b"\x80\x02cos\nsystem\nX\2\0\0\0id\x85R.",
    "stack system": b"\x80\x04\x8c\2os\x8c\6system\x93\x8c\2id\x85R.",
    "eval": b"\x80\x02c__builtin__\neval\nX\1\0\0\0" + b"1\x85R.",
    "getattr": b"\x80\x02cbuiltins\ngetattr\n.",
    "dotted": b"\x80\x04\x8c\5numpy\x8c\7ndarray\x8c\1x\x93.",
    "name alone": b"\x80\x02cnumpy\nndarray\n.",
    "ext": b"\x80\x02\x82\1.",
    "persistent id": b"\x80\x02X\1\0\0\0aQ.",
    "newobj": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "build on a name": b"\x80\x02ccollections\nOrderedDict\n}b.",
    "ordered with state": b"\x80\x02ccollections\nOrderedDict\n)R}b.",
    "load_type function": b"\x80\x02cdill._dill\n_load_type\nX\x0c\0\0\0FunctionType\x85R.",
    "create_array apply": b"\x80\x02cdill._dill\n_create_array\n(cnumpy\nndarray\n)NNtR.",
    "call with no args": b"\x80\x02cnumpy\ndtype\n)R.",
    "dtype object": b"\x80\x02cnumpy\ndtype\n(X\2\0\0\0O8\x89\x88tR.",
    "dtype void": b"\x80\x02cnumpy\ndtype\n(X\x0b\0\0\0V2000000000\x89\x88tR.",
    "dtype alone": b"\x80\x02" + F4 + F4_STATE + b".",
    "dtype twice": b"\x80\x02" + F4 + F4_STATE + F4_STATE + b".",
    "reconstruct big": b"\x80\x02cnumpy._core.multiarray\n_reconstruct\n"
    b"(cnumpy\nndarray\n\x8a\5\0\xe4\x0bT\2\x85C\1btR.",
    "reconstruct without state": b"\x80\x02" + EMPTY + b".",
    "array too short": b"\x80\x02" + EMPTY + b"(K\1M\0\1\x85" + F4 + F4_STATE + b"\x89C\4abcdtb.",
    "array negative": b"\x80\x02" + EMPTY + b"(K\1J\xff\xff\xff\xff\x85" + F4 + F4_STATE + b"\x89C\4abcdtb.",
    "array empty and huge": b"\x80\x02"
    + EMPTY
    + b"(K\1K\0\x8a\5\0\0\0\0\1\x8a\5\0\0\0\0\1\x87"
    + F4
    + F4_STATE
    + b"\x89C\0tb.",
    "array objects": pickle.dumps(np.array([None], object)),
    "array records": pickle.dumps(np.zeros(2, [("a", "f4")])),
    "datetime": pickle.dumps(np.zeros(2, "M8[s]")),
    "long double": pickle.dumps(np.zeros(2, np.longdouble)),
    "masked": pickle.dumps(np.ma.zeros(2)),
    "set": pickle.dumps({1, 2}),
    "frozenset": pickle.dumps(frozenset([1])),
    "function": dill.dumps(lambda: 1),
    "slice": pickle.dumps(slice(1)),
    "range": pickle.dumps(range(3)),
    "class": dill.dumps(OrderedDict),
    "bytes8": b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b"x.",
    "bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 10**10) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 10**12) + b"}.",
    "long negative": b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
    "long of 17 bytes": b"\x80\x02\x8a\x11" + b"\1" * 17 + b".",
    "text number": b"\x80\x02L" + b"9" * 300 + b"L\n.",
    "bad utf8": b"\x80\x02X\2\0\0\0\xff\xfe.",
    "surrogate": b"\x80\x02X\3\0\0\0\xed\xa0\x80.",
    "list as key": b"\x80\x02}](K\1eNs.",
    "tuple as key": b"\x80\x02})Ns.",
    "float as key": b"\x80\x02}G" + bytes(8) + b"Ns.",
    "colliding keys": b"\x80\x02}("
    + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(1, 9))
    + b"u.",
    "key twice": b"\x80\x02}(X\1\0\0\0aNX\1\0\0\0aNu.",
    "odd items": b"\x80\x02}(X\1\0\0\0au.",
    "items of a list": b"\x80\x02](X\1\0\0\0aNu.",
    "append to a tuple": b"\x80\x02)Na.",
    "nested lists": b"\x80\x02" + b"]" * 40 + b"a" * 39 + b".",
    "very nested tuples": b"\x80\x02)" + b"\x85" * 400_000 + b".",
    "cycle": b"\x80\x02]q\0h\0a.",
    "doubling": b"\x80\x02]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(25)) + b".",
    "many instructions": b"\x80\x02" + b"]" * 600_000 + b".",
    "many marks": b"\x80\x02" + b"(" * 600_000 + b".",
    "line without end": b"\x80\x02c" + b"a" * 5000,
    "line outside ascii": b"\x80\x02c\xff\n\xff\n.",
    "truth value 2": pickle.dumps(np.array([True]), protocol=4).replace(b"\x01\x94t\x94b", b"\x02\x94t\x94b"),
    "text outside unicode": pickle.dumps(np.array(["a"]), protocol=4).replace(
        b"C\4a\0\0\0", b"C\4\0\0\0\xff"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_line_that_names_the_member(name: str) -> None:
    with pytest.raises(BundleError, match=r"^bundle\.zip: params\.dill: [ -~]+$"):
        read(REFUSED[name])


@settings(max_examples=300, deadline=None)
@given(plain, st.data())
def test_damage_never_raises_anything_else(value: Any, data: st.DataObject) -> None:
    blob = bytearray(dill.dumps(value, protocol=data.draw(st.integers(2, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BundleError):
        read(bytes(blob))


@pytest.mark.parametrize(
    "value",
    [{1}, object(), lambda: 1, range(3), np.zeros(1, object), np.zeros(2, "M8[s]"), 2**200, {1: 2}, "\ud800"],
)
def test_the_writer_refuses_with_the_keys_name(value: Any) -> None:
    with pytest.raises(BundleError, match=r"outer\.inner"):
        encode({"outer": {"inner": value}}, fail)


def test_the_writer_refuses_a_cycle() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(BundleError, match="inside each other"):
        encode({"key": cycle}, fail)


def test_same_bytes_in_every_process() -> None:
    code = (
        "import sys, numpy as np; from ptycho_torch.bundle.pickles.encoder import encode;"
        "value = {'b': [1, 'x', ('x',)], 'a': np.arange(3.), 'c': {'z': 1, 'y': {'x'*3: 2}}};"
        "sys.stdout.buffer.write(encode(value, ValueError))"
    )
    out = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": s},
        ).stdout
        for s in ("1", "2")
    }
    assert len(out) == 1
    assert pickle.load(io.BytesIO(out.pop()))["b"] == [1, "x", ("x",)]
