"""How far a step goes: rates, warm-up, decay, clipping. Adam's first step moves every weight by its rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from small import QUIET, small_config, small_scan

from ptycho_torch.model import build_pair
from ptycho_torch.physics.units import normalise_probe
from ptycho_torch.training.run import Trained, fit

SCAN = small_scan()
RATE = 1e-3


def one_step(**changes: Any) -> Trained:
    return fit(SCAN, small_config(**{"max_steps": 1, "nepochs": 1, "learning_rate": RATE, **changes}), QUIET)


def step_of_the_network(trained: Trained) -> float:
    """Largest change of a learned step size, which starts at one whatever the seed."""
    sizes = trained.autoencoder.core.generator.step_size
    assert isinstance(sizes, torch.Tensor)
    return float((sizes - 1).abs().max())


def test_the_first_of_many_steps_is_a_small_one() -> None:
    """A run is stopped after one step of many, so that only the warm-up makes it small."""

    def after_one(warmup_steps: int) -> float:
        config = small_config(nepochs=1000, max_steps=1, learning_rate=RATE, warmup_steps=warmup_steps)
        return step_of_the_network(fit(SCAN, config, QUIET))

    assert after_one(0) == pytest.approx(RATE, rel=1e-2)
    assert after_one(20) == pytest.approx(RATE / 20, rel=1e-2)


def test_rates_rise_then_fall_to_nothing() -> None:
    config = small_config(
        nepochs=12, n_groups=8, batch_size=4, learning_rate=RATE, warmup_steps=6, val_fraction=0.0
    )
    rows = fit(SCAN, config, QUIET).history
    assert [row["step"] for row in rows] == list(range(2, 26, 2))
    expected = []
    for row in rows:
        begun = row["step"] - 1  # the rate of a step follows from the steps before it
        expected.append(RATE * 0.5 * (1 + math.cos(math.pi * begun / 24)) * min(1, (begun + 1) / 6))
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected, rel=1e-6)
    assert rows[-1]["learning_rate"] < 0.01 * max(row["learning_rate"] for row in rows)


def test_rates_fall_with_time_where_time_is_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts half a second each time it is read stands for a slow machine."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("ptycho_torch.training.module.time.monotonic", lambda: next(ticks) / 2)
    rows = fit(SCAN, small_config(nepochs=1000, max_minutes=1.0, warmup_steps=0), QUIET).history
    assert 2 < len(rows) < 100
    assert rows[-1]["learning_rate"] < 0.05 * rows[0]["learning_rate"]


def test_the_probe_moves_by_its_own_rate() -> None:
    assert SCAN.probe is not None
    before = normalise_probe(SCAN.probe)
    for rate in (1e-3, 4e-3):
        trained = one_step(probe="trainable", probe_learning_rate=rate, warmup_steps=0)
        change = trained.autoencoder.probe.detach().numpy() - before
        largest = max(np.abs(change.real).max(), np.abs(change.imag).max())
        assert largest == pytest.approx(rate * np.abs(before).max(), rel=1e-2)


def test_the_scale_moves_by_the_networks_rate() -> None:
    trained = one_step(nll_weight=1.0, mae_weight=0.0, warmup_steps=0)
    config = small_config().model
    assert SCAN.probe is not None
    from ptycho_torch.physics.units import intensity_scale_from_counts

    start = build_pair(config, normalise_probe(SCAN.probe), intensity_scale_from_counts(SCAN.frames))[0]
    moved = math.log(trained.autoencoder.intensity_scale) - math.log(start.intensity_scale)
    assert abs(moved) == pytest.approx(RATE, rel=2e-2)


@pytest.mark.parametrize(("clip", "moves"), [(0.0, True), (1e-12, False)])
def test_gradients_are_clipped(clip: float, moves: bool) -> None:
    """Adam divides by the gradient's size plus 1e-8: one of 1e-12 is next to nothing, an unclipped one is not."""
    moved = step_of_the_network(one_step(gradient_clip=clip, warmup_steps=0))
    assert (moved > 0.9 * RATE) == moves
    assert (moved < 1e-3 * RATE) != moves
