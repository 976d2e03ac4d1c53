"""The rows that need no torch, once more in a process where none can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
for name in ("torch", "lightning", "torchmetrics", "safetensors", "tensorflow", "keras"):
    sys.modules[name] = None
import pytest
quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error::pytest.PytestWarning"]
sys.exit(pytest.main([*quiet, *sys.argv[1:]]))
"""

LOADING = """
import sys
sys.modules["torch"] = None
from ptycho_torch.config import TrainingConfig
from ptycho_torch.model_manager import create_torch_model_with_gridsize, load_torch_bundle, save_torch_bundle
from ptycho_torch.compat import parameters
save_torch_bundle({n: {"_sentinel": 1} for n in ("autoencoder", "diffraction_to_obj")}, sys.argv[1], TrainingConfig())
for call in (lambda: load_torch_bundle(sys.argv[1]), lambda: create_torch_model_with_gridsize(1, 64)):
    try:
        call()
    except ImportError as error:
        print(error)
print(parameters.cfg)
"""


def test_the_structure_of_a_bundle_needs_no_torch() -> None:
    rows = Path(__file__).with_name("test_structure.py")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(rows)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout


def test_loading_weights_says_to_install_torch_and_changes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(tmp_path / "x")], capture_output=True, text=True, check=True
    )
    *errors, cfg = done.stdout.splitlines()
    assert len(errors) == 2
    assert all("pip install torch" in line for line in errors)
    assert cfg == "{}"
