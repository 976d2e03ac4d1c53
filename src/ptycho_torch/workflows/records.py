"""What a training run says of itself: provenance, numbers, pictures, a page."""

from __future__ import annotations

import logging
import shlex
import sys
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_torch.config import ExecutionConfig, TrainingConfig, config_fields, to_yaml
from ptycho_torch.files import write_bytes_atomic, write_text_atomic
from ptycho_torch.report.figures import figure_png, scan_figure, training_figure
from ptycho_torch.report.html import Section, write_report
from ptycho_torch.report.tables import history_csv, json_text
from ptycho_torch.scan import Scan
from ptycho_torch.workflows.run_folder import BUNDLE_NAME

if TYPE_CHECKING:  # lightning is for training alone; reconstruction reads records, too
    from ptycho_torch.training.run import Trained

__all__ = ["CONFIG_NAME", "History", "described", "provenance_of", "write_records"]

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
"""What a run really used, in its output folder."""

History = list[dict[str, float]]


def provenance_of(scan: Scan, config: TrainingConfig, history: History, seconds: float) -> dict[str, Any]:
    """Say where a model comes from: data, seed, command, duration, last losses. Versions are added by the bundle."""
    last = history[-1] if history else {}
    return {
        "training_data": described(scan),
        "init": config.init,
        "seed": config.seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seconds": round(seconds, 3),
        "losses": {k: v for k, v in last.items() if k in ("epoch", "step", "loss", "val_loss")},
    }


def described(scan: Scan) -> dict[str, Any]:
    """Describe a scan in a few plain values: file name and hash, how it was read, its size."""
    source = scan.source
    known: dict[str, Any] = {} if source is None else {
        "name": Path(source.path).name,
        "sha256": source.sha256,
        "measurement": source.measurement,
        "measurement_why": source.measurement_why,
    }  # fmt: skip
    return {**known, "frames": scan.n_frames, "N": scan.N}


def write_records(
    folder: Path, scan: Scan, trained: Trained, execution: ExecutionConfig, metrics: dict[str, Any]
) -> dict[str, Path]:
    """Write everything but the bundle; returns all files by name. Numbers first: a picture that fails is a warning."""
    files = {
        "bundle": folder / f"{BUNDLE_NAME}.zip",
        "history": folder / "history.csv",
        "figure": folder / "training.png",
        "config": folder / CONFIG_NAME,
        "metrics": folder / "training.json",
        "report": folder / "training.html",
    }
    write_text_atomic(files["history"], history_csv(trained.history))
    write_text_atomic(files["config"], to_yaml(trained.config, execution=execution))
    write_text_atomic(files["metrics"], json_text(metrics))
    try:
        _draw(files, scan, trained, metrics)
    except Exception as error:  # the numbers are on disk; whatever a picture fails of, the run has not failed
        logger.warning("no pictures or report of this run: %s: %s", type(error).__name__, error)
        del files["figure"], files["report"]
    return files


def _draw(files: dict[str, Path], scan: Scan, trained: Trained, metrics: dict[str, Any]) -> None:
    picture = figure_png(training_figure(trained.history))
    write_bytes_atomic(files["figure"], picture)
    ended = "Training was interrupted; this is the best model up to then." if trained.interrupted else ""
    about_scan = [("Positions, mean frame, probe guess", figure_png(scan_figure(scan)))]
    carried = {
        name for name, (_, item) in config_fields(TrainingConfig).items() if item.metadata.get("carried")
    }
    used = {
        name: attrgetter(name)(trained.config)
        for name in config_fields(TrainingConfig)
        if name not in carried and attrgetter(name)(trained.config) is not None
    }
    write_report(
        files["report"],
        "Training",
        [
            Section("Result", ended, metrics, [("Loss of training and validation frames", picture)]),
            Section("Scan", "", described(scan), about_scan),
            Section("Configuration", "", used),
        ],
    )
