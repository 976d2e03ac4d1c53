"""ptypy's ``.ptyd`` files: chunks of frames with positions, as its documentation lays them out.

``chunks/<k>/data`` (M, N, N) intensities, ``positions`` (M, 2) = (y, x) metres, ``weights`` like the data
or empty, 0 where a pixel is bad; ``meta/`` or ``info/``: ``energy`` keV, ``distance`` and ``psize`` metres,
``weight2d``. They hold no probe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.scan.h5frames import H5Frames
from ptycho_torch.scan.hdf5 import H5File, has_members, opened, read_array
from ptycho_torch.scan.intake import Found, Request
from ptycho_torch.scan.optics import Optics
from ptycho_torch.scan.registry import FORMATS, ScanFormat

__all__ = ["Ptyd"]

_FACTS: Final = ("meta", "info", "common")


def _fact(file: H5File, name: str) -> NDArray[Any]:
    for group in _FACTS:
        if f"{group}/{name}" in file:
            value = read_array(file, f"{group}/{name}", None, "iufb")
            if value.size and np.isfinite(value).all():
                return value
    raise ScanError(f"{file.path}: meta/{name}: missing, or not a number")


def _optics(file: H5File) -> Optics:
    energy = 1e3 * float(_fact(file, "energy").flat[0])
    distance = float(_fact(file, "distance").flat[0])
    x, y = np.resize(_fact(file, "psize").ravel(), 2)[::-1].tolist()  # rows first in the file
    if min(energy, distance, x, y) <= 0:
        raise ScanError(
            f"{file.path}: meta: expected positive energy, distance and psize, found {energy}, {distance}, {x} and {y}"
        )
    return Optics(energy, distance, (x, y))


def _bad(file: H5File, groups: list[str], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Pixels that no frame trusts."""
    good = np.zeros(shape, bool)
    for group in groups:
        weights = file.get(f"{group}/weights")
        if weights is None or not weights.size:
            break
        part = read_array(file, f"{group}/weights", None, "iufb")
        good |= (part > 0).reshape(-1, *shape).any(0)
    else:
        return ~good
    for name in ("meta/weight2d", "common/weight2d"):
        if name in file and file[name].shape == shape:
            return read_array(file, name, 2, "iufb") <= 0
    return None


def _chunks(file: H5File) -> tuple[list[str], tuple[int, ...]]:
    """Groups with frames, and the shape of a frame."""
    numbers = [n for n in file.names("chunks") if n.isdigit() and file.is_dataset(f"chunks/{n}/data")]
    groups = [f"chunks/{n}" for n in sorted(numbers, key=int)]
    if not groups:
        raise ScanError(f"{file.path}: chunks: none of them holds data")
    frame = tuple(file[f"{groups[0]}/data"].shape[1:])
    for group in groups:
        data = file[f"{group}/data"]
        if len(data.shape) != 3 or data.shape[1:] != frame or data.dtype.kind not in "iuf":
            raise ScanError(
                f"{file.path}: {group}/data: expected real numbers (M, {', '.join(map(str, frame))}),"
                f" found {data.dtype} {data.shape}"
            )
    return groups, frame


def _places(file: H5File, groups: list[str]) -> NDArray[np.float64]:
    found = []
    for group in groups:
        place, count = read_array(file, f"{group}/positions", 2, "iuf"), file[f"{group}/data"].shape[0]
        if place.shape != (count, 2):
            raise ScanError(f"{file.path}: {group}/positions: expected {(count, 2)}, found {place.shape}")
        found.append(place)
    return np.concatenate(found)[:, ::-1].astype(np.float64)


@FORMATS.register("ptyd")
class Ptyd(ScanFormat):
    """The layout above; values are intensities unless the caller says otherwise."""

    suffixes = (".ptyd",)

    def recognises(self, path: Path, head: bytes) -> bool:
        return has_members(path, head, "chunks")

    def read(self, path: Path, request: Request) -> Found:
        with opened(path, request.external) as file:
            groups, frame = _chunks(file)
            found = Found(
                frames=np.zeros(0),
                positions=None if request.positions is not None else _places(file, groups),
                names={"frames": f"{groups[0]}/data" + " ..." * (len(groups) > 1)},
                optics=_optics(file),
                bad_pixels=_bad(file, groups, frame),
                says=("counts", "the ptyd format stores intensities, so they were taken as counts."),
            )
        keys = tuple(f"{group}/data" for group in groups)
        found.frames = H5Frames(path, keys, external=request.external)
        return found
