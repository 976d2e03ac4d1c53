"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and contracts beside the project; the test is skipped where it is absent."""
    folder = _ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the data folder {folder / 'data'}, which is not there")
    return folder
