"""``ptycho_train`` and ``ptycho_inference``: the older program's flags do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from small import small_scan
from typer.testing import CliRunner, Result

from ptycho_torch.compat.commands import inference, train
from ptycho_torch.config import read_yaml
from ptycho_torch.scan import write_scan

SMALL = "model:\n  unrolled_width: 8\n  unrolled_iterations: 1\n  unrolled_levels: 1\nprobe: fixed\nmax_minutes: null\n"


def call(command: Any, *arguments: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("older")
    write_scan(small_scan(), where / "scan.npz")
    (where / "small.yaml").write_text(SMALL)
    done = call(
        train, "--train_data_file", where / "scan.npz", "--test_data_file", where / "scan.npz", "--output_dir",
        where / "run", "--config", where / "small.yaml", "--n_images", 8, "--gridsize", 1, "--batch_size", 4,
        "--nepochs", 2, "--nphotons", 1e6, "--neighbor_count", 5, "--backend", "pytorch", "--accelerator", "cpu",
        "--learning-rate", 2e-3, "--num-workers", 0, "--inference-batch-size", 8, "--logger", "tensorboard",
        "--do_stitching",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "--n_images is deprecated" in done.stderr
    assert "tensorboard" in done.stderr
    return where


def test_training_does_what_the_flags_say(folder: Path) -> None:
    used = read_yaml(folder / "run" / "config.yaml")
    wanted = {
        "n_groups": 8,
        "batch_size": 4,
        "nepochs": 2,
        "nphotons": 1e6,
        "neighbor_count": 5,
        "learning_rate": 2e-3,
    }
    assert {k: used[k] for k in wanted} == wanted
    assert used["execution"]["accelerator"] == "cpu"
    names = {p.name for p in (folder / "run").iterdir()}
    assert {
        "wts.h5.zip",
        "history.csv",
        "reconstructed_amplitude.png",
        "reconstructed_phase.png",
        "inference",
    } <= names


def test_inference(folder: Path, tmp_path: Path) -> None:
    done = call(
        inference, "--model_path", folder / "run", "--test_data", folder / "scan.npz", "--output_dir", tmp_path,
        "--n_subsample", 20, "--subsample_seed", 3, "--accelerator", "cpu", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    names = {p.name for p in tmp_path.iterdir()}
    assert {"reconstruction.npz", "reconstructed_amplitude.png", "reconstructed_phase.png"} <= names


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        (train, [], "--train_data_file"),
        (inference, [], "--model_path"),
        (train, ["--train_data_file", "missing.npz"], "missing.npz"),
        (
            inference,
            ["--model_path", "m", "--test_data", "t", "--backend", "tensorflow"],
            "TensorFlow program",
        ),
        (train, ["--train_data_file", "x", "--backend", "jax"], "backend"),
    ],
)
def test_errors_are_one_line(
    command: Any, arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(command, *arguments)
    assert done.exit_code == 2
    assert text in done.stderr
    assert done.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_stitching_is_off_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    done = call(
        train, "--train_data_file", folder / "scan.npz", "--output_dir", tmp_path / "o", "--config",
        folder / "small.yaml", "--n_groups", 4, "--nepochs", 1, "--no-do_stitching", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "o" / "inference").exists()
