from __future__ import annotations

import numpy as np
import pytest

from ptycho_torch.evaluation.frc import crossing, fourier_ring_correlation
from ptycho_torch.report.figures import figure_png
from ptycho_torch.report.rings import frc_figure


def curves() -> dict[str, object]:
    rng = np.random.default_rng(0)
    radius = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.fftfreq(96))
    signal = np.fft.ifft2(np.fft.fft2(rng.normal(size=(96, 96))) * (radius < 0.2)).real
    noisy = fourier_ring_correlation(
        signal + 0.1 * rng.normal(size=(96, 96)), signal + 0.1 * rng.normal(size=(96, 96))
    )
    return {"amplitude": noisy, "complex": fourier_ring_correlation(signal + 1j, signal + 2j)}


def test_curve_thresholds_and_crossings_are_drawn() -> None:
    drawn = curves()
    figure = frc_figure(drawn)
    left, right = figure.axes
    ring, smooth, half_bit, seventh = left.lines[0], left.lines[1], left.lines[2], left.lines[4]
    curve = drawn["amplitude"]
    assert np.array_equal(ring.get_ydata(), curve.correlation)
    assert np.array_equal(smooth.get_ydata(), curve.smoothed())
    assert np.array_equal(half_bit.get_ydata(), curve.half_bit())
    assert np.allclose(seventh.get_ydata(), 1 / 7)
    for line, threshold in ((left.lines[3], curve.half_bit()), (left.lines[5], 1 / 7)):
        assert line.get_xdata() == pytest.approx([crossing(curve, threshold)["frequency"]] * 2)
    assert "px" in left.get_title()
    assert right.get_title() == "complex object\nhalf bit: not crossed; 1/7: not crossed"
    assert len(right.lines) == 4
    assert "cosine over 0.5 of each side" in figure.get_supxlabel()
    assert figure_png(figure, dpi=40).startswith(b"\x89PNG")


def test_without_curves_it_says_so() -> None:
    figure = frc_figure({})
    assert figure.axes[0].texts[0].get_text() == "nothing to correlate"
    figure_png(figure, dpi=40)
