"""``RawData``: a scan under the older program's names, and its groups as channels-last arrays. Imports no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ScanError
from ptycho_torch.scan import Scan, group_neighbours, group_offsets, open_scan
from ptycho_torch.scan.intake import Found, Request, scan_of

__all__ = ["OnCanvas", "RawData"]


class OnCanvas(np.ndarray):
    """An array of positions that remembers the canvas they lie on: ``canvas`` = (H, W), or None."""

    canvas: tuple[int, int] | None = None

    def __array_finalize__(self, source: Any) -> None:
        self.canvas = getattr(source, "canvas", None)


class RawData:
    """One measurement as the older program names its parts; ``scan`` is the same as a :class:`Scan`.

    Parameters
    ----------
    xcoords, ycoords
        (M,) pixels of the object, (0, 0) its first.
    xcoords_start, ycoords_start
        (M,) the same as first read; default: ``xcoords``, ``ycoords``.
    diff3d
        (M, N, N). Whole numbers are taken as counts, others as amplitudes; kept as float32 amplitudes.
    probeGuess
        (N, N) or (modes, N, N) complex, or None.
    scan_index
        (M,) the run of each frame, or None.
    objectGuess
        (H, W) complex, or None.
    Y, norm_Y_I, metadata
        Kept as attributes for the caller; nothing here reads them.

    Raises
    ------
    ScanError
        Naming the array that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> raw = RawData(np.zeros(3), np.arange(3.0), diff3d=np.ones((3, 8, 8)), probeGuess=np.ones((8, 8)))
    >>> raw.scan.positions.shape
    (3, 2)
    """

    def __init__(
        self,
        xcoords: Any,
        ycoords: Any,
        xcoords_start: Any = None,
        ycoords_start: Any = None,
        diff3d: Any = None,
        probeGuess: Any = None,
        scan_index: Any = None,
        objectGuess: Any = None,
        Y: Any = None,
        norm_Y_I: Any = None,
        metadata: Any = None,
    ) -> None:
        start = None if xcoords_start is None and ycoords_start is None else (xcoords_start, ycoords_start)
        positions = _positions(("xcoords", "ycoords"), (xcoords, ycoords))
        self.scan = _scan_of(diff3d, positions, probeGuess, scan_index, objectGuess)
        if start is not None:
            first = _positions(("xcoords_start", "ycoords_start"), start)
            self.scan = dataclasses.replace(self.scan, positions_start=first)
        self.Y, self.norm_Y_I, self.metadata = Y, norm_Y_I, metadata

    @classmethod
    def of(cls, scan: Scan) -> RawData:
        """A :class:`Scan` under the older names; nothing is copied."""
        raw = cls.__new__(cls)
        raw.scan = scan
        raw.Y = raw.norm_Y_I = raw.metadata = None
        return raw

    @classmethod
    def from_coords_without_pc(
        cls,
        xcoords: Any,
        ycoords: Any,
        diff3d: Any,
        probeGuess: Any = None,
        scan_index: Any = None,
        objectGuess: Any = None,
    ) -> RawData:
        """A measurement whose positions were never corrected; arguments as for the class."""
        return cls(
            xcoords,
            ycoords,
            diff3d=diff3d,
            probeGuess=probeGuess,
            scan_index=scan_index,
            objectGuess=objectGuess,
        )

    @classmethod
    def from_file(cls, path: str | Path) -> RawData:
        """A scan from any file that ``open_scan`` reads."""
        return cls.of(open_scan(path, require_probe=False))

    @property
    def xcoords(self) -> NDArray[np.float64]:
        return self.scan.positions[:, 0]

    @property
    def ycoords(self) -> NDArray[np.float64]:
        return self.scan.positions[:, 1]

    @property
    def xcoords_start(self) -> NDArray[np.float64]:
        return self._start[:, 0]

    @property
    def ycoords_start(self) -> NDArray[np.float64]:
        return self._start[:, 1]

    @property
    def _start(self) -> NDArray[np.float64]:
        start = self.scan.positions_start
        return self.scan.positions if start is None else start

    @property
    def diff3d(self) -> Any:
        return np.asarray(self.scan.frames)

    @property
    def probeGuess(self) -> NDArray[np.complex64] | None:
        probe = self.scan.probe
        return probe[0] if probe is not None and len(probe) == 1 else probe

    @property
    def scan_index(self) -> NDArray[np.int64]:
        index = self.scan.scan_index
        return np.zeros(self.scan.n_frames, np.int64) if index is None else index

    @property
    def objectGuess(self) -> NDArray[np.complex64] | None:
        return self.scan.object_guess

    def generate_grouped_data(
        self, N: int, K: int = 7, nsamples: int = 1, gridsize: int = 1, seed: int = 0
    ) -> dict[str, Any]:
        """Groups of ``gridsize**2`` frames out of each other's ``K`` nearest, channels last.

        ``nsamples``: groups in all; 1, the older program's default, means one group for every frame, since
        an image of one patch is nobody's wish. Where K nearest are too few for a group, as many as it
        takes are used. Keys: ``diffraction`` (B, N, N, C) amplitudes, ``X_full`` the same normalised to mean
        power (N/2)^2, ``coords_offsets`` (B, 1, 2, 1) group means, ``coords_relative`` (B, 1, 2, C) mean minus
        member, ``coords_nn`` (B, 1, 2, C) members, ``coords_start_*`` the same as first read,
        ``nn_indices`` (B, C), ``objectGuess``, ``Y`` None. (x, y) pixels.
        """
        scan = self.scan
        if scan.N != N:
            raise ScanError(f"N: expected {scan.N}, the size of the frames, found {N}")
        members = gridsize**2
        groups = group_neighbours(
            scan.positions,
            gridsize,
            neighbor_count=min(max(K, members - 1), max(scan.n_frames - 1, 1)),
            n_groups=None if nsamples == 1 else nsamples,
            seed=seed,
            scan_index=scan.scan_index,
        )
        frames = np.moveaxis(np.asarray(scan.frames[groups.reshape(-1)]).reshape(*groups.shape, N, N), 1, -1)
        canvas = None if scan.object_guess is None else scan.object_guess.shape
        out: dict[str, Any] = {
            "diffraction": frames,
            "X_full": frames * np.float32(scan.normalisation),
            "Y": None,
            "nn_indices": groups,
            "objectGuess": scan.object_guess,
        }
        for name, places in (("coords", scan.positions), ("coords_start", self._start)):
            offsets, centres = group_offsets(places, groups)
            held = centres[:, None, :, None].view(OnCanvas)
            held.canvas = canvas
            out[f"{name}_offsets"] = held
            out[f"{name}_relative"] = -np.moveaxis(offsets, 1, -1)[:, None].astype(np.float64)
            out[f"{name}_nn"] = np.moveaxis(places[groups], 1, -1)[:, None]
        return out


def _positions(names: tuple[str, str], values: tuple[Any, Any]) -> NDArray[np.float64]:
    """(M, 2) of two arrays (M,), named in the error where they do not fit."""
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise ScanError(f"{name}: give an array of positions")
    x, y = (np.asarray(v, dtype=np.float64).reshape(-1) for v in values)
    if len(x) != len(y):
        raise ScanError(f"{names[1]}: expected {len(x)} values, as many as {names[0]}, found {len(y)}")
    return np.stack([x, y], -1)


def _scan_of(diff3d: Any, positions: NDArray[np.float64], probe: Any, scan_index: Any, guess: Any) -> Scan:
    frames = np.asarray(diff3d)
    if frames.ndim != 3 or frames.dtype.kind not in "iufb":
        raise ScanError(f"diff3d: expected real numbers (M, N, N), found {frames.dtype} {frames.shape}")
    found = Found(
        frames,
        positions,
        {"frames": "diff3d", "probe": "probeGuess", "object_guess": "objectGuess"},
        probe=None if probe is None else np.asarray(probe),
        object_guess=None if guess is None else np.asarray(guess),
        scan_index=None if scan_index is None else np.asarray(scan_index).astype(np.int64),
    )
    return scan_of(found, "arrays", "arrays", Request(require_probe=False))
