"""Losses in other people's tools."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from small import QUIET, small_config, small_scan

from ptycho_torch.errors import DependencyError
from ptycho_torch.training.loggers import logger_of
from ptycho_torch.training.run import fit


def test_mlflow_gets_every_row_of_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    uri = (tmp_path / "runs").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    settings = dataclasses.replace(QUIET, logger="mlflow")
    try:
        done = fit(small_scan(), small_config(nepochs=2), settings, workdir=tmp_path)
    except ImportError as error:
        pytest.skip(f"mlflow has no store here: {error}")
    client = tracking.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("ptychopinn").experiment_id])
    kept = [entry.value for entry in client.get_metric_history(run.info.run_id, "loss")]
    assert kept == pytest.approx([row["loss"] for row in done.history])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lightning.pytorch import loggers

    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    monkeypatch.setattr(loggers, "TensorBoardLogger", absent)
    with pytest.raises(DependencyError, match="pip install tensorboard"):
        logger_of("tensorboard", tmp_path)


def test_mlflow_without_a_store_is_said_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """mlflow-skinny imports well and has no database to log to."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(DependencyError, match="pip install mlflow"):
        logger_of("mlflow", tmp_path)


def test_none_is_none() -> None:
    assert logger_of("none", None) is False
