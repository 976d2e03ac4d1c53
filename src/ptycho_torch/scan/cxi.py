"""CXI files (Coherent X-ray Imaging Data Bank, version 1.6), and with them NeXus NXcxi_ptycho, which shares
their names.

Read: ``entry_1/data_1/data`` or ``entry_1/instrument_1/detector_1/data`` (M, N, N), or (rows, columns, N,
N) of a raster; ``entry_1/sample_1/geometry_1/translation`` or ``entry_1/data_1/translation`` (M, 2 or 3)
metres; energy in joules, distance and detector pixels in metres; ``mask``, not 0 where a pixel is bad;
``illumination`` or ``image_1/data``, the probe.

``translation`` is that of the sample in the laboratory: z along the beam, y up, x to the left of someone
who looks along the beam. Rows of a detector go down and its columns to the right, so on the object's array
the illumination sits at +x, +y of what is stored. Where a file says the detector's ``basis_vectors``,
directions follow from them (that is how cdtools reads its files). ptychodus writes positions on the array
itself. ``cxi-turned`` is for files that hold the negative of all this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.files import atomic_path
from ptycho_torch.scan.h5frames import H5Frames
from ptycho_torch.scan.hdf5 import H5File, has_members, opened, read_array
from ptycho_torch.scan.intake import Found, Request
from ptycho_torch.scan.optics import Optics, object_pixel
from ptycho_torch.scan.registry import FORMATS, ScanFormat
from ptycho_torch.scan.scan import Scan

__all__ = ["Cxi"]

_EV: Final = 1.602176634e-19
_DATA: Final = ("entry_1/data_1/data", "entry_1/instrument_1/detector_1/data")
_PLACES: Final = (
    "entry_1/sample_1/geometry_1/translation",
    "entry_1/data_1/translation",
    "entry_1/sample_1/transformations/translation",
)
_PROBE: Final = ("entry_1/instrument_1/source_1/illumination", "entry_1/image_1/data")
_DETECTOR: Final = "entry_1/instrument_1/detector_1"
_ENERGY: Final = (
    "entry_1/instrument_1/source_1/energy",
    "entry_1/instrument_1/beam_1/incident_beam_energy",
    "entry_1/instrument_1/beam_1/energy",
)


def _first(file: H5File, names: tuple[str, ...], what: str, more: str = "") -> str:
    for name in names:
        if file.is_dataset(name):
            return name
    raise ScanError(f"{file.path}: there is no {what}; CXI files have it at {' or '.join(names)}{more}")


def _scalar(file: H5File, *names: str) -> float:
    key = _first(file, names, names[0].rsplit("/", 1)[-1])
    value = read_array(file, key, None, "iuf")
    if not value.size or not np.isfinite(value).all() or float(value.flat[0]) <= 0:
        raise ScanError(f"{file.path}: {key}: expected a positive number, found {value}")
    return float(value.flat[0])


def _on_array(
    path: Path, moves: NDArray[np.float64], basis: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Positions (M, 2) = (x, y) metres on the array, from translations of the sample (M, 2 or 3)."""
    if basis is None:
        return moves[:, :2]
    size = np.linalg.norm(basis, axis=0)
    if basis.shape != (3, 2) or not (size > 0).all():
        raise ScanError(
            f"{path}: {_DETECTOR}/basis_vectors: expected two vectors, shape (3, 2), found {basis.shape}"
        )
    directions = basis / size  # of rows, of columns
    flat = np.pad(moves, ((0, 0), (0, 3 - moves.shape[1])))
    return -(flat @ directions)[:, ::-1]


def _metres(file: H5File, count: int) -> NDArray[np.float64]:
    """Positions (M, 2) = (x, y) in metres, on the object's array."""
    place = _first(file, _PLACES, "translation", "; --positions-file gives positions from elsewhere")
    moves = read_array(file, place, None, "iuf")
    if moves.ndim < 2 or moves.shape[-1] < 2 or int(np.prod(moves.shape[:-1])) != count:
        raise ScanError(f"{file.path}: {place}: expected shape ({count}, 3), found {moves.shape}")
    basis = None
    if f"{_DETECTOR}/basis_vectors" in file and "entry_1/ptychodus" not in file:
        basis = read_array(file, f"{_DETECTOR}/basis_vectors", 2, "iuf").astype(np.float64)
    return _on_array(file.path, moves.reshape(count, -1).astype(np.float64), basis)


@FORMATS.register("cxi")
class Cxi(ScanFormat):
    """The layout above."""

    suffixes: tuple[str, ...] = (".cxi", ".nxs")
    sign = 1

    def recognises(self, path: Path, head: bytes) -> bool:
        return any(has_members(path, head, key) for key in _DATA)

    def read(self, path: Path, request: Request) -> Found:
        with opened(path, request.external) as file:
            key = _first(file, _DATA, "data")
            data = file[key]
            shape = tuple(data.shape)
            if len(shape) not in (3, 4) or data.dtype.kind not in "iuf":
                raise ScanError(f"{path}: {key}: expected real numbers (M, N, N), found {data.dtype} {shape}")
            count = int(np.prod(shape[:-2]))
            pixels = (
                _scalar(file, f"{_DETECTOR}/x_pixel_size"),
                _scalar(file, f"{_DETECTOR}/y_pixel_size"),
            )
            found = Found(
                frames=np.zeros(0),
                positions=None if request.positions is not None else self.sign * _metres(file, count),
                names={"frames": key, "bad_pixels": f"{_DETECTOR}/mask", "positions": "translation"},
                optics=Optics(_scalar(file, *_ENERGY) / _EV, _scalar(file, f"{_DETECTOR}/distance"), pixels),
                bad_pixels=read_array(file, f"{_DETECTOR}/mask", 2) if f"{_DETECTOR}/mask" in file else None,
            )
            for name in filter(file.is_dataset, _PROBE):
                found.names["probe"], found.probe = name, read_array(file, name)
                break
        if found.probe is not None and found.probe.ndim == 4:
            found.probe = found.probe[0]
        found.frames = H5Frames(path, key, external=request.external)
        return found

    def write(self, scan: Scan, path: Path, *, measurement: str) -> None:
        """Writes frames, translations, probe, mask and geometry; arguments as ``write_scan``.

        Raises :class:`~ptycho_torch.errors.ScanError` for a scan without geometry: CXI is in metres.
        """
        known = scan.geometry
        if known is None or known.energy_ev <= 0 or known.distance_m <= 0:
            raise ScanError(
                f"{path}: CXI is in metres, and this scan in pixels: give scan.geometry photon energy, distance and"
                " pixel size"
            )
        with atomic_path(path) as target, h5py.File(target, "w", locking=False) as file:
            file["cxi_version"] = 160
            detector = file.create_group(_DETECTOR)
            kind = np.uint32 if measurement == "counts" else np.float32
            data = detector.create_dataset("data", (scan.n_frames, scan.N, scan.N), kind)
            for part, frames in scan.frames.chunks():
                data[part] = np.rint(frames**2) if measurement == "counts" else frames
            # The detector's pixel follows from the object's: both are wavelength x distance / (N x the other).
            detector["x_pixel_size"], detector["y_pixel_size"] = object_pixel(
                known.energy_ev, known.distance_m, known.pixel_m, scan.N
            )
            detector["distance"] = known.distance_m
            if scan.good_pixels is not None:
                detector["mask"] = (~scan.good_pixels).astype(np.uint32)
            file["entry_1/instrument_1/source_1/energy"] = known.energy_ev * _EV
            if scan.probe is not None:
                file[_PROBE[0]] = scan.probe
            moves = np.zeros((scan.n_frames, 3))
            moves[:, :2] = known.metres(scan.positions)
            file[_PLACES[0]] = moves
            file.create_group("entry_1/data_1")["data"] = h5py.SoftLink(f"/{_DETECTOR}/data")
            file["entry_1/data_1/translation"] = h5py.SoftLink(f"/{_PLACES[0]}")
