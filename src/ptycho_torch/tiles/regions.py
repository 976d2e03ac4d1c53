r"""Solvers that see a region as a whole, in tiles with halos that are solved one by one: every engine of pty-chi.

The learned solver's tiles go in step, see :mod:`ptycho_torch.solvers.learned_tiles`.

The probe is solved for on frames in the middle of the scan and taken as known on the tiles, each of which is
solved by itself, by any process. Their objects then differ by a phase each, which all overlaps together decide
(:mod:`ptycho_torch.reconstruction.phases`):

    O = sum_t w_t z_t o_t / sum_t w_t,        w_t = sum of |P_m|^2 over the tile's own frames,   |z_t| = 1

What a tile's own frames see is within the halo of what the solver knows; so the cut shows in the image as far as
the solver reaches further than that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.errors import DataError
from ptycho_torch.files.memory import shown_bytes
from ptycho_torch.physics.gauges import level
from ptycho_torch.physics.regions import Placement, place
from ptycho_torch.processes import Group, dealt
from ptycho_torch.reconstruction.phases import synchronise
from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.scan.tiling import Box, Tile, as_box, cut_tiles, innermost, meeting, overlapping
from ptycho_torch.solvers.base import Progress, Solver
from ptycho_torch.solvers.frames import light_of
from ptycho_torch.solvers.options import SolverOptions
from ptycho_torch.tiles.store import Store
from ptycho_torch.tiles.sweeps import Canvas

__all__ = ["RegionWork", "TileStage", "engine_work", "merge", "tiles_within"]

logger = logging.getLogger(__name__)
_FEWEST: Final = 8
"""Frames of a tile's own below which its halo is most of the work, and no tile is made."""

RegionWork = Callable[
    [NDArray[np.int64], Placement, NDArray[np.complex64], bool],
    tuple[NDArray[np.complex64], NDArray[np.complex64]],
]
"""Solves frames that lie as placed, from a normalised probe, which it moves where asked: object and probe."""


def tiles_within(
    positions: NDArray[Any], size: int, pixels: int, halo: float, bytes_a_pixel: int = 60
) -> list[Tile]:
    """Cut a scan into tiles of which none, with its halo, has more than ``pixels`` pixels of frames.

    Parameters
    ----------
    positions : (M, 2) array
    size : int
    pixels : int
    halo : float
        Pixels of the object plane.
    bytes_a_pixel : int
        Memory that a pixel of frames takes, for the message.

    Raises
    ------
    DataError
        When the halo alone is larger: there is too little memory for frames that lie so closely.
    """
    most = max(1, pixels // size**2)
    while True:
        tiles = cut_tiles(positions, size, most, halo)
        largest = max(len(tile.frames) for tile in tiles)
        if largest * size**2 <= pixels:
            return tiles
        if most <= _FEWEST:
            raise DataError(
                f"memory: {largest} frames of {size} pixels have to be solved together, which takes"
                f" {shown_bytes(bytes_a_pixel * largest * size**2)}, found"
                f" {shown_bytes(bytes_a_pixel * pixels)}; raise --memory, use fewer --processes, or give --start flat"
            )
        most //= 2


def engine_work(
    solver: Solver, scan: Scan, options: SolverOptions, canvas: Canvas | None, sweep: int
) -> RegionWork:
    """Return what solves a region with any solver, from what lies on ``canvas`` after ``sweep``, or from flat."""

    def work(
        chosen: NDArray[np.int64], placed: Placement, probe: NDArray[np.complex64], moves_probe: bool
    ) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
        part = scan.select(chosen)
        row_column = placed.origin_xy[::-1].astype(int)
        box: Box = (int(row_column[0]), int(row_column[1]), *placed.shape)
        begin = np.ones(placed.shape, np.complex64) if canvas is None else canvas.after(box, sweep)
        scale = 1 / scan.normalisation
        start = Reconstruction(
            begin,
            light_of(placed, probe),
            placed.origin_xy,
            part.positions,
            probe * scale,
            intensity_scale=1 / part.normalisation,
        )
        settings = replace(options, update_probe=moves_probe and options.update_probe, update_positions=False)
        done = solver.solve(part, start, settings)
        return done.object, (done.probe / scale).astype(np.complex64)

    return work


@dataclass(frozen=True)
class TileStage:
    """Tiles of a scan that a group of processes solves; what is done already is not done again.

    Attributes
    ----------
    name : str
        Where results are kept.
    scan : Scan
    work : RegionWork
    store : Store
    group : Group
    middle : int
        Frames on which the probe is solved for.
    """

    name: str
    scan: Scan
    work: RegionWork
    store: Store
    group: Group
    middle: int = 512

    def run(self, tiles: list[Tile], probe: NDArray[np.complex64], progress: Progress | None = None) -> None:
        """Solve tiles from a normalised probe, and decide on their phases.

        ``progress``: called with tiles done by this process, and its share of them.
        """
        store, group, name = self.store, self.group, self.name
        if group.shared(lambda: store.has(name)):
            return
        raw = group.shared(lambda: self._probe(probe))
        todo = group.shared(lambda: store.missing(name, list(range(len(tiles)))))
        mine = dealt([float(len(tiles[n].frames)) for n in todo], group)
        for count, n in enumerate(mine):
            self._solve(todo[n], tiles[todo[n]], raw)
            if progress is not None:
                progress(count + 1, len(mine))
        group.wait()
        if group.first:
            self._end(len(tiles))
        group.wait()

    def _probe(self, probe: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """The probe that frames in the middle of the scan ask for; beside it one with the power of the frames."""
        if not self.store.has(self.name, "probe"):
            chosen = innermost(self.scan.positions, self.middle)
            _, found = self.work(chosen, place(self.scan.positions[chosen], self.scan.N), probe, True)
            normal = found * np.float32((self.scan.N / 2) / np.linalg.norm(found))
            self.store.put(self.name, "probe", probe=normal, raw=found)
        return self.store.get(self.name, "probe")["raw"]

    def _solve(self, number: int, tile: Tile, probe: NDArray[np.complex64]) -> None:
        """Keep what a tile's own frames light of its object, in the gauge of a probe with the frames' power."""
        size = self.scan.N
        placed = place(self.scan.positions[tile.frames], size)
        obj, _ = self.work(tile.frames, placed, probe, False)
        own = np.searchsorted(tile.frames, tile.core)
        core = replace(placed, corners=placed.corners[own], fractions=placed.fractions[own])
        normal = self.store.get(self.name, "probe")["probe"]
        weight = light_of(core, normal)
        low = core.corners.min(0).values.numpy()
        height, width = core.corners.max(0).values.numpy() + size - low
        window = np.s_[low[0] : low[0] + height, low[1] : low[1] + width]
        factor = np.float32(np.linalg.norm(probe) / np.linalg.norm(normal))
        row, column = placed.origin_xy[::-1].astype(int) + low
        box = np.array([row, column, height, width])
        self.store.put(self.name, number, object=obj[window] * factor, weight=weight[window], box=box)

    def _end(self, count: int) -> None:
        """Decide on the phases of tiles, and on the amplitude of what none of them lights."""
        store, name = self.store, self.name
        boxes = np.stack([store.get(name, n)["box"] for n in range(count)])
        pairs, products, levels = [], [], []
        for i in range(count):
            one = store.get(name, i)
            levels.append(level(one["object"], one["weight"]))
            for j in overlapping(as_box(boxes[i]), boxes):
                shared = meeting(as_box(boxes[i]), as_box(boxes[j]))
                if j <= i or shared is None:
                    continue
                mine, theirs = (a["object"] * a["weight"] for a in (one, store.get(name, j)))
                pairs.append((i, j))
                products.append(np.vdot(mine[shared[0]], theirs[shared[1]]))
        turns = synchronise(
            count, np.array(pairs, np.int64).reshape(-1, 2), np.array(products, np.complex128)
        )
        probe, flat = store.get(name, "probe")["probe"], np.array(np.mean(levels))
        store.put(name, "end", turns=turns, boxes=boxes, flat=flat, probe=probe)
        logger.info("%s: %d tiles solved", name, count)


def merge(stage: str, canvas: Canvas, sweep: int, group: Group) -> None:
    """Lay the tiles of a stage onto the canvas of cells, as what a sweep has come to."""
    store, target = canvas.store, Canvas.stage(sweep)
    if group.shared(lambda: store.has(target)):
        return
    end = store.get(stage)
    todo = group.shared(lambda: store.missing(target, [cell.number for cell in canvas.cells]))
    for n in dealt([1.0] * len(todo), group):
        box = canvas.boxes[todo[n]]
        total, weight = np.zeros(box[2:], np.complex64), np.zeros(box[2:], np.float32)
        for tile in overlapping(box, end["boxes"]):
            shared = meeting(box, as_box(end["boxes"][tile]))
            if shared is not None:
                piece, (mine, theirs) = store.get(stage, tile), shared
                turned = piece["object"][theirs] * np.complex64(end["turns"][tile])
                total[mine] += piece["weight"][theirs] * turned
                weight[mine] += piece["weight"][theirs]
        lit = weight > 1e-3 * weight.max()
        found = np.where(lit, total / np.where(lit, weight, 1), np.complex64(canvas.flat))
        store.put(target, todo[n], object=found.astype(np.complex64))
    group.wait()
    if group.first:
        store.put(target, "end", probe=end["probe"])
    group.wait()
