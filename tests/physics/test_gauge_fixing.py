"""Gauges leave what the frames see as it is, and are fixed the way they say."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_torch.physics.gauges import keep_mean, level, orthogonal_modes, unit_phase
from ptycho_torch.simulation import diffract


def test_unit_phase() -> None:
    assert np.array_equal(unit_phase(np.array([0, 2, -3j])), [1, 1, -1j])
    with np.errstate(all="raise"):
        assert np.allclose(unit_phase(np.array([0.5j, -1e-9, 0])), [1j, -1, 1])


def test_a_product_turns_one_image_onto_another() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4))
    turn = unit_phase(np.array(np.vdot(a, 3 * a * np.exp(0.7j))))
    assert np.angle(turn) == pytest.approx(0.7)


def test_level_counts_only_what_was_lit() -> None:
    obj, weight = np.full((4, 4), 2j), np.zeros((4, 4))
    obj[0], weight[1:] = 100, 1
    assert level(obj, weight) == 2.0


def test_lit_is_above_a_thousandth_of_the_brightest() -> None:
    obj, weight = np.array([[1.0, 2.0, 4.0, 100.0]]), np.array([[2000.0, 3.0, 2.1, 2.0]])
    assert level(obj, weight) == pytest.approx(7 / 3)


def test_level_is_of_amplitudes_whatever_their_phases() -> None:
    obj = np.array([[1, 2j, -3, -6j]])
    assert level(obj, np.ones((1, 4))) == 3.0


def test_one_mode_stays_as_it_is() -> None:
    probe = np.ones((1, 8, 8), np.complex64)
    assert orthogonal_modes(probe) is probe


@pytest.mark.parametrize("modes", [1, 2, 3])
def test_modes_are_mixed_without_a_change_of_intensity(modes: int) -> None:
    rng = np.random.default_rng(1)
    probe = rng.normal(size=(modes, 8, 8)) + 1j * rng.normal(size=(modes, 8, 8))
    patch = rng.normal(size=(1, 8, 8)) + 1j * rng.normal(size=(1, 8, 8))
    found = orthogonal_modes(probe)
    np.testing.assert_allclose(diffract(patch, found), diffract(patch, probe), rtol=1e-10)
    gram = np.einsum("mij,nij->mn", found.conj(), found)
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-10)
    assert (np.diff(np.diag(gram).real) <= 0).all()
    assert orthogonal_modes(probe.astype(np.complex64)).dtype == np.complex64


def test_positions_keep_their_mean_and_stay_near() -> None:
    moved = np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 8.0]])
    np.testing.assert_allclose(keep_mean(moved, 9.0), [[-1, -1], [1, -1], [0, 2]])
    # Each axis has its own limit, and the mean is taken before.
    np.testing.assert_allclose(keep_mean(moved, 1.5), [[-1, -1], [1, -1], [0, 1.5]])
    np.testing.assert_allclose(keep_mean(moved, 0.5), [[-0.5, -0.5], [0.5, -0.5], [0, 0.5]])
