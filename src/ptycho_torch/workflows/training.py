"""Training as a whole job: from a scan to a folder with the bundle, figures and numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.bundle.save import save_torch_bundle
from ptycho_torch.bundle.selftest import Group
from ptycho_torch.config import ExecutionConfig, TrainingConfig, config_fields, to_yaml
from ptycho_torch.errors import DataError, Interrupted
from ptycho_torch.files import write_bytes_atomic, write_text_atomic
from ptycho_torch.model import Autoencoder, DiffractionToObject
from ptycho_torch.report.figures import figure_png, scan_figure, training_figure
from ptycho_torch.report.html import Section, write_report
from ptycho_torch.report.tables import history_csv, json_text
from ptycho_torch.scan import Scan, group_neighbours, group_offsets
from ptycho_torch.training.run import Trained, Watch, fit
from ptycho_torch.workflows.run_folder import BUNDLE_NAME, RunFolder, ScanFile

__all__ = [
    "BUNDLE_NAME",
    "CONFIG_NAME",
    "RunFolder",
    "ScanFile",
    "TrainingOutputs",
    "Watch",
    "provenance_of",
    "train",
]

_log = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
"""What a run really used, in its output folder."""

History = list[dict[str, float]]


@dataclass
class TrainingOutputs:
    """A trained pair, the bundle's path, all files by name, and what ``training.json`` says."""

    trained: Trained
    bundle: Path
    files: dict[str, Path]
    metrics: dict[str, Any]


def provenance_of(scan: Scan, config: TrainingConfig, history: History, seconds: float) -> dict[str, Any]:
    """Say where a model comes from: data, seed, command, duration, last losses. Versions are added by the bundle."""
    last = history[-1] if history else {}
    return {
        "training_data": described(scan),
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


def train(
    scan: Scan | ScanFile | str | Path | None,
    output_dir: str | Path,
    config: TrainingConfig | None = None,
    execution: ExecutionConfig | None = None,
    *,
    validation: Scan | str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    watch: Watch | None = None,
) -> TrainingOutputs:
    """Train on a scan without labels and keep everything in ``output_dir``.

    Parameters
    ----------
    scan : Scan, ScanFile, path or None
        None with ``resume``: the run's own scan, read as it was.
    output_dir : path
        ``run.json`` is written first, then ``config.yaml`` (what is really used), ``wts.h5.zip`` after every
        improvement, ``resume.safetensors`` after every epoch, and at the end ``history.csv``,
        ``training.json``, ``training.png`` and ``training.html``.
    config : TrainingConfig, optional
        Default: defaults, with the frames' own size.
    execution : ExecutionConfig, optional
    validation : Scan or path, optional
        Scan to measure losses on; default: ``config.test_data_file``, or a part of the frames.
    resume : bool
        Go on from where the run in ``output_dir`` stood, with the configuration that is given.
    force : bool
        Begin anew in a folder that holds a run; what it holds goes once all checks are passed.
    watch : Watch, optional
        Who is told of the run while it goes on.

    Returns
    -------
    TrainingOutputs
        Also after Ctrl-C, SIGTERM or SIGHUP, with ``trained.signal`` set and all of the above written.

    Raises
    ------
    OutputError
        When the folder holds a run, another process is at work in it, or it cannot be written to.
    DataError
        When the scan is not that of the run to go on with, or does not fit the configuration.
    Interrupted
        When a signal came before the first step, or a second time; the text says what exists.
    """
    watch = watch or Watch()
    folder = RunFolder(output_dir)
    if not resume:
        folder.check_free(force)
    with _saying_what_exists(folder), watch.stopping:
        file, data, held_out = _opened(folder, scan, validation, config, resume)
        with folder.held():
            if resume:
                folder.check_same(data, held_out)
            else:
                folder.check_free(force)
            job = _Job(folder, data, file, held_out, execution or ExecutionConfig(), resume)
            trained = fit(
                data,
                job.settled(config),
                job.execution,
                validation=held_out,
                workdir=folder.path,
                resume=resume,
                watch=dataclasses.replace(watch, on_start=job.begin, on_best=job.keep),
            )
            return job.end(trained)


@contextlib.contextmanager
def _saying_what_exists(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(stop.number, folder.what_exists()) from None


def _opened(
    folder: RunFolder,
    scan: Scan | ScanFile | str | Path | None,
    validation: Scan | str | Path | None,
    config: TrainingConfig | None,
    resume: bool,
) -> tuple[ScanFile | None, Scan, Scan | None]:
    """The scan, the file it came from where there is one, and the scan for validation."""
    file = ScanFile(Path(scan)) if isinstance(scan, str | Path) else scan
    if resume and not isinstance(file, Scan):
        file = folder.scan_file(file)
    if file is None:
        raise DataError("scan: expected one to train on, found none")
    data = file if isinstance(file, Scan) else file.open()
    if validation is None and config is not None:
        validation = config.test_data_file
    if validation is not None and not isinstance(validation, Scan):
        options = {} if isinstance(file, Scan) else file.options
        detector = {name: options[name] for name in ("external", "crop", "bin") if name in options}
        validation = ScanFile(Path(validation), options=detector).open()
    for each in (data, validation):
        if each is not None:
            each.require_one_run()
    return (None if isinstance(file, Scan) else file), data, validation


@dataclass
class _Job:
    """One run and its folder: what is written at the start, at every improvement, at the end."""

    folder: RunFolder
    scan: Scan
    file: ScanFile | None
    validation: Scan | None
    execution: ExecutionConfig
    resume: bool
    group: Group | None = None

    def settled(self, config: TrainingConfig | None) -> TrainingConfig:
        """The configuration with absolute paths, so that it holds in any folder."""
        if config is None:
            config = TrainingConfig()
            config.model.N = 0
        config = dataclasses.replace(config, output_dir=self.folder.path)
        if self.file is not None:
            config.train_data_file = self.file.path.resolve()
        elif self.scan.source is not None:
            config.train_data_file = Path(self.scan.source.path).resolve()
        if config.test_data_file is not None:
            config.test_data_file = Path(config.test_data_file).resolve()
        return config

    def begin(self, config: TrainingConfig) -> None:
        """All checks are passed: write what the run is, and with which configuration."""
        if not self.resume:
            self.folder.begin(self.scan, self.file, self.validation, config.seed)
        write_text_atomic(self.folder.path / CONFIG_NAME, to_yaml(config, execution=self.execution))

    def keep(
        self,
        autoencoder: Autoencoder,
        diffraction_to_obj: DiffractionToObject,
        config: TrainingConfig,
        history: History,
    ) -> None:
        """Write the bundle."""
        if self.group is None:
            self.group = _first_group(self.scan, autoencoder, config)
        x, offsets = self.group
        seconds = history[-1]["seconds"] if history else 0.0
        save_torch_bundle(
            {"autoencoder": autoencoder, "diffraction_to_obj": diffraction_to_obj},
            self.folder.path / BUNDLE_NAME,
            config,
            provenance=provenance_of(self.scan, config, history, seconds),
            self_test=(x * np.float32(autoencoder.intensity_scale), offsets),
        )

    def end(self, trained: Trained) -> TrainingOutputs:
        """Write everything there is to say about the run."""
        self.keep(trained.autoencoder, trained.diffraction_to_obj, trained.config, trained.history)
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
            "provenance": provenance_of(self.scan, trained.config, trained.history, trained.seconds),
        }
        files = _write(self.folder.path, self.scan, trained, self.execution, metrics)
        return TrainingOutputs(trained, files["bundle"], files, metrics)


def _first_group(scan: Scan, model: Autoencoder, config: TrainingConfig) -> Group:
    """One group of the scan for the bundle's self-test: normalised frames (1, C, N, N), offsets (1, C, 1, 2)."""
    groups = group_neighbours(
        scan.positions,
        config.model.gridsize,
        neighbor_count=config.neighbor_count,
        n_groups=1,
        seed=config.seed,
        scan_index=scan.scan_index,
    )[:1]
    offsets = group_offsets(scan.positions, groups)[0][:, :, None].astype(np.float32)
    frames = np.asarray(scan.frames[groups[0]], dtype=np.float32)[None]
    normalisation = np.float32(model.params["amplitude_normalisation"])
    return frames * normalisation, np.float32(model.core.offset_sign) * offsets


def _write(
    folder: Path, scan: Scan, trained: Trained, execution: ExecutionConfig, metrics: dict[str, Any]
) -> dict[str, Path]:
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
        _log.warning("no pictures or report of this run: %s: %s", type(error).__name__, error)
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
