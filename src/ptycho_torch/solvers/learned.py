"""The learned solver over a whole scan: tiles with halos, one probe, one canvas.

A scan that fits is one region. A larger one is cut into tiles with halos that go in step, see
:mod:`ptycho_torch.solvers.learned_tiles`. Memory is some canvases and one tile, whatever the number of frames.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.bundle.shipped import load_solver
from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.generators.region_frames import RegionFrames
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.physics.regions import Placement, place
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.scan.tiling import Tile, cut_tiles
from ptycho_torch.solvers import SOLVERS
from ptycho_torch.solvers.base import Progress, Solver
from ptycho_torch.solvers.frames import Frames, frames_of, light_of
from ptycho_torch.solvers.learned_tiles import LearnedTiles
from ptycho_torch.solvers.options import LearnedOptions, SolverOptions
from ptycho_torch.solvers.start import provenance_of

__all__ = ["Frames", "Learned", "RegionObject", "frames_of", "light_of", "solve_learned", "solve_region"]

logger = logging.getLogger(__name__)


@SOLVERS.register("learned")
class Learned(Solver):
    """The region solver with its pretrained weights, over a whole scan.

    Parameters
    ----------
    device : str or torch.device
    network : RegionSolver, optional
        Default: the one whose weights ship with the package.
    """

    Options = LearnedOptions

    def __init__(self, device: str | torch.device = "cpu", network: RegionSolver | None = None) -> None:
        super().__init__(device)
        self.network = (load_solver() if network is None else network).to(device)

    def solve(
        self,
        scan: Scan,
        start: Reconstruction | None = None,
        options: SolverOptions | None = None,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Return the object of a scan; see :meth:`Solver.solve`.

        Of ``start`` the probe and the positions are used. The object always begins flat. ``progress`` is
        called with frames done and frames in all.
        """
        settings = self._checked(options, LearnedOptions)
        if settings.update_positions:
            raise ConfigError(
                "update_positions: the learned solver takes positions as they are; refine with epie"
            )
        guess = scan.probe if start is None else start.probe
        if guess is None:
            raise DataError("probe: the scan has none to start from; give one with --probe-file")
        positions = scan.positions if start is None else start.positions
        began = time.monotonic()
        factor = scan.normalisation
        frames = frames_of(scan, positions)
        found = solve_learned(self.network, frames, normalise_probe(guess), settings, progress=progress)
        scale = 1 / factor
        # Between object and probe a factor is free: the probe keeps the power of the frames.
        level = np.float32((scan.N / 2) / np.linalg.norm(found.probe))
        return Reconstruction(
            np.where(found.weight > 0, found.object / level, 0),
            found.weight * level**2,
            found.origin_xy,
            positions,
            (found.probe * (level * scale)).astype(np.complex64),
            intensity_scale=scale,
            sweeps=settings.sweeps,
            solver="learned",
            seconds=round(time.monotonic() - began, 4),
            provenance=provenance_of(scan),
        )


@dataclass(frozen=True)
class RegionObject:
    """An object and where it lies, in the gauge of ``probe``.

    ``object``: (H, W) complex64; ``weight``: (H, W) float32, the summed ``|P|^2``; ``origin_xy``: (2,) scan
    coordinate of pixel [0, 0]; ``probe``: (modes, N, N) complex64.
    """

    object: NDArray[np.complex64]
    weight: NDArray[np.float32]
    origin_xy: NDArray[np.float64]
    probe: NDArray[np.complex64]


def solve_learned(
    solver: RegionSolver,
    frames: Frames,
    probe: NDArray[np.complex64],
    options: LearnedOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> RegionObject:
    """Solve a scan with a pretrained or adapted solver.

    Parameters
    ----------
    solver : RegionSolver
        On the device that computes.
    frames : Frames
    probe : (modes, N, N) complex array
        The guess, in any gauge of power.
    options : LearnedOptions, optional
    progress : callable, optional
        Called with frames done and frames in all.

    Raises
    ------
    DataError
        When the probe is not of the frames' size.
    """
    options = options or LearnedOptions()
    if probe.shape[-1] != frames.size:
        raise DataError(f"probe: its {probe.shape[-1]} pixels do not fit frames of {frames.size}")
    most = max(1, options.tile_pixels // (frames.size**2 * len(probe)))
    tiles = cut_tiles(frames.positions, frames.size, most, options.halo * frames.size)
    if len(tiles) > 1:
        return _solve_tiles(solver, frames, probe, options, tiles, progress)
    solver.eval()
    before, solver.bf16 = solver.bf16, options.bf16
    try:
        with torch.inference_mode():
            return _solve_one(solver, frames, probe, options, progress)
    finally:
        solver.bf16 = before


def _solve_one(
    solver: RegionSolver,
    frames: Frames,
    probe: NDArray[np.complex64],
    options: LearnedOptions,
    progress: Callable[[int, int], None] | None,
) -> RegionObject:
    everything = np.arange(len(frames.positions))
    placed = place(frames.positions, frames.size)
    obj, found = solve_region(solver, frames, everything, placed, probe, options)
    weight = light_of(placed, found)
    if progress is not None:
        progress(len(everything), len(everything))
    return RegionObject(obj.cpu().numpy(), weight, placed.origin_xy, found)


def solve_region(
    solver: RegionSolver,
    frames: Frames,
    chosen: NDArray[np.int64],
    placed: Placement,
    probe: NDArray[np.complex64],
    options: LearnedOptions,
) -> tuple[Tensor, NDArray[np.complex64]]:
    """Return object (H, W) and probe (modes, N, N) from the frames ``chosen``, which lie as ``placed`` says."""
    device = solver.start.device
    given = RegionFrames(
        torch.from_numpy(frames.read(chosen)).to(device),
        placed.corners.to(device),
        placed.fractions.to(device),
        torch.from_numpy(np.ascontiguousarray(probe, dtype=np.complex64))[None].to(device),
        placed.shape,
        torch.zeros(len(chosen), dtype=torch.int64, device=device),
        None if frames.good is None else torch.from_numpy(frames.good).to(device),
        torch.tensor([frames.noise], device=device),
    )
    solution = solver(given, update_probe=options.update_probe, iterations=options.sweeps)
    return solution.objects[-1][0], solution.probe[0].cpu().numpy()


def _solve_tiles(
    solver: RegionSolver,
    frames: Frames,
    probe: NDArray[np.complex64],
    options: LearnedOptions,
    tiles: list[Tile],
    progress: Callable[[int, int], None] | None,
) -> RegionObject:
    total_steps = len(frames.positions)
    steps = LearnedTiles(solver, frames, tiles, options)
    steps.run(probe, None if progress is None else lambda d, n: progress(d * total_steps // n, total_steps))
    end = steps.pieces.get(steps.name)
    whole = place(frames.positions, frames.size)
    canvas = np.zeros(whole.shape, np.complex64)
    weight = np.zeros(whole.shape, np.float32)
    row, column = whole.origin_xy[::-1].astype(int)
    for number, box in enumerate(end["boxes"]):
        piece, low = steps.pieces.get(steps.name, number), box[:2] - (row, column)
        window = np.s_[low[0] : low[0] + box[2], low[1] : low[1] + box[3]]
        canvas[window] += piece["weight"] * piece["object"] * np.complex64(end["turns"][number])
        weight[window] += piece["weight"]
    obj = np.divide(canvas, weight, out=np.zeros_like(canvas), where=weight > 0)
    # In the gauge of the guess, as a scan in one piece is.
    gain = np.float32(np.linalg.norm(end["raw"]) / np.linalg.norm(end["probe"]))
    return RegionObject((obj / gain).astype(np.complex64), weight * gain**2, whole.origin_xy, end["raw"])
