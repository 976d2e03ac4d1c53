"""What comes out when a known object is scanned in the same way: images whose truth is known.

A third of the replicates have the found object where it is: they show where noise goes, and which features are lost. A
third have it mirrored and moved: a solver that cannot find some part of an object did not find it the first time
either, so that only an object that lies elsewhere shows how much is missing there. And a third have a random object:
what these photons, this overlap and this probe hide from the solver altogether is not in the found object at all.

References
----------
.. [1] B. Efron and R. Tibshirani, An Introduction to the Bootstrap, Chapman & Hall (1993), for the
   parametric bootstrap.
.. [2] J. Tachella and M. Pereyra, "Equivariant bootstrapping for uncertainty quantification in imaging inverse
   problems", AISTATS (2024), for moving the object first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.evaluation.alignment import overlap
from ptycho_torch.files.memory import memory_limit, need_memory
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.solvers.residual import residual
from ptycho_torch.uncertainty.errors import errors_against
from ptycho_torch.uncertainty.simulated import SimulatedFrames, another, gain_of, moved

__all__ = ["COUNT", "FEATURES", "Replicates", "Solve", "replicates"]

COUNT: Final = 2
"""Replicates of each kind."""
FEATURES: Final = (
    "one",
    *(f"{kind}_{where}" for kind in ("found", "moved", "random") for where in ("near", "usual")),
    "unexplained",
    "few",
)
_REACH: Final = (2.0, 4.0, 4.0)
"""Standard deviations, in pixels, of the Gaussians over which squared errors of each kind are averaged."""
_LIT: Final = 0.1
_SHARE: Final = 8
"""Simulated frames up to this part of the memory are made once and kept."""

Solve = Callable[[Scan], Reconstruction]
"""Reconstructs a scan, from its frames alone, as the image was reconstructed whose error bars are wanted."""


@dataclass(frozen=True)
class Replicates:
    """What replicates say about each pixel: natural logarithms, by channel (amplitude, phase).

    Attributes
    ----------
    features : (2, 9, H, W) float32 array
        In the order of :data:`FEATURES`: 1; of each kind of replicates the root mean square error nearby, and
        that of the whole image; half the logarithm of how many times worse the measured frames are explained
        than simulated ones, 0 where they are not; and ``log(1 + 10 / n)`` with n photons per pixel of a frame.
    measured : (H, W) bool array
        Pixels that can have an error bar.
    """

    features: NDArray[np.float32]
    measured: NDArray[np.bool_]


def replicates(
    rec: Reconstruction, scan: Scan, solve: Solve, count: int = COUNT, seed: int = 0, device: str = "cpu"
) -> Replicates:
    """Simulate the scan again, reconstruct it and measure the errors.

    Parameters
    ----------
    rec : Reconstruction
        Of this scan, by ``solve``.
    scan : Scan
        Frames that the solver saw.
    solve : callable
    count : int
        Of each of the three kinds.
    seed : int
    device : str
        Where residuals are computed.

    Raises
    ------
    DataError
        When the canvas does not fit into memory.
    """
    height, width = rec.object.shape
    need_memory(300 * height * width, f"uncertainty: a canvas of {height} x {width} pixels", "leave it out")
    gain = gain_of(rec, scan)
    squares: list[NDArray[np.float32]] = []
    explained: list[float] = []
    for kind in range(3):
        total: NDArray[np.float32] = np.zeros((2, height, width), np.float32)
        for k in range(count):
            number = 3 * (seed * count + k) + kind
            rng = np.random.default_rng(number)
            base = rec if kind == 0 else moved(rec, rng) if kind == 1 else another(rec, rng)
            again = _simulated(base, scan, number, gain)
            found = solve(again)
            wrong = errors_against(found, base.object, base.origin_xy, search=False)
            on = _onto(found, rec)
            total[:, on[0][0], on[0][1]] += np.square([wrong.amplitude[on[1]], wrong.phase[on[1]]])
            if not kind:
                explained.append(residual(found, again, device=device))
        squares.append(total / np.float32(count))
    excess = residual(rec, scan, device=device) / max(float(np.mean(explained)), 1e-30)
    photons = scan.mean_power / scan.N**2 / gain
    return Replicates(_features(squares, rec.weight, excess, photons), rec.measured())


def _simulated(base: Reconstruction, scan: Scan, seed: int, gain: float) -> Scan:
    frames = SimulatedFrames(base, seed, gain, scan.good_pixels)
    if 4 * scan.n_frames * scan.N**2 <= memory_limit() // _SHARE:
        return replace(scan, frames=frames[:], object_guess=None, counts_known=gain == 1)
    return replace(scan, frames=frames, object_guess=None, counts_known=gain == 1)


def _onto(found: Reconstruction, rec: Reconstruction) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the wanted canvas and of the found one that show the same place."""
    mine = (float(rec.origin_xy[0]), float(rec.origin_xy[1]))
    theirs = (float(found.origin_xy[0]), float(found.origin_xy[1]))
    return overlap(mine, rec.object.shape, theirs, found.object.shape)


def _features(
    squares: list[NDArray[np.float32]], weight: NDArray[np.float32], excess: float, photons: float
) -> NDArray[np.float32]:
    lit = weight > _LIT * np.quantile(weight[weight > 0], 0.9)
    made = np.zeros((2, len(FEATURES), *weight.shape), np.float32)
    made[:, 0], made[:, -1] = 1, np.log1p(10 / photons)
    for channel in range(2):
        for kind, reach in enumerate(_REACH):
            values = np.nan_to_num(squares[kind][channel])
            near = _averaged(values, weight > 0, reach)
            made[channel, 1 + 2 * kind] = 0.5 * np.log(np.maximum(near, 1e-16))
            made[channel, 2 + 2 * kind] = 0.5 * np.log(max(float(np.mean(values[lit])), 1e-16))
        made[channel, -2] = 0.5 * max(np.log(max(excess, 1e-30)), 0.0)
    return made


def _averaged(values: NDArray[np.float32], known: NDArray[np.bool_], reach: float) -> NDArray[np.float32]:
    """Local mean over the pixels that are known."""
    top, bottom = (
        ndimage.gaussian_filter(part.astype(np.float32), reach, mode="constant")
        for part in (values * known, known)
    )
    return np.asarray(top / np.maximum(bottom, 1e-6))
