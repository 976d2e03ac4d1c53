"""Losses: where their minimum lies, what the mask hides, finite gradients in the dark."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.physics.likelihood import RATE_FLOOR, amplitude_mae, poisson_nll, total_variation


@settings(max_examples=25, deadline=None)
@given(counts=st.floats(0.5, 1e4), factor=st.floats(0.3, 3).filter(lambda f: abs(f - 1) > 1e-2))
def test_poisson_is_least_at_the_true_rate(counts: float, factor: float) -> None:
    n = torch.full((3, 3), counts, dtype=torch.float64)
    assert poisson_nll(n, n) < poisson_nll(n * factor, n)


def test_poisson_gradient_is_one_minus_n_over_rate() -> None:
    rate = torch.tensor([[2.0, 8.0]], dtype=torch.float64, requires_grad=True)
    poisson_nll(rate, torch.tensor([[4.0, 4.0]], dtype=torch.float64)).backward()
    assert rate.grad is not None
    torch.testing.assert_close(
        rate.grad, torch.tensor([[(1 - 4 / 2) / 2, (1 - 4 / 8) / 2]], dtype=torch.float64)
    )


def test_dark_prediction_costs_a_finite_amount() -> None:
    rate = torch.zeros(2, 2, requires_grad=True)
    loss = poisson_nll(rate, torch.ones(2, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert rate.grad is not None
    assert torch.isfinite(rate.grad).all()


def test_masked_pixels_do_not_count() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    good, bad = torch.ones(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    bad[..., 0, 1] = 1e6
    assert amplitude_mae(good, bad, mask) == 0
    torch.testing.assert_close(poisson_nll(good, bad, mask), poisson_nll(good, good, mask))


def test_one_good_pixel_is_the_mean() -> None:
    mask = torch.tensor([[False, True], [False, False]])
    assert amplitude_mae(torch.full((1, 1, 2, 2), 3.0), torch.zeros(1, 1, 2, 2), mask) == 3


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)
    assert total_variation(ramp) == 1.0
    assert total_variation(torch.complex(ramp, ramp)) > 1.4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.2, 1), own=st.booleans())
def test_values_are_those_of_a_numpy_twin(seed: int, share: float, own: bool) -> None:
    rng = np.random.default_rng(seed)
    rate, counts = rng.uniform(0.1, 50, (2, 3, 1, 4, 5))
    mask = rng.random((3, 1, 4, 5) if own else (4, 5)) < share
    mask.flat[0] = True
    used = np.broadcast_to(mask, rate.shape)
    tensors = torch.from_numpy(rate), torch.from_numpy(counts), torch.from_numpy(mask)
    expected = np.mean((rate - counts * np.log(rate))[used])
    assert float(poisson_nll(*tensors)) == pytest.approx(expected, rel=1e-12)
    assert float(amplitude_mae(*tensors)) == pytest.approx(np.mean(np.abs(rate - counts)[used]), rel=1e-12)
    assert float(amplitude_mae(*tensors[:2])) == pytest.approx(np.mean(np.abs(rate - counts)), rel=1e-12)


def test_the_floor_of_the_rate_is_that_of_the_contract() -> None:
    dark, counts = torch.zeros(2, 2, dtype=torch.float64), torch.full((2, 2), 3.0, dtype=torch.float64)
    assert RATE_FLOOR == 1e-8
    assert float(poisson_nll(dark, counts)) == pytest.approx(1e-8 - 3 * math.log(1e-8), rel=1e-12)


def test_nothing_to_use_costs_nothing() -> None:
    assert float(amplitude_mae(torch.ones(2, 2), torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool))) == 0


def test_total_variation_counts_rows_and_columns_alike() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 4, 6)) + 1j * rng.normal(size=(2, 4, 6))
    expected = np.abs(np.diff(image, axis=-2)).mean() + np.abs(np.diff(image, axis=-1)).mean()
    assert float(total_variation(torch.from_numpy(image))) == pytest.approx(expected, rel=1e-12)
