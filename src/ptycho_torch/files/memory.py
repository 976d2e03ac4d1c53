"""How much memory there is, and how much of it a file may take.

A file of a few kilobytes can describe gigabytes: a compressed block, a shape in a header, a reference
repeated a thousand times. Whoever reads a file opens one :class:`MemoryBudget` for it and takes from
it *before* anything is made. Needs neither torch nor numpy.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from ptycho_torch.errors import ConfigError, DataError, printable

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = [
    "FLOOR",
    "RATIO",
    "MemoryBudget",
    "bytes_of",
    "memory_capped",
    "memory_limit",
    "memory_used",
    "need_memory",
    "shown_bytes",
]

FLOOR = 64 << 20
"""Bytes that any file may make, however small it is."""
RATIO = 100
"""Bytes that a compressed measurement may make for each of its own, beyond :data:`FLOOR`."""

_UNKNOWN = 64 << 30
_SMALL = 16 << 20  # takes below this are not worth a look at what is free
_CAP: ContextVar[int | None] = ContextVar("memory cap", default=None)
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?)(I?B?)\s*", re.IGNORECASE)


def memory_limit() -> int:
    """Return the bytes that this process can still take, now.

    The least of: what the system calls available, what every control group above the process leaves
    (page cache that can be dropped counts as free), and what the limit on the address space
    (``ulimit -v``) leaves, and what :func:`memory_capped` leaves. Where the system tells nothing it is the
    physical memory, or 64 GiB.

    Returns
    -------
    int
        Bytes, 0 or more.

    Examples
    --------
    >>> memory_limit() > 0
    True
    """
    return max(0, min([_available(), *_groups(), *_address_space(), *_capped()]))


def memory_used(pid: int | None = None) -> int:
    """Return the bytes of memory that this process, or another one, holds now; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def memory_capped(count: int | None) -> Iterator[None]:
    """Let this process plan with ``count`` bytes in all, what it holds already included; None changes nothing.

    Examples
    --------
    >>> with memory_capped(1):
    ...     memory_limit()
    0
    """
    token = _CAP.set(_CAP.get() if count is None else count)
    try:
        yield
    finally:
        _CAP.reset(token)


def bytes_of(text: str | int) -> int:
    """Return the bytes that a size such as ``2GiB``, ``500M`` or ``1.5 GB`` means; all units are powers of 1024.

    Raises
    ------
    ConfigError
        For anything else, or none at all.

    Examples
    --------
    >>> bytes_of("2GiB") == bytes_of("2048M") == 2 << 30
    True
    """
    found = _SIZE.fullmatch(str(text))
    count = 0 if found is None else int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))
    if count < 1:
        raise ConfigError(f"memory: expected a size such as 2GiB or 500M, found {printable(repr(text), 40)}")
    return count


class MemoryBudget:
    """What reading one file may make, counted against the file's size and against what is free.

    Parameters
    ----------
    size
        Bytes of the file as it lies on the disk.
    refuse
        Makes the error to raise from a reason such as ``"shape (9, 9): would take 3 GiB, ..."``;
        it adds path, member or key. The reason ends with what to do.
    ratio
        Bytes allowed for each byte of the file: :data:`RATIO` for compressed measurements, less for
        formats that gain little by compression.
    floor
        Bytes allowed beyond that, however small the file is.
    advice
        What to do about a genuine file that makes too much.

    Attributes
    ----------
    allowed : int
        ``floor + ratio * size``.
    spent : int
        What has been taken and not given back.

    Notes
    -----
    Take before the allocation, not after it, and what is really made: an array's bytes in the type
    it is read as, a decompressed block, a copy. What is released again (a block that was converted)
    is given back. One budget serves a whole file: hand it down, do not open a second one.

    Examples
    --------
    >>> budget = MemoryBudget(1000, lambda reason: ValueError(f"scan.npz: {reason}"))
    >>> budget.take(4 * 64 * 64, "diffraction")
    >>> budget.spent
    16384
    >>> budget.take(1 << 40, "diffraction")
    Traceback (most recent call last):
        ...
    ValueError: scan.npz: diffraction: would take 1 TiB, from a file of 1000 B at most 64.1 MiB; \
if it is genuine, store it uncompressed
    """

    def __init__(
        self,
        size: int,
        refuse: Callable[[str], Exception],
        *,
        ratio: float = RATIO,
        floor: int = FLOOR,
        advice: str = "if it is genuine, store it uncompressed",
    ) -> None:
        self.size = size
        self.allowed = floor + int(ratio * size)
        self.spent = 0
        self._refuse, self._advice = refuse, advice

    @property
    def left(self) -> int:
        """Bytes that may still be taken as far as the file's size goes."""
        return self.allowed - self.spent

    def fits(self, count: int) -> bool:
        """Return whether ``count`` bytes may be taken."""
        return count <= self.left and (count <= _SMALL or count <= memory_limit())

    def take(self, count: int, what: str = "") -> None:
        """Take ``count`` bytes, or raise what ``refuse`` makes.

        Parameters
        ----------
        count
            Bytes about to be made, 0 or more.
        what
            The array, member or key they are for; safe to print. Opens the message.

        Raises
        ------
        Exception
            Made by ``refuse``: the file makes too much for its size, or more than is free.
        """
        lead = f"{what}: " if what else ""
        if count > self.left:
            raise self._refuse(
                f"{lead}would take {shown_bytes(self.spent + count)}, from a file of {shown_bytes(self.size)} "
                f"at most {shown_bytes(self.allowed)}; {self._advice}"
            )
        if count > _SMALL and count > (free := memory_limit()):
            raise self._refuse(
                f"{lead}would take {shown_bytes(count)}, {shown_bytes(free)} of memory are free; "
                "close other programs, raise the limit, or take fewer frames"
            )
        self.spent += count

    def give_back(self, count: int) -> None:
        """Give back ``count`` bytes that were taken and have been released."""
        self.spent = max(0, self.spent - count)


def need_memory(count: int, what: str, advice: str) -> None:
    """Refuse work that would not fit into what is free.

    Parameters
    ----------
    count
        Bytes that the work is about to allocate.
    what
        What they are for; opens the message.
    advice
        What the reader can do instead.

    Raises
    ------
    DataError
        When ``count`` exceeds :func:`memory_limit`.
    """
    if count > (free := memory_limit()):
        raise DataError(
            f"{what}: needs {shown_bytes(count)}, {shown_bytes(free)} of memory are free; {advice}"
        )


def shown_bytes(count: float) -> str:
    """Return a number of bytes as people read it, such as ``1.5 GiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    power = min(int(math.log2(count)) // 10, 4)
    return f"{count / (1 << 10 * power):.4g} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


# ---- what the system says


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # another system, or /proc is hidden
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN


def _groups(root: Path = Path("/sys/fs/cgroup"), table: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group above this process leaves, versions 1 and 2."""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            names, base = ("memory.max", "memory.current", "inactive_file"), root
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = root / "memory"
        else:
            continue
        # In a container the path may be the host's, of which only the last part, or none, is mounted.
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            if (left := _left(place, *names)) is not None:
                yield left
            if place == base:
                break


def _left(folder: Path, limit: str, used: str, cache: str) -> int | None:
    try:
        most = int((folder / limit).read_text())  # "max" where there is no limit
        now = int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return most - now + int(stat.get(cache, 0))
    except (OSError, ValueError):
        return None


def _capped() -> Iterator[int]:
    if (cap := _CAP.get()) is not None:
        yield cap - memory_used()


def _address_space() -> Iterator[int]:
    if resource is None:
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    yield most - pages * os.sysconf("SC_PAGE_SIZE")
