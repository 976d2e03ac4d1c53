from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ptycho_torch.errors import DataError
from ptycho_torch.evaluation import evaluate, ms_ssim
from ptycho_torch.evaluation.reference import Reference


def image(size: int = 180) -> np.ndarray:
    values = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(size, size)), 2)
    return values / values.std() - 5


def test_equal_images_score_one_and_noise_less() -> None:
    truth = image()
    span = float(np.ptp(truth))
    rng = np.random.default_rng(1)
    assert ms_ssim(truth, truth, span) == pytest.approx(1)
    scores = [ms_ssim(truth + s * rng.normal(size=truth.shape), truth, span) for s in (0.1, 0.5, 2)]
    assert 1 > scores[0] > scores[1] > scores[2] > 0


def test_an_offset_common_to_both_does_not_matter() -> None:
    truth = image()
    other = truth + 0.3 * np.random.default_rng(1).normal(size=truth.shape)
    span = float(np.ptp(truth))
    assert ms_ssim(other, truth, span) == pytest.approx(ms_ssim(other + 100, truth + 100, span), abs=1e-9)
    assert ms_ssim(other, truth, span) == pytest.approx(ms_ssim(other * 7, truth * 7, span * 7), abs=1e-9)


def test_the_least_size() -> None:
    truth = image(176)
    assert ms_ssim(truth, truth, 1.0) == pytest.approx(1)
    with pytest.raises(DataError, match="at least 176"):
        ms_ssim(truth[:160], truth[:160], 1.0)


def test_evaluate_fills_it_in_where_there_is_room() -> None:
    # Four pixels at each border are not compared, since a shift is looked for.
    field = np.exp(0.1 * image(184) + 0.2j * image(184)[::-1]).astype(np.complex64)
    known = Reference(field, np.ones(field.shape, np.float32))
    result = evaluate(known, known)
    assert result["amplitude"]["ms_ssim"] == pytest.approx(1)
    assert result["phase"]["ms_ssim"] == pytest.approx(1)
    assert result["notes"] == []


def pattern(height: int, width: int) -> np.ndarray:
    y, x = np.indices((height, width))
    return np.sin(x / 3) * np.cos(y / 5) + 0.5 * np.sin((x + 2 * y) / 17)


@pytest.mark.parametrize(
    ("shape", "noise", "scaled", "moved"),
    [
        ((176, 176), 0.9061327807621707, 0.941295427005091, 0.9610602265537448),
        ((180, 241), 0.9067206628281851, 0.9412952447313812, 0.9612339844238251),
    ],
)
def test_values_are_those_of_torchmetrics(
    shape: tuple[int, int], noise: float, scaled: float, moved: float
) -> None:
    """Stored from torchmetrics 1.9, which has the exponents in single precision."""
    truth = pattern(*shape)
    span = float(np.ptp(truth))
    speckle = np.random.default_rng(0).standard_normal(shape)
    assert ms_ssim(truth + 0.5 * speckle, truth, span) == pytest.approx(noise, abs=1e-8)
    assert ms_ssim(0.7 * truth + 0.1, truth, span) == pytest.approx(scaled, abs=1e-8)
    assert ms_ssim(np.roll(truth, 1, 1), truth, span) == pytest.approx(moved, abs=1e-8)
    assert ms_ssim(-truth, truth, span) == 0
