"""Normalisation: what is stored in every bundle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ptycho_torch.errors import DataError
from ptycho_torch.physics.units import amplitude_normalisation, intensity_scale_from_counts, normalise_probe

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
