"""How often a scan is read: once to check and measure it, once to reconstruct it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ptycho_torch.bundle.shipped import shipped_bundle
from ptycho_torch.config import ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.errors import ScanError
from ptycho_torch.model import build_pair
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.reconstruction.predict import reconstruct
from ptycho_torch.report import figures
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.scan.h5frames import H5Frames
from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.solvers import RefineOptions, probe_guess
from ptycho_torch.training.data import GroupData
from ptycho_torch.workflows import solving
from ptycho_torch.workflows.inference import Refinement, reconstruct_to
from ptycho_torch.workflows.training import train

SCAN = simulate_scan(
    make_object("grf", 72, 0), make_probe("zoneplate", 32), make_positions("grid", (72, 72), 32, step=8.0, seed=1)
)  # fmt: skip


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """How often each frame was read; scans stay in their file."""
    times = np.zeros(SCAN.n_frames, int)
    before = H5Frames.stored

    def stored(self: H5Frames, which: Any) -> Any:
        np.add.at(times, self.which[which], 1)
        return before(self, which)

    monkeypatch.setattr(H5Frames, "stored", stored)
    monkeypatch.setattr("ptycho_torch.scan.intake.memory_limit", lambda: 0)
    return times


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["patterns"] = np.rint(np.square(SCAN.frames)).astype(np.uint16)
        file["probe_position_x_px"], file["probe_position_y_px"] = SCAN.positions.T
        file["probe"] = SCAN.probe
    return tmp_path / "scan.h5"


def model(gridsize: int = 1) -> Any:
    torch.manual_seed(0)
    config = ModelConfig(N=32, gridsize=gridsize, unrolled_iterations=1, unrolled_width=4)
    return build_pair(config, normalise_probe(SCAN.probe), 3.0)[1].eval()


@pytest.mark.parametrize("gridsize", [1, 2])
def test_reconstruct_reads_a_scan_twice(path: Path, read: np.ndarray, gridsize: int) -> None:
    """Also where each frame is in several groups, and these in several batches."""
    reconstruct(model(gridsize), path, batch_size=4)
    assert read.tolist() == [2] * SCAN.n_frames


@pytest.mark.parametrize("polish", [True, False])
@pytest.mark.parametrize("bundle", [True, False])
def test_a_whole_reconstruction_reads_a_scan_twice(
    path: Path, read: np.ndarray, tmp_path: Path, polish: bool, bundle: bool
) -> None:
    """With refinement, residuals before and after it, and a picture."""
    weights = shipped_bundle() if bundle else None
    config = InferenceConfig(polish=polish, start="learned")
    refinement = Refinement(options=RefineOptions(sweeps=2)) if polish else None
    done = reconstruct_to(tmp_path / "out", path, weights, config, refinement=refinement)
    assert {"figure", "report"} <= set(done.files)
    assert read.tolist() == [2] * SCAN.n_frames


def test_frames_that_do_not_fit_are_kept_where_they_are_needed_again(
    path: Path, read: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory for a quarter of the frames: those of probe, residual and picture are not read for these."""
    some = np.arange(0, SCAN.n_frames, 4)
    monkeypatch.setattr(solving, "memory_limit", lambda: 8 * len(some) * 2 * SCAN.N**2)
    monkeypatch.setattr(solving, "_sample", lambda hidden: some)
    monkeypatch.setattr(solving, "PROBE_FRAMES", len(some))
    monkeypatch.setattr(solving, "innermost", lambda positions, count: some)
    # The guess of the probe is judged by some of those: the innermost of the innermost.
    monkeypatch.setattr(
        probe_guess,
        "innermost",
        lambda positions, count: (some if len(positions) > 16 else np.arange(16))[:count],
    )
    for module in (solving, figures.scans):
        monkeypatch.setattr(module, "shown_frames", lambda count: some[::2])
    done = reconstruct_to(tmp_path / "out", path, config=InferenceConfig(polish=False, start="learned"))
    assert done.reconstruction.residual is not None
    assert read.tolist() == [2] * SCAN.n_frames


def test_the_validation_split_copies_and_reads_nothing(path: Path, read: np.ndarray) -> None:
    scan = open_scan(path)
    before = read.copy()
    config = TrainingConfig(model=ModelConfig(N=32), val_fraction=0.3, overlap=False)
    split = GroupData(scan, config, ExecutionConfig(), scan.normalisation)
    assert split.val_scan is not None
    assert split.train_scan.n_frames + split.val_scan.n_frames == SCAN.n_frames
    assert split.train_scan.mean_power > 0
    assert (read == before).all()


def test_runs_are_not_stitched_into_one_object(tmp_path: Path) -> None:
    index = np.arange(SCAN.n_frames) % 2
    scan = Scan(SCAN.frames, SCAN.positions, SCAN.probe, scan_index=index)
    with pytest.raises(ScanError, match="2 runs"):
        reconstruct(model(), scan)
    with pytest.raises(ScanError, match="2 runs"):
        train(scan, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert reconstruct(model(), scan.select(index == 1)).object.any()
