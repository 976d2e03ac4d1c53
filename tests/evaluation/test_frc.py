from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.signal.windows import tukey

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.frc import (
    HALF_BIT,
    FrcCurve,
    _tukey,
    crossing,
    fourier_ring_correlation,
    information_threshold,
)


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
        "pixels": curve.effective[-1],
    }
    assert not crossing(curve, curve.half_bit())["crossed"]


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


def drawn(values: list[float], pixels: float = 100.0) -> FrcCurve:
    count = len(values)
    frequency = np.arange(1, count + 1) / (2 * count)
    return FrcCurve(
        frequency, np.array(values), np.full(count, int(pixels)), np.full(count, pixels), 2 * count, 0.5
    )


def test_crossing_lies_on_the_line_between_two_rings() -> None:
    curve = drawn([1.0, 1.0, 0.8, 0.4, 0.2, 0.1, 0.1, 0.1])
    found = crossing(curve, 0.5, smooth=1)
    assert found["frequency"] == pytest.approx((3 + 0.75) / 16)
    assert found["ring"] == pytest.approx(3.75)
    assert found["resolution_px"] == pytest.approx(0.5 / found["frequency"])
    rising = np.linspace(0.3, 0.9, 8)  # a threshold of its own for each ring, here by 0.0857 a ring
    assert crossing(curve, rising, smooth=1)["ring"] == pytest.approx(
        3 + (0.8 - rising[2]) / (0.4 + 3 * 0.6 / 7 - 2 * 0.6 / 7)
    )


def test_a_narrow_dip_does_not_count_and_a_wide_one_does() -> None:
    values = [0.95] * 60
    for ring in (0, 1, 7):
        values[ring] = 0.2
    assert not crossing(drawn(values), 0.5)["crossed"]
    assert not crossing(drawn(values), 0.5, smooth=1)["crossed"]
    values[20:32] = [0.1] * 12
    found = crossing(drawn(values), 0.5)
    assert found["crossed"]
    assert found["ring"] == pytest.approx(20, abs=1)
    values[20:32] = [0.95] * 12
    values[58:] = [0.1, 0.1]  # up to the end
    assert crossing(drawn(values), 0.5, smooth=1)["ring"] == pytest.approx(58.53, abs=0.01)


def test_what_never_agrees_is_not_resolved_at_the_first_ring() -> None:
    found = crossing(drawn([0.1] * 20), 0.5)
    assert found["crossed"]
    assert found["ring"] == 1


def test_the_smoothed_curve_is_a_weighted_mean_of_five_rings() -> None:
    curve = drawn([1.0, 0.0, 0.5, 0.2, 0.7, 0.9, 0.4])
    curve.effective[:] = [8, 12, 20, 24, 32, 36, 40]
    weights, values = curve.effective, curve.correlation
    assert curve.smoothed()[3] == pytest.approx(np.average(values[1:6], weights=weights[1:6]))
    assert curve.smoothed()[0] == pytest.approx(np.average(values[:3], weights=weights[:3]))
    assert np.allclose(curve.smoothed(1), values)


def test_the_half_bit_threshold_is_that_of_van_heel_and_schatz() -> None:
    n = np.array([4.0, 50.0, 1000.0])
    root = np.sqrt(n)
    published = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    assert information_threshold(HALF_BIT, n) == pytest.approx(published, abs=1e-4)
    assert information_threshold(1 / 6, np.array([1e12])) == pytest.approx(1 / 7, abs=1e-5)
    assert information_threshold(1.0, np.array([1e12])) == pytest.approx(1 / 2, abs=1e-5)
    assert information_threshold(HALF_BIT, np.array([0.0, 1.0])) == pytest.approx(1)
    assert np.allclose(drawn([1.0] * 9, 50.0).half_bit(), published[1], atol=1e-4)


@pytest.mark.parametrize(("taper", "within"), [(0.25, 5e-3), (0.5, 5e-3), (1.0, 3e-6)])
def test_effective_pixels_are_those_of_all_pairs(taper: float, within: float) -> None:
    height, width, total = 24, 33, 12
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    ring = np.rint(radius * 2 * total).astype(int)
    down, across = (
        np.abs(np.fft.fft(tukey(n, taper) ** 2) / np.sum(tukey(n, taper) ** 2)) ** 2 for n in (height, width)
    )
    curve = fourier_ring_correlation(noise(0, (height, width)), noise(1, (height, width)), taper=taper)
    for k, count, effective in zip(range(1, total + 1), curve.count, curve.effective, strict=True):
        rows, columns = np.nonzero(ring == k)
        assert count == len(rows)
        pairs = down[rows[:, None] - rows] * across[columns[:, None] - columns]
        assert effective == pytest.approx(count**2 / pairs.sum(), rel=within)


@pytest.mark.parametrize("count", [16, 25])
@pytest.mark.parametrize("taper", [0.0, 0.3, 1.0])
def test_the_window_is_that_of_tukey(count: int, taper: float) -> None:
    assert np.allclose(_tukey(count, taper), tukey(count, taper))


@pytest.mark.parametrize("rings", [1, 2, 5, 16, 40])
def test_as_many_rings_as_are_asked_for(rings: int) -> None:
    image = noise(0, (24, 32))
    curve = fourier_ring_correlation(image, image, rings=rings)
    assert np.allclose(curve.frequency, np.arange(1, rings + 1) / (2 * rings))
    lit = curve.count > 0
    assert curve.correlation.shape == curve.effective.shape == lit.shape == (rings,)
    assert np.allclose(curve.correlation, lit)
    assert np.all(curve.effective[~lit] == 1)
    assert curve.count.sum() + 1 <= image.size
    radius = np.hypot(np.fft.fftfreq(24)[:, None], np.fft.fftfreq(32)) * 2 * rings
    assert curve.count.tolist() == [np.sum(np.rint(radius) == k) for k in range(1, rings + 1)]


def test_rings_without_light_do_not_correlate() -> None:
    board = (-1.0) ** np.add.outer(np.arange(32), np.arange(32)) + (-1.0) ** np.arange(32)
    curve = fourier_ring_correlation(board, board, taper=0)
    assert curve.correlation[:-1].max() == 0
    assert curve.correlation[-1] == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_unit_does_not_matter(scale: float) -> None:
    a, b = noise(0), noise(0) + noise(1)
    one, other = fourier_ring_correlation(a, b), fourier_ring_correlation(scale * a, scale * b)
    assert np.allclose(one.correlation, other.correlation)
    faint = fourier_ring_correlation(1 + 1e-7 * a, 1 + 1e-7 * b)
    assert np.allclose(one.correlation, faint.correlation, atol=1e-4)


def test_a_real_image_beside_a_complex_one_counts_as_complex() -> None:
    a, b = noise(0), noise(1) + 1j * noise(2)
    for pair in ((a, b), (b, a), (b, b)):
        assert np.allclose(
            fourier_ring_correlation(*pair).effective, 2 * fourier_ring_correlation(a, a).effective
        )


def test_how_wide_a_dip_counts() -> None:
    """A tenth of all rings, rounded up, and at least three."""
    for rings, least in ((20, 3), (66, 7), (60, 6)):
        for wide in (least - 1, least):
            values = np.full(rings, 0.95)
            values[5 : 5 + wide] = 0.1
            assert crossing(drawn(values.tolist()), 0.5, smooth=1)["crossed"] is (wide == least)


def test_at_the_threshold_is_not_below_it() -> None:
    assert not crossing(drawn([0.5] * 20), 0.5, smooth=1)["crossed"]


def test_pixels_are_read_where_it_crosses() -> None:
    curve = drawn([1.0, 1.0, 0.8, 0.4, 0.2, 0.1, 0.1, 0.1])
    curve.effective[:] = np.arange(1, 9) * 10.0
    assert crossing(curve, 0.5, smooth=1)["pixels"] == pytest.approx(37.5)
    assert crossing(curve, -1.0, smooth=1)["pixels"] == 80
    assert crossing(curve, 2.0, smooth=1)["pixels"] == 10


def test_a_low_ring_that_is_wrong_is_no_resolution() -> None:
    """What ptychography constrains least: two rings of opposite sign in an image that is right otherwise."""
    size = 128
    image = noise(0, (size, size))
    ring = np.rint(np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)) * size)
    spectrum = np.fft.fft2(image)
    spectrum[(ring == 3) | (ring == 4)] *= -1
    curve = fourier_ring_correlation(np.fft.ifft2(spectrum).real, image)
    assert curve.correlation.min() < 0
    assert curve.smoothed().min() < 1 / 7
    for threshold in (1 / 7, 0.5, curve.half_bit()):
        assert not crossing(curve, threshold)["crossed"]


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_known_noise_gives_the_known_correlation(ratio: float) -> None:
    """White signal and white noise: S / (1 + S) between two noisy images, its root with the noise-free one."""
    size = 256
    signal = np.sqrt(ratio) * noise(0, (size, size))
    first, second = signal + noise(1, (size, size)), signal + noise(2, (size, size))
    for other, expected in ((second, ratio / (1 + ratio)), (signal, np.sqrt(ratio / (1 + ratio)))):
        curve = fourier_ring_correlation(first, other)
        assert np.average(curve.correlation, weights=curve.effective) == pytest.approx(expected, abs=0.01)
        chance = (1 - expected**2) / np.sqrt(curve.effective)
        within = np.abs(curve.correlation - expected)[3:] < 2 * chance[3:]
        assert 0.88 < within.mean() <= 1


def test_the_crossing_lies_where_the_signal_to_noise_ratio_says() -> None:
    """A signal whose spectrum falls as exp(-q / q0): FRC is S0 / (S0 + exp(2 q / q0))."""
    size, start, fall = 384, 400.0, 0.08
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    spectrum = np.sqrt(start) * np.exp(-radius / fall)
    signal = np.fft.ifft2(np.fft.fft2(noise(0, (size, size))) * spectrum).real
    curve = fourier_ring_correlation(signal + noise(1, (size, size)), signal + noise(2, (size, size)))
    for threshold in (1 / 7, 0.5):
        expected = fall / 2 * np.log(start * (1 / threshold - 1))
        assert crossing(curve, threshold)["frequency"] == pytest.approx(expected, abs=0.012)

    def excess(frequency: float) -> float:
        """FRC less the half-bit threshold, which follows the number of pixels."""
        pixels = np.array([np.interp(frequency, curve.frequency, curve.effective)])
        expected = start / (start + np.exp(2 * frequency / fall))
        return float(expected - information_threshold(HALF_BIT, pixels)[0])

    middle = crossing(curve, curve.half_bit())["frequency"]
    assert middle == pytest.approx(brentq(excess, 0.1, 0.49), abs=0.012)
    assert crossing(curve, 0.5)["frequency"] < middle < crossing(curve, 1 / 7)["frequency"]


def test_wrong_input() -> None:
    with pytest.raises(DataError, match="one shape"):
        fourier_ring_correlation(noise(0), noise(0)[:-1])
    with pytest.raises(DataError, match="at least 16 pixels"):
        fourier_ring_correlation(noise(0)[:9], noise(0)[:9])
    with pytest.raises(DataError, match="constant"):
        fourier_ring_correlation(noise(0), np.full((64, 64), 7.3))
    with pytest.raises(DataError, match="constant"):
        fourier_ring_correlation(noise(0), np.zeros((64, 64)))
    with pytest.raises(DataError, match="NaN"):
        fourier_ring_correlation(noise(0), np.full((64, 64), np.nan))


@pytest.mark.parametrize("taper", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("unit", [0, 1j])
def test_effective_pixels_are_those_by_which_noise_scatters(taper: float, unit: complex) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        a, b = rng.normal(size=(2, 40, 56)) + unit * rng.normal(size=(2, 40, 56))
        if unit == 0:
            a, b = a.real, b.real
        curve = fourier_ring_correlation(a, b, taper=taper)
        found.append(curve.correlation)
    ratio = np.std(found, 0)[2:] * np.sqrt(curve.effective[2:])
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    assert np.abs(ratio - 1).max() < 0.25
    if taper == 0:
        assert np.allclose(curve.effective, curve.count * (1 if unit == 0 else 2))
