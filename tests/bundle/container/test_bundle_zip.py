"""The strict zip reader: legitimate files are read, contradictions are refused."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.bundle.container.zipreader import MemorySource, ZipReader
from ptycho_torch.bundle.container.zipwriter import Member, zip_parts
from ptycho_torch.errors import BundleError


def fail(member: str | None, reason: str) -> BundleError:
    return BundleError(f"bundle.zip: {member}: {reason}")


def open_zip(data: bytes, limit: int = 1 << 30) -> ZipReader:
    return ZipReader(MemorySource(data), fail, lambda _: limit)


def read_all(data: bytes) -> dict[str, bytes]:
    reader = open_zip(data)
    return {name: bytes(reader.read(name)) for name, e in reader.entries.items() if not e.is_dir}


CONTENT = {
    "manifest.dill": b"abc" * 50,
    "a/model.pth": bytes(range(256)) * 4,
    "a/params.dill": b"",
    "notes.txt": b"hello",
}


def written(method: int = 8, **kw: object) -> bytearray:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in CONTENT.items():
            z.writestr(name, data)
        z.comment = b"made at the beamline" if kw.get("comment") else b""
    return bytearray(out.getvalue())


def streamed() -> bytes:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, part: object) -> int:
            self.data += bytes(part)  # type: ignore[call-overload]
            return len(bytes(part))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", 8) as z:
        for name, data in CONTENT.items():
            z.writestr(name, data)
    return bytes(pipe.data)


def forced64() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", 8) as z:
        for name, data in CONTENT.items():
            with z.open(zipfile.ZipInfo(name), "w", force_zip64=True) as f:
                f.write(data)
    return out.getvalue()


@pytest.mark.parametrize(
    "make", [written, lambda: written(0), lambda: written(comment=True), streamed, forced64]
)
def test_what_the_standard_library_writes_is_read(make: Callable[[], bytes]) -> None:
    assert read_all(bytes(make())) == CONTENT


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text("abcXYZ_-.09", min_size=1, max_size=6)
        .filter(lambda n: n not in (".", ".."))
        .map(lambda n: "f/" + n),
        st.binary(max_size=300),
        max_size=5,
    ),
    st.booleans(),
    st.sampled_from([1, 64]),
)
def test_what_we_write_is_read_by_us_and_the_standard_library(
    content: dict[str, bytes], deflate: bool, align: int
) -> None:
    content = {
        k: v
        for i, (k, v) in enumerate(content.items())
        if k.lower() not in [o.lower() for o in list(content)[:i]]
    }
    parts, size = zip_parts([Member(n, [d], deflate) for n, d in content.items()], align)
    data = b"".join(bytes(p) for p in parts)
    assert len(data) == size
    assert read_all(data) == content
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        assert {n: z.read(n) for n in z.namelist()} == content


def entry(name: bytes, data: bytes = b"x", *, at: int | None = None, **lie: int | bytes) -> dict[str, object]:
    return {"name": name, "data": data, "at": at, **lie}


def raw(
    entries: list[dict[str, object]], prefix: bytes = b"", suffix: bytes = b"", count: int | None = None
) -> bytes:
    out, table = bytearray(prefix), bytearray()
    for e in entries:
        name, data = bytes(e["name"]), bytes(e["data"])  # type: ignore[call-overload]
        method, flags = int(e.get("method", 0)), int(e.get("flags", 0x800))  # type: ignore[call-overload]
        crc, size = int(e.get("crc", zlib.crc32(data))), int(e.get("size", len(data)))  # type: ignore[call-overload]
        packed = int(e.get("packed", len(data)))  # type: ignore[call-overload]
        local = bytes(e.get("local", name))  # type: ignore[call-overload]
        offset = len(out) if e["at"] is None else int(e["at"])  # type: ignore[call-overload]
        if e["at"] is None:
            lcrc = int(e.get("lcrc", crc))  # type: ignore[call-overload]
            out += (
                struct.pack(
                    "<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 33, lcrc, packed, size, len(local), 0
                )
                + local
                + data
            )
        attr = int(e.get("attr", 0o100644)) << 16  # type: ignore[call-overload]
        extra = bytes(e.get("extra", b""))  # type: ignore[call-overload]
        table += struct.pack(
            "<4s6H3L5H2L",
            b"PK\1\2",
            0x314,
            20,
            flags,
            method,
            0,
            33,
            crc,
            packed,
            size,
            len(name),
            len(extra),
            0,
            0,
            0,
            attr,
            offset,
        )
        table += name + extra
    n = len(entries) if count is None else count
    return bytes(
        out + table + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, n, n, len(table), len(out), 0) + suffix
    )


A = entry(b"a.txt", b"hello")
HOSTILE = {
    "nothing": b"",
    "text": b"hello, this is not a zip" * 9,
    "parent": raw([A, entry(b"../evil")]),
    "parent inside": raw([A, entry(b"x/../../evil")]),
    "absolute": raw([A, entry(b"/evil")]),
    "backslash": raw([A, entry(b"..\\evil")]),
    "drive": raw([A, entry(b"C:evil")]),
    "nul": raw([A, entry(b"b\0.txt")]),
    "escape": raw([A, entry(b"\x1b[2J")]),
    "right to left": raw([A, entry("b\u202etxt".encode())]),
    "not utf-8": raw([A, entry(b"\xff\xfe")]),
    "no name": raw([A, entry(b"")]),
    "only dots": raw([A, entry(b".")]),
    "long name": raw([A, entry(b"n" * 600)]),
    "twice": raw([A, A]),
    "case twin": raw([A, entry(b"A.TXT")]),
    "width twin": raw([A, entry("ａ.txt".encode())]),
    "file and folder": raw([A, entry(b"a.txt/b")]),
    "folder twin of a file": raw([A, entry(b"a.txt/", b"")]),
    "encrypted": raw([entry(b"a", flags=0x801)]),
    "symbolic link": raw([entry(b"a", attr=0o120777)]),
    "device": raw([entry(b"a", attr=0o020666)]),
    "fifo": raw([entry(b"a", attr=0o010666)]),
    "bzip2": raw([entry(b"a", method=12)]),
    "aes": raw([entry(b"a", method=99)]),
    "wrong crc": raw([entry(b"a", crc=1)]),
    "two crcs": raw([entry(b"a", lcrc=1)]),
    "two names": raw([entry(b"a", local=b"b")]),
    "two stored sizes": raw([entry(b"a", size=9)]),
    "deflate claims more": raw([entry(b"a", zlib.compress(b"q" * 99)[2:-4], method=8, size=200)]),
    "deflate claims less": raw([entry(b"a", zlib.compress(b"q" * 99)[2:-4], method=8, size=9)]),
    "deflate with a tail": raw([entry(b"a", zlib.compress(b"q" * 99)[2:-4] + b"tail", method=8, size=99)]),
    "deflate garbage": raw([entry(b"a", b"\xff" * 50, method=8, size=60)]),
    "impossible ratio": raw([entry(b"a", b"\3\0", method=8, size=1 << 30)]),
    "overlap": raw([A, entry(b"b", b"hello", at=0)]),
    "outside": raw([A, entry(b"b", b"hello", at=1 << 30)]),
    "prefix": raw([A], prefix=b"#!/bin/sh\n"),
    "suffix": raw([A], suffix=b"tail"),
    "two archives": raw([A]) + raw([A]),
    "count low": raw([A, entry(b"b")], count=1),
    "count high": raw([A], count=2),
    "many": raw([entry(b"%d" % i) for i in range(10_001)]),
    "unicode path field": raw([entry(b"a", extra=struct.pack("<HH", 0x7075, 4) + b"evil")]),
    "broken extra": raw([entry(b"a", extra=b"\1\0\xff\0")]),
    "zip64 unasked": raw([entry(b"a", extra=struct.pack("<HHQ", 1, 8, 5))]),
    "zip64 missing": raw([entry(b"a", packed=0xFFFFFFFF, size=0xFFFFFFFF)]),
    "two zip64": raw([entry(b"a", extra=struct.pack("<HHHH", 1, 0, 1, 0))]),
    "end record alone, offset": struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 7, 0),
    "fake end in comment": raw([A])[:-2] + struct.pack("<H", 22) + raw([])[-22:],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_contradictions_and_odd_names_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match=r"^bundle\.zip: "):
        read_all(HOSTILE[name])


def test_limits_on_size() -> None:
    data = bytes(written())
    with pytest.raises(BundleError, match="at most 10 are read"):
        open_zip(data, 10)


def test_every_truncation_is_refused() -> None:
    data = bytes(written())
    for n in range(len(data)):
        with pytest.raises(BundleError):
            read_all(data[:n])


def test_flipped_bits_never_give_other_content() -> None:
    rng, data = random.Random(0), written()
    for _ in range(3000):
        bad = bytearray(data)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        try:
            got = read_all(bytes(bad))
        except BundleError:
            continue
        # Only what nobody reads may change unnoticed: dates, versions, attributes, and names.
        assert sorted(got.values()) == sorted(CONTENT.values())
