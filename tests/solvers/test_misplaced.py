"""Frames in wrong places: which are looked at, when, and where they are put."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.solvers.misplaced import Misplaced

HOME = np.array([[0.0, 0.0], [4.0, -6.0], [0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
BEGIN = np.zeros(HOME.shape)


def far(index: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 + ((places - HOME[index]) ** 2).sum(1))


def test_frames_are_left_out_for_three_sweeps_and_then_put_where_they_fit() -> None:
    looked, places = Misplaced(far, BEGIN, 8, first=0, last=40), BEGIN.copy()
    for sweep in range(8):
        assert [len(part) for part in looked.before(sweep, places)] == [0, 0]
    for sweep in (8, 9, 10):
        left_out, moved = looked.before(sweep, places)
        assert left_out.tolist() == [1, 3]
        assert not len(moved)
        assert not places.any()
    left_out, moved = looked.before(11, places)
    assert (left_out.tolist(), moved.tolist()) == ([], [1, 3])
    assert places[1].tolist() == [4.0, -6.0]
    assert places[3].tolist() == [0.0, 2.0]


def test_nothing_is_looked_for_where_all_fit_or_the_end_is_near() -> None:
    alike = Misplaced(lambda index, places: np.ones(len(index)), BEGIN, 8, first=0, last=40)
    late = Misplaced(far, BEGIN, 8, first=0, last=11)
    for sweep in range(40):
        assert not len(alike.before(sweep, BEGIN.copy())[0])
        assert not len(late.before(sweep, BEGIN.copy())[0])


def test_a_place_that_is_hardly_better_is_not_taken() -> None:
    def flat(index: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.abs(places).sum(1) == 0, 1.0, 0.81)

    frames = np.array([0, 2])
    assert not Misplaced(flat, BEGIN, 8, 0, 40).searched(frames, BEGIN).any()
    assert Misplaced(lambda k, at: flat(k, at) ** 2, BEGIN, 8, 0, 40).searched(frames, BEGIN).any()


def test_places_lie_within_reach_of_the_beginning() -> None:
    def outward(index: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + places.sum(1).clip(0)))

    begin = BEGIN + np.array([10.0, 20.0])
    assert Misplaced(outward, begin, 8, 0, 40).searched(np.array([1]), begin + 3).tolist() == [[18.0, 28.0]]


def test_half_of_the_frames_stay() -> None:
    looked = Misplaced(
        lambda index, places: np.array([9.0, 8.0, 7.0, 1.0, 1.0, 1.0, 1.0, 1.0]), np.zeros((8, 2)), 8, 0, 40
    )
    assert looked.suspects(np.zeros((8, 2))).tolist() == [0, 1, 2]
    many = Misplaced(
        lambda index, places: np.array([9.0, 8.0, 7.0, 6.0, 1.0, 1.0, 1.0]), np.zeros((7, 2)), 8, 0, 40
    )
    assert len(many.suspects(np.zeros((7, 2)))) <= 3
