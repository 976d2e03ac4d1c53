r"""``epie`` over cells: the same image for any memory and any number of processes.

A sweep goes through the four phases of :mod:`ptycho_torch.scan.cells`. A cell's mini-batches change its own window
of the canvas, one after the other, as in :mod:`ptycho_torch.solvers.epie`; cells of one phase never touch each
other, and between phases all see what all have done. Within a sweep every cell goes on from one probe, by itself;
the sweep ends with the mean of what they have found, and with R and Nesterov's step of the whole scan:

    P = sum_c n_c P_c / sum_c n_c,        n_c frames of cell c

So the order of all changes follows from positions and seed. What ``epie`` does on one canvas in memory, given
batches in that order and probes that meet at the end of a sweep, is the same to rounding. Given its own order it
is another run of the same method: the image differs as it does between two seeds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.files.memory import memory_limit
from ptycho_torch.physics.gauges import orthogonal_modes
from ptycho_torch.processes import Group, dealt
from ptycho_torch.scan import Scan
from ptycho_torch.scan.cells import PHASES, Cell, deal_cells
from ptycho_torch.scan.prefetch import one_ahead, stretches
from ptycho_torch.scan.tiling import Box, meeting, overlapping
from ptycho_torch.solvers.base import Progress
from ptycho_torch.solvers.epie import REACH, Iteration
from ptycho_torch.solvers.measured import Measured
from ptycho_torch.solvers.options import RefineOptions
from ptycho_torch.tiles.store import Store

__all__ = ["Canvas", "Sweeps", "boxes_of"]

logger = logging.getLogger(__name__)
_PORTION: Final = 8 << 20
"""Pixels of frames that are read together; a cell's batches are drawn from one portion after the other."""
_COPIES: Final = 6
"""How often these are in memory: as stored, as numbers, as amplitudes, and the first two of the next ones, with some to
spare for what a batch takes."""


def boxes_of(positions: NDArray[Any], cells: list[Cell], size: int, reach: int = 0) -> list[Box]:
    """Return the window of each cell: what its frames' patches cover, and ``reach`` pixels around it."""
    whole = np.floor(np.asarray(positions, dtype=np.float64) + 0.5).astype(np.int64)
    boxes = []
    for cell in cells:
        low = whole[cell.frames].min(0) - size // 2 - reach
        width, height = whole[cell.frames].max(0) - whole[cell.frames].min(0) + size + 2 * reach
        boxes.append((int(low[1]), int(low[0]), int(height), int(width)))
    return boxes


@dataclass
class Canvas:
    """The object between sweeps, as windows of cells on the disk.

    Attributes
    ----------
    store : Store
    cells : list of Cell
    boxes : list of tuple
        The window of each cell.
    flat : complex
        What lies where no window does, and everywhere before the first sweep where nothing was solved before.
    """

    store: Store
    cells: list[Cell]
    boxes: list[Box]
    flat: complex = 1.0

    @classmethod
    def of(cls, store: Store, scan: Scan, reach: int = 0, flat: complex = 1.0) -> Canvas:
        """Return the canvas of a scan whose positions may move by ``reach`` pixels."""
        cells = deal_cells(scan.positions, scan.N, reach)
        return cls(store, cells, boxes_of(scan.positions, cells, scan.N, reach), flat)

    @staticmethod
    def stage(sweep: int) -> str:
        """Return the name of a sweep's stage; 0 is the start."""
        return f"sweep-{sweep:04d}"

    def near(self, box: Box) -> list[int]:
        """Return the cells whose windows share pixels with a box, in the order in which they are changed."""
        found = overlapping(box, np.array(self.boxes))
        return sorted(found, key=lambda n: (self.cells[n].phase, n))

    def after(self, box: Box, sweep: int) -> NDArray[np.complex64]:
        """Return a window as it is when a sweep has ended."""
        found = np.full(box[2:], self.flat, dtype=np.complex64)
        if sweep or self.store.has(self.stage(0)):
            self._over(found, box, sweep, PHASES)
        return found

    def before(self, box: Box, sweep: int, phase: int, momentum: float) -> NDArray[np.complex64]:
        """Return a window as it is when a phase of a sweep begins."""
        found = self.after(box, sweep - 1)
        if sweep > 1 and momentum:
            last = self.after(box, sweep - 2)
            found = last + np.float32(1 + momentum) * (found - last)
        self._over(found, box, sweep, phase)
        return found

    def _over(self, found: NDArray[np.complex64], box: Box, sweep: int, phases: int) -> None:
        """Lay over a window what the first phases of a sweep have made of it."""
        for number in self.near(box):
            shared = meeting(box, self.boxes[number])
            if self.cells[number].phase < phases and shared is not None:
                mine, theirs = shared
                found[mine] = self.store.get(self.stage(sweep), number)["object"][theirs]


class _Held:
    """Frames of one portion of a cell, asked for by their place in the cell."""

    def __init__(self, index: NDArray[np.int64], frames: Measured) -> None:
        self._index, self._frames, self.good = index, frames, frames.good

    def batch(self, index: NDArray[np.int64]) -> Tensor:
        return self._frames.batch(np.searchsorted(self._index, index))


class Sweeps:
    """``epie`` over the cells of a scan, by a group of processes.

    Parameters
    ----------
    scan : Scan
    probe : (modes, N, N) complex array
        In the unit of frames whose mean power is (N/2)^2.
    options : RefineOptions
        Resolved.
    canvas : Canvas
        With room for what positions may move.
    group : Group
    device : str
    """

    def __init__(
        self,
        scan: Scan,
        probe: NDArray[Any],
        options: RefineOptions,
        canvas: Canvas,
        group: Group,
        device: str = "cpu",
    ) -> None:
        self.scan, self.options, self.canvas, self.group = scan, options, canvas, group
        self.store, self.device = canvas.store, torch.device(device)
        self.reach = REACH if options.update_positions else 0
        self.factor = scan.normalisation
        self.start = group.shared(lambda: orthogonal_modes(np.array(probe, dtype=np.complex64)))
        self._cache: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._room = max(0, memory_limit() - self._at_work()) // 2

    # ---- how far it is

    @property
    def ended(self) -> int:
        """Sweeps that are over."""
        done = [int(p.parent.name[6:]) for p in self.store.folder.glob("sweep-*/end.npz")]
        return max([0, *done])

    def end(self, sweep: int) -> dict[str, NDArray[Any]]:
        """Return what a sweep has come to, and what the next one begins with."""
        if sweep:
            return self.store.get(Canvas.stage(sweep))
        return {
            "probe": self.start,
            "ahead": self.start,
            "momentum": np.array(0.0),
            "run": np.array(0),
            "residuals": np.zeros(0),
            "mean_move": np.zeros(2),
            "seconds": np.array(0.0),
            "stopped": np.array(""),
        }

    def moved(self, cell: Cell, sweep: int) -> NDArray[np.float64]:
        """Return how far the frames of a cell have moved when a sweep has ended, (K, 2) pixels."""
        if not sweep or not self.reach:
            return np.zeros((len(cell.frames), 2))
        raw = self.store.get(Canvas.stage(sweep), cell.number)["moved"]
        return np.clip(raw - self.end(sweep)["mean_move"], -REACH, REACH)

    # ---- work

    @torch.inference_mode()
    def run(self, progress: Progress | None = None) -> int:
        """Sweep until the options say stop; return the number of sweeps. Goes on from what there is.

        Raises
        ------
        ProcessLost
            Where another process has ended.
        """
        sweep = self.group.shared(lambda: self.ended)
        while sweep < self.options.sweeps and not str(self.end(sweep)["stopped"]):
            sweep += 1
            began = time.monotonic()
            for phase in range(PHASES):
                self._phase(sweep, phase)
            if self.group.first:
                self._finish(sweep, began)
            self.group.wait()
            if self.group.first:
                self.store.drop(Canvas.stage(sweep - 2))
                if progress is not None:
                    progress(sweep, float(self.end(sweep)["residuals"][-1]))
        return sweep

    def _phase(self, sweep: int, phase: int) -> None:
        """Do what is left of a phase, all processes together."""
        numbers = [cell.number for cell in self.canvas.cells if cell.phase == phase]
        todo = self.group.shared(lambda: self.store.missing(Canvas.stage(sweep), numbers))
        mine = dealt([float(len(self.canvas.cells[n].frames)) for n in todo], self.group)
        jobs = [(todo[n], portion) for n in mine for portion in range(self._portions(todo[n]))]
        state: Iteration | None = None
        sums = np.zeros(2)
        for (number, portion), frames in zip(jobs, self._read(jobs), strict=True):
            cell = self.canvas.cells[number]
            if state is None:
                state, sums = self._begun(cell, sweep), np.zeros(2)
            index = self._members(number, portion)
            state.frames = _Held(index, frames)
            order = np.random.default_rng([self.options.seed, sweep, number, portion]).permutation(index)
            sums += [float(part) for part in state.use(order, sweep - 1)]
            if portion + 1 == self._portions(number):
                self._keep(cell, sweep, state, sums)
                state = None
        self.group.wait()

    def _begun(self, cell: Cell, sweep: int) -> Iteration:
        last = self.end(sweep - 1)
        box = self.canvas.boxes[cell.number]
        start = self.canvas.before(box, sweep, cell.phase, float(last["momentum"]))
        positions = self.scan.positions[cell.frames]
        nothing = _Held(np.zeros(0, np.int64), Measured(np.zeros((0, self.scan.N, self.scan.N), np.float32)))
        state = Iteration(nothing, positions, last["ahead"], start, self.options, self.device)
        state.places = state.begin + self.moved(cell, sweep - 1)
        return state

    def _keep(self, cell: Cell, sweep: int, state: Iteration, sums: NDArray[np.float64]) -> None:
        self.store.put(
            Canvas.stage(sweep),
            cell.number,
            object=state.canvas.cpu().numpy(),
            probe=state.probe.cpu().numpy(),
            sums=sums,
            moved=state.places - state.begin if self.reach else np.zeros((0, 2)),
        )

    def _finish(self, sweep: int, began: float) -> None:
        """End a sweep: probe, residual and step of the whole scan."""
        last, stage = self.end(sweep - 1), Canvas.stage(sweep)
        probe, sums, shift = np.zeros(self.start.shape, np.complex128), np.zeros(2), np.zeros(2)
        for cell in self.canvas.cells:  # always in one order, so that rounding is the same
            piece = self.store.get(stage, cell.number)
            probe += len(cell.frames) * piece["probe"].astype(np.complex128)
            sums += piece["sums"]
            if self.reach:
                shift += piece["moved"].sum(0)
        probe /= self.scan.n_frames
        residuals = [*last["residuals"].tolist(), sums[0] / sums[1]]
        rose = len(residuals) > 1 and residuals[-1] > residuals[-2]
        run = 1 if rose else int(last["run"]) + 1
        momentum = min(run / (run + 3), self.options.momentum)
        seconds = float(last["seconds"]) + time.monotonic() - began
        self.store.put(
            stage,
            "end",
            probe=probe.astype(np.complex64),
            ahead=(last["probe"] + (1 + momentum) * (probe - last["probe"])).astype(np.complex64),
            momentum=np.array(momentum),
            run=np.array(run),
            residuals=np.array(residuals),
            mean_move=shift / self.scan.n_frames,
            seconds=np.array(seconds),
            stopped=np.array(self._stopped(residuals, seconds)),
        )
        logger.info("sweep %d: R %.5g, %.1f s in all", sweep, residuals[-1], seconds)

    def _stopped(self, residuals: list[float], seconds: float) -> str:
        options = self.options
        if options.minutes is not None and seconds > 60 * options.minutes:
            return "time used up"
        if len(residuals) > 10 and residuals[-6] - min(residuals[-5:]) < options.tolerance * residuals[-6]:
            return "residual stopped falling"
        return "sweeps used up" if len(residuals) >= options.sweeps else ""

    # ---- frames

    def _at_work(self) -> int:
        """Bytes that the portion in use and the one that is read ahead take."""
        largest = max(len(cell.frames) for cell in self.canvas.cells) * self.scan.N**2
        return _COPIES * 4 * min(_PORTION, largest)

    def _portions(self, number: int) -> int:
        most = max(1, _PORTION // self.scan.N**2)
        return max(1, -(-len(self.canvas.cells[number].frames) // most))

    def _members(self, number: int, portion: int) -> NDArray[np.int64]:
        """Places in a cell of the frames of one portion, ascending: the same in every sweep."""
        count = len(self.canvas.cells[number].frames)
        order = np.random.default_rng([self.options.seed, number]).permutation(count)
        return np.sort(np.array_split(order, self._portions(number))[portion])

    def _read(self, jobs: list[tuple[int, int]]) -> Iterator[Measured]:
        """Yield frames of portions, one read ahead; those that fit into memory stay there."""

        def read(part: slice) -> NDArray[np.float32]:
            number, portion = jobs[part.start]
            if (number, portion) in self._cache:
                return self._cache[number, portion]
            index = self.canvas.cells[number].frames[self._members(number, portion)]
            frames = np.asarray(self.scan.frames[index], dtype=np.float32)
            if frames.nbytes <= self._room:
                self._room -= frames.nbytes
                self._cache[number, portion] = frames
            return frames

        for frames in one_ahead(read, stretches(len(jobs), 1)):
            yield Measured(frames, self.factor, self.scan.good_pixels, self.device, keep=False)
