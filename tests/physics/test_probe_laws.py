"""Laws of probes elsewhere along the beam and of other sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_torch.physics.probes import magnified, propagated

N = 64
Y, X = np.mgrid[:N, :N] - N // 2
DISTANCES = st.floats(-60, 60)


def wave(seed: int) -> NDArray[np.complex128]:
    """Two modes of noise under a window, neither of them symmetric."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N))
    return noise * np.exp(-((X - 3) ** 2 + (Y + 5) ** 2) / 60)


def width(intensity: NDArray[np.float64]) -> float:
    """Radius at which a Gaussian's intensity has fallen to 1/e^2, from its second moment."""
    return float(np.sqrt(2 * np.sum(intensity * (X**2 + Y**2)) / intensity.sum()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), DISTANCES, DISTANCES)
def test_distances_add_up_and_no_power_is_lost(seed: int, first: float, second: float) -> None:
    start = wave(seed)
    there = propagated(start, first)
    assert np.linalg.norm(there) == pytest.approx(np.linalg.norm(start))
    assert np.allclose(propagated(there, second), propagated(start, first + second), atol=1e-10)
    assert np.allclose(propagated(there, -first), start, atol=1e-10)


@pytest.mark.parametrize("distance", [20.0, 60.0, -60.0])
def test_a_gaussian_spreads_as_gaussian_beams_do(distance: float) -> None:
    waist = 4.0
    there = propagated(np.exp(-(X**2 + Y**2) / waist**2), distance)
    assert width(np.abs(there) ** 2) == pytest.approx(
        waist * np.hypot(1, distance / (np.pi * waist**2)), rel=1e-3
    )


def test_a_lens_has_its_focus_downstream() -> None:
    lens = np.exp(-(X**2 + Y**2) / 10**2 - 1j * np.pi * (X**2 + Y**2) / 40)
    peaks = {d: float(np.abs(propagated(lens, d)).max()) for d in (-40.0, 0.0, 20.0, 40.0)}
    assert max(peaks, key=peaks.__getitem__) == 40.0


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.5])
def test_a_probe_grows_about_the_middle_and_keeps_its_power(factor: float) -> None:
    start = np.exp(-((X - 4) ** 2 + (Y + 6) ** 2) / 5**2 + 0.1j * X)
    made = magnified(np.stack([start, 0.5j * start]), factor)
    expected = np.exp(-((X / factor - 4) ** 2 + (Y / factor + 6) ** 2) / 5**2 + 0.1j * X / factor)
    expected *= np.linalg.norm(start) / np.linalg.norm(expected)
    assert np.allclose(made[0], expected, atol=0.01 * np.abs(expected).max())
    assert np.allclose(made[1], 0.5j * made[0])
    assert np.linalg.norm(made) == pytest.approx(np.linalg.norm(start) * np.sqrt(1.25))


def test_a_single_wave_needs_no_axis_of_modes() -> None:
    start = wave(1)[0]
    assert magnified(start, 1.2).shape == propagated(start, 3.0).shape == (N, N)
    assert not magnified(np.zeros((N, N)), 1.2).any()
