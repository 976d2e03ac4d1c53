"""Whole jobs: what is written, what can be read back, what repeats."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import QUIET, small_config, small_scan

from ptycho_torch.compat import parameters
from ptycho_torch.config import ExecutionConfig, InferenceConfig, TrainingConfig, from_dict, read_yaml
from ptycho_torch.errors import OutputError, PtychoError
from ptycho_torch.model_manager import load_torch_bundle
from ptycho_torch.result import load_reconstruction
from ptycho_torch.scan import write_scan
from ptycho_torch.solvers import RefineOptions
from ptycho_torch.workflows.components import (
    load_inference_bundle_torch,
    run_cdi_example_torch,
    train_cdi_model_torch,
)
from ptycho_torch.workflows.inference import Refinement, reconstruct_to
from ptycho_torch.workflows.training import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan file and a trained run beside it."""
    folder = tmp_path_factory.mktemp("job")
    write_scan(small_scan(), folder / "scan.npz")
    train(folder / "scan.npz", folder / "run", small_config(), QUIET)
    return folder


def test_training_leaves_everything(folder: Path) -> None:
    run = folder / "run"
    names = {p.name for p in run.iterdir()}
    assert names == {
        "run.json", "wts.h5.zip", "history.csv", "training.png", "config.yaml", "training.json", "training.html",
        "resume.safetensors",
    }  # fmt: skip
    assert (run / "training.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((run / "history.csv").open()))
    assert [int(r["epoch"]) for r in rows] == [1, 2]
    metrics = json.loads((run / "training.json").read_text())
    assert metrics["epochs"] == 2
    assert metrics["interrupted"] is False


def test_provenance_names_data_seed_and_versions(folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "run" / "wts.h5.zip") as archive:
        origin = json.loads(archive.read("bundle.json"))["provenance"]
    assert origin["training_data"]["sha256"] == hashlib.sha256((folder / "scan.npz").read_bytes()).hexdigest()
    assert origin["seed"] == 0
    assert {"torch", "numpy", "python", "package"} <= set(origin)


def test_the_written_configuration_gives_the_same_run(folder: Path, tmp_path: Path) -> None:
    data = read_yaml(folder / "run" / "config.yaml")
    execution = from_dict(ExecutionConfig, data.pop("execution"))
    config = from_dict(TrainingConfig, data)
    again = train(folder / "scan.npz", tmp_path, config, execution)
    first, _ = load_torch_bundle(folder / "run")
    for key, value in again.trained.diffraction_to_obj.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), first.state_dict()[key].numpy(), err_msg=key)


def test_a_new_process_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    here = reconstruct_to(tmp_path / "here", folder / "scan.npz", folder / "run", execution=QUIET)
    code = (
        "import sys; from ptycho_torch.workflows.inference import reconstruct_to;"
        "reconstruct_to(sys.argv[1], sys.argv[3], sys.argv[2])"
    )
    there = tmp_path / "there"
    subprocess.run([sys.executable, "-c", code, there, folder / "run", folder / "scan.npz"], check=True)
    found = load_reconstruction(there / "reconstruction.npz")
    np.testing.assert_array_equal(found.object, here.reconstruction.object)
    np.testing.assert_array_equal(found.weight, here.reconstruction.weight)
    assert {p.name for p in there.iterdir()} == {
        "reconstruction.npz", "reconstruction.png", "metrics.json", "report.html",
    }  # fmt: skip


def test_refinement_is_told_and_helps(folder: Path, tmp_path: Path) -> None:
    five = Refinement(options=RefineOptions(sweeps=5))
    done = reconstruct_to(tmp_path, folder / "scan.npz", folder / "run", execution=QUIET, refinement=five)
    assert done.metrics["sweeps"] == 5
    assert done.metrics["residual"] < done.metrics["residual_before_refinement"]


def test_numbers_are_on_disk_before_anything_is_drawn(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no font")

    monkeypatch.setattr("ptycho_torch.workflows.inference.reconstruction_figure", broken)
    done = reconstruct_to(tmp_path, folder / "scan.npz", folder / "run", execution=QUIET)
    assert {p.name for p in tmp_path.iterdir()} == {"reconstruction.npz", "metrics.json"}
    assert set(done.files) == {"reconstruction", "metrics"}
    assert "no font" in done.warnings[0]
    assert "no font" in caplog.text
    saved = load_reconstruction(done.files["reconstruction"])
    assert json.loads(done.files["metrics"].read_text())["residual"] == saved.residual
    assert saved.provenance["bundle"] == "run"


def test_a_seed_of_the_subsample_that_is_0_means_0(folder: Path, tmp_path: Path) -> None:
    def chosen(**seeds: int) -> np.ndarray:
        config = InferenceConfig(n_subsample=9, **seeds)
        done = reconstruct_to(tmp_path, folder / "scan.npz", folder / "run", config, QUIET)
        return done.reconstruction.positions

    np.testing.assert_array_equal(chosen(subsample_seed=0, seed=5), chosen(seed=0))
    assert not np.array_equal(chosen(seed=5), chosen(seed=0))


def test_nothing_is_written_when_the_input_is_wrong(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("earlier")
    write_scan(small_scan(16, edge=40), tmp_path / "other.npz")
    with pytest.raises(PtychoError, match="16x16"):
        reconstruct_to(tmp_path / "out", tmp_path / "other.npz", folder / "run", execution=QUIET)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["metrics.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        train(folder / "scan.npz", tmp_path / "file", small_config(), QUIET)


def test_the_older_names_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "cfg", {})
    config = dataclasses.replace(small_config(), output_dir=tmp_path / "a")
    results = train_cdi_model_torch(small_scan(), small_scan(seed=1), config, QUIET)
    assert len(results["history"]["loss"]) == len(results["history"]["val_loss"]) == 2
    assert set(results["models"]) == {"autoencoder", "diffraction_to_obj"}
    model, params = load_inference_bundle_torch(tmp_path / "a")
    assert params["N"] == parameters.cfg["N"] == 32
    assert not model.training
    assert run_cdi_example_torch(small_scan(), None, config, execution_config=QUIET)[:2] == (None, None)
    amplitude, phase, more = run_cdi_example_torch(
        small_scan(), small_scan(seed=1), config, do_stitching=True, execution_config=QUIET
    )
    assert amplitude is not None
    assert phase is not None
    assert amplitude.shape == phase.shape == more["reconstruction"].object.shape
    assert (tmp_path / "a" / "inference" / "reconstruction.npz").exists()


def test_a_scan_is_not_written_over_by_its_image(tmp_path: Path) -> None:
    scan = tmp_path / "reconstruction.npz"
    write_scan(small_scan(), scan)
    before = scan.read_bytes()
    with pytest.raises(OutputError, match=r"reconstruction\.npz"):
        reconstruct_to(tmp_path, scan, execution=QUIET)
    assert scan.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["reconstruction.npz"]
