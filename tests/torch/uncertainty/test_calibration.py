"""Nine of ten errors lie within 1.645 sigma, whatever the replicates say too much or too little."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.uncertainty.calibration import (
    LARGEST_PHASE,
    NORMAL,
    Calibration,
    fitted,
    shipped_calibration,
)
from ptycho_torch.uncertainty.replicates import FEATURES, Replicates


def drawn(weights: list[float], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of pixels whose errors are normal with the sigma that the weights say."""
    rng = np.random.default_rng(seed)
    features = rng.normal(-2, 1, (count, len(FEATURES)))
    features[:, 0] = 1
    features[:, -2:] = rng.exponential(0.5, (count, 2))
    return features, np.exp(features @ np.array(weights)) * rng.normal(size=count)


@settings(max_examples=3, deadline=None)
@given(st.floats(-1, 1), st.integers(0, 99))
def test_planted_weights_are_found(constant: float, seed: int) -> None:
    planted = [constant, 0.5, 0.1, 0.0, 0.2, 0.0, 0.2, 1.0, 0.3]
    found = fitted(*drawn(planted, 600, seed))
    assert found[1:-2].sum() == pytest.approx(1)
    assert found[1:].min() >= 0
    features, errors = drawn(planted, 20_000, seed + 1)
    covered = np.abs(errors) <= NORMAL * np.exp(features @ found)
    assert covered.mean() == pytest.approx(0.9, abs=0.04)
    # Not only in the mean: where errors are expected to be small, and where large.
    order = np.argsort(features @ np.array(planted))
    assert covered[order[:5000]].mean() == pytest.approx(0.9, abs=0.06)
    assert covered[order[-5000:]].mean() == pytest.approx(0.9, abs=0.06)


def replicates(log: float = -2.0) -> Replicates:
    features = np.full((2, len(FEATURES), 3, 4), log, np.float32)
    features[:, 0], features[:, -2:] = 1, 0
    measured = np.ones((3, 4), bool)
    measured[0, 0] = False
    return Replicates(features, measured)


def test_errors_twice_as_large_make_error_bars_twice_as_large() -> None:
    shipped = shipped_calibration()
    once, twice = (shipped.sigma(replicates(log)) for log in (-4.0, -4.0 + np.log(2)))
    assert np.allclose(twice[:, 1:], 2 * once[:, 1:], rtol=1e-3)
    assert np.isnan(once[:, 0, 0]).all()
    assert np.isfinite(once).sum() == 2 * 11


def test_a_phase_about_which_nothing_is_known_can_be_anything() -> None:
    sigma = shipped_calibration().sigma(replicates(3.0))
    assert np.nanmax(sigma[1]) == pytest.approx(LARGEST_PHASE)
    assert pytest.approx(0.9 * np.pi) == NORMAL * LARGEST_PHASE
    assert np.nanmin(sigma[0]) > 5


def test_what_ships_says_where_it_is_from_and_is_no_worse_for_worse_replicates() -> None:
    shipped = shipped_calibration()
    assert {"command", "date", "scans", "solver"} <= set(shipped.provenance)
    assert shipped.weights.shape == (2, len(FEATURES))
    assert shipped.weights[:, 1:].min() >= 0
    assert np.allclose(shipped.weights[:, 1:-2].sum(1), 1)


def test_it_comes_back_from_its_text() -> None:
    record = json.loads(Calibration(np.arange(18.0).reshape(2, 9), {"a": 1}).text())
    assert record["log_sigma"]["phase"]["moved_usual"] == 13
    assert record["provenance"] == {"a": 1}
