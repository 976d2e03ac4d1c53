"""``ptychopinn reconstruct``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded
from ptycho_torch.cli.options import apply_flags, with_fields
from ptycho_torch.cli.reading import ReadingConfig, reading_options
from ptycho_torch.cli.settings import ConfigOption, PrintConfigFlag, apply_file
from ptycho_torch.cli.settings import print_config as show_config
from ptycho_torch.cli.training import FormatOption, MeasurementOption, ProbeFileOption
from ptycho_torch.config import ExecutionConfig, InferenceConfig, config_fields, from_dict
from ptycho_torch.errors import ConfigError

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
    (ExecutionConfig, "Execution", ("progress", "num_workers", "logger")),
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
    refine: Annotated[
        int | None,
        typer.Option(
            "--refine",
            min=0,
            help="Sweeps of iterative refinement afterwards; default: see --polish; with --model: none.",
            show_default=False,
        ),
    ] = None,
    refine_minutes: Annotated[
        float | None,
        typer.Option(
            "--refine-minutes", min=0, help="Maximum refinement time, in minutes.", show_default=False
        ),
    ] = None,
    refine_positions: Annotated[
        bool, typer.Option("--refine-positions", help="Refine the positions as well; requires --refine.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="Refine with another solver than our own 'epie': pty-chi's (extra 'iterative') are "
            "lsqml, dm, raar, ptychi-epie.",
            show_default=False,
        ),
    ] = None,
    product: Annotated[
        bool, typer.Option("--product", help="Also write product.h5, which ptychodus opens.")
    ] = False,
    pixel_size: Annotated[
        float | None,
        typer.Option("--pixel-size", min=0, help="Object pixel size in metres, if SCAN does not say it."),
    ] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", min=0, help="Photon energy in eV; requires --pixel-size.")
    ] = None,
    distance: Annotated[
        float | None,
        typer.Option(
            "--distance", min=0, help="Distance from object to detector in metres; requires --pixel-size."
        ),
    ] = None,
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
    if second is not None:
        raise ConfigError(
            f"the scan comes first, the model by name: ptychopinn reconstruct {second} --model {scan}"
        )
    settings, execution = InferenceConfig(), ExecutionConfig(progress=not console.silent)
    if config is not None:
        apply_file(config, settings, execution=execution)
    apply_flags(settings, flags)
    apply_flags(execution, flags)
    if print_config:
        show_config(settings, execution=execution)

    from ptycho_torch.scan import Geometry, open_scan

    if not refine and (refine_positions or engine or refine_minutes is not None):
        raise ConfigError("--refine-minutes, --refine-positions and --engine require --refine N")
    given = [v for v in (energy, distance, pixel_size) if v is not None]
    if given and (len(given) < 3 or min(given) <= 0 or not product):
        raise ConfigError(
            "--pixel-size, --energy and --distance require each other and --product; give all of them, above 0"
        )
    data_in = open_scan(
        scan,
        format=format,
        measurement=measurement,
        probe=probe_file,
        require_probe=False,
        **reading_options(flags),
    )
    if refine == 0:
        settings.polish = False
    refinement = _refinement(engine or "epie", refine, refine_minutes, refine_positions) if refine else None
    from ptycho_torch.workflows.inference import Listeners, reconstruct_to

    with console.progress("reconstructing") as groups, console.progress("refining") as sweeps:
        done = reconstruct_to(
            output_dir or Path(f"{scan.stem}_image"),
            data_in,
            model,
            settings,
            execution,
            refinement=refinement,
            product=Geometry(given[0], given[1], (given[2], given[2])) if given else product,
            listeners=Listeners(
                groups,
                lambda sweep, residual: sweeps(sweep, refine or (20 if model else 30), f"R {residual:.5f}"),
            ),
        )
    files = {name: str(path) for name, path in done.files.items()}
    shown = ("shape", "solver", "seconds", "residual", "residual_withheld", "sweeps")
    console.finish(
        {**done.metrics, "files": files},
        {k: done.metrics[k] for k in shown if done.metrics.get(k) is not None},
        "Reconstructed",
    )
    console.files(done.files)


def _refinement(solver: str, sweeps: int, minutes: float | None, positions: bool) -> Any:
    """What the flags ask for, in the options of the solver that they name."""
    from ptycho_torch.solvers import SOLVERS
    from ptycho_torch.workflows.inference import Refinement

    kind = SOLVERS.get(solver).Options
    wanted: dict[str, Any] = {"sweeps": sweeps, "update_positions": positions}
    if minutes is not None:
        if "minutes" not in config_fields(kind):
            raise ConfigError(
                f"--refine-minutes cannot be used with --engine {solver}, which runs a fixed number of epochs"
            )
        wanted["minutes"] = minutes
    return Refinement(solver, from_dict(kind, wanted))


def add_to(app: typer.Typer) -> None:
    app.command("reconstruct")(reconstruct)
