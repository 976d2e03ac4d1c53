"""The product file of ptychodus: positions, probe, object and where they lie, in metres.

Attribute and dataset names are those of ptychodus 1.7 (``ptychodus.api.io``); ``probe_energy_eV``, the older name of
the photon energy, is read, too. A position in object pixels is ``x_px = (x_m - centre) / pixel + width / 2``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, ScanError, ScanNotFoundError
from ptycho_torch.files import atomic_path
from ptycho_torch.scan.hdf5 import H5File, opened, read_array
from ptycho_torch.scan.scan import Geometry

__all__ = ["HALF_PIXEL", "Product", "read_product", "write_product"]

HALF_PIXEL: Final = 0.5
"""What is added to object pixels as ptychodus counts them. There a position is where the middle of a patch
lies, between its pixels N/2 - 1 and N/2, and an array's centre is pixel (width - 1)/2; here it is where
pixel N/2 lies. Positions in metres need no correction: the same patch covers the same pixels in both."""

_ENERGY: Final = ("photon_energy_eV", "probe_energy_eV")
_NUMBERS: Final = (
    "detector_object_distance_m", "photon_energy_eV", "probe_photon_count", "exposure_time_s",
    "mass_attenuation_m2_per_kg", "tomography_angle_deg", "focus_object_distance_m", "tilt_angle_deg",
)  # fmt: skip
_SIGMAS: Final = ("sigma_amplitude", "sigma_phase")
_NEEDED: Final = ("detector_object_distance_m", "photon_energy_eV")


@dataclass
class Product:
    """Everything in a product file.

    ``positions_m``: (M, 2) = (x, y) metres; ``indexes``: (M,) the frame of each; ``probe``: (OPR modes,
    modes, N, N) complex; ``opr_weights``: (M, OPR modes) or None; ``object``: (layers, H, W) complex;
    ``pixel_m``: (width, height) of an object pixel; ``centre_m``: (x, y) of the object array's centre;
    ``layer_spacing_m``; ``losses``: (K, 2) epoch and value; ``photon_counts``: (M,) or None; ``numbers``:
    further facts by ptychodus' names; ``far_field``, ``polarization``; ``sigma_amplitude``, ``sigma_phase``:
    (H, W) error bars of the object, which ptychodus passes over, or None.
    """

    positions_m: NDArray[np.float64]
    indexes: NDArray[np.int64]
    probe: NDArray[np.complex64]
    object: NDArray[np.complex64]
    pixel_m: tuple[float, float]
    centre_m: tuple[float, float] = (0.0, 0.0)
    probe_pixel_m: tuple[float, float] | None = None
    opr_weights: NDArray[np.float64] | None = None
    layer_spacing_m: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    photon_counts: NDArray[np.float64] | None = None
    name: str = "Unnamed"
    comments: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    far_field: bool = True
    polarization: str | None = None
    sigma_amplitude: NDArray[np.float32] | None = None
    sigma_phase: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.object.ndim != 3 or self.probe.ndim != 4:
            raise DataError(
                "product: expected object (layers, H, W) and probe (OPR, modes, N, N), found"
                f" {self.object.shape} and {self.probe.shape}"
            )
        if self.positions_m.shape != (len(self.indexes), 2):
            raise DataError(
                f"product: expected positions ({len(self.indexes)}, 2), found {self.positions_m.shape}"
            )
        for key in _SIGMAS:
            sigma = getattr(self, key)
            if sigma is not None and np.shape(sigma) != self.object.shape[1:]:
                raise DataError(f"product: {key}: expected {self.object.shape[1:]}, found {np.shape(sigma)}")
        if not all(np.isfinite(v) and v > 0 for v in self.pixel_m):
            raise DataError(f"product: pixel size: expected positive metres, found {self.pixel_m}")

    @property
    def positions_px(self) -> NDArray[np.float64]:
        """(M, 2) = (x, y) in object pixels, (0, 0) at the array's first pixel."""
        height, width = self.object.shape[-2:]
        return (self.positions_m - self.centre_m) / self.pixel_m + np.array([width, height]) / 2

    @property
    def geometry(self) -> Geometry:
        """Metres of object pixels, (0, 0) at the array's first pixel."""
        height, width = self.object.shape[-2:]
        origin = np.asarray(self.centre_m) - np.array([width, height]) / 2 * self.pixel_m
        return Geometry(
            self.numbers.get("photon_energy_eV", 0.0),
            self.numbers.get("detector_object_distance_m", 0.0),
            self.pixel_m,
            (float(origin[0]), float(origin[1])),
        )

    @classmethod
    def of(
        cls,
        obj: Any,
        origin_xy: Any,
        positions: NDArray[np.floating],
        probe: NDArray[np.complexfloating],
        geometry: Geometry,
        name: str = "ptychopinn",
        comments: str = "",
    ) -> Product:
        """An object (H, W) whose pixel [0, 0] lies at ``origin_xy``, with positions (M, 2) in the same pixels.

        The object is an array, or a data set of an open HDF5 file, which is then copied piece by piece.
        """
        size = np.array(obj.shape[::-1])
        centre = geometry.metres(np.asarray(origin_xy) + size / 2)
        layers: Any = obj[None].astype(np.complex64) if isinstance(obj, np.ndarray) else _Layer(obj)
        return cls(
            positions_m=geometry.metres(positions),
            indexes=np.arange(len(positions)),
            probe=probe[None].astype(np.complex64),
            object=layers,
            pixel_m=geometry.pixel_m,
            centre_m=(float(centre[0]), float(centre[1])),
            name=name,
            comments=comments,
            numbers={
                "photon_energy_eV": geometry.energy_ev,
                "detector_object_distance_m": geometry.distance_m,
                "probe_photon_count": float(np.sum(np.abs(probe) ** 2)),
            },
        )


class _Layer:
    """The one layer of an object that stays in its file."""

    def __init__(self, data: Any) -> None:
        self.data, self.shape, self.ndim = data, (1, *data.shape), 3

    def copy_to(self, file: Any, key: str) -> None:
        """Write it as a data set, in chunks."""
        made = file.create_dataset(key, self.shape, np.complex64, chunks=(1, *self.data.chunks))
        step = self.data.chunks[0]
        for row in range(0, self.shape[1], step):
            made[0, row : row + step] = self.data[row : row + step]


def _sigma(file: H5File, key: str) -> NDArray[np.float32] | None:
    return read_array(file, key, 2, "f").astype(np.float32) if key in file else None


def _number(attrs: Any, path: Path, *names: str, default: float | None = None) -> float:
    for name in names:
        if name in attrs:
            try:
                return float(attrs[name])
            except (TypeError, ValueError):
                raise ScanError(f"{path}: {name}: expected a number, found {attrs[name]!r}") from None
    if default is None:
        raise ScanError(f"{path}: {names[0]}: this attribute is missing")
    return default


def _pixel(dataset: Any, path: Path, default: tuple[float, float] | None = None) -> tuple[float, float]:
    w, h = default or (None, None)
    width = _number(dataset.attrs, path, "pixel_width_m", default=w)
    return width, _number(dataset.attrs, path, "pixel_height_m", default=h)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_product(path: str | Path) -> Product:
    """Reads a product file. Raises :class:`~ptycho_torch.errors.ScanError` naming file and member.

    A 2-D object is one layer; a probe (N, N) or (modes, N, N) gets the missing axes in front.
    """
    path = Path(path)
    if not path.is_file():
        raise ScanNotFoundError(f"{path}: no such file")
    with opened(path) as file:
        obj = read_array(file, "object")
        obj = obj[None] if obj.ndim == 2 else obj
        probe = read_array(file, "probe")
        while 2 <= probe.ndim < 4:
            probe = probe[None]
        x, y, indexes = (read_array(file, f"probe_position_{n}", 1, "iuf") for n in ("x_m", "y_m", "indexes"))
        if not len(x) == len(y) == len(indexes):
            raise ScanError(
                f"{path}: probe_position_y_m: expected {len(indexes)} values, as many as indexes, found"
                f" {len(x)} and {len(y)}"
            )
        attrs, pixel = file["/"].attrs, _pixel(file["object"], path)
        numbers = {
            name: _number(
                attrs,
                path,
                *(_ENERGY if name == "photon_energy_eV" else (name,)),
                default=None if name in _NEEDED else 0.0,
            )
            for name in _NUMBERS
        }
        spacing = _maybe(file, "object_layer_spacing_m")
        try:
            return Product(
                np.stack([x, y], -1).astype(np.float64),
                indexes.astype(np.int64),
                probe.astype(np.complex64),
                obj.astype(np.complex64),
                pixel,
                tuple(_number(file["object"].attrs, path, f"center_{a}_m") for a in "xy"),  # type: ignore[arg-type]
                _pixel(file["probe"], path, pixel),
                _maybe(file, "opr_weights"),
                np.zeros(0) if spacing is None else spacing,
                _losses(file),
                _maybe(file, "probe_photon_counts"),
                _text(attrs.get("name", "Unnamed")),
                _text(attrs.get("comments", "")),
                numbers,
                bool(attrs.get("far_field", True)),
                _text(attrs["polarization"]) if "polarization" in attrs else None,
                *(_sigma(file, key) for key in _SIGMAS),
            )
        except DataError as error:
            raise ScanError(f"{path}: {error}") from error


def _maybe(file: H5File, key: str) -> NDArray[np.float64] | None:
    return read_array(file, key).astype(np.float64) if key in file else None


def _losses(file: H5File) -> NDArray[np.float64]:
    """Epoch and loss (K, 2); none where the file has none."""
    if "loss_epochs" not in file or "loss_values" not in file:
        return np.zeros((0, 2))
    parts = [read_array(file, f"loss_{n}", 1) for n in ("epochs", "values")]
    return np.stack(parts, -1).astype(np.float64)


def write_product(product: Product, path: str | Path) -> None:
    """Writes a product file that ptychodus opens, whole or not at all.

    Raises :class:`~ptycho_torch.errors.OutputError` where it cannot be written.
    """
    with atomic_path(path) as part, h5py.File(part, "w", locking=False) as file:
        file.attrs["name"], file.attrs["comments"] = product.name, product.comments
        for name in _NUMBERS:
            file.attrs[name] = float(product.numbers.get(name, 0.0))
        file.attrs["far_field"] = product.far_field
        if product.polarization is not None:
            file.attrs["polarization"] = product.polarization
        file["probe_position_indexes"] = product.indexes
        file["probe_position_x_m"], file["probe_position_y_m"] = product.positions_m.T
        for key, value in (
            ("probe_photon_counts", product.photon_counts),
            ("opr_weights", product.opr_weights),
            *((key, getattr(product, key)) for key in _SIGMAS),
        ):
            if value is not None:
                file[key] = value
        for key, array, pixel in (
            ("probe", product.probe, product.probe_pixel_m or product.pixel_m),
            ("object", product.object, product.pixel_m),
        ):
            if isinstance(array, _Layer):
                array.copy_to(file, key)
            else:
                file[key] = array
            file[key].attrs["pixel_width_m"], file[key].attrs["pixel_height_m"] = pixel
        file["object"].attrs["center_x_m"], file["object"].attrs["center_y_m"] = product.centre_m
        file["object_layer_spacing_m"] = product.layer_spacing_m
        file["loss_epochs"] = product.losses[:, 0].astype(np.int64)
        file["loss_values"] = product.losses[:, 1]
