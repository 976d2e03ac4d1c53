"""From nothing to an image: the demonstration, and a measurement."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from calling import call, process

from ptycho_torch.result import load_reconstruction


@pytest.mark.slow
def test_the_demo_works(tmp_path: Path) -> None:
    done = process("demo", "-o", tmp_path, "--steps", "4", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    images = result["images"]
    assert set(images) == {"iterative", "without training", "adapted"}
    assert all(image["scores"]["complex_correlation"] > 0.8 for image in images.values())
    before, after = (
        images[name]["scores"]["complex_correlation"] for name in ("without training", "adapted")
    )
    assert after > before - 0.02
    assert (tmp_path / "demo.png").exists()
    assert call("verify", tmp_path / "training").exit_code == 0
    with zipfile.ZipFile(tmp_path / "training" / "wts.h5.zip") as archive:
        assert "bundle.json" in archive.namelist()


@pytest.mark.slow
def test_the_real_star(shared: Path, tmp_path: Path) -> None:
    star = shared / "data" / "siemens_star_aps.npz"
    small = [
        "--crop", "64", "--probe-sweeps", "12", "--max-minutes", "none", "--max-steps", "4", "--n-groups", "16",
        "--batch-size", "2",
    ]  # fmt: skip
    done = process("train", star, "-o", tmp_path / "run", *small)
    assert done.returncode == 0, done.stderr
    assert "516 frames" in done.stderr
    image = ["-o", tmp_path / "image", "--crop", "64", "--refine", "12", "--json"]
    done = process("reconstruct", star, "--model", tmp_path / "run", *image)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["residual"] < 0.02
    rec = load_reconstruction(tmp_path / "image" / "reconstruction.npz")
    middle = rec.object[rec.measured(0.3)]
    assert np.isfinite(middle).all()
    # Gold on a membrane: two levels of phase, well apart.
    phase = np.angle(middle / middle.mean())
    assert np.percentile(phase, 95) - np.percentile(phase, 5) > 0.3
