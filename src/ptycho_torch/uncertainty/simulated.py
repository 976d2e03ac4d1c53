"""Scans as a reconstruction predicts them: the same positions and probe, other noise, and a known object.

    frame_m = sqrt( g Poisson( |F(P_m crop_m(o'))|^2 / g ) )

``o'`` is the found object, in its place or mirrored and moved; g the gain, 1 where frames are counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.physics.regions import Placement, crop_patches, place, shifted_probes
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.scan.facts import Cut
from ptycho_torch.scan.frames import FrameSource

__all__ = ["SimulatedFrames", "gain_of", "moved"]

_BRIGHT: Final = 0.1
"""Part of the usual weight above which an object is well enough known to be simulated from."""
_MEASURED: Final = 256
"""Frames from which the gain is measured."""


class SimulatedFrames(FrameSource):
    """Frames that are computed when they are read; frame k of a seed is always the same.

    Parameters
    ----------
    rec : Reconstruction
        Whose object, positions and probe predict the frames.
    seed : int
        Of the noise.
    gain : float
        What a photon adds to a squared amplitude.
    good : (N, N) bool array, optional
        Other pixels read as 0.
    """

    def __init__(
        self, rec: Reconstruction, seed: int = 0, gain: float = 1.0, good: NDArray[np.bool_] | None = None
    ) -> None:
        size = rec.probe.shape[-1]
        super().__init__(len(rec.positions), Cut(slice(0, size), slice(0, size)), False, good)
        self._prediction = _Prediction(rec)
        self._seed, self._gain = seed, gain

    @property
    def stored_dtype(self) -> np.dtype[np.float32]:
        return np.dtype(np.float32)

    def stored(self, which: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        index = np.arange(len(self))[which]
        rates = self._prediction.powers(index) / self._gain
        for frame, k in zip(rates, index.tolist(), strict=True):
            frame[:] = np.random.default_rng((self._seed, k)).poisson(frame)
        return np.sqrt(rates * self._gain).astype(np.float32)


class _Prediction:
    """Powers of frames that a reconstruction predicts."""

    def __init__(self, rec: Reconstruction) -> None:
        self.size = rec.probe.shape[-1]
        self.placed: Placement = place(rec.positions, self.size)
        self.canvas = torch.from_numpy(_on(rec, self.placed))
        self.probe = torch.from_numpy(rec.probe)

    @torch.inference_mode()
    def powers(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """(K, N, N), zero frequency at pixel [N//2, N//2]."""
        chosen = torch.from_numpy(index)
        probes = shifted_probes(self.probe, self.placed.fractions[chosen])
        patches = crop_patches(self.canvas, self.placed.corners[chosen], self.size)
        waves = torch.fft.fft2(patches.unsqueeze(1) * probes, norm="ortho")
        power = waves.abs().square().sum(1)
        return torch.fft.fftshift(power, dim=(-2, -1)).double().numpy()


def _on(rec: Reconstruction, placed: Placement) -> NDArray[np.complex64]:
    """The object on the canvas of a placement, continued by its nearest pixel."""
    step = np.rint(rec.origin_xy - placed.origin_xy).astype(int)[::-1]
    rows, columns = (
        (np.arange(edge) - start).clip(0, limit - 1)
        for edge, start, limit in zip(placed.shape, step, rec.object.shape, strict=True)
    )
    return np.ascontiguousarray(rec.object[np.ix_(rows, columns)])


def gain_of(rec: Reconstruction, scan: Scan) -> float:
    """Return what one photon adds to a squared amplitude: 1 where frames are counts, else from their scatter.

        g = sum (A^2 - |F psi|^2)^2 / sum |F psi|^2

    over a part of the frames, which holds for Poisson noise of any gain. What the reconstruction does not explain
    counts as noise, so that g is rather too large than too small.
    """
    if scan.counts_known:
        return 1.0
    prediction = _Prediction(rec)
    index = np.unique(np.linspace(0, scan.n_frames - 1, _MEASURED).astype(np.int64))
    made = prediction.powers(index)
    wrong = np.square(scan.frames[index].astype(np.float64)) - made
    if scan.good_pixels is not None:
        wrong, made = wrong[:, scan.good_pixels], made[:, scan.good_pixels]
    return max(float(np.sum(wrong**2) / np.sum(made)), 1e-30)


def moved(rec: Reconstruction, rng: np.random.Generator) -> Reconstruction:
    """Return the reconstruction with its object mirrored and moved at random under the same frames.

    The part that is well lit is continued by reflection, so that there is an object everywhere.
    """
    usual = np.quantile(rec.weight[rec.weight > 0], 0.9)
    lit = rec.weight > _BRIGHT * usual
    nearest = ndimage.distance_transform_edt(~lit, return_distances=False, return_indices=True)
    filled = rec.object[tuple(nearest)]
    rows, columns = ndimage.find_objects(lit.astype(np.int8))[0]
    part = filled[rows, columns][:: rng.choice((1, -1)), :: rng.choice((1, -1))]
    return replace(rec, object=part[_folded(part, rec.object.shape, rng)])


def _folded(
    part: NDArray[np.complex64], shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[NDArray[np.int64], ...]:
    """Indices that continue an image by reflection over a canvas, from a place that is drawn."""
    axes = []
    for edge, wanted in zip(part.shape, shape, strict=True):
        at = (np.arange(wanted) + rng.integers(2 * edge)) % (2 * edge)
        axes.append(np.minimum(at, 2 * edge - 1 - at))
    return np.ix_(*axes)
