"""Training by several processes: shares of batches add up, and two processes learn what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import QUIET, small_config, small_scan

from ptycho_torch.config import ExecutionConfig
from ptycho_torch.errors import ConfigError
from ptycho_torch.processes import ALONE, Group
from ptycho_torch.training.data import Shares
from ptycho_torch.training.run import fit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 7))
def test_shares_of_a_batch_make_its_mean(count: int, size: int, processes: int) -> None:
    values = np.random.default_rng(count).random(count)
    parts = [Shares(count, size, Group(rank, processes)) for rank in range(processes)]
    drawn = [list(part) for part in parts]
    whole = list(Shares(count, size, ALONE))
    assert {len(batches) for batches in drawn} == {len(whole)} == {len(part) for part in parts}
    for number, batch in enumerate(whole):
        losses = [
            part.share(number, len(mine[number])) * values[mine[number]].mean()
            for part, mine in zip(parts, drawn, strict=True)
        ]
        assert np.mean(losses) == pytest.approx(values[batch].mean())


def test_devices_without_processes_are_refused() -> None:
    execution = ExecutionConfig(progress=False, accelerator="cpu", devices=2)
    with pytest.raises(ConfigError, match="'ptychopinn train --devices N' starts them"):
        fit(small_scan(), small_config(), execution)
    assert QUIET.devices == 1


def losses(processes: int) -> list[float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(HERE / "shared_run.py")]
    paths = os.pathsep.join([str(HERE.parent), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {
        words[1]: words[2:]
        for words in (line.split() for line in done.stdout.splitlines())
        if words[:1] == ["'losses'"]
    }
    assert len(rows) == processes
    for rank, row in rows.items():  # rank 0 alone tells of the run
        assert row[0] == str(rank == "0")
    return [float(word) for word in rows["0"][1:]]


@pytest.mark.slow
def test_two_processes_learn_what_one_does() -> None:
    one, two = losses(1), losses(2)
    assert len(one) == 5
    assert np.allclose(one, two, rtol=1e-9)
    assert one[-1] < 0.97 * one[0]
