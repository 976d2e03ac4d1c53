"""The learned solver over a whole scan: tiles with halos, one probe, one canvas.

A scan that fits is one region. A larger one is cut into tiles with halos; the probe is solved for on one tile in
the middle and taken as known on the others, whose objects then differ by a phase each:

    O = sum_t w_t z_t o_t / sum_t w_t,        w_t = sum of |P_m|^2 over the tile's own frames,   |z_t| = 1

Memory is the canvas and one tile, whatever the number of frames.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.bundle.shipped import load_solver
from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.generators.region_solver import RegionFrames, RegionSolver
from ptycho_torch.physics.regions import Placement, place, put_patches, shifted_probes
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.scan.tiling import Tile, cut_tiles, innermost
from ptycho_torch.solvers import SOLVERS
from ptycho_torch.solvers.base import Progress, Solver
from ptycho_torch.solvers.options import LearnedOptions, SolverOptions
from ptycho_torch.solvers.start import provenance_of

__all__ = ["Frames", "Learned", "RegionObject", "solve_learned"]

logger = logging.getLogger(__name__)
_PROBE_FRAMES = 512
"""Frames on which the probe of a tiled scan is solved for."""


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
        frames = Frames(
            lambda index: np.asarray(scan.frames[index], dtype=np.float32) * np.float32(factor),
            positions,
            scan.N,
            scan.good_pixels,
            0.5 * factor if scan.counts_known else 0.0,
        )
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


@dataclass(frozen=True)
class Frames:
    """Normalised frames as the solver wants them, read as they are asked for.

    ``read(index)`` gives (m, N, N) float32 amplitudes in the unit of the probe; ``positions``: (M, 2);
    ``noise``: standard deviation of the amplitudes, 0 where it is not known.
    """

    read: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    positions: NDArray[np.float64]
    size: int
    good: NDArray[np.bool_] | None = None
    noise: float = 0.0


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
    solver.eval()
    before, solver.bf16 = solver.bf16, options.bf16
    try:
        with torch.inference_mode():
            if len(tiles) == 1:
                return _solve_one(solver, frames, probe, options, progress)
            return _solve_tiles(solver, frames, probe, options, tiles, progress)
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
    obj, found = _solve(solver, frames, everything, placed, probe, options)
    weight = _light(frames, everything, placed, found)
    if progress is not None:
        progress(len(everything), len(everything))
    return RegionObject(obj.cpu().numpy(), weight, placed.origin_xy, found)


def _solve(
    solver: RegionSolver,
    frames: Frames,
    chosen: NDArray[np.int64],
    placed: Placement,
    probe: NDArray[np.complex64],
    options: LearnedOptions,
) -> tuple[Tensor, NDArray[np.complex64]]:
    """Object (H, W) and probe from the frames ``chosen``, which lie as ``placed`` says."""
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


def _light(
    frames: Frames, chosen: NDArray[np.int64], placed: Placement, probe: NDArray[np.complex64]
) -> NDArray[np.float32]:
    """(H, W) summed |P|^2 of frames that lie as ``placed`` says, a part of them at a time."""
    total = torch.zeros(placed.shape)
    waves = torch.from_numpy(np.ascontiguousarray(probe))
    for part in torch.arange(len(chosen)).split(256):
        seen = shifted_probes(waves, placed.fractions[part]).abs().square().sum(1)
        total += put_patches(seen, placed.corners[part], placed.shape)
    return total.numpy()


def _solve_tiles(
    solver: RegionSolver,
    frames: Frames,
    probe: NDArray[np.complex64],
    options: LearnedOptions,
    tiles: list[Tile],
    progress: Callable[[int, int], None] | None,
) -> RegionObject:
    if options.update_probe:
        chosen = innermost(frames.positions, _PROBE_FRAMES)
        _, probe = _solve(
            solver, frames, chosen, place(frames.positions[chosen], frames.size), probe, options
        )
    whole = place(frames.positions, frames.size)
    canvas = np.zeros(whole.shape, np.complex64)
    total = np.zeros(whole.shape, np.float32)
    known = replace(options, update_probe=False)
    done = 0
    for tile in tiles:
        placed = place(frames.positions[tile.frames], frames.size)
        obj, _ = _solve(solver, frames, tile.frames, placed, probe, known)
        own = np.searchsorted(tile.frames, tile.core)
        core = replace(placed, corners=placed.corners[own], fractions=placed.fractions[own])
        weight = _light(frames, tile.core, core, probe)
        column, row = np.rint(placed.origin_xy - whole.origin_xy).astype(int)
        window = np.s_[row : row + placed.shape[0], column : column + placed.shape[1]]
        found = obj.cpu().numpy()
        # The halo's light counts for the phase: it is where neighbouring tiles see the same object.
        overlap = np.vdot(found * weight, canvas[window])
        turn = overlap / abs(overlap) if abs(overlap) > 0 else 1.0
        canvas[window] += (found * weight * turn).astype(np.complex64)
        total[window] += weight
        done += len(tile.core)
        if progress is not None:
            progress(done, len(frames.positions))
    logger.info("solved %d frames in %d tiles", done, len(tiles))
    obj_all = np.divide(canvas, total, out=np.zeros_like(canvas), where=total > 0)
    return RegionObject(obj_all, total, whole.origin_xy, probe)
