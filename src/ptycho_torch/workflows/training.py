"""Training as a whole job: from a scan to a folder with the bundle, figures and numbers."""

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
from numpy.typing import NDArray
from torch import nn

from ptycho_torch.config import ExecutionConfig, TrainingConfig, to_yaml, validate
from ptycho_torch.files import ensure_output_dir, write_bytes_atomic, write_text_atomic
from ptycho_torch.model import Autoencoder, DiffractionToObject
from ptycho_torch.model_manager import save_torch_bundle
from ptycho_torch.reconstruction.predict import normalised_groups
from ptycho_torch.report.figures import figure_png, scan_figure, training_figure
from ptycho_torch.report.html import Section, write_report
from ptycho_torch.report.tables import history_csv, json_text
from ptycho_torch.scan import Scan, open_scan
from ptycho_torch.training.run import Trained, fit

__all__ = ["BUNDLE_NAME", "CONFIG_NAME", "TrainingOutputs", "provenance_of", "train"]

_log = logging.getLogger(__name__)

BUNDLE_NAME = "wts.h5"
"""Base path of a bundle inside its folder; the file is ``wts.h5.zip``."""

CONFIG_NAME = "config.yaml"
"""What a run really used, in its output folder."""

History = list[dict[str, float]]


@dataclass
class TrainingOutputs:
    """A trained pair, the bundle's path, all files by name, and what ``metrics.json`` says."""

    trained: Trained
    bundle: Path
    files: dict[str, Path]
    metrics: dict[str, Any]


def provenance_of(scan: Scan, config: TrainingConfig, history: History, seconds: float) -> dict[str, Any]:
    """Where a model comes from: data, seed, command, duration, last losses. Versions are added by the bundle."""
    last = history[-1] if history else {}
    return {
        "training_data": described(scan),
        "seed": config.seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seconds": round(seconds, 3),
        "losses": {k: v for k, v in last.items() if k in ("epoch", "step", "loss", "val_loss")},
    }


def described(scan: Scan) -> dict[str, Any]:
    """A scan in a few plain values: file name and hash, how it was read, its size."""
    source = scan.source
    known: dict[str, Any] = {} if source is None else {
        "name": Path(source.path).name,
        "sha256": source.sha256,
        "measurement": source.measurement,
        "measurement_why": source.measurement_why,
    }  # fmt: skip
    return {**known, "frames": scan.n_frames, "N": scan.N}


def _self_test_group(
    scan: Scan, trained: Autoencoder, config: TrainingConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One group of the scan as the model takes it: scaled frames (1, C, N, N), offsets (1, C, 1, 2)."""
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
    on_row: Callable[[History], None] | None = None,
    on_probe: Callable[[int, float], None] | None = None,
) -> TrainingOutputs:
    """Trains on a scan without labels and keeps everything in ``output_dir``.

    ``wts.h5.zip`` is written after every improvement and at the end, ``resume.safetensors`` after every
    epoch; at the end come ``history.csv``, ``training.png``, ``config.yaml`` (what was really used),
    ``metrics.json`` and ``report.html``. ``config`` None: defaults, with the frames' own size.
    ``resume``: go on from where a run in ``output_dir`` stood. ``on_row`` is called with the history
    after each epoch, ``on_probe`` with sweep and residual while the probe is refined. Ctrl-C ends it
    early with all of the above. Raises errors of :mod:`ptycho_torch.errors`.
    """
    config = config or TrainingConfig(model=dataclasses.replace(TrainingConfig().model, N=0))
    execution = execution or ExecutionConfig()
    scan = scan if isinstance(scan, Scan) else open_scan(scan, require_probe=False)
    if validation is None and config.test_data_file is not None:
        validation = config.test_data_file
    if validation is not None and not isinstance(validation, Scan):
        validation = open_scan(validation, require_probe=False)
    for each in (scan, validation):
        if each is not None:
            each.require_one_run()
    folder = ensure_output_dir(output_dir)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model), output_dir=folder)
    config.model.N = config.model.N or scan.N
    if scan.source is not None:
        config.train_data_file = Path(scan.source.path)
    # Written before the work, too: a killed run is resumed with it.
    validate(config)
    write_text_atomic(folder / CONFIG_NAME, to_yaml(config, execution=execution))

    def keep(
        autoencoder: Autoencoder,
        diffraction_to_obj: DiffractionToObject,
        used: TrainingConfig,
        history: History,
    ) -> None:
        models: dict[str, nn.Module] = {"autoencoder": autoencoder, "diffraction_to_obj": diffraction_to_obj}
        seconds = history[-1]["seconds"] if history else 0.0
        save_torch_bundle(
            models,
            folder / BUNDLE_NAME,
            used,
            provenance=provenance_of(scan, used, history, seconds),
            self_test=_self_test_group(scan, autoencoder, used),
        )

    trained = fit(
        scan,
        config,
        execution,
        validation=validation,
        workdir=folder,
        resume=resume,
        on_best=keep,
        on_row=on_row,
        on_probe=on_probe,
    )
    keep(trained.autoencoder, trained.diffraction_to_obj, trained.config, trained.history)
    last = trained.history[-1]
    metrics = {
        "best_loss": trained.best,
        "loss": last["loss"],
        "val_loss": last.get("val_loss"),
        "epochs": int(last["epoch"]),
        "steps": int(last["step"]),
        "seconds": round(trained.seconds, 3),
        "interrupted": trained.interrupted,
        "intensity_scale": trained.autoencoder.intensity_scale,
        "probe_residual": trained.probe_residuals[-1] if trained.probe_residuals else None,
        "provenance": provenance_of(scan, trained.config, trained.history, trained.seconds),
    }
    files = _write(folder, scan, trained, execution, metrics)
    return TrainingOutputs(trained, files["bundle"], files, metrics)


def _write(
    folder: Path, scan: Scan, trained: Trained, execution: ExecutionConfig, metrics: dict[str, Any]
) -> dict[str, Path]:
    files = {
        "bundle": folder / f"{BUNDLE_NAME}.zip",
        "history": folder / "history.csv",
        "figure": folder / "training.png",
        "config": folder / CONFIG_NAME,
        "metrics": folder / "metrics.json",
        "report": folder / "report.html",
    }
    picture = figure_png(training_figure(trained.history))
    used = to_yaml(trained.config, execution=execution)
    write_text_atomic(files["history"], history_csv(trained.history))
    write_bytes_atomic(files["figure"], picture)
    write_text_atomic(files["config"], used)
    write_text_atomic(files["metrics"], json_text(metrics))
    ended = "Training was interrupted; this is the best model up to then." if trained.interrupted else ""
    write_report(
        files["report"],
        "Training",
        [
            Section("Result", ended, metrics, [("Loss of training and validation frames", picture)]),
            Section(
                "Scan",
                "",
                described(scan),
                [("Positions, mean frame, probe guess", figure_png(scan_figure(scan)))],
            ),
            Section("Configuration", "", _flat(trained.config)),
        ],
    )
    return files


def _flat(config: TrainingConfig) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
