"""The folder of a training run: what it is of, one process at a time, and nothing of two runs in it.

``run.json`` is written first. It says which scan the run is of, how that was read, with which seed and by which
versions; going on compares it with what is given, and refuses another scan or another reading of it by name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch._version import __version__
from ptycho_torch.errors import DataError, OutputError, printable
from ptycho_torch.files import ensure_output_dir, write_text_atomic
from ptycho_torch.report.tables import json_text
from ptycho_torch.scan import Scan, open_scan

__all__ = ["BUNDLE_NAME", "RUN_NAME", "RunFolder", "ScanFile", "identity"]

logger = logging.getLogger(__name__)
RUN_NAME: Final = "run.json"
BUNDLE_NAME: Final = "wts.h5"
"""Base path of a bundle inside its folder; the file is ``wts.h5.zip``."""

_FORMAT: Final = "ptychopinn-run-1"
_STATE: Final = "resume.safetensors"
_MINE: Final = (
    RUN_NAME,
    f"{BUNDLE_NAME}.zip",
    _STATE,
    "config.yaml",
    "history.csv",
    "training.png",
    "training.json",
    "training.html",
)
_NAMES: Final = {
    "sha256": "scan (SHA-256 of its file)",
    "frames_sha256": "scan (its frames)",
    "format": "format",
    "measurement": "measurement",
    "frames": "number of frames",
    "N": "frame size",
    "positions_sha256": "positions",
    "probe_sha256": "probe",
}


@dataclass(frozen=True)
class ScanFile:
    """A scan's file and how it is read; arguments as :func:`ptycho_torch.scan.open_scan` has them.

    ``options``: its further ones, by name.
    """

    path: Path
    format: str | None = None
    measurement: str = "auto"
    probe: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Scan:
        """Read it."""
        return open_scan(
            self.path,
            format=self.format,
            measurement=self.measurement,
            probe=self.probe,
            require_probe=False,
            **self.options,
        )


def identity(scan: Scan) -> dict[str, Any]:
    """Return what tells a scan, as it was read, from another one.

    Parameters
    ----------
    scan : Scan

    Returns
    -------
    dict
        Hashes of file, positions and probe, format, measurement, number and size of frames.
    """
    source = scan.source
    known: dict[str, Any] = {"frames": scan.n_frames, "N": scan.N}
    if source is not None:
        known |= {"format": source.format, "measurement": source.measurement}
    if source is not None and source.sha256:
        known["sha256"] = source.sha256
    else:
        known["frames_sha256"] = _hash(np.asarray(scan.frames[np.arange(min(scan.n_frames, 16))]))
    known["positions_sha256"] = _hash(scan.positions)
    known["probe_sha256"] = "" if scan.probe is None else _hash(scan.probe)
    return known


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of reading as JSON has them, paths absolute."""
    return {
        name: str(value.resolve()) if isinstance(value, Path) else value for name, value in options.items()
    }


def _hash(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


class RunFolder:
    """A folder in the hands of one process.

    Parameters
    ----------
    path : path
        Made if need be.

    Raises
    ------
    OutputError
        When it cannot be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out. The system lets go when this process ends, however it does.

        Raises
        ------
        OutputError
            When another process is at work in the folder, or it cannot be written to.
        """
        ensure_output_dir(self.path)
        handle = _locked(self.path)
        try:
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def exists(self) -> bool:
        """Return whether the folder holds a run, or what is left of one."""
        return any((self.path / name).exists() for name in (RUN_NAME, f"{BUNDLE_NAME}.zip", _STATE))

    def check_free(self, force: bool) -> None:
        """Refuse to write over a run.

        Raises
        ------
        OutputError
            When the folder holds one and ``force`` is not given.
        """
        if self.exists() and not force:
            raise OutputError(
                f"{self.path}: holds a training run; go on with it by --resume {self.path}, name another"
                " folder, or give --force to begin anew in its place"
            )

    def begin(
        self,
        scan: Scan,
        file: ScanFile | None,
        validation: Scan | None,
        seed: int,
        more: Sequence[tuple[ScanFile | None, Scan]] = (),
    ) -> None:
        """Clear away what an earlier run left, and write ``run.json``; ``more``: further scans of the run."""
        for name in _MINE:
            (self.path / name).unlink(missing_ok=True)
        path = None if file is None else str(file.path.resolve())
        if path is None and scan.source is not None and scan.source.sha256:
            path = str(Path(scan.source.path).resolve())
        said = {
            "run": _FORMAT,
            "scan": path,
            "probe_file": None if file is None or file.probe is None else str(file.probe.resolve()),
            "reading": {} if file is None else _plain(file.options),
            **identity(scan),
            "validation": None if validation is None else identity(validation),
            "more": [
                {"scan": None if other is None else str(other.path.resolve()), **identity(each)}
                for other, each in more
            ],
            "seed": seed,
            "versions": {"package": __version__, "python": platform.python_version()},
        }
        write_text_atomic(self.path / RUN_NAME, json_text(said))

    def said(self) -> dict[str, Any]:
        """Read ``run.json``.

        Raises
        ------
        DataError
            When there is none, or it is of something else.
        """
        path = self.path / RUN_NAME
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; --resume takes the folder of a run that 'ptychopinn train' began"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: not readable: {printable(error)}") from error
        if not isinstance(found, dict) or found.get("run") != _FORMAT:
            raise DataError(f"{path}: not written by 'ptychopinn train'")
        return found

    def scan_file(self, given: ScanFile | None) -> ScanFile:
        """Return the run's own scan as it was read; what is ``given`` beyond that must agree.

        Raises
        ------
        DataError
            When a format or measurement is given that is not the run's, or the run has no scan file.
        """
        said = self.said()
        given = given or ScanFile(Path(said["scan"] or ""))
        if said["scan"] is None and not given.path.name:
            raise DataError(f"{self.path}: the run's scan was no file; give it again")
        for name, value, unsaid in (
            ("format", given.format, None),
            ("measurement", given.measurement, "auto"),
        ):
            if value != unsaid and value != said.get(name):
                self._refuse(name, said.get(name), value)
        kept = said["probe_file"]
        probe = given.probe or (None if kept is None else Path(kept))
        options = {**said.get("reading", {}), **given.options}
        return ScanFile(given.path, said.get("format"), said.get("measurement", "auto"), probe, options)

    def more_files(self, file: ScanFile) -> list[ScanFile]:
        """Return the run's further scans, read as ``file``, its first one."""
        paths = [each["scan"] for each in self.said().get("more", [])]
        if None in paths:
            raise DataError(f"{self.path}: one of the run's scans was no file; give all of them again")
        return [replace(file, path=Path(path)) for path in paths]

    def check_same(self, scan: Scan, validation: Scan | None = None, more: Sequence[Scan] = ()) -> None:
        """Compare scans with those that the run is of.

        Raises
        ------
        DataError
            Naming the first thing that differs.
        """
        said, found = self.said(), identity(scan)
        for name in _NAMES:
            if said.get(name) != found.get(name):
                self._refuse(_NAMES[name], said.get(name), found.get(name))
        other = None if validation is None else identity(validation)
        if said.get("validation") != other:
            self._refuse("validation scan", said.get("validation"), other)
        kept = [{k: v for k, v in each.items() if k != "scan"} for each in said.get("more", [])]
        if kept != (others := [identity(each) for each in more]):
            self._refuse("further scans", kept, others)

    def _refuse(self, name: str, expected: object, found: object) -> None:
        raise DataError(
            f"{name}: expected {printable(expected)}, what the run in {self.path} is of, found"
            f" {printable(found)}; leave it out to go on with that run, or begin another one in another folder"
        )

    def is_bare(self) -> bool:
        """Return whether the run was ended before anything of it was kept, so that going on is beginning."""
        return not any((self.path / name).exists() for name in (f"{BUNDLE_NAME}.zip", _STATE))

    def what_exists(self) -> str:
        """Say in one line what there is of the run, and how to go on."""
        there = [name for name in (f"{BUNDLE_NAME}.zip", _STATE) if (self.path / name).exists()]
        if not (self.path / RUN_NAME).exists():
            return f"interrupted: nothing was written to {self.path} yet"
        if _STATE not in there:
            return f"interrupted: no step of this run is kept yet; begin with 'ptychopinn train --resume {self.path}'"
        return (
            f"interrupted: {' and '.join(there)} of its last whole epoch are in {self.path}; go on with"
            f" 'ptychopinn train --resume {self.path}'"
        )


def _locked(folder: Path) -> int | None:
    """A handle that holds the folder's lock; None where the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # no such thing on this system
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise OutputError(
                f"{folder}: another process is training in this folder; wait for it, or name another folder"
            ) from None
        logger.warning("%s: this file system cannot lock; do not train twice in it at a time", folder)
        return None
    return handle
