"""Training from given weights: what a bundle knows is there at the first step, and only where it fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small import QUIET, small_config, small_scan

from ptycho_torch.bundle.shipped import load_solver, solver_of
from ptycho_torch.config import TrainingConfig
from ptycho_torch.errors import BundleNotFoundError, DataError
from ptycho_torch.model_manager import save_torch_bundle
from ptycho_torch.training.initial import initial_weights
from ptycho_torch.training.run import fit

SCAN = small_scan()


def still(**changes: object) -> TrainingConfig:
    """One step that moves the weights by nothing to speak of."""
    return small_config(max_steps=1, nepochs=1, learning_rate=1e-9, n_groups=2, **changes)


def test_adaptation_begins_with_the_shipped_weights() -> None:
    trained = fit(SCAN, still(init="shipped"), QUIET)
    assert trained.config.model.unrolled_form == "settling"
    assert trained.config.model.N == SCAN.N
    found, shipped = solver_of(trained.diffraction_to_obj), load_solver()
    assert found is not None
    for name, value in shipped.state_dict().items():
        assert torch.allclose(found.state_dict()[name], value, atol=1e-6), name


def test_training_goes_on_from_a_bundle(tmp_path: Path) -> None:
    first = fit(SCAN, small_config(), QUIET)
    save_torch_bundle(first.models, tmp_path / "wts.h5", first.config)
    again = fit(SCAN, still(init=str(tmp_path)), QUIET)
    assert again.config.model.unrolled_width == first.config.model.unrolled_width
    before, after = (m.autoencoder.core.generator.state_dict() for m in (first, again))
    for name, value in before.items():
        assert torch.allclose(after[name], value, atol=1e-6), name


def test_fresh_weights_are_others(tmp_path: Path) -> None:
    _, weights = initial_weights(still())
    assert weights is None


def test_weights_of_another_frame_size_are_refused(tmp_path: Path) -> None:
    big = small_scan(size=64, edge=128, step=16.0)
    config = small_config(64, architecture="cnn", max_steps=1, nepochs=1, n_groups=2)
    trained = fit(big, config, QUIET)
    save_torch_bundle(trained.models, tmp_path / "wts.h5", trained.config)
    other = small_scan(size=128, edge=256, step=32.0)
    with pytest.raises(DataError, match="--init"):
        fit(
            other,
            dataclasses.replace(still(init=str(tmp_path)), model=dataclasses.replace(config.model, N=128)),
            QUIET,
        )


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"nothing\.zip"):
        fit(SCAN, still(init=str(tmp_path / "nothing.zip")), QUIET)


def test_a_few_steps_from_the_shipped_weights_help_frames_that_no_step_has_seen() -> None:
    trained = fit(SCAN, small_config(init="shipped", max_steps=10, nepochs=100, batch_size=4), QUIET)
    assert trained.history[-1]["step"] == 10
    assert trained.best < 1
