"""Pretrains or adapts for some steps as one of several processes and prints the losses; started by test_sharing.py."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from small import QUIET, small_scan

from ptycho_torch.config import ModelConfig, TrainingConfig
from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.processes import joined
from ptycho_torch.training import adapt, pretrain
from ptycho_torch.training.examples import Recipe
from ptycho_torch.training.pretrain import PretrainOptions
from ptycho_torch.training.run import Watch, fit
from ptycho_torch.workflows.pretraining import save_solver

STEPS = 20
SMALL = Recipe(sizes=(16,), spacing=(0.2, 0.5), budget=16 * 16**2)


def tiny() -> RegionSolver:
    torch.manual_seed(0)
    return RegionSolver(iterations=1, passes=1, width=8, levels=1)


def pretrained(folder: Path) -> list[float]:
    pretrain._VALIDATION = 1  # type: ignore[misc]
    pretrain.RegionSolver = lambda: tiny()  # type: ignore[misc, assignment]
    run = pretrain._Run(folder, PretrainOptions(steps=STEPS, warmup=4), pretrain.Examples(0, SMALL))
    while run.step < STEPS:
        run.advance()
    return run._losses


def adapted(folder: Path) -> list[float]:
    adapt._EPOCH = 1, 1  # type: ignore[misc]
    save_solver(tiny(), folder / "wts.h5", {})
    settings = {
        "max_minutes": None,
        "max_steps": STEPS,
        "probe_sweeps": 2,
        "batch_size": 3,
        "warmup_steps": 2,
    }
    config = TrainingConfig(model=ModelConfig(N=0, gridsize=2), init=str(folder), nepochs=STEPS, **settings)  # type: ignore[arg-type]
    rows: list[float] = []
    watch = Watch(on_row=lambda history: rows.append(history[-1]["loss"]))
    done = fit(small_scan(16, step=4.0, edge=48), config, QUIET, watch=watch)
    assert bool(rows) == (os.environ.get("RANK", "0") == "0")  # the first process alone tells of the run
    return [row["loss"] for row in done.history]


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with joined() as group, tempfile.TemporaryDirectory() as folder:
        found = {"pretrain": pretrained, "adapt": adapted}[sys.argv[1]](Path(folder))
        sys.stdout.write(" ".join(map(repr, ["losses", group.rank, *found])) + "\n")


if __name__ == "__main__":
    main()
