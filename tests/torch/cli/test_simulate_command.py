"""``simulate`` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from calling import call
from small import small_scan

from ptycho_torch.scan import open_scan, write_scan


@pytest.mark.parametrize(
    ("obj", "probe", "scan"),
    [("lines", "disk", "grid"), ("siemens", "gaussian", "random"), ("grf", "zoneplate", "spiral")],
)
def test_simulating_every_kind(tmp_path: Path, obj: str, probe: str, scan: str) -> None:
    arguments = ["--object", obj, "--probe", probe, "--scan", scan, "--size", 80, "--N", 32, "--count", 20]
    more = ["--photons", 1e4, "--jitter", 0.5, "--seed", 7, "--json"]
    shown = [call("simulate", *arguments, *more, "-o", tmp_path / f"{i}.npz") for i in range(2)]
    assert [s.exit_code for s in shown] == [0, 0], shown[0].output
    about = json.loads(shown[0].stdout)
    assert (about["frames"], about["N"]) == (20, 32)
    a, b = (open_scan(tmp_path / f"{i}.npz") for i in range(2))
    np.testing.assert_array_equal(a.frames, b.frames)
    assert np.mean(np.sum(a.frames**2, axis=(1, 2))) == pytest.approx(1e4, rel=0.05)
    assert (tmp_path / "0.png").exists()


def test_simulating_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.random.default_rng(0).random((64, 64)) + 1j)
    write_scan(small_scan(), tmp_path / "probe.npz")
    done = call(
        "simulate", "--object", tmp_path / "object.npy", "--probe", tmp_path / "probe.npz", "--measurement", "counts",
        "-o", tmp_path / "made.npz", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    made = open_scan(tmp_path / "made.npz")
    assert made.counts_known
    assert made.source is not None
    assert made.source.measurement == "counts"
