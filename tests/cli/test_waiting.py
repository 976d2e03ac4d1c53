"""How the command's threads wait for each other, which torch reads once, when it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
sys.argv = ["ptychopinn", "--version"]
from ptycho_torch.cli import main
try:
    main()
finally:
    print("torch" in sys.modules, os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=str,
)
def test_threads_do_not_spin_for_long_unless_asked(given: dict[str, str], expected: str) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=clean | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-2:] == ["False", expected]
