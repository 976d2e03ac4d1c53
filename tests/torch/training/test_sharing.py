"""Steps that several processes share: parts of a batch add up, and several processes learn what one does."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.processes import ALONE, Group
from ptycho_torch.training.examples import Examples, Recipe
from ptycho_torch.training.pretrain import _part, region_loss
from ptycho_torch.training.sharing import backward, dealt, own_parts

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def in_double(parts: Any) -> Any:
    """In arithmetic in which rounding shows nothing: float32 gradients move by 2e-3 with the size of a batch."""
    kinds = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    found = {name: value for name, value in vars(parts).items() if isinstance(value, torch.Tensor)}
    return dataclasses.replace(parts, **{k: v.to(kinds.get(v.dtype, v.dtype)) for k, v in found.items()})


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_gradients_of_parts_add_up_to_that_of_the_batch(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of processes; with five, two of them have no region at all."""
    recipe = Recipe(sizes=(16,), regions=3, spacing=(0.1, 0.12), budget=25 * 16**2)
    example = in_double(Examples(1, recipe).draw(4))
    example = dataclasses.replace(example, frames=in_double(example.frames))
    torch.manual_seed(0)
    solver = RegionSolver(iterations=2, passes=2, width=8, levels=1).double()
    told = dataclasses.replace(example, frames=dealt(solver, example.frames))

    def loss(regions: torch.Tensor) -> torch.Tensor:
        part = _part(told, regions)
        return region_loss(solver(part.frames, update_probe=part.update_probe, keep=True), part)

    def gradient() -> torch.Tensor:
        return torch.cat([torch.zeros_like(p).ravel() if p.grad is None else p.grad.ravel() for p in weights])

    weights = list(solver.parameters())
    solved = solver(example.frames, update_probe=example.update_probe, keep=True)
    whole = region_loss(solved, example)
    whole.backward()  # type: ignore[no-untyped-call]
    wanted = gradient()
    once, alone = backward(loss, 3, solver, ALONE), gradient()
    assert float(once) == pytest.approx(float(whole.detach()), rel=1e-9)
    assert torch.linalg.norm(alone - wanted) < 1e-9 * torch.linalg.norm(wanted)

    sums: list[torch.Tensor] = []
    with monkeypatch.context() as patch:
        patch.setattr(Group, "total", lambda group, value: sums.append(value) or value)  # type: ignore[func-returns-value]
        for rank in range(processes):
            backward(loss, 3, solver, Group(rank, processes))
    held = [own_parts(3, Group(rank, processes), 4) for rank in range(processes)]
    assert sorted(n for parts in held for part in parts for n in part.tolist()) == [0, 1, 2]
    if processes > 1:
        with monkeypatch.context() as patch:
            patch.setattr(Group, "total", lambda group, value: torch.stack(sums).sum(0))
            again = backward(loss, 3, solver, Group(0, processes))
        assert float(again) == pytest.approx(float(once), rel=1e-12)
        assert torch.linalg.norm(gradient() - alone) < 1e-12 * torch.linalg.norm(alone)


def test_an_example_goes_to_a_device_as_a_whole() -> None:
    """The device without memory: whatever stays behind is found."""
    example = Examples(1, Recipe(sizes=(16,), regions=3, budget=25 * 16**2)).draw(4)
    solver = RegionSolver(iterations=1, passes=1, width=8, levels=1)
    there = dataclasses.replace(example, frames=dealt(solver, example.frames)).to("meta")
    assert there.frames.subsets
    tensors = [*vars(there).values(), *vars(there.frames).values(), *there.frames.subsets]
    found = [value.device.type for value in tensors if isinstance(value, torch.Tensor)]
    assert len(found) > 8
    assert set(found) == {"meta"}


@given(count=st.integers(1, 60), size=st.integers(1, 9))
def test_parts_are_the_same_for_one_two_and_four_processes(count: int, size: int) -> None:
    def parts(processes: int) -> list[list[int]]:
        held = [own_parts(count, Group(rank, processes), 4) for rank in range(processes)]
        return sorted(part.tolist() for parts in held for part in parts)

    assert [n for part in parts(size) for n in part] == list(range(count))
    if size <= 4:
        assert parts(size) == parts(1)
        assert len(parts(1)) <= 4


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
@pytest.mark.parametrize("what", ["pretrain", "adapt"])
def test_two_processes_learn_what_one_does(what: str) -> None:
    """In float32; what each process goes through is cut alike, and sums are wide, so it is mostly the same bits."""
    one, two = losses(what, 1), losses(what, 2)
    assert len(one) == 20
    assert np.allclose(one, two, rtol=1e-5)
