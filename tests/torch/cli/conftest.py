"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from calling import QUICK, call
from small import small_scan

from ptycho_torch.scan import write_scan


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, a run on it, and a reconstruction."""
    folder = tmp_path_factory.mktemp("commands")
    write_scan(small_scan(), folder / "scan.npz")
    done = call("train", folder / "scan.npz", "-o", folder / "run", *QUICK, "--quiet")
    assert done.exit_code == 0, done.output
    done = call(
        "reconstruct", folder / "scan.npz", "--model", folder / "run", "-o", folder / "image", "--quiet"
    )
    assert done.exit_code == 0, done.output
    return folder
