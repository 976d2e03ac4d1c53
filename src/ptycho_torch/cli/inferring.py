"""``ptychopinn reconstruct``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded
from ptycho_torch.cli.launching import launch, launched
from ptycho_torch.cli.options import apply_flags, with_fields
from ptycho_torch.cli.reading import ReadingConfig, reading_options
from ptycho_torch.cli.refining import PiecesConfig, ProductConfig, RefiningConfig
from ptycho_torch.cli.settings import ConfigOption, PrintConfigFlag, apply_file
from ptycho_torch.cli.settings import print_config as show_config
from ptycho_torch.cli.training import FormatOption, MeasurementOption, ProbeFileOption
from ptycho_torch.config import ExecutionConfig, InferenceConfig, config_fields
from ptycho_torch.errors import ConfigError
from ptycho_torch.files.memory import bytes_of, memory_capped
from ptycho_torch.processes import joined

if TYPE_CHECKING:
    from ptycho_torch.workflows.inference import Listeners, ReconstructionOutputs

__all__ = ["add_to"]

_NOT_FLAGS = (
    "model_path",
    "test_data_file",
    "output_dir",
    "debug",
    # What the model is stands in the bundle.
    *(name for name in config_fields(InferenceConfig) if name.startswith("model.")),
)


@guarded
@with_fields(
    (InferenceConfig, "Inference", _NOT_FLAGS),
    (ExecutionConfig, "Execution", ("progress", "num_workers", "logger", "devices")),
    (RefiningConfig, "Refinement", ()),
    (ProductConfig, "Product", ()),
    (PiecesConfig, "Large scans", ()),
    (ReadingConfig, "Scan file", ()),
)
def reconstruct(
    scan: Annotated[Path, typer.Argument(help="Scan file.")],
    second: Annotated[Path | None, typer.Argument(hidden=True, show_default=False)] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Output folder; default: SCAN's name + '_image'.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="Model bundle wts.h5.zip, or a folder that holds one; default: the one that ships with the package.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    print_config: PrintConfigFlag = False,
    measurement: MeasurementOption = "auto",
    format: FormatOption = None,
    probe_file: ProbeFileOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    flags: Any = None,
) -> None:
    """Reconstruct SCAN. No training is needed: a pretrained model ships with the package.

    Writes reconstruction.npz (object, weight, origin_xy, positions, probe), reconstruction.png,
    metrics.json and report.html.
    """
    console = Console(json, quiet)
    settings, execution = InferenceConfig(), ExecutionConfig(progress=not console.silent)
    refining, product, large = RefiningConfig(), ProductConfig(), PiecesConfig()
    if config is not None:
        apply_file(config, settings, execution=execution)
    for part in (settings, execution, refining, product, large):
        apply_flags(part, flags)
    if second is not None:
        raise ConfigError(
            f"the scan comes first, the model by name: ptychopinn reconstruct {second} --model {scan}"
        )
    if print_config:
        show_config(settings, execution=execution)
    refinement, wanted = refining.refinement(), product.wanted()
    folder, budget = output_dir or Path(f"{scan.stem}_image"), _bytes(large.memory)
    if large.processes > 1 and not launched():
        launch(large.processes, sys.argv[1:], folder, json, "--resume")
    if refining.refine == 0:
        settings.polish = False
    reading = {"format": format, "measurement": measurement, "probe": probe_file, **reading_options(flags)}
    from ptycho_torch.workflows.inference import Pieces, reconstruct_to, sweeps_at_most

    with joined() as group, _told(console, refining.sweeps or sweeps_at_most(settings)) as listeners:
        pieces = Pieces(budget, group, large.resume)
        done = reconstruct_to(
            folder,
            _opened(scan, reading, pieces),
            model,
            settings,
            execution,
            refinement=refinement,
            product=wanted,
            listeners=listeners,
            pieces=pieces,
        )
    if group.first:
        _shown(console, done)


def _bytes(text: str | None) -> int | None:
    return None if text is None else bytes_of(text)


@contextlib.contextmanager
def _told(console: Console, sweeps: int) -> Iterator[Listeners]:
    """Bars for groups and for about so many sweeps."""
    from ptycho_torch.workflows.inference import Listeners

    with console.progress("reconstructing") as groups, console.progress("refining") as refined:
        yield Listeners(groups, lambda sweep, residual: refined(sweep, sweeps, f"R {residual:.5f}"))


def _shown(console: Console, done: ReconstructionOutputs) -> None:
    files = {name: str(path) for name, path in done.files.items()}
    shown = ("shape", "solver", "seconds", "residual", "residual_withheld", "overfits", "sweeps")
    console.finish(
        {**done.metrics, "files": files},
        {k: done.metrics[k] for k in shown if done.metrics.get(k) is not None},
        "Reconstructed",
    )
    console.files(done.files)


def _opened(path: Path, reading: dict[str, Any], pieces: Any) -> Any:
    """The scan, read for what has to be known of all frames by the first process alone."""
    from ptycho_torch.scan import open_scan
    from ptycho_torch.scan.intake import known_of

    scans = []

    def first() -> Any:
        scans.append(open_scan(path, require_probe=False, **reading))
        return known_of(scans[0])

    with memory_capped(pieces.share):
        known = pieces.group.shared(first)
        return scans[0] if scans else open_scan(path, require_probe=False, known=known, **reading)


def add_to(app: typer.Typer) -> None:
    app.command("reconstruct")(reconstruct)
