"""Where solvers begin and end: a reconstruction's object on a solver's canvas, and back."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_torch._version import __version__
from ptycho_torch.errors import DataError
from ptycho_torch.physics.gauges import level
from ptycho_torch.physics.regions import Placement, place
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers.measured import Measured
from ptycho_torch.solvers.windows import Windows

__all__ = ["Problem", "flat_start", "in_one_unit", "object_on", "problem_of", "provenance_of"]


@dataclass(frozen=True)
class Problem:
    """A scan and a start in one unit, in which frames have a mean power of (N/2)^2.

    Attributes
    ----------
    frames : Measured
    probe : (modes, N, N) complex64 array
    object : (H, W) complex64 array
        On the canvas of ``placed``.
    placed : Placement
    start : Reconstruction
    scale : float
        Amplitude of the scan's frames over that of normalised ones.
    """

    frames: Measured
    probe: NDArray[np.complex64]
    object: NDArray[np.complex64]
    placed: Placement
    start: Reconstruction
    scale: float

    def result(
        self, obj: NDArray[Any], probe: NDArray[Any], positions: NDArray[np.float64], **fields: Any
    ) -> Reconstruction:
        """Return the start with an object (H, W) on the problem's canvas, a probe in its unit, and ``fields``."""
        start = self.start
        mine, theirs = _meeting(start, self.placed)
        whole = start.object.copy()
        whole[theirs] = np.where(start.weight[theirs] > 0, obj[mine], 0)
        waves = (probe * self.scale).astype(np.complex64)
        scale = self.scale
        return replace(start, object=whole, probe=waves, positions=positions, intensity_scale=scale, **fields)


def problem_of(
    scan: Scan, start: Reconstruction, reach: int = 0, device: str | torch.device = "cpu"
) -> Problem:
    """Return what a solver works on.

    Parameters
    ----------
    scan : Scan
    start : Reconstruction
    reach : int
        Pixels that the canvas extends further on every side.
    device : str or torch.device

    Raises
    ------
    DataError
        When the scan is not the one that was reconstructed.
    """
    frames, probe, scale = in_one_unit(scan, start, device)
    placed = place(start.positions, scan.N, reach)
    return Problem(frames, probe, object_on(start, placed), placed, start, scale)


def in_one_unit(
    scan: Scan, rec: Reconstruction, device: str | torch.device = "cpu"
) -> tuple[Measured, NDArray[np.complex64], float]:
    """Return frames and probe in the unit of :class:`Problem`, and its ``scale``; raises as :func:`problem_of`."""
    scan.require_one_run()
    size = rec.probe.shape[-1]
    if size != scan.N or len(rec.positions) != scan.n_frames:
        raise DataError(
            f"scan: expected the {len(rec.positions)} frames of {size} pixels that were reconstructed, "
            f"found {scan.n_frames} of {scan.N}"
        )
    factor = scan.normalisation
    probe = (rec.probe / rec.intensity_scale).astype(np.complex64)
    return Measured(scan.frames, factor, scan.good_pixels, device), probe, 1 / factor


def object_on(rec: Reconstruction, placed: Placement) -> NDArray[np.complex64]:
    """Return the object on another canvas; its mean amplitude where it has no weight."""
    flat = np.complex64(level(rec.object, rec.weight))
    found = np.full(placed.shape, flat, dtype=np.complex64)
    mine, theirs = _meeting(rec, placed)
    known = rec.weight[theirs] > 1e-3 * rec.weight.max()
    found[mine] = np.where(known, rec.object[theirs], flat)
    return found


def _meeting(rec: Reconstruction, placed: Placement) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns that a canvas shares with a reconstruction: its own, and the reconstruction's."""
    mine, theirs = [], []
    for axis in (0, 1):
        offset = int(np.rint(rec.origin_xy - placed.origin_xy)[1 - axis])
        low, high = max(0, offset), min(placed.shape[axis], offset + rec.object.shape[axis])
        mine.append(slice(low, high))
        theirs.append(slice(low - offset, high - offset))
    return (mine[0], mine[1]), (theirs[0], theirs[1])


def flat_start(scan: Scan) -> Reconstruction:
    """Return the reconstruction before anything was solved: a flat object under the scan's probe guess.

    Parameters
    ----------
    scan : Scan
        With a probe; its power is set to that of the frames.

    Raises
    ------
    DataError
        When the scan has no probe.
    """
    if scan.probe is None:
        raise DataError("probe: the scan has no probe guess to start from; give one")
    scan.require_one_run()
    placed = place(scan.positions, scan.N)
    probe = normalise_probe(scan.probe)
    scale = 1 / scan.normalisation
    power = torch.from_numpy(np.square(np.abs(probe)).sum(0))
    weight = torch.zeros(placed.shape)
    windows = Windows(placed.corners.numpy(), scan.N, placed.shape[1], torch.device("cpu"))
    windows.add(weight, power.expand(scan.n_frames, -1, -1))
    return Reconstruction(
        (weight > 0).numpy(),
        weight.numpy(),
        placed.origin_xy,
        scan.positions,
        (probe * scale).astype(np.complex64),
        intensity_scale=scale,
        provenance=provenance_of(scan),
    )


def provenance_of(scan: Scan, **more: Any) -> dict[str, Any]:
    """Return what a result was made from: the scan's file and hash, versions, and ``more``."""
    source = scan.source
    file = {} if source is None else {"name": Path(source.path).name, "sha256": source.sha256}
    versions = {
        "ptychopinn": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return {"scan": {**file, "frames": scan.n_frames, "N": scan.N}, "versions": versions, **more}
