"""What a reconstruction is, and its file. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError, ScanError, ScanNotFoundError
from ptycho_torch.files import atomic_path
from ptycho_torch.files.archive import Archive

__all__ = ["Reconstruction", "load_reconstruction", "save_reconstruction"]

_KEYS = ("object", "weight", "origin_xy", "positions", "probe")


@dataclass
class Reconstruction:
    """A reconstructed object and where it lies.

    ``object``: (H, W) complex64, 0 where nothing was measured. ``weight``: (H, W) float32, the summed
    ``|P|^2`` that reached each pixel. ``origin_xy``: (2,) float64 whole numbers; object pixel [i, j] lies
    at scan coordinate (origin_xy[0] + j, origin_xy[1] + i), and pixel [N//2, N//2] of a frame lies at its
    position. ``positions``: (M, 2) float64, (x, y) in pixels. ``probe``: (modes, N, N) complex64.
    ``info``: plain values on how it was made, as JSON in the file.

    Gauge: one global phase is free, and amplitudes are relative to ``probe``.
    Raises :class:`DataError` when the shapes do not fit each other.
    """

    object: NDArray[np.complex64]
    weight: NDArray[np.float32]
    origin_xy: NDArray[np.float64]
    positions: NDArray[np.float64]
    probe: NDArray[np.complex64]
    info: dict[str, Any] = field(default_factory=dict)

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

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(left, right, bottom, top) of the outer pixel edges in scan coordinates, y downwards."""
        (x, y), (height, width) = self.origin_xy, self.object.shape
        return x - 0.5, x + width - 0.5, y + height - 0.5, y - 0.5

    def measured(self, fraction: float = 0.02) -> NDArray[np.bool_]:
        """(H, W) True where the weight exceeds ``fraction`` of its maximum."""
        return self.weight > fraction * self.weight.max(initial=0)


def save_reconstruction(rec: Reconstruction, path: str | Path) -> Path:
    """Writes an NPZ, whole or not at all, with the fields of :class:`Reconstruction`.

    ``info`` becomes JSON text under ``info``; what JSON does not know is stored as text. Raises
    :class:`~ptycho_torch.errors.OutputError` when it cannot be written.
    """
    path = Path(path)
    arrays: dict[str, Any] = {key: getattr(rec, key) for key in _KEYS}
    arrays["info"] = np.array(json.dumps(rec.info, default=str))
    # Through an open file: numpy would append .npz to a name without it.
    with atomic_path(path) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    return path


def load_reconstruction(path: str | Path) -> Reconstruction:
    """Reads what :func:`save_reconstruction` wrote; ``info`` may be missing. No object arrays are loaded.

    Raises :class:`ScanNotFoundError` when there is no such file and :class:`ScanError`, one line with
    file and key, when it cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise ScanNotFoundError(f"{path}: expected a reconstruction file, found nothing there")
    try:
        with Archive(path) as archive:
            missing = [key for key in _KEYS if key not in archive]
            if missing:
                raise archive.error(", ".join(missing), "to be in a reconstruction file", "no such key")
            fields: dict[str, Any] = {}
            for key in _KEYS:
                kinds = "c" if key in ("object", "probe") else "fiu"
                member = archive.header(key)
                if member.dtype.kind not in kinds:
                    wanted = "complex" if kinds == "c" else "real"
                    raise archive.error(key, f"{wanted} numbers", f"{member.dtype}")
                fields[key] = archive.read(key)
                if not np.isfinite(fields[key]).all():
                    raise archive.error(key, "finite values", "NaN or infinity")
            fields["info"] = _info(archive) if "info" in archive else {}
        return Reconstruction(**fields)
    except DataError as error:
        raise ScanError(f"{path}: {error}") from error
    except OSError as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error


def _info(archive: Archive) -> dict[str, Any]:
    member = archive.header("info")
    if member.dtype.kind != "U" or member.shape != ():
        raise archive.error("info", "JSON text", f"{member.dtype} of shape {member.shape}")
    try:
        info = json.loads(str(archive.read("info")))
    except (json.JSONDecodeError, RecursionError) as error:
        raise archive.error("info", "JSON text", "text that is not JSON") from error
    if not isinstance(info, dict):
        raise archive.error("info", "a JSON object", type(info).__name__)
    return info
