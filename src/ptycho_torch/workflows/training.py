"""Training as a whole job: from a scan to a folder with the bundle, figures and numbers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.bundle.save import save_torch_bundle
from ptycho_torch.bundle.selftest import Group
from ptycho_torch.config import ExecutionConfig, TrainingConfig, to_yaml
from ptycho_torch.errors import DataError, Interrupted
from ptycho_torch.files import write_text_atomic
from ptycho_torch.model import Autoencoder, DiffractionToObject
from ptycho_torch.scan import Scan, group_neighbours, group_offsets
from ptycho_torch.training.run import Trained, Watch, fit
from ptycho_torch.workflows.records import CONFIG_NAME, History, described, provenance_of, write_records
from ptycho_torch.workflows.run_folder import BUNDLE_NAME, RunFolder, ScanFile

__all__ = [
    "BUNDLE_NAME",
    "CONFIG_NAME",
    "RunFolder",
    "ScanFile",
    "TrainingOutputs",
    "Watch",
    "described",
    "first_group",
    "provenance_of",
    "train",
]


@dataclass
class TrainingOutputs:
    """A trained pair, the bundle's path, all files by name, and what ``training.json`` says."""

    trained: Trained
    bundle: Path
    files: dict[str, Path]
    metrics: dict[str, Any]


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
    """Train on a scan without labels and keep everything in ``output_dir``; the files are those of docs/training.md.

    Parameters
    ----------
    scan : Scan, ScanFile, path or None
        None with ``resume``: the run's own scan, read as it was.
    output_dir : str or Path
    config : TrainingConfig, optional
        Default: defaults, with the frames' own size.
    execution : ExecutionConfig, optional
    validation : Scan or path, optional
        Scan to measure losses on; default: ``config.test_data_file``, or a part of the frames.
    resume, force : bool
        Go on from where the run in ``output_dir`` stood, or begin anew in its place.
    watch : Watch, optional
        Who is told of the run while it goes on.

    Returns
    -------
    TrainingOutputs
        Also after Ctrl-C, SIGTERM or SIGHUP, with ``trained.signal`` set and everything written.

    Raises
    ------
    OutputError
        When the folder holds a run, another process is at work in it, or it cannot be written to.
    DataError
        When the scan is not that of the run to go on with, or does not fit the configuration.
    Interrupted
        When a signal came before the first step, or a second time; the text says what exists.

    Examples
    --------
    >>> from ptycho_torch.config import ModelConfig
    >>> from ptycho_torch.simulation import make_object, make_positions, make_probe, simulate_scan
    >>> obj = make_object("grf", 64, 0)
    >>> scan = simulate_scan(obj, make_probe("zoneplate", 32), make_positions("grid", obj.shape, 32, step=8))
    >>> small = ModelConfig(N=32, unrolled_width=4, unrolled_iterations=1)
    >>> config = TrainingConfig(model=small, probe="fixed", max_steps=1, nepochs=1)
    >>> done = train(scan, "run", config, ExecutionConfig(progress=False))
    >>> done.bundle.name, done.metrics["steps"]
    ('wts.h5.zip', 1)
    """
    watch, folder = watch or Watch(), RunFolder(output_dir)
    if not resume:
        folder.check_free(force)
    with _saying_what_exists(folder), watch.stopping:
        file, data, held_out = _opened(folder, scan, validation, config, resume)
        job = _Job(folder, data, file, held_out, execution or ExecutionConfig(), resume)
        return job.done(config, force, watch)


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
        raise DataError("scan: there is none to train on; give a scan, or resume=True in the folder of a run")
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

    def done(self, config: TrainingConfig | None, force: bool, watch: Watch) -> TrainingOutputs:
        """Train with the folder in hand, and write everything."""
        with self.folder.held():
            if self.resume:
                self.folder.check_same(self.scan, self.validation)
            else:
                self.folder.check_free(force)
            trained = fit(
                self.scan,
                self.settled(config),
                self.execution,
                validation=self.validation,
                workdir=self.folder.path,
                resume=self.resume and not self.folder.is_bare(),
                watch=dataclasses.replace(watch, on_start=self.begin, on_best=self.keep),
            )
            return self.end(trained)

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
            self.group = first_group(self.scan, autoencoder, config)
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
        files = write_records(self.folder.path, self.scan, trained, self.execution, metrics)
        return TrainingOutputs(trained, files["bundle"], files, metrics)


def first_group(scan: Scan, model: Autoencoder, config: TrainingConfig) -> Group:
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
