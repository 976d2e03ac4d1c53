"""Opening a bundle: a zip file, a folder that holds one, or an unpacked folder.

An :class:`Archive` offers ``names``, ``read(name)``, ``path`` and ``error(member, reason)``. Nothing
is decoded here. Imports no torch.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ptycho_torch.bundle.container import limits
from ptycho_torch.bundle.container.zipreader import ZipReader
from ptycho_torch.errors import BundleError, BundleNotFoundError, printable
from ptycho_torch.files.memory import MemoryBudget

__all__ = ["ARCHIVE_NAME", "Archive", "bundle_file", "open_archive"]

ARCHIVE_NAME = "wts.h5.zip"


class Archive(Protocol):
    """A bundle's members by name, whatever they lie in."""

    path: str
    names: tuple[str, ...]
    budget: MemoryBudget

    def read(self, name: str) -> bytearray:
        """The member's bytes, checked against its CRC; raises when it is missing or damaged.

        They are taken from ``budget``; whoever lets go of them gives them back.
        """
        ...

    def size(self, name: str) -> int: ...
    def error(self, member: str | None, reason: str) -> BundleError: ...
    def close(self) -> None: ...


def _message(path: str, member: str | None, reason: str) -> str:
    shown = [printable(path, 1000), *([printable(member)] if member else []), reason]
    return ": ".join(shown)


class _Base:
    def __init__(self, path: str) -> None:
        self.path = path
        self.names: tuple[str, ...] = ()
        self.budget = self._budget(0)

    def _budget(self, size: int) -> MemoryBudget:
        return limits.budget_of(size, lambda reason: self.error(None, reason))

    def error(self, member: str | None, reason: str) -> BundleError:
        return BundleError(_message(self.path, member, reason))

    def _missing(self, name: str) -> BundleError:
        return self.error(name, "member is missing")

    def close(self) -> None:
        """Gives back what :func:`open_archive` opened."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _FileSource:
    """A regular file, read with ``pread`` so that no position is shared."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor, self.size = descriptor, size

    def read_at(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0:
            part = os.pread(self.descriptor, length, offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class ZipArchive(_Base):
    """A bundle in a zip file. Keeps the file open: a writer that replaces it does not disturb."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._descriptor = _open_regular(self)
        try:
            with _reading(self):
                size = os.fstat(self._descriptor).st_size
                self.budget = self._budget(size)
                source = _FileSource(self._descriptor, size)
                self._zip = ZipReader(source, self.error, limits.member_limit, self.budget)
        except BaseException:
            self.close()
            raise
        self.names = tuple(name for name, entry in self._zip.entries.items() if not entry.is_dir)

    def size(self, name: str) -> int:
        if name not in self._zip.entries:
            raise self._missing(name)
        return self._zip.entries[name].size

    def read(self, name: str) -> bytearray:
        if name not in self._zip.entries:
            raise self._missing(name)
        with _reading(self, name):
            return self._zip.read(name)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> ZipArchive:
        return self


class FolderArchive(_Base):
    """An unpacked bundle. Only regular files count; links are not followed inside it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        found: dict[str, int] = {}
        with _reading(self):
            for entry in self._scan(path, ""):
                if entry.is_dir(follow_symlinks=False):
                    for inner in self._scan(entry.path, entry.name + "/"):
                        if inner.is_file(follow_symlinks=False):
                            found[f"{entry.name}/{inner.name}"] = inner.stat(follow_symlinks=False).st_size
                elif entry.is_file(follow_symlinks=False):
                    found[entry.name] = entry.stat(follow_symlinks=False).st_size
        self._sizes = found
        self.budget = self._budget(sum(found.values()))
        self.names = tuple(sorted(found))
        for name, size in found.items():
            if size > limits.member_limit(name):
                raise self.error(name, f"{size} bytes, at most {limits.member_limit(name)} are read")

    def _scan(self, folder: str, prefix: str) -> list[os.DirEntry[str]]:
        entries = []
        with os.scandir(folder) as listing:
            for entry in listing:
                entries.append(entry)
                if len(entries) > limits.MAX_ENTRIES:
                    raise self.error(prefix or None, f"more than {limits.MAX_ENTRIES} files")
        return entries

    def size(self, name: str) -> int:
        if name not in self._sizes:
            raise self._missing(name)
        return self._sizes[name]

    def read(self, name: str) -> bytearray:
        size = self.size(name)
        self.budget.take(size, printable(name))
        with _reading(self, name):
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(Path(self.path) / name, flags)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise self.error(name, "not a regular file")
                out, done = bytearray(size), 0
                view = memoryview(out)
                while done < size:
                    got = os.preadv(descriptor, [view[done : done + limits.CHUNK]], done)
                    if not got:
                        break
                    done += got
                if done != size or os.pread(descriptor, 1, size):
                    raise self.error(name, "changed its size while it was read")
            finally:
                os.close(descriptor)
        return out

    def __enter__(self) -> FolderArchive:
        return self


class _reading:
    """Turns an operating system's error into a :class:`BundleError` that names the file."""

    def __init__(self, archive: _Base, member: str | None = None) -> None:
        self.archive, self.member = archive, member

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        if isinstance(value, OSError) and not isinstance(value, BundleError):
            raise self.archive.error(self.member, f"cannot be read ({value.strerror})") from None


def _open_regular(archive: _Base) -> int:
    """A descriptor of a regular file. ``stat`` comes first: opening a FIFO would hang."""
    with _reading(archive):
        if not stat.S_ISREG(os.stat(archive.path).st_mode):  # noqa: PTH116
            raise archive.error(None, "not a regular file")
        descriptor = os.open(archive.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise archive.error(None, "not a regular file")
    return descriptor


def bundle_file(base_path: str | os.PathLike[str]) -> Path:
    """The file that a bundle saved at ``base_path`` lies in: ``{base_path}.zip``.

    A path that ends in ``.zip`` already is the file itself.
    """
    path = Path(base_path)
    return path if path.suffix.lower() == ".zip" else path.with_name(path.name + ".zip")


def open_archive(base_path: str | os.PathLike[str]) -> ZipArchive | FolderArchive:
    """Open the container of a bundle, in the first of the forms below that exists.

    Parameters
    ----------
    base_path : path
        The folder ``{base_path}`` holding ``wts.h5.zip``, as a run leaves it; ``{base_path}.zip`` (unless the
        path ends so already); the file ``{base_path}``; the folder ``{base_path}`` holding an unpacked bundle.

    Returns
    -------
    ZipArchive or FolderArchive

    Raises
    ------
    BundleNotFoundError
        When there is none.
    BundleError
        For anything that is not a sound container.

    Examples
    --------
    >>> open_archive("none")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ptycho_torch.errors.BundleNotFoundError: ...
    """
    text = os.fspath(base_path)
    if not isinstance(text, str) or not text.strip("."):
        text = str(Path(os.fsdecode(text)).resolve())
    base = Path(text)
    zipped = bundle_file(base) if base.name else base
    if _mode(base / ARCHIVE_NAME) is not None:
        return ZipArchive(str(base / ARCHIVE_NAME))
    for candidate in dict.fromkeys((zipped, base)):
        mode = _mode(candidate)
        if mode is not None and not stat.S_ISDIR(mode):
            return ZipArchive(str(candidate))
    if _mode(base) is None:
        more = "" if zipped == base else f", nor does {printable(zipped.name)}"
        raise BundleNotFoundError(_message(str(base), None, f"does not exist{more}"))
    if _mode(base / "manifest.dill") is not None:
        return FolderArchive(str(base))
    raise BundleNotFoundError(
        _message(
            str(base),
            None,
            f"{ARCHIVE_NAME} does not exist in this folder, nor does manifest.dill; no bundle here",
        )
    )


def _mode(path: Path) -> int | None:
    """The file's mode, None where nothing is; an error for what is there but cannot be reached."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise BundleNotFoundError(
                _message(str(path), None, "link to a file that does not exist")
            ) from None
        return None
    except (OSError, ValueError) as error:
        raise BundleError(_message(str(path), None, f"cannot be read ({printable(error)})")) from None
