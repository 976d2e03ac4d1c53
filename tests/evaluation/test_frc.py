from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.frc import FrcCurve, crossing, fourier_ring_correlation


def noise(seed: int, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(0.1, 50), st.floats(-9, 9), st.integers(16, 50), st.integers(16, 50))
def test_an_image_agrees_with_itself_however_scaled(
    seed: int, scale: float, offset: float, height: int, width: int
) -> None:
    image = noise(seed, (height, width))
    curve = fourier_ring_correlation(image, scale * image + offset)
    assert len(curve.frequency) == min(height, width) // 2
    assert curve.frequency[-1] == 0.5
    assert np.allclose(curve.correlation, 1)
    assert crossing(curve, 0.5) == {
        "frequency": 0.5,
        "ring": min(height, width) / 2,
        "resolution_px": 1.0,
        "crossed": False,
    }


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_it_is_symmetric_and_bounded(seed: int) -> None:
    a, b = noise(seed), noise(seed) + noise(seed + 1000)
    one, other = fourier_ring_correlation(a, b), fourier_ring_correlation(b, a)
    assert np.allclose(one.correlation, other.correlation)
    assert np.abs(one.correlation).max() <= 1 + 1e-12


def test_independent_noise_does_not_agree() -> None:
    curve = fourier_ring_correlation(noise(1, (128, 128)), noise(2, (128, 128)))
    assert np.abs(curve.correlation[10:]).max() < 0.5
    assert abs(curve.correlation[10:].mean()) < 0.06


@pytest.mark.parametrize("cut", [0.1, 0.2, 0.35])
def test_it_finds_where_a_signal_ends(cut: float) -> None:
    size = 192
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    signal = np.fft.ifft2(np.fft.fft2(noise(0, (size, size))) * (radius < cut)).real
    curve = fourier_ring_correlation(
        signal + 0.1 * noise(1, (size, size)), signal + 0.1 * noise(2, (size, size))
    )
    found = crossing(curve, 0.5)
    assert found["crossed"]
    assert found["frequency"] == pytest.approx(cut, abs=0.02)
    assert found["ring"] == pytest.approx(cut * size, abs=4)
    assert found["resolution_px"] == pytest.approx(0.5 / found["frequency"])
    assert crossing(curve, 1 / 7)["frequency"] >= found["frequency"]


def test_complex_images_see_the_relative_phase() -> None:
    image = noise(0) + 1j * noise(1)
    assert np.allclose(fourier_ring_correlation(image, image * 3).correlation, 1)
    assert np.allclose(fourier_ring_correlation(image, image * 1j).correlation, 0, atol=1e-12)


def test_without_a_window_common_edges_pretend_to_agree() -> None:
    ramp = np.add.outer(np.arange(64.0), np.arange(64.0))
    a, b = ramp + 3 * noise(1), ramp + 3 * noise(2)
    bare, windowed = (fourier_ring_correlation(a, b, taper=t).correlation[8:].mean() for t in (0, 1))
    assert bare > windowed + 0.05


def test_crossing_lies_on_the_line_between_two_rings() -> None:
    curve = FrcCurve(np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.8, 0.4]), np.array([8, 16, 24]), 50)
    assert crossing(curve, 0.5)["frequency"] == pytest.approx(0.275)
    assert crossing(curve, 0.5)["ring"] == pytest.approx(13.75)
    low = FrcCurve(np.array([0.1, 0.2]), np.array([0.2, 0.9]), np.array([8, 16]), 50)
    assert crossing(low, 0.5) == {"frequency": 0.1, "ring": 5.0, "resolution_px": 5.0, "crossed": True}


def test_wrong_input() -> None:
    with pytest.raises(DataError, match="one shape"):
        fourier_ring_correlation(noise(0), noise(0)[:-1])
    with pytest.raises(DataError, match="at least 16 pixels"):
        fourier_ring_correlation(noise(0)[:9], noise(0)[:9])
    with pytest.raises(DataError, match="found a constant"):
        fourier_ring_correlation(noise(0), np.full((64, 64), 7.3))
    with pytest.raises(DataError, match="NaN"):
        fourier_ring_correlation(noise(0), np.full((64, 64), np.nan))
