"""Ctrl-C and kills: the best model is kept, and a run goes on from where it stood."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calling import QUICK, process
from small import small_scan

from ptycho_torch.model_manager import load_torch_bundle
from ptycho_torch.scan import write_scan

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def heard_hangup() -> Iterator[None]:
    """SIGHUP ends a process, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


LONG = [*QUICK, "--nepochs", "100000", "--batch-size", "2"]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    write_scan(small_scan(), tmp_path / "scan.npz")
    return tmp_path / "scan.npz"


def started(scan: Path, run: Path, program: list[str] | None = None) -> subprocess.Popen[str]:
    """A training process that has finished its first epoch."""
    program = program or [sys.executable, "-m", "ptycho_torch.cli"]
    command = [*program, "train", str(scan), "-o", str(run), *LONG, "--quiet"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (run / "resume.safetensors").exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return running


def ended(running: subprocess.Popen[str], number: int) -> tuple[int, Any]:
    running.send_signal(number)
    try:
        streams = running.communicate(timeout=120)
    finally:
        running.kill()  # nothing of a failed test goes on
    return running.returncode, streams


def epochs(run: Path) -> list[int]:
    return [int(row["epoch"]) for row in csv.DictReader((run / "history.csv").open())]


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_keeps_everything_and_is_no_success(
    scan: Path, tmp_path: Path, number: int, expected: int
) -> None:
    run = tmp_path / "run"
    status, streams = ended(started(scan, run), number)
    assert status == expected, streams
    assert f"ptychopinn train --resume {run}" in streams[1]
    assert json.loads((run / "training.json").read_text())["interrupted"] is True
    assert (run / "training.png").exists()
    load_torch_bundle(run)
    assert epochs(run)[0] == 1
    assert not [p.name for p in run.iterdir() if p.name.startswith(".")]


def test_a_second_ctrl_c_says_what_exists(scan: Path, tmp_path: Path) -> None:
    """The first one is answered with the writing of everything; the second comes while that goes on."""
    run = tmp_path / "run"
    code = (
        "import os, signal, sys, ptycho_torch.workflows.records as t;"
        "t._draw = lambda *_: os.kill(os.getpid(), signal.SIGINT);"
        "sys.argv = ['ptychopinn', *sys.argv[1:]]; from ptycho_torch.cli import main; main()"
    )
    running = started(scan, run, [sys.executable, "-c", code])
    status, (_, said) = ended(running, signal.SIGTERM)
    assert status == 143
    assert "wts.h5.zip" in said
    assert f"--resume {run}" in said
    load_torch_bundle(run)


def test_a_killed_run_goes_on(scan: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    status, _ = ended(started(scan, run), signal.SIGKILL)
    assert status == -signal.SIGKILL
    load_torch_bundle(run)  # whole, though nobody said goodbye
    done = process("train", "--resume", run, "--max-steps", "200", "--nepochs", "60", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert epochs(run) == list(range(1, result["epochs"] + 1))
    assert result["steps"] <= 200
    load_torch_bundle(run)


def test_resuming_needs_a_run(scan: Path, tmp_path: Path) -> None:
    done = process("train", scan, "--resume", tmp_path / "nothing")
    assert done.returncode == 2
    assert "nothing" in done.stderr
    done = process("train", "--quiet")
    assert done.returncode == 2
