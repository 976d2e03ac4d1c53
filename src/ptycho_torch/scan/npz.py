"""The NPZ layout that PtychoPINN and ptychodus share.

    diff3d (or diffraction)   (M, N, N) or (N, N, M)   amplitude by specification, counts in practice
    xcoords, ycoords          (M,)                     pixels, x = column
    probeGuess                (N, N), (modes, N, N), (N, N, modes) or (variations, modes, N, N)
    objectGuess               (H, W), optional; a leading axis of length 1 is dropped
    xcoords_start, ycoords_start, scan_index           (M,), optional
    bad_pixels                (N, N), optional, nonzero where the detector lies
    measurement               optional text, amplitude or counts; written by :func:`write_npz`

Of several probe variations (orthogonal probe relaxation) the first, the mean probe, is taken.
Object arrays are never loaded.
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, ScanNotFoundError, printable
from ptycho_torch.files import atomic_path
from ptycho_torch.files.archive import Archive, Member
from ptycho_torch.files.memory import memory_limit
from ptycho_torch.files.npy import read_npy
from ptycho_torch.scan.registry import file_sha256, register_format
from ptycho_torch.scan.scan import Scan, ScanSource, check_content, counts_are_integer

__all__ = ["read_npz", "read_probe", "write_npz"]

logger = logging.getLogger(__name__)

FRAME_KEYS = ("diff3d", "diffraction")
_PROBE_KEYS = ("probeGuess", "probe")


def _sniff(path: Path, head: bytes) -> bool:
    if not head.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, EOFError):
        return False


def write_npz(scan: Scan, path: Path, *, measurement: str) -> None:
    """Write the layout above, frames first, compressed; ``measurement`` as in ``write_scan``.

    Amplitudes come back bit for bit, and so do counts below 2**24.
    """
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


def _axis_of_frames(archive: Archive, member: Member, count: int) -> int:
    """Which axis of the frames array counts frames: 0 or 2."""
    shape = member.shape
    if len(shape) != 3 or 0 in shape:
        raise archive.error(member.key, "three axes, (frames, N, N) or (N, N, frames)", f"shape {shape}")
    first, last = shape[1] == shape[2], shape[0] == shape[1]
    if first and (not last or shape[0] == count or shape[2] != count):
        axis = 0
    elif last:
        axis = 2
    else:
        raise archive.error(member.key, "square frames, (frames, N, N) or (N, N, frames)", f"shape {shape}")
    if shape[axis] != count:
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


def probe_modes(path: str, key: str, probe: NDArray[Any], size: int | None) -> NDArray[np.complex64]:
    """Any of the probe layouts as (modes, N, N) complex64; ``size`` None accepts any square."""

    def refuse(expected: str, found: str) -> ScanError:
        return ScanError(f"{path}: {key}: expected {expected}, found {found}")

    if probe.dtype.kind not in "cfiu" or probe.size == 0:
        raise refuse("complex numbers", f"{probe.dtype} of shape {probe.shape}")
    found = probe.shape
    if probe.ndim == 4:
        if found[0] > 1:
            logger.info("%s: %s: took the first of %d probe variations", path, key, found[0])
        probe = probe[0]
    if probe.ndim == 2:
        probe = probe[None]
    if probe.ndim != 3:
        raise refuse("two to four axes", f"shape {found}")
    wanted = probe.shape[1] if size is None else size  # an edge whether modes come first or last
    if probe.shape[1:] != (wanted, wanted) and len(found) == 3 and probe.shape[:2] == (wanted, wanted):
        probe = np.moveaxis(probe, -1, 0)
    if probe.shape[1:] != (wanted, wanted):
        raise refuse(
            f"{wanted}x{wanted} pixels as in the frames" if size else "a square probe", f"shape {found}"
        )
    if not np.isfinite(probe).all():
        raise refuse("finite values", f"{int((~np.isfinite(probe)).sum())} pixels of NaN or infinity")
    if not probe.any():
        raise refuse("a probe with power", "zeros only")
    return np.ascontiguousarray(probe, dtype=np.complex64)


def read_probe(path: str | Path, size: int | None = None) -> NDArray[np.complex64]:
    """A probe (modes, N, N) complex64 out of an NPZ file (``probeGuess`` or ``probe``) or an NPY file.

    ``size``: the N it must have. Raises :class:`ScanError` or :class:`ScanNotFoundError`.
    """
    path = Path(path)
    if not path.is_file():
        raise ScanNotFoundError(f"{path}: expected a file with a probe, found none")
    if path.suffix.lower() == ".npy":
        return probe_modes(str(path), "probe", read_npy(path), size)
    with Archive(path) as archive:
        key = next((key for key in _PROBE_KEYS if key in archive), None)
        if key is None:
            raise archive.error(" or ".join(_PROBE_KEYS), "one of them", _listing(archive))
        return probe_modes(str(path), key, archive.read(key), size)


def _listing(archive: Archive) -> str:
    return (
        f"keys {', '.join(printable(key, 40) for key in archive.keys[:12])}" if archive.keys else "no arrays"
    )


def _decide(archive: Archive, key: str, member: Member, whole: bool, wish: str) -> tuple[str, str]:
    """What the frames are, and the sentence on why."""
    if wish != "auto":
        return wish, f"The caller said that {key} holds {wish}."
    if "measurement" in archive and archive.header("measurement").dtype.kind == "U":
        values = archive.read("measurement", limit=1024).ravel()
        said = str(values[0]) if values.size else ""
        if said in ("amplitude", "counts"):
            return said, f"The file says that {key} holds {said}."
    return measurement_of(member.dtype, whole, key)


def measurement_of(dtype: np.dtype[Any], whole: bool, key: str) -> tuple[str, str]:
    """``'counts'`` or ``'amplitude'`` from type and integrality of frames, and the sentence on why."""
    if dtype.kind in "iub":
        return "counts", f"{key} is of integer type {dtype}, so it was taken as counts."
    if whole:
        return "counts", f"{key} is {dtype} but every value is whole, so it was taken as counts."
    return "amplitude", f"{key} is {dtype} with values that are not whole, so it was taken as amplitude."


def all_whole(frames: NDArray[Any]) -> bool:
    """Whether every value is a whole number."""
    return all(np.array_equal(frame, np.rint(frame)) for frame in frames)


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


def _good_pixels(archive: Archive, size: int) -> NDArray[np.bool_] | None:
    if "bad_pixels" not in archive:
        return None
    member = archive.header("bad_pixels")
    if member.shape != (size, size) or member.dtype.kind not in "biuf":
        raise archive.error(
            "bad_pixels", f"a mask of shape ({size}, {size})", f"{member.dtype} of {member.shape}"
        )
    good = archive.read("bad_pixels") == 0
    if not good.any():
        raise archive.error("bad_pixels", "at least one good pixel", "none", "nonzero marks a bad pixel")
    return good


def _scan_index(archive: Archive, count: int) -> NDArray[np.int64] | None:
    if "scan_index" not in archive:
        return None
    index = _vector(archive, "scan_index", count)
    if not np.isfinite(index).all() or np.any(index != np.rint(index)):
        raise archive.error("scan_index", "whole numbers", f"{index.dtype} with others")
    return index.astype(np.int64)


@register_format("npz", (".npz",), _sniff, write=write_npz)
def read_npz(path: Path, *, measurement: str, probe: NDArray[Any] | Path | None, require_probe: bool) -> Scan:
    """Read the layout above; arguments and errors as ``open_scan``."""
    digest = file_sha256(path)
    with Archive(path) as archive:
        key = next((key for key in FRAME_KEYS if key in archive), None)
        missing = [] if key else [" or ".join(FRAME_KEYS)]
        needed = ["xcoords", "ycoords", *(["probeGuess"] if require_probe and probe is None else [])]
        missing += [name for name in needed if name not in archive]
        if missing or key is None:
            advice = "give a probe of your own" if missing == ["probeGuess"] else ""
            raise archive.error(", ".join(missing), "to be in the file", _listing(archive), advice)
        positions = _positions(archive, "xcoords", "ycoords", None)
        count = len(positions)
        member = archive.header(key)
        if member.dtype.kind not in "iufb":
            raise archive.error(key, "real numbers", f"{member.dtype}")
        axis = _axis_of_frames(archive, member, count)
        size = member.shape[1]
        needs = 4 * count * size * size
        if needs > memory_limit():
            raise archive.error(
                key, f"frames that fit into {memory_limit()} bytes of memory", f"{needs} bytes"
            )
        # Small things first: a wrong one is then found before the frames are unpacked.
        start = None
        if "xcoords_start" in archive and "ycoords_start" in archive:
            start = _positions(archive, "xcoords_start", "ycoords_start", count)
        guess: NDArray[np.complex64] | None = None
        if isinstance(probe, Path):
            guess = read_probe(probe, size)
        elif probe is not None:
            guess = probe_modes("probe", "array", np.asarray(probe), size)
        elif "probeGuess" in archive:
            guess = probe_modes(str(path), "probeGuess", archive.read("probeGuess"), size)
        object_guess = _object(archive)
        good, index = _good_pixels(archive, size), _scan_index(archive, count)
        frames = archive.read_float32(key, (0, 1, 2) if axis == 0 else (2, 0, 1))
        if good is not None:
            frames[:, ~good] = 0  # what a bad pixel says is no measurement; often it is NaN or -1
        whole = all_whole(frames)
        kind, why = _decide(archive, key, member, whole, measurement)
    source = ScanSource(str(path), "npz", digest, kind, why)
    scan = Scan(frames, positions, guess, object_guess, start, index, good, source)
    names = {"frames": key, "probe": "probeGuess", "object_guess": "objectGuess"}
    check_content(scan, names)
    if kind == "counts":
        np.sqrt(frames, out=frames)
    known = whole if kind == "counts" else counts_are_integer(frames)
    logger.info("%s: %d frames of %dx%d; %s", path, count, size, size, why)
    return Scan(frames, positions, guess, object_guess, start, index, good, source, counts_known=known)
