"""The residual: what a reconstruction leaves of its frames unexplained. Measures, and changes nothing.

R = sum_m (|F psi_m| - A_m)^2 / sum_m A_m^2
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ptycho_torch.physics.projection import project
from ptycho_torch.physics.regions import Placement, crop_patches, place, shifted_probes
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers.measured import Measured
from ptycho_torch.solvers.start import in_one_unit, object_on

__all__ = ["misfit_sums", "residual"]

_BATCH: Final = 64


@torch.inference_mode()
def residual(
    rec: Reconstruction,
    scan: Scan,
    which: ArrayLike | None = None,
    *,
    frames: int = 512,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> float:
    """Return R of frames of a scan under the stitched object: 0 is perfect, photon noise sets the floor.

    Parameters
    ----------
    rec : Reconstruction
    scan : Scan
        The one that was reconstructed.
    which : (K,) array of int or (M,) array of bool, optional
        Frames to measure, such as those that a solver did not see.
    frames : int
        Without ``which``: draw so many frames at most.
    seed : int
        Seed of that draw.
    device : str or torch.device

    Raises
    ------
    DataError
        When the scan is not the one that was reconstructed.
    """
    source, waves, _ = in_one_unit(scan, rec, device)
    chosen = _chosen(scan.n_frames, which, frames, seed)
    placed = place(rec.positions[chosen], scan.N)
    canvas = torch.from_numpy(object_on(rec, placed)).to(device)
    error, total = misfit_sums(source, chosen, placed, canvas, torch.from_numpy(waves).to(device))
    return error / total


def misfit_sums(
    source: Measured, chosen: NDArray[np.int64], placed: Placement, canvas: Tensor, probe: Tensor
) -> tuple[float, float]:
    """Return both sums of R.

    Parameters
    ----------
    source : Measured
    chosen : (K,) int64 array
        Frames of ``source``, ascending.
    placed : Placement
        Where they lie on ``canvas`` (H, W).
    canvas : Tensor
    probe : (modes, N, N) complex tensor
    """
    error, total = 0.0, 0.0
    for start in range(0, len(chosen), _BATCH):
        part = slice(start, start + _BATCH)
        measured = source.batch(chosen[part])
        probes = shifted_probes(probe, placed.fractions[part].to(canvas.device))
        here = crop_patches(canvas, placed.corners[part].to(canvas.device), source.size).unsqueeze(1)
        _, misfit = project(here * probes, measured, source.good)
        error += float(misfit.square().sum())
        total += float(measured.square().sum())
    return error, total


def _chosen(count: int, which: ArrayLike | None, most: int, seed: int) -> NDArray[np.int64]:
    everything = np.arange(count)
    if which is not None:
        return np.sort(everything[np.asarray(which)])
    if count <= most:
        return everything
    drawn: NDArray[Any] = np.random.default_rng(seed).choice(count, most, replace=False)
    return np.sort(drawn)
