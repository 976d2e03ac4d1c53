"""Misfit of predicted and measured frames.

    Poisson:    mean( lambda - n log lambda ),   lambda = max((s A_hat)^2, 1e-8)
    amplitude:  mean |A_hat - A|

Means run over good pixels only. Source: P. Thibault and M. Guizar-Sicairos, New J. Phys. 14, 063004 (2012).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["RATE_FLOOR", "amplitude_mae", "poisson_nll", "total_variation"]

RATE_FLOOR = 1e-8


def _mean(value: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return value.mean()
    mask = mask.to(value.dtype).expand_as(value)
    return (value * mask).sum() / mask.sum().clamp_min(1)


def amplitude_mae(predicted: Tensor, measured: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error of amplitudes; ``mask``: bool (N, N) or like the frames, True = use."""
    return _mean((predicted - measured).abs(), mask)


def poisson_nll(rate: Tensor, counts: Tensor, mask: Tensor | None = None) -> Tensor:
    """Poisson negative log-likelihood per pixel, without the constant ``log n!``.

    ``rate`` and ``counts`` in photons. The rate is floored at 1e-8, so a dark pixel costs a finite amount.
    """
    rate = rate.clamp_min(RATE_FLOOR)
    return _mean(rate - counts * torch.log(rate), mask)


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, over the last two axes; complex or real."""
    return (image[..., 1:, :] - image[..., :-1, :]).abs().mean() + (
        image[..., :, 1:] - image[..., :, :-1]
    ).abs().mean()
