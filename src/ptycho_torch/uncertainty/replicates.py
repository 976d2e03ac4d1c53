"""What error bars are made of: images of known objects scanned in the same way, and another image of the same frames.

Half of the replicates have the found object where it is: they show where noise goes. Half have it mirrored and moved:
a solver that cannot find some part of an object did not find it the first time either, so that only an object that
lies elsewhere shows how much is missing there. What no simulation can tell, the measured frames do: sweeps from a flat
object end at another image where frames leave something open, and where a solver has not come to its end; and what
frames leave unexplained beyond their noise is an error of the image, or of the model.

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
from ptycho_torch.solvers import SOLVERS, RefineOptions
from ptycho_torch.solvers.residual import residual
from ptycho_torch.uncertainty.errors import errors_against
from ptycho_torch.uncertainty.simulated import SimulatedFrames, gain_of, moved

__all__ = ["COUNT", "ERRORS", "FACTORS", "FEATURES", "Replicates", "Solve", "replicates"]

COUNT: Final = 2
"""Replicates of each kind."""
ERRORS: Final = ("found_near", "moved_usual", "other_near", "unexplained")
"""Parts of an error, in its unit."""
FACTORS: Final = ("detail", "dim")
"""Where in an image errors are larger than elsewhere."""
FEATURES: Final = (*ERRORS, *FACTORS)
_REACH: Final = 2.0
"""Standard deviation, in pixels, of the Gaussian over which squares are averaged."""
_LIT: Final = 0.1
_SWEEPS: Final = 40
"""From a flat object, for the other image."""
_SHARE: Final = 8
"""Simulated frames up to this part of the memory are made once and kept."""
_LEAST: Final = 1e-16
"""Squares below this are taken for it."""
_DARKEST: Final = 1e-3
"""Part of the usual square, of the amplitude as of the weight, below which it makes no difference."""

Solve = Callable[[Scan], Reconstruction]
"""Reconstructs a scan, from its frames alone, as the image was reconstructed whose error bars are wanted."""

Real = NDArray[np.float32]


@dataclass(frozen=True)
class Replicates:
    """What is known about the errors of each pixel: natural logarithms, by channel (amplitude, phase).

    Attributes
    ----------
    features : (2, 6, H, W) float32 array
        In the order of :data:`FEATURES`. Root mean square errors: of the found object's replicates nearby; of
        the moved object's, over the image; difference from the other image of the same frames, nearby; and that of
        which the frames would be explained as badly. Then the steepness of the image and the lack of light,
        each over its mean.
    measured : (H, W) bool array
        Pixels that can have an error bar.
    """

    features: Real
    measured: NDArray[np.bool_]


def replicates(
    rec: Reconstruction, scan: Scan, solve: Solve, count: int = COUNT, seed: int = 0, device: str = "cpu"
) -> Replicates:
    """Simulate the scan again, reconstruct it and measure the errors; reconstruct the scan itself in another way.

    Parameters
    ----------
    rec : Reconstruction
        Of this scan, by ``solve``.
    scan : Scan
        Frames that the solver saw.
    solve : callable
    count : int
        Of each of the two kinds.
    seed : int
    device : str
        Where residuals are computed, and the other image.

    Raises
    ------
    DataError
        When the canvas does not fit into memory.
    """
    height, width = rec.object.shape
    need_memory(300 * height * width, f"uncertainty: a canvas of {height} x {width} pixels", "leave it out")
    gain = gain_of(rec, scan)
    squares: list[Real] = []
    explained: list[float] = []
    for kind in range(2):
        total: Real = np.zeros((2, height, width), np.float32)
        for k in range(count):
            number = 2 * (seed * count + k) + kind
            base = moved(rec, np.random.default_rng(number)) if kind else rec
            again = _simulated(base, scan, number, gain)
            found = solve(again)
            total += _squares(found, base, rec)
            if not kind:
                explained.append(residual(found, again, device=device))
        squares.append(total / np.float32(count))
    squares.append(_squares(_otherwise(rec, scan, seed, device), rec, rec))
    excess = residual(rec, scan, device=device) - float(np.mean(explained))
    return Replicates(_features(squares, rec, excess), rec.measured())


def _otherwise(rec: Reconstruction, scan: Scan, seed: int, device: str) -> Reconstruction:
    """Another image of the same frames, at the found places: sweeps from a flat object and the guess of the probe."""
    these = replace(scan, positions=rec.positions, probe=rec.probe if scan.probe is None else scan.probe)
    options = RefineOptions(sweeps=_SWEEPS, step=1.0, seed=seed + 1)
    return SOLVERS.get("epie")(device).solve(these, None, options)


def _simulated(base: Reconstruction, scan: Scan, seed: int, gain: float) -> Scan:
    frames = SimulatedFrames(base, seed, gain, scan.good_pixels)
    if 4 * scan.n_frames * scan.N**2 <= memory_limit() // _SHARE:
        return replace(scan, frames=frames[:], object_guess=None, counts_known=gain == 1)
    return replace(scan, frames=frames, object_guess=None, counts_known=gain == 1)


def _squares(found: Reconstruction, base: Reconstruction, rec: Reconstruction) -> Real:
    """Squared errors of amplitude and phase against ``base``, on the canvas of ``rec``."""
    wrong = errors_against(found, base.object, base.origin_xy, search=False)
    mine, theirs = _onto(found, rec)
    made: Real = np.zeros((2, *rec.object.shape), np.float32)
    made[:, *mine] = np.square([wrong.amplitude[theirs], wrong.phase[theirs]])
    return np.nan_to_num(made)


def _onto(found: Reconstruction, rec: Reconstruction) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the wanted canvas and of the found one that show the same place."""
    mine = (float(rec.origin_xy[0]), float(rec.origin_xy[1]))
    theirs = (float(found.origin_xy[0]), float(found.origin_xy[1]))
    return overlap(mine, rec.object.shape, theirs, found.object.shape)


def _features(squares: list[Real], rec: Reconstruction, excess: float) -> Real:
    known = rec.weight > 0
    usual = np.quantile(rec.weight[known], 0.9)
    lit = rec.weight > _LIT * usual
    size = np.abs(rec.object)
    level = float(np.median(size[lit]))
    bright = np.maximum(_averaged(size**2, known) / level**2, _DARKEST)
    made: Real = np.zeros((2, len(FEATURES), *size.shape), np.float32)
    for channel in range(2):
        found, moved_on, other = (part[channel] for part in squares)
        left = max(excess, 0.0) * (level**2 if channel == 0 else 1 / bright)
        parts = (_averaged(found, known), moved_on[lit].mean(), _averaged(other, known), left)
        for k, part in enumerate(parts):
            made[channel, k] = 0.5 * np.log(np.maximum(part, _LEAST))
    down, across = np.gradient(rec.object)
    steep = _averaged(np.abs(down) ** 2 + np.abs(across) ** 2, known)
    dim = -0.5 * np.log(np.maximum(rec.weight / usual, _DARKEST))
    for k, part in enumerate((0.5 * np.log(np.maximum(steep / level**2, _DARKEST**2)), dim)):
        made[:, len(ERRORS) + k] = part - part[rec.measured()].mean()
    return made


def _averaged(values: NDArray[np.floating], known: NDArray[np.bool_]) -> Real:
    """Local mean over the pixels that are known."""
    top, bottom = (
        ndimage.gaussian_filter(part.astype(np.float32), _REACH, mode="constant")
        for part in (values * known, known)
    )
    return np.asarray(top / np.maximum(bottom, 1e-6))
