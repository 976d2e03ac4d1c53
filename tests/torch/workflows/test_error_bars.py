"""Error bars as a whole job: in the NPZ, the product, the report and the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from small import QUIET, small_scan

from ptycho_torch.config import InferenceConfig
from ptycho_torch.result import load_reconstruction
from ptycho_torch.scan import Geometry
from ptycho_torch.scan.product import read_product
from ptycho_torch.workflows.inference import reconstruct_to


def test_they_are_in_everything_that_is_written(tmp_path: Path) -> None:
    scan = small_scan(step=9.0)
    config = InferenceConfig(uncertainty=True, effort="quick")
    done = reconstruct_to(tmp_path, scan, None, config, QUIET, product=Geometry(8e3, 2.0, (1e-8, 1e-8)))
    assert not done.warnings
    rec = load_reconstruction(tmp_path / "reconstruction.npz")
    assert np.array_equal(np.isfinite(rec.sigma_amplitude), rec.measured())
    product = read_product(tmp_path / "product.h5")
    assert np.array_equal(product.sigma_phase, rec.sigma_phase, equal_nan=True)
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["sigma_phase_median"] == float(np.nanmedian(rec.sigma_phase))
    assert "Error bars" in (tmp_path / "report.html").read_text()


def test_without_being_asked_for_there_are_none(tmp_path: Path) -> None:
    done = reconstruct_to(tmp_path, small_scan(step=9.0), None, InferenceConfig(effort="quick"), QUIET)
    assert done.reconstruction.sigma_phase is None
    assert "sigma_phase_median" not in done.metrics
    assert "Error bars" not in (tmp_path / "report.html").read_text()
