"""``reconstruct --processes``: the image of one process; one that is killed ends all, and --resume goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small import small_scan

from ptycho_torch.result import load_reconstruction
from ptycho_torch.scan import write_scan
from ptycho_torch.workflows.tiled import STATE_NAME

SRC = Path(__file__).resolve().parents[3] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}


def command(scan: Path, folder: Path, processes: int, *more: str) -> list[str]:
    words = ["reconstruct", str(scan), "-o", str(folder), "--start", "flat", "--refine", "6"]
    return [sys.executable, "-m", "ptycho_torch", *words, "--processes", str(processes), *more]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks /proc for child processes")
def test_one_that_is_killed_ends_all_and_the_run_goes_on(tmp_path: Path) -> None:
    scan, state = tmp_path / "scan.npz", tmp_path / "killed" / STATE_NAME
    write_scan(small_scan(16, step=3.0, edge=120), scan)
    straight = subprocess.run(
        command(scan, tmp_path / "straight", 2), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert straight.returncode == 0, straight.stderr
    assert straight.stdout.count("Reconstructed") == 1
    begun = subprocess.Popen(
        command(scan, tmp_path / "killed", 2), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 200
    while not (state / "sweep-0002").exists() and begun.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    ranks = children(begun.pid)
    os.kill(ranks[1], signal.SIGKILL)
    _, said = begun.communicate(timeout=100)
    assert begun.returncode == 1
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "process 1 was ended by SIGKILL" in errors[0]
    assert "--resume" in errors[0]
    assert not any(map(alive, ranks))
    ended = (state / "sweep-0001" / "end.npz").stat().st_mtime_ns
    again = subprocess.run(
        [*command(scan, tmp_path / "killed", 3, "--resume", "--json")],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert again.stdout.count('"files"') == 1
    assert ended < Path(tmp_path / "killed" / "reconstruction.npz").stat().st_mtime_ns
    assert not state.exists()
    one, other = (
        load_reconstruction(tmp_path / name / "reconstruction.npz") for name in ("straight", "killed")
    )
    assert np.array_equal(one.object, other.object)
    assert (one.residual, one.residual_withheld) == (other.residual, other.residual_withheld)
