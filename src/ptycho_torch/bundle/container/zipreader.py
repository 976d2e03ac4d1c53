"""A strict zip reader: one reading of the file, or none.

Zip files can say everything twice (local and central headers, sizes before and after the data, two
end records), and readers disagree about which counts. This one starts at the end record and
accepts a file only if all statements agree, the entries cover the file from its first byte to the
directory without overlap or gap, and names are plain. Used for the bundle itself and for the zip
inside ``model.pth``. Imports no torch.
"""

from __future__ import annotations

import stat
import struct
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ptycho_torch.bundle.container import limits
from ptycho_torch.errors import BundleError, brief, printable
from ptycho_torch.files.memory import MemoryBudget

__all__ = ["Entry", "MemorySource", "Source", "ZipReader"]

Fail = Callable[[str | None, str], BundleError]
"""Makes the error for (member name or None, reason)."""

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_M16, _M32 = 0xFFFF, 0xFFFFFFFF
_STORED, _DEFLATED = 0, 8
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_KNOWN_FLAGS = 0x0002 | 0x0004 | _DESCRIPTOR | _UTF8
_FORBIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class Source(Protocol):
    """Random access to bytes. ``read_at`` may return fewer bytes than asked for."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes | memoryview: ...


class MemorySource:
    """A :class:`Source` over bytes that are in memory already; reads are views, not copies."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.view = memoryview(data).cast("B")
        self.size = self.view.nbytes

    def read_at(self, offset: int, length: int) -> memoryview:
        return self.view[offset : offset + length]


@dataclass(slots=True)
class Entry:
    """One zip entry as the central directory states it, and where its data begins."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    wide: bool
    start: int = 0

    @property
    def is_dir(self) -> bool:
        return self.name.endswith("/")


class ZipReader:
    """All entries of a zip, checked; :meth:`read` gives one entry's bytes after its CRC has been checked.

    ``limit`` gives the largest unpacked size for a name; what is read is taken from ``budget`` (by
    default one of the source's own size). Raises what ``fail`` makes; nothing is allocated by a size that
    has not been checked against the file.
    """

    def __init__(
        self,
        source: Source,
        fail: Fail,
        limit: Callable[[str], int],
        budget: MemoryBudget | None = None,
    ) -> None:
        self._source, self._fail = source, fail
        self._budget = budget or limits.budget_of(source.size, lambda reason: fail(None, reason))
        directory, count, end = self._end_record()
        listed = self._directory(directory, count)
        self._check_names(listed)
        self._check_sizes(listed, limit)
        self._check_layout(listed, end)
        self.entries = {entry.name: entry for entry in listed}

    def _exactly(self, offset: int, length: int, what: str, member: str | None = None) -> bytes | memoryview:
        if offset < 0 or offset + length > self._source.size:
            raise self._fail(member, f"{what} lies outside the file; the file is cut off or damaged")
        data = self._source.read_at(offset, length)
        if len(data) != length:
            raise self._fail(member, f"{what} cannot be read in full; the file is shorter than it was")
        return data

    # ---- end record

    def _end_record(self) -> tuple[bytes | memoryview, int, int]:
        """The central directory's bytes, the number of its entries, and where it begins."""
        size = self._source.size
        if size < _END.size:
            raise self._fail(None, f"not a zip file ({size} bytes)")
        tail_at = max(0, size - _END.size - _M16)
        tail = bytes(self._exactly(tail_at, size - tail_at, "the end record"))
        found = []
        at = tail.find(b"PK\5\6")
        while at >= 0:
            if at + _END.size <= len(tail):
                (comment,) = struct.unpack_from("<H", tail, at + 20)
                if at + _END.size + comment == len(tail):
                    found.append(at)
            at = tail.find(b"PK\5\6", at + 1)
        if not found:
            head = bytes(self._source.read_at(0, 4))
            if head[:2] == b"PK":
                raise self._fail(
                    None, "zip end record not found; the file is cut off or has bytes after its end"
                )
            raise self._fail(None, f"not a zip file (begins with {brief(head, 200)})")
        if len(found) > 1:
            raise self._fail(None, "more than one zip end record fits")
        where = found[0]
        _, disk, cd_disk, here, count, cd_size, cd_at, _ = _END.unpack_from(tail, where)
        end = tail_at + where
        plain = (disk, cd_disk, here, count, cd_size, cd_at)
        disk, cd_disk, here, count, cd_size, cd_at, end = self._end64(plain, end)
        if disk or cd_disk or here != count:
            raise self._fail(None, "zip in several parts")
        if count > limits.MAX_ENTRIES:
            raise self._fail(None, f"{count} entries, at most {limits.MAX_ENTRIES} are read")
        if cd_size > limits.MAX_DIRECTORY_BYTES:
            raise self._fail(
                None, f"directory of {cd_size} bytes, at most {limits.MAX_DIRECTORY_BYTES} are read"
            )
        if cd_at + cd_size != end or cd_size < count * _CENTRAL.size:
            raise self._fail(None, "the zip directory does not end where the end record begins")
        return self._exactly(cd_at, cd_size, "the zip directory"), count, cd_at

    def _end64(self, plain: tuple[int, ...], end: int) -> tuple[int, ...]:
        locator_at = end - _LOCATOR64.size
        locator = bytes(self._source.read_at(locator_at, _LOCATOR64.size)) if locator_at >= 0 else b""
        saturated = [value in (_M16 if i < 4 else _M32,) for i, value in enumerate(plain)]
        if locator[:4] != b"PK\6\7":
            # 65535 entries are past the limit anyway, so a saturated field without ZIP64 is refused.
            if any(saturated):
                raise self._fail(None, "end record asks for ZIP64 values that are not there")
            return (*plain, end)
        _, disk, end64_at, disks = _LOCATOR64.unpack(locator)
        if disk or disks != 1 or end64_at + _END64.size != locator_at:
            raise self._fail(None, "ZIP64 end record is not where its locator says")
        sig, rest, _, _, *wide = _END64.unpack(self._exactly(end64_at, _END64.size, "the ZIP64 end record"))
        if sig != b"PK\6\6" or rest != _END64.size - 12:
            raise self._fail(None, "ZIP64 end record is damaged")
        if any(w != p and not s for w, p, s in zip(wide, plain, saturated, strict=True)):
            raise self._fail(None, "the two end records disagree")
        return (*wide, end64_at)

    # ---- central directory

    def _directory(self, data: bytes | memoryview, count: int) -> list[Entry]:
        listed, at = [], 0
        for _ in range(count):
            if at + _CENTRAL.size > len(data):
                raise self._fail(None, "zip directory holds fewer entries than the end record says")
            fields = _CENTRAL.unpack_from(data, at)
            sig, _made, _need, flags, method, _time, _date, crc, packed, size = fields[:10]
            name_n, extra_n, comment_n, disk, _internal, attributes, offset = fields[10:]
            if sig != b"PK\1\2":
                raise self._fail(None, "zip directory is damaged")
            at += _CENTRAL.size
            stop = at + name_n + extra_n + comment_n
            if stop > len(data):
                raise self._fail(None, "zip directory is damaged")
            raw = bytes(data[at : at + name_n])
            name = self._name(raw, flags)
            wide = self._extra(bytes(data[at + name_n : at + name_n + extra_n]), name)
            at = stop
            values = self._widen(wide, (size, packed, offset), name)
            entry = Entry(name, raw, flags, method, crc, values[1], values[0], values[2], wide is not None)
            if disk:
                raise self._fail(name, "lies in another part of a split zip")
            self._check_kind(entry, attributes)
            listed.append(entry)
        if at != len(data):
            raise self._fail(None, "zip directory holds more than the end record says")
        return listed

    def _name(self, raw: bytes, flags: int) -> str:
        try:
            name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
        except UnicodeDecodeError:
            raise self._fail(printable(raw), "entry name is not valid UTF-8") from None
        parts = name.rstrip("/").split("/") if not name.endswith("//") else [""]
        if (
            not 0 < len(raw) <= limits.MAX_NAME_BYTES
            or any(part in ("", ".", "..") for part in parts)
            or any(ch in "\\:" or unicodedata.category(ch) in _FORBIDDEN_CATEGORIES for ch in name)
        ):
            raise self._fail(name, "entry name is not a plain relative path")
        return name

    def _extra(self, data: bytes, name: str) -> bytes | None:
        """The ZIP64 field's payload, or None."""
        wide, at = None, 0
        while at < len(data):
            if at + 4 > len(data):
                raise self._fail(name, "damaged extra field")
            kind, length = struct.unpack_from("<HH", data, at)
            at += 4
            if at + length > len(data):
                raise self._fail(name, "damaged extra field")
            if kind in (0x7075, 0x9901, 0x0017):  # another name for the same entry; encryption
                raise self._fail(name, f"extra field 0x{kind:04x} is not accepted")
            if kind == 0x0001:
                if wide is not None:
                    raise self._fail(name, "two ZIP64 fields")
                wide = data[at : at + length]
            at += length
        return wide

    def _widen(self, wide: bytes | None, values: tuple[int, ...], name: str) -> list[int]:
        """Replaces saturated 32-bit values by the ZIP64 field's, which holds those and no other."""
        out, at = list(values), 0
        for i, value in enumerate(values):
            if value == _M32:
                if wide is None or at + 8 > len(wide):
                    raise self._fail(name, "ZIP64 value is missing")
                (out[i],) = struct.unpack_from("<Q", wide, at)
                at += 8
        if wide is not None and at != len(wide):
            raise self._fail(name, "ZIP64 field holds values that nothing asks for")
        return out

    def _check_kind(self, entry: Entry, attributes: int) -> None:
        if entry.flags & ~_KNOWN_FLAGS:
            raise self._fail(entry.name, f"encrypted or in an unknown form (flags 0x{entry.flags:04x})")
        if entry.method not in (_STORED, _DEFLATED):
            raise self._fail(
                entry.name, f"compression method {entry.method}; only stored and deflate are read"
            )
        if stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise self._fail(entry.name, "neither a file nor a folder (link or device)")
        if entry.method == _STORED and entry.packed != entry.size:
            raise self._fail(entry.name, "stored entry with two sizes")
        if entry.is_dir and entry.size:
            raise self._fail(entry.name, "folder with content")

    def _check_names(self, listed: list[Entry]) -> None:
        files: set[str] = set()
        folders: set[str] = set()
        for entry in listed:
            plain = unicodedata.normalize("NFKC", entry.name).casefold()
            path = plain.rstrip("/")
            if path in files or (entry.is_dir and plain in folders):
                raise self._fail(entry.name, "name given twice (upper and lower case count as equal)")
            if entry.is_dir:
                folders.add(plain)
            else:
                files.add(path)
        for entry in listed:
            plain = unicodedata.normalize("NFKC", entry.name).casefold().rstrip("/")
            parts = plain.split("/")
            above = {"/".join(parts[:i]) for i in range(1, len(parts) + entry.is_dir)}
            if above & files:
                raise self._fail(entry.name, "name is both a file and a folder")

    def _check_sizes(self, listed: list[Entry], limit: Callable[[str], int]) -> None:
        total = 0
        for entry in listed:
            total += entry.size
            if entry.size > limit(entry.name):
                raise self._fail(entry.name, f"{entry.size} bytes, at most {limit(entry.name)} are read")
            # Deflate cannot do better than 1032:1, so a larger claim is a lie.
            steep = entry.size > limits.BIG_ENTRY and entry.size > limits.MAX_RATIO * entry.packed
            if steep or entry.size > 1040 * entry.packed + 64:
                raise self._fail(entry.name, f"{entry.packed} bytes that claim to unpack to {entry.size}")
        if total > limits.MAX_TOTAL_BYTES:
            raise self._fail(None, f"{total} bytes unpacked, at most {limits.MAX_TOTAL_BYTES} are read")

    # ---- local headers

    def _check_layout(self, listed: list[Entry], end: int) -> None:
        ordered = sorted(listed, key=lambda e: e.offset)
        if not ordered and end:
            raise self._fail(None, "bytes in front of an empty zip directory")
        expected = 0
        for i, entry in enumerate(ordered):
            if entry.offset != expected:
                reason = "overlaps another entry" if entry.offset < expected else "follows bytes of no entry"
                raise self._fail(entry.name, reason)
            self._check_local(entry)
            stop = entry.start + entry.packed
            following = ordered[i + 1].offset if i + 1 < len(ordered) else end
            if entry.flags & _DESCRIPTOR:
                stop = self._check_descriptor(entry, stop, following)
            if stop > following:
                raise self._fail(entry.name, "overlaps what follows it")
            expected = stop
        if expected != end and ordered:
            raise self._fail(None, "bytes between the last entry and the zip directory")

    def _check_local(self, entry: Entry) -> None:
        header = self._exactly(entry.offset, _LOCAL.size, "its local header", entry.name)
        sig, _need, flags, method, _time, _date, crc, packed, size, name_n, extra_n = _LOCAL.unpack(header)
        if sig != b"PK\3\4":
            raise self._fail(entry.name, "no local header where the directory says")
        if name_n != len(entry.raw_name) or flags != entry.flags or method != entry.method:
            raise self._fail(entry.name, "local header and directory disagree")
        rest = bytes(
            self._exactly(entry.offset + _LOCAL.size, name_n + extra_n, "its local header", entry.name)
        )
        if rest[:name_n] != entry.raw_name:
            raise self._fail(entry.name, "local header and directory give different names")
        wide = self._extra(rest[name_n:], entry.name)
        entry.wide = entry.wide or wide is not None
        found = (crc, *self._widen(wide, (size, packed), entry.name)) if wide else (crc, size, packed)
        allowed = [(entry.crc, entry.size, entry.packed)]
        if flags & _DESCRIPTOR:
            # Sizes unknown when the header was written; some writers mark them with all ones.
            allowed += [(0, 0, 0), (0, _M32, _M32)]
        if found not in allowed:
            raise self._fail(entry.name, "local header and directory give different sizes or checksums")
        entry.start = entry.offset + _LOCAL.size + name_n + extra_n

    def _check_descriptor(self, entry: Entry, at: int, following: int) -> int:
        """The data descriptor after the data: signature optional, sizes of 4 or 8 bytes."""
        forms = {
            16: struct.pack("<4sLLL", b"PK\7\10", entry.crc, entry.packed & _M32, entry.size & _M32),
            24: struct.pack("<4sLQQ", b"PK\7\10", entry.crc, entry.packed, entry.size),
            12: struct.pack("<LLL", entry.crc, entry.packed & _M32, entry.size & _M32),
            20: struct.pack("<LQQ", entry.crc, entry.packed, entry.size),
        }
        length = following - at
        if (
            length not in forms
            or bytes(self._exactly(at, length, "its data descriptor", entry.name)) != forms[length]
        ):
            raise self._fail(entry.name, "data descriptor and directory disagree")
        return following

    # ---- content

    def view(self, name: str) -> memoryview | None:
        """A stored entry of a zip in memory as a view without a copy, CRC checked; else None."""
        entry = self.entries[name]
        if entry.method != _STORED or not isinstance(self._source, MemorySource):
            return None
        data = self._source.read_at(entry.start, entry.size)
        if len(data) != entry.size or zlib.crc32(data) != entry.crc:
            raise self._fail(name, "content does not match its checksum")
        return data

    def read(self, name: str) -> bytearray:
        """The entry's bytes, unpacked in chunks, with size and CRC checked."""
        entry = self.entries[name]
        self._budget.take(entry.size, printable(name))
        out = bytearray(entry.size)
        if entry.method == _STORED:
            crc = self._read_stored(entry, memoryview(out))
        else:
            crc = self._inflate(entry, memoryview(out))
        if crc != entry.crc:
            raise self._fail(name, "content does not match its checksum")
        return out

    def _read_stored(self, entry: Entry, out: memoryview) -> int:
        crc = 0
        for at in range(0, entry.size, limits.CHUNK):
            data = self._exactly(entry.start + at, min(limits.CHUNK, entry.size - at), "content", entry.name)
            out[at : at + len(data)] = data
            crc = zlib.crc32(data, crc)
        return crc

    def _inflate(self, entry: Entry, out: memoryview) -> int:
        stream, crc, done, used = zlib.decompressobj(-15), 0, 0, 0
        pending: bytes | memoryview = b""
        try:
            while not stream.eof:
                if not pending:
                    if used == entry.packed:
                        break
                    pending = self._exactly(
                        entry.start + used, min(limits.CHUNK, entry.packed - used), "content", entry.name
                    )
                    used += len(pending)
                room = entry.size - done
                # One byte more than promised may come out, so that a longer stream is noticed.
                data = stream.decompress(pending, min(limits.CHUNK, room + 1))
                pending = stream.unconsumed_tail
                if len(data) > room:
                    raise self._fail(entry.name, f"unpacks to more than the {entry.size} bytes it claims")
                out[done : done + len(data)] = data
                crc, done = zlib.crc32(data, crc), done + len(data)
        except zlib.error as error:
            raise self._fail(entry.name, f"compressed content is damaged ({printable(error)})") from None
        if not stream.eof or done != entry.size or stream.unused_data or used != entry.packed:
            raise self._fail(entry.name, f"unpacks to {done} bytes and not to the {entry.size} it claims")
        return crc
