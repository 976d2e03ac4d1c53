"""Whole jobs over the rooms of the package: train and keep a model, open one for inference.

``train`` is what the command line calls. The other names and their results are those that scripts
written for the older program look for.
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ptycho_torch.config import ExecutionConfig, TrainingConfig
from ptycho_torch.config_io import to_yaml
from ptycho_torch.files import ensure_output_dir, write_bytes_atomic, write_text_atomic
from ptycho_torch.inference.prediction import normalised_groups
from ptycho_torch.model import Autoencoder, DiffractionToObject
from ptycho_torch.model_manager import load_torch_bundle, save_torch_bundle
from ptycho_torch.report.figures import figure_png, training_figure
from ptycho_torch.report.tables import history_csv, json_text
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.training.run import Trained, fit

__all__ = [
    "BUNDLE_NAME",
    "TrainingOutputs",
    "load_inference_bundle_torch",
    "provenance_of",
    "train",
    "train_cdi_model_torch",
]

_log = logging.getLogger(__name__)

BUNDLE_NAME = "wts.h5"
"""Base path of a bundle inside its folder; the file is ``wts.h5.zip``."""


@dataclass
class TrainingOutputs:
    """A trained pair and the files that were written for it."""

    trained: Trained
    bundle: Path
    files: dict[str, Path]
    metrics: dict[str, Any]


def provenance_of(
    scan: Scan, config: TrainingConfig, history: list[dict[str, float]], seconds: float
) -> dict[str, Any]:
    """Where a model comes from: data, seed, command, duration, last losses. Versions are added by the bundle."""
    source = scan.source
    return {
        "training_data": None
        if source is None
        else {"name": Path(source.path).name, "sha256": source.sha256, "measurement": source.measurement},
        "frames": len(scan.positions),
        "seed": config.seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seconds": round(seconds, 3),
        "losses": {
            k: v
            for k, v in (history[-1] if history else {}).items()
            if k in ("epoch", "step", "loss", "val_loss")
        },
    }


def self_test_group(
    scan: Scan, trained: Autoencoder, config: TrainingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """One small group of a scan as the model takes it: scaled frames (1, C, N, N), offsets (1, C, 1, 2)."""
    x, offsets, _ = normalised_groups(
        scan, config.model.gridsize, config.neighbor_count, n_groups=1, seed=config.seed
    )
    return x[:1] * np.float32(trained.intensity_scale), np.float32(trained.core.offset_sign) * offsets[:1]


def train(
    scan: Scan | str | Path,
    output_dir: str | Path,
    config: TrainingConfig | None = None,
    execution: ExecutionConfig | None = None,
    *,
    validation: Scan | str | Path | None = None,
    resume: bool = False,
    on_row: Callable[[list[dict[str, float]]], None] | None = None,
    on_probe: Callable[[int, float], None] | None = None,
) -> TrainingOutputs:
    """Trains on a scan and keeps everything in ``output_dir``.

    Writes ``wts.h5.zip`` after every improvement and at the end, ``resume.safetensors`` after every
    epoch, and at the end ``history.csv``, ``training.png``, ``config.yaml`` (what was really used)
    and ``metrics.json``. Ctrl-C ends it early with all of that. Raises errors of
    :mod:`ptycho_torch.errors`.
    """
    config = config or TrainingConfig(model=dataclasses.replace(TrainingConfig().model, N=0))
    execution = execution or ExecutionConfig()
    scan = _opened(scan)
    other = None if validation is None else _opened(validation)
    folder = ensure_output_dir(output_dir)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model), output_dir=folder)
    if scan.source is not None:
        config.train_data_file = Path(scan.source.path)

    def keep(
        autoencoder: Autoencoder,
        diffraction_to_obj: DiffractionToObject,
        used: TrainingConfig,
        history: list[dict[str, float]],
    ) -> None:
        models: dict[str, nn.Module] = {"autoencoder": autoencoder, "diffraction_to_obj": diffraction_to_obj}
        seconds = history[-1]["seconds"] if history else 0.0
        save_torch_bundle(
            models,
            folder / BUNDLE_NAME,
            used,
            provenance=provenance_of(scan, used, history, seconds),
            self_test=self_test_group(scan, autoencoder, used),
        )

    trained = fit(
        scan,
        config,
        execution,
        validation=other,
        workdir=folder,
        resume=resume,
        on_best=keep,
        on_row=on_row,
        on_probe=on_probe,
    )
    keep(trained.autoencoder, trained.diffraction_to_obj, trained.config, trained.history)
    metrics = {
        "best_loss": trained.best,
        "epochs": int(trained.history[-1]["epoch"]),
        "steps": int(trained.history[-1]["step"]),
        "seconds": round(trained.seconds, 3),
        "interrupted": trained.interrupted,
        "intensity_scale": trained.autoencoder.intensity_scale,
        "probe_residual": trained.probe_residuals[-1] if trained.probe_residuals else None,
        "provenance": provenance_of(scan, trained.config, trained.history, trained.seconds),
    }
    files = {
        "bundle": folder / f"{BUNDLE_NAME}.zip",
        "history": folder / "history.csv",
        "figure": folder / "training.png",
        "config": folder / "config.yaml",
        "metrics": folder / "metrics.json",
    }
    write_text_atomic(files["history"], history_csv(trained.history))
    write_bytes_atomic(files["figure"], figure_png(training_figure(trained.history)))
    write_text_atomic(files["config"], to_yaml(trained.config))
    write_text_atomic(files["metrics"], json_text(metrics))
    return TrainingOutputs(trained, files["bundle"], files, metrics)


def _opened(scan: Scan | str | Path) -> Scan:
    return scan if isinstance(scan, Scan) else open_scan(scan)


def train_cdi_model_torch(
    train_data: Any,
    test_data: Any,
    config: TrainingConfig,
    execution_config: ExecutionConfig | None = None,
) -> dict[str, Any]:
    """Trains by the older program's contract and saves the bundle in ``config.output_dir``.

    ``train_data``, ``test_data``: a :class:`~ptycho_torch.scan.Scan` or a path; ``test_data`` may be
    None. Returns ``history`` (losses by name), ``models`` (the pair), ``train_container`` and
    ``test_container`` (the scans), ``bundle`` (path).
    """
    scan = _opened(train_data)
    test = None if test_data is None else _opened(test_data)
    done = train(scan, config.output_dir, config, execution_config, validation=test)
    rows = done.trained.history
    return {
        "history": {key: [row[key] for row in rows if key in row] for key in ("loss", "val_loss")},
        "models": done.trained.models,
        "train_container": scan,
        "test_container": test,
        "bundle": done.bundle,
    }


def load_inference_bundle_torch(
    bundle_dir: str | Path, model_name: str = "diffraction_to_obj"
) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a bundle, ready for inference, and its parameters: ``load_torch_bundle`` by its older name."""
    return load_torch_bundle(bundle_dir, model_name)
