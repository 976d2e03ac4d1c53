"""``train`` with several scans: one model, one folder, gone on with as any other run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from calling import call
from small import small_scan

from ptycho_torch.generators.region_solver import RegionSolver
from ptycho_torch.scan import write_scan
from ptycho_torch.workflows.pretraining import save_solver

FEW = ["--max-minutes", "none", "--probe-sweeps", "2", "--batch-size", "2", "--accelerator", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of different sizes and a very small solver."""
    torch.manual_seed(0)
    where = tmp_path_factory.mktemp("scans")
    write_scan(small_scan(), where / "a.npz")
    write_scan(small_scan(size=48, edge=96, step=9.0, seed=1), where / "b.npz")
    save_solver(RegionSolver(iterations=1, passes=1, width=8, levels=1), where / "tiny" / "wts.h5", {})
    return where


def test_several_scans_are_adapted_to_and_gone_on_with(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    scans = folder / "a.npz", folder / "b.npz"
    done = call("train", *scans, "-o", run, "--init", folder / "tiny", "--max-steps", "2", *FEW)
    assert done.exit_code == 0, done.output
    said = json.loads((run / "run.json").read_text())
    assert said["scan"] == str(scans[0].resolve())
    assert [each["scan"] for each in said["more"]] == [str(scans[1].resolve())]
    assert {"wts.h5.zip", "history.csv", "training.png", "config.yaml", "training.html"} <= {
        path.name for path in run.iterdir()
    }
    assert call("verify", run).exit_code == 0
    done = call("train", "--resume", run, "--max-steps", "3", "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads((run / "training.json").read_text())["steps"] == 3
    for scan in scans:
        done = call("reconstruct", scan, "--model", run, "-o", tmp_path / scan.stem, "--quiet")
        assert done.exit_code == 0, done.output
    done = call("train", scans[0], scans[0], "--resume", run, "--max-steps", "4", "--quiet")
    assert done.exit_code == 2
    assert "further scans" in done.stderr


def test_from_scratch_one_scan_is_taken(folder: Path, tmp_path: Path) -> None:
    done = call(
        "train", folder / "a.npz", folder / "b.npz", "-o", tmp_path / "run", "--init", "scratch", *FEW
    )
    assert done.exit_code == 2
    assert "--init scratch" in done.stderr
    assert not list((tmp_path / "run").iterdir())


def test_a_scan_that_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    """Whichever of several it is."""
    done = call("train", folder / "a.npz", folder / "missing.npz", "-o", tmp_path / "run", *FEW)
    assert done.exit_code == 2
    assert "missing.npz" in done.stderr
