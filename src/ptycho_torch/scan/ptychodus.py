"""ptychodus' assembled diffraction data with a product beside it.

``diffraction.h5`` holds ``patterns`` (M, N, N) counts, ``indexes`` (M,) and ``bad_pixels``; positions, probe and
object are those of ``product.h5`` in the same folder, matched by index. Names as in ``ptychodus.api.io`` 1.7.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, ScanNotFoundError
from ptycho_torch.scan.h5frames import H5Frames
from ptycho_torch.scan.hdf5 import H5File, has_members, opened, read_array
from ptycho_torch.scan.intake import Found, Request
from ptycho_torch.scan.product import Product, read_product
from ptycho_torch.scan.registry import FORMATS, ScanFormat

__all__ = ["PRODUCT_NAME", "Ptychodus", "product_beside"]

logger = logging.getLogger(__name__)

PRODUCT_NAME: Final = "product.h5"


def product_beside(path: str | Path) -> Product:
    """The product that belongs to a diffraction file: ``product.h5`` in its folder."""
    product = Path(path).parent / PRODUCT_NAME
    if not product.is_file():
        raise ScanNotFoundError(
            f"{product}: no such file, and {Path(path).name} has no positions itself; put the product there, or give"
            " --positions-file FILE"
        )
    return read_product(product)


@FORMATS.register("ptychodus")
class Ptychodus(ScanFormat):
    """The layout above. Frames without a position, and positions without a frame, are left out and counted
    in the log.
    """

    suffixes = (".h5", ".hdf5")

    def recognises(self, path: Path, head: bytes) -> bool:
        return has_members(path, head, "patterns", "indexes")

    def read(self, path: Path, request: Request) -> Found:
        with opened(path, request.external) as file:
            count = frame_count(file)
            indexes = read_array(file, "indexes", 1, "iu").astype(np.int64)
            bad = bad_pixels(file)
        if len(indexes) != count:
            raise ScanError(
                f"{path}: indexes: expected {count} values, one for each of patterns, found {len(indexes)}"
            )
        found = Found(np.zeros(0), None, {"frames": "patterns"}, bad_pixels=bad)
        rows = np.arange(count)
        if request.positions is None or (path.parent / PRODUCT_NAME).is_file():
            product = product_beside(path)
            found.geometry = product.geometry
            if product.probe.size and np.any(product.probe):
                found.probe = product.probe[0]
            if request.positions is None:
                rows, places = _matched(path, indexes, product)
                found.positions = product.positions_px[places]
                found.object_guess = product.object[0] if product.object.size else None
        found.frames = H5Frames(path, "patterns", rows, external=request.external)
        return found


def _matched(
    path: Path, indexes: NDArray[np.int64], product: Product
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the frames and of the positions that belong together."""
    common, rows, places = np.intersect1d(indexes, product.indexes, return_indices=True)
    if not len(common):
        raise ScanError(f"{path}: indexes: {PRODUCT_NAME} has positions for none of them")
    if len(common) < max(len(indexes), len(product.indexes)):
        logger.info("%s: %d of %d frames have a position", path, len(common), len(indexes))
    return rows.astype(np.int64), places.astype(np.int64)


def frame_count(file: H5File) -> int:
    """Number of frames in ``patterns``, whose type and axes are checked."""
    patterns = file["patterns"]
    if not isinstance(patterns, h5py.Dataset):
        raise ScanError(f"{file.path}: patterns: expected a dataset, found a group")
    shape: Any = tuple(patterns.shape)
    if len(shape) != 3 or patterns.dtype.kind not in "iuf":
        raise ScanError(
            f"{file.path}: patterns: expected real numbers (M, N, N), found {patterns.dtype} {shape}"
        )
    return int(shape[0])


def bad_pixels(file: H5File) -> NDArray[np.bool_] | None:
    """``bad_pixels`` (N, N), where the file has them."""
    return read_array(file, "bad_pixels", 2).astype(bool) if "bad_pixels" in file else None
