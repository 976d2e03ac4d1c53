"""Regions while frames arrive: residual, orientation, and work that stays bounded."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import small_scan

from ptycho_torch.bundle.shipped import load_solver
from ptycho_torch.errors import DataError
from ptycho_torch.live.engines import FlatEngine, LearnedEngine, Region, misfit, which_orientation
from ptycho_torch.live.growing import Growing, GrowingOptions
from ptycho_torch.live.intake import Intake
from ptycho_torch.live.orientation import ORIENTATIONS, Orientation
from ptycho_torch.live.replay import stored_frames
from ptycho_torch.live.spool import Spool
from ptycho_torch.physics.regions import place
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.solvers.learned import RegionObject

SCAN = small_scan(size=32, step=4.0, edge=72, photons=1e7)
assert SCAN.probe is not None
PROBE = normalise_probe(SCAN.probe)


def region(count: int = 48) -> Region:
    frames = np.asarray(SCAN.frames[:count]) * np.float32(SCAN.normalisation)
    return Region(frames, SCAN.positions[:count], PROBE, None, 0.5 * SCAN.normalisation)


def test_the_truth_leaves_nothing_but_noise() -> None:
    part = region()
    placed = place(part.positions, part.size)
    column, row = placed.origin_xy.astype(int)
    assert SCAN.object_guess is not None
    truth = SCAN.object_guess[row : row + placed.shape[0], column : column + placed.shape[1]]
    # The guess of a simulation predicts counts under the scan's own probe.
    scale = np.float32(np.linalg.norm(SCAN.probe) / np.linalg.norm(PROBE) * SCAN.normalisation)
    assert misfit(part, truth * scale) < 0.01 < misfit(part, np.ones_like(truth))


@pytest.fixture(scope="module")
def learned() -> LearnedEngine:
    return LearnedEngine(load_solver())


@pytest.mark.parametrize("laid", ORIENTATIONS, ids=lambda o: o.name)
def test_the_orientation_is_found(learned: LearnedEngine, laid: Orientation) -> None:
    part = region(30)
    best, found = which_orientation(
        replace(part, frames=np.ascontiguousarray(laid.undo(part.frames))), learned
    )
    assert best == laid, found


def test_an_orientation_that_explains_no_better_is_not_taken() -> None:
    best, _ = which_orientation(region(20), FlatEngine())
    assert best.name == "as-is"


class Counting(FlatEngine):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def solve(self, region: Region, update_probe: bool) -> RegionObject:
        self.sizes.append(len(region.frames))
        return super().solve(region, update_probe)


def test_work_is_bounded_and_ends_once_all_is_settled(tmp_path: Path) -> None:
    intake, engine = Intake(Spool(tmp_path)), Counting()
    growing = Growing(intake, engine, SCAN.probe)
    frames, steps = stored_frames(SCAN), 0
    for first in (0, 1):  # the second half lies between the first
        for number in range(first, SCAN.n_frames, 2):
            intake.frame(number, frames[number], SCAN.positions[number])
        while growing.step():
            steps += 1
            assert steps < 2 * SCAN.n_frames
    assert growing.used == SCAN.n_frames
    assert growing.backlog == 0
    assert max(engine.sizes) <= 256
    assert growing.steps["again"] > 0
    assert growing.steps["probe"] > 0
    obj, _, origin, _ = growing.canvas.snapshot()
    placed = place(SCAN.positions, SCAN.N)
    assert obj.shape == placed.shape
    assert np.array_equal(origin, placed.origin_xy)
    assert not growing.step()
    assert max(growing.latencies) < time.monotonic()


class Slow(Counting):
    """Comes back with a probe only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def solve(self, region: Region, update_probe: bool) -> RegionObject:
        assert not update_probe or self.go.wait(20)
        return super().solve(region, update_probe)


def test_new_frames_do_not_wait_for_the_probe(tmp_path: Path) -> None:
    intake, engine = Intake(Spool(tmp_path)), Slow()
    growing = Growing(intake, engine, SCAN.probe, GrowingOptions(orientation="as-is"))
    for number, frame in enumerate(stored_frames(SCAN)):
        intake.frame(number, frame, SCAN.positions[number])
        growing.step()
    while growing.backlog:
        growing.step()
    assert (growing.used, growing.steps["probe"]) == (SCAN.n_frames, 0)
    engine.go.set()
    growing.settle()
    assert growing.steps["probe"] == 1


def test_what_fails_beside_is_raised(tmp_path: Path) -> None:
    class Broken(FlatEngine):
        def solve(self, region: Region, update_probe: bool) -> RegionObject:
            if update_probe:
                raise DataError("no probe")
            return super().solve(region, update_probe)

    intake = Intake(Spool(tmp_path))
    growing = Growing(intake, Broken(), SCAN.probe, GrowingOptions(orientation="as-is"))
    for number, frame in enumerate(stored_frames(SCAN)[:20]):
        intake.frame(number, frame, SCAN.positions[number])
    growing.step()
    with pytest.raises(DataError, match="no probe"):
        growing.settle()


def grown(folder: Path, engine: LearnedEngine, laid: Orientation, count: int) -> Growing:
    """The object of so many frames of a detector that lies in some way."""
    intake = Intake(Spool(folder))
    growing = Growing(intake, engine, SCAN.probe)
    for number, frame in enumerate(laid.undo(stored_frames(SCAN))[:count]):
        intake.frame(number, frame, SCAN.positions[number])
    while growing.step():
        pass
    return growing


def test_a_scan_of_few_frames_shows_at_its_end_how_they_lie(tmp_path: Path, learned: LearnedEngine) -> None:
    laid = Orientation.named("mirror-y")
    growing = grown(tmp_path, learned, laid, 40)
    assert growing.orientation.name == "as-is"
    assert growing.steps["probe"] == 0  # a probe under the wrong orientation is none
    growing.settle()
    assert growing.orientation == laid


def test_a_new_orientation_solves_all_frames_again(tmp_path: Path, learned: LearnedEngine) -> None:
    laid = Orientation.named("swap-mirror-x")
    growing = grown(tmp_path, learned, laid, 110)
    assert growing.orientation == laid
    assert growing.residual is not None
    assert growing.residual < 0.03
