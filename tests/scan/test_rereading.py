"""Frames of several parts are read once, and what comes out is what was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.scan import rereading
from ptycho_torch.scan.rereading import EachOnce

FRAMES = np.arange(10 * 4, dtype=np.float32).reshape(10, 2, 2)


class Recorder:
    """Frames that say which were read."""

    shape = FRAMES.shape

    def __init__(self) -> None:
        self.read: list[int] = []

    def __getitem__(self, index: Any) -> np.ndarray:
        self.read += np.asarray(index).tolist()
        return FRAMES[index]


PARTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=8)


@given(PARTS)
def test_each_frame_is_read_once_and_none_is_left_waiting(parts: list[list[int]]) -> None:
    frames = Recorder()
    reader = EachOnce(frames, parts)
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(reader.read(number), FRAMES[part])
        later = {frame for other in parts[number + 1 :] for frame in other}
        assert reader.waiting == len(later & {frame for other in parts[: number + 1] for frame in other})
    assert sorted(frames.read) == sorted({frame for part in parts for frame in part})


@given(PARTS, st.integers(0, 3))
def test_no_more_wait_than_there_is_memory_for(parts: list[list[int]], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rereading, "memory_limit", lambda: 8 * most * 16)
        reader = EachOnce(FRAMES, parts)
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(reader.read(number), FRAMES[part])
        assert reader.waiting <= most
