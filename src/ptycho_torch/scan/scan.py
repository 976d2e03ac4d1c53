"""One measurement: frames, positions, probe guess, and where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.picture import gray, html_card, wheel
from ptycho_torch.scan.frames import as_source

__all__ = ["Geometry", "Scan", "ScanSource"]


@dataclass(frozen=True)
class ScanSource:
    """Where a scan came from and how its frames were understood.

    ``path``: file as named by the caller. ``format``: name in the registry, or ``simulation``.
    ``sha256``: of the whole file, hexadecimal, empty for a simulation. ``measurement``: what the
    file stored, ``amplitude`` or ``counts``. ``measurement_why``: one sentence on how that was decided.
    ``runs_why``: one sentence on what ``scan_index`` was taken for, empty where there is none.
    """

    path: str
    format: str
    sha256: str
    measurement: str
    measurement_why: str
    runs_why: str = ""


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

    ``frames``: a :class:`~ptycho_torch.scan.frames.FrameSource` of (M, N, N) float32 amplitudes,
    sqrt(counts), DC at pixel [N//2, N//2]; an array, or anything with ``shape``, ``dtype`` and
    ``__getitem__``, becomes one, not copied. Pixels that are not in ``good_pixels`` read as 0.
    ``positions``: (M, 2) float64, (x, y) in object pixels, x = column; a frame's pixel [N//2, N//2] lies at
    its position. ``probe``: (modes, N, N) complex64 or None. ``object_guess``: (H, W) complex64, pixel [0,
    0] at (0, 0). ``positions_start``: (M, 2) as first read. ``scan_index``: (M,) int64, which run a frame
    is of; runs are separate objects. ``good_pixels``: (N, N) bool, True where the detector can be trusted.
    ``counts_known``: squared frames are whole photon counts. ``geometry``: energy, distance and metres,
    where the file says them.

    Raises :class:`ScanError` when the shapes do not fit each other. Values are checked by
    :func:`~ptycho_torch.scan.check.check_content`, which every reader calls.
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
        frames = as_source(self.frames)
        if self.good_pixels is not None:
            frames = frames.masked(self.good_pixels)
        object.__setattr__(self, "frames", frames)

    def _say(self, key: str, expected: str, found: str) -> str:
        where = self.source.path if self.source else "scan"
        return f"{where}: {key}: expected {expected}, found {found}"

    def _repr_html_(self) -> str:
        """What notebooks show: a few facts, the mean frame, and the first probe mode."""
        chosen = np.unique(np.linspace(0, self.n_frames - 1, min(16, self.n_frames)).astype(int))
        mean = np.square(np.asarray(self.frames[chosen], np.float64)).mean(0)
        images = {"mean frame, logarithm": gray(np.log10(mean + 1e-6 * (mean.max() or 1)))}
        if self.probe is not None:
            images["probe, first mode"] = wheel(self.probe[0])
        rows = {
            "frames": f"{self.n_frames} of {self.N} x {self.N} pixels",
            "frames hold": None if self.source is None else self.source.measurement,
            "photons per frame": self.mean_power if self.counts_known else None,
            "probe modes": self.n_modes,
            "extent (x, y)": "{:.0f} x {:.0f} pixels".format(*(np.ptp(self.positions, axis=0) + self.N)),
            "runs": len(self.runs) or None,
            "file": None if self.source is None else self.source.path,
        }
        return html_card("Scan", rows, images)

    @property
    def photons_per_pixel(self) -> float:
        """Mean count of a frame's pixel; infinity where frames are not counts, so that nobody knows.

        Examples
        --------
        >>> frames = np.full((2, 4, 4), 3.0, np.float32)
        >>> Scan(frames, np.zeros((2, 2)), counts_known=True).photons_per_pixel
        9.0
        >>> Scan(frames, np.zeros((2, 2))).photons_per_pixel
        inf
        """
        return self.mean_power / self.N**2 if self.counts_known else float("inf")

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

    @property
    def mean_power(self) -> float:
        """Mean over frames of the summed squared amplitude, trusted pixels only; measured once.

        Raises :class:`~ptycho_torch.errors.DataError` when there is no signal at all.
        """
        return float(self.frames.mean_power)

    @property
    def normalisation(self) -> float:
        """Factor from amplitudes to normalised ones, whose mean power is (N/2)^2."""
        return float(self.frames.normalisation)

    @property
    def runs(self) -> dict[int, int]:
        """Frames in each run of ``scan_index``, by its number; empty where a scan is one run."""
        if self.scan_index is None:
            return {}
        numbers, counts = np.unique(self.scan_index, return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True)) if len(numbers) > 1 else {}

    def require_one_run(self) -> None:
        """Raise :class:`ScanError` where frames are of several runs, which are separate objects."""
        runs = self.runs
        if runs:
            listed = ", ".join(f"{number} ({count} frames)" for number, count in list(runs.items())[:8])
            raise ScanError(
                self._say(
                    "scan_index",
                    "frames of one object",
                    f"{len(runs)} runs, {listed}{' ...' * (len(runs) > 8)}",
                )
                + "; choose one with --runs K or open_scan(..., run=K); --runs all takes them for one object"
            )

    def select(self, which: Sequence[int] | NDArray[Any] | slice) -> Scan:
        """The scan of some frames, by indices in the order given, by a boolean mask, or by a slice.

        Frames are neither read nor copied, and what was measured of them is kept. Raises :class:`ScanError`
        when nothing is selected, an index is out of range, or a mask has another length.
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
            frames=self.frames.select(index),
            positions=self.positions[index],
            positions_start=None if self.positions_start is None else self.positions_start[index],
            scan_index=None if self.scan_index is None else self.scan_index[index],
        )

    def halves(self) -> tuple[Scan, Scan]:
        """Two disjoint scans, of the even and of the odd frames, for Fourier ring correlation."""
        if self.n_frames < 2:
            raise ScanError(self._say("frames", "at least 2 to make halves", f"{self.n_frames}"))
        return self.select(slice(0, None, 2)), self.select(slice(1, None, 2))
