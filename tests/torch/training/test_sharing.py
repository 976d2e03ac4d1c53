"""Steps that several processes share: parts of a batch add up, and several processes learn what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.processes import ALONE, Group
from ptycho_torch.training import sharing
from ptycho_torch.training.examples import Examples, Recipe
from ptycho_torch.training.pretrain import _part, region_loss
from ptycho_torch.training.sharing import backward, own_regions

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_gradients_of_parts_add_up_to_that_of_the_batch(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of processes; with five, two of them have no region at all."""
    recipe = Recipe(sizes=(16,), regions=3, spacing=(0.1, 0.12), budget=25 * 16**2)
    example = Examples(1, recipe).draw(4)
    torch.manual_seed(0)
    solver = RegionSolver(iterations=2, passes=2, width=8, levels=1)

    def loss(regions: torch.Tensor) -> torch.Tensor:
        part = _part(solver, example, regions)
        return region_loss(solver(part.frames, update_probe=part.update_probe, keep=True), part)

    def gradient() -> torch.Tensor:
        return torch.cat([torch.zeros(1) if p.grad is None else p.grad.ravel() for p in solver.parameters()])

    whole = backward(lambda _: region_loss(solver(example.frames, keep=True), example), 3, solver, ALONE)
    wanted = gradient()
    parts: list[tuple[float, torch.Tensor]] = []
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "_shared", lambda parameters, value, group: value)
        for rank in range(processes):
            value = backward(loss, 3, solver, Group(rank, processes))
            parts.append((float(value), gradient()))
    held = [own_regions(3, Group(rank, processes)).tolist() for rank in range(processes)]
    assert sorted(n for part in held for n in part) == [0, 1, 2]
    assert sum(value for value, _ in parts) == pytest.approx(float(whole), rel=1e-5)
    if processes <= 3:  # else some have no gradient, which is as many zeros in a sum
        total = torch.stack([part for _, part in parts]).sum(0)
        assert torch.linalg.norm(total - wanted) < 1e-3 * torch.linalg.norm(wanted)


def losses(what: str, processes: int) -> list[float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(HERE / "shared_steps.py"), what]
    paths = os.pathsep.join([str(HERE.parent), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("'losses'")]
    assert len(rows) == processes
    assert len({tuple(row[2:]) for row in rows}) == 1  # all know the same losses
    return [float(word) for word in rows[0][2:]]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "tolerance"), [("pretrain", 1e-5), ("adapt", 1e-9)])
def test_two_processes_learn_what_one_does(what: str, tolerance: float) -> None:
    """Pretraining in float32, adaptation in float64: there the rounding of another split grows sooner."""
    one, two = losses(what, 1), losses(what, 2)
    assert len(one) == 20
    assert np.allclose(one, two, rtol=tolerance)
