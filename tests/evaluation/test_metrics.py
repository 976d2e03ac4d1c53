from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.metrics import complex_correlation, ms_ssim, psnr, ssim

EVERYWHERE = np.ones((40, 30), bool)


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(40, 30))
    return image + 0.3 * rng.normal(size=image.shape), image


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.01, 100), st.floats(-3, 3))
def test_complex_correlation_ignores_a_complex_factor(seed: int, scale: float, phase: float) -> None:
    a, b = pair(seed)
    image = a + 1j * b
    assert complex_correlation(image, image * scale * np.exp(1j * phase)) == pytest.approx(1, abs=1e-12)
    value = complex_correlation(a, b)
    assert 0 <= value < 1
    assert complex_correlation(b, a) == pytest.approx(value)


def test_complex_correlation_of_a_region() -> None:
    a, b = pair(0)
    mask = np.zeros_like(EVERYWHERE)
    mask[:5] = True
    b[:5] = a[:5]
    assert complex_correlation(a, b, mask) == pytest.approx(1)
    with pytest.raises(DataError, match="found zeros"):
        complex_correlation(a, b * 0)


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    a, b = pair(1)
    span = float(np.ptp(b))
    assert psnr(a, b, span, EVERYWHERE) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=span))
    # scikit-image's mean leaves out the same border of half a window.
    assert ssim(a, b, span, EVERYWHERE) == pytest.approx(
        structural_similarity(a, b, data_range=span), abs=1e-9
    )
    assert psnr(b, b, span, EVERYWHERE) == math.inf
    assert ssim(b, b, span, EVERYWHERE) == pytest.approx(1)


def test_what_lies_outside_the_region_has_no_influence() -> None:
    a, b = pair(2)
    mask = np.zeros_like(EVERYWHERE)
    mask[5:25, 5:25] = True
    spoiled = np.where(mask, a, 1e3)
    assert ssim(spoiled, b, 5.0, mask) == pytest.approx(ssim(a, b, 5.0, mask))
    assert psnr(spoiled, b, 5.0, mask) == psnr(a, b, 5.0, mask)


def test_too_small() -> None:
    a, b = pair(3)
    mask = np.zeros_like(EVERYWHERE)
    mask[:6, :6] = True
    with pytest.raises(DataError, match="room for a window of 7 x 7"):
        ssim(a, b, 1.0, mask)
    with pytest.raises(DataError, match="at least 176 pixels a side"):
        ms_ssim(a, b, 1.0)
