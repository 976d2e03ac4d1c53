"""epie over cells: what one canvas in memory gives in the same order; what is done is not done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import small_scan

from ptycho_torch.physics.gauges import keep_mean, orthogonal_modes
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.processes import ALONE
from ptycho_torch.scan import Scan
from ptycho_torch.scan.cells import PHASES, deal_cells
from ptycho_torch.solvers import RefineOptions
from ptycho_torch.solvers.epie import REACH, Iteration
from ptycho_torch.solvers.measured import Measured
from ptycho_torch.tiles.store import Store
from ptycho_torch.tiles.sweeps import Canvas, Sweeps, boxes_of

SIZE = 16
Make = Callable[..., Sweeps]


@pytest.fixture(scope="module")
def scan() -> Scan:
    return small_scan(SIZE, step=4.0, edge=96)


@pytest.fixture
def sweeps(scan: Scan, tmp_path: Path) -> Make:
    def make(name: str = "state", **changes: Any) -> Sweeps:
        store = Store(tmp_path / name)
        if store.plan() is None:
            store.begin({})
        options = RefineOptions(**{"sweeps": 3, "step": 1.0, **changes}).resolved(flat=True)
        reach = REACH if options.update_positions else 0
        cells = deal_cells(scan.positions, SIZE, reach, wanted=8)
        canvas = Canvas(store, cells, boxes_of(scan.positions, cells, SIZE, reach))
        assert scan.probe is not None
        return Sweeps(scan, normalise_probe(scan.probe), options, canvas, ALONE)

    return make


def whole(made: Sweeps, sweep: int) -> np.ndarray:
    row, column = np.array(made.canvas.boxes)[:, :2].min(0)
    low = np.array(made.canvas.boxes)
    height, width = (low[:, :2] + low[:, 2:]).max(0) - (row, column)
    return made.canvas.after((int(row), int(column), int(height), int(width)), sweep)


@torch.inference_mode()
def untiled(scan: Scan, like: Sweeps) -> tuple[np.ndarray, np.ndarray, list[float], np.ndarray]:
    """The same batches in the same order on one canvas in memory; probes meet at the end of each sweep."""
    options, cells, seed = like.options, like.canvas.cells, like.options.seed
    frames = Measured(np.asarray(scan.frames), scan.normalisation)
    assert scan.probe is not None
    probe = orthogonal_modes(normalise_probe(scan.probe))
    state = Iteration(frames, scan.positions, probe, None, options, torch.device("cpu"))
    last_canvas, last_probe, ahead = state.canvas.clone(), torch.from_numpy(probe), torch.from_numpy(probe)
    residuals: list[float] = []
    run = 0
    for sweep in range(1, options.sweeps + 1):
        found, sums = torch.zeros_like(ahead), torch.zeros(2)
        for phase in range(PHASES):
            for cell in (c for c in cells if c.phase == phase):
                state.probe = ahead
                order = np.random.default_rng([seed, sweep, cell.number, 0]).permutation(len(cell.frames))
                sums += torch.stack(state.use(cell.frames[order], sweep - 1))
                found += len(cell.frames) / scan.n_frames * state.probe
        if state.moves_positions(sweep - 1):
            state.places = state.begin + keep_mean(state.places - state.begin, REACH)
        residuals.append(float(sums[0] / sums[1]))
        run = 1 if len(residuals) > 1 and residuals[-1] > residuals[-2] else run + 1
        momentum = min(run / (run + 3), options.momentum)
        now = state.canvas.clone()
        state.canvas.copy_(last_canvas + (1 + momentum) * (now - last_canvas))
        ahead, last_canvas = last_probe + (1 + momentum) * (found - last_probe), now
        last_probe = found
    return last_canvas.numpy(), last_probe.numpy(), residuals, state.places - state.begin


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("positions", [False, True])
def test_cells_give_what_one_canvas_gives(scan: Scan, sweeps: Make, positions: bool) -> None:
    made = sweeps(update_positions=positions, positions_after=1)
    assert {cell.phase for cell in made.canvas.cells} == set(range(PHASES))
    done = made.run()
    obj, probe, residuals, moved = untiled(scan, made)
    end = made.end(done)
    assert done == 3
    assert distance(whole(made, done), obj) < 1e-5
    assert distance(end["probe"], probe) < 1e-5
    assert np.allclose(end["residuals"], residuals, rtol=1e-5)
    assert residuals[-1] < 0.3 * residuals[0]
    if positions:
        assert np.abs(moved).max() > 0.01
        for cell in made.canvas.cells:
            assert np.allclose(made.moved(cell, done), moved[cell.frames], atol=1e-4)


def test_what_is_done_is_not_done_again(sweeps: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = sweeps()
    wanted = whole(straight, straight.run())
    broken = sweeps("broken")
    put, count, stop = Store.put, 0, -1

    def dies(self: Store, stage: str, piece: int | str, **arrays: Any) -> None:
        nonlocal count
        count += 1
        if count == stop:
            raise KeyboardInterrupt
        put(self, stage, piece, **arrays)

    pieces = 3 * (len(broken.canvas.cells) + 1)
    monkeypatch.setattr(Store, "put", dies)
    for last_one in (4, 9, len(broken.canvas.cells) + 1):  # within phases, and at the end of a sweep
        count, stop = 0, last_one
        with pytest.raises(KeyboardInterrupt):
            sweeps("broken").run()
    stop, before = -1, 3 + 8 + len(broken.canvas.cells)
    count = 0
    last = sweeps("broken")
    assert np.array_equal(whole(last, last.run()), wanted)
    assert count == pieces - before
    count = 0
    assert sweeps("broken").run() == 3
    assert count == 0


def test_memory_changes_nothing(sweeps: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rich = sweeps("rich")
    wanted = whole(rich, rich.run())
    assert rich._cache
    poor = sweeps("poor")
    poor._room = 0
    assert np.array_equal(whole(poor, poor.run()), wanted)
    assert not poor._cache


@pytest.mark.parametrize("spare", [-1, 0, 2, 8])
def test_frames_are_kept_only_where_there_is_room_beside_those_in_use(
    sweeps: Make, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    """Kept frames and six times the largest cell's never take more than there is."""
    cells = sweeps("any").canvas.cells
    largest = 4 * max(len(cell.frames) for cell in cells) * SIZE**2
    limit = (6 + spare) * largest
    monkeypatch.setattr("ptycho_torch.tiles.sweeps.memory_limit", lambda: limit)
    tight = sweeps("tight")
    tight.run()
    kept = sum(frames.nbytes for frames in tight._cache.values())
    assert kept <= max(0, limit - 6 * largest)
    assert bool(kept) == (spare > 1)


def test_sweeps_stop_when_the_residual_stops_falling(sweeps: Make) -> None:
    made = sweeps(sweeps=40, tolerance=0.9)
    assert made.run() == 11
    assert str(made.end(11)["stopped"]) == "residual stopped falling"
    assert len(list(made.store.folder.glob("sweep-*"))) == 2


def test_cells_of_many_frames_are_read_in_portions(sweeps: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptycho_torch.tiles.sweeps._PORTION", 5 * SIZE**2)
    made = sweeps(sweeps=6)
    for cell in made.canvas.cells:
        parts = [made._members(cell.number, n) for n in range(made._portions(cell.number))]
        assert max(map(len, parts)) <= 5
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(cell.frames)))
    residuals = made.end(made.run())["residuals"]
    assert residuals[-1] < 0.2 * residuals[0]
