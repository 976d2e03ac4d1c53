"""The residual: what a reconstruction leaves of its frames unexplained. Measures, and changes nothing.

R = sum_m (|F psi_m| - A_m)^2 / sum_m A_m^2
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlogy
from torch import Tensor

from ptycho_torch.physics.projection import intensity, project
from ptycho_torch.physics.regions import Placement, crop_patches, place, shifted_probes
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers.measured import Measured
from ptycho_torch.solvers.start import in_one_unit, object_on

__all__ = ["misfit_sums", "noise_floor", "residual"]

_BATCH: Final = 64
_RATES: Final = np.geomspace(1e-4, 1e3, 400)


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


@torch.inference_mode()
def noise_floor(
    rec: Reconstruction, scan: Scan, *, frames: int = 64, seed: int = 0, device: str | torch.device = "cpu"
) -> float:
    """Return the R that the noise of counts alone would leave, if the reconstruction were the truth.

    ``sum v(lambda) / sum lambda`` with the rates ``lambda = |F psi|^2`` and the mean square of an amplitude's noise,
    ``v = E (sqrt n - sqrt lambda)^2``, n by Poisson: ``lambda`` where it is dark, 1/4 where it is bright. An
    object that was fitted to the frames comes below it, since it explains some of their noise, too.

    Parameters
    ----------
    rec : Reconstruction
    scan : Scan
        Whose frames are counts.
    frames : int
        Draw so many at most.
    seed : int
    device : str or torch.device
    """
    source, waves, scale = in_one_unit(scan, rec, device)
    chosen = _chosen(scan.n_frames, None, frames, seed)
    placed = place(rec.positions[chosen], scan.N)
    canvas = torch.from_numpy(object_on(rec, placed)).to(device)
    probes = shifted_probes(torch.from_numpy(waves).to(device), placed.fractions.to(device))
    here = crop_patches(canvas, placed.corners.to(device), scan.N).unsqueeze(1)
    rates = intensity(torch.fft.fft2(here * probes, norm="ortho")) * scale**2
    if source.good is not None:
        rates = rates[:, source.good]
    seen = rates.cpu().double().numpy().ravel()
    return float(np.sum(_noise(seen)) / max(float(np.sum(seen)), 1e-30))


def _noise(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean square of ``sqrt n - sqrt lambda`` for Poisson counts n of rates lambda, from a table."""
    bright = 0.25 * (1 + 3 / (8 * np.maximum(rates, 1.0)))
    inside = np.interp(rates, _RATES, _table())
    return np.where(rates > _RATES[-1], bright, np.where(rates < _RATES[0], rates, inside))


@cache
def _table() -> NDArray[np.float64]:
    counts = np.arange(1500)
    rates = _RATES[:, None]
    chances = np.exp(xlogy(counts, rates) - gammaln(counts + 1) - rates)  # scipy.stats takes 0.3 s to import
    return np.asarray((chances * np.square(np.sqrt(counts) - np.sqrt(rates))).sum(1))


def _chosen(count: int, which: ArrayLike | None, most: int, seed: int) -> NDArray[np.int64]:
    everything = np.arange(count)
    if which is not None:
        return np.sort(everything[np.asarray(which)])
    if count <= most:
        return everything
    drawn: NDArray[Any] = np.random.default_rng(seed).choice(count, most, replace=False)
    return np.sort(drawn)
