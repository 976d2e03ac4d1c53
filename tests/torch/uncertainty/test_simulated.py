"""Scans that are simulated from a reconstruction are what it predicts, with the noise of counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptycho_torch.result import Reconstruction
from ptycho_torch.scan import Scan
from ptycho_torch.simulation import diffract, make_object, make_positions, make_probe, simulate_scan
from ptycho_torch.uncertainty import SimulatedFrames, gain_of, moved

SIZE = 32
OBJECT = make_object("siemens", 72)
POSITIONS = make_positions("grid", OBJECT.shape, SIZE, step=8.0)
SCAN = simulate_scan(OBJECT, make_probe("zoneplate", SIZE), POSITIONS, photons=1e5)


def truth(scan: Scan = SCAN) -> Reconstruction:
    weight = np.zeros(OBJECT.shape, np.float32)
    for x, y in scan.positions.astype(int):
        weight[y - 16 : y + 16, x - 16 : x + 16] += (np.abs(scan.probe) ** 2).sum(0)
    return Reconstruction(OBJECT, weight, np.zeros(2), scan.positions, scan.probe)


def test_rates_are_those_of_the_forward_model_in_numpy() -> None:
    half = SIZE // 2
    patches = np.stack([OBJECT[y - half : y + half, x - half : x + half] for x, y in POSITIONS.astype(int)])
    expected = diffract(patches, SCAN.probe)
    many = np.mean(
        [np.square(SimulatedFrames(truth(), seed)[:5], dtype=float) for seed in range(200)], axis=0
    )
    # Poisson: the mean of 200 counts scatters by sqrt(rate / 200).
    off = (many - expected[:5]) / np.sqrt(np.maximum(expected[:5], 1) / 200)
    assert np.abs(off.mean()) < 0.05
    assert off.std() == pytest.approx(1, abs=0.1)


def test_squares_are_whole_multiples_of_the_gain_and_scatter_with_it() -> None:
    frames = np.square(SimulatedFrames(truth(), 1, gain=7.0)[:], dtype=float)
    assert np.allclose(frames / 7, np.rint(frames / 7), atol=1e-3)
    other = np.square(SimulatedFrames(truth(), 2, gain=7.0)[:], dtype=float)
    assert np.sum((frames - other) ** 2) / np.sum(frames + other) == pytest.approx(7, rel=0.05)


def test_a_frame_is_the_same_however_it_is_read() -> None:
    frames = SimulatedFrames(truth(), 3)
    assert np.array_equal(frames[[4, 1]], frames[:][[4, 1]])
    assert not np.array_equal(frames[2], SimulatedFrames(truth(), 4)[2])


def test_positions_may_be_anywhere_and_bad_pixels_read_nothing() -> None:
    good = np.ones((SIZE, SIZE), bool)
    good[3, 5] = False
    shifted = replace(truth(), positions=SCAN.positions + 0.37)
    frames = SimulatedFrames(shifted, 0, good=good)[:]
    assert not frames[:, 3, 5].any()
    assert np.square(frames, dtype=float).sum() == pytest.approx(
        np.square(SCAN.frames[:], dtype=float).sum(), rel=0.05
    )


@pytest.mark.parametrize("gain", [1.0, 12.0])
def test_the_gain_is_measured_where_frames_are_not_counts(gain: float) -> None:
    scaled = replace(SCAN, frames=SCAN.frames[:] * np.float32(np.sqrt(gain)), counts_known=False)
    rec = replace(truth(), probe=truth().probe * np.sqrt(gain))
    assert gain_of(rec, scaled) == pytest.approx(gain, rel=0.05)
    assert gain_of(rec, replace(scaled, counts_known=True)) == 1


def test_a_moved_object_is_made_of_what_was_well_lit() -> None:
    rec = truth()
    dark = rec.weight < 1e-3 * rec.weight.max()
    rec = replace(rec, object=np.where(dark, 77, rec.object))
    found = [moved(rec, np.random.default_rng(k)) for k in range(4)]
    for one in found:
        assert one.object.shape == rec.object.shape
        assert np.isin(one.object, rec.object[~dark]).all()
        assert np.array_equal(one.weight, rec.weight)
    assert len({one.object.tobytes() for one in found}) == 4
