"""Master files of Dectris Eiger and Pilatus detectors, which link to files with the frames.

``entry/data/data_000001`` and so on, (M, H, W) counts, are links to data files in the same folder; or
``entry/data/data`` is a virtual data set of them. ``entry/instrument/detector``: ``x_pixel_size``,
``y_pixel_size`` and ``detector_distance`` in metres, ``beam_center_x`` and ``beam_center_y`` in pixels,
``detectorSpecific/pixel_mask``, not 0 where a pixel is bad; ``entry/instrument/beam/incident_wavelength``
in angstrom, or ``detectorSpecific/photon_energy`` in eV. There are no positions in them. Source: Dectris,
SIMPLON API reference, and NeXus NXmx.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np

from ptycho_torch.scan.h5frames import H5Frames
from ptycho_torch.scan.hdf5 import H5File, has_members, opened, read_array
from ptycho_torch.scan.intake import Found, Request
from ptycho_torch.scan.optics import PLANCK_LIGHT, Optics
from ptycho_torch.scan.registry import FORMATS, ScanFormat

__all__ = ["Eiger"]

_DATA: Final = "entry/data"
_DETECTOR: Final = "entry/instrument/detector"
_MASK: Final = f"{_DETECTOR}/detectorSpecific/pixel_mask"


@FORMATS.register("eiger")
class Eiger(ScanFormat):
    """The layout above; positions come from a file of their own, links need ``external``."""

    suffixes = (".h5",)

    def recognises(self, path: Path, head: bytes) -> bool:
        return has_members(path, head, f"{_DATA}/data_000001") or has_members(
            path, head, f"{_DATA}/data", _DETECTOR
        )

    def read(self, path: Path, request: Request) -> Found:
        with opened(path, request.external) as file:
            keys = _keys(file)
            found = Found(
                frames=np.zeros(0),
                positions=None,
                names={"frames": keys[0] + " ..." * (len(keys) > 1), "bad_pixels": _MASK},
                optics=_optics(file),
                bad_pixels=read_array(file, _MASK, 2, "iu") if _MASK in file else None,
                says=("counts", "Eiger master files hold counts."),
                centre=_centre(file),
            )
        found.frames = H5Frames(path, tuple(keys), external=request.external)
        return found


def _keys(file: H5File) -> list[str]:
    """The data sets of frames, in order."""
    names = sorted(name for name in file.names(_DATA) if name.startswith("data_") and name[5:].isdigit())
    return [f"{_DATA}/{name}" for name in names] or [f"{_DATA}/data"]


def _number(file: H5File, *keys: str) -> float | None:
    for key in keys:
        if key in file:
            value = read_array(file, key, None, "iuf")
            if value.size and math.isfinite(float(value.flat[0])) and float(value.flat[0]) > 0:
                return float(value.flat[0])
    return None


def _optics(file: H5File) -> Optics | None:
    """Energy, distance and pixel, where the file says all of them."""
    angstrom = _number(file, "entry/instrument/beam/incident_wavelength")
    energy = 1e10 * PLANCK_LIGHT / angstrom if angstrom else None
    energy = energy or _number(file, f"{_DETECTOR}/detectorSpecific/photon_energy")
    distance = _number(file, f"{_DETECTOR}/detector_distance", f"{_DETECTOR}/distance")
    x, y = (_number(file, f"{_DETECTOR}/{axis}_pixel_size") for axis in "xy")
    return Optics(energy, distance, (x, y)) if energy and distance and x and y else None


def _centre(file: H5File) -> tuple[int, int] | None:
    """(row, column) of the beam, where the file says it."""
    x, y = (_number(file, f"{_DETECTOR}/beam_center_{axis}") for axis in "xy")
    return (round(y), round(x)) if x and y else None
