"""The NPZ layout that PtychoPINN and ptychodus share.

    diff3d (or diffraction)   (M, N, N) or (N, N, M)   amplitude by specification, counts in practice
    xcoords, ycoords          (M,)                     pixels, x = column
    probeGuess                (N, N), (modes, N, N), (N, N, modes) or (variations, modes, N, N)
    objectGuess               (H, W), optional; a leading axis of length 1 is dropped
    xcoords_start, ycoords_start, scan_index           (M,), optional
    bad_pixels                (N, N), optional, nonzero where the detector lies
    measurement               optional text, amplitude or counts; written by :func:`~ptycho_torch.scan.write_scan`

Arrays of Python objects are never loaded.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, printable
from ptycho_torch.files import atomic_path
from ptycho_torch.files.archive import Archive, Member
from ptycho_torch.scan.intake import Found, Request
from ptycho_torch.scan.registry import FORMATS, ScanFormat
from ptycho_torch.scan.scan import Scan
from ptycho_torch.scan.sparse import SparseFrames

__all__ = ["Npz"]

logger = logging.getLogger(__name__)

FRAME_KEYS = ("diff3d", "diffraction")


def _axis_of_frames(archive: Archive, member: Member, count: int | None) -> int:
    """Which axis of the frames array counts frames, 0 or 2; ``count``: how many positions there are."""
    shape = member.shape
    if len(shape) != 3 or 0 in shape:
        raise archive.error(member.key, "three axes, (frames, N, N) or (N, N, frames)", f"shape {shape}")
    first, last = shape[1] == shape[2], shape[0] == shape[1]
    if not first and not last:  # what is not square tells by its positions, and is cropped
        first, last = count in (None, shape[0]), count == shape[2]
    if first and (not last or count is None or shape[0] == count or shape[2] != count):
        axis = 0
    elif last:
        axis = 2
    else:
        raise archive.error(member.key, "square frames, (frames, N, N) or (N, N, frames)", f"shape {shape}")
    if count is not None and shape[axis] != count:
        raise archive.error(
            "xcoords", f"one position for each of the {shape[axis]} frames in {member.key}", f"{count}"
        )
    if first and last:
        logger.warning(
            "%s: %s: shape %s: the first axis was taken as that of frames", archive.path, member.key, shape
        )
    return axis


def _vector(archive: Archive, key: str, count: int | None = None) -> NDArray[Any]:
    """A vector of real numbers of length ``count``, whose header is checked before it is read."""
    member = archive.header(key)
    long = tuple(n for n in member.shape if n != 1)
    if len(long) > 1 or member.shape == () or member.dtype.kind not in "iuf":
        raise archive.error(key, "a vector of real numbers", f"{member.dtype} of shape {member.shape}")
    size = long[0] if long else 1
    if count is not None and size != count:
        raise archive.error(key, f"{count} values, one for each frame", f"{size}")
    return archive.read(key).ravel()


def _positions(archive: Archive, x_key: str, y_key: str, count: int | None) -> NDArray[np.float64]:
    x = _vector(archive, x_key, count)
    y = _vector(archive, y_key)
    if len(x) != len(y):
        raise archive.error(y_key, f"{len(x)} values as in {x_key}", f"{len(y)}")
    for key, values in ((x_key, x), (y_key, y)):
        wrong = ~np.isfinite(values)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise archive.error(
                key,
                "finite positions in pixels",
                f"{values[first]} at frame {first} ({int(wrong.sum())} in all)",
                "drop these frames",
            )
    return np.stack([x, y], axis=1).astype(np.float64)


def _object(archive: Archive) -> NDArray[np.complex64] | None:
    if "objectGuess" not in archive:
        return None
    member = archive.header("objectGuess")
    shape = member.shape[1:] if len(member.shape) == 3 and member.shape[0] == 1 else member.shape
    if len(shape) != 2 or 0 in shape or member.dtype.kind not in "cfiu":
        raise archive.error(
            "objectGuess", "complex numbers of shape (H, W)", f"{member.dtype} of {member.shape}"
        )
    return archive.read("objectGuess").reshape(shape).astype(np.complex64)


def _scan_index(archive: Archive, count: int) -> NDArray[np.int64] | None:
    if "scan_index" not in archive:
        return None
    index = _vector(archive, "scan_index", count)
    if not np.isfinite(index).all() or np.any(index != np.rint(index)):
        raise archive.error("scan_index", "whole numbers", f"{index.dtype} with others")
    return index.astype(np.int64)


def _said(archive: Archive, key: str) -> tuple[str, str] | None:
    """What the file says of its frames, where it does."""
    if "measurement" in archive and archive.header("measurement").dtype.kind == "U":
        values = archive.read("measurement", limit=1024).ravel()
        said = str(values[0]) if values.size else ""
        if said in ("amplitude", "counts"):
            return said, f"the file says that {key} holds {said}."
    return None


def _kept_type(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Integers of up to four bytes stay what they are; everything else is float32 in memory."""
    small = stored.kind in "iu" and stored.itemsize <= 4
    return stored.newbyteorder("=") if small else np.dtype(np.uint8 if stored.kind == "b" else np.float32)


def _frames(archive: Archive, member: Member, order: tuple[int, int, int]) -> NDArray[Any] | SparseFrames:
    """The frames with their axes in ``order``; without their zeros where these are more than the file may make."""
    dtype = _kept_type(member.dtype)
    if archive.budget.fits(math.prod(member.shape) * dtype.itemsize):
        return archive.read_as(member.key, order, dtype)
    layout: Literal["C", "F"] = "F" if member.fortran else "C"

    def places(index: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        axes = np.unravel_index(index, member.shape, order=layout)
        return tuple(axes[axis] for axis in order)

    count, height, width = (member.shape[axis] for axis in order)
    return SparseFrames.gathered(
        archive.parts(member.key, dtype),
        places,
        (count, height, width),
        lambda size: archive.budget.take(size, printable(member.key)),
    )


@FORMATS.register("npz")
class Npz(ScanFormat):
    """The layout above."""

    suffixes = (".npz",)

    def recognises(self, path: Path, head: bytes) -> bool:
        if not head.startswith(b"PK"):
            return False
        try:
            with Archive(path) as archive:
                return bool(archive.keys)
        except ScanError:
            return False

    def read(self, path: Path, request: Request) -> Found:
        with Archive(path) as archive:
            key = next((key for key in FRAME_KEYS if key in archive), None)
            missing = [] if key else [" or ".join(FRAME_KEYS)]
            needed = ["xcoords", "ycoords"] if request.positions is None else []
            needed += ["probeGuess"] if request.require_probe and request.probe is None else []
            missing += [name for name in needed if name not in archive]
            if missing or key is None:
                advice = "give a probe of your own" if missing == ["probeGuess"] else ""
                raise archive.error(", ".join(missing), "to be in the file", archive.listing, advice)
            member = archive.header(key)
            if member.dtype.kind not in "iufb":
                raise archive.error(key, "real numbers", f"{member.dtype}")
            places = _positions(archive, "xcoords", "ycoords", None) if request.positions is None else None
            axis = _axis_of_frames(archive, member, None if places is None else len(places))
            count = member.shape[axis]
            # Small things first: a wrong one is then found before the frames are unpacked.
            start = None
            if "xcoords_start" in archive and "ycoords_start" in archive:
                start = _positions(archive, "xcoords_start", "ycoords_start", count)
            optional = {name: archive.read(name) for name in ("probeGuess", "bad_pixels") if name in archive}
            found = Found(
                frames=np.zeros(0),
                positions=places,
                names={"frames": key, "probe": "probeGuess", "object_guess": "objectGuess"},
                probe=optional.get("probeGuess"),
                object_guess=_object(archive),
                bad_pixels=optional.get("bad_pixels"),
                positions_start=start,
                scan_index=_scan_index(archive, count),
                says=_said(archive, key),
            )
            found.frames = _frames(archive, member, (0, 1, 2) if axis == 0 else (2, 0, 1))
        return found

    def write(self, scan: Scan, path: Path, *, measurement: str) -> None:
        """Write frames first, compressed; amplitudes come back bit for bit, and so do counts below 2**24."""
        arrays: dict[str, Any] = {
            "xcoords": scan.positions[:, 0],
            "ycoords": scan.positions[:, 1],
            "measurement": np.array(measurement),
        }
        frames = np.asarray(scan.frames, dtype=np.float32)
        if measurement == "counts":
            counts = np.rint(np.square(frames, dtype=np.float64))
            if counts.max() > np.iinfo(np.uint32).max:
                raise ScanError(f"{path}: diff3d: expected counts below 2**32, found {counts.max():.0f}")
            arrays["diff3d"] = counts.astype(np.uint32)
        else:
            arrays["diff3d"] = frames
        if scan.positions_start is not None:
            arrays["xcoords_start"], arrays["ycoords_start"] = scan.positions_start.T
        optional = {"probeGuess": scan.probe, "objectGuess": scan.object_guess, "scan_index": scan.scan_index}
        arrays.update({key: value for key, value in optional.items() if value is not None})
        if scan.good_pixels is not None:
            arrays["bad_pixels"] = ~scan.good_pixels
        with atomic_path(path) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
