"""The registry of scan file formats: one file each, chosen by content first and suffix second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, ScanNotFoundError
from ptycho_torch.scan.scan import Scan

__all__ = ["ScanFormat", "file_sha256", "format_names", "open_scan", "register_format", "write_scan"]

MEASUREMENTS = ("auto", "amplitude", "counts")
_HEAD = 16


class Reader(Protocol):
    """Reads one file; see :func:`open_scan` for the arguments and errors."""

    def __call__(
        self, path: Path, *, measurement: str, probe: NDArray[Any] | Path | None, require_probe: bool
    ) -> Scan: ...


class Writer(Protocol):
    """Writes one file whole or not at all, by ``files.atomic_path``; see :func:`write_scan`."""

    def __call__(self, scan: Scan, path: Path, *, measurement: str) -> None: ...


@dataclass(frozen=True)
class ScanFormat:
    """One format: its name, the suffixes it goes by, how its content is recognised, and its functions."""

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[Path, bytes], bool]
    read: Reader
    write: Writer | None


_FORMATS: dict[str, ScanFormat] = {}


def register_format(
    name: str,
    suffixes: tuple[str, ...],
    sniff: Callable[[Path, bytes], bool],
    write: Writer | None = None,
) -> Callable[[Reader], Reader]:
    """Decorator that makes a reader known under ``name``.

    ``sniff(path, head)`` gets the file's first 16 bytes and says whether the content is of this
    format. Raises ValueError when the name is taken.
    """
    if name in _FORMATS:
        raise ValueError(f"scan format {name!r} is registered already")

    def decorate(read: Reader) -> Reader:
        _FORMATS[name] = ScanFormat(name, suffixes, sniff, read, write)
        return read

    return decorate


def format_names() -> list[str]:
    """Names of the known formats, sorted."""
    return sorted(_FORMATS)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _by_name(path: Path, name: str) -> ScanFormat:
    if name not in _FORMATS:
        raise ScanError(f"{path}: format: expected one of {', '.join(format_names())}, found {name!r}")
    return _FORMATS[name]


def _choose(path: Path) -> ScanFormat:
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    by_suffix = [f for f in _FORMATS.values() if path.suffix.lower() in f.suffixes]
    # The suffix's own format is asked first, so that two formats in one container do not compete.
    for candidate in [*by_suffix, *_FORMATS.values()]:
        if candidate.sniff(path, head):
            return candidate
    if by_suffix:  # its reader explains best what is wrong with the content
        return by_suffix[0]
    known = ", ".join(f"{f.name} ({' '.join(f.suffixes)})" for f in _FORMATS.values())
    raise ScanError(f"{path}: expected a scan file of a known format, {known}; found none of them")


def open_scan(
    path: str | Path,
    *,
    format: str | None = None,
    measurement: str = "auto",
    probe: NDArray[Any] | str | Path | None = None,
    require_probe: bool = True,
) -> Scan:
    """Read a scan file of any known format.

    ``format``: a name out of :func:`format_names`, or None to recognise it. ``measurement``: whether the file
    holds ``amplitude`` or ``counts``; ``auto`` decides by what the file says, its dtype and whether
    values are whole, and leaves its reason in ``scan.source.measurement_why``. ``probe``: an array
    (N, N) or (modes, N, N), or a file with one, used in place of the file's guess.
    ``require_probe=False`` accepts a scan without any.

    Raises :class:`ScanNotFoundError` when there is no such file and :class:`ScanError`, one line that names
    file, key, what was expected and what was found, for everything that cannot be used.
    """
    path = Path(path)
    if measurement not in MEASUREMENTS:
        raise ScanError(
            f"{path}: measurement: expected one of {', '.join(MEASUREMENTS)}, found {measurement!r}"
        )
    try:
        if not path.exists():
            raise ScanNotFoundError(f"{path}: expected a scan file, found nothing there")
        if path.is_dir():
            raise ScanError(f"{path}: expected a scan file, found a directory")
        chosen = _by_name(path, format) if format else _choose(path)
        override = Path(probe) if isinstance(probe, str) else probe
        return chosen.read(path, measurement=measurement, probe=override, require_probe=require_probe)
    except OSError as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error


def write_scan(
    scan: Scan, path: str | Path, *, format: str | None = None, measurement: str = "amplitude"
) -> None:
    """Write a scan; the file appears whole or not at all, and an earlier one stays until then.

    ``format``: None takes the one of the suffix, else NPZ. ``measurement``: ``amplitude`` stores float32
    sqrt(counts); ``counts`` stores whole counts as uint32 and needs ``scan.counts_known``.
    Raises :class:`ScanError` for a wrong request, ``OutputError`` when the file cannot be written.
    """
    path = Path(path)
    if measurement not in MEASUREMENTS[1:]:
        raise ScanError(f"{path}: measurement: expected amplitude or counts, found {measurement!r}")
    if measurement == "counts" and not scan.counts_known:
        raise ScanError(f"{path}: measurement: expected a scan with known counts, found amplitudes alone")
    if format is None:
        named = [f.name for f in _FORMATS.values() if path.suffix.lower() in f.suffixes]
        format = named[0] if named else "npz"
    chosen = _by_name(path, format)
    if chosen.write is None:
        raise ScanError(f"{path}: format: expected one that can be written, found {format!r}")
    chosen.write(scan, path, measurement=measurement)
