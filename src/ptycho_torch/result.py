"""What a reconstruction is, and its file. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, ScanError, ScanNotFoundError, printable
from ptycho_torch.files import atomic_path
from ptycho_torch.files.archive import Archive
from ptycho_torch.picture import gray, html_card, wheel
from ptycho_torch.scan.hdf5 import opened, read_array

__all__ = ["Reconstruction", "load_reconstruction", "save_reconstruction"]

_ARRAYS = ("object", "weight", "origin_xy", "positions", "probe")
_SIGMAS = ("sigma_amplitude", "sigma_phase")
_NUMBERS = ("intensity_scale", "residual", "residual_withheld", "sweeps", "seconds")
OVERFIT = 2.0
"""Times R of used frames above which R of withheld ones shows overfitting."""
_OLDER = {"sweeps": "refined_sweeps", "residuals": "refined_residuals", "solver": "refined_by"}
"""Fields that files written before them carry under another name in ``info``."""


@dataclass
class Reconstruction:
    """A reconstructed object, where it lies, and how far to trust it.

    Attributes
    ----------
    object : (H, W) complex64 array
        0 where nothing was measured.
    weight : (H, W) float32 array
        The summed ``|P|^2`` that reached each pixel.
    origin_xy : (2,) float64 array
        Whole numbers; object pixel [i, j] lies at scan coordinate (origin_xy[0] + j, origin_xy[1] + i),
        and pixel [N//2, N//2] of a frame lies at its position.
    positions : (M, 2) float64 array
        (x, y) in pixels.
    probe : (modes, N, N) complex64 array
    info : dict
        Further plain values to be read by people; nothing is computed from them.
    intensity_scale : float
        The probe's unit: ``probe / intensity_scale`` explains frames whose mean power is (N/2)^2.
    residual : float, optional
        ``R = sum (|F(P o)| - A)^2 / sum A^2`` of frames that were used.
    residual_withheld : float, optional
        R of frames that were kept from the solver.
    residuals : tuple of float
        R of each sweep, measured while it ran.
    sweeps : int
        Times that a solver used all frames; 0 for the network alone.
    solver : str
        Name of the last solver; empty for a start that nothing was solved from.
    seconds : float
        Time that it took, without reading the scan.
    provenance : dict
        Plain values on what it was made from: scan, model, versions, seed.
    sigma_amplitude, sigma_phase : (H, W) float32 array, optional
        Error bars: nine of ten errors lie within 1.645 sigma; phase in radians. NaN where nothing was measured.

    Raises
    ------
    DataError
        When the shapes do not fit each other.

    Notes
    -----
    Gauge: one global phase is free, and amplitudes are relative to ``probe``.

    Examples
    --------
    >>> flat = np.ones((8, 12))
    >>> rec = Reconstruction(flat, flat, np.zeros(2), np.array([[4, 4], [8, 4]]), np.ones((1, 8, 8)))
    >>> rec.extent, rec.sweeps, rec.residual
    ((-0.5, 11.5, 7.5, -0.5), 0, None)
    """

    object: NDArray[np.complex64]
    weight: NDArray[np.float32]
    origin_xy: NDArray[np.float64]
    positions: NDArray[np.float64]
    probe: NDArray[np.complex64]
    info: dict[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    intensity_scale: float = 1.0
    residual: float | None = None
    residual_withheld: float | None = None
    residuals: tuple[float, ...] = ()
    sweeps: int = 0
    solver: str = ""
    seconds: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)
    sigma_amplitude: NDArray[np.float32] | None = None
    sigma_phase: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        self.object = np.ascontiguousarray(self.object, dtype=np.complex64)
        self.weight = np.ascontiguousarray(self.weight, dtype=np.float32)
        self.origin_xy = np.asarray(self.origin_xy, dtype=np.float64)
        self.positions = np.asarray(self.positions, dtype=np.float64)
        self.probe = np.ascontiguousarray(self.probe, dtype=np.complex64)
        if self.object.ndim != 2:
            raise DataError(f"object: expected two axes (H, W), found shape {self.object.shape}")
        if self.weight.shape != self.object.shape:
            raise DataError(
                f"weight: expected the object's shape {self.object.shape}, found {self.weight.shape}"
            )
        if self.origin_xy.shape != (2,) or not np.isfinite(self.origin_xy).all():
            raise DataError(f"origin_xy: expected two numbers (x, y), found {self.origin_xy}")
        if self.positions.ndim != 2 or self.positions.shape[1] != 2:
            raise DataError(f"positions: expected shape (M, 2), found {self.positions.shape}")
        if self.probe.ndim != 3:
            raise DataError(f"probe: expected shape (modes, N, N), found {self.probe.shape}")
        if not (np.isfinite(self.intensity_scale) and self.intensity_scale > 0):
            raise DataError(
                f"intensity_scale: expected a finite number above 0, found {self.intensity_scale}"
            )
        self.residuals = tuple(float(r) for r in self.residuals)
        for name in _SIGMAS:
            sigma = getattr(self, name)
            if sigma is None:
                continue
            sigma = np.ascontiguousarray(sigma, dtype=np.float32)
            if sigma.shape != self.object.shape or (sigma < 0).any():
                raise DataError(
                    f"{name}: expected values of at least 0 in the object's shape {self.object.shape}, found shape "
                    f"{sigma.shape}, least value {np.nanmin(sigma, initial=np.inf):g}"
                )
            setattr(self, name, sigma)

    def _repr_html_(self) -> str:
        """What notebooks show: a few facts, amplitude and phase where it was measured, and the probe."""
        known = self.measured()
        rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size else np.s_[:, :]
        mean = np.sum(self.object * self.weight)
        phase = np.angle(self.object * np.conj(mean))
        images = {
            "amplitude": gray(np.where(known, np.abs(self.object), np.nan)[part]) if rows.size else None,
            "phase": gray(np.where(known, phase, np.nan)[part]) if rows.size else None,
            "probe, first mode": wheel(self.probe[0]),
        }
        facts = {
            "object": f"{self.object.shape[1]} x {self.object.shape[0]} pixels",
            "frames": len(self.positions),
            "solver": self.solver or None,
            "sweeps": self.sweeps or None,
            "residual R": self.residual,
            "R of withheld frames": self.residual_withheld,
            "seconds": self.seconds or None,
        }
        return html_card("Reconstruction", facts, {k: v for k, v in images.items() if v is not None})

    def facts(self) -> dict[str, Any]:
        """Return everything but the arrays as plain values, ``info`` among them, for tables and JSON."""
        known = {
            "frames": len(self.positions),
            **{key: getattr(self, key) for key in (*_NUMBERS, "solver", "overfits")},
            "residuals": list(self.residuals),
            "provenance": self.provenance,
        }
        return {**self.info, **{key: value for key, value in known.items() if value is not None}}

    @property
    def overfits(self) -> bool | None:
        """Whether R of withheld frames is over twice that of used ones; None where either is unknown.

        Then the image has explained what is in its own frames only, such as their noise.

        Examples
        --------
        >>> one = np.ones((1, 4, 4), np.complex64)
        >>> parts = one[0], one[0].real, np.zeros(2), np.zeros((1, 2)), one
        >>> Reconstruction(*parts, residual=0.01, residual_withheld=0.03).overfits, Reconstruction(*parts).overfits
        (True, None)
        """
        if self.residual is None or self.residual_withheld is None:
            return None
        return self.residual_withheld > OVERFIT * self.residual

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(left, right, bottom, top) of the outer pixel edges in scan coordinates, y downwards."""
        (x, y), (height, width) = self.origin_xy, self.object.shape
        return float(x - 0.5), float(x + width - 0.5), float(y + height - 0.5), float(y - 0.5)

    def measured(self, fraction: float = 0.02) -> NDArray[np.bool_]:
        """(H, W) True where the weight exceeds ``fraction`` of its maximum."""
        return self.weight > fraction * self.weight.max(initial=0)


def save_reconstruction(rec: Reconstruction, path: str | Path) -> Path:
    """Write an NPZ, whole or not at all, with the fields of :class:`Reconstruction`.

    Fields that are None are left out. ``provenance`` and ``info`` become JSON text; what JSON does not
    know is stored as text.

    Parameters
    ----------
    rec : Reconstruction
    path : str or Path
        Taken as it is; no suffix is added.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        When it cannot be written.

    Examples
    --------
    >>> rec = Reconstruction(
    ...     np.ones((4, 4), np.complex64), np.ones((4, 4), np.float32), np.zeros(2), np.zeros((1, 2)),
    ...     np.ones((1, 2, 2), np.complex64), residual=0.01,
    ... )
    >>> save_reconstruction(rec, "image.npz").name
    'image.npz'
    """
    path = Path(path)
    arrays: dict[str, Any] = {key: getattr(rec, key) for key in (*_ARRAYS, *_SIGMAS, *_NUMBERS)}
    arrays = {key: value for key, value in arrays.items() if value is not None}
    arrays["residuals"] = np.array(rec.residuals, dtype=np.float64)
    arrays["solver"] = np.array(rec.solver)
    for key in ("provenance", "info"):
        arrays[key] = np.array(json.dumps(getattr(rec, key), default=str))
    # Through an open file: numpy would append .npz to a name without it.
    with atomic_path(path) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    return path


def load_reconstruction(path: str | Path) -> Reconstruction:
    """Read what :func:`save_reconstruction` wrote, also before it had all of today's fields.

    Only the arrays must be there. No object arrays are loaded. An HDF5 file with the same fields, which
    reconstruction in pieces writes for a large canvas, is read, too, where it fits into memory.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Reconstruction

    Raises
    ------
    ScanNotFoundError
        When there is no such file.
    ScanError
        One line with file and key, when it cannot be used.

    Examples
    --------
    >>> rec = Reconstruction(
    ...     np.ones((4, 4), np.complex64), np.ones((4, 4), np.float32), np.zeros(2), np.zeros((1, 2)),
    ...     np.ones((1, 2, 2), np.complex64), residual=0.01,
    ... )
    >>> load_reconstruction(save_reconstruction(rec, "image.npz")).residual
    0.01
    """
    path = Path(path)
    if not path.is_file():
        raise ScanNotFoundError(f"{path}: no such file; give the reconstruction.npz of a reconstruction")
    try:
        if h5py.is_hdf5(path):
            return Reconstruction(**_of_hdf5(path))
        with Archive(path) as archive:
            fields = _fields(archive)
        return Reconstruction(**fields)
    except ScanError:
        raise
    except DataError as error:
        raise ScanError(f"{path}: {error}") from error
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error


def _of_hdf5(path: Path) -> dict[str, Any]:
    """The fields of a file in HDF5, which may be a stranger's: nothing outside it is read."""
    fields: dict[str, Any] = {}
    with opened(path) as file:
        for key in (*_ARRAYS, "residuals"):
            fields[key] = read_array(file, key, kinds="c" if key in ("object", "probe") else "fiu")
            if not np.isfinite(fields[key]).all():
                raise DataError(f"{key}: holds NaN or infinity")
        fields["residuals"] = tuple(fields["residuals"].astype(np.float64).ravel().tolist())
        attributes = file["/"].attrs
        for key in (*_NUMBERS, "solver", "info", "provenance"):
            if key in attributes:
                fields[key] = _attribute(key, attributes[key])
    return fields


def _attribute(key: str, value: Any) -> Any:
    if key in _NUMBERS:
        if not (
            np.ndim(value) == 0
            and getattr(value, "dtype", np.dtype("O")).kind in "fiu"
            and np.isfinite(value)
        ):
            raise DataError(f"{key}: expected a number, found {printable(repr(value), 60)}")
        return int(value) if key == "sweeps" else float(value)
    if not isinstance(value, str):
        raise DataError(f"{key}: expected text, found {printable(repr(value), 60)}")
    if key == "solver":
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}: expected JSON text, found text that is not JSON") from error
    if not isinstance(found, dict):
        raise DataError(f"{key}: expected a JSON object, found {type(found).__name__}")
    return found


def _fields(archive: Archive) -> dict[str, Any]:
    missing = [key for key in _ARRAYS if key not in archive]
    if missing:
        raise archive.error(", ".join(missing), "to be in a reconstruction file", "no such key")
    fields: dict[str, Any] = {}
    for key in _ARRAYS:
        fields[key] = _numbers(archive, key, "c" if key in ("object", "probe") else "fiu")
    for key in _SIGMAS:
        if key in archive:
            fields[key] = _numbers(archive, key, "f", unknown=True)
    for key in _NUMBERS:
        if key in archive:
            value = _numbers(archive, key, "fiu", ())
            fields[key] = int(value) if key == "sweeps" else float(value)
    if "residuals" in archive:
        fields["residuals"] = tuple(_numbers(archive, "residuals", "f").ravel().tolist())
    if "solver" in archive:
        fields["solver"] = _text(archive, "solver", "text")
    for key in ("provenance", "info"):
        fields[key] = _json(archive, key) if key in archive else {}
    return _of_older(fields) if "intensity_scale" not in archive else fields


def _numbers(
    archive: Archive, key: str, kinds: str, shape: tuple[int, ...] | None = None, unknown: bool = False
) -> NDArray[Any]:
    """Values of a key; NaN is refused unless it may stand for what is ``unknown``."""
    member = archive.header(key)
    if member.dtype.kind not in kinds:
        raise archive.error(key, f"{'complex' if kinds == 'c' else 'real'} numbers", f"{member.dtype}")
    if shape is not None and member.shape != shape:
        raise archive.error(key, "one number", f"shape {member.shape}")
    values = archive.read(key)
    if not np.isfinite(values).all() and not (unknown and not np.isinf(values).any()):
        raise archive.error(key, "finite values", "NaN or infinity")
    return values


def _text(archive: Archive, key: str, expected: str) -> str:
    member = archive.header(key)
    if member.dtype.kind != "U" or member.shape != ():
        raise archive.error(key, expected, f"{member.dtype} of shape {member.shape}")
    return str(archive.read(key))


def _json(archive: Archive, key: str) -> dict[str, Any]:
    try:
        found = json.loads(_text(archive, key, "JSON text"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise archive.error(key, "JSON text", "text that is not JSON") from error
    if not isinstance(found, dict):
        raise archive.error(key, "a JSON object", type(found).__name__)
    return found


def _of_older(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that a file keeps in ``info``, as versions before them did, where they have the right type."""
    info, found = fields["info"], {}
    for key in (*_NUMBERS, "residuals", "solver"):
        value = info.get(_OLDER.get(key, key))
        numbers = value if key == "residuals" else [value]
        if key == "solver":
            fits = isinstance(value, str)
        else:
            fits = isinstance(numbers, list) and all(_is_number(v) for v in numbers)
        if fits:
            found[key] = value
    return {**found, **fields}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
