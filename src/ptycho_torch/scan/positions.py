"""Positions out of a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError, ScanNotFoundError, printable
from ptycho_torch.files.archive import Archive
from ptycho_torch.scan.hdf5 import SIGNATURE, opened, read_array
from ptycho_torch.scan.product import HALF_PIXEL

__all__ = ["read_positions"]

_PAIRS: Final = (
    ("probe_position_x_m", "probe_position_y_m", True, 0.0),
    ("probe_position_x_px", "probe_position_y_px", False, HALF_PIXEL),
    ("xcoords", "ycoords", False, 0.0),
)
"""Names of x and of y, whether they are metres, and what is added to come to our pixels."""
_TRANSLATIONS: Final = ("entry_1/sample_1/geometry_1/translation", "entry_1/data_1/translation")
_MOST_TEXT: Final = 256 << 20


def read_positions(path: str | Path) -> tuple[NDArray[np.float64], bool]:
    """Read positions (M, 2) = (x, y), and whether they are metres; object pixels otherwise.

    Parameters
    ----------
    path
        An NPZ file with ``xcoords`` and ``ycoords`` (pixels); an HDF5 file with ``probe_position_x_m`` and
        ``probe_position_y_m`` or a CXI translation (metres), or ``probe_position_x_px`` and ``..._y_px``; or a text
        file of two columns, separated by commas or blanks, with or without a line of names. Names that
        end in ``_m`` mean metres; lines that begin with ``#`` hold no positions.

    Raises
    ------
    ScanNotFoundError
        When there is not found, or not a regular file.
    ScanError
        When it holds no positions.
    """
    path = Path(path)
    if not path.is_file():
        raise ScanNotFoundError(f"{path}: not found, or not a regular file")
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(SIGNATURE):
        found = _from_hdf5(path)
    elif head.startswith(b"PK"):
        with Archive(path) as archive:
            for key in ("xcoords", "ycoords"):
                if key not in archive:
                    raise archive.error(key, "to be in the file", archive.listing)
            found = _pair(path, archive.read("xcoords"), archive.read("ycoords")), False
    else:
        found = _from_text(path)
    if not len(found[0]):
        raise ScanError(f"{path}: holds no positions")
    return found


def _pair(path: Path, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    if x.dtype.kind not in "iuf" or y.dtype.kind not in "iuf" or x.size != y.size:
        raise ScanError(
            f"{path}: expected as many numbers for x as for y, found {x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)


def _from_hdf5(path: Path) -> tuple[NDArray[np.float64], bool]:
    with opened(path) as file:
        for x, y, metres, shift in _PAIRS:
            if x in file and y in file:
                return _pair(path, read_array(file, x), read_array(file, y)) + shift, metres
        for key in _TRANSLATIONS:
            if key in file:
                moves = read_array(file, key, None, "iuf")
                if moves.ndim < 2 or moves.shape[-1] < 2:
                    raise ScanError(f"{path}: {key}: expected shape (M, 2 or 3), found {moves.shape}")
                return moves.reshape(-1, moves.shape[-1])[:, :2].astype(np.float64), True
        shown = ", ".join(printable(name, 40) for name in file.names()[:12])
    wanted = [pair[0] for pair in _PAIRS] + list(_TRANSLATIONS)
    raise ScanError(f"{path}: expected one of {', '.join(wanted)}, found {shown or 'nothing'}")


def _from_text(path: Path) -> tuple[NDArray[np.float64], bool]:
    if path.stat().st_size > _MOST_TEXT:
        raise ScanError(f"{path}: expected at most {_MOST_TEXT} bytes of text, found {path.stat().st_size}")
    rows, metres = [], False
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        fields = line.lstrip("# ").replace(",", " ").split()
        comment = line.lstrip().startswith("#")
        try:
            if fields and not comment:
                rows.append((float(fields[0]), float(fields[1])))
                continue
        except (ValueError, IndexError):
            if rows or len(fields) < 2:
                raise ScanError(
                    f"{path}: line {number}: expected two numbers, x and y, found {printable(line, 60)!r}"
                ) from None
        if not rows and len(fields) >= 2:
            metres = metres or all(name.lower().endswith("_m") for name in fields[:2])
    return np.array(rows, dtype=np.float64).reshape(-1, 2), metres
