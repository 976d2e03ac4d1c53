"""``ptychopinn live`` and ``ptychopinn replay``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ptycho_torch.cli.console import Console, JsonFlag, QuietFlag, guarded
from ptycho_torch.cli.options import apply_flags, with_fields
from ptycho_torch.cli.training import FormatOption, MeasurementOption, ProbeFileOption
from ptycho_torch.config import ExecutionConfig
from ptycho_torch.errors import ConfigError
from ptycho_torch.live.options import LiveConfig

__all__ = ["add_to"]


@guarded
@with_fields(
    (LiveConfig, "Live", ()),
    (ExecutionConfig, "Execution", ("progress", "num_workers")),
)
def live(
    address: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Where frames come from: a growing HDF5 file, a folder that fills, tcp://HOST:PORT of a Dectris"
            " detector (with --source), pva://CHANNEL.",
        ),
    ],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for what is written.")
    ] = Path("live_image"),
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="Model bundle; default: the one that ships with the package.",
            show_default=False,
        ),
    ] = None,
    probe_file: ProbeFileOption = None,
    measurement: MeasurementOption = "auto",
    product: Annotated[
        bool, typer.Option("--product", help="Also write product.h5, which ptychodus opens.")
    ] = False,
    pixel_size: Annotated[
        float | None, typer.Option("--pixel-size", min=0, help="Object pixel, metres.", show_default=False)
    ] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", min=0, help="Photon energy, eV; with --product.")
    ] = None,
    distance: Annotated[
        float | None, typer.Option("--distance", min=0, help="Object to detector, m; with --product.")
    ] = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    flags: Any = None,
) -> None:
    """Reconstruct a scan while it is measured, and show the growing object in a browser.

    When the scan is complete, all of its frames go through the same reconstruction as with 'reconstruct', which
    writes the same files; live.json says what became of every frame. An interrupted run goes on with the frames
    that it has when it is started again.
    """
    console = Console(json, quiet)
    config, execution = LiveConfig(), ExecutionConfig(progress=not console.silent)
    apply_flags(config, flags)
    apply_flags(execution, flags)
    from ptycho_torch.scan import Geometry

    if pixel_size is not None and not pixel_size > 0:
        raise ConfigError("--pixel-size: must be above 0")
    if product and not all((energy, distance, pixel_size)):
        raise ConfigError("--product requires --pixel-size, --energy and --distance, all above 0")
    geometry = None
    if pixel_size is not None:
        geometry = Geometry(energy or 0.0, distance or 0.0, (pixel_size, pixel_size))
    from ptycho_torch.workflows.inference import Listeners
    from ptycho_torch.workflows.live import LiveInputs, live_to

    def began(_session: Any, url: str | None) -> None:
        if url is not None and not quiet:
            typer.echo(f"page: {url}", err=True)

    with console.progress("last pass") as groups, console.progress("refining") as sweeps:
        done = live_to(
            output_dir,
            address,
            config,
            LiveInputs(model, probe_file, measurement, geometry, product),
            execution=execution,
            began=began,
            listeners=Listeners(groups, lambda sweep, residual: sweeps(sweep, 30, f"R {residual:.5f}")),
        )
    metrics = done.reconstruction.metrics
    shown: dict[str, Any] = {
        "frames received": done.account["frames"]["received"],
        "used": done.account["used_in_last_pass"],
        "refused": done.account["frames"]["refused"],
        "missing": done.account["missing"],
        "orientation": done.account["orientation"],
        **{
            key: metrics[key]
            for key in ("shape", "solver", "residual", "residual_withheld")
            if key in metrics
        },
    }
    files = {name: str(path) for name, path in done.files.items()}
    console.finish({**metrics, "account": done.account, "files": files}, shown, "Live reconstruction")
    console.files(done.files)


@guarded
def replay(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="Scan file.")],
    kind: Annotated[
        str, typer.Option("--as", metavar="simplon2|simplon1|pva|swmr|folder", help="Protocol.")
    ] = "simplon2",
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Address of the frames; default: tcp://127.0.0.1:9999, pva://127.0.0.1:5076/REPLAY, replay.h5"
            " or replay/.",
            show_default=False,
        ),
    ] = None,
    positions_to: Annotated[
        str | None,
        typer.Option(
            "--positions-to",
            help="Address of the positions, PandA messages; default: tcp://127.0.0.1:9998 where frames cannot carry"
            " them, else with the frames.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", min=0, help="Frames a second; 0: as fast as they are taken.")
    ] = 500.0,
    skew: Annotated[
        float, typer.Option("--skew", help="Seconds by which positions come later; negative: earlier.")
    ] = 0.0,
    drop: Annotated[float, typer.Option("--drop", min=0, max=1, help="Part of the frames left out.")] = 0.0,
    duplicate: Annotated[
        float, typer.Option("--duplicate", min=0, max=1, help="Part of the frames sent twice.")
    ] = 0.0,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Frames and positions come out of order.")
    ] = False,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Encoder samples of a frame.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of what is random.")] = 0,
    format: FormatOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Send a scan as a stream, as a detector and an encoder would: for demonstrations and tests of 'live'."""
    console = Console(json, quiet)
    from ptycho_torch.live.replay import ReplayOptions, addresses, replay
    from ptycho_torch.scan import open_scan

    frames_to, places_to = addresses(kind, to, positions_to)
    data = open_scan(scan, format=format, require_probe=False)
    options = ReplayOptions(rate, skew, drop, duplicate, shuffle, samples, seed)
    with console.progress("sending") as sent:
        done = replay(data, kind, frames_to, options, positions_to=places_to, progress=sent)
    result = {
        "frames": done.frames,
        "positions": done.positions,
        "dropped": done.dropped,
        "seconds": done.seconds,
        "to": frames_to,
        "positions_to": places_to or frames_to,
    }
    console.finish(result, result, "Sent")


def add_to(app: typer.Typer) -> None:
    app.command("live")(live)
    app.command("replay")(replay)
