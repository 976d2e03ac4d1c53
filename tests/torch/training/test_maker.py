from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small import small_scan

from ptycho_torch.bundle.shipped import load_solver
from ptycho_torch.config import ModelConfig, TrainingConfig
from ptycho_torch.physics.probes import magnified
from ptycho_torch.training.callbacks import Watch
from ptycho_torch.training.maker import Maker


def made(probe: str) -> Maker:
    """With the shipped solver; no image is made of scans whose frames do not overlap."""
    config = TrainingConfig(model=ModelConfig(N=32, architecture="unrolled"), probe=probe)
    weights = {name: value.clone() for name, value in load_solver().state_dict().items()}
    return Maker(config, weights, torch.device("cpu"), Watch())


@pytest.mark.parametrize(("probe", "mended"), [("trainable", True), ("fixed", False)])
def test_a_guess_of_the_wrong_size_is_mended_where_the_probe_may_change(
    probe: str, mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptycho_torch.training.maker.overlaps", lambda *_: False)
    scan = small_scan(step=5.0, photons=1e6)
    assert scan.probe is not None
    wrong = dataclasses.replace(scan, probe=magnified(scan.probe, 0.75).astype(np.complex64))
    found = made(probe).material(wrong, 0.1, first=True).probe

    def alike(other: np.ndarray) -> float:
        return float(abs(np.vdot(found, other)) / np.linalg.norm(found) / np.linalg.norm(other))

    assert (alike(scan.probe) > alike(wrong.probe)) == mended  # type: ignore[arg-type]
    assert alike(scan.probe if mended else wrong.probe) > 0.95  # type: ignore[arg-type]
