from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation.metrics import complex_correlation, correlation, ms_ssim, nrmse, psnr, ssim

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
    with pytest.raises(DataError, match="zeros everywhere"):
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
    with pytest.raises(DataError, match="no room for SSIM's window of 7 x 7"):
        ssim(a, b, 1.0, mask)
    with pytest.raises(DataError, match="at least 176 x 176 pixels"):
        ms_ssim(a, b, 1.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(0.1, 10), st.floats(-5, 5))
def test_mean_free_correlation_is_pearsons(seed: int, scale: float, offset: float) -> None:
    a, b = pair(seed)
    mask = np.zeros_like(EVERYWHERE)
    mask[3:20, 5:] = True
    value = correlation(scale * a + offset, b, mask)
    assert value == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1])
    assert correlation(-a, b, mask) == pytest.approx(-value)
    with pytest.raises(DataError, match="constant"):
        correlation(a, np.full_like(b, 2), mask)


def test_nrmse_is_a_part_of_the_reference() -> None:
    a, b = pair(0)
    b = b + 4
    mask = np.zeros_like(EVERYWHERE)
    mask[:9] = True
    spoiled = np.where(mask, 0.9 * b, 1e3)
    assert nrmse(spoiled, b, mask, mean_free=False) == pytest.approx(0.1)
    assert nrmse(np.full_like(b, b[mask].mean()), b, mask, mean_free=True) == pytest.approx(1)
    complex_ = b * np.exp(1j * a)
    assert nrmse(complex_ * np.exp(0.2j), complex_, mask, mean_free=False) == pytest.approx(2 * np.sin(0.1))
    for wrong, mean_free in ((b * 0, False), (b * 0 + 3, True)):
        with pytest.raises(DataError, match="constant"):
            nrmse(a, wrong, mask, mean_free=mean_free)
