"""The benchmark of live sources sees an error where there is one."""

from __future__ import annotations

import pytest

pytest.importorskip("zmq")

import numpy as np

import live


def test_frames_of_the_benchmark_tell_their_numbers() -> None:
    scan = live.scan_of(600, 16, 0)
    counts = np.rint(np.square(np.asarray(scan.frames)))
    assert np.array_equal(250 * counts[:, 0, 0] + counts[:, 0, 1], np.arange(600))
    assert len({frame.tobytes() for frame in counts}) == 600
