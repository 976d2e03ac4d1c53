"""Losses: where their minimum lies, what the mask hides, finite gradients in the dark."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.physics.likelihood import amplitude_mae, poisson_nll, total_variation


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


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)
    assert total_variation(ramp) == 1.0
    assert total_variation(torch.complex(ramp, ramp)) > 1.4
