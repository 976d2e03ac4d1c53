"""From what a format's reader found to a checked scan: the one place where a file is interpreted.

Amplitude or counts, probe, bad pixels, crop and bin, runs, metres and the file's hash are decided here
for all formats.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, ScanError
from ptycho_torch.files.memory import FLOOR, RATIO, memory_limit
from ptycho_torch.scan.check import check_content
from ptycho_torch.scan.facts import Cut, FrameFacts
from ptycho_torch.scan.frames import ArrayFrames, FrameSource
from ptycho_torch.scan.h5frames import H5Frames
from ptycho_torch.scan.optics import Optics, cut_probe, metres_to_pixels
from ptycho_torch.scan.positions import read_positions
from ptycho_torch.scan.probes import probe_modes, read_probe
from ptycho_torch.scan.runs import Run, runs_of
from ptycho_torch.scan.scan import Geometry, Scan, ScanSource

__all__ = ["Found", "Known", "Request", "file_sha256", "known_of", "scan_of"]

logger = logging.getLogger(__name__)

_SHARE: Final = 8
"""Frames that need no more than this part of the memory that is free are read at once."""

Stored = FrameSource | NDArray[Any]


@dataclass(frozen=True)
class Known:
    """What one process has found out about a file by reading all of it, for others that open it too."""

    sha256: str
    facts: FrameFacts


def known_of(scan: Scan) -> Known | None:
    """Return what is known of the file of a scan; None for one that was not opened from a file."""
    if scan.source is None or not scan.source.sha256:
        return None
    return Known(scan.source.sha256, scan.frames.whole.facts)


@dataclass(frozen=True)
class Request:
    """What the caller of :func:`~ptycho_torch.scan.open_scan` asked for; fields as its arguments."""

    measurement: str = "auto"
    probe: NDArray[Any] | Path | None = None
    require_probe: bool = True
    run: Run = None
    external: bool = False
    positions: Path | None = None
    crop: int | None = None
    bin: int = 1
    known: Known | None = None


@dataclass
class Found:
    """What a reader found in a file, as it is stored: neither masked nor cut nor scaled.

    Attributes
    ----------
    frames
        (M, H, W): an array, or a source that takes what is stored for amplitudes.
    positions
        (M, 2) = (x, y), object pixels of the whole detector, or metres where there are ``optics``; None where the
        file has none.
    names
        Names in the file of ``frames``, ``probe`` and so on, for messages.
    optics
        What turns metres into pixels.
    geometry
        Metres of ``positions`` that are in pixels.
    probe, object_guess
        The file's own, in any layout of :func:`~ptycho_torch.scan.probes.probe_modes`; (H, W) complex.
    bad_pixels
        (H, W), not 0 where the detector cannot be trusted.
    positions_start, scan_index
        As in :class:`~ptycho_torch.scan.Scan`.
    says
        ``amplitude`` or ``counts`` and one sentence on why, where the file or the format says it.
    centre
        (row, column) of the zero frequency; None means the middle.
    """

    frames: Stored
    positions: NDArray[np.float64] | None
    names: dict[str, str] = field(default_factory=dict)
    optics: Optics | None = None
    geometry: Geometry | None = None
    probe: NDArray[Any] | None = None
    object_guess: NDArray[Any] | None = None
    bad_pixels: NDArray[Any] | None = None
    positions_start: NDArray[np.float64] | None = None
    scan_index: NDArray[np.int64] | None = None
    says: tuple[str, str] | None = None
    centre: tuple[int, int] | None = None

    def name(self, part: str) -> str:
        """What the file calls a part of the scan."""
        return self.names.get(part, part)


def file_sha256(path: Path, *others: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal; of several, as if they were one behind the other."""
    digest = hashlib.sha256()
    for each in (path, *others):
        with each.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def scan_of(found: Found, where: str, format: str, request: Request, file: Path | None = None) -> Scan:
    """Interpret and check what was found.

    Parameters
    ----------
    found
        What a reader returned.
    where, format
        The file and the format's name, for messages and the scan's ``source``.
    request
        What the caller asked for.
    file
        The file, whose hash, with that of others its frames lie in, tells the measurement; None for arrays.

    Raises
    ------
    ScanError
        One line that names file, key, what was expected and what was found.
    """
    frames = found.frames if isinstance(found.frames, FrameSource) else ArrayFrames(found.frames)
    whole = frames.cut
    cut = _cut(found, frames, request, where)
    good = _good_pixels(found, whole, cut, where)
    modes = _probe(found, whole, cut, request, where)
    positions, geometry = _positions(found, whole, cut, request, where)
    digest = "" if file is None else _digest(file, frames, request)
    try:
        chosen, keep_runs, runs_why = runs_of(found.scan_index, request.run)
    except ScanError as error:
        raise ScanError(f"{where}: {error}") from None
    frames = frames.recut(cut)
    frames = _placed(frames if good is None else frames.masked(good), where)
    frames = frames if request.known is None else frames.measured(request.known.facts)
    kind, why = _measurement(found, frames, request)
    frames = frames.as_counts() if kind == "counts" else frames
    scan = Scan(
        frames,
        positions,
        modes,
        _object(found, whole, cut, where),
        None if found.positions_start is None else found.positions_start * _scale(whole, cut),
        found.scan_index if keep_runs else None,
        good,
        ScanSource(where, format, digest, kind, why, runs_why),
        geometry=geometry,
    )
    check_content(scan, found.names)
    scan = replace(scan, counts_known=frames.counts_known)
    logger.info("%s: %d frames of %dx%d; %s", where, scan.n_frames, scan.N, scan.N, why)
    if runs_why:
        logger.info("%s: %s", where, runs_why)
    return scan if chosen is None else scan.select(chosen)


def _digest(file: Path, frames: FrameSource, request: Request) -> str:
    if request.known is not None:
        return request.known.sha256
    return file_sha256(file, *(other for other in frames.files if other != file))


def _edges(cut: Cut) -> tuple[int, int]:
    """Rows and columns of the stored frames that a cut takes."""
    return cut.rows.stop - cut.rows.start, cut.columns.stop - cut.columns.start


def _scale(whole: Cut, cut: Cut) -> NDArray[np.float64]:
    """Object pixels (x, y) after the cut for each before: a smaller detector has larger ones."""
    return np.array(_edges(cut)[::-1]) / np.array(_edges(whole)[::-1])


def _cut(found: Found, frames: FrameSource, request: Request, where: str) -> Cut:
    shape = _edges(frames.cut)
    if 0 in shape or len(frames) == 0:
        raise ScanError(
            f"{where}: {found.name('frames')}: expected at least one frame with pixels, found {len(frames)} of {shape}"
        )
    if request.crop is None and shape[0] != shape[1]:
        raise ScanError(
            f"{where}: {found.name('frames')}: expected square frames, shape (M, N, N), found {(len(frames), *shape)};"
            " take a square out of them with --crop, or open_scan(..., crop=N)"
        )
    if request.crop is None and request.bin == 1:
        return frames.cut
    centre = found.centre or (shape[0] // 2, shape[1] // 2)
    try:
        return Cut.middle(shape, request.crop or shape[0], request.bin, centre)
    except DataError as error:
        raise ScanError(f"{where}: {error}") from None


def _good_pixels(found: Found, whole: Cut, cut: Cut, where: str) -> NDArray[np.bool_] | None:
    if found.bad_pixels is None:
        return None
    name, shape = found.name("bad_pixels"), _edges(whole)
    if found.bad_pixels.shape != shape or found.bad_pixels.dtype.kind not in "biuf":
        raise ScanError(
            f"{where}: {name}: expected a mask of shape {shape}, found {found.bad_pixels.dtype}"
            f" {found.bad_pixels.shape}"
        )
    bad = (found.bad_pixels != 0)[cut.rows, cut.columns]
    bad = bad.reshape(cut.size, cut.bin, cut.size, cut.bin).any((1, 3))  # a sum with a bad pixel is no sum
    if bad.all():
        raise ScanError(
            f"{where}: {name}: expected some good pixels; every one is marked bad (nonzero marks a bad pixel)"
        )
    return ~bad if bad.any() else None


def _probe(found: Found, whole: Cut, cut: Cut, request: Request, where: str) -> NDArray[np.complex64] | None:
    """The caller's probe before the file's; of the whole detector's size or of the cut's."""
    given, name = request.probe, found.name("probe")
    if isinstance(given, Path):
        modes = read_probe(given)
        place = str(given), "probe"
    elif given is not None or found.probe is not None:
        place = ("probe", "array") if given is not None else (where, name)
        modes = np.asarray(found.probe if given is None else given)
    elif request.require_probe:
        raise ScanError(f"{where}: {name}: missing; give a probe with --probe-file or probe=")
    else:
        return None
    if cut.size != whole.size and whole.size in modes.shape:
        return cut_probe(probe_modes(*place, modes, whole.size), cut)
    return probe_modes(*place, modes, cut.size)


def _positions(
    found: Found, whole: Cut, cut: Cut, request: Request, where: str
) -> tuple[NDArray[np.float64], Geometry | None]:
    """Positions in object pixels of the cut, and their geometry."""
    positions, metres, place = found.positions, found.optics is not None, where
    if request.positions is not None:
        positions, metres = read_positions(request.positions)
        place = str(request.positions)
    if positions is None:
        raise ScanError(
            f"{where}: positions: there are none in this file; give one that has them:"
            " --positions-file FILE, or open_scan(..., positions=FILE)"
        )
    if len(positions) != len(found.frames):
        raise ScanError(
            f"{place}: {found.name('positions')}: expected {len(found.frames)} positions, one for each frame,"
            f" found {len(positions)}"
        )
    if not np.isfinite(positions).all():
        first = int(np.argmax(~np.isfinite(positions).all(1)))
        raise ScanError(
            f"{place}: {found.name('positions')}: expected finite positions, found {positions[first]} at frame {first};"
            " drop these frames"
        )
    scale, geometry = _scale(whole, cut), found.geometry
    if geometry is not None:
        x, y = np.array(geometry.pixel_m) / scale
        geometry = replace(geometry, pixel_m=(float(x), float(y)))
    if not metres:
        return positions * scale, geometry
    if found.optics is not None:
        optics, pixel = found.optics, cut.bin * np.array(found.optics.detector_pixel_m)
        return metres_to_pixels(positions, optics.energy_ev, optics.distance_m, pixel, cut.size)
    if geometry is None:
        raise ScanError(
            f"{place}: expected positions in object pixels, since {where} says no energy, distance and pixel size,"
            " found metres"
        )
    return (positions - geometry.origin_m) / geometry.pixel_m, geometry


def _object(found: Found, whole: Cut, cut: Cut, where: str) -> NDArray[np.complex64] | None:
    if found.object_guess is None or not np.any(found.object_guess):
        return None
    if _edges(cut) != _edges(whole):
        logger.info("%s: the object guess was left out: its pixels are those of the whole detector", where)
        return None
    return np.asarray(found.object_guess).astype(np.complex64)


def _placed(frames: FrameSource, where: str) -> FrameSource:
    """Frames of a file in memory, where they are few: they are drawn at random, again and again."""
    if not isinstance(frames, H5Frames):
        return frames
    size = sum(file.stat().st_size for file in frames.files)
    # A small file that claims many frames is read piece by piece, too.
    if frames.nbytes_stored <= min(memory_limit() // _SHARE, FLOOR + RATIO * size):
        return frames.in_memory()
    logger.info("%s: the frames stay in the file; copy them to a fast disk if reading is slow", where)
    return frames


def _measurement(found: Found, frames: FrameSource, request: Request) -> tuple[str, str]:
    """``amplitude`` or ``counts``, and the sentence on why; what is said goes before what is seen."""
    key = found.name("frames")
    if request.measurement != "auto":
        return request.measurement, f"The caller said that {key} holds {request.measurement}."
    if found.says is not None:
        return found.says
    dtype = frames.stored_dtype
    if dtype.kind in "iub":
        return "counts", f"{key} is of integer type {dtype}, so it was taken as counts."
    if frames.facts.whole.all():
        return "counts", f"{key} is {dtype} but every value is whole, so it was taken as counts."
    return "amplitude", f"{key} is {dtype} with values that are not whole, so it was taken as amplitude."
