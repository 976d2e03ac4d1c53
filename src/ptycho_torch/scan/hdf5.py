"""Careful access to the members of an HDF5 file.

An HDF5 file can point outside itself in three ways: links to other files, data sets stored raw in other
files, and virtual data sets pieced together from other files. A file from a stranger could read any
file so. Paths are therefore walked link by link here, and the library never follows one by itself: what points
outside is refused. With ``external``, links and virtual data sets may lead to regular files in the same
folder, as detectors write them; raw storage may not.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, printable
from ptycho_torch.files.memory import RATIO, MemoryBudget

__all__ = ["SIGNATURE", "H5File", "has_members", "opened", "read_array"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"

_LINKS: Final = 32
"""Links that one path may follow."""
_ASK: Final = "; to allow data files in the same folder: --external-data, or open_scan(..., external=True)"


def _filters() -> None:
    """Makes compression filters of other vendors known to h5py, where hdf5plugin is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class _OutsideError(ScanError):
    """A member lies in another file, which was not allowed."""


class H5File:
    """An open HDF5 file whose members are found by :meth:`get`; nothing outside it is opened unasked.

    Parameters
    ----------
    path
        A regular file.
    external
        Follow links and virtual data sets to regular files in the same folder.
    checked
        Data sets that were found to be where they may be, for files that are opened again and again;
        it is added to.

    Attributes
    ----------
    linked : list of Path
        Other files whose data was asked for, in the order they were met.
    budget : MemoryBudget
        What reading may make.
    """

    def __init__(
        self, path: Path, external: bool = False, checked: dict[tuple[Path, str], bool] | None = None
    ) -> None:
        if not path.is_file():
            raise ScanError(f"{path}: not found, or not a regular file")
        self.path, self.external = path, external
        self.linked: list[Path] = []
        self._files: dict[Path, Any] = {}
        self._checked = {} if checked is None else checked
        self.budget = MemoryBudget(path.stat().st_size, lambda reason: ScanError(f"{path}: {reason}"))
        self._file = self._open(path)

    def close(self) -> None:
        """Close it and every file that it links to."""
        for file in self._files.values():
            file.close()

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            # Chunks that hold several frames are unpacked once for a read, not once for each frame.
            self._files[path] = h5py.File(path, "r", rdcc_nbytes=32 << 20)
        return self._files[path]

    def take(self, data: Any, count: int) -> None:
        """Take ``count`` bytes that are about to be read of a data set from the budget, and those of one chunk.

        Raises
        ------
        ScanError
            When the file makes too much for its size, or more than is free.
        """
        chunk = math.prod(data.chunks or (0,)) * data.dtype.itemsize
        self.budget.take(count + chunk, printable(data.name))
        self.budget.give_back(chunk)

    # ---- finding members

    def get(self, key: str) -> Any:
        """Return the group or data set at ``key``, or None where there is nothing.

        Raises
        ------
        ScanError
            When it, or a link on the way, leads outside the file and that is not allowed.
        """
        return self._at(self._file, key, self.path, [])

    def __getitem__(self, key: str) -> Any:
        found = self.get(key)
        if found is None:
            raise ScanError(f"{self.path}: {printable(key)}: this member is missing")
        return found

    def __contains__(self, key: str) -> bool:
        try:
            return self.get(key) is not None
        except _OutsideError:
            return True  # it has one; reading it says why that is refused

    def names(self, key: str = "/") -> list[str]:
        """Return the names of a group's members; none where there is no such group."""
        group = self.get(key)
        return list(group) if isinstance(group, h5py.Group) else []

    def is_dataset(self, key: str) -> bool:
        """Whether there is a data set at ``key``, here or, refused when read, in another file."""
        try:
            return isinstance(self.get(key), h5py.Dataset)
        except _OutsideError:
            return True

    def _at(self, group: Any, key: str, path: Path, trail: list[str]) -> Any:
        """Walk ``key`` from ``group``, which lies in the file ``path``, one link at a time."""
        here: Any = self._open(path)["/"] if key.startswith("/") else group
        names = [name for name in key.split("/") if name not in ("", ".")]
        for number, name in enumerate(names):
            if not isinstance(here, h5py.Group):
                return None
            # Not "name in here": that would follow links to find out.
            links, raw = here.id.links, name.encode("utf-8", "surrogateescape")
            if not links.exists(raw):
                return None
            kind = links.get_info(raw).type
            if kind == h5py.h5l.TYPE_HARD:
                here = here[name]
                continue
            if len(trail) >= _LINKS:
                raise self._refuse(key, f"at most {_LINKS} links on the way", "more")
            rest, further = "/".join(names[number + 1 :]), [*trail, name]
            if kind == h5py.h5l.TYPE_SOFT:
                return self._at(here, f"{_text(links.get_val(raw))}/{rest}", path, further)
            if kind != h5py.h5l.TYPE_EXTERNAL:
                raise self._refuse(name, "a hard, soft or external link", "another kind")
            filename, inner = map(_text, links.get_val(raw))
            target = self._allowed(f"{here.name.rstrip('/')}/{name}", "a link", filename)
            return self._at(self._open(target), f"/{inner}/{rest}", target, further)
        if isinstance(here, h5py.Dataset):
            self._check(here, path)
        return here

    def _check(self, data: Any, path: Path) -> None:
        """Refuse a data set whose values lie in other files, unless they may; its shape is not asked before."""
        place = path, str(data.name)
        if place in self._checked:
            if not self._checked[place]:
                raise self._refuse(data.name, "a virtual data set of others", "one that contains itself")
            return
        plist = data.id.get_create_plist()
        if plist.get_external_count():
            name = printable(_text(plist.get_external(0)[0]), 80)
            raise self._refuse(data.name, "data in an HDF5 file", f"raw storage in another file, {name}")
        self._checked[place] = False
        if plist.get_layout() == h5py.h5d.VIRTUAL:
            self._check_sources(data.name, plist, path)
        self._checked[place] = True

    def _check_sources(self, key: str, plist: Any, path: Path) -> None:
        sources = {
            (_text(plist.get_virtual_filename(i)), _text(plist.get_virtual_dsetname(i)))
            for i in range(plist.get_virtual_count())
        }
        for filename, name in sorted(sources):
            if "%" in filename + name:
                raise self._refuse(key, "a virtual data set of named files", f"a pattern, {filename}")
            target = path if filename == "." else self._allowed(key, "a virtual data set", filename)
            # Each is closed again: there may be thousands.
            with contextlib.closing(H5File(target, self.external, self._checked)) as other:
                if not isinstance(other.get(f"/{name}"), h5py.Dataset):
                    # The library would give zeros for what is not there.
                    raise self._refuse(key, f"the data set {name} in {target.name}", "none")
                for file in other.linked:
                    self._link(file)

    def _allowed(self, key: str, kind: str, filename: str) -> Path:
        """The file beside ours that ``filename`` means, or an error."""
        shown = printable(filename, 80)
        if not self.external:
            raise _OutsideError(f"{self.path}: {printable(key)}: is {kind} to another file, {shown}{_ASK}")
        folder = self.path.parent
        target = folder / filename
        if Path(filename).name != filename.removeprefix("./"):
            raise self._refuse(key, "data files in the same folder", shown)
        if not target.is_file():
            raise self._refuse(key, f"the data file {shown} beside it", "none")
        if target.resolve().parent != folder.resolve():
            raise self._refuse(key, "data files in the same folder", f"{shown}, a link out of it")
        target = folder / target.name
        self._link(target)
        return target

    def _link(self, target: Path) -> None:
        if target not in self.linked and target != self.path:
            self.linked.append(target)
            self.budget.allowed += int(RATIO * target.stat().st_size)

    def _refuse(self, key: str, expected: str, found: str) -> ScanError:
        return ScanError(f"{self.path}: {printable(key)}: expected {expected}, found {printable(found)}")


@contextlib.contextmanager
def opened(
    path: Path, external: bool = False, checked: dict[tuple[Path, str], bool] | None = None
) -> Iterator[H5File]:
    """Open a file for reading; see :class:`H5File`.

    Raises
    ------
    ScanError
        With the path where it is damaged, cannot be decompressed or points outside itself.
    """
    _filters()
    file: H5File | None = None
    try:
        file = H5File(path, external, checked)
        yield file
    except ScanError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        text = printable(error, 160)
        hint = "; the compression filter needs: pip install hdf5plugin" if "filter" in text.lower() else ""
        raise ScanError(f"{path}: not readable as HDF5 ({text}){hint}") from error
    finally:
        if file is not None:
            file.close()


def has_members(path: Path, head: bytes, *names: str) -> bool:
    """Whether it is an HDF5 file with all these members; nothing outside it is opened."""
    if not head.startswith(SIGNATURE):
        return False
    try:
        with opened(path) as file:
            return all(name in file for name in names)
    except ScanError:
        return False


def read_array(file: H5File, key: str, ndim: int | None = None, kinds: str = "iufbc") -> NDArray[Any]:
    """Return a data set as an array, its type, number of axes and size checked before it is read.

    Raises
    ------
    ScanError
        Naming file and member, when it is missing or does not fit.
    """
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        shown = ", ".join(printable(k, 40) for k in file.names()[:12])
        raise ScanError(f"{file.path}: {key}: there is no such dataset; there is: {shown}")
    if found.dtype.kind not in kinds or (ndim is not None and found.ndim != ndim):
        wanted = "numbers" if ndim is None else f"numbers with {ndim} axes"
        raise ScanError(f"{file.path}: {key}: expected {wanted}, found {found.dtype} of shape {found.shape}")
    file.take(found, found.size * found.dtype.itemsize)
    return np.asarray(found[()])
