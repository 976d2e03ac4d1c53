"""What a reconstruction is compared with, and where that may come from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, ScanError, ScanNotFoundError
from ptycho_torch.files.archive import Archive
from ptycho_torch.files.npy import read_npy
from ptycho_torch.result import Reconstruction, load_reconstruction
from ptycho_torch.scan import open_scan

__all__ = ["Reference", "as_reference", "load_reference"]


@dataclass(frozen=True)
class Reference:
    """A known object.

    ``object``: (H, W) complex64. ``weight``: (H, W) float32, how well each pixel is known. ``origin_xy``:
    scan coordinate (x, y) of pixel [0, 0]. ``placed``: False when the origin is the convention of a scan's
    object, (0, 0), and nothing in the source said so. ``source``: where it is from, for reports.
    ``frame_size``: edge N of the frames that it was made from, where known.
    """

    object: NDArray[np.complex64]
    weight: NDArray[np.float32]
    origin_xy: tuple[float, float] = (0.0, 0.0)
    placed: bool = True
    source: str = "array"
    frame_size: int | None = None


def as_reference(reference: Reference | Reconstruction | NDArray[np.complexfloating]) -> Reference:
    """A :class:`Reference` out of any of these. Raises :class:`DataError` when it is not a 2-D object."""
    if isinstance(reference, Reference):
        return reference
    if isinstance(reference, Reconstruction):
        x, y = (float(v) for v in reference.origin_xy)
        size = reference.probe.shape[-1]
        return Reference(reference.object, reference.weight, (x, y), source="reconstruction", frame_size=size)
    values = np.asarray(reference)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "cfiu":
        raise DataError(
            f"reference: expected an object of shape (H, W), found {values.dtype} of {values.shape}"
        )
    if not np.isfinite(values).all():
        raise DataError("reference: holds NaN or infinity, which cannot be compared")
    return Reference(values.astype(np.complex64), np.ones(values.shape, np.float32), placed=False)


def load_reference(path: str | Path) -> Reference:
    """Reads a reference: a reconstruction NPZ, a scan with an ``objectGuess``, or an array file.

    An array file is an NPY, or an NPZ with one 2-D array, or with one named ``object``. Raises
    :class:`ScanNotFoundError` when there is no such file and :class:`ScanError` when it holds no object.
    """
    path = Path(path)
    if not path.is_file():
        fault = "not a regular file" if path.exists() else "no such file"
        raise ScanNotFoundError(
            f"{path}: {fault}; the reference is a reconstruction, a scan with objectGuess, or an NPY or NPZ file"
        )
    try:
        if path.suffix.lower() == ".npy":
            return _named(as_reference(read_npy(path)), path)
        if path.suffix.lower() == ".npz":
            with Archive(path) as archive:
                keys = set(archive.keys)
                if {"object", "weight", "origin_xy"} <= keys:
                    return _named(as_reference(load_reconstruction(path)), path)
                named = "object" if "object" in keys else archive.keys[0] if len(keys) == 1 else None
                if named is not None:
                    return _named(as_reference(archive.read(named)), path)
        scan = open_scan(path, require_probe=False)
    except (ValueError, EOFError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"{path}: {error}") from error
    if scan.object_guess is None:
        raise ScanError(f"{path}: objectGuess: missing; a scan serves as reference only with one")
    shape = scan.object_guess.shape
    weight = np.ones(shape, np.float32)
    return Reference(scan.object_guess, weight, (0.0, 0.0), source=str(path), frame_size=scan.N)


def _named(reference: Reference, path: Path) -> Reference:
    return dataclasses.replace(reference, source=str(path))
