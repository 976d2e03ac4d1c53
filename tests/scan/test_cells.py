"""Cells: every frame is in one, and those of one phase never touch each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.scan.cells import PHASES, deal_cells

SIZES = st.sampled_from([8, 15, 32])


def scattered(seed: int, count: int, spread: float) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-spread, spread, (count, 2))


@given(st.integers(0, 10**6), st.integers(1, 300), st.floats(1.0, 400.0), SIZES, st.sampled_from([0, 8]))
def test_cells_are_a_deal_and_one_phase_never_overlaps(
    seed: int, count: int, spread: float, size: int, reach: int
) -> None:
    positions = scattered(seed, count, spread)
    cells = deal_cells(positions, size, reach, wanted=8)
    assert np.array_equal(np.sort(np.concatenate([cell.frames for cell in cells])), np.arange(count))
    assert [cell.number for cell in cells] == list(range(len(cells)))
    whole = np.floor(positions + 0.5)
    for phase in range(PHASES):
        boxes = [
            (whole[c.frames].min(0) - reach, whole[c.frames].max(0) + size + reach)
            for c in cells
            if c.phase == phase
        ]
        for i, (low, high) in enumerate(boxes):
            for other_low, other_high in boxes[:i]:
                assert ((high <= other_low) | (other_high <= low)).any()


def test_frames_of_a_cell_rise() -> None:
    for cell in deal_cells(scattered(0, 500, 300.0), 16, wanted=8):
        assert (np.diff(cell.frames) > 0).all()


@pytest.mark.parametrize("wanted", [1, 40, 100_000])
def test_cells_are_as_large_as_wanted_within_bounds(wanted: int) -> None:
    cells = deal_cells(scattered(0, 4000, 400.0), 16, wanted=wanted)
    average = 4000 / len(cells)
    assert average >= min(wanted, 4000 / (1 + 800 // (8 * 16)) ** 2)
    assert len(cells) > 1
