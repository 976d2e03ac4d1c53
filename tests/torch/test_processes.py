"""What several processes share; who gets what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.errors import DataError, ProcessLost
from ptycho_torch.processes import ALONE, Group, current, dealt, joined, noticing


@given(st.lists(st.floats(0.1, 100.0), max_size=40), st.integers(1, 7))
def test_every_unit_is_one_processs_and_none_has_far_more_to_do(costs: list[float], size: int) -> None:
    parts = [dealt(costs, Group(rank, size)) for rank in range(size)]
    assert sorted(n for part in parts for n in part) == list(range(len(costs)))
    loads = [sum(costs[n] for n in part) for part in parts]
    assert max(loads) - min(loads) <= max(costs, default=0) + 1e-9


def test_alone_nothing_is_exchanged() -> None:
    with joined() as group:
        assert group == ALONE == current()
        assert group.shared(lambda: 5) == 5
        assert group.most(3) == 3
        assert torch.equal(group.mean(torch.tensor([2.0])), torch.tensor([2.0]))
        group.wait()


def test_a_broken_connection_is_a_lost_process_and_our_own_errors_stay() -> None:
    with pytest.raises(ProcessLost, match="--resume"), noticing():
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(ProcessLost, match="first"), noticing():
        raise ProcessLost("the first")
    with pytest.raises(DataError), noticing():
        raise DataError("x")


def test_costs_of_none_are_none() -> None:
    assert dealt(np.zeros(0).tolist(), ALONE) == []
