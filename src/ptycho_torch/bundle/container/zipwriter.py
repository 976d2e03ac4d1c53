"""Writes zip files with the same bytes for the same content, without copying it.

Parts are buffers in file order, so gigabytes of weights go from the tensors' memory to the file.
Dates and attributes are fixed. Imports no torch.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Buffer", "Member", "zip_parts"]

Buffer = bytes | bytearray | memoryview
_DATE = 0x21  # 1 January 1980
_M32 = 0xFFFFFFFF


@dataclass
class Member:
    """One entry: its content as buffers, deflated or stored."""

    name: str
    parts: Sequence[Buffer]
    deflate: bool = False


def zip_parts(members: Sequence[Member], align: int = 1) -> tuple[list[Buffer], int]:
    """The buffers of a zip file holding ``members``, and their total size in bytes.

    ``align``: content begins at a multiple of it (padding in an extra field, as torch does). Sizes from
    4 GiB on are written as ZIP64.
    """
    out: list[Buffer] = []
    done: dict[int, tuple[list[Buffer], int, int, int]] = {}
    directory: list[bytes] = []
    at = 0
    for member in members:
        name = member.name.encode("utf-8")
        # Two models of a bundle often share their buffers, which are summed and packed once.
        if id(member.parts) not in done:
            done[id(member.parts)] = _prepare(member)
        parts, crc, size, packed = done[id(member.parts)]
        method, big = (8 if member.deflate else 0), size >= _M32 or packed >= _M32
        sizes = (_M32, _M32) if big else (packed, size)
        wide = struct.pack("<HHQQ", 1, 16, size, packed) if big else b""
        pad = -(at + 30 + len(name) + len(wide)) % align
        if pad:
            pad += align if pad < 4 else 0
            wide += struct.pack("<HH", 0x4246, pad - 4) + b"Z" * (pad - 4)
        need = 45 if big or at >= _M32 else 20
        head = (need, 0x800, method, 0, _DATE, crc, *sizes, len(name), len(wide))
        out += [struct.pack("<4s5H3L2H", b"PK\3\4", *head) + name + wide, *parts]
        fields = ([size, packed] if big else []) + ([at] if at >= _M32 else [])
        extra = struct.pack(f"<HH{len(fields)}Q", 1, 8 * len(fields), *fields) if fields else b""
        entry = (0x300 | need, need, 0x800, method, 0, _DATE, crc, *sizes, len(name), len(extra))
        directory.append(
            struct.pack("<4s6H3L5H2L", b"PK\1\2", *entry, 0, 0, 0, 0o100644 << 16, min(at, _M32))
            + name
            + extra
        )
        at += len(out[-len(parts) - 1]) + packed
    table = b"".join(directory)
    end = b""
    if at >= _M32:
        count = len(members)
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0x32D, 45, 0, 0, count, count, len(table), at)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, at + len(table), 1)
    end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(members), len(members), len(table), min(at, _M32), 0)
    out += [table, end]
    return out, at + len(table) + len(end)


def _prepare(member: Member) -> tuple[list[Buffer], int, int, int]:
    """A member's buffers as they go into the file, CRC, size, and size in the file."""
    crc, size = 0, 0
    for part in member.parts:
        crc, size = zlib.crc32(part, crc), size + len(part)
    if not member.deflate:
        return list(member.parts), crc, size, size
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = b"".join([*(packer.compress(part) for part in member.parts), packer.flush()])
    return [packed], crc, size, len(packed)
