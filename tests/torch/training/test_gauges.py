"""Amplitudes in one gauge: labels, frames and probe agree, and counts are those of the scan at hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from small import QUIET, small_config, small_scan

from ptycho_torch.config import TrainingConfig
from ptycho_torch.errors import DataError
from ptycho_torch.physics.gauges import object_scale
from ptycho_torch.physics.units import amplitude_normalisation
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.solvers.residual import residual
from ptycho_torch.training.data import GroupData
from ptycho_torch.training.run import fit

SCAN = small_scan(step=5.0, photons=1e6)


def learned(**changes: Any) -> TrainingConfig:
    config = small_config(
        nepochs=1000, max_steps=60, n_groups=24, learning_rate=5e-3, val_fraction=0.0, **changes
    )
    config.model.unrolled_iterations, config.model.unrolled_physics_steps = 1, 3
    return config


@pytest.mark.parametrize("exposure", [1.0, 30.0])
def test_labels_make_the_frames_under_the_models_probe(exposure: float) -> None:
    """Whatever unit probe and object of the file have, and the frames beside them."""
    assert SCAN.probe is not None
    scan = dataclasses.replace(SCAN, frames=SCAN.frames * np.float32(exposure))
    data = GroupData(
        scan, small_config(realspace_mae_weight=1.0), QUIET, amplitude_normalisation(scan.frames)
    )
    probe = torch.from_numpy(5 * SCAN.probe)
    data.fit_labels(probe, None)
    batch = next(iter(data.train_dataloader()))
    assert batch.labels is not None
    assert object_scale(batch.x, batch.labels, probe) == pytest.approx(1.0, rel=2e-2)


def test_a_dark_object_is_no_label() -> None:
    assert SCAN.object_guess is not None
    dark = dataclasses.replace(SCAN, object_guess=0 * SCAN.object_guess)
    with pytest.raises(DataError, match="objectGuess"):
        fit(dark, small_config(realspace_mae_weight=1.0), QUIET)


@pytest.mark.parametrize(("kind", "weight"), [("pinn", 1.0), ("supervised", 0.0)])
def test_what_learns_from_labels_explains_the_frames(kind: Any, weight: float) -> None:
    """The file's probe is a quarter of the true one and its object four times; labels taken as they are give 9."""
    assert SCAN.probe is not None
    assert SCAN.object_guess is not None
    scan = dataclasses.replace(SCAN, probe=SCAN.probe / 4, object_guess=4 * SCAN.object_guess)
    config = learned(realspace_mae_weight=weight)
    config.model.model_type = kind
    rec = reconstruct(fit(scan, config, QUIET).diffraction_to_obj, scan)
    assert residual(rec, scan) < 0.1


@pytest.mark.parametrize("exposure", [1, 7])
@pytest.mark.parametrize("counts_known", [True, False])
def test_counts_are_those_of_the_scan_at_hand(exposure: int, counts_known: bool) -> None:
    """``|F(probe object)|^2`` predicts the squared frames, also of a scan of 49 times the exposure."""
    known = dataclasses.replace(SCAN, counts_known=counts_known)
    model = fit(known, small_config(max_steps=1, nepochs=1), QUIET).diffraction_to_obj
    rec = reconstruct(model, dataclasses.replace(known, frames=known.frames * np.float32(exposure)))
    power = float(np.sum(np.abs(rec.probe) ** 2))
    expected = float(np.mean(np.sum(SCAN.frames**2, axis=(1, 2))))
    assert power == pytest.approx(exposure**2 * expected, rel=1e-3)
    assert rec.intensity_scale * 16 == pytest.approx(np.sqrt(power), rel=1e-3)
