"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers side by side, each with as many threads as there are cores, wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Tests in the background: what they start would not hear Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests begin first, so that none is left for one worker at the end while the other has nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and contracts beside the project; the test is skipped where it is absent."""
    folder = _ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the data folder {folder / 'data'}, which is not there")
    return folder


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Commands set up the package's logger for a whole process; the next test finds it as before."""
    logger = logging.getLogger("ptycho_torch")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
