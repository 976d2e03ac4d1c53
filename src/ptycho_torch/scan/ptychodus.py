"""The HDF5 files of ptychodus: assembled diffraction data with a product beside it, and training data.

``diffraction.h5`` holds ``patterns`` (M, N, N) counts, ``indexes`` (M,) and ``bad_pixels``; positions, probe and
object are those of ``product.h5`` in the same folder, matched by index. A training file holds all of it,
positions in object pixels already. Names as in ``ptychodus.api.io`` 1.7.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.scan.hdf5 import H5Frames, has_members, opened, read_array
from ptycho_torch.scan.npz import measurement_of, probe_modes, read_probe
from ptycho_torch.scan.product import HALF_PIXEL, Product, read_product
from ptycho_torch.scan.registry import file_sha256, register_format
from ptycho_torch.scan.scan import Scan, ScanSource, check_content, counts_are_integer

__all__ = ["PRODUCT_NAME", "product_beside"]

logger = logging.getLogger(__name__)

PRODUCT_NAME = "product.h5"
_TRAINING = ("patterns", "probe_position_x_px", "probe_position_y_px")


def product_beside(path: str | Path) -> Product:
    """The product that belongs to a diffraction file: ``product.h5`` in its folder."""
    return read_product(Path(path).parent / PRODUCT_NAME)


@register_format("ptychodus-training", (".h5", ".hdf5"), lambda p, head: has_members(p, head, *_TRAINING))
def read_training(
    path: Path, *, measurement: str, probe: NDArray[Any] | Path | None, require_probe: bool
) -> Scan:
    """Reads ptychodus' HDF5 training data; arguments and errors as ``open_scan``."""
    with opened(path) as file:
        shape = _frames_shape(file, path)
        x, y = (read_array(file, path, f"probe_position_{a}_px", 1, "iuf") for a in "xy")
        if not len(x) == len(y) == shape[0]:
            raise ScanError(
                f"{path}: probe_position_x_px: expected {shape[0]} values, one for each of patterns, found {len(x)} and {len(y)}"
            )
        guess = read_array(file, path, "probe") if "probe" in file else None
        obj = read_array(file, path, "object") if "object" in file else None
    positions = np.stack([x, y], -1).astype(np.float64) + HALF_PIXEL
    return _scan(
        path,
        np.arange(shape[0]),
        positions,
        guess,
        obj,
        measurement,
        probe,
        require_probe,
        "ptychodus-training",
    )


@register_format("ptychodus", (".h5", ".hdf5"), lambda p, head: has_members(p, head, "patterns", "indexes"))
def read_diffraction(
    path: Path, *, measurement: str, probe: NDArray[Any] | Path | None, require_probe: bool
) -> Scan:
    """Reads ptychodus' ``diffraction.h5`` with the ``product.h5`` beside it; arguments and errors as ``open_scan``.

    Frames without a position, and positions without a frame, are left out and counted in the log.
    """
    product = product_beside(path)
    with opened(path) as file:
        shape = _frames_shape(file, path)
        indexes = read_array(file, path, "indexes", 1, "iu").astype(np.int64)
    if len(indexes) != shape[0]:
        raise ScanError(
            f"{path}: indexes: expected {shape[0]} values, one for each of patterns, found {len(indexes)}"
        )
    common, rows, places = np.intersect1d(indexes, product.indexes, return_indices=True)
    if not len(common):
        raise ScanError(f"{path}: indexes: expected some that {PRODUCT_NAME} has positions for, found none")
    if len(common) < max(len(indexes), len(product.indexes)):
        logger.info("%s: %d of %d frames have a position", path, len(common), len(indexes))
    guess = product.probe[0] if product.probe.size and np.any(product.probe) else None
    obj = product.object[0] if product.object.size else None
    return _scan(
        path, rows.astype(np.int64), product.positions_px[places], guess, obj, measurement, probe, require_probe, "ptychodus"
    )  # fmt: skip


def _frames_shape(file: Any, path: Path) -> tuple[int, int, int]:
    patterns = file["patterns"]
    shape = tuple(patterns.shape)
    if len(shape) != 3 or shape[1] != shape[2] or patterns.dtype.kind not in "iuf":
        raise ScanError(f"{path}: patterns: expected real numbers (M, N, N), found {patterns.dtype} {shape}")
    return shape  # type: ignore[return-value]


def _scan(
    path: Path,
    which: NDArray[np.int64],
    positions: NDArray[np.float64],
    guess: NDArray[Any] | None,
    obj: NDArray[Any] | None,
    measurement: str,
    probe: NDArray[Any] | Path | None,
    require_probe: bool,
    name: str,
) -> Scan:
    with opened(path) as file:
        size, dtype = int(file["patterns"].shape[-1]), file["patterns"].dtype
        bad = read_array(file, path, "bad_pixels", 2).astype(bool) if "bad_pixels" in file else None
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
    frames = H5Frames(path, "patterns", which, size, good)
    whole = dtype.kind in "iub" or frames.all_whole()
    kind, why = measurement, f"The caller said that patterns holds {measurement}."
    if measurement == "auto":
        kind, why = measurement_of(dtype, whole, "patterns")
    guess_object = None if obj is None or not np.any(obj) else obj.astype(np.complex64)
    source = ScanSource(str(path), name, file_sha256(path), kind, why)
    scan = Scan(frames, positions, modes, guess_object, good_pixels=good, source=source)
    check_content(scan, {"frames": "patterns"})
    frames = H5Frames(path, "patterns", which, size, good, counts=kind == "counts")
    known = whole if kind == "counts" else counts_are_integer(frames)
    logger.info("%s: %d frames of %dx%d; %s", path, len(which), size, size, why)
    return Scan(frames, positions, modes, guess_object, None, None, good, source, counts_known=known)
