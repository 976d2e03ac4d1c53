"""The learned solver over a scan: tiles give the image of the whole, whatever they start from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho_torch.errors import DataError
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.physics.units import amplitude_normalisation, normalise_probe
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers.learned import Frames, RegionObject, solve_learned
from ptycho_torch.solvers.options import LearnedOptions

SIZE = 32


@pytest.fixture(scope="module")
def physics() -> RegionSolver:
    """Untrained networks change nothing: what is left converges by itself."""
    return RegionSolver(iterations=1, passes=6, width=8, levels=1).eval()


def measured(edge: int, step: float) -> tuple[Frames, np.ndarray, np.ndarray]:
    obj = make_object("grf", edge, 0)
    positions = make_positions("grid", obj.shape, SIZE, step=step, jitter=0.4, seed=0)
    scan = simulate_scan(obj, make_probe("zoneplate", SIZE), positions, photons=1e8, seed=0)
    factor = np.float32(amplitude_normalisation(scan.frames))
    probe = normalise_probe(scan.probe)
    return Frames(lambda i: scan.frames[i] * factor, scan.positions, SIZE), probe, obj


def error(found: RegionObject, truth: np.ndarray) -> float:
    column, row = np.rint(found.origin_xy).astype(int)
    height, width = found.object.shape
    wanted = truth[row : row + height, column : column + width]
    lit = found.weight > 0.1 * np.quantile(found.weight, 0.95)
    obj, wanted = found.object[lit], wanted[lit]
    factor = np.vdot(obj, wanted) / np.vdot(obj, obj)
    return float(np.linalg.norm(factor * obj - wanted) / np.linalg.norm(wanted))


def test_a_scan_is_solved_in_one_region(physics: RegionSolver) -> None:
    frames, probe, truth = measured(80, 5.0)
    found = solve_learned(physics, frames, probe, LearnedOptions(update_probe=False, sweeps=5))
    flat = RegionObject(np.ones_like(found.object), found.weight, found.origin_xy, found.probe)
    assert error(found, truth) < 0.5 * error(flat, truth)


def test_tiles_give_the_image_of_the_whole(physics: RegionSolver) -> None:
    frames, probe, truth = measured(144, 6.0)
    whole = solve_learned(physics, frames, probe, LearnedOptions(update_probe=False, sweeps=5))
    seen: list[tuple[int, int]] = []
    options = LearnedOptions(update_probe=False, sweeps=5, tile_pixels=120 * SIZE**2)
    tiled = solve_learned(physics, frames, probe, options, progress=lambda *n: seen.append(n))
    assert len(seen) > 2
    assert seen[-1] == (len(frames.positions), len(frames.positions))
    assert (tiled.origin_xy == whole.origin_xy).all()
    assert np.allclose(tiled.weight, whole.weight, rtol=1e-3, atol=1e-3 * whole.weight.max())
    assert apart(tiled, whole) < 3e-3
    assert error(tiled, truth) < 1.01 * error(whole, truth)


def apart(one: RegionObject, other: RegionObject) -> float:
    """Relative difference of objects where there is light; no phase or factor is free."""
    lit = other.weight > 0.1 * other.weight.max()
    return float(np.linalg.norm((one.object - other.object)[lit]) / np.linalg.norm(other.object[lit]))


@pytest.mark.parametrize("step", [4.0, 9.0])
def test_tiles_that_see_everything_give_what_the_whole_does(step: float) -> None:
    """Only reach is lost by the cut: scale, subsets, probe and brightness are those of the whole scan."""
    torch.manual_seed(1)
    solver = RegionSolver(iterations=2, passes=2, width=8, levels=2)
    for net in (solver.net, solver.probe_net):
        torch.nn.init.normal_(net.leave.weight, std=0.02)
    frames, probe, _ = measured(112, step)
    options = LearnedOptions(sweeps=4)  # two more than trained: late iterations, too
    whole = solve_learned(solver, frames, probe, options)
    tiled = solve_learned(
        solver, frames, probe, replace(options, halo=16.0, tile_pixels=len(frames.positions) // 3 * SIZE**2)
    )
    assert apart(whole, replace(whole, object=np.ones_like(whole.object))) > 0.1
    assert apart(tiled, whole) < 1e-4
    assert np.linalg.norm(tiled.probe - whole.probe) < 1e-4 * np.linalg.norm(whole.probe)
    near = solve_learned(
        solver, frames, probe, replace(options, halo=1.0, tile_pixels=len(frames.positions) // 3 * SIZE**2)
    )
    assert apart(near, whole) < 0.05


def test_frames_far_from_each_other_cost_no_canvas_between(physics: RegionSolver) -> None:
    frames, probe, _ = measured(64, 8.0)
    far = frames.positions.copy()
    far[-1] += 5000
    moved = Frames(frames.read, far, SIZE)
    calls: list[int] = []
    solver = RegionSolver(iterations=1, passes=1, width=8, levels=1)
    solver.net.register_forward_pre_hook(lambda _, inputs: calls.append(int(np.prod(inputs[0].shape[-2:]))))
    found = solve_learned(solver, moved, probe, LearnedOptions(update_probe=False, sweeps=1))
    assert max(calls) < 200**2
    assert found.object.shape[0] > 5000


def test_the_probe_of_a_tiled_scan_is_found_once(physics: RegionSolver) -> None:
    frames, probe, _ = measured(112, 5.0)
    wrong = np.fft.ifft2(np.fft.fft2(probe) * np.exp(1j * np.fft.fftfreq(SIZE)[:, None] ** 2 * 12))
    options = LearnedOptions(sweeps=13, tile_pixels=120 * SIZE**2)
    found = solve_learned(physics, frames, wrong.astype(np.complex64), options)

    def likeness(p: np.ndarray) -> float:
        return float(abs(np.vdot(p, probe)) / np.linalg.norm(p) / np.linalg.norm(probe))

    assert 1 - likeness(found.probe) < 0.9 * (1 - likeness(wrong))


def test_a_probe_of_another_size_is_refused(physics: RegionSolver) -> None:
    frames, _, _ = measured(64, 8.0)
    with pytest.raises(DataError, match="probe"):
        solve_learned(physics, frames, np.ones((1, 16, 16), np.complex64))


def test_arithmetic_is_restored(physics: RegionSolver) -> None:
    frames, probe, _ = measured(64, 8.0)
    with torch.no_grad():
        solve_learned(physics, frames, probe, LearnedOptions(bf16=True))
    assert physics.bf16 is False
