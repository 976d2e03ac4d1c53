"""What scan_index means, and that runs are separate objects."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch.errors import ScanError
from ptycho_torch.scan import open_scan
from ptycho_torch.scan.runs import runs_of

RNG = np.random.default_rng(2)


def saved(folder: Path, index: Any, count: int = 24) -> Path:
    arrays = {
        "diff3d": RNG.poisson(40, (count, 8, 8)),
        "xcoords": RNG.uniform(0, 50, count),
        "ycoords": RNG.uniform(0, 50, count),
        "probeGuess": np.ones((8, 8), complex),
    }
    if index is not None:
        arrays["scan_index"] = np.asarray(index)
    np.savez(folder / "scan.npz", **arrays)
    return folder / "scan.npz"


TWO = np.repeat([7, 3], 12)


def test_frame_numbers_are_no_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        scan = open_scan(saved(tmp_path, np.arange(24)))
    assert scan.scan_index is None
    assert "frame numbers" in scan.source.runs_why
    assert scan.source.runs_why in caplog.text
    scan.require_one_run()


@pytest.mark.parametrize("index", [np.arange(24) % 8, RNG.permutation(24), np.r_[0:12, 0:12]])
def test_numbers_that_repeat_a_few_times_are_no_runs(index: Any) -> None:
    assert runs_of(index, None)[:2] == (None, False)


def test_runs_are_kept_apart_and_refused_for_one_object(tmp_path: Path) -> None:
    scan = open_scan(saved(tmp_path, TWO))
    np.testing.assert_array_equal(scan.scan_index, TWO)
    assert scan.runs == {3: 12, 7: 12}
    with pytest.raises(
        ScanError,
        match=r"scan_index: expected frames of one object, found 2 runs, 3 \(12 frames\), 7 .*--runs",
    ) as caught:
        scan.require_one_run()
    assert "\n" not in str(caught.value)
    scan.select(scan.scan_index == 3).require_one_run()


def test_a_run_is_chosen(tmp_path: Path) -> None:
    path = saved(tmp_path, TWO)
    whole, part = open_scan(path), open_scan(path, run=3)
    assert part.n_frames == 12
    np.testing.assert_array_equal(part.frames[:], whole.frames[12:])
    np.testing.assert_array_equal(part.positions, whole.positions[12:])
    assert "chose run 3" in part.source.runs_why
    part.require_one_run()
    together = open_scan(path, run="all")
    assert together.n_frames == 24
    assert together.scan_index is None


def test_runs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"scan\.npz: scan_index: expected run 5, found 3, 7"):
        open_scan(saved(tmp_path, TWO), run=5)
    with pytest.raises(ScanError, match=r"scan_index: the file has no runs; leave --runs 5 out"):
        open_scan(saved(tmp_path, None), run=5)


def test_one_number_throughout_is_one_run(tmp_path: Path) -> None:
    scan = open_scan(saved(tmp_path, np.full(24, 4)))
    assert scan.runs == {}
    np.testing.assert_array_equal(scan.scan_index, 4)
