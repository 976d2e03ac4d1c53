"""One measurement: frames, positions, probe guess, and where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError

__all__ = ["Geometry", "Scan", "ScanSource", "check_content", "counts_are_integer"]

_CHUNK = 64


@dataclass(frozen=True)
class ScanSource:
    """Where a scan came from and how its frames were understood.

    ``path``: file as named by the caller. ``format``: name in the registry, or ``simulation``.
    ``sha256``: of the whole file, hexadecimal, empty for a simulation. ``measurement``: what the
    file stored, ``amplitude`` or ``counts``. ``measurement_why``: one sentence on how that was decided.
    """

    path: str
    format: str
    sha256: str
    measurement: str
    measurement_why: str


@dataclass(frozen=True)
class Geometry:
    """What turns object pixels into metres: ``metres = pixels * pixel_m + origin_m``, each (x, y).

    ``energy_ev``: photon energy, eV; ``distance_m``: object to detector.
    """

    energy_ev: float
    distance_m: float
    pixel_m: tuple[float, float]
    origin_m: tuple[float, float] = (0.0, 0.0)

    def metres(self, pixels: NDArray[np.floating]) -> NDArray[np.float64]:
        """Positions (..., 2) = (x, y) in metres."""
        return np.asarray(pixels, dtype=np.float64) * self.pixel_m + self.origin_m


@dataclass(frozen=True)
class Scan:
    """Frames with positions, the probe guess, and what else is known.

    ``frames``: (M, N, N) float32 amplitudes, sqrt(counts), DC at pixel [N//2, N//2]; anything with
    ``shape``, ``dtype`` and ``__getitem__`` will do. ``positions``: (M, 2) float64, (x, y) in object
    pixels, x = column; a frame's pixel [N//2, N//2] lies at its position. ``probe``: (modes, N, N)
    complex64 or None. ``object_guess``: (H, W) complex64, pixel [0, 0] at (0, 0).
    ``positions_start``: (M, 2) as first read. ``scan_index``: (M,) int64, which run a frame is of.
    ``good_pixels``: (N, N) bool, True where the detector can be trusted. ``counts_known``: squared
    frames are whole photon counts. ``geometry``: energy, distance and metres, where the file says them.

    Raises :class:`ScanError` when the shapes do not fit each other. Values are checked by
    :func:`check_content`, which every reader calls.
    """

    frames: Any
    positions: NDArray[np.float64]
    probe: NDArray[np.complex64] | None = None
    object_guess: NDArray[np.complex64] | None = None
    positions_start: NDArray[np.float64] | None = None
    scan_index: NDArray[np.int64] | None = None
    good_pixels: NDArray[np.bool_] | None = None
    source: ScanSource | None = None
    counts_known: bool = False
    geometry: Geometry | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.frames.shape)
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ScanError(self._say("frames", "square frames, shape (M, N, N)", f"{shape}"))
        count, size = shape[0], shape[1]
        if count == 0 or size == 0:
            raise ScanError(self._say("frames", "at least one frame with pixels", f"shape {shape}"))
        expected: list[tuple[str, Any, tuple[int, ...]]] = [
            ("positions", self.positions, (count, 2)),
            ("positions_start", self.positions_start, (count, 2)),
            ("scan_index", self.scan_index, (count,)),
            ("good_pixels", self.good_pixels, (size, size)),
        ]
        for name, value, wanted in expected:
            if value is not None and tuple(value.shape) != wanted:
                raise ScanError(self._say(name, f"shape {wanted}", f"{tuple(value.shape)}"))
        if self.probe is not None and (self.probe.ndim != 3 or self.probe.shape[1:] != (size, size)):
            raise ScanError(self._say("probe", f"shape (modes, {size}, {size})", f"{self.probe.shape}"))
        if self.object_guess is not None and self.object_guess.ndim != 2:
            raise ScanError(self._say("object_guess", "two axes (H, W)", f"shape {self.object_guess.shape}"))

    def _say(self, key: str, expected: str, found: str) -> str:
        where = self.source.path if self.source else "scan"
        return f"{where}: {key}: expected {expected}, found {found}"

    @property
    def N(self) -> int:
        """Edge length of a frame in pixels."""
        return int(self.frames.shape[-1])

    @property
    def n_frames(self) -> int:
        """Number of frames M."""
        return int(self.frames.shape[0])

    @property
    def n_modes(self) -> int:
        """Number of incoherent probe modes; 0 without a probe."""
        return 0 if self.probe is None else int(self.probe.shape[0])

    def select(self, which: Sequence[int] | NDArray[Any] | slice) -> Scan:
        """The scan of some frames, by indices in the order given, by a boolean mask, or by a slice.

        Raises :class:`ScanError` when nothing is selected, an index is out of range, or a mask has
        another length.
        """
        if isinstance(which, slice):
            index = np.arange(self.n_frames)[which]
        else:
            chosen = np.asarray(which)
            if chosen.dtype == bool:
                if chosen.shape != (self.n_frames,):
                    raise ScanError(self._say("mask", f"shape ({self.n_frames},)", f"{chosen.shape}"))
                index = np.flatnonzero(chosen)
            else:
                index = chosen.astype(np.int64)
        if index.size == 0 or index.min() < -self.n_frames or index.max() >= self.n_frames:
            found = "none" if index.size == 0 else f"{index.min()}..{index.max()}"
            raise ScanError(self._say("selection", f"frames from 0 to {self.n_frames - 1}", found))
        return replace(
            self,
            # Frames that lie in a file stay there.
            frames=self.frames.select(index) if hasattr(self.frames, "select") else self.frames[index],
            positions=self.positions[index],
            positions_start=None if self.positions_start is None else self.positions_start[index],
            scan_index=None if self.scan_index is None else self.scan_index[index],
        )

    def halves(self) -> tuple[Scan, Scan]:
        """Two disjoint scans, of the even and of the odd frames, for Fourier ring correlation."""
        if self.n_frames < 2:
            raise ScanError(self._say("frames", "at least 2 to make halves", f"{self.n_frames}"))
        return self.select(slice(0, None, 2)), self.select(slice(1, None, 2))


def check_content(scan: Scan, keys: dict[str, str] | None = None) -> None:
    """Refuse values no reconstruction can use; raises :class:`ScanError` with one line.

    Frames must be finite, not negative and not all zero; positions and probe finite; the probe must
    have power. ``keys`` maps our field names to the names in the file, for the message. Reads frames
    in chunks.
    """
    where = scan.source.path if scan.source else "scan"
    names = keys or {}
    frames_key = names.get("frames", "frames")
    signal = False
    for start in range(0, scan.n_frames, _CHUNK):
        part = np.asarray(scan.frames[start : start + _CHUNK])
        low, high = part.min(axis=(1, 2)), part.max(axis=(1, 2))  # NaN survives min and max
        wrong = ~(np.isfinite(low) & np.isfinite(high)) | (low < 0)
        if wrong.any():
            first = int(np.argmax(wrong))
            bad = part[first][~np.isfinite(part[first]) | (part[first] < 0)]
            raise ScanError(
                f"{where}: {frames_key}: expected finite values of at least 0, found {bad[0]} in frame"
                f" {start + first} ({bad.size} such pixels); mark the pixels in bad_pixels and set them to 0"
            )
        signal = signal or bool((high > 0).any())
    if not signal:
        raise ScanError(
            f"{where}: {frames_key}: expected some signal, found zeros in all {scan.n_frames} frames"
        )
    checks: list[tuple[str, Any]] = [
        ("positions", scan.positions),
        ("positions_start", scan.positions_start),
        ("probe", scan.probe),
        ("object_guess", scan.object_guess),
    ]
    for name, value in checks:
        if value is not None and not np.isfinite(value).all():
            wrong = ~np.isfinite(value)
            if name.startswith("positions"):
                wrong = wrong.any(axis=1)
            place = ", ".join(str(i) for i in np.argwhere(wrong)[0])
            raise ScanError(
                f"{where}: {names.get(name, name)}: expected finite values, found NaN or infinity at"
                f" [{place}] ({int(wrong.sum())} in all)"
            )
    if scan.probe is not None and not np.any(scan.probe):
        raise ScanError(f"{where}: {names.get('probe', 'probe')}: expected a probe with power, found zeros")


def counts_are_integer(frames: Any, limit: float = 1e5) -> bool:
    """Whether squared amplitudes are whole numbers to within float32 rounding.

    Only pixels between 0 and ``limit`` counts decide, since above it float32 cannot tell. False when
    there is no such pixel. ``frames``: (M, N, N) amplitudes, read in chunks.
    """
    seen = False
    for start in range(0, frames.shape[0], _CHUNK):
        counts = np.square(np.asarray(frames[start : start + _CHUNK], dtype=np.float64))
        counts = counts[(counts > 0) & (counts <= limit)]
        if np.any(np.abs(counts - np.rint(counts)) > 4e-7 * counts):
            return False
        seen = seen or counts.size > 0
    return seen
