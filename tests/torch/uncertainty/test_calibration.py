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
from ptycho_torch.uncertainty.replicates import ERRORS, FEATURES, Replicates


def sigma_of(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The formula of the module, written out: squares of errors are added, factors multiplied."""
    count = len(ERRORS)
    squares = (np.exp(features[:, :count]) * weights[:count]) ** 2
    return np.sqrt(squares.sum(1)) * np.prod(np.exp(features[:, count:]) ** weights[count:], 1)


def drawn(weights: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of pixels whose errors are normal with the sigma that the weights say."""
    rng = np.random.default_rng(seed)
    features = rng.normal(-2, 1, (count, len(FEATURES)))
    features[:, len(ERRORS) :] += 2
    return features, sigma_of(features, weights) * rng.normal(size=count)


@settings(max_examples=3, deadline=None)
@given(st.floats(0.3, 3), st.integers(0, 99))
def test_planted_weights_are_found(scale: float, seed: int) -> None:
    planted = np.array([scale, 0.3 * scale, 0.0, 2 * scale, 0.5, 0.2])
    found = fitted(*drawn(planted, 2000, seed))
    assert found.min() >= 0
    assert found[[0, 3]] == pytest.approx(planted[[0, 3]], rel=0.35)
    assert found[2] < 0.5 * scale
    assert found[4:] == pytest.approx(planted[4:], abs=0.12)
    features, errors = drawn(planted, 20_000, seed + 1)
    covered = np.abs(errors) <= NORMAL * sigma_of(features, found)
    assert covered.mean() == pytest.approx(0.9, abs=0.03)
    # Not only in the mean: where errors are expected to be small, and where large.
    order = np.argsort(sigma_of(features, planted))
    assert covered[order[:5000]].mean() == pytest.approx(0.9, abs=0.05)
    assert covered[order[-5000:]].mean() == pytest.approx(0.9, abs=0.05)


def test_nine_of_ten_of_the_errors_that_it_was_fitted_to_are_covered() -> None:
    features, errors = drawn(np.full(len(FEATURES), 0.5), 500, 3)
    errors *= np.random.default_rng(4).choice([0.2, 3.0], len(errors))  # not normal
    assert np.mean(np.abs(errors) <= NORMAL * sigma_of(features, fitted(features, errors))) == pytest.approx(
        0.9, abs=0.005
    )


def replicates(log: float = -2.0) -> Replicates:
    features = np.full((2, len(FEATURES), 3, 4), log, np.float32)
    features[:, len(ERRORS) :] = 0
    measured = np.ones((3, 4), bool)
    measured[0, 0] = False
    return Replicates(features, measured)


def test_sigma_is_the_root_of_the_sum_of_squares_times_powers() -> None:
    rng = np.random.default_rng(0)
    weights = rng.uniform(0, 1, (2, len(FEATURES)))
    features = rng.normal(-3, 1, (2, len(FEATURES), 5)).astype(np.float32)
    found = Calibration(weights, {}).of(features)
    assert found == pytest.approx(
        np.stack([sigma_of(f.T, w) for f, w in zip(features, weights, strict=True)])
    )


def test_errors_twice_as_large_make_error_bars_twice_as_large() -> None:
    shipped = shipped_calibration()
    once, twice = (shipped.sigma(replicates(log)) for log in (-4.0, -4.0 + np.log(2)))
    assert np.allclose(twice[:, 1:], 2 * once[:, 1:], rtol=1e-3)
    assert np.isnan(once[:, 0, 0]).all()
    assert np.isfinite(once).sum() == 2 * 11


def test_one_kind_of_error_that_is_large_is_enough() -> None:
    """A solver that is sure of itself has small replicates; the frames may say otherwise."""
    found = replicates(-6.0)
    found.features[:, ERRORS.index("unexplained")] = -1.0
    shipped = shipped_calibration()
    assert np.nanmin(shipped.sigma(found)) > 0.1 * np.exp(-1.0)
    assert np.nanmax(shipped.sigma(replicates(-6.0))) < 0.1 * np.exp(-1.0)


def test_a_phase_about_which_nothing_is_known_can_be_anything() -> None:
    sigma = shipped_calibration().sigma(replicates(3.0))
    assert np.nanmax(sigma[1]) == pytest.approx(LARGEST_PHASE)
    assert pytest.approx(0.9 * np.pi) == NORMAL * LARGEST_PHASE
    assert np.nanmin(sigma[0]) > 5


def test_what_ships_says_where_it_is_from_and_is_no_worse_for_worse_replicates() -> None:
    shipped = shipped_calibration()
    assert {"command", "date", "scans", "solver"} <= set(shipped.provenance)
    assert shipped.weights.shape == (2, len(FEATURES))
    assert shipped.weights.min() >= 0


def test_it_comes_back_from_its_text() -> None:
    record = json.loads(Calibration(np.arange(12.0).reshape(2, 6), {"a": 1}).text())
    assert record["weights"]["phase"]["unexplained"] == 9
    assert record["provenance"] == {"a": 1}
