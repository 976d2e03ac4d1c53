"""Errors are what is left after ramp, shift, phase and scale, and nothing else is taken off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptycho_torch.errors import DataError
from ptycho_torch.result import Reconstruction
from ptycho_torch.simulation import make_object
from ptycho_torch.uncertainty import errors_against

TRUTH = make_object("grf", 64, 3)


def image(obj: np.ndarray, origin: tuple[int, int] = (0, 0)) -> Reconstruction:
    weight = np.ones(obj.shape, np.float32)
    weight[:4] = weight[-4:] = weight[:, :4] = weight[:, -4:] = 0.01
    return Reconstruction(obj, weight, np.array(origin), np.full((1, 2), 32), np.ones((1, 32, 32)))


def noisy() -> np.ndarray:
    rng = np.random.default_rng(0)
    return TRUTH + 0.05 * (rng.normal(size=TRUTH.shape) + 1j * rng.normal(size=TRUTH.shape))


@pytest.mark.parametrize("ramp", [(0.0, 0.0), (0.05, -0.02)])
def test_gauges_are_no_errors(ramp: tuple[float, float]) -> None:
    y, x = np.indices(TRUTH.shape)
    plain = errors_against(image(noisy()), TRUTH)
    changed = errors_against(image(2.5 * noisy() * np.exp(1j * (0.7 + ramp[0] * x + ramp[1] * y))), TRUTH)
    inner = (slice(8, -8), slice(8, -8))
    assert np.allclose(changed.phase[inner], plain.phase[inner], atol=2e-3)
    # In the image's own scale.
    assert np.allclose(changed.amplitude[inner], 2.5 * plain.amplitude[inner], atol=5e-3)


def test_one_wrong_pixel_is_found_with_its_sign() -> None:
    wrong = TRUTH.copy()
    wrong[20, 30] *= 1.5 * np.exp(0.8j)
    found = errors_against(image(wrong), TRUTH)
    assert found.phase[20, 30] == pytest.approx(0.8, abs=0.02)
    assert found.amplitude[20, 30] == pytest.approx(0.5 * abs(TRUTH[20, 30]), rel=0.05)
    others = np.abs(found.phase).copy()
    others[20, 30] = 0
    assert others[8:-8, 8:-8].max() < 0.02


def test_what_lies_outside_the_truth_has_no_error() -> None:
    found = errors_against(image(TRUTH[10:60, 5:60], (5, 10)), TRUTH[:50])
    assert np.isnan(found.phase[40:]).all()
    assert np.abs(found.phase[4:36, 4:-4]).max() < 1e-3


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(DataError, match="zeros everywhere in the common region"):
        errors_against(image(np.zeros_like(TRUTH)), TRUTH)
    with pytest.raises(DataError, match="no pixel in common"):
        errors_against(replace(image(TRUTH), origin_xy=np.array([900.0, 0])), TRUTH)
