from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.errors import ScanError
from ptycho_torch.scan import Scan, check_content
from ptycho_torch.scan.frames import ArrayFrames
from strategies import scans, seeds


def small(**changes: object) -> Scan:
    parts = {
        "frames": np.ones((3, 4, 4), np.float32),
        "positions": np.arange(6.0).reshape(3, 2),
        "probe": np.ones((1, 4, 4), np.complex64),
    }
    return Scan(**{**parts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frames", np.ones((3, 4, 5), np.float32)),
        ("frames", np.ones((4, 4), np.float32)),
        ("frames", np.ones((0, 4, 4), np.float32)),
        ("positions", np.zeros((2, 2))),
        ("positions_start", np.zeros((3, 3))),
        ("scan_index", np.zeros(4, np.int64)),
        ("good_pixels", np.ones((5, 4), bool)),
        ("probe", np.ones((4, 4), np.complex64)),
        ("probe", np.ones((1, 6, 6), np.complex64)),
        ("object_guess", np.ones((1, 6, 6), np.complex64)),
    ],
)
def test_shapes_that_disagree_are_refused_by_name(key: str, value: np.ndarray) -> None:
    with pytest.raises(ScanError, match=rf"{key}: expected .*found .*\d") as caught:
        small(**{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1])
@pytest.mark.parametrize("key", ["frames", "positions", "positions_start", "probe", "object_guess"])
def test_values_nobody_can_use_are_refused_by_name(key: str, bad: float) -> None:
    good: dict[str, np.ndarray] = {
        "frames": np.ones((3, 4, 4), np.float32),
        "positions": np.arange(6.0).reshape(3, 2),
        "positions_start": np.zeros((3, 2)),
        "probe": np.ones((1, 4, 4), np.complex64),
        "object_guess": np.ones((5, 6), np.complex64),
    }
    value = good[key]
    value[1 if key != "probe" else 0, 1] = bad
    if bad < 0 and key != "frames":
        check_content(small(**{key: value}))
        return
    with pytest.raises(ScanError, match=rf"{key}: expected finite .* found .*1"):
        check_content(small(**{key: value}))


def test_no_signal_and_no_power_are_refused() -> None:
    with pytest.raises(ScanError, match="frames: all 3 frames are zero everywhere"):
        check_content(small(frames=np.zeros((3, 4, 4), np.float32)))
    with pytest.raises(ScanError, match="probe: zero everywhere"):
        check_content(small(probe=np.zeros((1, 4, 4), np.complex64)))


@given(scans(), st.data())
def test_select_keeps_every_part_in_step(scan: Scan, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, scan.n_frames - 1), min_size=1, max_size=12))
    part = scan.select(index)
    assert part.n_frames == len(index)
    assert part.N == scan.N
    assert part.n_modes == scan.n_modes
    for name in ("frames", "positions", "positions_start", "scan_index"):
        whole = getattr(scan, name)
        if whole is not None:
            np.testing.assert_array_equal(getattr(part, name), whole[index])
    mask = np.zeros(scan.n_frames, bool)
    mask[index] = True
    np.testing.assert_array_equal(scan.select(mask).positions, scan.positions[np.unique(index)])


@given(scans())
def test_halves_are_disjoint_and_complete(scan: Scan) -> None:
    if scan.n_frames < 2:
        with pytest.raises(ScanError, match="at least 2"):
            scan.halves()
        return
    even, odd = scan.halves()
    assert even.n_frames + odd.n_frames == scan.n_frames
    np.testing.assert_array_equal(even.positions, scan.positions[::2])
    np.testing.assert_array_equal(odd.positions, scan.positions[1::2])


@pytest.mark.parametrize("which", [[], [3], [-4], np.zeros(3, bool), np.ones(4, bool)])
def test_selecting_what_is_not_there_is_refused(which: object) -> None:
    with pytest.raises(ScanError, match="expected"):
        small().select(which)  # type: ignore[arg-type]


@given(seeds, st.floats(-1, 4))
def test_whole_counts_are_told_from_amplitudes(seed: int, log_mean: float) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(10**log_mean, (3, 16, 16))
    counts[0, 0, 0] = 7
    amplitude = np.sqrt(counts).astype(np.float32)
    assert ArrayFrames(amplitude).counts_known
    assert not ArrayFrames(amplitude * np.float32(0.37)).counts_known
    assert not ArrayFrames(np.zeros((1, 4, 4), np.float32)).counts_known
