"""Normalisation: what is stored in every bundle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptycho_torch.errors import DataError
from ptycho_torch.physics.units import (
    amplitude_normalisation,
    intensity_scale_from_counts,
    mean_power,
    normalise_probe,
)

FRAMES = arrays(np.float32, (5, 8, 8), elements=st.floats(0.125, 100, width=32))


@given(FRAMES, st.floats(1e-3, 1e3))
def test_normalised_frames_have_power_of_half_n_squared(frames: np.ndarray, factor: float) -> None:
    scaled = frames * np.float32(factor)
    x = amplitude_normalisation(scaled) * scaled.astype(np.float64)
    assert np.mean(np.sum(x**2, axis=(1, 2))) == pytest.approx(16.0, rel=1e-5)


@given(FRAMES)
def test_scale_times_normalised_frames_are_the_counts(frames: np.ndarray) -> None:
    x = amplitude_normalisation(frames) * frames.astype(np.float64)
    np.testing.assert_allclose(intensity_scale_from_counts(frames) * x, frames, rtol=1e-5)


@given(st.integers(1, 3), st.integers(0, 99), st.floats(1e-6, 1e6))
def test_probe_power_whatever_it_was(modes: int, seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    probe = factor * (rng.normal(size=(modes, 16, 16)) + 1j * rng.normal(size=(modes, 16, 16)))
    done = normalise_probe(probe)
    assert done.shape == (modes, 16, 16)
    assert np.sum(np.abs(done) ** 2) == pytest.approx(64.0, rel=1e-5)
    np.testing.assert_allclose(np.angle(done), np.angle(probe), atol=1e-4)


def test_a_single_mode_gets_its_axis_and_darkness_is_refused() -> None:
    assert normalise_probe(np.ones((8, 8))).shape == (1, 8, 8)
    with pytest.raises(DataError, match="probe"):
        normalise_probe(np.zeros((8, 8)))
    with pytest.raises(DataError, match="frames"):
        amplitude_normalisation(np.zeros((3, 8, 8), np.float32))


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_every_frame_counts_once_however_many(count: int) -> None:
    frames = np.random.default_rng(count).random((count, 4, 4)).astype(np.float32)
    expected = np.mean(np.sum(frames.astype(np.float64) ** 2, axis=(1, 2)))
    assert mean_power(frames) == pytest.approx(expected, rel=1e-12)


def test_values_by_hand() -> None:
    """Two frames of 8 x 8 with power 64 and 256: mean 160; N/2 is 4."""
    frames = np.stack([np.ones((8, 8)), np.full((8, 8), 2.0)]).astype(np.float32)
    assert mean_power(frames) == 160
    assert amplitude_normalisation(frames) == pytest.approx(4 / np.sqrt(160))
    assert intensity_scale_from_counts(frames) == pytest.approx(np.sqrt(160) / 4)


@pytest.mark.parametrize(
    "probe",
    [np.ones((2, 1, 8, 8)), np.ones((8, 7)), np.ones(8), np.full((8, 8), np.nan), np.full((8, 8), np.inf)],
)
def test_what_is_no_probe(probe: np.ndarray) -> None:
    with pytest.raises(DataError, match="probe: expected"):
        normalise_probe(probe)


def test_no_frames_have_no_power() -> None:
    with pytest.raises(DataError, match="there are none"):
        mean_power(np.zeros((0, 8, 8), np.float32))
