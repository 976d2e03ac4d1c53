"""From frames in an HDF5 file, positions and a probe to a checked scan; shared by the formats."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.files.memory import memory_limit
from ptycho_torch.scan.hdf5 import H5Frames, opened
from ptycho_torch.scan.npz import measurement_of, probe_modes, read_probe
from ptycho_torch.scan.registry import file_sha256
from ptycho_torch.scan.scan import Geometry, Scan, ScanSource, check_content, counts_are_integer

__all__ = ["build_scan", "metres_to_pixels", "object_pixel"]

logger = logging.getLogger(__name__)

_SHARE = 8
"""Frames that need no more than this part of the memory there is are read at once."""
PLANCK_LIGHT = 1.23984198e-6
"""Planck's constant times the speed of light, eV m (CODATA 2018)."""


def object_pixel(energy_ev: float, distance_m: float, pixel_m: Any, size: int) -> NDArray[np.float64]:
    """Edges (x, y) of an object pixel in metres: wavelength x distance / (N x detector pixel), far field."""
    return PLANCK_LIGHT / energy_ev * distance_m / (size * np.asarray(pixel_m, dtype=np.float64))


def metres_to_pixels(
    positions_m: NDArray[Any], energy_ev: float, distance_m: float, detector_pixel_m: Any, size: int
) -> tuple[NDArray[np.float64], Geometry]:
    """Positions (M, 2) = (x, y) in object pixels, the outermost ones N/2 from the first pixel, and the geometry."""
    pixel = object_pixel(energy_ev, distance_m, detector_pixel_m, size)
    metres = np.asarray(positions_m, dtype=np.float64)
    origin = metres.min(0) - (size // 2) * pixel
    geometry = Geometry(
        energy_ev, distance_m, (float(pixel[0]), float(pixel[1])), (float(origin[0]), float(origin[1]))
    )
    return (metres - origin) / pixel, geometry


def build_scan(
    path: Path,
    name: str,
    keys: tuple[str, ...],
    which: NDArray[np.int64],
    positions: NDArray[np.float64],
    guess: NDArray[Any] | None,
    obj: NDArray[Any] | None,
    bad: NDArray[np.bool_] | None,
    measurement: str,
    probe: NDArray[Any] | Path | None,
    require_probe: bool,
    geometry: Geometry | None = None,
    default: tuple[str, str] | None = None,
) -> Scan:
    """A scan whose frames stay in the file. ``guess``, ``obj``: the file's own; ``probe``: the caller's; ``default``:
    what a format always stores, and why, for ``auto``.

    Raises :class:`~ptycho_torch.errors.ScanError` naming the member that does not fit.
    """
    shown = keys[0] if len(keys) == 1 else f"{keys[0]} ..."
    with opened(path) as file:
        size, dtype = int(file[keys[0]].shape[-1]), file[keys[0]].dtype
    if bad is not None and bad.shape != (size, size):
        raise ScanError(f"{path}: bad_pixels: expected shape {(size, size)}, found {bad.shape}")
    good = None if bad is None or not bad.any() else ~bad
    if isinstance(probe, Path):
        modes: NDArray[np.complex64] | None = read_probe(probe, size)
    elif probe is not None or guess is not None:
        modes = probe_modes(str(path), "probe", np.asarray(guess if probe is None else probe), size)
    elif require_probe:
        raise ScanError(f"{path}: probe: expected one, found none; give a probe of your own")
    else:
        modes = None
    frames = H5Frames(path, keys, which, size, good)
    whole = dtype.kind in "iub" or frames.all_whole()
    kind, why = measurement, f"The caller said that {shown} holds {measurement}."
    if measurement == "auto":
        kind, why = default or measurement_of(dtype, whole, shown)
    guess_object = None if obj is None or not np.any(obj) else obj.astype(np.complex64)
    source = ScanSource(str(path), name, file_sha256(path), kind, why)
    scan = Scan(frames, positions, modes, guess_object, good_pixels=good, source=source)
    check_content(scan, {"frames": shown})
    frames = frames.as_counts() if kind == "counts" else frames
    if 4 * frames.shape[0] * size * size <= memory_limit() // _SHARE:
        scan_frames: Any = frames[:]  # training and refinement draw frames at random, again and again
    else:
        scan_frames = frames
        logger.info("%s: the frames stay in the file; copy them to a fast disk if reading is slow", path)
    known = whole if kind == "counts" else counts_are_integer(scan_frames)
    logger.info("%s: %d frames of %dx%d; %s", path, len(which), size, size, why)
    return Scan(scan_frames, positions, modes, guess_object, None, None, good, source, known, geometry)
