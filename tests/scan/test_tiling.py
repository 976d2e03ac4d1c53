"""Tiles: every frame is one tile's own, tiles are small, and strays do not stretch them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.scan.tiling import cut_tiles


@given(count=st.integers(1, 200), most=st.integers(1, 60), seed=st.integers(0, 99), halo=st.floats(0, 40))
def test_every_frame_is_one_tiles_own(count: int, most: int, seed: int, halo: float) -> None:
    positions = np.random.default_rng(seed).uniform(0, 300, (count, 2))
    tiles = cut_tiles(positions, 32, most, halo)
    assert sorted(np.concatenate([t.core for t in tiles])) == list(range(count))
    for tile in tiles:
        assert len(tile.core) <= most
        assert np.isin(tile.core, tile.frames).all()
        low, high = positions[tile.core].min(0) - halo, positions[tile.core].max(0) + halo
        inside = ((positions >= low) & (positions <= high)).all(1)
        assert (np.flatnonzero(inside) == tile.frames).all()


def test_a_frame_far_away_gets_a_tile_of_its_own() -> None:
    x, y = np.meshgrid(np.arange(9) * 4.0, np.arange(9) * 4.0)
    positions = np.concatenate([np.stack([x.ravel(), y.ravel()], 1), [[300_000.0, 0.0]]])
    tiles = cut_tiles(positions, 64, 1000, 64.0)
    assert sorted(len(t.core) for t in tiles) == [1, 81]


def test_equal_positions_are_cut_all_the_same() -> None:
    tiles = cut_tiles(np.zeros((50, 2)), 32, 8, 0.0)
    assert sorted(np.concatenate([t.core for t in tiles])) == list(range(50))
    assert max(len(t.core) for t in tiles) <= 8
