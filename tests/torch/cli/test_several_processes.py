"""Commands with several processes: one that is killed ends all, and --resume goes on with another number."""

from __future__ import annotations

import json
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


def ended_cleanly(begun: subprocess.Popen[str], ranks: list[int]) -> None:
    """Nothing hangs or is left behind, and one line says what has happened and how to go on."""
    _, said = begun.communicate(timeout=100)
    assert begun.returncode == 1
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, said
    assert "process 1 was ended by SIGKILL" in errors[0]
    assert "--resume" in errors[0]
    assert not any(map(alive, ranks))


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
    ended_cleanly(begun, ranks)
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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks /proc for child processes")
def test_training_ends_with_one_of_its_processes_and_goes_on(tmp_path: Path) -> None:
    scan, folder = tmp_path / "scan.npz", tmp_path / "run"
    write_scan(small_scan(32), scan)
    words = [sys.executable, "-m", "ptycho_torch", "train", str(scan), "-o", str(folder), "--init", "scratch"]
    words += ["--probe", "fixed", "--n-groups", "12", "--batch-size", "4", "--unrolled-width", "8"]
    words += ["--unrolled-levels", "1", "--unrolled-iterations", "1", "--nepochs", "100000"]
    words += ["--max-minutes", "30"]
    begun = subprocess.Popen([*words, "--devices", "2"], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 200
    while not (folder / "resume.safetensors").exists() and begun.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    ranks = children(begun.pid)
    os.kill(ranks[1], signal.SIGKILL)
    ended_cleanly(begun, ranks)
    more = ["train", "--resume", str(folder), "--max-minutes", "0.001", "--devices", "1", "--json"]
    again = subprocess.run(
        [sys.executable, "-m", "ptycho_torch", *more],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["epochs"] >= 1
