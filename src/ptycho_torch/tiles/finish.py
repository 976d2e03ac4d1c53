"""From the windows of cells to one canvas on the disk, with its weight and the residual of the frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_torch.files import atomic_path
from ptycho_torch.physics.regions import place
from ptycho_torch.processes import Group, dealt
from ptycho_torch.scan import Scan
from ptycho_torch.scan.tiling import Box
from ptycho_torch.solvers.frames import light_of
from ptycho_torch.solvers.measured import Measured
from ptycho_torch.solvers.residual import misfit_sums
from ptycho_torch.tiles.sweeps import Canvas

__all__ = ["Judged", "Judging", "write_canvas"]

_STAGE: Final = "finish"
_SAMPLE: Final = 512
"""Frames that were used on which R is measured, at most."""
_CHUNK: Final = 256
"""Edge of a chunk of the canvas in its file."""


@dataclass(frozen=True)
class Judged:
    """R of frames that were used, and of those that were kept back, None where there are none."""

    used: float
    withheld: float | None


@dataclass(frozen=True)
class Judging:
    """Measures R and the weight, cell by cell.

    Attributes
    ----------
    scan : Scan
        All frames.
    hidden : (M,) bool array
        Frames that no solver has seen.
    positions : (M, 2) float64 array
        As solved for.
    canvas : Canvas
        Cells of the frames that are not hidden.
    sweep : int
        Whose end is judged.
    probe : (modes, N, N) complex64 array
        Normalised.
    group : Group
    device : str
    """

    scan: Scan
    hidden: NDArray[np.bool_]
    positions: NDArray[np.float64]
    canvas: Canvas
    sweep: int
    probe: NDArray[np.complex64]
    group: Group
    device: str = "cpu"

    @torch.inference_mode()
    def run(self) -> Judged:
        """Measure what is not measured yet, all processes together."""
        store, cells = self.canvas.store, self.canvas.cells
        seen = np.flatnonzero(~self.hidden)
        member = np.empty(len(seen), dtype=np.int64)
        for cell in cells:
            member[cell.frames] = cell.number
        chosen = np.arange(len(seen))
        if len(seen) > _SAMPLE:
            chosen = np.sort(np.random.default_rng(0).choice(len(seen), _SAMPLE, replace=False))
        kept = np.flatnonzero(self.hidden)
        home = np.empty(0, np.int64)
        if len(kept):
            home = member[cKDTree(self.scan.positions[seen]).query(self.scan.positions[kept])[1]]
        todo = self.group.shared(lambda: store.missing(_STAGE, [cell.number for cell in cells]))
        for n in dealt([float(len(cells[n].frames)) for n in todo], self.group):
            number = todo[n]
            placed = place(self.positions[seen[cells[number].frames]], self.scan.N)
            row, column = placed.origin_xy[::-1].astype(int)
            store.put(
                _STAGE,
                number,
                weight=light_of(placed, self.probe),
                box=np.array([row, column, *placed.shape]),
                used=self._sums(seen[chosen[member[chosen] == number]]),
                withheld=self._sums(kept[home == number]),
            )
        self.group.wait()
        sums = {
            name: sum((store.get(_STAGE, cell.number)[name] for cell in cells), np.zeros(2))
            for name in ("used", "withheld")
        }
        used, withheld = (float(a / b) if b else None for a, b in sums.values())
        assert used is not None
        return Judged(used, withheld)

    def _sums(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Both sums of R of some frames."""
        if not len(chosen):
            return np.zeros(2)
        factor = self.scan.select(~self.hidden).normalisation
        source = Measured(self.scan.frames, factor, self.scan.good_pixels, self.device, keep=False)
        placed = place(self.positions[chosen], self.scan.N)
        row, column = placed.origin_xy[::-1].astype(int)
        window = self.canvas.after((int(row), int(column), *placed.shape), self.sweep)
        probe = torch.from_numpy(np.ascontiguousarray(self.probe)).to(self.device)
        canvas = torch.from_numpy(window).to(self.device)
        return np.array(misfit_sums(source, chosen, placed, canvas, probe))


def write_canvas(
    path: Path, canvas: Canvas, sweep: int, whole: Box, arrays: dict[str, Any], attributes: dict[str, Any]
) -> Path:
    """Write the object of all cells and its weight as chunked HDF5, a piece at a time, whole or not at all.

    Parameters
    ----------
    path : Path
    canvas : Canvas
        Judged.
    sweep : int
        Whose end is written.
    whole : tuple
        The window of the object plane that the file holds.
    arrays, attributes : dict
        What else the file gets, by name: data sets, and attributes of the file.
    """
    shape = whole[2:]
    chunks = (min(_CHUNK, shape[0]), min(_CHUNK, shape[1]))
    with atomic_path(path) as part, h5py.File(part, "w", locking=False) as file:
        obj = file.create_dataset("object", shape, np.complex64, chunks=chunks)
        weight = file.create_dataset("weight", shape, np.float32, chunks=chunks)
        for cell in canvas.cells:
            piece = canvas.store.get(_STAGE, cell.number)
            row, column, height, width = piece["box"].tolist()
            here = np.s_[row - whole[0] :, column - whole[1] :]
            window = tuple(slice(s.start, s.start + n) for s, n in zip(here, (height, width), strict=True))
            weight[window] = weight[window] + piece["weight"]
        for part_of in _stripes(whole, chunks):
            rows = slice(part_of[0] - whole[0], part_of[0] - whole[0] + part_of[2])
            columns = slice(part_of[1] - whole[1], part_of[1] - whole[1] + part_of[3])
            found = canvas.after(part_of, sweep)
            obj[rows, columns] = np.where(weight[rows, columns] > 0, found, 0)
        for name, value in arrays.items():
            file[name] = value
        file.attrs.update(attributes)
    return path


def _stripes(whole: Box, chunks: tuple[int, int]) -> Iterator[Box]:
    """Windows of some chunks each that cover a window."""
    step = 4 * chunks[0], 4 * chunks[1]
    for row in range(0, whole[2], step[0]):
        for column in range(0, whole[3], step[1]):
            height, width = min(step[0], whole[2] - row), min(step[1], whole[3] - column)
            yield whole[0] + row, whole[1] + column, height, width
