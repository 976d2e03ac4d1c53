"""Fixtures of the tests that need torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch


@pytest.fixture(autouse=True)
def restored_threads() -> object:
    """Tests may set the number of threads; the next one finds it as before."""
    before = torch.get_num_threads()
    yield None
    torch.set_num_threads(before)
