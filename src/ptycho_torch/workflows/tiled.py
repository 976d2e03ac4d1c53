"""Reconstruction in pieces: what ``reconstruct`` does, for scans larger than memory and for several processes.

The steps are those of :mod:`ptycho_torch.workflows.solving`: an image to begin with, sweeps, R of frames that were
kept back. Each step's pieces are files in a folder of state, so a run that ends goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import ConfigError, DataError, OutputError
from ptycho_torch.files import atomic_path
from ptycho_torch.files.memory import memory_limit, memory_used, shown_bytes
from ptycho_torch.physics.gauges import orthogonal_modes
from ptycho_torch.physics.regions import place
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.processes import ALONE, Group
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Geometry, Scan
from ptycho_torch.scan.product import Product, write_product
from ptycho_torch.scan.tiling import Box, Tile
from ptycho_torch.solvers import LearnedOptions, Progress, RefineOptions, Solver, SolverOptions
from ptycho_torch.solvers.epie import REACH, Epie
from ptycho_torch.solvers.frames import frames_of
from ptycho_torch.solvers.learned_tiles import LearnedTiles
from ptycho_torch.solvers.start import provenance_of
from ptycho_torch.tiles.finish import Judging, write_canvas
from ptycho_torch.tiles.regions import TileStage, engine_work, merge, tiles_within
from ptycho_torch.tiles.store import Store
from ptycho_torch.tiles.sweeps import Canvas, Sweeps
from ptycho_torch.workflows.run_folder import identity
from ptycho_torch.workflows.solving import Network, probe_of, same_beam, with_guess, with_probe

__all__ = ["CANVAS_NAME", "STATE_NAME", "PieceJob", "Pieces", "Solved", "fits", "solve_in_pieces"]

logger = logging.getLogger(__name__)
STATE_NAME: Final = "reconstruct.state"
"""Folder of the pieces, in that of the results; it goes when those are written."""
CANVAS_NAME: Final = "reconstruction.h5"
"""The result where its canvas is larger than memory."""

_PIXEL: Final = 60
"""Bytes that the learned solver takes for a pixel of frames, and one canvas in memory for one of its own."""
_LARGEST: Final = 1 << 24
"""Pixels of frames in a tile at most."""
_LEAST: Final = 128 << 20
"""Bytes beyond what a process holds before it begins, for windows, frames and one read ahead."""
_SHARED_BY: Final = 4
"""Processes that tiles are cut for at least: so one, two and four cut alike."""


@dataclass(frozen=True)
class Pieces:
    """Memory and processes that a reconstruction may use.

    Attributes
    ----------
    memory : int, optional
        Bytes for all processes of this machine together; default: half of what is free.
    group : Group
    resume : bool
        Go on with a run that ended.
    """

    memory: int | None = None
    group: Group = ALONE
    resume: bool = False

    @property
    def launcher(self) -> int:
        """Bytes of the process that has started several on this machine and waits for them."""
        return memory_used(os.getppid()) if self.group.size > 1 else 0

    @property
    def share(self) -> int | None:
        """Bytes of one process, where something was said or several share what is free."""
        if self.memory is not None:
            return max(0, self.memory - self.launcher) // self.group.on_machine
        if self.group.size == 1:
            return None
        return memory_used() + memory_limit() // (2 * self.group.on_machine)


@dataclass(frozen=True)
class PieceJob:
    """What is to be solved.

    Attributes
    ----------
    network : Network
        Whose region solver makes the image to begin with.
    scan : Scan
    hidden : (M,) bool array
        Frames that are kept back.
    learned : LearnedOptions, optional
        None begins from a flat object.
    solver : Solver, optional
        What goes on from there, with ``options``.
    options : SolverOptions, optional
    device : str
    may_start_flat : bool
        Whether ``solver`` may begin from a flat object where tiles of the learned one do not fit into memory.
    """

    network: Network
    scan: Scan
    hidden: NDArray[np.bool_]
    learned: LearnedOptions | None
    solver: Solver | None
    options: SolverOptions | None
    device: str = "cpu"
    may_start_flat: bool = False

    def tiles(self, seen: Scan, pixels: int) -> list[Tile]:
        """Return the tiles of the learned solver, or raise :class:`DataError` where they do not fit."""
        assert self.learned is not None
        modes = 1 if seen.probe is None else len(seen.probe)
        return tiles_within(
            seen.positions, seen.N, pixels // modes, self.learned.halo * seen.N, _PIXEL * modes
        )

    def fitting(self, seen: Scan, pixels: int) -> PieceJob:
        """Return the job as memory allows it."""
        if self.learned is None or not self.may_start_flat:
            return self
        try:
            self.tiles(seen, pixels)
        except DataError as error:
            logger.info("beginning from a flat object: %s", error)
            return dataclasses.replace(self, learned=None)
        return self

    def plan(self) -> dict[str, Any]:
        """Return what tells this job from another one."""
        return {
            "scan": identity(self.scan),
            "withheld": int(self.hidden.sum()),
            "model": self.network.name,
            "learned": None if self.learned is None else dataclasses.asdict(self.learned),
            "solver": None if self.solver is None else type(self.solver).__name__,
            "options": None if self.options is None else dataclasses.asdict(self.options),
        }


@dataclass(frozen=True)
class Solved:
    """An image on the disk, in the state's folder.

    Attributes
    ----------
    canvas : Path
        HDF5 with ``object`` and ``weight`` in chunks, and all that a reconstruction has besides.
    facts : dict
        Fields of :class:`~ptycho_torch.result.Reconstruction` but for object and weight.
    shape : tuple of int
    store : Store
    """

    canvas: Path
    facts: dict[str, Any]
    shape: tuple[int, int]
    store: Store = field(repr=False)

    @property
    def small(self) -> bool:
        """Whether object and weight fit into memory together with what pictures and files take."""
        return _PIXEL * self.shape[0] * self.shape[1] <= memory_limit()

    def reconstruction(self, every: int = 1) -> Reconstruction:
        """Read it, or one pixel in ``every`` along each axis, whose positions are then in such pixels."""
        with h5py.File(self.canvas, "r", locking=False) as file:
            obj, weight = file["object"][::every, ::every], file["weight"][::every, ::every]
        facts = dict(self.facts)
        facts["origin_xy"], facts["positions"] = facts["origin_xy"] / every, facts["positions"] / every
        return Reconstruction(obj, weight, **facts)

    def moved_to(self, path: Path) -> Path:
        """Put the file in its place, whole; return that."""
        with atomic_path(path) as part:
            self.canvas.replace(part)
        return path

    def product(self, path: Path, geometry: Geometry, name: str, comments: str) -> Path:
        """Write a product, object by pieces, once the file is in its place beside it."""
        with h5py.File(path.with_name(CANVAS_NAME), "r", locking=False) as file:
            facts = self.facts
            parts = file["object"], facts["origin_xy"], facts["positions"], facts["probe"]
            write_product(Product.of(*parts, geometry, name, comments), path)
        return path


def fits(scan: Scan, learned: bool, memory: int) -> bool:
    """Return whether a scan can be solved in one piece with so many bytes of memory."""
    pixels = scan.n_frames * scan.N**2
    spread = np.ptp(scan.positions, axis=0) + scan.N
    need = _PIXEL * float(np.prod(spread)) + (_PIXEL * min(pixels, 3 * _LARGEST) if learned else 4 * pixels)
    return need <= memory


def solve_in_pieces(
    job: PieceJob, folder: Path, pieces: Pieces, listeners: tuple[Progress | None, Progress | None]
) -> Solved | None:
    """Solve a scan in pieces, all processes of the group together.

    Parameters
    ----------
    job : PieceJob
        The same on all processes.
    folder : Path
        Where the results are to lie; gets the folder of state.
    pieces : Pieces
    listeners : tuple
        Called with tiles done and their number, and with the sweep that is done and its residual.

    Returns
    -------
    Solved
        On the first process; None on the others.

    Raises
    ------
    OutputError
        When there is state of an earlier run, and it is not to be gone on with.
    DataError
        When that is of another job, or the tiles of this one do not fit into memory.
    ProcessLost
        When another process has ended.
    """
    group, began = pieces.group, time.monotonic()
    store = Store(folder / STATE_NAME)
    pixels = group.shared(lambda: _begun(store, job, pieces))
    seen, guessed = _guessed(
        job, with_probe(job.scan.select(~job.hidden) if job.hidden.any() else job.scan), group
    )
    job = job.fitting(seen, pixels)
    moves = isinstance(job.options, RefineOptions) and job.options.update_positions
    canvas = Canvas.of(store, seen, REACH if moves else 0)
    probe = _started(job, seen, canvas, pixels, pieces, listeners[0])
    facts = _refined(job, seen, canvas, probe, pixels, pieces, listeners)
    probe, sweep = facts.pop("probe"), facts.pop("at")
    positions = job.scan.positions.copy()
    positions[~job.hidden] = facts.pop("positions")
    judged = Judging(job.scan, job.hidden, positions, canvas, sweep, probe, group, job.device).run()
    if not group.first:
        return None
    scale = 1 / seen.normalisation
    info = {**facts.pop("info"), **guessed, "cells": len(canvas.cells), "processes": group.size}
    facts |= {
        "positions": positions,
        "probe": (probe * scale).astype(np.complex64),
        "intensity_scale": scale,
        "residual": judged.used,
        "residual_withheld": judged.withheld,
        "seconds": round(time.monotonic() - began, 3),
        "provenance": provenance_of(job.scan, bundle=job.network.name),
        "info": info,
    }
    placed = place(positions[~job.hidden], seen.N)
    row, column = placed.origin_xy[::-1].astype(int)
    whole: Box = (int(row), int(column), *placed.shape)
    facts["origin_xy"] = placed.origin_xy
    path = write_canvas(store.folder / "canvas.h5", canvas, sweep, whole, *_parts(facts))
    return Solved(path, facts, placed.shape, store)


def _guessed(job: PieceJob, seen: Scan, group: Group) -> tuple[Scan, dict[str, float]]:
    """The scan with a nearer guess of its probe, which the first process looks for."""
    if job.learned is not None and not job.learned.update_probe:
        return seen, {}

    def found() -> tuple[Any, dict[str, float]]:
        nearer, facts = with_guess(seen, job.network, job.options, job.device)
        return nearer.probe, facts

    probe, facts = group.shared(found)
    return dataclasses.replace(seen, probe=probe), facts


def _parts(facts: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a reconstruction's fields goes into an HDF5 file as data sets, and what as attributes."""
    arrays = {key: facts[key] for key in ("origin_xy", "positions", "probe", "residuals")}
    plain = {k: v for k, v in facts.items() if k not in arrays and v is not None}
    texts = {k: json.dumps(plain.pop(k), default=str) for k in ("info", "provenance")}
    return arrays, {**plain, **texts}


def _begun(store: Store, job: PieceJob, pieces: Pieces) -> int:
    """Begin, or go on; return the pixels of frames that a tile may have, which a run keeps."""
    plan = job.plan()
    there = store.plan()
    if there is None and store.folder.exists():
        raise OutputError(f"{store.folder}: is no state of a reconstruction; remove it")
    if there is not None and not pieces.resume:
        raise OutputError(
            f"{store.folder}: holds a reconstruction that was ended; --resume goes on with it, or remove that"
            " folder to begin anew"
        )
    if there is not None:
        store.check_same(plan)
        logger.info("going on with the reconstruction in %s", store.folder)
        return int(there["tile_pixels"])
    group = pieces.group
    if memory_limit() < _LEAST:
        least = pieces.launcher + (memory_used() + _LEAST) * group.on_machine
        raise DataError(
            f"memory: expected at least {shown_bytes(least)} for"
            f" {group.on_machine} processes, most of it taken by programs and libraries; raise --memory"
        )
    room = memory_limit() * group.on_machine // (2 if pieces.share is None else 1)
    room //= max(group.on_machine, _SHARED_BY)
    pixels = int(min(_LARGEST, room // _PIXEL))
    store.begin({**plan, "tile_pixels": pixels})
    return pixels


def _started(
    job: PieceJob, seen: Scan, canvas: Canvas, pixels: int, pieces: Pieces, progress: Progress | None
) -> NDArray[np.complex64]:
    """Put the image to begin with onto the canvas; return the probe, normalised."""
    network, group, store = job.network, pieces.group, canvas.store
    assert seen.probe is not None
    if job.learned is None:
        return normalise_probe(seen.probe)
    assert network.solver is not None
    if network.probe is not None and same_beam(job.scan, network.probe):
        seen = dataclasses.replace(seen, probe=np.asarray(network.probe, dtype=np.complex64))
    elif job.learned.update_probe and not group.shared(lambda: store.has("tiles", "probe")):
        given = seen
        seen = dataclasses.replace(seen, probe=group.shared(lambda: probe_of(given, job.device)))
    assert seen.probe is not None
    probe = normalise_probe(seen.probe)
    tiles = job.tiles(seen, pixels)
    solver = network.solver.to(job.device)
    LearnedTiles(solver, frames_of(seen), tiles, job.learned, store, group).run(probe, progress)
    end = store.get("tiles")
    canvas.flat = complex(float(end["flat"]))
    merge("tiles", canvas, 0, group)
    return np.asarray(end["probe"])


def _refined(
    job: PieceJob,
    seen: Scan,
    canvas: Canvas,
    probe: NDArray[np.complex64],
    pixels: int,
    pieces: Pieces,
    listeners: tuple[Progress | None, Progress | None],
) -> dict[str, Any]:
    """Go on from there, where asked; what a result says of it, and ``at``, the sweep whose end it is."""
    found: dict[str, Any] = {"probe": probe, "at": 0, "positions": seen.positions, "info": {}}
    found |= {"solver": "learned", "sweeps": job.learned.sweeps if job.learned else 0, "residuals": ()}
    if job.solver is None:
        return found
    options = job.solver.Options() if job.options is None else job.options
    if isinstance(job.solver, Epie) and isinstance(options, RefineOptions):
        return {**found, **_swept(job, seen, canvas, probe, options, pieces, listeners[1])}
    if options.update_positions:
        raise ConfigError("--refine-positions in pieces requires --engine epie")
    began = None if job.learned is None else canvas
    work = engine_work(job.solver, seen, options, began, 0)
    tiles = tiles_within(seen.positions, seen.N, pixels // len(probe), float(seen.N))
    stage = TileStage("engine", seen, work, canvas.store, pieces.group, max(1, pixels // seen.N**2 // 4))
    stage.run(tiles, probe, listeners[0])
    end = canvas.store.get("engine")
    canvas.flat = complex(float(end["flat"]))
    merge("engine", canvas, 1, pieces.group)
    name = type(job.solver).__name__.lower()
    return {**found, "probe": end["probe"], "at": 1, "solver": name, "sweeps": options.sweeps}


def _swept(
    job: PieceJob,
    seen: Scan,
    canvas: Canvas,
    probe: NDArray[np.complex64],
    options: RefineOptions,
    pieces: Pieces,
    progress: Progress | None,
) -> dict[str, Any]:
    """Sweep with ``epie``; what a result says of it."""
    sweeps = Sweeps(seen, probe, options.resolved(flat=job.learned is None), canvas, pieces.group, job.device)
    done = sweeps.run(progress)
    end, positions = sweeps.end(done), seen.positions.copy()
    info: dict[str, Any] = {"stopped": str(end["stopped"])}
    if options.update_positions:
        for cell in canvas.cells:
            positions[cell.frames] += sweeps.moved(cell, done)
        info["moved_rms_px"] = float(np.sqrt(np.mean(np.sum((positions - seen.positions) ** 2, axis=1))))
    return {
        "probe": orthogonal_modes(end["probe"]),
        "at": done,
        "positions": positions,
        "info": info,
        "solver": "epie",
        "sweeps": done,
        "residuals": tuple(end["residuals"].tolist()),
    }
