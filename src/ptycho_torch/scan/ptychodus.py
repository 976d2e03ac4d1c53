"""The HDF5 files of ptychodus: assembled diffraction data with a product beside it, and training data.

``diffraction.h5`` holds ``patterns`` (M, N, N) counts, ``indexes`` (M,) and ``bad_pixels``; positions, probe and
object are those of ``product.h5`` in the same folder, matched by index. A training file holds all of it,
positions in object pixels already. Names as in ``ptychodus.api.io`` 1.7.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.scan.build import build_scan
from ptycho_torch.scan.hdf5 import has_members, opened, read_array
from ptycho_torch.scan.product import HALF_PIXEL, Product, read_product
from ptycho_torch.scan.registry import register_format
from ptycho_torch.scan.scan import Scan

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
        bad = _bad_pixels(file, path)
    positions = np.stack([x, y], -1).astype(np.float64) + HALF_PIXEL
    return build_scan(
        path, "ptychodus-training", ("patterns",), np.arange(shape[0]), positions, guess, obj, bad,
        measurement, probe, require_probe,
    )  # fmt: skip


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
        bad = _bad_pixels(file, path)
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
    return build_scan(
        path, "ptychodus", ("patterns",), rows.astype(np.int64), product.positions_px[places], guess, obj, bad,
        measurement, probe, require_probe, product.geometry,
    )  # fmt: skip


def _frames_shape(file: Any, path: Path) -> tuple[int, int, int]:
    patterns = file["patterns"]
    if not isinstance(patterns, h5py.Dataset):
        raise ScanError(f"{path}: patterns: expected a dataset, found a group")
    shape = tuple(patterns.shape)
    if len(shape) != 3 or shape[1] != shape[2] or patterns.dtype.kind not in "iuf":
        raise ScanError(f"{path}: patterns: expected real numbers (M, N, N), found {patterns.dtype} {shape}")
    return shape  # type: ignore[return-value]


def _bad_pixels(file: Any, path: Path) -> NDArray[np.bool_] | None:
    return read_array(file, path, "bad_pixels", 2).astype(bool) if "bad_pixels" in file else None
