"""Tiles of solvers that see a region: stitched in one phase, whoever solved them; memory bounds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small import correlation, small_scan

from ptycho_torch.errors import DataError
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.physics.regions import Placement
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.processes import ALONE
from ptycho_torch.scan import Scan
from ptycho_torch.solvers import SOLVERS, LearnedOptions, RefineOptions
from ptycho_torch.solvers.frames import frames_of
from ptycho_torch.solvers.learned import solve_learned
from ptycho_torch.solvers.learned_tiles import LearnedTiles
from ptycho_torch.tiles.regions import TileStage, engine_work, merge, tiles_within
from ptycho_torch.tiles.store import Store
from ptycho_torch.tiles.sweeps import Canvas

SIZE = 16


@pytest.fixture(scope="module")
def scan() -> Scan:
    return small_scan(SIZE, step=5.0, edge=100)


@pytest.fixture
def canvas(scan: Scan, tmp_path: Path) -> Canvas:
    store = Store(tmp_path / "state")
    store.begin({})
    return Canvas.of(store, scan)


def box_of(canvas: Canvas) -> tuple[int, int, int, int]:
    low = np.array(canvas.boxes)
    row, column = low[:, :2].min(0)
    height, width = (low[:, :2] + low[:, 2:]).max(0) - (row, column)
    return int(row), int(column), int(height), int(width)


def stitched(scan: Scan, canvas: Canvas, work: object, pixels: int) -> tuple[NDArray[np.complex64], int]:
    tiles = tiles_within(scan.positions, SIZE, pixels, float(SIZE))
    assert scan.probe is not None
    stage = TileStage("tiles", scan, work, canvas.store, ALONE)  # type: ignore[arg-type]
    stage.run(tiles, normalise_probe(scan.probe))
    merge("tiles", canvas, 0, ALONE)
    return canvas.after(box_of(canvas), 0), len(tiles)


def test_phases_of_tiles_agree(scan: Scan, canvas: Canvas) -> None:
    """Solvers leave a phase open: here each region comes back with another one."""
    truth, rng = scan.object_guess, np.random.default_rng(0)
    assert truth is not None
    calls = []

    def work(
        chosen: NDArray[np.int64], placed: Placement, probe: NDArray[np.complex64], moves: bool
    ) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
        calls.append((len(chosen), moves))
        column, row = placed.origin_xy.astype(int)
        height, width = placed.shape
        turn = np.exp(2j * np.pi * rng.random()) if not moves else 1
        return (turn * truth[row : row + height, column : column + width]).astype(np.complex64), 2 * probe

    found, count = stitched(scan, canvas, work, 120 * SIZE**2)
    assert count > 3
    assert [moves for _, moves in calls] == [True, *[False] * count]
    row, column, height, width = box_of(canvas)
    wanted = truth[row : row + height, column : column + width]
    lit = found != 1
    assert lit.mean() > 0.9
    assert correlation(found[lit], wanted[lit]) > 1 - 1e-5
    # Probes come back brighter: objects are those of a probe with the power of the frames.
    assert np.allclose(np.abs(found[lit]), 2 * np.abs(wanted[lit]), rtol=1e-3)


PHYSICS = RegionSolver(iterations=1, passes=2, width=8, levels=1).eval()


def in_step(scan: Scan, canvas: Canvas, sweeps: int = 2) -> tuple[NDArray[np.complex64], int]:
    """The image of tiles of the learned solver, whose windows the canvas keeps."""
    tiles = tiles_within(scan.positions, SIZE, 150 * SIZE**2, float(SIZE))
    assert scan.probe is not None
    options = LearnedOptions(sweeps=sweeps)
    LearnedTiles(PHYSICS, frames_of(scan), tiles, options, canvas.store).run(normalise_probe(scan.probe))
    merge("tiles", canvas, 0, ALONE)
    return canvas.after(box_of(canvas), 0), len(tiles)


def test_what_is_done_is_not_done_again(
    scan: Scan, canvas: Canvas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends in the middle of an iteration goes on with the tiles that it lacks, to the same bits."""
    other = Store(tmp_path / "straight")
    other.begin({})
    wanted, count = in_step(scan, Canvas.of(other, scan))
    assert count > 3
    put, iterate, calls = Store.put, LearnedTiles._iterated, []

    def dies(self: Store, stage: str, piece: int | str, **arrays: object) -> None:
        if (stage, piece) == ("tiles-0002", 2):
            raise KeyboardInterrupt
        put(self, stage, piece, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            in_step(scan, canvas)

    def counted(self: LearnedTiles, number: int, k: int) -> object:
        calls.append((number, k))
        return iterate(self, number, k)

    monkeypatch.setattr(LearnedTiles, "_iterated", counted)
    done = len(list((canvas.store.folder / "tiles-0002").glob("0*.npz")))
    found, _ = in_step(scan, canvas)
    assert len(calls) == count - done
    assert {k for _, k in calls} == {1}
    assert np.array_equal(found, wanted)
    assert sorted(path.name for path in canvas.store.folder.glob("tiles*")) == ["tiles"]


def test_tiles_of_the_learned_solver_give_the_image_of_the_whole(scan: Scan, canvas: Canvas) -> None:
    found, _ = in_step(scan, canvas, sweeps=5)
    assert scan.probe is not None
    whole = solve_learned(PHYSICS, frames_of(scan), normalise_probe(scan.probe), LearnedOptions(sweeps=5))
    lit = whole.weight > 0.2 * whole.weight.max()
    # The canvas is that of a probe with the power of the frames.
    gain = np.linalg.norm(whole.probe) / (SIZE / 2)
    assert np.linalg.norm((found / gain - whole.object)[lit]) < 5e-3 * np.linalg.norm(whole.object[lit])


def test_any_solver_goes_on_from_the_canvas(scan: Scan, canvas: Canvas) -> None:
    epie = SOLVERS.get("epie")()
    rough, _ = stitched(
        scan, canvas, engine_work(epie, scan, RefineOptions(sweeps=2), None, 0), 150 * SIZE**2
    )
    work = engine_work(epie, scan, RefineOptions(sweeps=3), canvas, 0)
    stage = TileStage("engine", scan, work, canvas.store, ALONE)
    probe = canvas.store.get("tiles")["probe"]
    stage.run(tiles_within(scan.positions, SIZE, 150 * SIZE**2, float(SIZE)), probe)
    merge("engine", canvas, 1, ALONE)
    row, column, height, width = box_of(canvas)
    assert scan.object_guess is not None
    truth = scan.object_guess[row : row + height, column : column + width]
    better = canvas.after(box_of(canvas), 1)
    middle = np.s_[16:-16, 16:-16]
    assert correlation(better[middle], truth[middle]) > correlation(rough[middle], truth[middle]) > 0.8


def test_too_little_memory_for_a_halo_is_said() -> None:
    x, y = np.meshgrid(np.arange(40.0), np.arange(40.0))
    positions = np.stack([x.ravel(), y.ravel()], 1)
    with pytest.raises(DataError, match=r"memory: .* --start flat"):
        tiles_within(positions, 16, 10 * 16**2, 24.0)
    assert all(len(t.frames) <= 900 for t in tiles_within(positions, 16, 900 * 16**2, 8.0))


def test_state_of_something_else_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    assert store.plan() is None
    store.begin({"a": 1})
    store.check_same({"a": 1})
    with pytest.raises(DataError, match="a: expected 1"):
        store.check_same({"a": 2})
    store.put("stage", 3, x=np.arange(3))
    assert store.missing("stage", [2, 3]) == [2]
    (store.folder / "stage" / "00003.npz").write_bytes(b"half")
    with pytest.raises(DataError, match="cannot be read"):
        store.get("stage", 3)
    (store.folder / "plan.json").write_text("[]")
    with pytest.raises(DataError, match="expected the state"):
        store.plan()
