from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.errors import ScanError
from ptycho_torch.scan import group_neighbours, group_offsets, training_groups
from strategies import positions, seeds

quick = settings(max_examples=50, deadline=None)


def ranks(points: np.ndarray, groups: np.ndarray, member: int) -> np.ndarray:
    """How many frames are strictly nearer to ``member`` than each of its group, by brute force."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    row = np.sort(apart[member])
    return np.searchsorted(row, apart[member][groups] - 1e-9)


@quick
@given(positions(least=4), st.integers(3, 9), seeds)
def test_groups_are_distinct_neighbours_of_their_seed(points: np.ndarray, k: int, seed: int) -> None:
    groups = group_neighbours(points, 2, neighbor_count=k, seed=seed)
    assert groups.shape == (len(points), 4)
    assert groups.dtype == np.int64
    assert all(len(set(group)) == 4 for group in groups.tolist())
    for frame, group in enumerate(groups):
        assert frame in group  # so every frame is a member of a group
        assert (ranks(points, group, frame) <= min(k, len(points) - 1)).all()


@quick
@given(positions(least=9), st.sampled_from([2, 3]), seeds)
def test_channels_lie_in_rows(points: np.ndarray, gridsize: int, seed: int) -> None:
    groups = group_neighbours(points, gridsize, neighbor_count=10, seed=seed)
    at = points[groups].reshape(-1, gridsize, gridsize, 2)
    assert (np.diff(at[..., 0], axis=2) >= 0).all()
    assert (at[:, 1:, :, 1].min(axis=2) >= at[:, :-1, :, 1].max(axis=2)).all()


@quick
@given(positions(least=5), seeds, st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_a_shift_of_everything_changes_nothing(points: np.ndarray, seed: int, x: int, y: int) -> None:
    points = np.round(points, 2)
    shift = np.array([x, y])
    # Multiples of 1/4 are exact, so that equal distances stay equal.
    points = np.round(points * 4) / 4
    for make in (
        lambda p: group_neighbours(p, 2, seed=seed),
        lambda p: training_groups(p, 3, 16.0, 40, seed),
    ):
        np.testing.assert_array_equal(make(points), make(points + shift))


@quick
@given(seeds, st.floats(0, 6.3), st.integers(5, 40))
def test_a_rotation_keeps_the_members(seed: int, angle: float, count: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 100, (count, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = points @ turn.T
    np.testing.assert_array_equal(
        np.sort(group_neighbours(points, 2, seed=seed)), np.sort(group_neighbours(turned, 2, seed=seed))
    )
    np.testing.assert_array_equal(
        training_groups(points, 3, 20, 60, seed), training_groups(turned, 3, 20, 60, seed)
    )


@quick
@given(positions(), seeds, st.integers(1, 200), st.booleans())
def test_seeds_reproduce_and_numbers_are_kept(
    points: np.ndarray, seed: int, n_groups: int, cover: bool
) -> None:
    groups = group_neighbours(points, 2, n_groups=n_groups, seed=seed, cover=cover)
    assert groups.shape == (n_groups, 4)
    np.testing.assert_array_equal(
        groups, group_neighbours(points, 2, n_groups=n_groups, seed=seed, cover=cover)
    )
    assert all(len(set(group)) == 4 for group in groups.tolist())
    if n_groups >= len(points):
        assert set(groups.ravel()) == set(range(len(points)))


def test_covering_needs_few_groups_and_chance_more() -> None:
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    points = np.stack([x.ravel(), y.ravel()], 1)
    covered = group_neighbours(points, 2, n_groups=240, seed=1)
    chance = group_neighbours(points, 2, n_groups=240, seed=1, cover=False)
    assert len(np.unique(covered)) == 400
    assert len(np.unique(chance)) < 400


@given(positions(least=1), st.integers(1, 100))
def test_gridsize_one_is_every_frame_in_order(points: np.ndarray, n_groups: int) -> None:
    np.testing.assert_array_equal(group_neighbours(points, 1), np.arange(len(points))[:, None])
    some = group_neighbours(points, 1, n_groups=n_groups)
    assert some.shape == (n_groups, 1)
    assert (np.diff(some[:, 0]) >= (1 if n_groups <= len(points) else 0)).all()


@quick
@given(positions(), seeds)
def test_offsets_and_centres_give_the_positions(points: np.ndarray, seed: int) -> None:
    groups = group_neighbours(points, 2, seed=seed)
    offsets, centres = group_offsets(points, groups)
    assert offsets.dtype == np.float32
    assert centres.dtype == np.float64
    np.testing.assert_allclose(offsets.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(centres[:, None] + offsets, points[groups], atol=1e-4)


@quick
@given(positions(least=6), st.integers(1, 6), st.integers(1, 150), st.floats(0.5, 60), seeds)
def test_training_groups(points: np.ndarray, size: int, n_groups: int, reach: float, seed: int) -> None:
    groups = training_groups(points, size, reach, n_groups, seed)
    assert groups.shape == (n_groups, size)
    assert all(len(set(group)) == size for group in groups.tolist())
    times = np.bincount(groups[:, 0], minlength=len(points))
    assert times.max() - times.min() <= 1
    np.testing.assert_array_equal(groups, training_groups(points, size, reach, n_groups, seed))
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    for group in groups:
        beyond = int((apart[group[0], group[1:]] > reach + 1e-9).sum())
        inside = int((apart[group[0]] <= reach + 1e-9).sum()) - 1
        if beyond:  # only for want of frames inside, and then the nearest ones
            assert inside < size - 1
            assert (ranks(points, group[1:], group[0]) <= size - 1).all()


def test_training_groups_vary_in_extent() -> None:
    x, y = np.meshgrid(np.arange(30) * 4.0, np.arange(30) * 4.0)
    points = np.stack([x.ravel(), y.ravel()], 1)
    groups = training_groups(points, 4, 16.0, 4000, seed=2)
    reach = np.linalg.norm(points[groups] - points[groups[:, :1]], axis=2).max(axis=1)
    assert reach.max() <= 16
    near, far = (reach <= 4.01).mean(), (reach > 12).mean()
    assert near > 0.05
    assert far > 0.15


@quick
@given(seeds)
def test_groups_stay_within_their_run(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.tile(rng.uniform(0, 30, (8, 2)), (2, 1))  # two runs over the same places
    run = np.repeat([5, 9], 8)
    for groups in (
        group_neighbours(points, 2, seed=seed, scan_index=run),
        group_neighbours(points, 2, neighbor_count=15, seed=seed, scan_index=run),
        group_neighbours(points, 2, neighbor_count=15, n_groups=6, seed=seed, scan_index=run),
        training_groups(points, 4, 50, 40, seed, scan_index=run),
    ):
        assert (run[groups] == run[groups][:, :1]).all()


def test_many_frames_at_one_place() -> None:
    points = np.zeros((30, 2))
    groups = group_neighbours(points, 2)
    assert all(frame in group and len(set(group)) == 4 for frame, group in enumerate(groups.tolist()))
    assert all(len(set(group)) == 4 for group in training_groups(points, 4, 5, 90).tolist())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: group_neighbours(np.zeros((3, 2)), 2), "at least the 4 that a group needs, found 3"),
        (lambda: training_groups(np.zeros((3, 2)), 4, 5, 1), "at least the 4 that a group needs, found 3"),
        (
            lambda: group_neighbours(np.zeros((9, 2)), 3, neighbor_count=7),
            "neighbor_count: expected at least 8",
        ),
        (lambda: group_neighbours(np.zeros((9, 2)), 0), "gridsize: expected at least 1"),
        (lambda: group_neighbours(np.zeros((9, 2)), 2, n_groups=0), "n_groups: expected at least 1"),
        (lambda: group_neighbours(np.full((9, 2), np.nan), 2), "positions: hold NaN"),
        (lambda: group_neighbours(np.zeros((9, 3)), 2), r"positions: expected shape \(M, 2\)"),
        (lambda: training_groups(np.zeros((9, 2)), 4, np.nan, 1), "max_distance: expected a positive"),
        (
            lambda: group_neighbours(np.zeros((9, 2)), 2, scan_index=np.zeros(3, int)),
            "scan_index: expected shape",
        ),
        (lambda: group_neighbours(np.eye(9, 2), 2, scan_index=np.arange(9) // 7), "in each run, found fewer"),
        (
            lambda: training_groups(np.eye(9, 2), 4, 5, 9, scan_index=np.arange(9) // 7),
            "in each run, found fewer",
        ),
    ],
)
def test_what_cannot_be_grouped_is_refused(call: object, says: str) -> None:
    with pytest.raises(ScanError, match=says):
        call()  # type: ignore[operator]
