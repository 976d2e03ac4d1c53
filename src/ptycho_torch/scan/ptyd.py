"""ptypy's ``.ptyd`` files: chunks of frames with positions, as its documentation lays them out.

``chunks/<k>/data`` (M, N, N) intensities, ``positions`` (M, 2) = (y, x) metres, ``weights`` like the data or empty, 0 where a
pixel is bad; ``meta/`` or ``info/``: ``energy`` keV, ``distance`` and ``psize`` metres, ``weight2d``. They hold no probe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.scan.build import build_scan, metres_to_pixels
from ptycho_torch.scan.hdf5 import has_members, opened, read_array
from ptycho_torch.scan.registry import register_format
from ptycho_torch.scan.scan import Scan

__all__ = ["read_ptyd"]

_FACTS: Final = ("meta", "info", "common")


def _fact(file: Any, path: Path, name: str) -> NDArray[Any]:
    for group in _FACTS:
        if f"{group}/{name}" in file:
            value = read_array(file, path, f"{group}/{name}", None, "iufb")
            if value.size and np.isfinite(value).all():
                return value
    raise ScanError(f"{path}: meta/{name}: expected numbers, found none")


def _bad(file: Any, path: Path, groups: list[str], size: int) -> NDArray[np.bool_] | None:
    """Pixels that no frame trusts."""
    good = np.zeros((size, size), bool)
    for group in groups:
        weights = file.get(f"{group}/weights")
        if weights is None or not weights.size:
            break
        part = read_array(file, path, f"{group}/weights", None, "iufb")
        good |= (part > 0).reshape(-1, size, size).any(0)
    else:
        return ~good
    for name in ("meta/weight2d", "common/weight2d"):
        if name in file and file[name].shape == (size, size):
            return read_array(file, path, name, 2, "iufb") <= 0
    return None


@register_format("ptyd", (".ptyd",), lambda path, head: has_members(path, head, "chunks"))
def read_ptyd(
    path: Path, *, measurement: str, probe: NDArray[Any] | Path | None, require_probe: bool
) -> Scan:
    """Reads a ``.ptyd`` file; arguments and errors as ``open_scan``. Values are intensities unless said otherwise."""
    with opened(path) as file:
        found = [name for name in file["chunks"] if name.isdigit() and f"chunks/{name}/data" in file]
        groups = [f"chunks/{name}" for name in sorted(found, key=int)]
        if not groups:
            raise ScanError(f"{path}: chunks: expected at least one with data, found none")
        shapes = [tuple(file[f"{group}/data"].shape) for group in groups]
        size = shapes[0][-1]
        for group, shape in zip(groups, shapes, strict=True):
            if len(shape) != 3 or shape[1:] != (size, size) or file[f"{group}/data"].dtype.kind not in "iuf":
                raise ScanError(f"{path}: {group}/data: expected (M, {size}, {size}), found {shape}")
        places = [read_array(file, path, f"{group}/positions", 2, "iuf") for group in groups]
        for group, shape, place in zip(groups, shapes, places, strict=True):
            if place.shape != (shape[0], 2):
                raise ScanError(f"{path}: {group}/positions: expected {(shape[0], 2)}, found {place.shape}")
        energy = 1e3 * float(_fact(file, path, "energy").flat[0])
        distance = float(_fact(file, path, "distance").flat[0])
        edges = np.resize(_fact(file, path, "psize").ravel(), 2)[::-1]  # rows first in the file
        bad = _bad(file, path, groups, size)
    if min(energy, distance, *edges) <= 0:
        raise ScanError(
            f"{path}: meta: expected positive energy, distance and psize, found {energy}, {distance}, {edges}"
        )
    metres = np.concatenate(places)[:, ::-1]
    positions, geometry = metres_to_pixels(metres, energy, distance, edges, size)
    keys = tuple(f"{group}/data" for group in groups)
    default = "counts", "The ptyd format stores intensities, so they were taken as counts."
    return build_scan(
        path, "ptyd", keys, np.arange(len(positions)), positions, None, None, bad, measurement, probe, require_probe, geometry,
        default,
    )  # fmt: skip
