"""``ptychopinn train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded
from ptycho_torch.cli.options import apply_flags, with_fields
from ptycho_torch.cli.reading import ReadingConfig, reading_options
from ptycho_torch.cli.settings import ConfigOption, PrintConfigFlag, apply_file
from ptycho_torch.cli.settings import print_config as show_config
from ptycho_torch.config import ExecutionConfig, TrainingConfig
from ptycho_torch.errors import ConfigError

__all__ = ["FormatOption", "MeasurementOption", "ProbeFileOption", "add_to"]

MeasurementOption = Annotated[
    str,
    typer.Option(
        "--measurement",
        metavar="auto|amplitude|counts",
        help="What the frames hold; 'auto' decides by their type and whether they are whole numbers, and says so.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format", help="Format of the scan file; default: detected from its content.", show_default=False
    ),
]
ProbeFileOption = Annotated[
    Path | None,
    typer.Option("--probe-file", help="File with a probe to use instead of the scan's.", show_default=False),
]

ScanArgument = Annotated[
    Path | None, typer.Argument(help="Scan file; not needed with --resume.", show_default=False)
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--output-dir",
        "-o",
        help="Folder for what is written; default: SCAN's name + '_run'.",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(
        "--resume", help="Folder of an earlier run; goes on from where it ended.", show_default=False
    ),
]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace the run that is in the output folder.")]


@guarded
@with_fields(
    (TrainingConfig, "Training", ("output_dir", "train_data_file")),
    (ExecutionConfig, "Execution", ("progress",)),
    (ReadingConfig, "Scan file", ()),
)
def train(
    scan: ScanArgument = None,
    output_dir: FolderOption = None,
    config: ConfigOption = None,
    print_config: PrintConfigFlag = False,
    resume: ResumeOption = None,
    force: ForceFlag = False,
    measurement: MeasurementOption = "auto",
    format: FormatOption = None,
    probe_file: ProbeFileOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    flags: Any = None,
) -> None:
    """Train a model on SCAN, without labels, and write the bundle wts.h5.zip.

    Beside it come run.json (what the run is of), config.yaml (what was really used), history.csv,
    training.png, training.json and training.html. Flags win over the YAML file, the file over defaults; with
    --resume, over the run's own configuration. Ctrl-C, SIGTERM and SIGHUP end early, keep everything, and
    give the exit status 130, 143 or 129.
    """
    console = Console(json, quiet)
    settings, execution, named = _settings(config, resume, flags)
    if print_config:
        show_config(settings, execution=execution)
    execution.progress = not console.silent
    folder, path = _places(scan, output_dir or (None if resume else named), resume, force, settings)

    from ptycho_torch.workflows import training

    with console.progress("probe") as update:
        watch = training.Watch(
            on_probe=lambda sweep, residual: update(sweep, settings.probe_sweeps, f"R {residual:.4f}")
        )
        done = training.train(
            training.ScanFile(path, format, measurement, probe_file, reading_options(flags)),
            folder,
            settings,
            execution,
            resume=resume is not None,
            force=force,
            watch=watch,
        )
    files = {name: str(path) for name, path in done.files.items()}
    table = {k: v for k, v in done.metrics.items() if v is not None and k != "provenance"}
    console.finish({**done.metrics, "files": files}, table, "Trained")
    console.files(done.files)
    if done.trained.signal is not None:
        typer.echo(f"interrupted: go on with 'ptychopinn train --resume {folder}'", err=True)
        raise typer.Exit(128 + done.trained.signal)


def _settings(
    config: Path | None, resume: Path | None, flags: Any
) -> tuple[TrainingConfig, ExecutionConfig, Path | None]:
    """Defaults, the run's own configuration, the YAML file and flags, the later ones winning; the folder they name."""
    settings, execution = TrainingConfig(), ExecutionConfig()
    settings.model.N = 0
    if resume is not None:
        from ptycho_torch.workflows.run_folder import RunFolder

        RunFolder(resume).said()  # first: what is no run has no configuration either
    sources = [resume / "config.yaml"] if resume is not None else []
    sources += [config] if config is not None else []
    for source in sources:
        apply_file(source, settings, execution=execution)
    apply_flags(settings, flags)
    apply_flags(execution, flags)
    return settings, execution, settings.output_dir if sources else None


def _places(
    scan: Path | None, folder: Path | None, resume: Path | None, force: bool, settings: TrainingConfig
) -> tuple[Path, Path]:
    """The folder to write to and the scan file; with ``resume``, the run's own unless another path is given."""
    if resume is not None and force:
        raise ConfigError("--force cannot be used with --resume, which goes on with the run that is there")
    if resume is not None:
        from ptycho_torch.workflows.run_folder import RunFolder

        if folder is not None and folder.resolve() != resume.resolve():
            raise ConfigError(
                f"--output-dir {folder} cannot be used with --resume {resume}, which goes on in its own folder"
            )
        return resume, scan or RunFolder(resume).scan_file(None).path
    path = scan or settings.train_data_file
    if path is None:
        raise ConfigError("SCAN is required: the scan file to train on")
    return folder or Path(f"{path.stem}_run"), path


def add_to(app: typer.Typer) -> None:
    app.command("train")(train)
