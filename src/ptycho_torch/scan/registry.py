"""The scan file formats: one file each, chosen by content first and suffix second.

A format of another distribution is a module that it names in its ``pyproject.toml``::

    [project.entry-points."ptychopinn.formats"]
    mine = "my_package.scan_format"

and that decorates a class with ``@FORMATS.register("mine")``; see :class:`ScanFormat`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, ScanNotFoundError, printable
from ptycho_torch.files.regular import open_regular, similar
from ptycho_torch.registry import Registry
from ptycho_torch.scan.intake import Found, Known, Request, scan_of
from ptycho_torch.scan.runs import Run
from ptycho_torch.scan.scan import Scan

__all__ = ["FORMATS", "ScanFormat", "format_names", "open_scan", "write_scan"]

MEASUREMENTS: Final = ("auto", "amplitude", "counts")
_HEAD: Final = 16
_FILES: Final = ("probe", "positions")


class ScanFormat(ABC):
    """One format of scan files.

    A subclass says what is in a file and interprets none of it: amplitude or counts, the probe's layout, bad
    pixels, runs, crop and bin are the same for all formats and decided in :mod:`ptycho_torch.scan.intake`.

    Attributes
    ----------
    suffixes : tuple of str
        Endings that files of the format mostly have, lower case, with the dot.
    """

    suffixes: tuple[str, ...] = ()

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a file is of this format, by its first 16 bytes and, if need be, by more of it."""
        return False

    @abstractmethod
    def read(self, path: Path, request: Request) -> Found:
        """Return what is in a file.

        Parameters
        ----------
        path
            A regular file.
        request
            What the caller asked for. A reader needs ``external``, and must not insist on positions or a probe
            that the caller gives.

        Raises
        ------
        ScanError
            One line that names file, key, what was expected and what was found.
        """

    def write(self, scan: Scan, path: Path, *, measurement: str) -> None:
        """Write a scan whole or not at all, by ``files.atomic_path``; see :func:`write_scan`."""
        raise ScanError(f"{path}: format: expected one that can be written, found {type(self).__name__}")

    @property
    def writes(self) -> bool:
        """Whether :meth:`write` is there."""
        return type(self).write is not ScanFormat.write


FORMATS: Registry[type[ScanFormat]] = Registry(
    "scan format",
    "ptychopinn.formats",
    {
        name: f"ptycho_torch.scan.{name.replace('-', '_')}"
        for name in ("npz", "cxi", "cxi-turned", "eiger", "ptychodus", "ptychodus-training", "ptyd")
    },
)


def format_names() -> list[str]:
    """Return the names of the known formats.

    Returns
    -------
    list of str
        Sorted.

    Examples
    --------
    >>> "npz" in format_names()
    True
    """
    return FORMATS.names()


def _by_name(path: Path, name: str) -> ScanFormat:
    if name not in FORMATS:
        known = ", ".join(format_names())
        raise ScanError(f"{path}: format: expected one of {known}, found {printable(name, 40)!r}")
    return FORMATS.get(name)()


def _recognised(path: Path) -> str:
    """The name of a file's format. That of its suffix is asked first, so that two in one container do not compete."""
    with open_regular(path) as stream:
        head = stream.read(_HEAD)
    formats = {name: made() for name, made in FORMATS.items()}
    named = [name for name, f in formats.items() if path.suffix.lower() in f.suffixes]
    for name in [*named, *formats]:
        if formats[name].recognises(path, head):
            return name
    if len(named) == 1:  # its reader explains best what is wrong with the content
        return named[0]
    known = ", ".join(f"{name} ({' '.join(f.suffixes)})" for name, f in formats.items() if f.suffixes)
    raise ScanError(
        f"{path}: not a scan file of a known format ({known}); --format NAME overrules, and the manual's page"
        " 'A file that no format fits' has the few lines that make an NPZ of any file"
    )


class Options(TypedDict, total=False):
    """Keyword arguments of :func:`open_scan`."""

    measurement: str
    probe: NDArray[Any] | str | Path | None
    require_probe: bool
    run: Run
    external: bool
    positions: str | Path | None
    crop: int | None
    bin: int
    known: Known | None


def open_scan(path: str | Path, *, format: str | None = None, **options: Unpack[Options]) -> Scan:
    """Read a scan file of any known format.

    Parameters
    ----------
    path : str or Path
        A regular file.
    format : str, optional
        A name out of :func:`format_names`; None recognises it.
    measurement : {"auto", "amplitude", "counts"}
        What the file's frames hold. ``auto`` decides by what the file says, its type and whether values are
        whole, and leaves its reason in ``scan.source.measurement_why``.
    probe : ndarray or str or Path, optional
        An array (N, N) or (modes, N, N), or a file with one, used in place of the file's guess.
    require_probe : bool
        False accepts a scan without any; default True.
    run : int or "all", optional
        Of a file with several runs (``scan_index``) the one to take; ``"all"`` takes them for one object. None
        decides whether the numbers are those of runs, leaves its reason in ``scan.source.runs_why``, and keeps
        runs apart.
    external : bool
        Follow links and virtual data sets of an HDF5 file to data files in the same folder; default False.
    positions : str or Path, optional
        A file with the positions, used in place of the file's own;
        see :func:`~ptycho_torch.scan.positions.read_positions`.
    crop : int, optional
        Take the square of so many detector pixels around the zero frequency. Positions, probe and pixel size
        follow: object pixels become larger.
    bin : int
        Add the counts of ``bin`` x ``bin`` detector pixels, after ``crop``; default 1.
    known : Known, optional
        What another process has found out about this file by :func:`~ptycho_torch.scan.intake.known_of`: the
        file is then not read for its hash, nor all frames for what has to be known of them.

    Returns
    -------
    Scan
        Checked; its frames may stay in the file.

    Raises
    ------
    ScanNotFoundError
        When there is no such file.
    ScanError
        One line that names file, key, what was expected and what was found, for everything that cannot be used.

    Examples
    --------
    >>> from ptycho_torch.scan import open_scan, write_scan
    >>> from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
    >>> obj = make_object("grf", 64, 0)
    >>> made = simulate_scan(obj, make_probe("disk", 32), make_positions("grid", obj.shape, 32, step=8))
    >>> write_scan(made, "scan.npz", measurement="counts")
    >>> scan = open_scan("scan.npz", crop=16)
    >>> scan.frames.shape, scan.counts_known, scan.source.format
    ((25, 16, 16), True, 'npz')
    """
    path = Path(path)
    given = {k: Path(v) if k in _FILES and isinstance(v, str) else v for k, v in options.items()}
    request = Request(**given)  # type: ignore[arg-type]
    if request.measurement not in MEASUREMENTS:
        raise ScanError(
            f"{path}: measurement: expected one of {', '.join(MEASUREMENTS)}, found {request.measurement!r}"
        )
    try:
        if not path.exists():
            raise ScanNotFoundError(f"{path}: no such scan file{similar(path)}")
        if not path.is_file():
            kind = "a directory" if path.is_dir() else "a device or pipe"
            raise ScanError(f"{path}: expected a scan file, found {kind}")
        name = format or _recognised(path)
        found = _by_name(path, name).read(path, request)
        return scan_of(found, str(path), name, request, path)
    except OSError as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error


def write_scan(
    scan: Scan, path: str | Path, *, format: str | None = None, measurement: str = "amplitude"
) -> None:
    """Write a scan; the file appears whole or not at all, and an earlier one stays until then.

    Parameters
    ----------
    scan : Scan
        What to write.
    path : str or Path
        Where to.
    format : str, optional
        Default: that of the suffix, else NPZ.
    measurement : {"amplitude", "counts"}
        ``amplitude`` stores float32 sqrt(counts); ``counts`` stores whole counts as uint32 and needs
        ``scan.counts_known``.

    Raises
    ------
    ScanError
        For a wrong request.
    OutputError
        When the file cannot be written.

    Examples
    --------
    >>> from ptycho_torch.scan import open_scan, write_scan
    >>> from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
    >>> obj = make_object("grf", 64, 0)
    >>> made = simulate_scan(obj, make_probe("disk", 32), make_positions("grid", obj.shape, 32, step=8))
    >>> write_scan(made, "scan.npz", measurement="counts")
    >>> bool(np.allclose(open_scan("scan.npz").frames, made.frames))
    True
    """
    path = Path(path)
    if measurement not in MEASUREMENTS[1:]:
        raise ScanError(f"{path}: measurement: expected amplitude or counts, found {measurement!r}")
    if measurement == "counts" and not scan.counts_known:
        raise ScanError(f"{path}: measurement: the scan's counts are not known; write amplitudes")
    if format is None:
        writing = {name: made for name, made in FORMATS.items() if made().writes}
        named = [name for name, made in FORMATS.items() if path.suffix.lower() in made.suffixes]
        fit = [name for name in named if name in writing]
        if named and not fit:
            known = ", ".join(suffix for made in writing.values() for suffix in made.suffixes)
            raise ScanError(
                f"{path}: expected the name of a file that can be written ({known}), found {path.suffix}"
            )
        format = fit[0] if fit else "npz"
    chosen = _by_name(path, format)
    if not chosen.writes:
        raise ScanError(f"{path}: format: expected one that can be written, found {format!r}")
    chosen.write(scan, path, measurement=measurement)
