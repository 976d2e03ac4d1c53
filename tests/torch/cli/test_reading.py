"""Flags that say how a scan file is read, on every command that reads one to solve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small import small_scan
from typer.testing import CliRunner

from ptycho_torch.cli.app import app
from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.scan import Scan
from ptycho_torch.workflows.run_folder import RunFolder, ScanFile

SCAN = small_scan()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scan of two runs, whose frames lie in another file and whose positions are wrong."""
    counts = np.rint(np.square(SCAN.frames, dtype=float)).astype(np.uint16)
    index = np.arange(SCAN.n_frames) % 2
    np.savez(tmp_path / "runs.npz", diff3d=counts, xcoords=SCAN.positions[:, 0], ycoords=SCAN.positions[:, 1],
             probeGuess=SCAN.probe, scan_index=index)  # fmt: skip
    np.savetxt(tmp_path / "p.csv", SCAN.positions, delimiter=",", header="x,y")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["frames"] = counts
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["patterns"] = h5py.ExternalLink("data.h5", "/frames")
        file["probe_position_x_px"], file["probe_position_y_px"] = np.zeros((2, SCAN.n_frames))
    return tmp_path


@pytest.fixture(params=["train", "reconstruct"])
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Calls a command and gives the scan that it would work on, or its one line."""
    seen: list[Scan] = []

    def stop(*arguments: Any, **_: Any) -> Any:
        given = [a for each in arguments for a in (each if isinstance(each, list) else [each])]
        seen.extend(a if isinstance(a, Scan) else a.open() for a in given if isinstance(a, Scan | ScanFile))
        raise ConfigError("far enough")

    monkeypatch.setattr("ptycho_torch.workflows.training.train", stop)
    monkeypatch.setattr("ptycho_torch.workflows.inference.reconstruct_to", stop)
    first = [request.param]

    def call(*arguments: Any) -> Scan | str:
        done = CliRunner().invoke(app, [*first, *map(str, arguments), "-o", str(tmp_path / "out")])
        assert done.exit_code == 2
        return seen.pop() if "far enough" in done.stderr else done.stderr

    return call


def test_a_run_is_chosen_or_all_are_one(folder: Path, read: Any) -> None:
    assert read(folder / "runs.npz").runs == {0: SCAN.n_frames - SCAN.n_frames // 2, 1: SCAN.n_frames // 2}
    np.testing.assert_array_equal(read(folder / "runs.npz", "--runs", 1).positions, SCAN.positions[1::2])
    assert read(folder / "runs.npz", "--runs", "all").runs == {}
    assert "expected run 7" in read(folder / "runs.npz", "--runs", 7)
    assert "runs" in read(folder / "runs.npz", "--runs", "some")


def test_data_positions_and_detector_are_chosen(folder: Path, read: Any) -> None:
    assert "--external-data" in read(folder / "scan.h5", "--positions-file", folder / "p.csv")
    given = ["--external-data", "--positions-file", folder / "p.csv", "--crop", 24, "--bin", 2]
    scan = read(folder / "scan.h5", *given)
    assert scan.frames.shape == (SCAN.n_frames, 12, 12)
    np.testing.assert_allclose(scan.positions, SCAN.positions * 24 / SCAN.N)
    assert "bin" in read(folder / "scan.h5", *given[:-1], 5)


def test_a_run_goes_on_with_the_reading_it_began_with(folder: Path, tmp_path: Path) -> None:
    asked = {"run": 1, "crop": 24, "bin": 2, "positions": folder / "p.csv"}
    np.savetxt(folder / "p.csv", SCAN.positions, delimiter=",")
    file = ScanFile(folder / "runs.npz", options=asked)
    run = RunFolder(tmp_path / "run")
    with run.held():
        run.begin(file.open(), file, None, 0)
    again = run.scan_file(None)
    np.testing.assert_array_equal(again.open().frames, file.open().frames)
    run.check_same(again.open())
    other = run.scan_file(ScanFile(folder / "runs.npz", options={"run": 0}))
    with pytest.raises(DataError, match=r"positions|number of frames"):
        run.check_same(other.open())
