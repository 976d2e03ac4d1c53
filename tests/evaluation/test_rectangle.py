from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_torch.evaluation.rectangle import inner_rectangle


def largest(mask: NDArray[np.bool_]) -> int:
    """Pixels of the largest rectangle, by trying all."""
    height, width = mask.shape
    found = [0]
    for top, bottom in itertools.combinations(range(height + 1), 2):
        for left, right in itertools.combinations(range(width + 1), 2):
            part = mask[top:bottom, left:right]
            found.append(part.size if part.all() else 0)
    return max(found)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_it_lies_inside_and_none_is_larger(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(tuple(rng.integers(1, 10, 2))) < share
    part = mask[inner_rectangle(mask)]
    assert part.all()
    assert part.size == largest(mask)


def test_of_a_disk_it_is_the_square() -> None:
    y, x = np.indices((101, 101)) - 50
    rows, columns = inner_rectangle(np.hypot(x, y) <= 50)
    assert rows.stop - rows.start == pytest.approx(71, abs=2)
    assert columns.stop - columns.start == pytest.approx(71, abs=2)


def test_a_hole_in_the_middle_costs_half() -> None:
    mask = np.ones((64, 64), bool)
    mask[30:34, 30:34] = False
    assert mask[inner_rectangle(mask)].size == 30 * 64


@pytest.mark.parametrize("shape", [(700, 1001), (1001, 300)])
def test_of_large_masks_it_is_nearly_the_largest(shape: tuple[int, int]) -> None:
    mask = np.ones(shape, bool)
    mask[:40], mask[:, -55:] = False, False
    part = mask[inner_rectangle(mask)]
    assert part.all()
    assert part.size > 0.98 * (shape[0] - 40) * (shape[1] - 55)
    assert np.ones(shape, bool)[inner_rectangle(np.ones(shape, bool))].shape == shape


def test_of_nothing_it_is_empty() -> None:
    assert np.zeros((4, 4), bool)[inner_rectangle(np.zeros((4, 4), bool))].size == 0
