"""Training, stitching, loading and saving by the older names: arguments, results, what is kept."""

from __future__ import annotations

import dataclasses
import inspect
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import QUIET, correlation, small_config, small_scan

import ptycho.model_manager
import ptycho.params
import ptycho.workflows.components
from ptycho.raw_data import RawData
from ptycho_torch.bundle import verify_bundle
from ptycho_torch.compat.predictor import Orientation, stitched_as_older
from ptycho_torch.config import InferenceConfig
from ptycho_torch.errors import ConfigError, DataError
from ptycho_torch.model_manager import load_torch_bundle
from ptycho_torch.reconstruction.predict import reconstruct
from ptycho_torch.workflows.components import (
    load_inference_bundle_torch,
    run_cdi_example_torch,
    train_cdi_model_torch,
)
from ptycho_torch.workflows.training import train

SCAN = small_scan()
POSITIONAL = [
    "train_data", "test_data", "config", "flip_x", "flip_y", "transpose", "M", "do_stitching", "execution_config",
    "overrides",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cfg() -> Iterator[None]:
    before = dict(ptycho.params.cfg)
    ptycho.params.cfg.clear()
    yield
    ptycho.params.cfg.clear()
    ptycho.params.cfg.update(before)


def raw() -> RawData:
    x, y = SCAN.positions.T
    return RawData(xcoords=x, ycoords=y, diff3d=SCAN.frames, probeGuess=SCAN.probe[0])


def config(folder: Path, **changes: Any) -> Any:
    return dataclasses.replace(small_config(**changes), output_dir=folder)


def sidecar(folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(folder / "wts.h5.zip") as archive:
        found: dict[str, Any] = json.loads(archive.read("bundle.json"))
    return found


@pytest.mark.parametrize(
    ("job", "defaults"),
    [
        (run_cdi_example_torch, [False, False, False, 20, False, None, None]),
        (ptycho.workflows.components.run_cdi_example, [False, False, False, 20, None, None, None]),
    ],
)
def test_arguments_are_in_the_older_order(job: Any, defaults: list[Any]) -> None:
    parameters = inspect.signature(job).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == POSITIONAL
    assert [p.default for p in positional[3:]] == defaults


def test_raw_data_trains_saves_and_is_stitched_when_asked(tmp_path: Path) -> None:
    given = config(tmp_path)
    before = dataclasses.replace(given, model=dataclasses.replace(given.model))
    amplitude, phase, results = run_cdi_example_torch(
        raw(), raw(), given, False, False, False, 20, True, QUIET
    )
    assert given == before
    assert amplitude is not None
    assert phase is not None
    assert amplitude.shape == phase.shape == results["reconstruction"].object.shape
    assert np.array_equal(results["recon_amp"], amplitude)
    history = results["history"]
    assert len(history["train_loss"]) == len(history["val_loss"]) == 2
    assert history["loss"] == history["train_loss"]
    assert results["backend"] == "pytorch"
    assert set(results["models"]) == {"autoencoder", "diffraction_to_obj"}
    assert results["bundle"] == tmp_path / "wts.h5.zip"
    _, params = load_inference_bundle_torch(tmp_path)
    assert params["intensity_scale"] == pytest.approx(results["intensity_scale"])
    assert (tmp_path / "inference" / "reconstruction.npz") in results["files"].values()


def test_without_being_asked_nothing_is_stitched(tmp_path: Path) -> None:
    amplitude, phase, results = run_cdi_example_torch(SCAN, SCAN, config(tmp_path), execution_config=QUIET)
    assert (amplitude, phase) == (None, None)
    assert "recon_amp" not in results
    assert not (tmp_path / "inference").exists()


def test_params_cfg_holds_configuration_and_scale_after_success_only(tmp_path: Path) -> None:
    ptycho.params.cfg["mine"] = 1
    with pytest.raises(ValueError, match="N"):
        run_cdi_example_torch(raw(), None, config(tmp_path, size=16), execution_config=QUIET)
    assert ptycho.params.cfg == {"mine": 1}
    _, _, results = run_cdi_example_torch(raw(), None, config(tmp_path), execution_config=QUIET)
    assert ptycho.params.get("N") == 32
    assert ptycho.params.get("nepochs") == 2
    assert ptycho.params.get("intensity_scale") == results["intensity_scale"]
    assert ptycho.params.get("mine") == 1


def test_overrides_are_fields_by_name(tmp_path: Path) -> None:
    given = config(tmp_path)
    results = train_cdi_model_torch(
        SCAN, None, given, QUIET, overrides={"nepochs": 1, "model.unrolled_width": 4}
    )
    assert len(results["history"]["train_loss"]) == 1
    assert results["trained"].config.model.unrolled_width == 4
    assert (given.nepochs, given.model.unrolled_width) == (2, 8)
    with pytest.raises(ConfigError, match="overrides: epochs"):
        train_cdi_model_torch(SCAN, None, given, QUIET, overrides={"epochs": 1})


def test_what_is_no_measurement_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train_data: expected .* found ndarray"):
        run_cdi_example_torch(np.zeros((3, 32, 32)), None, config(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"test_data: expected .* found dict"):
        run_cdi_example_torch(SCAN, {}, config(tmp_path))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# ---- flipped and transposed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    where = tmp_path_factory.mktemp("trained")
    train(SCAN, where, small_config(nepochs=4, learning_rate=3e-3), QUIET)
    return load_torch_bundle(where)[0]


def stitched(model: Any, scan: Any, **changes: Any) -> Any:
    return stitched_as_older(model, scan, InferenceConfig(), Orientation(**changes))


def test_unchanged_it_is_the_same_image(model: Any) -> None:
    assert correlation(stitched(model, SCAN), reconstruct(model, SCAN).object) > 0.9999


@pytest.mark.parametrize("axis", [0, 1])
def test_flips_change_the_sign_of_the_positions(model: Any, axis: int) -> None:
    signs = np.ones(2)
    signs[axis] = -1
    mirrored = dataclasses.replace(SCAN, positions=SCAN.positions * signs)
    changes = {"flip_x": axis == 0, "flip_y": axis == 1}
    assert np.allclose(stitched(model, SCAN, **changes), stitched(model, mirrored), atol=1e-5)
    assert not np.allclose(stitched(model, SCAN, **changes), stitched(model, SCAN), atol=1e-2)


def test_transposed_patches_at_exchanged_positions_are_the_transposed_image(model: Any) -> None:
    exchanged = dataclasses.replace(SCAN, positions=SCAN.positions[:, ::-1].copy())
    assert np.allclose(stitched(model, exchanged, transpose=True), stitched(model, SCAN).T, atol=1e-4)


def test_jobs_flip_what_they_return(tmp_path: Path) -> None:
    given = config(tmp_path, nepochs=1)
    amplitude, _, results = run_cdi_example_torch(
        raw(), raw(), given, flip_x=True, do_stitching=True, execution_config=QUIET
    )
    trained = results["trained"].diffraction_to_obj
    assert np.allclose(amplitude, np.abs(stitched(trained, raw().scan, flip_x=True)), atol=1e-5)


# ---- what is kept from one file to the next


def test_load_and_save_keep_provenance_and_the_measured_self_test(tmp_path: Path) -> None:
    train(SCAN, tmp_path / "a", small_config(), QUIET)
    before = sidecar(tmp_path / "a")
    ptycho.workflows.components.load_inference_bundle(tmp_path / "a")
    ptycho.model_manager.save(tmp_path / "b")
    after = sidecar(tmp_path / "b")
    assert after["provenance"] == before["provenance"]
    assert after["self_test"] == before["self_test"]
    assert verify_bundle(tmp_path / "b").exit_status == 0
    assert load_torch_bundle(tmp_path / "b")[1]["intensity_scale"] == before["intensity_scale"]["value"]


def test_what_was_trained_in_memory_is_saved_with_its_measured_self_test(tmp_path: Path) -> None:
    _, _, results = ptycho.workflows.components.run_cdi_example(raw(), None, small_config())
    ptycho.model_manager.save(tmp_path / "b")
    train(raw().scan, tmp_path / "a", small_config(), QUIET)
    here, there = sidecar(tmp_path / "b"), sidecar(tmp_path / "a")
    assert here["self_test"]["frames"]["shape"] == there["self_test"]["frames"]["shape"]
    assert here["self_test"] == there["self_test"]
    assert here["provenance"]["training_data"] == there["provenance"]["training_data"]
    assert here["provenance"]["seed"] == results["provenance"]["seed"]


def test_a_self_test_that_was_left_out_stays_out(tmp_path: Path) -> None:
    from ptycho_torch.model_manager import save_torch_bundle

    train(SCAN, tmp_path / "a", small_config(), QUIET)
    loaded, params = load_torch_bundle(tmp_path / "a")
    with pytest.warns(UserWarning, match="missing autoencoder"):
        save_torch_bundle({"diffraction_to_obj": loaded}, tmp_path / "a" / "wts.h5", params, self_test=False)
    ptycho.workflows.components.load_inference_bundle(tmp_path / "a")
    ptycho.model_manager.save(tmp_path / "b")
    assert sidecar(tmp_path / "b")["self_test"] is None
