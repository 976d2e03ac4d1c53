"""Groups of neighbouring frames, by k nearest neighbours and seeded sampling.

All functions are deterministic in their seed and do not change when positions are shifted as a whole.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_torch.errors import ScanError

__all__ = ["group_neighbours", "group_offsets", "training_groups"]

logger = logging.getLogger(__name__)

_CHUNK = 2_000_000
_NEAREST = 256

Positions = NDArray[np.floating]
Index = NDArray[np.int64]


def _checked(positions: Positions, size: int) -> NDArray[np.float64]:
    points = np.asarray(positions, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ScanError(f"positions: expected shape (M, 2), found {points.shape}")
    if not np.isfinite(points).all():
        raise ScanError("positions: hold NaN or infinity")
    if len(points) < size:
        raise ScanError(
            f"frames: expected at least the {size} that a group needs, found {len(points)};"
            " use a smaller gridsize or more frames"
        )
    return points


def _seeds(count: int, n_groups: int, rng: np.random.Generator) -> Index:
    """Frames in random order, over and over: each is drawn equally often, to within one."""
    if n_groups < 1:
        raise ScanError(f"n_groups: expected at least 1, found {n_groups}")
    rounds = -(-n_groups // count)
    return np.concatenate([rng.permutation(count) for _ in range(rounds)])[:n_groups]


def _runs(points: NDArray[np.float64], scan_index: NDArray[np.integer] | None) -> NDArray[np.float64]:
    """Positions with a third axis that keeps the runs of one file far from each other."""
    if scan_index is None:
        return points
    index = np.asarray(scan_index)
    if index.shape != (len(points),):
        raise ScanError(f"scan_index: expected shape ({len(points)},), found {index.shape}")
    rank = np.unique(index, return_inverse=True)[1]
    return np.column_stack([points, rank * _far(points)])


def _far(points: NDArray[np.float64]) -> float:
    return 4 * float(np.ptp(points, axis=0).sum()) + 4


def _nearest(
    tree: cKDTree, points: NDArray[np.float64], which: Index, k: int
) -> tuple[NDArray[np.float64], Index]:
    """Distances and indices (n, k) of the nearest frames, without the frame itself, nearest first."""
    distance, index = tree.query(points[which], k=k + 1)
    keep = index != which[:, None]
    # Among many frames at one place, the frame itself may not be in its own list.
    keep[keep.all(axis=1), -1] = False
    return distance[keep].reshape(-1, k), index[keep].reshape(-1, k).astype(np.int64)


def _row_order(points: NDArray[np.float64], groups: Index, gridsize: int) -> Index:
    """Members sorted into rows by y, and by x within a row."""
    by_y = np.take_along_axis(groups, np.argsort(points[groups, 1], axis=1, kind="stable"), 1)
    rows = by_y.reshape(len(groups), gridsize, gridsize)
    by_x = np.argsort(points[rows, 0], axis=2, kind="stable")
    return np.take_along_axis(rows, by_x, 2).reshape(groups.shape)


def _check_runs(distance: NDArray[np.float64], limit: float, size: int) -> None:
    if size > 1 and (distance > limit).any():
        raise ScanError(
            f"scan_index: expected at least the {size} frames a group needs in each run, found fewer"
        )


def group_neighbours(
    positions: Positions,
    gridsize: int,
    *,
    neighbor_count: int = 7,
    n_groups: int | None = None,
    seed: int = 0,
    cover: bool = True,
    scan_index: NDArray[np.integer] | None = None,
) -> Index:
    """Form groups of ``C = gridsize**2`` frames: a seed frame and C-1 of its ``neighbor_count`` nearest.

    Parameters
    ----------
    positions : (M, 2) array
        (x, y), pixels.
    gridsize : int
    neighbor_count : int
    n_groups : int, optional
        Default: one for each frame as seed; gridsize 1 is then every frame once, in order.
    seed : int
    cover : bool
        With fewer groups than frames, let uncovered frames go first, as seeds and as members, so that every frame
        is in a group if that many groups can do it; else seeds are plainly random.
    scan_index : (M,) int array, optional
        Groups then stay within a run.

    Returns
    -------
    (G, C) int64 array
        Distinct within a group; channel c lies at row c // gridsize, column c % gridsize: rows by y, then by x
        within a row.

    Raises
    ------
    ScanError
        For fewer frames than C, for a ``neighbor_count`` below C-1, and for positions that are not finite.

    Examples
    --------
    >>> square = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]])
    >>> group_neighbours(square, 2, neighbor_count=3, n_groups=1).tolist()
    [[0, 1, 2, 3]]
    """
    if gridsize < 1:
        raise ScanError(f"gridsize: expected at least 1, found {gridsize}")
    size = gridsize**2
    points = _checked(positions, size)
    count = len(points)
    if neighbor_count < size - 1:
        raise ScanError(
            f"neighbor_count: expected at least {size - 1} for gridsize {gridsize}, found {neighbor_count}"
        )
    rng = np.random.default_rng(seed)
    seeds = np.arange(count) if n_groups is None else _seeds(count, n_groups, rng)
    if gridsize == 1:
        return np.sort(seeds)[:, None]
    k = min(neighbor_count, count - 1)
    space = _runs(points, scan_index)
    limit = _far(points) / 2
    distance, index = _nearest(cKDTree(space), space, np.arange(count), k)
    if cover and len(seeds) < count:
        members = _covering(distance, index, seeds, size, limit, rng)
    else:
        score = rng.random((len(seeds), k)) + (distance[seeds] > limit)
        chosen = np.argsort(score, axis=1)[:, : size - 1]
        _check_runs(np.take_along_axis(distance[seeds], chosen, 1), limit, size)
        members = np.column_stack([seeds, np.take_along_axis(index[seeds], chosen, 1)])
    return _row_order(points, members, gridsize)


def _covering(
    distance: NDArray[np.float64],
    index: Index,
    seeds: Index,
    size: int,
    limit: float,
    rng: np.random.Generator,
) -> Index:
    """One group a step, from a frame not yet covered and with neighbours not yet covered where there are any."""
    count, k = index.shape
    covered = np.zeros(count, bool)
    groups = np.empty((len(seeds), size), np.int64)
    waiting = iter(rng.permutation(count))
    for row, spare in enumerate(seeds):
        first = next((frame for frame in waiting if not covered[frame]), spare)
        score = rng.random(k) + covered[index[first]] + 2 * (distance[first] > limit)
        chosen = np.argsort(score)[: size - 1]
        _check_runs(distance[first, chosen], limit, size)
        groups[row] = [first, *index[first, chosen]]
        covered[groups[row]] = True
    if not covered.all():
        logger.info(
            "%d groups of %d leave %d of %d frames out", len(seeds), size, count - covered.sum(), count
        )
    return groups


def group_offsets(positions: Positions, groups: Index) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return where the members of groups lie.

    Parameters
    ----------
    positions : (M, 2) array
        (x, y), pixels.
    groups : (G, C) int array

    Returns
    -------
    offsets : (G, C, 2) float32 array
        Member minus group mean, pixels.
    centres : (G, 2) float64 array
        Group means.

    Examples
    --------
    >>> offsets, centres = group_offsets(np.array([[0.0, 0.0], [4.0, 2.0]]), np.array([[0, 1]]))
    >>> offsets.tolist(), centres.tolist()
    ([[[-2.0, -1.0], [2.0, 1.0]]], [[2.0, 1.0]])
    """
    members = np.asarray(positions, dtype=np.float64)[groups]
    centres = members.mean(axis=1)
    return (members - centres[:, None]).astype(np.float32), centres


def training_groups(
    positions: Positions,
    size: int,
    max_distance: float,
    n_groups: int,
    seed: int = 0,
    *,
    scan_index: NDArray[np.integer] | None = None,
) -> Index:
    """Form groups whose extent varies, for training on overlaps.

    For each seed frame a radius is drawn uniformly between the distance to its nearest neighbour and
    ``max_distance``, then ``size - 1`` distinct frames at random within it; where there are fewer, the nearest
    ones beyond fill up. Every frame is seed equally often, to within one. Of a very dense scan the 256 nearest
    frames are considered.

    Parameters
    ----------
    positions : (M, 2) array
        (x, y), pixels.
    size : int
        Frames in a group.
    max_distance : float
        Pixels.
    n_groups : int
    seed : int
    scan_index : (M,) int array, optional
        Keeps groups within a run.

    Returns
    -------
    (n_groups, size) int64 array
        The seed frame comes first.

    Raises
    ------
    ScanError
        For fewer frames than ``size``, and for a distance that is not positive.

    Examples
    --------
    >>> line = np.array([[0.0, 0.0], [3.0, 0.0], [100.0, 0.0], [103.0, 0.0]])
    >>> np.sort(training_groups(line, 2, 5.0, 8), axis=1).max(1).tolist().count(2)
    0
    """
    points = _checked(positions, size)
    if not (np.isfinite(max_distance) and max_distance > 0):
        raise ScanError(f"max_distance: expected a positive number of pixels, found {max_distance}")
    rng = np.random.default_rng(seed)
    seeds = _seeds(len(points), n_groups, rng)
    if size == 1:
        return seeds[:, None]
    space = _runs(points, scan_index)
    limit = _far(points) / 2
    tree = cKDTree(space)
    within = int(tree.query_ball_point(space, min(max_distance, limit), return_length=True).max()) - 1
    k = min(max(within, size - 1), max(_NEAREST, size - 1), len(points) - 1)
    groups = np.empty((n_groups, size), np.int64)
    groups[:, 0] = seeds
    step = max(1, _CHUNK // k)
    for start in range(0, n_groups, step):
        part = slice(start, start + step)
        distance, index = _nearest(tree, space, seeds[part], k)
        radius = rng.uniform(distance[:, 0], np.maximum(distance[:, 0], max_distance))
        score = np.where(distance <= radius[:, None], rng.random(distance.shape), 1.0 + np.arange(k))
        chosen = np.argsort(score, axis=1)[:, : size - 1]
        _check_runs(np.take_along_axis(distance, chosen, 1), limit, size)
        groups[part, 1:] = np.take_along_axis(index, chosen, 1)
    return groups
