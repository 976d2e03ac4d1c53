from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from ptycho_torch.errors import DataError
from ptycho_torch.simulation.trajectories import TRAJECTORY_NAMES, make_positions
from strategies import seeds

names = st.sampled_from(TRAJECTORY_NAMES)


@given(
    names,
    st.integers(0, 60),
    st.integers(0, 60),
    st.sampled_from([7, 16]),
    st.floats(2, 20),
    st.floats(0, 9),
    seeds,
)
def test_windows_stay_within_the_object(
    name: str, h: int, w: int, size: int, step: float, jitter: float, seed: int
) -> None:
    if name == "spiral":
        h, w = h + 20, w + 20  # a spiral needs room in both directions
    shape = (size + h, size + w)
    points = make_positions(name, shape, size, step=step, jitter=jitter, seed=seed)
    assert len(points) >= 1
    corner = points - size // 2
    assert (corner >= 0).all()
    assert (corner <= [w, h]).all()
    np.testing.assert_array_equal(
        points, make_positions(name, shape, size, step=step, jitter=jitter, seed=seed)
    )


@given(names, st.integers(1, 300))
def test_a_count_is_kept(name: str, count: int) -> None:
    assert make_positions(name, (100, 140), 32, count=count).shape == (count, 2)


@pytest.mark.parametrize("name", TRAJECTORY_NAMES)
def test_a_step_is_a_density(name: str) -> None:
    points = make_positions(name, (232, 132), 32, step=5)
    assert 0.85 < len(points) * 25 / (200 * 100) < 1.15
    assert np.ptp(points, axis=0) == pytest.approx([100, 200], rel=0.08)


def test_a_grid_has_its_step_and_a_spiral_keeps_its_distance() -> None:
    grid = make_positions("grid", (96, 96), 32, step=4)
    nearest = cKDTree(grid).query(grid, k=2)[0][:, 1]
    np.testing.assert_allclose(nearest, 4)
    assert (np.diff(grid[:17, 0]) == 4).all()
    spiral = make_positions("spiral", (132, 132), 32, step=4)
    nearest = cKDTree(spiral).query(spiral, k=2)[0][:, 1]
    assert nearest.min() > 3
    assert nearest.std() < 0.6


@given(seeds)
def test_jitter_has_its_size(seed: int) -> None:
    still = make_positions("grid", (232, 232), 32, step=5)
    moved = make_positions("grid", (232, 232), 32, step=5, jitter=0.5, seed=seed)
    inner = (still > 20).all(axis=1) & (still < 212).all(axis=1)
    assert np.std((moved - still)[inner]) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("raster", {"step": 4}, "scan: expected one of grid, random, spiral, found 'raster'"),
        ("grid", {}, "step: give a step"),
        ("grid", {"step": 0}, "step: expected a finite number above 0"),
        ("grid", {"step": np.nan}, "step: expected a finite number above 0"),
        ("random", {"count": 0}, "count: expected a finite number above 0"),
        ("random", {"count": 5, "jitter": -1}, "jitter: expected a finite number, 0 or more"),
        ("grid", {"step": 10, "count": 1000}, "at most 25 positions"),
        ("spiral", {"step": 10, "count": 1000}, "at most"),
        ("grid", {"count": 2, "shape": (32, 32)}, "more than 32 pixels for a grid"),
        ("spiral", {"count": 2, "shape": (32, 60)}, "more than 32 pixels for a spiral"),
        ("spiral", {"step": 50, "shape": (33, 33)}, "no position fits .* at step 50"),
        ("grid", {"step": 4, "shape": (20, 100)}, "at least 32x32"),
    ],
)
def test_what_cannot_be_scanned_is_refused(name: str, options: dict[str, Any], says: str) -> None:
    shape = options.pop("shape", (72, 72))
    with pytest.raises(DataError, match=says):
        make_positions(name, shape, 32, **options)
